//! Directories for what is being written, and the removal of those whose process died.
//!
//! A live owner holds a lock (flock(2)) on its directory; the system drops the lock with the process, also in
//! another PID namespace or after a crash. Between creating a directory and locking it the owner holds a shared
//! lock on `work/` itself, which a sweep needs exclusively.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::{Store, StoreError};

pub(super) const DIRECTORY: &str = "work";

/// A directory of its own, removed with all it holds when it is dropped.
#[derive(Debug)]
pub struct WorkDir {
    path: PathBuf,
    _lock: File,
}

impl WorkDir {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

impl Store {
    /// A new empty directory in the file system of the store.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn work_dir(&self) -> Result<WorkDir, StoreError> {
        let work = self.root.join(DIRECTORY);
        let failed = |e| StoreError::io("create a directory in", &work, e);
        let gate = File::open(&work).map_err(failed)?;
        gate.lock_shared().map_err(failed)?;
        let path = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempdir_in(&work)
            .map_err(failed)?
            .keep();
        let lock = File::open(&path)
            .and_then(|lock| lock.lock().map(|()| lock))
            .map_err(failed)?;
        Ok(WorkDir { path, _lock: lock })
    }

    /// Removes what is in `directory` (`work` or `leases`) and whose owner is dead. Does nothing while another
    /// process creates something there.
    pub(super) fn sweep(&self, directory: &str) -> Result<(), StoreError> {
        let directory = self.root.join(directory);
        let failed = |e| StoreError::io("read", &directory, e);
        let mut entries = fs::read_dir(&directory).map_err(failed)?.peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let gate = File::open(&directory).map_err(failed)?;
        match gate.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            if is_abandoned(&path) {
                tracing::info!(path = %path.display(), "removing what a dead process left");
                remove(&path);
            }
        }
        Ok(())
    }
}

/// Whether nobody holds the lock on `path`.
pub(super) fn is_abandoned(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn remove(path: &Path) {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), error = %e, "cannot remove a work directory");
        }
        _ => {}
    }
}
