//! Leases: what a live process needs is not pruned.
//!
//! A lease is a file that lists digests, one a line, and that its owner holds locked (flock(2)). The lock ends
//! with the process, however it ends, and is seen across PID namespaces. Prune reads the leases and removes
//! objects while it holds the gate's lock exclusively; whoever publishes or leases an object holds it shared.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::{Store, StoreError, lock, work};
use crate::digest::{DiffId, Digest};

pub(super) const DIRECTORY: &str = "leases";

/// Keeps objects from being pruned until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    file: File,
}

impl Lease {
    fn new(root: &Path) -> Result<Self, StoreError> {
        let directory = root.join(DIRECTORY);
        let failed = |e| StoreError::io("create a lease in", &directory, e);
        let (file, path) = tempfile::Builder::new()
            .prefix(&format!("{}-", std::process::id()))
            .tempfile_in(&directory)
            .map_err(failed)?
            .keep()
            .map_err(|e| failed(e.error))?;
        file.lock().map_err(failed)?;
        Ok(Self { path, file })
    }

    fn add(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        let lines: String = digests.iter().map(|digest| format!("{digest}\n")).collect();
        self.file
            .write_all(lines.as_bytes())
            .map_err(|e| StoreError::io("write", &self.path, e))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), error = %e, "cannot remove a lease");
        }
    }
}

/// The right to publish and lease objects, or, exclusively, to remove them.
pub(super) struct Gate(#[expect(dead_code, reason = "the lock ends when the file is closed")] File);

impl Store {
    /// Keeps the layers until the lease is dropped.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`] if one is missing.
    pub fn lease(&self, layers: &[DiffId]) -> Result<Lease, StoreError> {
        let _gate = self.gate_shared()?;
        let mut lease = Lease::new(&self.root)?;
        lease.add(&layers.iter().map(|diff_id| diff_id.0).collect::<Vec<_>>())?;
        match layers.iter().find(|diff_id| !self.has_layer(diff_id)) {
            Some(diff_id) => Err(StoreError::NoLayer { diff_id: *diff_id }),
            None => Ok(lease),
        }
    }

    /// Keeps objects for the life of this store object. The caller holds the gate.
    pub(super) fn hold(&self, _gate: &Gate, digests: &[Digest]) -> Result<(), StoreError> {
        if digests.is_empty() {
            return Ok(());
        }
        let mut held = lock(&self.held);
        match &mut *held {
            Some(lease) => lease.add(digests),
            none => none.insert(Lease::new(&self.root)?).add(digests),
        }
    }

    pub(super) fn gate_shared(&self) -> Result<Gate, StoreError> {
        self.gate(File::lock_shared)
    }

    pub(super) fn gate_exclusive(&self) -> Result<Gate, StoreError> {
        self.gate(File::lock)
    }

    fn gate(&self, take: fn(&File) -> std::io::Result<()>) -> Result<Gate, StoreError> {
        let path = self.root.join(DIRECTORY);
        File::open(&path)
            .and_then(|file| take(&file).map(|()| Gate(file)))
            .map_err(|e| StoreError::io("lock", &path, e))
    }

    /// What live processes hold. Leases of dead ones are removed.
    pub(super) fn leased(&self, _exclusive: &Gate) -> Result<Vec<Digest>, StoreError> {
        let directory = self.root.join(DIRECTORY);
        let failed = |e| StoreError::io("read", &directory, e);
        let mut digests = Vec::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if work::is_abandoned(&path) {
                fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
                continue;
            }
            match fs::read_to_string(&path) {
                Ok(text) => digests.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok())),
                // Dropped a moment ago.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("read", &path, e)),
            }
        }
        Ok(digests)
    }
}
