//! The layers of a build without what they store in vain (`--optimize=fold`).
//!
//! A file that a later layer stores again with the same bytes (chmod, chown, touch) takes the later metadata in the layer
//! that stored it first; a file that no name of the finished image leads to goes; a whiteout that hides nothing any more
//! goes, too. Layers that are not concerned stay as they are, to the byte, and so do those of the base. The root
//! filesystem of the image stays the same in everything, which is checked at the end.

use std::collections::HashMap;
use std::sync::Arc;

use mica_fs::digest::DiffId;
use mica_fs::layer::index::{Entry, EntryId};
use mica_fs::layer::rewrite::{self, Edit, Fate};
use mica_fs::layer::writer::{LayerWriter, WriteError};
use mica_fs::layer::{Kind, Layer, Metadata};
use mica_fs::overlay::Lowers;
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, StoreError};
use serde_json::json;

use crate::cache::{self, Key};
use plan::{LayerPlan, Plan, Slot, What};

mod plan;
mod same;
#[cfg(test)]
mod tests;

/// Raised when folding the same layers gives others.
const VERSION: u32 = 1;

/// Why layers cannot be folded.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// A layer cannot be written.
    #[error("cannot write a folded layer in place of {layer}")]
    Layer {
        /// The layer as it is.
        layer: DiffId,
        /// What is wrong.
        source: WriteError,
    },
    /// The folded layers are not the same root filesystem: a mistake of ours.
    #[error(
        "folding the layers would change {path}; this is a bug of mica, and the build works without --optimize"
    )]
    Changed {
        /// Where the two differ.
        path: ImagePath,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Folds `own`, which lie on the layers `base`, all bottom layer first. In place of each comes a layer, or none if nothing
/// of it is left.
///
/// # Errors
/// [`FoldError`].
pub fn fold(
    store: &Store,
    base: &[DiffId],
    own: &[DiffId],
    created: &str,
) -> Result<Vec<Option<DiffId>>, FoldError> {
    let layers = store.layers(&[base, own].concat())?;
    let old = Lowers::new(layers);
    let stack = [base, own].concat();
    let mut make = |number: usize, edit: &Edited| -> Result<Arc<Layer>, FoldError> {
        let key = Key::new(
            &stack,
            "fold",
            json!({ "version": VERSION, "base": base.len(), "layer": number }),
        );
        if let Some(layer) = cache::find(store, &key)?.and_then(|record| record.layer) {
            return Ok(store.layer(&layer)?);
        }
        let work = store.work_dir()?;
        let written = edit.write(work.path())?;
        let layer = store.publish_layer(work, &written)?;
        cache::keep(store, &key, Some(layer.diff_id()), created.to_owned())?;
        Ok(layer)
    };
    let folded = fold_stack(&old, base.len(), &mut make)?;
    Ok(folded
        .into_iter()
        .map(|layer| layer.map(|layer| layer.diff_id()))
        .collect())
}

/// Writes the layer of that number, counted from the base, as it is to become.
type Make<'a> = dyn FnMut(usize, &Edited) -> Result<Arc<Layer>, FoldError> + 'a;

/// Folds all layers of `old` above the lowest `base`; `make` writes one that is to change.
fn fold_stack(old: &Lowers, base: usize, make: &mut Make<'_>) -> Result<Vec<Option<Arc<Layer>>>, FoldError> {
    let (below, own) = old.layers().split_at(base);
    // What a link to a layer below means depends on what would be moved.
    if own.len() < 2 || have_links_below(own) {
        return Ok(own.iter().cloned().map(Some).collect());
    }
    let plan = Plan::new(old, base);
    let mut new = below.to_vec();
    let mut folded = Vec::with_capacity(own.len());
    for (number, (layer, plan)) in own.iter().zip(plan.layers).enumerate() {
        let layer = match plan.settle(layer, &Lowers::new(new.clone())) {
            Settled::Same => Some(Arc::clone(layer)),
            Settled::Empty => None,
            Settled::Changed(edit) => Some(make(number, &edit)?),
        };
        new.extend(layer.clone());
        folded.push(layer);
    }
    match same::first_difference(old, &Lowers::new(new)) {
        Some(path) => Err(FoldError::Changed { path }),
        None => Ok(folded),
    }
}

/// Whether one of the layers links to a file below it. A stack does not ask that of its lowest one.
fn have_links_below(layers: &[Arc<Layer>]) -> bool {
    let twice = layers.first().into_iter().chain(layers).cloned().collect();
    Lowers::new(twice).has_links_below()
}

/// What becomes of a layer.
enum Settled {
    Same,
    Empty,
    Changed(Edited),
}

/// A layer with its changes.
struct Edited {
    layer: Arc<Layer>,
    fates: HashMap<ImagePath, Fate>,
    metadata: HashMap<EntryId, Metadata>,
}

impl Edited {
    fn write(&self, directory: &std::path::Path) -> Result<mica_fs::layer::writer::Written, FoldError> {
        let failed = |source| FoldError::Layer {
            layer: self.layer.diff_id(),
            source,
        };
        let mut writer = LayerWriter::new(directory).map_err(failed)?;
        rewrite::rewrite(&self.layer, self, &mut writer).map_err(failed)?;
        writer.finish().map_err(failed)
    }
}

impl Edit for Edited {
    fn fate(&self, path: &ImagePath) -> Fate {
        self.fates.get(path).copied().unwrap_or_default()
    }

    fn metadata(&self, id: EntryId, entry: &Entry<'_>) -> Option<Metadata> {
        let own = || (!entry.is_implicit()).then(|| rewrite::metadata(entry));
        self.metadata.get(&id).cloned().or_else(own)
    }
}

impl LayerPlan {
    /// Decides what depends on the layers below as they have become: a whiteout stays only if it hides something, and a
    /// directory only if there is something to say of it.
    fn settle(mut self, layer: &Arc<Layer>, below: &Lowers) -> Settled {
        let hides = |slot: &Slot| below.resolve(&slot.path).is_some();
        let fate = |slot: &Slot| match slot.what {
            What::Live(_) => Fate::Keep,
            What::Folded => Fate::Drop,
            What::Dead if hides(slot) => Fate::Hide,
            What::Whiteout if hides(slot) => Fate::Keep,
            What::Dead | What::Whiteout => Fate::Drop,
        };
        let mut fates: Vec<Fate> = self.slots.iter().map(fate).collect();
        // From the last to the first, so that what is in a directory is decided before it.
        let mut holds = vec![false; self.slots.len()];
        for number in (0..self.slots.len()).rev() {
            if fates[number] == Fate::Keep && !holds[number] {
                fates[number] = self.empty_directory(number, layer, below);
            }
            if fates[number] != Fate::Drop
                && let Some(parent) = self.slots[number].parent
            {
                holds[parent] = true;
            }
        }
        if fates.first().is_none_or(|root| *root == Fate::Drop) {
            return Settled::Empty;
        }
        if self.metadata.is_empty() && fates.iter().all(|fate| *fate == Fate::Keep) {
            return Settled::Same;
        }
        let slots = self.slots.into_iter().zip(fates);
        let changed = slots.filter(|(_, fate)| *fate != Fate::Keep);
        Settled::Changed(Edited {
            layer: Arc::clone(layer),
            fates: changed.map(|(slot, fate)| (slot.path, fate)).collect(),
            metadata: self.metadata,
        })
    }

    /// What becomes of a slot with nothing below it. Only a directory may go: if it says what is there already, or was
    /// there for the sake of what is gone from it.
    fn empty_directory(&mut self, number: usize, layer: &Layer, below: &Lowers) -> Fate {
        let slot = &self.slots[number];
        let What::Live(id) = slot.what else {
            return Fate::Keep;
        };
        let directory = layer.index().entry(id);
        let Some(entry) = directory.filter(|entry| entry.kind() == Kind::Directory && !entry.is_opaque())
        else {
            return Fate::Keep;
        };
        let own = || (!entry.is_implicit()).then(|| rewrite::metadata(&entry));
        let said = self.metadata.get(&id).cloned().or_else(own);
        let there = below
            .resolve(&slot.path)
            .filter(|found| found.kind == Kind::Directory);
        match (there.map(|found| below.metadata(&found)), said) {
            (Some(there), Some(said)) if there == said => Fate::Drop,
            (Some(_), None) => Fate::Drop,
            (None, None) if slot.path.is_root() => Fate::Drop,
            (None, None) => {
                // The finished image shows it, so now it has to be told.
                self.metadata.insert(id, rewrite::metadata(&entry));
                Fate::Keep
            }
            (_, Some(_)) => Fate::Keep,
        }
    }
}
