//! RUN in namespaces: a command inside a root filesystem that is already mounted.
//!
//! Three processes take part. *mica* calls [`enter`] once at its start, and [`Spec::spawn`] for
//! each step. Spawning re-executes the program as the step's *launcher* (single-threaded, so that
//! it may fork), which makes a PID namespace and forks the step's *init*, PID 1: it makes the other
//! namespaces, mounts, changes the root, drops privileges, starts the *command*, and reaps.
//!
//! - The sandbox creates nothing in the root filesystem. What it mounts on, [`MOUNT_POINTS`], and
//!   the files of [`network_files`] are the caller's to provide, best as nodes that no layer sees.
//! - Paths of the image are resolved with its root as root, whatever symlinks it holds.
//! - A step's root may see everything of init, and trace it. All that this gives is init's end of the
//!   control socket, and so the means to lie about the command's exit status: what comes from there
//!   is foreign data. The program file behind /proc/1/exe cannot be written.
//! - When mica ends, however it ends, its end of the control socket closes and init leaves; when
//!   init ends, the kernel kills all else in its PID namespace, and the mounts go with them. If mica is
//!   killed while it waits for its own mount, its *keeper* ends the mount first.
//! - When [`Running::wait`] returns, no process of the step is left and its mount namespace is gone.

mod capabilities;
mod cgroup;
mod channel;
pub mod doctor;
mod error;
mod idmap;
mod init;
pub(crate) mod keeper;
mod limits;
mod maps;
mod mounts;
mod network;
mod pasta;
mod process;
mod program;
mod running;
mod seccomp;
mod subid;
mod supervisor;
mod sys;
pub mod terminal;
mod tree;
mod wire;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use capabilities::Capabilities;
pub use cgroup::{Cpu, Resources, check_groups};
pub use error::{Failure, SandboxError, Step};
pub use idmap::{Entered, IdMode, IdRange, IdRanges, InvalidUserNs, UserNs, callers, enter, entered};
pub use init::init_main;
pub use keeper::{KEEPER_ARG, dismiss, keeper_main};
pub use limits::{InvalidUlimit, Limits, Ulimit};
pub use network::{NETWORK_FILES, Network, network_files};
pub use running::{Running, Signaller};
pub use supervisor::{Answered, Supervised, VirtualTree};
pub(crate) use sys::die_with_parent;
pub(crate) use tree::mount_without_devices;

/// The hidden first argument under which the program must call [`init_main`] before anything else.
pub const INIT_ARG: &str = "__mica-init";

/// Directories that must exist in the root filesystem for the sandbox to mount on.
pub const MOUNT_POINTS: &[&str] = &["/proc", "/dev", "/sys"];

/// The search path of an image that sets none (moby `oci/defaults.go`).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The host name that build steps see, as under BuildKit.
pub const BUILD_HOSTNAME: &str = "buildkitsandbox";

/// A command, and the world it is to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The directory, in mica's mount namespace, that becomes the command's root.
    #[serde(with = "wire::path")]
    pub rootfs: PathBuf,
    /// Program and arguments. A program without a slash is looked up in the `PATH` of `env`, or in
    /// [`DEFAULT_PATH`].
    pub args: Vec<OsString>,
    /// The whole environment, names and values; nothing of mica's own is added.
    pub env: Vec<(OsString, OsString)>,
    /// The working directory, absolute; it must exist in the root filesystem.
    #[serde(with = "wire::path")]
    pub cwd: PathBuf,
    /// Whom the command runs as.
    pub user: Credentials,
    /// The host name, at most 64 bytes.
    pub hostname: String,
    /// The network it sees.
    pub network: Network,
    /// Further mounts, made in this order after the sandbox's own.
    pub mounts: Vec<Mount>,
    /// Files in its /dev, which no layer sees.
    pub device_files: Vec<DeviceFile>,
    /// What its root user may do.
    pub capabilities: Capabilities,
    /// How much it may use.
    pub limits: Limits,
    /// Whom mounts of other filesystems belong to, in the order of user and group: for [`Answered::Ids`] only, since
    /// elsewhere they have their owners already.
    pub owners: Vec<(OsString, u32, u32)>,
    /// What mica answers some of its system calls from, where the kernel cannot do what they ask for.
    #[serde(skip)]
    pub supervised: Option<Supervised>,
}

/// A file that the command finds below /dev: where Docker puts scripts of the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFile {
    /// Its directory, relative to /dev: one name.
    pub directory: String,
    /// Its name there.
    pub name: String,
    /// Its content; the file can be executed.
    pub content: String,
}

impl Spec {
    /// `args` as root in `/` of `rootfs`, with [`DEFAULT_PATH`] as all its environment, on the
    /// host's network.
    pub fn new(rootfs: impl Into<PathBuf>, args: impl IntoIterator<Item: Into<OsString>>) -> Self {
        Self {
            rootfs: rootfs.into(),
            args: args.into_iter().map(Into::into).collect(),
            env: vec![("PATH".into(), DEFAULT_PATH.into())],
            cwd: "/".into(),
            user: Credentials::default(),
            hostname: BUILD_HOSTNAME.into(),
            network: Network::Host,
            mounts: Vec::new(),
            device_files: Vec::new(),
            capabilities: Capabilities::Default,
            limits: Limits::default(),
            owners: Vec::new(),
            supervised: None,
        }
    }
}

/// Numeric identity of a process. The default is root without supplementary groups.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// User id, as the image sees it.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// One more mount in the command's world.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where: a path of the image, which must exist there (a directory; for a bind of a file, a
    /// file) unless it lies below the target of an earlier [`MountKind::Tmpfs`]. Symlinks are
    /// followed inside the image only.
    #[serde(with = "wire::path")]
    pub target: PathBuf,
}

/// What a [`Mount`] shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of mica's own mount namespace, with the mounts below it. Device nodes in it do nothing.
    Bind {
        /// Its path outside.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// What of it is mounted: a path in it, empty for all. Symlinks are followed inside `source` only.
        #[serde(with = "wire::path")]
        part: PathBuf,
        /// Whether the command may write to it.
        access: Access,
    },
    /// An empty filesystem in memory.
    Tmpfs {
        /// Its limit in bytes; `None` is the kernel's default, half of the memory.
        size: Option<u64>,
        /// The permissions of its root directory; Docker's is 0o1777.
        mode: u32,
        /// Whether the command may write to it. Other mounts can lie in it all the same.
        access: Access,
    },
    /// A file in memory that exists here alone.
    File {
        /// What it holds.
        content: Secret,
        /// Its permission bits.
        mode: u32,
        /// Its user, as the image sees it.
        uid: u32,
        /// Its group.
        gid: u32,
    },
}

/// Bytes that must not appear in a log: they are not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// The secret of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

/// Whether something mounted may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read and write.
    ReadWrite,
    /// Read only, submounts too.
    ReadOnly,
}

/// What the command's standard streams are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// stdout and stderr each a pipe, taken with [`Running::take_output`].
    ///
    /// Never mica's own: they may be what the command could not open by the names `/dev/stdout` and
    /// `/dev/stderr`, such as a socket, or another user's file.
    Piped(Stdin),
    /// A pseudo-terminal of this size; its master is taken with [`Running::take_terminal`].
    Terminal(terminal::Size),
}

/// Where the command reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdin {
    /// /dev/null.
    Null,
    /// mica's own stdin.
    Inherit,
}

/// How the command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// With this exit status. 127: the program was not found; 126: it could not be executed.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// Whether the exit status was 0.
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// The exit status a shell would report: 128 and the number for a signal.
    pub fn status(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}
