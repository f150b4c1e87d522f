//! Which build or step a person means, and its filesystem.
//!
//! A build is `build-7`, or the last one that gave an image or failed to; nothing stands for the last of all. A step is
//! `BUILD@STEP`, where STEP is its number as the build shows it, the name of a stage for the stage's last step, or
//! `STAGE:N` for its Nth.

use std::sync::Arc;

use mica_fs::digest::DiffId;
use mica_fs::layer::Layer;
use mica_fs::layer::index::IndexError;
use mica_fs::store::{Store, StoreError};

use super::{BuildId, BuildRecord, BuildResult, LedgerError, StepOutcome, StepRecord, keep};
use crate::image::{Image, ImageError};
use crate::reference::Reference;

/// Why a text names no build, or no step whose filesystem is there.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The records.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image is there, but nothing is known of its build.
    #[error("nothing is known of the build of {image}")]
    NoBuild {
        /// As it was named.
        image: String,
    },
    /// The build has no such step.
    #[error("{id} has no step {wanted:?}")]
    NoStep {
        /// The build.
        id: BuildId,
        /// What was asked for.
        wanted: String,
        /// The steps that it has, each in a line.
        steps: String,
    },
    /// The step was never completed.
    #[error("{step} of {id} was not completed")]
    NotDone {
        /// The build.
        id: BuildId,
        /// The step.
        step: String,
    },
    /// What the step gave is no longer in the store.
    #[error("the layer that {step} of {id} gave is no longer in the store")]
    Pruned {
        /// The build.
        id: BuildId,
        /// The step.
        step: String,
        /// The layer.
        layer: Option<DiffId>,
    },
    /// The layer of a failed step is damaged.
    #[error("cannot open what the failed step left")]
    Layer(#[from] IndexError),
}

impl FindError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::NoBuild { image } => Some(format!(
                "it was built elsewhere, or too long ago; `mica history {image}` shows its instructions"
            )),
            Self::NoStep { steps, .. } => Some(format!("its steps are\n{steps}")),
            Self::NotDone { .. } => Some("mount the step before it".to_owned()),
            Self::Pruned { .. } => Some("build again: the step is then executed again".to_owned()),
            Self::Store(_) | Self::Layer(_) => None,
        }
    }
}

/// A step of a build.
#[derive(Clone, Debug)]
pub struct Found {
    /// The build.
    pub id: BuildId,
    /// Its record.
    pub record: BuildRecord,
    index: usize,
}

impl Found {
    /// The step.
    pub fn step(&self) -> &StepRecord {
        &self.record.steps[self.index]
    }

    /// The layers of the step's filesystem, bottom first; for a failed RUN with what it left on top.
    ///
    /// # Errors
    /// [`FindError::NotDone`], [`FindError::Pruned`], and what opening them meets.
    pub fn layers(&self, store: &Store) -> Result<Vec<Arc<Layer>>, FindError> {
        layers(store, self.id, &self.record, self.step())
    }
}

/// Takes `BUILD@STEP` apart; `None` for a name without a step, perhaps with a digest.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let (build, step) = text.rsplit_once('@')?;
    (!step.starts_with("sha256:")).then_some((build, step))
}

/// The build that `text` means.
///
/// # Errors
/// [`FindError`] if none is known.
pub fn build(store: &Store, text: &str) -> Result<(BuildId, BuildRecord), FindError> {
    if text.is_empty() {
        return Ok(keep::latest(store)?);
    }
    if let Ok(id) = text.parse::<BuildId>() {
        return Ok((id, keep::load(store, id)?));
    }
    let image = Image::find(store, text);
    let name = Reference::parse(text).map(|name| name.to_string()).ok();
    let means = |record: &BuildRecord| {
        let asked = name
            .as_ref()
            .is_some_and(|name| record.about.names.contains(name));
        let gave = image.as_ref().is_ok_and(|image| record.gave(image));
        gave || asked && record.result != BuildResult::Built
    };
    let found = keep::newest_first(store)?.find(|(_, record)| means(record));
    match (found, image) {
        (Some(found), _) => Ok(found),
        (None, Err(error)) => Err(error.into()),
        (None, Ok(_)) => Err(FindError::NoBuild {
            image: text.to_owned(),
        }),
    }
}

/// The step that `step` means, of the build that `text` means.
///
/// # Errors
/// [`FindError`] if there is none.
pub fn step(store: &Store, text: &str, step: &str) -> Result<Found, FindError> {
    let (id, record) = build(store, text)?;
    match named(&record, step).map(|step| step.index) {
        Some(index) => Ok(Found { id, record, index }),
        None => Err(FindError::NoStep {
            id,
            wanted: step.to_owned(),
            steps: listing(&record),
        }),
    }
}

fn named<'r>(record: &'r BuildRecord, text: &str) -> Option<&'r StepRecord> {
    if let Ok(number) = text.parse() {
        return record.step(number);
    }
    let of_stage = |name: &str| {
        let is_it = |step: &&StepRecord| step.stage.eq_ignore_ascii_case(name);
        record.steps.iter().filter(is_it).collect::<Vec<_>>()
    };
    let position = text
        .rsplit_once(':')
        .and_then(|(stage, n)| Some((stage, n.parse::<usize>().ok()?)));
    match position {
        Some((stage, wanted)) => {
            let is_it = |step: &StepRecord| step.shown.is_some_and(|shown| shown.position == wanted);
            of_stage(stage).into_iter().find(|step| is_it(step))
        }
        None => of_stage(text).last().copied(),
    }
}

/// The steps that the build shows, a line each.
fn listing(record: &BuildRecord) -> String {
    let shown = record.steps.iter().filter_map(|step| {
        let number = step.number()?;
        Some(format!("{number:>3} {}", record.title(step)))
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// The layers of the filesystem after a step: see [`Found::layers`].
///
/// # Errors
/// As [`Found::layers`].
pub fn layers(
    store: &Store,
    id: BuildId,
    record: &BuildRecord,
    step: &StepRecord,
) -> Result<Vec<Arc<Layer>>, FindError> {
    let named = |step: &StepRecord| record.title(step);
    let failed = match step.outcome {
        StepOutcome::Pending | StepOutcome::Canceled | StepOutcome::AtWork => None,
        StepOutcome::Failed => step.layer.map(Some),
        StepOutcome::Cached | StepOutcome::Unchanged | StepOutcome::Ran => Some(None),
    };
    let Some(failed) = failed else {
        return Err(FindError::NotDone {
            id,
            step: named(step),
        });
    };
    let pruned = |by: &StepRecord, layer| FindError::Pruned {
        id,
        step: named(by),
        layer,
    };
    let ids = record.layers_after(step);
    if let Some(gone) = ids.iter().find(|layer| !store.has_layer(layer)) {
        let gave = |other: &&StepRecord| other.layer == Some(*gone);
        let by = record.lineage(step).into_iter().find(gave).unwrap_or(step);
        return Err(pruned(by, Some(*gone)));
    }
    let mut layers = store.layers(&ids)?;
    if let Some(layer) = failed {
        let directory = store.failed_layer(id.0);
        if !directory.is_dir() {
            return Err(pruned(step, Some(layer)));
        }
        layers.push(Arc::new(Layer::open(&directory)?));
    }
    Ok(layers)
}
