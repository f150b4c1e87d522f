//! What is written down of each build, also of one that failed: where it came from, and for each step what it depended on
//! and what it gave. By it a step can be looked into later, and a later build can say why it did a step again.
//!
//! A [`Ledger`] takes in what happens while a build runs; a [`BuildRecord`] is what is left of it in the store.

use mica_fs::digest::{DiffId, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::dockerfile::Span;
use crate::image::Image;

pub mod find;
pub mod forest;
mod keep;
mod recorder;
pub mod sources;

pub use keep::{BuildId, LedgerError, latest, latest_of, load, newest_first};
pub use recorder::Ledger;

/// How much of an instruction a title has, in characters.
const TITLE: usize = 72;

/// The version of records that this program writes, and the newest it reads.
pub const VERSION: u32 = 1;

/// A build as it is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// [`VERSION`].
    pub version: u32,
    /// What was built.
    pub about: About,
    /// When it began (RFC 3339).
    pub started: String,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What came of it.
    pub result: BuildResult,
    /// The manifest of the image, if there is one.
    pub manifest: Option<Digest>,
    /// The configuration of the image: its ID.
    pub image: Option<Digest>,
    /// All steps, stage by stage, those that only change the configuration among them.
    pub steps: Vec<StepRecord>,
}

/// What a build is of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Where the build context is: the path of a directory, a URL, or `-` for stdin.
    pub context: String,
    /// What the Dockerfile is called in messages.
    pub dockerfile: String,
    /// The text of the Dockerfile. Bytes that are no UTF-8 are replaced.
    pub text: String,
    /// The stage that was asked for.
    pub target: Option<String>,
    /// The names of the build arguments that were given. Their values stand in the keys of the steps that see them.
    pub build_args: Vec<String>,
    /// The full names that the image was to get.
    pub names: Vec<String>,
}

/// What came of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildResult {
    /// An image.
    Built,
    /// A step failed, or the image could not be written.
    Failed,
    /// It was stopped.
    Stopped,
    /// It has not come to its end: its process was killed, or is at work still ([`Store::is_at_work`]).
    ///
    /// [`Store::is_at_work`]: mica_fs::store::Store::is_at_work
    Killed,
}

/// A step as it is remembered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its place in [`BuildRecord::steps`], from 0.
    pub index: usize,
    /// Its numbers as the build shows them; `None` for a step that only changes the configuration.
    pub shown: Option<Shown>,
    /// The name of its stage; `stage-N` of one without.
    pub stage: String,
    /// The instruction as the Dockerfile has it.
    pub text: String,
    /// Where it is in the Dockerfile.
    pub span: Span,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Whether the cache was asked.
    pub asked: bool,
    /// How much of what lies below it the step has read, where that was looked at.
    pub inputs: Option<InputsRecord>,
    /// What it gave was, but for times, what it had given before, and so the earlier layer was taken in its place.
    #[serde(default)]
    pub cut_off: bool,
    /// How the cache's result compares with that of the step, where that was looked at (`--verify-cache`).
    #[serde(default)]
    pub verified: Option<Verified>,
    /// What its result depends on ([`crate::cache::Key`]); `None` for FROM, and for a step that never began.
    pub key: Option<Value>,
    /// The digest of the key without the layers below ([`crate::cache::Lineage::command`]).
    pub command: Option<Digest>,
    /// The digest by which the store knows what the step has read.
    pub reads: Option<Digest>,
    /// What a stage stands on; for FROM only.
    pub base: Option<BaseRecord>,
    /// The layer that it gave, if it gave one. Of a failed RUN it is that of what the command left; it does not lie among
    /// the layers of the store, but at [`mica_fs::store::Store::failed_layer`].
    pub layer: Option<DiffId>,
    /// Of COPY and ADD: the lists of what was copied ([`sources`]), and where it came from.
    pub sources: Vec<SourcesRecord>,
    /// When its result was made (RFC 3339): earlier than the build if it was cached.
    pub made: Option<String>,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// The numbers of a step in what a build shows, all from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Among all steps.
    pub number: usize,
    /// In its stage.
    pub position: usize,
    /// How many the stage has.
    pub total: usize,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepOutcome {
    /// It never began.
    #[default]
    Pending,
    /// An earlier result was taken: all that it depends on is the same.
    Cached,
    /// An earlier result was taken: what it depends on has changed, but nothing that it read.
    Unchanged,
    /// It was executed.
    Ran,
    /// It was executed and failed.
    Failed,
    /// It was given up: another one failed before it, or the build was stopped.
    Canceled,
    /// It was begun, and not ended.
    AtWork,
}

/// How a result of the cache compares with what the step gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verified {
    /// It is the same.
    Same,
    /// It differs at these paths.
    Different(Vec<String>),
}

/// How much of what lies below a step it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputsRecord {
    /// The files that it looked at.
    pub read: usize,
    /// The files in the layers below it.
    pub all: usize,
}

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// What it is.
    pub kind: BaseKind,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
}

/// What a stage can stand on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseKind {
    /// Nothing.
    Scratch,
    /// The image of this manifest.
    Image(Digest),
    /// An earlier stage, by its name.
    Stage(String),
    /// Files to which the command line gave this name.
    Context(String),
}

/// Files that a COPY or ADD took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourcesRecord {
    /// Where they came from, for people: `the build context`.
    pub place: String,
    /// The digest of all that was copied, by which the list is found.
    pub digest: Digest,
}

impl BuildRecord {
    /// The step that the build shows with this number.
    pub fn step(&self, number: usize) -> Option<&StepRecord> {
        self.steps.iter().find(|step| step.number() == Some(number))
    }

    /// The steps of a stage, in order; its FROM is the first.
    pub fn stage<'r>(&'r self, name: &str) -> impl Iterator<Item = &'r StepRecord> {
        self.steps.iter().filter(move |step| step.stage == name)
    }

    /// The names of the stages, in order.
    pub fn stages(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.steps.iter().map(|step| step.stage.as_str()).collect();
        names.dedup();
        names
    }

    /// The layers below a step, bottom first: what it began with. For FROM those of its base.
    pub fn layers_before(&self, step: &StepRecord) -> Vec<DiffId> {
        let before = |other: &&StepRecord| other.index < step.index || other.base.is_some();
        self.stage(&step.stage)
            .filter(before)
            .flat_map(|step| {
                let base = step.base.iter().flat_map(|base| &base.layers);
                base.chain(&step.layer).copied()
            })
            .collect()
    }

    /// The layers of the filesystem after a step, bottom first. After a failed one they are those before it: what it left
    /// lies elsewhere.
    pub fn layers_after(&self, step: &StepRecord) -> Vec<DiffId> {
        let mut layers = self.layers_before(step);
        if step.outcome != StepOutcome::Failed {
            layers.extend(step.layer);
        }
        layers
    }

    /// The steps that led to `last`, itself included, those of the stages below first. Each that has a layer added one to
    /// the image; the layers below the first are its base's.
    pub fn lineage<'r>(&'r self, last: &'r StepRecord) -> Vec<&'r StepRecord> {
        let own: Vec<_> = self
            .stage(&last.stage)
            .filter(|step| step.index <= last.index)
            .collect();
        let base = own.first().and_then(|from| from.base.as_ref());
        let below = match base.map(|base| &base.kind) {
            Some(BaseKind::Stage(name)) => self.stage(name).last().map(|last| self.lineage(last)),
            _ => None,
        };
        below.into_iter().flatten().chain(own).collect()
    }

    /// Whether the build gave this image.
    pub fn gave(&self, image: &Image) -> bool {
        self.manifest == Some(image.manifest_digest) || self.image == Some(image.id())
    }

    /// A step as the build shows it, on one line: `[build 2/4] RUN make`.
    pub fn title(&self, step: &StepRecord) -> String {
        let stage = match self.stages().len() {
            0 | 1 => String::new(),
            _ => format!("{} ", step.stage),
        };
        let place = step.shown.map_or(stage.trim_end().to_owned(), |shown| {
            format!("{stage}{}/{}", shown.position, shown.total)
        });
        format!("[{place}] {}", step.beginning(TITLE))
    }

    /// The step that the image ends with.
    pub fn last(&self) -> Option<&StepRecord> {
        self.steps.last()
    }
}

impl StepOutcome {
    /// Whether it was begun and came to an end, be it a bad one.
    pub fn is_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::AtWork)
    }
}

impl StepRecord {
    /// Its number as the build shows it.
    pub fn number(&self) -> Option<usize> {
        self.shown.map(|shown| shown.number)
    }

    /// The beginning of the instruction on one line, of at most `length` characters.
    pub fn beginning(&self, length: usize) -> String {
        let words: Vec<_> = self
            .text
            .split_whitespace()
            .filter(|word| *word != "\\")
            .collect();
        let text = words.join(" ");
        match text.char_indices().nth(length) {
            Some(_) => text.chars().take(length - 1).chain(['…']).collect(),
            None => text,
        }
    }

    /// The name of the instruction, in capitals.
    pub fn instruction(&self) -> String {
        let word = self.text.split_whitespace().next().unwrap_or_default();
        word.to_uppercase()
    }
}
