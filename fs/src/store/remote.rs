//! What is known of layers that lie in a registry: for each blob a directory with the layer's index and whatever else
//! the builder keeps there. It saves time and requests; it may be removed whenever nobody uses it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::gc::on_disk;
use super::{Policy, Pruned, Store, StoreError, WorkDir, sync_directory};
use crate::digest::Digest;

pub(super) const DIRECTORY: &str = "remote";
/// How long a directory that nobody uses is kept, if cache records are kept for longer.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The directory of a layer in a registry. It stays as long as this value lives.
#[derive(Debug)]
pub struct RemoteDirectory {
    path: PathBuf,
    _lock: File,
}

impl RemoteDirectory {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// The directory of the layer with this blob; `None` if nothing is known of it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remote_directory(&self, blob: &Digest) -> Result<Option<RemoteDirectory>, StoreError> {
        let path = self.remote_path(blob);
        let failed = |e| StoreError::io("open", &path, e);
        loop {
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(failed(e)),
            };
            lock.lock_shared().map_err(failed)?;
            // A prune may have taken it away before it was locked.
            let locked = lock.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == (locked.dev(), locked.ino())) {
                // When it was used last.
                lock.set_modified(std::time::SystemTime::now()).map_err(failed)?;
                return Ok(Some(RemoteDirectory { path, _lock: lock }));
            }
        }
    }

    /// Publishes what the work directory holds as that of the layer with this blob. If another process was first, its
    /// directory stays.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn publish_remote_directory(
        &self,
        blob: &Digest,
        work: WorkDir,
    ) -> Result<RemoteDirectory, StoreError> {
        let place = self.remote_path(blob);
        let failed = |e| StoreError::io("publish", &place, e);
        let all = self.root.join(DIRECTORY);
        fs::create_dir_all(&all).map_err(failed)?;
        let ready = work.path().join("publish");
        fs::create_dir(&ready).map_err(failed)?;
        for entry in fs::read_dir(work.path()).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path != ready
                && let Some(name) = path.file_name()
            {
                fs::rename(&path, ready.join(name)).map_err(failed)?;
            }
        }
        sync_directory(&ready)?;
        match fs::rename(&ready, &place) {
            Ok(()) => sync_directory(&all)?,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) => {}
            Err(e) => return Err(failed(e)),
        }
        let published = self.remote_directory(blob)?;
        published.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    /// Removes the directory of the layer with this blob, if nobody uses it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove_remote_directory(&self, blob: &Digest) -> Result<(), StoreError> {
        self.take_remote_directory(&self.remote_path(blob)).map(drop)
    }

    /// Removes the directories that nobody uses, and nobody has used for a day, or for as long as the policy keeps cache
    /// records.
    pub(super) fn prune_remote(&self, policy: &Policy, pruned: &mut Pruned) -> Result<(), StoreError> {
        for blob in self.remote_blobs()? {
            let path = self.remote_path(&blob);
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| used.elapsed().is_ok_and(|age| age < policy.cache_age.min(KEPT))) {
                continue;
            }
            let bytes = on_disk(&path)?.bytes;
            let gone = match policy.dry_run {
                true => is_unused(&path)?,
                false => self.take_remote_directory(&path)?,
            };
            if gone {
                pruned.remote.count += 1;
                pruned.remote.bytes += bytes;
                pruned.bytes += bytes;
            }
        }
        Ok(())
    }

    fn take_remote_directory(&self, path: &Path) -> Result<bool, StoreError> {
        let failed = |e| StoreError::io("remove", path, e);
        let lock = match File::open(path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        match lock.try_lock() {
            Ok(()) => self.remove_directory(path).map(|()| true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(failed(e)),
        }
    }

    /// The blobs that something is known of.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remote_blobs(&self) -> Result<Vec<Digest>, StoreError> {
        let directory = self.root.join(DIRECTORY);
        match directory.is_dir() {
            true => self.objects(&directory),
            false => Ok(Vec::new()),
        }
    }

    fn remote_path(&self, blob: &Digest) -> PathBuf {
        self.root.join(DIRECTORY).join(blob.hex())
    }
}

/// Whether nobody has the directory open.
fn is_unused(path: &Path) -> Result<bool, StoreError> {
    let failed = |e| StoreError::io("read", path, e);
    match File::open(path).map_err(failed)?.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(failed(e)),
    }
}
