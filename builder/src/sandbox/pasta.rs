//! pasta: a step's own network namespace, with the world behind it by the sockets of an unprivileged process
//! (<https://passt.top>).
//!
//! Nothing on the machine's loopback interface can be reached from inside, and nothing inside from outside.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::SandboxError;
use super::{doctor, network, sys};

/// The program's name; the Debian package is `passt`.
pub(super) const PROGRAM: &str = "pasta";

/// No port of either side is forwarded to the other, and the gateway's address is not the machine's loopback.
const ISOLATED: &[&str] = &[
    "--no-map-gw",
    "--tcp-ports=none",
    "--udp-ports=none",
    "--tcp-ns=none",
    "--udp-ns=none",
];

/// pasta at work for one step. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Pasta {
    /// Stands between: it ends pasta when this process ends.
    keeper: Child,
    process: Option<OwnedFd>,
}

impl Pasta {
    /// Connects a network namespace. On return its interface is configured.
    ///
    /// The thread that calls this must live as long as the value.
    ///
    /// # Errors
    /// [`SandboxError::NoPasta`], [`SandboxError::Pasta`].
    pub(super) fn connect(namespace: BorrowedFd<'_>) -> Result<Self, SandboxError> {
        let program = doctor::find_program(PROGRAM).ok_or(SandboxError::NoPasta)?;
        let failed = |error: io::Error| SandboxError::Pasta {
            message: error.to_string(),
        };
        let mut errors = tempfile::tempfile().map_err(failed)?;
        // It opens the namespace by name after it has given up the right to look into other processes.
        let place = Place::of(namespace).map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["--foreground", "--quiet", "--config-net", "--no-netns-quit"])
            .args(ISOLATED)
            .args(["--dns-forward", network::FORWARDED_DNS])
            // In this user namespace as what this process is: root, whom it would else make nobody.
            .args(["--netns-only", "--runas", "0:0"])
            .arg("--netns")
            .arg(place.file.path())
            // It writes its id when all is ready.
            .args(["--pid", "/proc/self/fd/1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().map_err(failed)?);
        sys::end_with_parent(&mut command);
        let mut keeper = command.spawn().map_err(failed)?;
        let mut line = String::new();
        let read = keeper
            .stdout
            .take()
            .map(|pipe| BufReader::new(pipe).read_line(&mut line));
        let process = line
            .trim()
            .parse()
            .ok()
            .and_then(|id| sys::pidfd_open(Pid::from_raw(id)).ok());
        let pasta = Self { keeper, process };
        match (&pasta.process, read) {
            (Some(_), Some(Ok(_))) => Ok(pasta),
            _ => {
                // Ends it, so that all of its words are there.
                drop(pasta);
                Err(SandboxError::Pasta {
                    message: words(&mut errors).unwrap_or_else(|error| error.to_string()),
                })
            }
        }
    }
}

impl Drop for Pasta {
    fn drop(&mut self) {
        let mut end = || -> io::Result<()> {
            kill(Pid::from_raw(self.keeper.id().cast_signed()), Signal::SIGTERM)?;
            self.keeper.wait()?;
            if let Some(process) = &self.process {
                // Someone may have killed the keeper.
                sys::pidfd_signal(process, libc::SIGKILL)?;
            }
            Ok(())
        };
        if let Err(error) = end() {
            tracing::warn!("cannot end {PROGRAM}: {error}");
        }
    }
}

/// What it said, but for its complaints about a missing syslog.
fn words(errors: &mut File) -> io::Result<String> {
    let mut text = String::new();
    errors.rewind()?;
    errors.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| !line.ends_with("to syslog"));
    let words = lines.collect::<Vec<_>>().join("; ");
    Ok(match words.is_empty() {
        true => "it ended without a word".to_owned(),
        false => words,
    })
}

/// A name for a network namespace, in this process's mount namespace; it goes when this is dropped.
struct Place {
    file: tempfile::NamedTempFile,
}

impl Place {
    fn of(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        let source = Some(Path::new(&source));
        mount(source, file.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(Self { file })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(errno) = umount2(self.file.path(), MntFlags::MNT_DETACH) {
            tracing::warn!(path = %self.file.path().display(), "cannot unmount: {errno}");
        }
    }
}
