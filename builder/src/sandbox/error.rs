//! What can go wrong around a step, as opposed to in its command.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A failure to isolate, start or follow a command. The command's own failure is no error here: it
/// is an [`Exit`](super::Exit).
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// Namespaces were to be inherited, but the process lacks CAP_SYS_ADMIN.
    #[error("this needs root (CAP_SYS_ADMIN), which the process does not have")]
    NotPrivileged,

    /// The kernel refused a user namespace.
    #[error("cannot create a user namespace: {}", .errno.desc())]
    UserNamespace {
        /// What `unshare(2)` answered.
        errno: Errno,
        /// What most likely forbids it, and the command that mends it.
        remedy: Option<String>,
    },

    /// A user namespace was made, but the process has no capabilities in it.
    #[error("user namespaces have no privileges here: {}", .errno.desc())]
    UserNamespaceRestricted {
        /// What `unshare(2)` of a mount namespace answered.
        errno: Errno,
    },

    /// The user owns no subordinate ids.
    #[error("no subordinate ids for user {user} in {file}")]
    NoSubordinateIds {
        /// Login name, or the number where it has none.
        user: String,
        /// `/etc/subuid` or `/etc/subgid`.
        file: &'static str,
        /// The command that gives them.
        remedy: String,
    },

    /// `newuidmap` or `newgidmap` is not installed.
    #[error("{program} is not installed")]
    HelperMissing {
        /// The program's name.
        program: &'static str,
    },

    /// The ids of a user namespace could not be mapped.
    #[error("{by} failed: {message}")]
    NotMapped {
        /// `newuidmap`, `newgidmap`, or what mica did itself.
        by: String,
        /// What was written on stderr, or an exit status.
        message: String,
    },

    /// The root directory is not a mount, so its mounts cannot be made private nor left.
    #[error("the root directory is not a mount point: is this a chroot?")]
    RootNotMounted,

    /// A system call of [`enter`](super::enter) failed.
    #[error("cannot {action}: {}", .errno.desc())]
    Enter {
        /// What was being done.
        action: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },

    /// A control group of its own cannot be made for a step.
    #[error("cannot make a control group{}: {source}", below(.parent.as_deref()))]
    Cgroup {
        /// What the user named.
        parent: Option<PathBuf>,
        /// Why not.
        source: io::Error,
    },

    /// pasta is not installed.
    #[error("this network needs pasta, which is not installed")]
    NoPasta,

    /// pasta cannot connect a step's network.
    #[error("pasta cannot connect the step's network: {message}")]
    Pasta {
        /// What it said.
        message: String,
    },

    /// A NUL byte where the kernel takes C strings.
    #[error("{what} {value:?} contains a NUL byte")]
    Nul {
        /// "argument", "variable", "path".
        what: &'static str,
        /// The offending value.
        value: OsString,
    },

    /// There is no program to run.
    #[error("the command is empty")]
    EmptyCommand,

    /// A path that must be absolute in the image is not.
    #[error("{} is not an absolute path", .path.display())]
    RelativePath {
        /// The path as given.
        path: PathBuf,
    },

    /// The re-executed init could not be started or spoken to.
    #[error("cannot start the step's init process: {action}")]
    Spawn {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },

    /// A step of the set-up inside the namespaces failed.
    #[error("cannot set up the sandbox: {0}")]
    Setup(Failure),

    /// The step's init ended without a word: killed from outside, for instance for lack of memory.
    #[error("the step's init process died ({status}); was it out of memory?")]
    InitDied {
        /// How it ended, as the parent saw it.
        status: String,
    },
}

fn below(parent: Option<&Path>) -> String {
    parent.map_or_else(String::new, |parent| format!(" below {}", parent.display()))
}

impl SandboxError {
    /// The one command, or the one change, that mends this; `None` when there is no such thing.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::NotPrivileged => Some("run as root, or as a user with subordinate ids".into()),
            Self::UserNamespace { remedy, .. } => remedy.clone(),
            Self::UserNamespaceRestricted { .. } => {
                Some("sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into())
            }
            Self::NoSubordinateIds { remedy, .. } => Some(remedy.clone()),
            Self::RootNotMounted => {
                Some("before chroot DIR, make it a mount point: mount --bind DIR DIR".into())
            }
            Self::HelperMissing { .. } => Some("apt-get install uidmap".into()),
            Self::NoPasta => Some("apt-get install passt".into()),
            Self::Pasta { message } if message.contains("tun") => {
                Some("chmod 666 /dev/net/tun (in a container: --device /dev/net/tun)".into())
            }
            Self::Setup(failure) => failure.hint.clone(),
            _ => None,
        }
    }
}

/// What the set-up inside the namespaces was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// Making the namespaces.
    Namespaces,
    /// Making the root filesystem a mount of its own.
    Root,
    /// Mounting something at the subject, a path in the image.
    Mount,
    /// Hiding the subject, or making it read-only.
    Mask,
    /// Changing the root.
    Pivot,
    /// Setting the host name.
    Hostname,
    /// Bringing the loopback interface up.
    Loopback,
    /// Making the pseudo-terminal.
    Terminal,
    /// Entering the working directory.
    WorkingDirectory,
    /// Limiting the capabilities.
    Capabilities,
    /// Filtering the system calls.
    SystemCalls,
    /// Connecting the network.
    Network,
    /// Becoming the step's user.
    User,
    /// Setting the subject, a resource limit.
    Limit,
    /// Wiring stdin, stdout, stderr, signals.
    Process,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "create namespaces",
            Self::Root => "prepare the root filesystem",
            Self::Mount => "mount",
            Self::Mask => "mask",
            Self::Pivot => "change the root",
            Self::Hostname => "set the host name",
            Self::Loopback => "bring the loopback interface up",
            Self::Terminal => "create a terminal",
            Self::WorkingDirectory => "enter the working directory",
            Self::Capabilities => "limit the capabilities",
            Self::SystemCalls => "filter the system calls",
            Self::Network => "connect the network",
            Self::User => "become user",
            Self::Limit => "set the limit",
            Self::Process => "start the process",
        })
    }
}

/// A step of the set-up that failed, as it crosses from the step's init to mica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// To what: a path in the image, a user; empty when the step says all.
    pub subject: String,
    /// The kernel's answer, an errno.
    pub errno: i32,
    /// What may mend it.
    pub hint: Option<String>,
}

impl Failure {
    pub(super) fn new(step: Step, subject: impl Into<String>, errno: Errno) -> Self {
        Self {
            step,
            subject: subject.into(),
            errno: errno as i32,
            hint: None,
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if !self.subject.is_empty() {
            write!(f, " {}", self.subject)?;
        }
        write!(f, ": {}", Errno::from_raw(self.errno).desc())
    }
}

/// Turns an I/O error into an errno for a [`Failure`].
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
