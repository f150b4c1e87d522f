//! What a build gives: the image, and what it can be made into before it leaves.

use mica_fs::digest::DiffId;
use mica_fs::layer::rewrite::clamp_times;
use mica_fs::layer::writer::{LayerWriter, WriteError};
use mica_fs::store::{Store, StoreError};
use serde_json::json;

use crate::cache::{self, Key};
use crate::epoch::Epoch;
use crate::export::{ExportError, merged};
use crate::fold::{FoldError, fold};
use crate::image::{History, Image, ImageError};
use crate::squash::squash;

/// Why an image cannot be made into another one.
#[derive(Debug, thiserror::Error)]
pub enum ProductError {
    /// A layer cannot be written again.
    #[error("cannot write the layer {layer} again")]
    Layer {
        /// The layer.
        layer: DiffId,
        /// What is wrong.
        source: WriteError,
    },
    /// The layers cannot be made one.
    #[error("cannot make one layer of those of the build")]
    Squash(#[from] ExportError),
    /// The layers cannot be folded.
    #[error(transparent)]
    Fold(#[from] FoldError),
    /// The new image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a build gives.
#[derive(Clone, Debug)]
pub struct Product {
    /// The image.
    pub image: Image,
    /// The image that it stands on.
    pub base: Option<Image>,
    /// The time that the build took for now (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<Epoch>,
}

impl Product {
    /// The image with no time of a file later than `epoch`. The layers of its base stay as they are.
    ///
    /// # Errors
    /// [`ProductError`].
    pub fn clamped(&self, store: &Store, epoch: Epoch) -> Result<Image, ProductError> {
        let mut config = self.image.config.clone();
        for layer in config.rootfs.diff_ids.iter_mut().skip(self.inherited()) {
            *layer = clamped_layer(store, *layer, epoch)?;
        }
        Ok(Image::write(store, config, self.base.as_ref())?)
    }

    /// The same files with all that the build added in one layer.
    ///
    /// # Errors
    /// [`ProductError`].
    pub fn squashed(self, store: &Store) -> Result<Self, ProductError> {
        let (below, own) = self.image.layers().split_at(self.inherited());
        if own.len() < 2 {
            return Ok(self);
        }
        let key = Key::new(self.image.layers(), "squash", json!(below.len()));
        let layer = match cache::find(store, &key)?.and_then(|record| record.layer) {
            Some(layer) => layer,
            None => {
                let work = store.work_dir()?;
                let failed = |source| ProductError::Squash(ExportError::Tar { source });
                let mut writer = LayerWriter::new(work.path()).map_err(failed)?;
                let (old, new) = (merged(store, below)?, merged(store, self.image.layers())?);
                squash(&old, &new, &mut writer)?;
                let written = writer.finish().map_err(failed)?;
                let layer = store.publish_layer(work, &written)?.diff_id();
                let created = self.image.config.created.clone();
                cache::keep(store, &key, Some(layer), created.unwrap_or_default())?;
                layer
            }
        };
        let mut config = self.image.config.clone();
        config.rootfs.diff_ids = [below, &[layer]].concat();
        let inherited = self.base.as_ref().map_or(0, |base| base.config.history.len());
        for entry in config.history.iter_mut().skip(inherited) {
            entry.empty_layer = true;
        }
        config.history.push(History {
            created: config.created.clone(),
            comment: Some(format!("{} layers as one", own.len())),
            ..History::default()
        });
        let image = Image::write(store, config, self.base.as_ref())?;
        Ok(Self { image, ..self })
    }

    /// The same files with the layers of the build folded: see [`mod@crate::fold`]. The history stays; an instruction of
    /// whose layer nothing is left becomes one without a layer.
    ///
    /// # Errors
    /// [`ProductError`].
    pub fn folded(self, store: &Store) -> Result<Self, ProductError> {
        let (below, own) = self.image.layers().split_at(self.inherited());
        let created = self.image.config.created.clone().unwrap_or_default();
        let folded = fold(store, below, own, &created)?;
        let mut config = self.image.config.clone();
        let kept: Vec<_> = folded.iter().flatten().copied().collect();
        config.rootfs.diff_ids = [below, &kept].concat();
        let inherited = self.base.as_ref().map_or(0, |base| base.config.history.len());
        let with_layers = config.history.iter_mut().skip(inherited);
        let with_layers = with_layers.filter(|entry| !entry.empty_layer);
        for (entry, layer) in with_layers.zip(&folded) {
            entry.empty_layer = layer.is_none();
        }
        let image = Image::write(store, config, self.base.as_ref())?;
        Ok(Self { image, ..self })
    }

    /// How many of the layers are those of the base.
    fn inherited(&self) -> usize {
        let base = self.base.as_ref().map(Image::layers).unwrap_or_default();
        let pairs = base.iter().zip(self.image.layers());
        pairs.take_while(|(below, own)| below == own).count()
    }
}

/// The layer with no time later than `epoch`, made once.
fn clamped_layer(store: &Store, id: DiffId, epoch: Epoch) -> Result<DiffId, ProductError> {
    let key = Key::new(&[id], "clamp", json!(epoch.to_string()));
    if let Some(layer) = cache::find(store, &key)?.and_then(|record| record.layer) {
        return Ok(layer);
    }
    let failed = |source| ProductError::Layer { layer: id, source };
    let layer = store.layer(&id)?;
    let work = store.work_dir()?;
    let mut writer = LayerWriter::new(work.path()).map_err(failed)?;
    clamp_times(&layer, epoch.timestamp(), &mut writer).map_err(failed)?;
    let written = writer.finish().map_err(failed)?;
    let clamped = store.publish_layer(work, &written)?.diff_id();
    cache::keep(store, &key, Some(clamped), epoch.to_string())?;
    Ok(clamped)
}
