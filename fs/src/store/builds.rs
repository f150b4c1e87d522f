//! What the builder writes down of its builds: a numbered directory for each. What is in one is the builder's affair, but
//! for the layer of a step that failed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::gc::{on_disk, remove_file};
use super::{Store, StoreError, WorkDir};
use crate::digest::Digest;

pub(super) const DIRECTORY: &str = "builds";
/// Lists of files, which several builds may share.
const SOURCES: &str = "sources";
/// In a build's directory: the layer of its failed step.
const FAILED: &str = "failed";

/// A list is touched before the directory of the build that refers to it is made, but not so long before.
const SLACK: Duration = Duration::from_secs(3600);

/// Which builds stay known.
pub(super) struct Keep {
    /// How many at most.
    pub(super) builds: usize,
    /// How many may have the layer of a failed step.
    pub(super) failed_layers: usize,
    /// Only those from within this time.
    pub(super) age: Duration,
}

impl Keep {
    /// What a new build leaves.
    const NEWEST: Self = Self {
        builds: 100,
        failed_layers: 3,
        age: Duration::MAX,
    };
}

impl Store {
    /// The numbers of the builds that are known, ascending.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn builds(&self) -> Result<Vec<u64>, StoreError> {
        let number = |path: &PathBuf| path.file_name()?.to_str()?.parse().ok();
        let mut numbers: Vec<u64> = entries(&self.builds_path())?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The directory of a build.
    pub fn build_directory(&self, number: u64) -> PathBuf {
        self.builds_path().join(number.to_string())
    }

    /// Where the layer of a build's failed step lies, if there is one.
    pub fn failed_layer(&self, number: u64) -> PathBuf {
        self.build_directory(number).join(FAILED)
    }

    /// The list of files that the builder calls `name`. To be touched when a build refers to it.
    pub fn sources_file(&self, name: &Digest) -> PathBuf {
        self.builds_path().join(SOURCES).join(name.hex())
    }

    /// Publishes what has been written into the work directory as that of a new build, and returns its number. The build
    /// is at work for as long as `work` is held. Older builds are forgotten. Nothing is synced: after a crash of the
    /// machine a build may be damaged.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish_build(&self, work: &WorkDir) -> Result<u64, StoreError> {
        let builds = self.builds_path();
        let failed = |e| StoreError::io("publish a build in", &builds, e);
        fs::create_dir_all(&builds).map_err(failed)?;
        let mut number = self.builds()?.last().map_or(1, |last| last + 1);
        loop {
            match fs::rename(work.path(), self.build_directory(number)) {
                Ok(()) => break,
                // Another process was faster.
                Err(e) if super::layers::is_taken(&e) => number += 1,
                Err(e) => return Err(failed(e)),
            }
        }
        self.forget_builds(&Keep::NEWEST, false)?;
        Ok(number)
    }

    /// Puts the layer of a build's failed step where [`Self::failed_layer`] says.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn publish_failed_layer(&self, number: u64, layer: &WorkDir) -> Result<(), StoreError> {
        let path = self.failed_layer(number);
        fs::rename(layer.path(), &path).map_err(|e| StoreError::io("publish", &path, e))
    }

    /// Whether the process lives that published this build, and has not let go of it.
    pub fn is_at_work(&self, number: u64) -> bool {
        let path = self.build_directory(number);
        path.is_dir() && !super::work::is_abandoned(&path)
    }

    /// Forgets the others, and lists that none of those that stay refers to; returns the bytes that this frees.
    pub(super) fn forget_builds(&self, keep: &Keep, dry_run: bool) -> Result<u64, StoreError> {
        let mut removed = Vec::new();
        let mut oldest = SystemTime::now();
        for (age, number) in self.builds()?.into_iter().rev().enumerate() {
            let path = self.build_directory(number);
            let time = written(&path)?;
            let is_new = time.elapsed().map_or(true, |elapsed| elapsed <= keep.age);
            if (age >= keep.builds || !is_new) && !self.is_at_work(number) {
                removed.push(path);
                continue;
            }
            oldest = oldest.min(time);
            let failed = self.failed_layer(number);
            if age >= keep.failed_layers && failed.is_dir() {
                removed.push(failed);
            }
        }
        for list in entries(&self.builds_path().join(SOURCES))? {
            if written(&list)? + SLACK < oldest {
                removed.push(list);
            }
        }
        let mut bytes = 0;
        for path in &removed {
            bytes += on_disk(path)?.bytes;
            match (dry_run, path.is_dir()) {
                (true, _) => {}
                (false, true) => self.remove_directory(path)?,
                (false, false) => remove_file(path)?,
            }
        }
        Ok(bytes)
    }

    fn builds_path(&self) -> PathBuf {
        self.root.join(DIRECTORY)
    }
}

/// When something was written; now if it is gone.
fn written(path: &Path) -> Result<SystemTime, StoreError> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(SystemTime::now()),
        time => time.map_err(|e| StoreError::io("read", path, e)),
    }
}

/// What is in a directory; nothing if it is not there.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let failed = |e| StoreError::io("read", directory, e);
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
    }
}
