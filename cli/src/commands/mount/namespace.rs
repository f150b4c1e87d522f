//! A mount for one command, in a namespace of its own.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;
use mica_builder::sandbox;
use mica_fs::mount::{self, MountError, Permissions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::{What, explain, watch};
use crate::config::Context;

/// Mounts in a new mount namespace, runs `command` there, and gives its status back as ours.
///
/// # Errors
/// What keeps us from entering a namespace, from mounting, or from starting the command.
pub fn run(
    what: &What,
    directory: Option<PathBuf>,
    command: &[OsString],
    context: &Context,
) -> anyhow::Result<ExitCode> {
    // Before any thread is started: the kernel refuses a user namespace to a process with several.
    sandbox::enter(context.userns())?;
    let store = context.store()?;
    let opened = what.open(&store)?;
    let temporary = match directory {
        None => Some(
            tempfile::Builder::new()
                .prefix("mica-")
                .tempdir()
                .context("cannot make a directory to mount on")?,
        ),
        Some(_) => None,
    };
    let directory = match (&temporary, directory) {
        (Some(temporary), _) => temporary.path().to_owned(),
        (None, directory) => directory.unwrap_or_default(),
    };
    // With a single id, every file is shown as root's: there is nobody else.
    let permissions = sandbox::callers().map_or(Permissions::Kernel, Permissions::Callers);
    let options = what.options(permissions);
    let mounted = mount::kernel(opened.content.clone(), &directory, &options).map_err(explain)?;
    let _watched = watch::start(mounted.place(), None)?;
    let status = run_command(command, mounted.place().directory())?;
    match mounted.unmount() {
        // Processes that the command left behind keep what they have, without a server.
        Err(MountError::Busy { .. } | MountError::Lingering { .. }) => {
            tracing::warn!("processes that the command left behind still use the mount");
        }
        result => result?,
    }
    if what.rw {
        opened.end()?;
    }
    Ok(exit_code(status))
}

fn run_command(command: &[OsString], mount: &std::path::Path) -> anyhow::Result<ExitStatus> {
    let shell = || {
        std::env::var_os("SHELL")
            .filter(|shell| !shell.is_empty())
            .unwrap_or_else(|| "/bin/sh".into())
    };
    let (program, args) = match command.split_first() {
        Some((program, args)) => (program.clone(), args),
        None => (shell(), &[][..]),
    };
    // The terminal sends these to the command too, which decides.
    for signal in [SIGINT, SIGQUIT] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .context("cannot handle signals")?;
    }
    let mut child = Command::new(&program)
        .args(args)
        .env("MICA_MOUNT", mount)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))?;
    forward_signals(&child)?;
    child
        .wait()
        .with_context(|| format!("cannot wait for {}", program.display()))
}

/// Passes on what is sent to us alone.
fn forward_signals(child: &Child) -> anyhow::Result<()> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGHUP]).context("cannot handle signals")?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if let Ok(signal) = Signal::try_from(signal) {
                // It may have ended by itself.
                let _ = kill(pid, signal);
            }
        }
    });
    Ok(())
}

/// As a shell tells it: the status, or 128 and the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or(status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
