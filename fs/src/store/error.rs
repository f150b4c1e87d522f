//! What can go wrong with the store.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Digest};
use crate::layer::index::IndexError;
use crate::layer::ingest::IngestError;

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store cannot be used.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: `read`, `write`, `create`...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room, or the quota is used up.
    #[error(
        "the disk that holds {path} is full: `mica prune` frees what no image needs, or set MICA_ROOT to another disk"
    )]
    Full {
        /// The file that could not be written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store was made by another version of mica.
    #[error(
        "{path} says version {found}, but this mica knows version {known}: use a newer mica, or another MICA_ROOT"
    )]
    Version {
        /// What has that version.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// A file of the store is no valid JSON, or not what it should be.
    #[error("{path} is damaged")]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The catalog cannot be used.
    #[error("cannot use the catalog {path}: `mica fsck --rebuild` makes it anew")]
    Catalog {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The store has no such blob.
    #[error("the store has no blob {digest}")]
    NoBlob {
        /// Its digest.
        digest: Digest,
    },
    /// The store has no such layer.
    #[error("the store has no layer {diff_id}")]
    NoLayer {
        /// Its diff ID.
        diff_id: DiffId,
    },
    /// Bytes are not those that were announced.
    #[error("{what} has the digest {found} instead of {expected}: it is damaged or not the right one")]
    Digest {
        /// What was read.
        what: String,
        /// The digest that was announced.
        expected: Digest,
        /// The digest of the bytes.
        found: Digest,
    },
    /// The number of bytes is not what was announced.
    #[error("{what} has {found} bytes or more instead of {expected}")]
    Size {
        /// What was read.
        what: String,
        /// The size that was announced.
        expected: u64,
        /// The number of bytes that came, as far as they were read.
        found: u64,
    },
    /// A blob is larger than the caller wants to have in memory.
    #[error("the blob {digest} has {size} bytes, more than the {limit} that such a blob may have")]
    TooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The incoming stream of a blob failed.
    #[error("cannot read the incoming blob after {bytes} bytes")]
    Incoming {
        /// What came before.
        bytes: u64,
        /// What the reader said.
        source: io::Error,
    },
    /// A layer cannot be taken in.
    #[error(transparent)]
    Ingest(IngestError),
    /// A layer of the store cannot be opened.
    #[error("the layer {diff_id} is damaged: `mica fsck` tells more and mends its index")]
    Layer {
        /// Its diff ID.
        diff_id: DiffId,
        /// What is wrong.
        source: IndexError,
    },
    /// It cannot name an upper.
    #[error("{name:?} cannot name an upper: use letters, digits, '_', '-' and '.'")]
    UpperName {
        /// The name.
        name: String,
    },
    /// The store has no such upper.
    #[error("there is no upper {name:?}")]
    NoUpper {
        /// Its name.
        name: String,
    },
    /// The upper belongs to an image of other layers.
    #[error("the upper {name:?} belongs to another image: {image} ({manifest})")]
    UpperBase {
        /// Its name.
        name: String,
        /// The image that it belongs to, as it was named.
        image: String,
        /// That image's manifest.
        manifest: Digest,
    },
    /// A session has the upper.
    #[error("the upper {name:?} is in use")]
    UpperInUse {
        /// Its name.
        name: String,
    },
    /// The caller could not tell what an image needs, so nothing was removed.
    #[error("cannot tell what the image {manifest} needs; nothing was removed")]
    Reach {
        /// The image's manifest.
        manifest: Digest,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// An error of the system about `path`.
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Io { action, path, source },
        }
    }

    /// An error of SQLite about the catalog.
    pub(super) fn catalog(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        if source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull) {
            let source = io::Error::new(io::ErrorKind::StorageFull, source);
            return Self::Full { path, source };
        }
        Self::Catalog { path, source }
    }
}

impl From<IngestError> for StoreError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::Write { path, source } => Self::io("write", &path, source),
            other => Self::Ingest(other),
        }
    }
}
