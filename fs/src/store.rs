//! The image store: blobs as an OCI image layout, layers at rest, and the catalog of names and cache records.
//!
//! Blobs and layers are write-once: they are written under `work/`, synced, and published by a rename, so a
//! reader never sees a part of one, and two processes that publish the same object do no harm. What is on disk
//! is described in `docs/format.md`.
//!
//! Several processes may use one store at once. What a process has published or opened stays until its
//! [`Store`] is dropped, whatever another process prunes (see [`lease`]).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use crate::digest::{DiffId, Digest};
use crate::layer::Layer;

mod blobs;
mod builds;
mod cache;
mod catalog;
mod downloads;
mod error;
mod fsck;
mod gc;
mod images;
mod layers;
mod layout;
pub mod lease;
mod remote;
#[cfg(test)]
mod tests;
mod uppers;
mod work;

pub use cache::Lineage;
use catalog::Catalog;
pub use downloads::Download;
pub use error::StoreError;
pub use fsck::{FsckOptions, FsckReport, Problem};
pub use gc::{Policy, Pruned, Reach, ReachError, Space, Usage};
pub use images::ImageRecord;
pub use lease::Lease;
pub use remote::RemoteDirectory;
pub use uppers::{UpperBase, UpperRecord};
pub use work::WorkDir;

/// The version of the store's layout that this program writes, and the newest it reads.
const VERSION: u32 = 1;
const VERSION_FILE: &str = "store.json";
/// Where the builder keeps what it knows of build contexts.
const CONTEXTS: &str = "contexts";

/// An open image store.
pub struct Store {
    root: PathBuf,
    /// Opened when first needed: reading a layer needs no catalog.
    catalog: Mutex<Option<Catalog>>,
    layers: Mutex<HashMap<DiffId, Weak<Layer>>>,
    /// What this store object has published or opened.
    held: Mutex<Option<Lease>>,
}

#[derive(Serialize, Deserialize)]
struct Version {
    version: u32,
}

impl Store {
    /// Opens the store at `root`, and creates it if there is none. Removes what dead processes left in it.
    ///
    /// # Errors
    /// [`StoreError::Version`] if a newer program made the store; [`StoreError::Io`] and [`StoreError::Full`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(VERSION_FILE);
        match fs::read(&path) {
            Ok(text) => check_version(&text, &path)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(root)?,
            Err(e) => return Err(StoreError::io("read", &path, e)),
        }
        let store = Self {
            root: root.to_owned(),
            catalog: Mutex::new(None),
            layers: Mutex::new(HashMap::new()),
            held: Mutex::new(None),
        };
        store.sweep(work::DIRECTORY)?;
        store.sweep(lease::DIRECTORY)?;
        Ok(store)
    }

    /// The file in which the builder keeps what it knows of the build context called `name`. Its directory may be
    /// missing. Anybody may remove it at any time: it saves time, no more.
    pub fn context_file(&self, name: &Digest) -> PathBuf {
        self.root.join(CONTEXTS).join(name.hex())
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Runs `action` on the catalog, which is opened first if need be.
    fn with_catalog<T>(
        &self,
        action: impl FnOnce(&mut Catalog) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut catalog = lock(&self.catalog);
        match &mut *catalog {
            Some(catalog) => action(catalog),
            none => action(none.insert(Catalog::open(&self.root)?)),
        }
    }
}

fn check_version(text: &[u8], path: &Path) -> Result<(), StoreError> {
    let Version { version } = serde_json::from_slice(text).map_err(|source| StoreError::Json {
        path: path.to_owned(),
        source,
    })?;
    if version == VERSION {
        return Ok(());
    }
    Err(StoreError::Version {
        path: path.to_owned(),
        found: version,
        known: VERSION,
    })
}

/// Creates what a store needs; what another process creates at the same time is equal.
fn create(root: &Path) -> Result<(), StoreError> {
    // Image files may be private, and set-user-ID programs of an image are none of this machine's.
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for directory in [
        "",
        "blobs",
        "blobs/sha256",
        "layers",
        lease::DIRECTORY,
        "cache-mounts",
        work::DIRECTORY,
    ] {
        let path = root.join(directory);
        private
            .create(&path)
            .map_err(|e| StoreError::io("create", &path, e))?;
    }
    layout::create(root)?;
    let text = serde_json::to_vec(&Version { version: VERSION }).unwrap_or_default();
    replace(&root.join(VERSION_FILE), &text)
}

/// Locks a mutex. What it guards is valid after every statement, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a small file in place of another, or makes it, in one step.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let failed = |e: tempfile::PersistError| StoreError::io("write", path, e.error);
    written_beside(path, bytes)?.persist(path).map_err(failed)?;
    sync_directory(directory_of(path))
}

/// Makes a small file in one step; one that is there stays.
fn create_new(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    match written_beside(path, bytes)?.persist_noclobber(path) {
        Err(e) if e.error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("write", path, e.error))
        }
        _ => sync_directory(directory_of(path)),
    }
}

fn written_beside(path: &Path, bytes: &[u8]) -> Result<NamedTempFile, StoreError> {
    let failed = |e| StoreError::io("write", path, e);
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(directory_of(path))
        .map_err(failed)?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    Ok(file)
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// Makes a rename in `directory` last.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| StoreError::io("sync", directory, e))
}
