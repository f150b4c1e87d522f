//! Archives as trees: a tar on stdin or from a URL becomes a layer of what is in it.

use std::path::Path;

use mica_fs::digest::DiffId;
use mica_fs::path::ImagePath;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Download, Fetcher, Remote, RemoteError};
use crate::op::archive::{self, Archive, ArchiveError};
use crate::rootfs::Rootfs;
use crate::tree::{ImageTree, Tree};

/// What was unpacked.
#[derive(Serialize, Deserialize)]
struct Record {
    layer: DiffId,
}

impl Fetcher<'_> {
    /// Unpacks a file of the host as it is: owners, modes, times and links are the archive's. `None` if it is no tar,
    /// plain or compressed.
    ///
    /// # Errors
    /// [`RemoteError`] if the archive is damaged or leads out of itself.
    pub fn unpack_file(&self, path: &Path) -> Result<Option<DiffId>, RemoteError> {
        archive::open_file(path)?
            .map(|archive| self.unpack(archive))
            .transpose()
    }

    fn unpack(&self, archive: Archive) -> Result<DiffId, RemoteError> {
        let rootfs = Rootfs::prepare(self.store, &[], Vec::new())?;
        archive::unpack(archive, rootfs.overlay(), &ImagePath::root(), None)?;
        Ok(rootfs.commit()?.diff_id())
    }

    /// Fetches a file and unpacks it, or takes what was unpacked when it was fetched before.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn fetch_unpacked(&self, file: &Download) -> Result<Unpacked, RemoteError> {
        let fetched = self.fetch(&Remote::Url(file.clone()))?;
        let key = json!({"kind": "unpack", "file": fetched});
        if let Some(record) = self.recall(&key, |record: &Record| record.layer)? {
            return Ok(Unpacked::Archive(record.layer));
        }
        let tree = ImageTree::new(self.store.layers(&[fetched])?);
        let path = ImagePath::root().join(file.name.as_bytes());
        let content = match tree.node(&path).map_err(ArchiveError::from)? {
            Some(node) => tree.content(&path, &node).map_err(ArchiveError::from)?,
            None => return Ok(Unpacked::File(fetched)),
        };
        let Some(archive) = archive::open(&content)? else {
            return Ok(Unpacked::File(fetched));
        };
        let layer = self.unpack(archive)?;
        self.remember(&key, &Record { layer }, layer)?;
        Ok(Unpacked::Archive(layer))
    }
}

/// What a fetched file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unpacked {
    /// An archive: the layer of what is in it.
    Archive(DiffId),
    /// Anything else: the layer with the file.
    File(DiffId),
}
