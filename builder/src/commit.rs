//! An image of what a session changed: `mica commit`.

use mica_fs::digest::DiffId;
use mica_fs::layer::writer::{LayerWriter, WriteError};
use mica_fs::overlay::Overlay;
use mica_fs::snapshot::{self, PackError};
use mica_fs::store::{Store, StoreError};

use crate::image::{History, Image, ImageConfig, ImageError};

/// Why changes cannot become an image.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The changes cannot be read.
    #[error("cannot write the new layer")]
    Pack(#[from] PackError),
    /// The layer cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The image cannot be stored.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What is told of a commit.
#[derive(Debug, Clone, Default)]
pub struct Remark {
    /// When, as in RFC 3339.
    pub created: String,
    /// Who made it.
    pub author: Option<String>,
    /// What it is.
    pub message: Option<String>,
}

/// Makes a layer of what the overlay shows at this moment, and puts it into the store, which holds it as long as
/// `store` lives. `None` if nothing has changed.
///
/// # Errors
/// [`CommitError`]; the store has no layer more then.
pub fn layer(store: &Store, overlay: &Overlay) -> Result<Option<DiffId>, CommitError> {
    let work = store.work_dir()?;
    let mut writer = LayerWriter::new(work.path())?;
    snapshot::pack(overlay, &mut writer)?;
    let written = writer.finish()?;
    if written.entries == 0 {
        return Ok(None);
    }
    store.publish_layer(work, &written)?;
    Ok(Some(written.diff_id))
}

/// Stores the image that `layer` makes upon `base`, with the configuration `config`, which is the base's with
/// changes to how it is run. The image has no name yet.
///
/// # Errors
/// [`CommitError`].
pub fn image(
    store: &Store,
    base: &Image,
    mut config: ImageConfig,
    layer: Option<DiffId>,
    remark: Remark,
) -> Result<Image, CommitError> {
    config.created = Some(remark.created.clone());
    if remark.author.is_some() {
        config.author.clone_from(&remark.author);
    }
    config.rootfs.diff_ids.extend(layer);
    config.history.push(History {
        created: Some(remark.created),
        created_by: Some("mica commit".to_owned()),
        author: remark.author,
        comment: remark.message,
        empty_layer: layer.is_none(),
    });
    let image = Image::write(store, config, Some(base))?;
    store.add_image(&image.manifest_digest)?;
    Ok(image)
}
