//! Why a build executed a step again, or did not: by its record and that of the build before.
//!
//! A step is compared with the one that stood in its place in the last build of the same Dockerfile with the same context.
//! The reasons are what differs in the two keys; where only the layers below differ and it is known what the step read, they
//! are the files that it read and that are others now.

use mica_fs::digest::Digest;
use mica_fs::store::{Store, StoreError};
use serde::Serialize;

use crate::ledger::sources::Change;
use crate::ledger::{
    self, BuildId, BuildRecord, BuildResult, LedgerError, StepOutcome, StepRecord, Verified,
};

mod align;
mod key;
mod reads;
pub mod report;

/// Why a build cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// The records.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What there is to say of a build.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The build.
    pub build: String,
    /// What came of it.
    pub result: Fate,
    /// The builds that it was compared with, the newest first.
    pub compared_with: Vec<String>,
    /// The steps that it shows.
    pub steps: Vec<Explained>,
}

/// What has come of a build so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// An image.
    Built,
    /// A step failed, or the image could not be written.
    Failed,
    /// It was stopped.
    Stopped,
    /// Its process died.
    Killed,
    /// It is not at its end.
    AtWork,
}

impl Fate {
    /// What has come of a build.
    pub fn of(store: &Store, id: BuildId, record: &BuildRecord) -> Self {
        match record.result {
            BuildResult::Built => Self::Built,
            BuildResult::Failed => Self::Failed,
            BuildResult::Stopped => Self::Stopped,
            BuildResult::Killed if store.is_at_work(id.0) => Self::AtWork,
            BuildResult::Killed => Self::Killed,
        }
    }
}

/// What there is to say of a step.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Its number as the build shows it.
    pub number: usize,
    /// As the build shows it: `[build 2/4] RUN make`.
    pub title: String,
    /// Its line in the Dockerfile.
    pub line: u32,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Why it was executed; none for a step that was not.
    pub reasons: Vec<Reason>,
    /// What changed below it and was not among what it read, if that is known.
    pub unread: Option<Unread>,
    /// It gave what it had given before, so that the steps after it find what they know.
    pub cut_off: bool,
    /// Its result in the cache was compared with that of another execution, and is the same (`--verify-cache`).
    pub verified: bool,
}

/// Files below a step that changed, and that it did not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unread {
    /// How many.
    pub count: usize,
    /// Some of them.
    pub examples: Vec<String>,
}

/// Why a step was executed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Reason {
    /// The cache was not to be asked (`--no-cache`, `--no-cache-filter`).
    NotAsked,
    /// No earlier build of this Dockerfile and context is known.
    FirstBuild,
    /// The build before had no such step, or never completed it.
    NewStep,
    /// The instruction is another one.
    Instruction {
        /// The words that were there, without what is the same before and behind them.
        before: String,
        /// Those in their place.
        after: String,
    },
    /// A variable of ENV or ARG.
    Variable {
        /// Its name.
        name: String,
        /// Its value; `None` if it was not set. That of a variable named like a secret is not shown.
        before: Option<String>,
        /// Its value now.
        after: Option<String>,
    },
    /// Something else that the step depends on: the user, the working directory, a mount...
    Setting {
        /// Its name in the key.
        name: String,
        /// As it was.
        before: serde_json::Value,
        /// As it is.
        after: serde_json::Value,
    },
    /// What it copies.
    Source {
        /// Where it comes from: `the build context`.
        place: String,
        /// The file in there.
        path: String,
        /// What of it.
        change: Change,
    },
    /// More of what it copies than is told one by one.
    MoreSources {
        /// How many.
        count: usize,
    },
    /// What it copies is not what it was; the list of it is no longer there.
    Sources {
        /// Where it comes from.
        place: String,
    },
    /// The image that the stage stands on.
    Base {
        /// The digest of the manifest that it was.
        before: Option<Digest>,
        /// That it is.
        after: Option<Digest>,
    },
    /// Something that the step has read.
    Read {
        /// The path.
        path: String,
        /// What of it, in a word: `content`, `listing`...
        aspect: &'static str,
        /// Of a listing: some of the names that came and went.
        names: Vec<String>,
        /// Who changed it.
        by: Option<By>,
    },
    /// More of what the step has read than is told one by one.
    MoreReads {
        /// How many paths.
        count: usize,
    },
    /// The layers below it are others, and it is not known what it reads of them.
    Below {
        /// The first step that gave another one.
        by: Option<By>,
    },
    /// A user or group that it names is another one in the image.
    Meaning,
    /// All is the same, but the step failed then.
    FailedBefore,
    /// The cache has another result than the step gave when it was executed for comparison (`--verify-cache`).
    WrongHit {
        /// Where they differ.
        paths: Vec<String>,
    },
    /// All is the same, but the result is no longer in the store.
    Gone,
}

/// Who changed a file that a step read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub enum By {
    /// The image that the stage stands on.
    Base,
    /// An earlier step.
    Step {
        /// Its number, if the build shows it.
        number: Option<usize>,
        /// As the build shows it.
        title: String,
        /// The file of its sources.
        source: Option<String>,
    },
}

/// How many files of a kind are told one by one.
const TOLD: usize = 20;
/// How many builds of the same Dockerfile are looked through for a step.
const BUILDS: usize = 20;

/// A step in the build that is explained, and the one that it is compared with.
struct Pair<'a> {
    store: &'a Store,
    record: &'a BuildRecord,
    step: &'a StepRecord,
    earlier: &'a BuildRecord,
    before: &'a StepRecord,
}

/// Says of each step of a build why it was executed, or that it was not.
///
/// # Errors
/// [`WhyError`] if the store cannot be read.
pub fn explain(store: &Store, id: BuildId, record: &BuildRecord) -> Result<Explanation, WhyError> {
    let same = |other: &BuildRecord| {
        (&other.about.context, &other.about.dockerfile) == (&record.about.context, &record.about.dockerfile)
    };
    let earlier: Vec<_> = ledger::newest_first(store)?
        .filter(|(other, build)| *other < id && same(build))
        .take(BUILDS)
        .collect();
    let mut used = Vec::new();
    let mut steps = Vec::new();
    for step in record.steps.iter() {
        let Some(number) = step.number() else { continue };
        let found = predecessor(record, step, &earlier);
        used.extend(found.map(|(id, ..)| id));
        let pair = found.map(|(_, earlier, before)| Pair {
            store,
            record,
            step,
            earlier,
            before,
        });
        let (reasons, unread) = match step.outcome {
            StepOutcome::Ran | StepOutcome::Failed | StepOutcome::AtWork => match (&step.verified, pair) {
                (Some(Verified::Different(paths)), _) => {
                    let paths = paths.clone();
                    (vec![Reason::WrongHit { paths }], None)
                }
                _ if !step.asked => (vec![Reason::NotAsked], None),
                (_, None) if earlier.is_empty() => (vec![Reason::FirstBuild], None),
                (_, None) => (vec![Reason::NewStep], None),
                (_, Some(pair)) => pair.reasons()?,
            },
            StepOutcome::Unchanged => (
                Vec::new(),
                pair.map(|pair| pair.unread(&[])).transpose()?.flatten(),
            ),
            StepOutcome::Cached | StepOutcome::Pending | StepOutcome::Canceled => (Vec::new(), None),
        };
        steps.push(Explained {
            number,
            title: record.title(step),
            line: step.span.start.line,
            outcome: step.outcome,
            reasons,
            unread,
            cut_off: step.cut_off,
            verified: step.verified == Some(Verified::Same),
        });
    }
    used.sort_unstable();
    used.dedup();
    Ok(Explanation {
        build: id.to_string(),
        result: Fate::of(store, id, record),
        compared_with: used.iter().rev().map(BuildId::to_string).collect(),
        steps,
    })
}

/// The step that stood in the place of `step` in the newest of the builds in which it was begun.
fn predecessor<'e>(
    record: &BuildRecord,
    step: &StepRecord,
    builds: &'e [(BuildId, BuildRecord)],
) -> Option<(BuildId, &'e BuildRecord, &'e StepRecord)> {
    let found = builds.iter().filter_map(|(id, earlier)| {
        let before = align::counterpart(record, step, earlier)?;
        let begun = before.key.is_some() || before.base.as_ref().is_some_and(|base| !base.layers.is_empty());
        begun.then_some((*id, earlier, before))
    });
    // One that was completed says more than one that failed or was given up.
    let mut all: Vec<_> = found.collect();
    let completed = |step: &StepRecord| {
        matches!(
            step.outcome,
            StepOutcome::Cached | StepOutcome::Unchanged | StepOutcome::Ran
        )
    };
    let best = all
        .iter()
        .position(|(.., before)| completed(before) || before.key == step.key)
        .unwrap_or(0);
    (best < all.len()).then(|| all.swap_remove(best))
}

impl Pair<'_> {
    /// Why the step was executed, and what changed below it without being read.
    fn reasons(&self) -> Result<(Vec<Reason>, Option<Unread>), WhyError> {
        let (Some(before), Some(after)) = (&self.before.key, &self.step.key) else {
            return Ok((vec![Reason::NewStep], None));
        };
        let mut reasons = key::differences(self, before, after);
        let mut unread = None;
        if before["parent"] != after["parent"] {
            let (read, not_read) = self.below()?;
            unread = not_read;
            // If the instruction changed, no earlier result would do, whatever lies below.
            if reasons.is_empty() {
                reasons = read;
            }
        } else if reasons.is_empty() {
            reasons.push(match self.before.outcome {
                StepOutcome::Failed | StepOutcome::Canceled | StepOutcome::AtWork => Reason::FailedBefore,
                _ => Reason::Gone,
            });
        }
        Ok((reasons, unread))
    }
}
