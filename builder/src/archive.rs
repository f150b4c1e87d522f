//! Images as archives: what `docker save`, `podman save`, `skopeo` and BuildKit write, read and written.
//!
//! | form | what tells it | read | written |
//! |---|---|---|---|
//! | docker-archive | `manifest.json` | yes, also with layers behind symbolic links (Docker before 25) | yes |
//! | OCI archive | `index.json`, `oci-layout` | yes, also as Docker 25 and later write it | yes |
//! | OCI image layout | the same, as a directory | yes | yes |
//!
//! What mica writes is always an OCI image layout *and* has Docker's `manifest.json`, as Docker's own archives
//! since version 25: every tool finds its form.

use std::io;
use std::path::PathBuf;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::ingest::IngestError;
use mica_fs::store::StoreError;

use crate::image::ImageError;
use crate::reference::InvalidReference;

mod arrived;
mod coding;
mod docker;
mod layout;
mod load;
mod names;
mod packed;
mod pick;
mod save;
mod scan;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub use coding::{Coding, Compression, Existing};
pub use layout::{LayoutImage, load_from_layout};
pub use load::{Input, Loaded, load};
pub use packed::save_packed;
pub(crate) use pick::Archived;
pub use pick::load_one;
pub use save::{ArchiveFormat, Entry, Settings, save_file, write, write_layout};

/// What archives are made of.
pub(crate) mod parts {
    pub(crate) use super::docker::{DockerImage, MANIFEST_JSON};
    pub(crate) use super::names::{IMAGE_NAME, REF_NAME};
    pub(crate) use super::save::OCI_LAYOUT;
    pub(crate) use super::sink::{Archive, Directory, Sink};
    pub(crate) use super::source::blob_name;
}

/// Why an archive could not be loaded. The store has no image more than before.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("cannot read {what}")]
    Read {
        /// The archive, or a member of it.
        what: String,
        /// What the system, or the decompressor, said.
        source: io::Error,
    },
    /// It is not a tar, or a damaged one.
    #[error("this is no archive of images: {reason}")]
    NotAnArchive {
        /// What it is instead.
        reason: &'static str,
    },
    /// It is a tar without an image.
    #[error("this is no archive of images: it has neither index.json nor manifest.json")]
    NoManifest,
    /// It ends too early.
    #[error("the archive is truncated")]
    Truncated,
    /// Something that the archive itself names is not in it.
    #[error("the archive is not complete: {member} is missing")]
    Missing {
        /// The name of the file that is missing.
        member: String,
    },
    /// A part is larger than it can reasonably be.
    #[error("{member} in the archive is too large: {size} bytes where at most {limit} are read")]
    TooLarge {
        /// The name of the file.
        member: String,
        /// Its size in bytes.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// A part does not have the size that the archive says.
    #[error("the archive is damaged: {member} has {found} bytes instead of {expected}")]
    Size {
        /// The name of the file.
        member: String,
        /// The size it ought to have.
        expected: u64,
        /// The size it has.
        found: u64,
    },
    /// A part does not have the digest that the archive says.
    #[error("the archive is damaged: {member} has the digest {found} instead of {expected}")]
    Digest {
        /// The name of the file.
        member: String,
        /// The digest it ought to have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// A part is not what it should be.
    #[error("{member} in the archive is not valid: {reason}")]
    Invalid {
        /// The name of the file.
        member: String,
        /// What is wrong.
        reason: String,
    },
    /// The image is not for this machine.
    #[error("the archive has no image for {wanted}, only for {available}")]
    Platform {
        /// What was wanted: this machine's platform, unless another was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// No image is meant by the name.
    #[error("the archive has no image {which}, only {available}")]
    Unknown {
        /// The name.
        which: String,
        /// What there is.
        available: String,
    },
    /// It does not say which of several images is meant.
    #[error("the archive has several images: {available}")]
    Several {
        /// What there is.
        available: String,
    },
    /// A layer is not a proper one.
    #[error("the layer {member} in the archive is not valid")]
    Layer {
        /// The name of the file.
        member: String,
        /// What is wrong.
        source: IngestError,
    },
    /// The work directory cannot be written.
    #[error("cannot write the store's work directory")]
    Spool {
        /// What the system said.
        source: io::Error,
    },
    /// A manifest or configuration in the archive is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LoadError {
    fn read(what: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Read {
                what: what.to_owned(),
                source,
            },
        }
    }

    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoManifest => {
                Some("to make an image of a root filesystem in a tarball, use `mica import`".to_owned())
            }
            Self::Truncated | Self::Digest { .. } | Self::Size { .. } | Self::Missing { .. } => {
                Some("copy or download the archive again; nothing was loaded".to_owned())
            }
            Self::Several { .. } => {
                Some("name one behind the archive and a colon, as in a.tar:app:1".to_owned())
            }
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}

/// Why images could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// The archive cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file, or `the archive` for a stream.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name asks for a compression of the archive that is read, but not written.
    #[error("{path}: archives are compressed by gzip or zstd")]
    Packing {
        /// The file.
        path: PathBuf,
    },
    /// A layer cannot be read or compressed.
    #[error("cannot write the layer {layer}")]
    Layer {
        /// The layer.
        layer: DiffId,
        /// What the system said.
        source: io::Error,
    },
    /// An image in the store is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name in the store is none.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

impl SaveError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Packing { .. } => {
                Some("name it .tar.gz or .tar.zst, or write to stdout and compress that".to_owned())
            }
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}
