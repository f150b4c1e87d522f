//! What the cache has for a step, and executing it where the cache has nothing.

use std::cell::OnceCell;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::overlay::trace::differences;
use mica_fs::overlay::{Lowers, Observation, Overlay, ReadSet};
use serde_json::{Value, json};

use super::{At, CachePolicy, Solver, StepError, Turn};
use crate::cache::{self, Key, Made, Mode, Record};
use crate::event::{Inputs, Outcome, StepNumber};
use crate::op::identity::{Accounts, Identity};
use crate::rootfs::Rootfs;

/// A step as the cache sees it.
pub(super) struct Subject<'s> {
    pub kind: &'static str,
    /// All that its result depends on besides its parent.
    pub inputs: Value,
    /// What of the parent gives its words their meaning, looked up when it is needed.
    pub resolve: &'s dyn Fn() -> Result<Value, StepError>,
}

/// What an executed step gave.
#[derive(Clone, Default)]
pub(super) struct Given {
    pub layer: Option<DiffId>,
    /// What it read of the layers below; `None` if that was not recorded.
    pub reads: Option<ReadSet>,
}

/// A subject with its key.
struct Question<'s> {
    at: At<'s>,
    subject: &'s Subject<'s>,
    key: Key,
    command: OnceCell<Digest>,
}

impl Question<'_> {
    fn command(&self) -> Result<Digest, StepError> {
        if let Some(command) = self.command.get() {
            return Ok(*command);
        }
        let command = self.key.command(&(self.subject.resolve)()?);
        Ok(*self.command.get_or_init(|| command))
    }
}

impl At<'_> {
    /// Which step it is, whatever it takes in and whatever lies between it and its base.
    pub(super) fn step(&self, kind: &str) -> Digest {
        let step = json!({
            "stage": self.stage.name,
            "base": self.built.layers.first(),
            "kind": kind,
            "text": self.text,
        });
        Digest::of(step.to_string().as_bytes())
    }
}

impl Solver<'_> {
    /// Takes the record of an equal step, or of one that would be equal with what it has read, or executes this one and
    /// records it.
    pub(super) fn cached(
        &self,
        at: At<'_>,
        subject: &Subject<'_>,
        execute: impl Fn() -> Result<Given, StepError>,
    ) -> Result<(Record, Outcome), StepError> {
        let question = Question {
            at,
            subject,
            key: Key::new(&at.built.layers, subject.kind, subject.inputs.clone()).of_mode(self.mode),
            command: OnceCell::new(),
        };
        if at.probing {
            return self.known(&question)?.ok_or(StepError::NotKnown);
        }
        self.ledger
            .keyed(at.number, &question.key, at.policy == CachePolicy::Use);
        let claim = match at.progress.once.begin(question.key.digest(), at.policy) {
            Turn::Ours(claim) => claim,
            Turn::Theirs(record) => {
                self.ledger.gave(at.number, &record);
                return Ok((record, Outcome::Cached));
            }
            Turn::Failed => return Err(StepError::Stopped),
        };
        let (record, outcome) = match self.known(&question)? {
            Some((record, outcome)) => {
                if self.is_verified(&question.key.digest()) {
                    self.verified(at.number, &record, &|| self.execute(at.number, &execute))?;
                }
                (record, outcome)
            }
            None => (self.executed(&question, &execute)?, Outcome::Done),
        };
        self.ledger.gave(at.number, &record);
        claim.done(&record);
        Ok((record, outcome))
    }

    fn known(&self, question: &Question<'_>) -> Result<Option<(Record, Outcome)>, StepError> {
        if question.at.policy == CachePolicy::Refresh {
            return Ok(None);
        }
        if let Some(record) = cache::find(self.store, &question.key)? {
            return Ok(Some((record, Outcome::Cached)));
        }
        if let Some(record) = self.imports.find(self.store, &question.key)? {
            return Ok(Some((record, Outcome::Cached)));
        }
        match self.mode {
            Mode::Content => Ok(None),
            Mode::Trace => self.unchanged(question),
        }
    }

    /// The newest record of an equal command all of whose inputs are the same in this parent.
    fn unchanged(&self, question: &Question<'_>) -> Result<Option<(Record, Outcome)>, StepError> {
        let command = question.command()?;
        let own = cache::of_command(self.store, &command)?;
        if own.is_empty() && !self.imports.has_command(&command) {
            return Ok(None);
        }
        let lowers = Lowers::new(self.store.layers(&question.at.built.layers)?);
        let holds = |reads: &ReadSet| match differences(reads, &lowers).next() {
            None => true,
            Some(difference) => {
                tracing::debug!(step = question.at.text, ?difference, "an input has changed");
                false
            }
        };
        for record in own {
            if let Some(reads) = cache::reads(self.store, &record)?.filter(holds) {
                let record = cache::keep_again(self.store, &question.key, record, None)?;
                return Ok(Some((record, Outcome::Unchanged(inputs(&reads, &lowers)))));
            }
        }
        let Some((record, reads, encoded)) = self.imports.of_command(self.store, &command, holds) else {
            return Ok(None);
        };
        let record = cache::keep_again(self.store, &question.key, record, Some(&encoded))?;
        Ok(Some((record, Outcome::Unchanged(inputs(&reads, &lowers)))))
    }

    fn execute(
        &self,
        number: StepNumber,
        execute: &dyn Fn() -> Result<Given, StepError>,
    ) -> Result<Given, StepError> {
        let _job = self.jobs.begin();
        if self.stop.is_stopped() {
            return Err(StepError::Stopped);
        }
        self.ledger.executing(number);
        execute()
    }

    fn executed(
        &self,
        question: &Question<'_>,
        execute: &dyn Fn() -> Result<Given, StepError>,
    ) -> Result<Record, StepError> {
        let at = question.at;
        let mut given = self.execute(at.number, execute)?;
        let lineage = match self.mode {
            Mode::Trace => Some((question.command()?, at.step(question.subject.kind))),
            Mode::Content => None,
        };
        if let (Some((command, _)), Some(layer), CachePolicy::Use) = (lineage, given.layer, at.policy)
            && let Some(last) = self.cut_off(at, &command, layer)?
        {
            self.ledger.cut_off(at.number);
            given.layer = Some(last);
        }
        let made = Made {
            layer: given.layer,
            created: jiff::Timestamp::now().to_string(),
            lineage,
            reads: given.reads,
        };
        Ok(cache::keep_made(self.store, &question.key, made)?)
    }

    /// A root filesystem for a step: what it reads is recorded if that is of use.
    pub(super) fn rootfs(
        &self,
        layers: &[DiffId],
        virtuals: Vec<mica_fs::overlay::Virtual>,
    ) -> Result<Rootfs<'_>, StepError> {
        Ok(match self.mode {
            Mode::Trace => Rootfs::recorded(self.store, layers, virtuals)?,
            Mode::Content => Rootfs::prepare(self.store, layers, virtuals)?,
        })
    }

    /// Makes a layer of what a step has changed.
    pub(super) fn commit(&self, mut rootfs: Rootfs<'_>) -> Result<Given, StepError> {
        rootfs.unmount()?;
        let reads = rootfs.read_set();
        let layer = Some(rootfs.commit_without(self.leaks)?.diff_id());
        Ok(Given { layer, reads })
    }

    /// The users and groups that the layers have. Who asks takes the answer into the key of its command, so that the
    /// files that it is from are no inputs.
    pub(super) fn accounts(&self, layers: &[DiffId]) -> Result<Accounts, StepError> {
        let overlay = Overlay::read_only(self.store.layers(layers)?);
        Ok(Accounts::of(&overlay))
    }

    pub(super) fn identity(&self, layers: &[DiffId], user: &str) -> Result<Identity, StepError> {
        Ok(self.accounts(layers)?.identity(user)?)
    }
}

/// Everything of a user that a step can see without looking into the image.
pub(super) fn identity_value(identity: &Identity) -> Value {
    json!([identity.uid, identity.gid, identity.groups, identity.home])
}

fn inputs(reads: &ReadSet, lowers: &Lowers) -> Inputs {
    let present = reads
        .values()
        .filter(|seen| matches!(seen, Observation::Present(_)));
    Inputs {
        read: present.count(),
        // The root is among what is looked at.
        all: lowers.name_count() + 1,
    }
}
