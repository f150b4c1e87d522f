//! A mount in the host's mount namespace and the process that serves it.
//!
//! The process has one thread until everything is done that needs the machine; then it is restricted to the store, and
//! the threads that serve are started. From there on it cannot unmount, which the watcher does for it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use mica_fs::digest::Digest;
use mica_fs::mount::{self, Attached, Content, Means, MountError, Permissions, Place};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::record::{self, Record};
use super::watch::{self, Order, Watched};
use super::{What, confine, control, explain};
use crate::config::Context;
use crate::sys;

/// What the background server says on its stdout when the mount answers.
const READY: &[u8] = b"ready\n";

/// Starts a server that goes on in the background: a copy of this process, which has done nothing yet. Returns when the
/// mount answers, and in the server when it has ended.
///
/// # Errors
/// If the server cannot be started. What keeps it from mounting is its own error, on the same stderr.
pub fn background(what: &What, directory: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    let server = match sys::fork().context("cannot start the server of the mount")? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(reader);
            nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
            nix::unistd::dup2_stdout(&writer)?;
            drop(writer);
            return serve_alone(what, directory, context);
        }
    };
    drop(writer);
    let mut said = Vec::new();
    reader.take(READY.len() as u64).read_to_end(&mut said)?;
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    match waitpid(server, None).context("cannot wait for the server of the mount")? {
        WaitStatus::Exited(..) => Ok(ExitCode::FAILURE),
        status => anyhow::bail!("the server of the mount ended: {status:?}"),
    }
}

/// The background server's life.
fn serve_alone(what: &What, directory: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    // A terminal that is closed shall not end it.
    nix::unistd::setsid().context("cannot leave the session")?;
    let directory = std::path::absolute(directory)?;
    std::env::set_current_dir("/")?;
    let log = context
        .root()
        .join("mounts")
        .join(format!("{}.log", std::process::id()));
    let log_file = log.clone();
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let result = serve(what, &directory, context, move || go_quiet(&log_file, &null));
    record::remove_empty_log(&log);
    result
}

/// Tells the starting process that the mount answers, and lets go of its streams.
fn go_quiet(log: &Path, null: &File) -> anyhow::Result<()> {
    let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    nix::unistd::dup2_stderr(&log)?;
    // If the process that started this one is gone, nobody wants the mount.
    let mut stdout = std::io::stdout();
    stdout
        .write_all(READY)
        .and_then(|()| stdout.flush())
        .context("nobody waits for this mount any more")?;
    nix::unistd::dup2_stdout(null)?;
    Ok(())
}

/// Serves in this process until unmounted or interrupted.
///
/// # Errors
/// What keeps it from mounting, or how the session failed.
pub fn foreground(what: &What, directory: &Path, context: &Context) -> anyhow::Result<ExitCode> {
    serve(what, directory, context, || Ok(()))
}

/// Mounts, calls `ready`, and serves until the mount is gone.
fn serve(
    what: &What,
    directory: &Path,
    context: &Context,
    ready: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    // Clean up behind dead servers first: one of them may still have the directory.
    record::living(context)?;
    let store = context.store()?;
    let opened = what.open(&store)?;
    let is_elsewhere = opened.content.is_elsewhere();
    let mut attached = attach_as_allowed(what, opened.content.clone(), directory).map_err(explain)?;
    let published = record::publish(context, &record_of(what, opened.manifest, attached.place()))?;
    let changed = opened.overlay().filter(|_| what.rw);
    let socket = changed.map(|_| control::bind(published.path())).transpose()?;
    let watched = Arc::new(watch::start(attached.place(), Some(published.path()))?);
    attached.leave();
    let answer = || -> anyhow::Result<()> {
        // What is read in a registry needs the network, certificates, and programs that know passwords.
        if !is_elsewhere {
            confine::to_store(context.root());
        }
        if let Some((socket, overlay)) = socket.as_ref().zip(changed) {
            socket.answer(Arc::clone(&store), Arc::clone(overlay))?;
        }
        unmount_on_signal(Arc::downgrade(&watched))?;
        let mounted = attached.serve().map_err(explain)?;
        ready()?;
        Ok(mounted.wait()?)
    };
    let ended = answer();
    match ended {
        Ok(()) => watched.dismiss(),
        Err(_) => unmount(&watched),
    }
    if what.rw {
        opened.end()?;
    }
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// As root by mount(2), with the kernel checking permissions for everybody; otherwise through fusermount3,
/// for the user alone.
fn attach_as_allowed(what: &What, content: Content, directory: &Path) -> Result<Attached, MountError> {
    let (means, permissions) = match nix::unistd::geteuid().is_root() {
        true => (Means::Kernel, Permissions::Kernel),
        false => (Means::Helper, Permissions::Owner),
    };
    mount::attach(means, content, directory, &what.options(permissions))
}

fn record_of(what: &What, manifest: Option<Digest>, place: &Place) -> Record {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Record {
        image: what.image.clone(),
        manifest: manifest.map(|digest| digest.to_string()).unwrap_or_default(),
        directory: place.directory().to_owned(),
        device: place.device(),
        helper: place.means() == Means::Helper,
        writable: what.rw,
        upper: what.upper.clone(),
        pid: std::process::id(),
        since: i64::try_from(since.as_secs()).unwrap_or_default(),
    }
}

/// On SIGINT, SIGTERM and SIGHUP unmounts, lazily if the mount is in use: who uses it may finish. A second
/// signal ends the process at once.
fn unmount_on_signal(watched: Weak<Watched>) -> anyhow::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot wait for signals")?;
    std::thread::spawn(move || {
        for (number, signal) in signals.forever().enumerate() {
            // Without it the mount is gone, and the process about to end.
            let watched = watched.upgrade();
            if number > 0 {
                if let Some(watched) = watched {
                    let _ = watched.order(Order::Detach);
                }
                std::process::exit(128 + signal);
            }
            if let Some(watched) = watched {
                unmount(&watched);
            }
        }
    });
    Ok(())
}

fn unmount(watched: &Watched) {
    if let Err(error) = watched.order(Order::Unmount) {
        tracing::error!(%error, "cannot unmount");
    }
}
