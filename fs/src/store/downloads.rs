//! Blobs on their way from elsewhere: kept when a transfer ends early, so that the next one goes on from there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::gc::{Policy, Pruned};
use super::{Store, StoreError, sync_directory, work};
use crate::digest::{DiffId, Digest};
use crate::sys::writeback::start_write_back;

pub(super) const DIRECTORY: &str = "downloads";

/// After so many bytes the system is told to write them to the disk.
const WRITE_BACK: u64 = 8 << 20;
/// What nobody has gone on with for so long goes with a prune.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// The first bytes of a blob, and the right to add to them. They stay when it is dropped.
#[derive(Debug)]
pub struct Download {
    path: PathBuf,
    /// Locked exclusively.
    file: File,
    length: u64,
    started: u64,
}

impl Download {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads the bytes that are there so far. They may not be what they should be: a crash of the machine can have
    /// spoiled them.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn reader(&self) -> Result<impl Read + Send + use<>, StoreError> {
        let file = File::open(&self.path).map_err(|e| StoreError::io("read", &self.path, e))?;
        Ok(file.take(self.length))
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(|e| StoreError::io("write", &self.path, e))?;
        self.length += bytes.len() as u64;
        if self.length - self.started >= WRITE_BACK {
            start_write_back(&self.file, self.started, self.length - self.started);
            self.started = self.length;
        }
        Ok(())
    }

    /// Forgets all bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clear(&mut self) -> Result<(), StoreError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| StoreError::io("write", &self.path, e))?;
        (self.length, self.started) = (0, 0);
        Ok(())
    }

    /// Forgets the blob.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(self) -> Result<(), StoreError> {
        fs::remove_file(&self.path).map_err(|e| StoreError::io("remove", &self.path, e))
    }
}

impl Store {
    /// Begins to fetch a blob, or goes on where somebody stopped. `None` while somebody else fetches it.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn download(&self, digest: &Digest) -> Result<Option<Download>, StoreError> {
        let directory = self.downloads();
        fs::create_dir_all(&directory).map_err(|e| StoreError::io("create", &directory, e))?;
        let path = directory.join(digest.hex());
        let failed = |e| StoreError::io("open", &path, e);
        loop {
            let mut options = File::options();
            let mut file = options
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(failed)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
            let own = file.metadata().map_err(failed)?;
            // Whoever had the lock may have published or removed the file meanwhile: then it is not this one's.
            let same = |named: fs::Metadata| (named.dev(), named.ino()) == (own.dev(), own.ino());
            if !fs::metadata(&path).is_ok_and(same) {
                continue;
            }
            let length = file.seek(SeekFrom::End(0)).map_err(failed)?;
            let started = length;
            return Ok(Some(Download {
                path,
                file,
                length,
                started,
            }));
        }
    }

    /// Makes a whole download the blob `digest`. The caller has checked that it is.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn publish_download(&self, download: Download, digest: &Digest) -> Result<(), StoreError> {
        let failed = |e| StoreError::io("publish", &download.path, e);
        download.file.sync_all().map_err(failed)?;
        let gate = self.gate_shared()?;
        // A layer's tar keeps its place as blob: another copy would take room twice.
        if self.has_layer(&DiffId(*digest)) && self.has_blob(digest) {
            fs::remove_file(&download.path).map_err(failed)?;
        } else {
            fs::rename(&download.path, self.blob_path(digest)).map_err(failed)?;
            sync_directory(&self.blobs())?;
        }
        self.hold(&gate, &[*digest])
    }

    /// Keeps a blob for the life of this store object. Whether the store has it.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn hold_blob(&self, digest: &Digest) -> Result<bool, StoreError> {
        let gate = self.gate_shared()?;
        let found = self.has_blob(digest);
        if found {
            self.hold(&gate, &[*digest])?;
        }
        Ok(found)
    }

    pub(super) fn downloads(&self) -> PathBuf {
        self.root.join(DIRECTORY)
    }

    /// Removes what nobody has gone on with for a day, or for as long as the policy keeps cache records.
    pub(super) fn remove_downloads(&self, policy: &Policy, pruned: &mut Pruned) -> Result<(), StoreError> {
        let directory = self.downloads();
        if !directory.exists() {
            return Ok(());
        }
        for digest in self.objects(&directory)? {
            let path = directory.join(digest.hex());
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            let written = metadata
                .modified()
                .map_err(|e| StoreError::io("read", &path, e))?;
            let is_young = written
                .elapsed()
                .is_ok_and(|age| age < policy.cache_age.min(KEPT));
            if is_young || !work::is_abandoned(&path) {
                continue;
            }
            pruned.bytes += metadata.blocks() * 512;
            if !policy.dry_run {
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &path, e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
