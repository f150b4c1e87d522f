//! Mounts: a session with the kernel, its threads, and a guard that unmounts.
//!
//! The process that serves a mount must not wait for it: it never keeps a file open on its own mount, and
//! never reads or writes there. A lock or a reply that waits for the mount would wait for itself.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use fuser::{Config, Filesystem, INodeNo, Notifier, Session, SessionACL};
use nix::mount::{MntFlags, MsFlags};

use crate::caller::Callers;
use crate::forest::Forest;
use crate::fuse::{Adapter, Counters, ForestAdapter, Settings};
use crate::overlay::{Ino, Overlay, Owner};
use crate::sys::statx::MountIdentity;

mod helper;

pub use crate::fuse::{RequestKind, Requests};

/// How a mount behaves.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Whether anything can be changed; `MS_RDONLY` otherwise.
    pub writable: bool,
    /// Whether each write is passed on at once, so that what is wrong with it the program hears; otherwise the kernel
    /// holds writes back, and a full filesystem is found too late for whoever wrote.
    pub write_through: bool,
    /// Whether the overlay records what is read: the kernel then looks up each name that a program uses, and
    /// learns nothing about others from a listing.
    pub traced: bool,
    /// Who checks permissions.
    pub permissions: Permissions,
    /// Whether users other than the mounting one get in.
    pub allow_other: bool,
    /// The owner of new nodes, whoever creates them; the creator where `None`.
    pub owner: Option<Owner>,
    /// Whether device nodes are without effect.
    pub no_dev: bool,
    /// Whether set-user-ID, set-group-ID bits and file capabilities are without effect.
    pub no_suid: bool,
    /// The source shown in `/proc/mounts`.
    pub name: String,
}

/// Who checks whether a process may do what it asks.
#[derive(Clone, Debug)]
pub enum Permissions {
    /// The kernel, by owner and mode (`default_permissions`).
    Kernel,
    /// Nobody: a single user looks at an image, whoever owns the files in it.
    Owner,
    /// We, by what our metadata says and by whom the callers stand for. To the kernel every node is root's: for a user
    /// namespace that has no other ids.
    Callers(Arc<Callers>),
}

/// Why a mount could not be made or unmade.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The kernel offers no FUSE here: `/dev/fuse` is missing, or FUSE is not in the kernel.
    #[error("this system offers no FUSE: /dev/fuse cannot be used")]
    NoFuse {
        /// What the system said.
        source: io::Error,
    },
    /// `/dev/fuse` is there and cannot be opened.
    #[error("cannot open /dev/fuse")]
    Device {
        /// What the system said.
        source: io::Error,
    },
    /// The mount point does not exist or cannot be reached.
    #[error("cannot use the mount point {path}")]
    MountPoint {
        /// The directory asked for.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount point is not a directory.
    #[error("the mount point {path} is not a directory")]
    NotADirectory {
        /// What was asked for.
        path: PathBuf,
    },
    /// Something is mounted there already.
    #[error("{path} is a mount point already")]
    AlreadyMounted {
        /// The directory asked for.
        path: PathBuf,
    },
    /// The caller may not mount here.
    #[error("not allowed to mount on {path}")]
    NotAllowed {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The mount failed for another reason.
    #[error("cannot mount on {path}")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `fusermount3` is not installed.
    #[error("fusermount3 is not installed: without it only root mounts in the host's mount namespace")]
    NoHelper,
    /// `fusermount3` refused.
    #[error("fusermount3 could not mount on {path}: {message}")]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        message: String,
    },
    /// The session with the kernel failed.
    #[error("the FUSE session of {path} failed")]
    Session {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Some process uses the mount: a working directory, an open file, a mount within.
    #[error("{path} is in use")]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// It is gone from its place, and lives on in another mount namespace or for open files.
    #[error("{path} is unmounted, but a process of another mount namespace still uses it")]
    Lingering {
        /// The mount point.
        path: PathBuf,
    },
    /// It could not be unmounted for another reason.
    #[error("cannot unmount {path}")]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How long an unmount waits for the session to end once the mount is gone from its place.
const LINGER: Duration = Duration::from_secs(30);

/// What a mount shows.
#[derive(Clone)]
pub enum Content {
    /// One filesystem.
    Overlay(Arc<Overlay>),
    /// Several, for reading.
    Forest(Arc<Forest>),
}

impl Content {
    /// Whether bytes of it are fetched from elsewhere when they are read.
    pub fn is_elsewhere(&self) -> bool {
        match self {
            Self::Overlay(overlay) => overlay.layers().iter().any(|layer| layer.is_elsewhere()),
            Self::Forest(_) => false,
        }
    }

    /// How many threads answer the kernel: one alone makes each request wait for the one before, and more than a few
    /// gain nothing, but where the bytes come from elsewhere and are waited for.
    fn threads(&self) -> usize {
        match self.is_elsewhere() {
            true => 8,
            false => thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 4)),
        }
    }
}

impl From<Arc<Overlay>> for Content {
    fn from(overlay: Arc<Overlay>) -> Self {
        Self::Overlay(overlay)
    }
}

impl From<Arc<Forest>> for Content {
    fn from(forest: Arc<Forest>) -> Self {
        Self::Forest(forest)
    }
}

/// Mounts `content` on `directory` by mount(2) and serves it; see [`attach`].
///
/// # Errors
/// [`MountError`]; nothing stays mounted.
pub fn kernel(
    content: impl Into<Content>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    attach(Means::Kernel, content, directory, options)?.serve()
}

/// Mounts `content` on `directory`. The kernel has its first answer when this returns, and no thread was started.
///
/// [`Means::Kernel`] is for root, or inside a user namespace, in the mount namespace of the calling thread.
/// [`Means::Helper`] is for a user without privileges, in the host's mount namespace, always without devices and
/// set-ID bits.
///
/// # Errors
/// [`MountError`]; nothing stays mounted.
pub fn attach(
    means: Means,
    content: impl Into<Content>,
    directory: &Path,
    options: &MountOptions,
) -> Result<Attached, MountError> {
    let directory = mount_point(directory)?;
    let device = match means {
        Means::Kernel => mount_by_kernel(&directory, options)?,
        Means::Helper => helper::mount(&directory, options)?,
    };
    let place = Place::of(directory, means)?;
    greet(content.into(), device, place, options)
}

/// Has the kernel mount on `directory`; returns the descriptor to serve.
///
/// `/dev/fuse` is opened here: a descriptor from before an `unshare` cannot be mounted in the new namespace.
fn mount_by_kernel(directory: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let device = open_device()?;
    let root = nix::unistd::geteuid();
    let group = nix::unistd::getegid();
    let mut data = format!(
        "fd={},rootmode=40000,user_id={root},group_id={group}",
        device.as_raw_fd()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    if matches!(options.permissions, Permissions::Kernel) {
        data.push_str(",default_permissions");
    }
    let mut flags = MsFlags::empty();
    flags.set(MsFlags::MS_RDONLY, !options.writable);
    flags.set(MsFlags::MS_NODEV, options.no_dev);
    flags.set(MsFlags::MS_NOSUID, options.no_suid);
    let source = CString::new(options.name.replace('\0', "")).unwrap_or_default();
    nix::mount::mount(
        Some(source.as_c_str()),
        directory,
        Some("fuse.mica"),
        flags,
        Some(data.as_str()),
    )
    .map_err(|error| match error {
        nix::Error::EPERM | nix::Error::EACCES => MountError::NotAllowed {
            path: directory.to_owned(),
            source: error.into(),
        },
        nix::Error::ENODEV => MountError::NoFuse { source: error.into() },
        _ => MountError::Mount {
            path: directory.to_owned(),
            source: error.into(),
        },
    })?;
    Ok(device)
}

/// The mount point as an absolute path without symbolic links; it must be a directory with nothing mounted
/// on it.
fn mount_point(directory: &Path) -> Result<PathBuf, MountError> {
    let unusable = |source| MountError::MountPoint {
        path: directory.to_owned(),
        source,
    };
    let path = directory.canonicalize().map_err(unusable)?;
    let identity = MountIdentity::at(&path).map_err(unusable)?;
    if identity.is_mount_root {
        return Err(MountError::AlreadyMounted { path });
    }
    if !path.is_dir() {
        return Err(MountError::NotADirectory { path });
    }
    Ok(path)
}

fn open_device() -> Result<OwnedFd, MountError> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(device) if is_device(&device) => Ok(File::into(device)),
        // Something else was put in its place, as sandboxes do.
        Ok(_) => Err(MountError::NoFuse {
            source: io::Error::other("it is not a character device"),
        }),
        // ENOENT without the node, ENODEV or ENXIO without the driver.
        Err(source) if source.kind() == io::ErrorKind::NotFound => Err(MountError::NoFuse { source }),
        Err(source) if matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            Err(MountError::NoFuse { source })
        }
        Err(source) => Err(MountError::Device { source }),
    }
}

fn is_device(file: &File) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    file.metadata()
        .is_ok_and(|metadata| metadata.file_type().is_char_device())
}

/// Answers the kernel's first request.
fn greet(
    content: Content,
    device: OwnedFd,
    place: Place,
    options: &MountOptions,
) -> Result<Attached, MountError> {
    let guard = Guard {
        place,
        at_end: AtEnd::Detach,
    };
    let settings = Settings {
        writeback: options.writable && !options.write_through,
        traced: options.traced,
        acls: matches!(options.permissions, Permissions::Kernel),
        masks: !matches!(options.permissions, Permissions::Owner),
        owner: options.owner,
    };
    let threads = content.threads();
    let (requests, begun) = match content {
        Content::Overlay(overlay) => {
            let callers = match &options.permissions {
                Permissions::Callers(callers) => Some(Arc::clone(callers)),
                Permissions::Kernel | Permissions::Owner => None,
            };
            let adapter = Adapter::new(overlay, callers, settings);
            (adapter.requests(), begin(adapter, device, threads))
        }
        Content::Forest(forest) => {
            let adapter = ForestAdapter::new(forest);
            (adapter.requests(), begin(adapter, device, threads))
        }
    };
    let (session, kernel) = begun.map_err(|source| guard.failed(source))?;
    Ok(Attached {
        guard,
        requests,
        kernel,
        session,
    })
}

/// What answers requests until the mount is gone.
type Answering = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// Begins the session with the kernel.
fn begin(
    adapter: impl Filesystem + 'static,
    device: OwnedFd,
    threads: usize,
) -> io::Result<(Answering, Kernel)> {
    let mut config = Config::default();
    config.n_threads = Some(threads);
    config.clone_fd = true;
    // The kernel keeps others out unless `allow_other`: the library need not.
    let session = Session::from_fd(adapter, device, SessionACL::All, config)?;
    let kernel = Kernel {
        notifier: session.notifier(),
    };
    Ok((Box::new(move || session.run()), kernel))
}

/// A mount that nobody serves yet: who looks into it waits. Dropping it takes the mount away.
pub struct Attached {
    // First: the mount goes while its session still is.
    guard: Guard,
    requests: Arc<Counters>,
    kernel: Kernel,
    session: Answering,
}

impl Attached {
    /// Where the mount is.
    pub fn place(&self) -> &Place {
        &self.guard.place
    }

    /// Leaves it to somebody else to unmount: neither dropping this does so any more, nor dropping what
    /// [`Self::serve`] makes of it.
    pub fn leave(&mut self) {
        self.guard.at_end = AtEnd::Nothing;
    }

    /// Starts the threads that answer requests. They open `/dev/fuse`, once each.
    ///
    /// # Errors
    /// [`MountError::Session`] if there can be no more threads.
    pub fn serve(self) -> Result<Mounted, MountError> {
        let Self {
            mut guard,
            requests,
            kernel,
            session,
        } = self;
        let (ended, end) = mpsc::channel();
        thread::Builder::new()
            .name("mica-fuse".to_owned())
            .spawn(move || {
                // Nobody listens any more if the guard has given up waiting.
                let _ = ended.send(session());
            })
            .map_err(|source| guard.failed(source))?;
        if guard.at_end == AtEnd::Detach {
            guard.at_end = AtEnd::Unmount;
        }
        Ok(Mounted {
            guard,
            requests,
            kernel,
            end,
        })
    }
}

/// The kernel's memory of a mount: what is changed behind its back must be told to it. Not to be used by a thread that
/// serves the mount.
#[derive(Clone, Debug)]
pub struct Kernel {
    notifier: Notifier,
}

impl Kernel {
    /// Forgets the attributes of a node.
    pub fn forget_attributes(&self, ino: Ino) {
        // That it does not know the node, or that the mount is gone, makes no difference.
        let _ = self.notifier.inval_inode(INodeNo(ino.0), -1, 0);
    }

    /// Forgets what a name stands for, or that it stands for nothing.
    pub fn forget_name(&self, parent: Ino, name: &[u8]) {
        let _ = self
            .notifier
            .inval_entry(INodeNo(parent.0), OsStr::from_bytes(name));
    }
}

/// A mount that is being served. Dropping it unmounts, lazily if it is in use, unless that is left to somebody else.
#[derive(Debug)]
pub struct Mounted {
    guard: Guard,
    requests: Arc<Counters>,
    kernel: Kernel,
    end: Receiver<io::Result<()>>,
}

impl Mounted {
    /// Where the mount is, to unmount it from another thread or process.
    pub fn place(&self) -> &Place {
        &self.guard.place
    }

    /// What the kernel remembers of it.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// How many requests the kernel has sent so far.
    pub fn requests(&self) -> Requests {
        self.requests.read()
    }

    /// Unmounts, and returns when the kernel has written everything back and the session has ended.
    ///
    /// # Errors
    /// [`MountError::Busy`] if a process uses it: it is then detached, and served no longer once the last user
    /// has gone or this process ends. [`MountError::Lingering`] if the mount was copied into another mount
    /// namespace. Not an error: that it has been unmounted already.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.guard.place.unmount()?;
        self.wait_until(Some(LINGER))
    }

    /// Waits until it is unmounted by somebody else.
    ///
    /// # Errors
    /// [`MountError::Session`] if the session ended with an error.
    pub fn wait(mut self) -> Result<(), MountError> {
        self.wait_until(None)
    }

    fn wait_until(&mut self, limit: Option<Duration>) -> Result<(), MountError> {
        let path = || self.guard.place.directory.clone();
        let result = match limit {
            None => self.end.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(limit) => self.end.recv_timeout(limit),
        };
        match result {
            Ok(Ok(())) => {
                self.guard.at_end = AtEnd::Nothing;
                tracing::debug!(directory = %path().display(), requests = %self.requests(), "unmounted");
                Ok(())
            }
            Ok(Err(source)) => Err(self.guard.failed(source)),
            Err(RecvTimeoutError::Timeout) => Err(MountError::Lingering { path: path() }),
            Err(RecvTimeoutError::Disconnected) => {
                let source = io::Error::other("a thread of the session panicked");
                Err(self.guard.failed(source))
            }
        }
    }
}

/// Takes a mount away at the end.
#[derive(Debug)]
struct Guard {
    place: Place,
    at_end: AtEnd,
}

/// What a [`Guard`] does when it is dropped.
#[derive(Debug, PartialEq, Eq)]
enum AtEnd {
    Nothing,
    /// Nothing was written to it, and who waits for it shall not go on doing so.
    Detach,
    /// Lazily if it is in use.
    Unmount,
}

impl Guard {
    fn failed(&self, source: io::Error) -> MountError {
        MountError::Session {
            path: self.place.directory.clone(),
            source,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let gone = match self.at_end {
            AtEnd::Nothing => Ok(()),
            AtEnd::Detach => self.place.detach(),
            AtEnd::Unmount => match self.place.unmount() {
                Err(MountError::Busy { path }) => {
                    tracing::warn!(path = %path.display(), "the mount is in use: it is detached and ends with its last user");
                    self.place.detach()
                }
                result => result,
            },
        };
        if let Err(error) = gone {
            tracing::error!(%error, "a mount stays behind");
        }
    }
}

/// How a mount came to be, and so how it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// By mount(2) and umount2(2).
    Kernel,
    /// By `fusermount3`.
    Helper,
}

/// One mount at its place in the file system. Names it for good: an operation does nothing to another mount
/// that has taken its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    directory: PathBuf,
    device: (u32, u32),
    means: Means,
}

impl Place {
    /// A mount of which directory, device number (`st_dev`, as major and minor) and means are known.
    pub fn new(directory: PathBuf, device: (u32, u32), means: Means) -> Self {
        Self {
            directory,
            device,
            means,
        }
    }

    /// What has just been mounted on `directory`.
    fn of(directory: PathBuf, means: Means) -> Result<Self, MountError> {
        match MountIdentity::at(&directory) {
            Ok(identity) => Ok(Self::new(directory, identity.device, means)),
            Err(source) => {
                let _ = detach(&directory, means);
                Err(MountError::Mount {
                    path: directory,
                    source,
                })
            }
        }
    }

    /// The mount point, absolute.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The device number of the mounted file system, as major and minor.
    pub fn device(&self) -> (u32, u32) {
        self.device
    }

    /// How it was mounted.
    pub fn means(&self) -> Means {
        self.means
    }

    /// Whether the mount is what one finds at its directory. No request is sent to its server, which may be
    /// dead or be the caller.
    pub fn is_mounted(&self) -> bool {
        MountIdentity::at(&self.directory)
            .is_ok_and(|found| found.is_mount_root && found.device == self.device)
    }

    /// Unmounts it; the kernel writes back what is dirty before this returns. Does nothing if it is not there
    /// any more.
    ///
    /// # Errors
    /// [`MountError::Busy`] if it is in use, [`MountError::Unmount`] otherwise.
    pub fn unmount(&self) -> Result<(), MountError> {
        if !self.is_mounted() {
            return Ok(());
        }
        let path = || self.directory.clone();
        if self.means == Means::Helper {
            return helper::unmount(&self.directory, false);
        }
        match nix::mount::umount2(&self.directory, MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(()),
            Err(nix::Error::EBUSY) => Err(MountError::Busy { path: path() }),
            // Not a mount point any more: somebody was faster.
            Err(nix::Error::EINVAL) => Ok(()),
            Err(error) => Err(MountError::Unmount {
                path: path(),
                source: error.into(),
            }),
        }
    }

    /// Takes it out of the file system at once; who uses it goes on doing so as long as it is served. Does
    /// nothing if it is not there any more.
    ///
    /// # Errors
    /// [`MountError::Unmount`].
    pub fn detach(&self) -> Result<(), MountError> {
        match self.is_mounted() {
            true => detach(&self.directory, self.means),
            false => Ok(()),
        }
    }
}

fn detach(directory: &Path, means: Means) -> Result<(), MountError> {
    if means == Means::Helper {
        return helper::unmount(directory, true);
    }
    let flags = MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH;
    match nix::mount::umount2(directory, flags) {
        Ok(()) | Err(nix::Error::EINVAL) => Ok(()),
        Err(error) => Err(MountError::Unmount {
            path: directory.to_owned(),
            source: error.into(),
        }),
    }
}
