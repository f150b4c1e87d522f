//! Images read where they are: in a registry, without being pulled.
//!
//! A layer is opened by its table of contents, if it carries one (`toc`), else by an index that one pass over it makes
//! (`pass`). Either way it then has the same index as a layer in the store, and a list of chunks (`chunk`) that can be
//! fetched and unpacked each by itself; what was fetched is kept in the store (`bytes`). Layers are opened from the top
//! of the stack on, and only as far down as is needed to tell what lies at a path (`settle`).

use std::io;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::ingest::IngestError;
use mica_fs::store::StoreError;

use crate::registry::{RegistryError, RemoteImageError};

mod blob;
mod bytes;
mod check;
mod chunk;
mod image;
mod inflate;
mod layer;
mod pass;
mod settle;
#[cfg(test)]
mod tests;
mod toc;

pub use blob::Blob;
pub use check::{Checked, check};
pub use image::{LazyImage, Notify};
pub use layer::{Described, open};

/// Why an image in a registry cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The registry does not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no such image, or none that can be used.
    #[error(transparent)]
    Image(#[from] RemoteImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer cannot be read.
    #[error("cannot read the layer {digest} in the registry")]
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// What is wrong.
        source: io::Error,
    },
    /// A blob is no layer.
    #[error("the layer {digest} in the registry cannot be used")]
    Ingest {
        /// The layer's blob.
        digest: Digest,
        /// What is wrong.
        source: IngestError,
    },
    /// A blob is another layer than the image's configuration says.
    #[error("the layer {digest} in the registry has the diff ID {found}; its image says {expected}")]
    DiffId {
        /// The layer's blob.
        digest: Digest,
        /// What the configuration says.
        expected: DiffId,
        /// What it has.
        found: DiffId,
    },
}

impl LazyError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}

/// What takes longer than it should have to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A layer without a table of contents is read once from its beginning to its end.
    Pass {
        /// The layer's blob.
        layer: Digest,
        /// Its size.
        bytes: u64,
    },
    /// So much of such a layer was read.
    Passing {
        /// The layer's blob.
        layer: Digest,
        /// How many of its bytes have come.
        done: u64,
    },
    /// The registry gives whole blobs only: layers are taken into the store.
    NoRanges,
}
