//! Where the bytes of changed files lie when they are too many for memory: flat files in the upper's
//! directory, each named by its inode number.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Error;
use super::data::FileData;

/// A file up to this size, in bytes, is kept in memory.
pub(super) const SMALL: u64 = 16 * 1024;
/// All files in memory together, in bytes.
const MEMORY: u64 = 64 * 1024 * 1024;
/// Flat files held open at a time: well below the usual limit of 1,024 descriptors, which the program shares.
const OPEN: usize = 256;
/// From so many files on, the whole filesystem is synced at once rather than one file after the other.
const MANY: usize = 64;

/// The flat files of one upper.
pub(super) struct FlatFiles {
    directory: PathBuf,
    open: Mutex<Open>,
    in_memory: AtomicU64,
    /// For an upper with a saved state: files that the state may still name; they go when it no longer does.
    keep_until_saved: Option<Mutex<Vec<u64>>>,
}

#[derive(Default)]
struct Open {
    files: HashMap<u64, Arc<File>>,
    order: VecDeque<u64>,
}

impl FlatFiles {
    /// Flat files in `directory`, which exists. With `saved`, the removal of a file waits for
    /// [`Self::discarded`] to be asked for them and [`Self::remove`] to be told.
    pub fn new(directory: PathBuf, saved: bool) -> Self {
        Self {
            directory,
            open: Mutex::default(),
            in_memory: AtomicU64::new(0),
            keep_until_saved: saved.then(Mutex::default),
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn path(&self, ino: u64) -> PathBuf {
        self.directory.join(format!("{ino:x}"))
    }

    /// Takes `bytes` out of the budget for files in memory; false if it is spent.
    pub fn reserve(&self, bytes: u64) -> bool {
        self.in_memory
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= MEMORY)
            })
            .is_ok()
    }

    /// Gives bytes back to the budget.
    pub fn release(&self, bytes: u64) {
        self.in_memory.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Makes the empty file of an inode.
    pub fn create(&self, ino: u64) -> io::Result<Arc<File>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(ino))?;
        let file = Arc::new(file);
        self.remember(ino, &file);
        Ok(file)
    }

    /// The file of an inode, open for reading and writing.
    pub fn open(&self, ino: u64) -> io::Result<Arc<File>> {
        if let Some(file) = self.lock().files.get(&ino) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.path(ino))?);
        self.remember(ino, &file);
        Ok(file)
    }

    /// The file of an inode is needed no longer. What cannot be removed stays until the upper goes.
    pub fn discard(&self, ino: u64) {
        self.lock().files.remove(&ino);
        match &self.keep_until_saved {
            Some(discarded) => discarded.lock().unwrap_or_else(PoisonError::into_inner).push(ino),
            None => self.remove(ino),
        }
    }

    /// What was discarded so far.
    pub fn discarded(&self) -> Vec<u64> {
        let Some(discarded) = &self.keep_until_saved else {
            return Vec::new();
        };
        std::mem::take(&mut discarded.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes the file of an inode.
    pub fn remove(&self, ino: u64) {
        if let Err(error) = std::fs::remove_file(self.path(ino)) {
            tracing::warn!(path = %self.path(ino).display(), %error, "cannot remove a flat file");
        }
    }

    /// Makes new flat files durable: their bytes and their names.
    pub fn sync(&self, files: &[Arc<FileData>]) -> Result<(), Error> {
        let directory = || File::open(&self.directory);
        if files.len() > MANY {
            // The syncs that follow find nothing left to write, and report what failed.
            let all = directory().and_then(|directory| Ok(nix::unistd::syncfs(&directory)?));
            all.map_err(Error::io("sync the upper's filesystem"))?;
        }
        for file in files {
            file.sync()?;
        }
        directory()
            .and_then(|directory| directory.sync_all())
            .map_err(Error::io("sync the upper's files"))
    }

    fn remember(&self, ino: u64, file: &Arc<File>) {
        let mut open = self.lock();
        if open.files.insert(ino, Arc::clone(file)).is_none() {
            open.order.push_back(ino);
        }
        while open.files.len() > OPEN || open.order.len() > 4 * OPEN {
            let Some(oldest) = open.order.pop_front() else {
                break;
            };
            open.files.remove(&oldest);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
