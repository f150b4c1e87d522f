//! Times that stay from one build to the next.
//!
//! The time of a file is seen by the steps that look at it, and a fresh checkout dates every file anew. So a file that is
//! what it was when the same COPY was executed last keeps the time that it had then. A file that has changed gets its own
//! time, and is newer than what was made of the old one.

use std::fmt;
use std::sync::Arc;

use mica_fs::digest::Digest;
use mica_fs::layer::index::EntryId;
use mica_fs::layer::{Kind, Layer, Metadata, Timestamp};
use mica_fs::overlay::Lowers;
use mica_fs::path::ImagePath;

use crate::tree::{Node, TreeError};

/// The layer that a COPY made when it was executed last.
#[derive(Clone)]
pub struct Earlier(Arc<Lowers>);

impl fmt::Debug for Earlier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = self.0.layers().first().map(|layer| layer.diff_id());
        f.debug_tuple("Earlier").field(&layer).finish()
    }
}

/// What a copy has in common with the one before it.
pub struct Kept {
    /// Its time.
    pub time: Timestamp,
    /// Of a file: where its bytes lie already, in one piece with those of its neighbours.
    pub content: Option<(Arc<Layer>, EntryId)>,
}

impl Earlier {
    /// That layer.
    pub fn new(layer: Arc<Layer>) -> Self {
        Self(Arc::new(Lowers::new(vec![layer])))
    }

    /// What `to` keeps, if it had this metadata but for the time, and the content that `digest` tells of a file.
    ///
    /// # Errors
    /// What `digest` reports.
    pub fn kept(
        &self,
        to: &ImagePath,
        metadata: &Metadata,
        node: &Node,
        digest: impl FnOnce() -> Result<Digest, TreeError>,
    ) -> Result<Option<Kept>, TreeError> {
        let Some(found) = self.0.resolve(to).filter(|found| found.kind == node.kind) else {
            return Ok(None);
        };
        let Some(entry) = self.0.entry(found.origin).filter(|entry| !entry.is_implicit()) else {
            return Ok(None);
        };
        let before = self.0.metadata(&found);
        let is_same = (before.mode, before.uid, before.gid) == (metadata.mode, metadata.uid, metadata.gid)
            && before.xattrs == metadata.xattrs
            && match node.kind {
                Kind::File => entry.size() == node.size && entry.digest() == Some(digest()?),
                Kind::Symlink => entry.target() == node.target,
                Kind::CharDevice | Kind::BlockDevice => entry.device() == node.device,
                Kind::Directory | Kind::Fifo | Kind::Socket => true,
            };
        let layer = self.0.layer(found.origin).cloned();
        Ok(is_same.then(|| Kept {
            time: before.mtime,
            content: layer.map(|layer| (layer, found.origin.entry)),
        }))
    }
}
