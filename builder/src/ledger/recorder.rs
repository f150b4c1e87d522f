//! Takes down a build while it runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mica_fs::digest::DiffId;
use mica_fs::store::{Store, WorkDir};

use super::keep;
use super::{
    About, BaseKind, BaseRecord, BuildId, BuildRecord, BuildResult, InputsRecord, LedgerError, Shown,
    SourcesRecord, StepOutcome, StepRecord, VERSION, Verified,
};
use crate::cache::{self, Key};
use crate::event::{Outcome, Planned, StepNumber};
use crate::graph::{Base, Graph, Stage};
use crate::image::Image;
use crate::url::mask_passwords;

/// What happened in a build so far. It is in the store as soon as a step is executed, so that it is known also of a build
/// whose process is killed; one that the cache has whole is written down at its end. A build must not fail for want of its
/// record: what goes wrong here is logged.
pub struct Ledger<'s> {
    store: &'s Store,
    begin: Instant,
    state: Mutex<State>,
}

struct State {
    record: BuildRecord,
    /// The layer of what a failed command left: `tar` and `index`.
    failed_layer: Option<WorkDir>,
    /// By what the record in the store is known, and what tells that the build is at work.
    kept: Option<(BuildId, Option<WorkDir>)>,
}

impl<'s> Ledger<'s> {
    /// A build begins. Passwords in URLs are not written down.
    pub fn new(store: &'s Store, about: About) -> Self {
        let about = About {
            context: mask_passwords(&about.context),
            text: mask_passwords(&about.text),
            ..about
        };
        let record = BuildRecord {
            version: VERSION,
            about,
            started: jiff::Timestamp::now().to_string(),
            milliseconds: 0,
            result: BuildResult::Killed,
            manifest: None,
            image: None,
            steps: Vec::new(),
        };
        let state = State {
            record,
            failed_layer: None,
            kept: None,
        };
        Self {
            store,
            begin: Instant::now(),
            state: Mutex::new(state),
        }
    }

    /// The steps that are to come, and those among them that are shown.
    pub(crate) fn plan(&self, graph: &Graph, plan: &[Planned]) {
        let shown = |(planned, number): (&Planned, usize)| {
            let shown = Shown {
                number,
                position: planned.position,
                total: planned.total,
            };
            (planned.number.0, shown)
        };
        let shown: BTreeMap<_, _> = plan.iter().zip(1..).map(shown).collect();
        let mut steps = Vec::new();
        for stage in graph.stages.values() {
            let from = (&stage.text, stage.span);
            let own = stage.steps.iter().map(|step| (&step.text, step.span));
            for (offset, (text, span)) in std::iter::once(from).chain(own).enumerate() {
                steps.push(StepRecord {
                    index: steps.len(),
                    shown: shown.get(&steps.len()).copied(),
                    stage: stage.name.clone(),
                    text: mask_passwords(text),
                    span,
                    asked: true,
                    base: (offset == 0).then(|| base(graph, stage)),
                    ..StepRecord::default()
                });
            }
        }
        self.with(|state| state.record.steps = steps);
    }

    /// What a stage stands on is there.
    pub(crate) fn stands_on(&self, number: StepNumber, layers: &[DiffId]) {
        self.step(number, |step| {
            if let Some(base) = &mut step.base {
                base.layers = layers.to_vec();
            }
        });
    }

    /// What a step depends on is known; the cache is `asked` for it, or not.
    pub(crate) fn keyed(&self, number: StepNumber, key: &Key, asked: bool) {
        self.step(number, |step| {
            step.key = Some(key.value().clone());
            step.asked = asked;
        });
    }

    /// What a COPY takes is known.
    pub(crate) fn sources(&self, number: StepNumber, sources: Vec<SourcesRecord>) {
        self.step(number, |step| step.sources = sources);
    }

    /// A step gave this, or an earlier one did.
    pub(crate) fn gave(&self, number: StepNumber, record: &cache::Record) {
        self.step(number, |step| {
            step.layer = record.layer;
            step.made = Some(record.created.clone());
            step.command = record.lineage.as_ref().map(|lineage| lineage.command);
            step.reads = record.lineage.as_ref().and_then(|lineage| lineage.reads);
        });
    }

    /// A step is about to be executed, or to be executed again.
    pub(crate) fn executing(&self, number: StepNumber) {
        self.with(|state| {
            if let Some(step) = state.record.steps.get_mut(number.0) {
                step.outcome = StepOutcome::AtWork;
            }
            self.save(state);
        });
    }

    /// What a step gave is but for times what it had given before, and that has taken its place.
    pub(crate) fn cut_off(&self, number: StepNumber) {
        self.step(number, |step| step.cut_off = true);
    }

    /// A result of the cache was compared with what the step gives.
    pub(crate) fn verified(&self, number: StepNumber, verified: Verified) {
        self.step(number, |step| step.verified = Some(verified));
    }

    /// A step that failed is executed once more: what it left is forgotten.
    pub(crate) fn retried(&self, number: StepNumber) {
        self.with(|state| {
            if let Some(step) = state.record.steps.get_mut(number.0)
                && step.layer.take().is_some()
            {
                state.failed_layer = None;
            }
        });
    }

    /// A command failed and left this: a layer in a work directory.
    pub(crate) fn left(&self, number: StepNumber, layer: DiffId, directory: WorkDir) {
        self.with(|state| {
            // Of several that failed at the same time the first is the build's.
            if state.failed_layer.is_none() {
                state.failed_layer = Some(directory);
                if let Some(step) = state.record.steps.get_mut(number.0) {
                    step.layer = Some(layer);
                }
            }
        });
    }

    /// A step has ended.
    pub(crate) fn ended(&self, number: StepNumber, outcome: Outcome, elapsed: Duration) {
        self.step(number, |step| {
            step.milliseconds = milliseconds(elapsed);
            step.outcome = match outcome {
                Outcome::Cached => StepOutcome::Cached,
                Outcome::Unchanged(inputs) => {
                    step.inputs = Some(InputsRecord {
                        read: inputs.read,
                        all: inputs.all,
                    });
                    StepOutcome::Unchanged
                }
                Outcome::Done => StepOutcome::Ran,
                Outcome::Failed => StepOutcome::Failed,
                Outcome::Canceled => StepOutcome::Canceled,
            };
        });
        if outcome == Outcome::Done {
            self.with(|state| self.save(state));
        }
    }

    /// The build has ended.
    pub(crate) fn close(&self, result: BuildResult, image: Option<&Image>) {
        self.with(|state| {
            let record = &mut state.record;
            record.result = result;
            record.manifest = image.map(|image| image.manifest_digest);
            record.image = image.map(Image::id);
            self.save(state);
            let Some((id, at_work)) = &mut state.kept else {
                return;
            };
            if let Some(layer) = state.failed_layer.take()
                && let Err(error) = self.store.publish_failed_layer(id.0, &layer)
            {
                warn(&error.into());
            }
            drop(at_work.take());
        });
    }

    /// The image that the store lists in the end, which may differ from what was built in annotations or times.
    pub fn delivered(&self, image: &Image) {
        self.with(|state| {
            if state.record.manifest == Some(image.manifest_digest) {
                return;
            }
            state.record.manifest = Some(image.manifest_digest);
            state.record.image = Some(image.id());
            self.save(state);
        });
    }

    /// The build's record as it is now, and its number once it is kept.
    pub fn record(&self) -> (Option<BuildId>, BuildRecord) {
        self.with(|state| (state.kept.as_ref().map(|(id, _)| *id), state.record.clone()))
    }

    /// Writes the record into the store as it is.
    fn save(&self, state: &mut State) {
        state.record.milliseconds = milliseconds(self.begin.elapsed());
        let saved = match &state.kept {
            Some((id, _)) => keep::replace(self.store, *id, &state.record),
            None => {
                keep::keep(self.store, &state.record).map(|(id, work)| state.kept = Some((id, Some(work))))
            }
        };
        if let Err(error) = saved {
            warn(&error);
        }
    }

    /// The number by which a step is shown.
    pub(crate) fn shown(&self, number: StepNumber) -> Option<usize> {
        self.with(|state| state.record.steps.get(number.0)?.number())
    }

    fn step(&self, number: StepNumber, change: impl FnOnce(&mut StepRecord)) {
        self.with(|state| {
            if let Some(step) = state.record.steps.get_mut(number.0) {
                change(step);
            }
        });
    }

    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        action(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn base(graph: &Graph, stage: &Stage) -> BaseRecord {
    let kind = match &stage.base {
        Base::Scratch => BaseKind::Scratch,
        Base::Image(image) => BaseKind::Image(image.manifest_digest),
        Base::Stage(id) => BaseKind::Stage(graph.stage(*id).name.clone()),
        Base::Named(name) => BaseKind::Context(name.clone()),
    };
    BaseRecord {
        kind,
        layers: Vec::new(),
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn warn(error: &LedgerError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "the build is not written down"
    );
}
