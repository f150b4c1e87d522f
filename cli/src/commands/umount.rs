//! `mica umount`: end a mount.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};

use super::mount::explain;
use super::mount::record::{self, Found};
use crate::config::Context;
use crate::diagnostic::hint;

/// Unmount an image
///
/// Returns when everything that was written is saved and the server has ended.
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
    place.unmount().map_err(explain)?;
    found.wait().context("cannot wait for the server of the mount")
}
