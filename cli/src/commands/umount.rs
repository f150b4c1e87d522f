//! `mica umount`: end a mount.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mica_fs::mount::{MountError, Place};

use super::mount::explain;
use super::mount::record::{self, Found, Record};
use crate::config::Context;
use crate::diagnostic::{hint, warn};

/// How long the end of a server is waited for in silence.
const SILENCE: Duration = Duration::from_secs(2);

/// Unmount an image
///
/// Returns when everything that was written is saved and the server has ended; if that takes long, says what it
/// waits for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica umount /mnt\n  mica umount --all")]
pub struct Args {
    /// Where it is mounted
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    directory: Vec<PathBuf>,

    /// Unmount all mounts of this store
    #[arg(long, short = 'a')]
    all: bool,

    /// Detach at once even if it is in use; the server ends with the last user
    #[arg(long, short = 'l')]
    lazy: bool,
}

/// Unmounts what is named, going on after a failure; the first failure is the result.
///
/// # Errors
/// A directory that is no mount of this store, or one in use.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let mut living = record::mounted(context)?;
    let mut wanted: Vec<anyhow::Result<Found>> = Vec::new();
    if args.all {
        wanted.extend(living.drain(..).map(Ok));
    }
    for directory in &args.directory {
        let path = record::canonical(directory);
        let found = living.iter().position(|found| found.record.directory == path);
        wanted.push(found.map(|index| living.remove(index)).ok_or_else(|| {
            let error = anyhow!("{} is no mount of this store", directory.display());
            hint(error, "`mica mounts` lists them; $MICA_ROOT chooses the store")
        }));
    }
    let mut first_failure = Ok(ExitCode::SUCCESS);
    for found in wanted {
        if let Err(error) = found.and_then(|found| unmount(found, args.lazy)) {
            match &first_failure {
                Ok(_) => first_failure = Err(error),
                Err(_) => crate::diagnostic::report(&error),
            }
        }
    }
    first_failure
}

fn unmount(found: Found, lazy: bool) -> anyhow::Result<()> {
    let place = found.record.place();
    if lazy {
        return Ok(place.detach()?);
    }
    unmount_patiently(&place).map_err(explain)?;
    let record = found.record.clone();
    let (ended, end) = mpsc::channel::<()>();
    thread::spawn(move || {
        if end.recv_timeout(SILENCE) == Err(RecvTimeoutError::Timeout) {
            warn(&what_keeps(&record));
        }
    });
    let result = found.wait();
    drop(ended);
    result.context("cannot wait for the server of the mount")
}

/// Unmounts. Who just looks at all mounts, as df(1) does, has each of them in use for a moment.
fn unmount_patiently(place: &Place) -> Result<(), MountError> {
    for _ in 0..10 {
        match place.unmount() {
            Err(MountError::Busy { .. }) => thread::sleep(Duration::from_millis(50)),
            result => return result,
        }
    }
    place.unmount()
}

/// Why the server of a mount that is gone from here has not ended.
fn what_keeps(record: &Record) -> String {
    let directory = record.directory.display();
    let keepers: Vec<_> = keepers(record.device)
        .into_iter()
        .map(|(pid, name)| format!("{pid} ({name})"))
        .collect();
    match keepers.is_empty() {
        true => {
            format!("{directory} is unmounted; what was written is still being saved, or a process uses it")
        }
        false => format!(
            "{directory} is unmounted here, but its server ends when other mount namespaces are gone that have it: those \
             of the processes {}",
            keepers.join(", ")
        ),
    }
}

/// Processes, one of each mount namespace, that still have the filesystem with this device number, and their names.
/// Those of other users cannot be looked at.
fn keepers((major, minor): (u32, u32)) -> Vec<(u32, String)> {
    let device = format!("{major}:{minor}");
    let mut namespaces = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/mnt")) else {
            continue;
        };
        namespaces.entry(namespace).or_insert(pid);
    }
    let has_it = |pid: &u32| {
        let mounts = fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
        let mounts = String::from_utf8_lossy(&mounts);
        mounts.lines().any(|line| line.split(' ').nth(2) == Some(&device))
    };
    let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let found = namespaces.into_values().filter(has_it);
    found.map(|pid| (pid, name(pid).trim_end().to_owned())).collect()
}
