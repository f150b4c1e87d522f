//! The mounts of a store: one file each under `$MICA_ROOT/mounts`, locked by its server for as long as it lives.
//!
//! The lock, not the process number, says whether a server is alive: the kernel releases it however the server
//! ends. A record is written aside, locked, and then given its name, so nobody sees it unlocked or half written.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mica_fs::mount::{Means, Place};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::config::Context;

/// What is known of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// The image as it was named.
    pub image: String,
    /// The digest of its manifest; empty for a step of a build.
    pub manifest: String,
    /// Where it is mounted.
    pub directory: PathBuf,
    /// The device number of the mounted filesystem: major, minor.
    pub device: (u32, u32),
    /// Whether `fusermount3` mounted it.
    pub helper: bool,
    /// Whether it can be changed.
    pub writable: bool,
    /// The name under which changes are kept.
    pub upper: Option<String>,
    /// The process that serves it.
    pub pid: u32,
    /// When it was mounted, in seconds since the epoch.
    pub since: i64,
}

impl Record {
    /// The mount it tells of.
    pub fn place(&self) -> Place {
        let means = if self.helper { Means::Helper } else { Means::Kernel };
        Place::new(self.directory.clone(), self.device, means)
    }
}

/// The record of this process's own mount. Dropping it removes the file.
pub struct Published {
    path: PathBuf,
    /// Never dropped: who waits for the lock waits for the end of the process, which cleans up until then.
    _lock: ManuallyDrop<Flock<File>>,
}

impl Published {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the record of a mount");
        }
    }
}

fn directory(context: &Context) -> PathBuf {
    context.root().join("mounts")
}

/// The record of the mount that the process `pid` serves.
pub fn path(context: &Context, pid: u32) -> PathBuf {
    directory(context).join(format!("{pid}.json"))
}

/// Writes the record of this process's mount.
///
/// # Errors
/// If the store cannot be written.
pub fn publish(context: &Context, record: &Record) -> anyhow::Result<Published> {
    let directory = directory(context);
    let path = path(context, record.pid);
    let written = || -> io::Result<Published> {
        fs::create_dir_all(&directory)?;
        let mut file = tempfile::NamedTempFile::new_in(&directory)?;
        file.write_all(serde_json::to_string(record)?.as_bytes())?;
        let lock =
            Flock::lock(file.reopen()?, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        file.persist(&path)?;
        Ok(Published {
            path: path.clone(),
            _lock: ManuallyDrop::new(lock),
        })
    };
    written().with_context(|| format!("cannot write the record {}", path.display()))
}

/// A record found on disk.
pub struct Found {
    /// What it says.
    pub record: Record,
    file: File,
}

impl Found {
    /// Returns when the server has ended, however it does.
    ///
    /// # Errors
    /// What flock(2) reports.
    pub fn wait(self) -> io::Result<()> {
        match Flock::lock(self.file, FlockArg::LockShared) {
            Ok(_) => Ok(()),
            Err((_, error)) => Err(error.into()),
        }
    }
}

/// The mounts that are in their places, oldest first: neither detached nor about to end. See [`living`].
///
/// # Errors
/// If the store cannot be read.
pub fn mounted(context: &Context) -> anyhow::Result<Vec<Found>> {
    let mut found = living(context)?;
    found.retain(|found| found.record.place().is_mounted());
    Ok(found)
}

/// The mounts whose servers live, oldest first. Those of dead servers are unmounted and their records removed.
///
/// # Errors
/// If the store cannot be read.
pub fn living(context: &Context) -> anyhow::Result<Vec<Found>> {
    let mut living = Vec::new();
    let directory = directory(context);
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(living),
        entries => entries.with_context(|| format!("cannot read {}", directory.display()))?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            living.extend(read(&path)?);
        }
    }
    living.sort_by_key(|found| (found.record.since, found.record.pid));
    Ok(living)
}

/// Reads a record; `None` if its server has ended, after cleaning up behind it.
fn read(path: &Path) -> anyhow::Result<Option<Found>> {
    let file = match File::open(path) {
        // Its server has just ended.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let record: Option<Record> = serde_json::from_reader(io::BufReader::new(&file)).ok();
    match (Flock::lock(file, FlockArg::LockSharedNonblock), record) {
        (Err((file, nix::Error::EWOULDBLOCK)), Some(record)) => Ok(Some(Found { record, file })),
        (Ok(_), record) => {
            sweep(path, record.as_ref());
            Ok(None)
        }
        (Err((_, error)), _) => Err(error)
            .with_context(|| format!("cannot tell whether the mount of {} is served", path.display())),
    }
}

/// Cleans up behind a dead server.
fn sweep(path: &Path, record: Option<&Record>) {
    if let Some(record) = record {
        if let Err(error) = record.place().detach() {
            tracing::warn!(%error, "the mount of a dead server stays behind");
            return;
        }
        tracing::info!(directory = %record.directory.display(), "cleaned up behind a dead server");
    }
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(path.with_extension("sock"));
    remove_empty_log(path);
}

/// Removes the log beside a record if it is empty; what was logged stays for the person who asks why.
pub fn remove_empty_log(record: &Path) {
    let log = record.with_extension("log");
    if fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
        let _ = fs::remove_file(&log);
    }
}

/// The path by which a record names `directory`: absolute, its parents without symbolic links. The directory
/// itself is not looked at, since its server may be dead.
pub fn canonical(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
    let parts = absolute.parent().zip(absolute.file_name());
    match parts.and_then(|(parent, name)| Some(parent.canonicalize().ok()?.join(name))) {
        Some(path) if !path.is_symlink() => path,
        _ => absolute.canonicalize().unwrap_or(absolute),
    }
}
