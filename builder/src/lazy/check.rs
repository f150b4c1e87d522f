//! Whether what is kept of layers in registries is still what it was.

use std::fs::File;
use std::io;

use mica_fs::digest::Digest;
use mica_fs::layer::INDEX_FILE;
use mica_fs::layer::index::Index;
use mica_fs::store::{RemoteDirectory, Store, StoreError};

use super::bytes;
use super::chunk::Chunks;
use super::layer::CHUNKS;

/// What was looked at, and what is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// How many layers something is kept of.
    pub layers: u64,
    /// Those of which something is damaged: the blob, what is wrong, and whether it was removed.
    pub damaged: Vec<(Digest, String, bool)>,
}

/// Reads all that the store keeps of layers in registries. What is damaged is removed if `repair` says so, and nobody uses
/// it: it is made anew when it is needed.
///
/// # Errors
/// [`StoreError`].
pub fn check(store: &Store, repair: bool) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    for blob in store.remote_blobs()? {
        let Some(directory) = store.remote_directory(&blob)? else {
            continue;
        };
        checked.layers += 1;
        let Err(error) = check_layer(&directory) else {
            continue;
        };
        drop(directory);
        if repair {
            store.remove_remote_directory(&blob)?;
        }
        let is_gone = repair && store.remote_directory(&blob)?.is_none();
        checked.damaged.push((blob, error.to_string(), is_gone));
    }
    Ok(checked)
}

fn check_layer(directory: &RemoteDirectory) -> io::Result<()> {
    let index = Index::open(&directory.path().join(INDEX_FILE)).map_err(io::Error::other)?;
    if !index.verify() {
        return Err(io::Error::other(
            "the bytes of its index are not those that were written",
        ));
    }
    let file = directory.path().join(CHUNKS);
    let chunks = Chunks::open(&file, Chunks::blob_size(&File::open(&file)?)?)?;
    bytes::check(directory.path(), chunks.all())
}
