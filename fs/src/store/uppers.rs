//! Named uppers: the changes that writable mounts keep, in `uppers/<name>/`.
//!
//! What an upper holds is the overlay's ([`crate::overlay::Upper`]); here is told which image it belongs to, in
//! `base.json`, so that the image is kept for it and its changes can become an image.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Store, StoreError, create_new, gc};
use crate::digest::{DiffId, Digest};
use crate::overlay::Upper;

pub(super) const DIRECTORY: &str = "uppers";
const BASE: &str = "base.json";
const NAME_MAX: usize = 128;

/// What an upper's changes are changes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpperBase {
    /// The image as it was named.
    pub image: String,
    /// Its manifest.
    pub manifest: Digest,
    /// The layers that are shown below the upper, bottom layer first.
    pub layers: Vec<DiffId>,
}

/// An upper of the store.
#[derive(Debug, Clone)]
pub struct UpperRecord {
    /// Its name.
    pub name: String,
    /// What it belongs to.
    pub base: UpperBase,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last saved.
    pub saved: Option<SystemTime>,
    /// Whether a session has it.
    pub in_use: bool,
}

impl Store {
    /// The upper of that name for a session on `base`; made, and from then on of that base, if there is none.
    ///
    /// # Errors
    /// [`StoreError::UpperName`]; [`StoreError::UpperBase`] if it belongs to other layers; [`StoreError::Io`].
    pub fn upper(&self, name: &str, base: &UpperBase) -> Result<Upper, StoreError> {
        let directory = self.upper_path(name)?;
        let _gate = self.gate_shared()?;
        let path = directory.join(BASE);
        fs::create_dir_all(&directory).map_err(|e| StoreError::io("create", &directory, e))?;
        create_new(&path, &serde_json::to_vec(base).unwrap_or_default())?;
        let found = self.upper_base(name)?;
        if found.layers != base.layers {
            return Err(StoreError::UpperBase {
                name: name.to_owned(),
                image: found.image,
                manifest: found.manifest,
            });
        }
        Ok(Upper::named(&directory))
    }

    /// What the upper of that name belongs to.
    ///
    /// # Errors
    /// [`StoreError::NoUpper`], [`StoreError::UpperName`], [`StoreError::Json`], [`StoreError::Io`].
    pub fn upper_base(&self, name: &str) -> Result<UpperBase, StoreError> {
        let path = self.upper_path(name)?.join(BASE);
        let text = fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NoUpper {
                name: name.to_owned(),
            },
            _ => StoreError::io("read", &path, e),
        })?;
        serde_json::from_slice(&text).map_err(|source| StoreError::Json { path, source })
    }

    /// All uppers, by name.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Json`].
    pub fn uppers(&self) -> Result<Vec<UpperRecord>, StoreError> {
        let root = self.root().join(DIRECTORY);
        let entries = match fs::read_dir(&root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| StoreError::io("read", &root, e))?,
        };
        let mut uppers = Vec::new();
        for entry in entries {
            let name = entry.map_err(|e| StoreError::io("read", &root, e))?.file_name();
            let Some(name) = name.to_str() else { continue };
            match self.upper_base(name) {
                Ok(base) => uppers.push(self.describe_upper(name, base)?),
                // One that is being made, or goes.
                Err(StoreError::NoUpper { .. } | StoreError::UpperName { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        uppers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(uppers)
    }

    fn describe_upper(&self, name: &str, base: UpperBase) -> Result<UpperRecord, StoreError> {
        let directory = self.upper_path(name)?;
        Ok(UpperRecord {
            bytes: gc::on_disk(&directory)?.bytes,
            saved: fs::metadata(directory.join("state"))
                .and_then(|state| state.modified())
                .ok(),
            in_use: self.lock_upper(name)?.is_none(),
            name: name.to_owned(),
            base,
        })
    }

    /// Removes an upper with all its changes.
    ///
    /// # Errors
    /// [`StoreError::NoUpper`], [`StoreError::UpperInUse`], [`StoreError::Io`].
    pub fn remove_upper(&self, name: &str) -> Result<(), StoreError> {
        self.upper_base(name)?;
        let Some(_lock) = self.lock_upper(name)? else {
            return Err(StoreError::UpperInUse {
                name: name.to_owned(),
            });
        };
        self.remove_directory(&self.upper_path(name)?)
    }

    /// The lock of an upper; `None` if a session has it.
    fn lock_upper(&self, name: &str) -> Result<Option<File>, StoreError> {
        let path = self.upper_path(name)?.join("lock");
        let lock = File::create(&path).map_err(|e| StoreError::io("lock", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(lock)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path, e)),
        }
    }

    fn upper_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        if name.is_empty() || name.starts_with('.') || name.len() > NAME_MAX || !name.chars().all(plain) {
            return Err(StoreError::UpperName {
                name: name.to_owned(),
            });
        }
        Ok(self.root().join(DIRECTORY).join(name))
    }
}
