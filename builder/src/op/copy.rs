//! COPY, and the part of ADD that copies: selecting sources, their digest for the cache key, and putting them
//! into a layer in process, without a mount.

use mica_fs::overlay::{self, Owner};
use mica_fs::path::ImagePath;

use crate::dockerfile::Chmod;
use crate::op::archive;
use crate::tree::TreeError;

pub use place::{make_directory, place_bytes, resolve_in};
pub use sources::{Selected, Sources};
pub use times::Earlier;

mod parents;
mod place;
mod sources;
#[cfg(test)]
mod tests;
mod times;

/// Why a copy fails.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A source that is not there.
    #[error("{path}: not found in {place}")]
    Missing {
        /// As written.
        path: String,
        /// Where it was looked for: `the build context`, `stage "x"`.
        place: String,
    },
    /// The sources are not what the cache key says any more, and so the layer may not be either.
    #[error("{place} changed while it was copied")]
    Changed {
        /// Where the sources are.
        place: String,
    },
    /// A pattern that is none.
    #[error("{pattern}: the pattern is malformed")]
    Pattern {
        /// As written.
        pattern: String,
    },
    /// The destination does not take it.
    #[error("cannot copy {from} to {to}: {reason}")]
    Refused {
        /// The source.
        from: ImagePath,
        /// The destination.
        to: ImagePath,
        /// What is in the way.
        reason: &'static str,
    },
    /// The layer cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The destination.
        path: ImagePath,
        /// What the overlay said.
        source: overlay::Error,
    },
    /// An archive that cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] archive::ArchiveError),
    /// A path with a NUL byte or a name that is too long.
    #[error("{path:?}: {source}")]
    Path {
        /// As written.
        path: String,
        /// What is wrong with it.
        source: mica_fs::path::InvalidPath,
    },
}

/// What ADD does with an archive of the context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Archives {
    /// Copy it as any other file.
    Keep,
    /// Unpack it.
    Unpack,
}

/// How the copies differ from their sources, and where they go.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Destination, absolute; a trailing `/` was noted in `into_directory`.
    pub destination: ImagePath,
    /// Whether the destination is a directory by its spelling (`dir/`, `.`).
    pub into_directory: bool,
    /// `--chown`, resolved.
    pub owner: Option<Owner>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// Whether archives are unpacked.
    pub archives: Archives,
    /// What the same copy made when it was executed last: whatever is the same keeps its time.
    pub earlier: Option<Earlier>,
}

fn clean(path: &str) -> Result<ImagePath, CopyError> {
    ImagePath::clean(path.as_bytes()).map_err(|source| CopyError::Path {
        path: path.to_owned(),
        source,
    })
}

fn write(path: &ImagePath, source: overlay::Error) -> CopyError {
    CopyError::Write {
        path: path.clone(),
        source,
    }
}
