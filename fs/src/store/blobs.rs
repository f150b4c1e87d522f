//! Blobs: bytes by digest, as an OCI image layout keeps them.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::{Store, StoreError, sync_directory};
use crate::digest::{DiffId, Digest, Hashing};

impl Store {
    /// Stores `bytes`, and returns their digest.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let digest = Digest::of(bytes);
        {
            let gate = self.gate_shared()?;
            if self.has_blob(&digest) {
                self.hold(&gate, &[digest])?;
                return Ok(digest);
            }
        }
        self.import_blob(&mut &bytes[..], Some((digest, bytes.len() as u64)))?;
        Ok(digest)
    }

    /// Stores what `from` gives, and returns its digest and size. If a digest and a size are expected, other
    /// bytes are refused, and never more than one byte above that size is read.
    ///
    /// # Errors
    /// [`StoreError::Digest`] and [`StoreError::Size`] if other bytes come than expected;
    /// [`StoreError::Incoming`] if `from` fails.
    pub fn import_blob(
        &self,
        from: &mut dyn Read,
        expected: Option<(Digest, u64)>,
    ) -> Result<(Digest, u64), StoreError> {
        let work = self.work_dir()?;
        let path = work.path().join("blob");
        let failed = |e| StoreError::io("write", &path, e);
        let file = File::create_new(&path).map_err(failed)?;
        let limit = expected.map_or(u64::MAX, |(_, size)| size.saturating_add(1));
        let mut to = Hashing::new(file);
        copy(&mut from.take(limit), &mut to, failed)?;
        let (file, digest, size) = to.finish();
        if let Some((expected_digest, expected_size)) = expected {
            let what = format!("the blob {expected_digest}");
            if size != expected_size {
                return Err(StoreError::Size {
                    what,
                    expected: expected_size,
                    found: size,
                });
            }
            if digest != expected_digest {
                return Err(StoreError::Digest {
                    what,
                    expected: expected_digest,
                    found: digest,
                });
            }
        }
        drop(file);
        self.publish_blob(&path, &digest)?;
        Ok((digest, size))
    }

    /// Makes a file of a work directory a blob. The caller has verified that its bytes have this digest.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn publish_blob(&self, file: &Path, digest: &Digest) -> Result<(), StoreError> {
        File::open(file)
            .and_then(|open| open.sync_all())
            .map_err(|e| StoreError::io("sync", file, e))?;
        let gate = self.gate_shared()?;
        let place = self.blob_path(digest);
        // A layer's tar keeps its place as blob: another copy would take room twice.
        if !(self.has_layer(&DiffId(*digest)) && self.has_blob(digest)) {
            fs::rename(file, &place).map_err(|e| StoreError::io("write", &place, e))?;
            sync_directory(&self.blobs())?;
        }
        self.hold(&gate, &[*digest])
    }

    /// The bytes of a blob of at most `limit` bytes, after their digest has been checked.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::TooLarge`], and [`StoreError::Digest`] if the blob is damaged.
    pub fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, StoreError> {
        let file = self.open_blob(digest)?;
        let failed = |e| StoreError::io("read", &self.blob_path(digest), e);
        let size = file.metadata().map_err(failed)?.len();
        if size > limit {
            let digest = *digest;
            return Err(StoreError::TooLarge { digest, size, limit });
        }
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
        match Digest::of(&bytes) {
            found if found == *digest => Ok(bytes),
            found => Err(StoreError::Digest {
                what: format!("the blob {digest} of the store"),
                expected: *digest,
                found,
            }),
        }
    }

    /// Opens a blob for reading. Its bytes are not checked.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] and [`StoreError::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<File, StoreError> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NoBlob { digest: *digest },
            _ => StoreError::io("read", &path, e),
        })
    }

    /// Whether the store has the blob.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }
}

/// As [`io::copy`], with errors that tell the two sides apart.
fn copy(
    from: &mut dyn Read,
    to: &mut Hashing<File>,
    failed: impl Fn(io::Error) -> StoreError,
) -> Result<(), StoreError> {
    let mut buffer = vec![0; 1 << 18];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                to.write_all(&buffer[..n]).map_err(&failed)?;
                bytes += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(StoreError::Incoming { bytes, source }),
        }
    }
}
