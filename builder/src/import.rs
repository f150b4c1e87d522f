//! Images that come from no registry: from a tarball or a directory of a root filesystem, or from programs of this
//! machine.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mica_fs::digest::DiffId;
use mica_fs::layer::ingest::{IngestError, decompress, ingest};
use mica_fs::layer::writer::{LayerWriter, WriteError};
use mica_fs::store::{Store, StoreError};

mod change;
mod directory;
mod elf;
mod host;
mod linker;
mod program;
pub(crate) mod xattr;

pub use change::{ChangeError, change};
pub use directory::DirectoryError;
pub use host::{Host, HostError};

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The tarball cannot be read or decompressed.
    #[error("cannot read the tarball")]
    Read {
        /// What the system, or the decompressor, said.
        source: io::Error,
    },
    /// The tarball is no proper root filesystem.
    #[error("the tarball is not valid")]
    Tarball {
        /// What is wrong.
        source: IngestError,
    },
    /// The directory is no layer.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The layer cannot be written.
    #[error("cannot make a layer of this machine's files")]
    Write {
        /// What is wrong.
        source: WriteError,
    },
    /// A file of this machine cannot be read.
    #[error("cannot read {path}")]
    HostFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImportError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Directory(error) => error.hint().map(str::to_owned),
            _ => None,
        }
    }
}

/// Brings in a tarball of a root filesystem, perhaps compressed, as a layer. It is kept byte for byte.
///
/// # Errors
/// [`ImportError`]; the store has no layer more then.
pub fn tarball(store: &Store, tarball: &mut dyn Read) -> Result<DiffId, ImportError> {
    let work = store.work_dir()?;
    let mut plain = decompress(tarball).map_err(|source| ImportError::Read { source })?;
    let written = ingest(&mut plain, work.path()).map_err(|source| ImportError::Tarball { source })?;
    drop(plain);
    store.publish_layer(work, &written)?;
    Ok(written.diff_id)
}

/// Makes a layer of all that is in a directory, which may be the upper directory of an overlayfs mount: what that says
/// is removed, is removed by the layer.
///
/// # Errors
/// [`ImportError`]; the store has no layer more then.
pub fn directory(store: &Store, directory: &Path) -> Result<DiffId, ImportError> {
    let work = store.work_dir()?;
    let write = |source| ImportError::Write { source };
    let mut writer = LayerWriter::new(work.path()).map_err(write)?;
    directory::add(&mut writer, directory)?;
    let written = writer.finish().map_err(write)?;
    store.publish_layer(work, &written)?;
    Ok(written.diff_id)
}

/// Makes a layer of files of this machine.
///
/// # Errors
/// [`ImportError`]; the store has no layer more then.
pub fn host(store: &Store, host: &Host) -> Result<DiffId, ImportError> {
    let work = store.work_dir()?;
    let write = |source| ImportError::Write { source };
    let mut writer = LayerWriter::new(work.path()).map_err(write)?;
    host.write(&mut writer)?;
    let written = writer.finish().map_err(write)?;
    store.publish_layer(work, &written)?;
    Ok(written.diff_id)
}
