//! Answers to the system calls of a step in the kernel's place: those that make devices, where the kernel refuses them,
//! and those about ids, where the kernel knows one id and the image many.
//!
//! A thread of mica receives the calls that the step's filter holds up (`seccomp/emulate.rs`), and answers from what
//! mica knows: owners from the metadata of the overlay, identities from the table of [`Callers`], or from the kernel
//! where it has them. What it is not sure of it lets the kernel do, so that at worst something is as it would be without it.
//!
//! - The thread lives in the step's mount namespace, so that an absolute path means the same to both. It only looks
//!   paths up there: it opens no file to read or write.
//! - What it reads of a process may change at once, and a path may lead elsewhere the next moment. That decides
//!   nothing: to the kernel all processes of the step are the same user, whatever is answered here.
//! - Before memory of a process is written, it is made sure that the call is still waiting, so that it is no other
//!   process that has got the number since.

mod call;
mod credentials;
mod devices;
mod execute;
mod lists;
mod opening;
mod owners;
mod peer;
mod places;
mod signal;
mod status;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use mica_fs::caller::{Callers, Capability, Credential};
use mica_fs::mount::{Kernel, Mounted};
use mica_fs::overlay::Overlay;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, fstat, stat};
use serde::{Deserialize, Serialize};

use super::capabilities::has_mknod;
use super::error::errno_of;
use super::sys;
use super::{Capabilities, idmap};
use call::{Answer, Call, Decision};

/// Which of a step's system calls mica answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// Those that make devices: what a user namespace does not have from the kernel.
    Devices,
    /// These, and those that take or tell ids: [`IdMode::Single`](super::IdMode::Single).
    Ids,
}

/// What mica answers for a step.
#[derive(Clone)]
pub struct Supervised {
    /// Which calls.
    pub answered: Answered,
    /// Its processes; none is in it if the kernel knows their ids.
    pub callers: Arc<Callers>,
    /// Its filesystems that mica serves.
    pub trees: Vec<VirtualTree>,
}

/// A filesystem whose owners mica knows.
#[derive(Clone)]
pub struct VirtualTree {
    /// The number of its device.
    pub device: u64,
    /// What is in it.
    pub overlay: Arc<Overlay>,
    /// What the kernel remembers of it.
    pub kernel: Kernel,
}

impl VirtualTree {
    /// What an overlay tells that is mounted.
    ///
    /// # Errors
    /// If nothing can be asked of the mount.
    pub fn of(mounted: &Mounted, overlay: &Arc<Overlay>) -> io::Result<Self> {
        let root = std::fs::metadata(mounted.place().directory())?;
        Ok(Self {
            device: root.dev(),
            overlay: Arc::clone(overlay),
            kernel: mounted.kernel().clone(),
        })
    }
}

impl Supervised {
    /// That of a step with these filesystems; `None` where the kernel does all of it.
    pub fn of(trees: impl IntoIterator<Item = VirtualTree>) -> Option<Self> {
        let trees: Vec<_> = trees.into_iter().collect();
        match idmap::callers() {
            Some(callers) => Some(Self {
                answered: Answered::Ids,
                callers,
                trees,
            }),
            None if trees.is_empty() || idmap::makes_devices() => None,
            None => Some(Self {
                answered: Answered::Devices,
                callers: Arc::default(),
                trees,
            }),
        }
    }
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised").finish_non_exhaustive()
    }
}

/// Those of the same filesystems are equal.
impl PartialEq for Supervised {
    fn eq(&self, other: &Self) -> bool {
        let devices = |ids: &Self| ids.trees.iter().map(|tree| tree.device).collect::<Vec<_>>();
        self.answered == other.answered
            && (self.answered == Answered::Devices || Arc::ptr_eq(&self.callers, &other.callers))
            && devices(self) == devices(other)
    }
}

impl Eq for Supervised {}

/// Starts to answer what comes to `listener`; `mounts` is the step's mount namespace. When this returns, calls are
/// answered. The thread ends with the last process of the step.
///
/// # Errors
/// If the thread cannot be made, or cannot enter the namespace.
pub fn start(
    listener: OwnedFd,
    mounts: OwnedFd,
    ids: Supervised,
    capabilities: Capabilities,
) -> io::Result<JoinHandle<()>> {
    let (ready, entered) = mpsc::channel();
    let thread =
        thread::Builder::new()
            .name("mica-ids".to_owned())
            .spawn(
                move || match Supervisor::enter(listener, mounts, ids, capabilities.bits()) {
                    Ok(supervisor) => {
                        // It waits for this word, and so is there.
                        let _ = ready.send(Ok(()));
                        drop(ready);
                        supervisor.answer_all();
                    }
                    Err(errno) => {
                        let _ = ready.send(Err(errno));
                    }
                },
            )?;
    match entered.recv() {
        Ok(Ok(())) => Ok(thread),
        Ok(Err(errno)) => Err(errno.into()),
        Err(_) => Err(io::Error::other("the thread ended at once")),
    }
}

/// One step's.
struct Supervisor {
    listener: OwnedFd,
    ids: Supervised,
    /// What the step's command may do if it is root, as a bit mask.
    capabilities: u64,
    /// /proc of mica, in whose numbers processes are told of.
    processes: OwnedFd,
    /// The step's mount namespace, as a device and an inode.
    mounts: (u64, u64),
    /// Whether processes that the kernel knows can have CAP_MKNOD.
    grants_devices: bool,
    /// The devices of mica's /proc and of the step's.
    own_processes: u64,
    step_processes: u64,
    /// Whether the step's /proc is mica's own, and so has other numbers than the step has.
    shows_others: bool,
    /// Owners of files on filesystems that are not ours, by device and inode, as the step set them.
    foreign: Mutex<HashMap<(u64, u64), (u32, u32)>>,
    /// Whether a process may have another root directory than the step's.
    has_other_roots: AtomicBool,
}

impl Supervisor {
    /// Takes this thread, and no other of mica's, into the step's mount namespace.
    fn enter(listener: OwnedFd, mounts: OwnedFd, ids: Supervised, capabilities: u64) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let processes = open("/proc", flags, Mode::empty())?;
        let namespace = fstat(&mounts)?;
        let own_processes = fstat(&processes)?.st_dev;
        unshare(CloneFlags::CLONE_FS)?;
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        let step_processes = stat("/proc").map_or(own_processes, |shown| shown.st_dev);
        // Without it, an answer takes a few microseconds more.
        let _older_kernels_cannot = sys::take_turns(listener.as_fd());
        Ok(Self {
            listener,
            ids,
            capabilities,
            processes,
            mounts: (namespace.st_dev, namespace.st_ino),
            grants_devices: has_mknod(),
            own_processes,
            step_processes,
            shows_others: step_processes == own_processes,
            foreign: Mutex::default(),
            // Who may do all can change it in many ways.
            has_other_roots: AtomicBool::new(capabilities != Capabilities::Default.bits()),
        })
    }

    /// Who made a call; root, while the command is being prepared.
    fn caller(&self, call: &Call<'_>) -> Arc<Credential> {
        let root = || Arc::new(Credential::root(self.capabilities));
        match (&call.caller, self.ids.answered) {
            (Some(caller), _) => Arc::clone(caller),
            (None, Answered::Ids) => root(),
            (None, Answered::Devices) => self
                .credential_of_kernel(call.pid)
                .map_or_else(|| Arc::new(Credential::root(0)), Arc::new),
        }
    }

    /// chroot: for root only, which from then on may have another root directory.
    fn change_root(&self, call: &Call<'_>) -> Decision {
        if !self.caller(call).has(Capability::SysChroot) {
            return Err(Errno::EPERM);
        }
        self.has_other_roots.store(true, Ordering::Relaxed);
        Ok(Answer::Continue)
    }

    fn answer_all(&self) {
        loop {
            match self.next() {
                Ok(Some(call)) => self.answer(&call),
                Ok(None) => return,
                Err(errno) => {
                    tracing::error!("cannot hear from a step any more: {errno}");
                    return;
                }
            }
        }
    }

    /// The next call; `None` when there is nobody left to make one.
    fn next(&self) -> Result<Option<libc::seccomp_notif>, Errno> {
        loop {
            let mut fds = [PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
            let [event] = fds;
            let events = event.revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                match events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                    true => return Ok(None),
                    false => continue,
                }
            }
            match sys::receive_call(self.listener.as_fd()) {
                Ok(call) => return Ok(Some(call)),
                // Its process was killed before the call was taken.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn answer(&self, request: &libc::seccomp_notif) {
        let call = Call::new(request, self.listener.as_fd(), &self.ids.callers);
        let answer = call.map_or(Answer::Continue, |call| self.decide(&call));
        let (val, error, flags) = match answer {
            Answer::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
            Answer::Value(value) => (value, 0, 0),
            Answer::Error(errno) => (0, -(errno as i32), 0),
        };
        let answer = libc::seccomp_notif_resp {
            id: request.id,
            val,
            error,
            flags,
        };
        match sys::answer_call(self.listener.as_fd(), answer) {
            // Its process was killed meanwhile.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => tracing::warn!("cannot answer a step: {errno}"),
        }
    }

    /// Calls by their names. The `32` of some names is left out: they differ from the others in the width of ids only,
    /// of which the narrow ones are not asked.
    fn decide(&self, call: &Call<'_>) -> Answer {
        let decided = match call.name {
            "chown" | "lchown" | "fchown" | "fchownat" => self.change_owner(call),
            "mknod" | "mknodat" => self.make_device(call),
            "stat" | "lstat" | "fstat" | "newfstatat" | "statx" => self.status(call),
            "stat64" | "lstat64" | "fstat64" | "fstatat64" => self.status(call),
            "execve" | "execveat" => self.execute(call),
            "getxattr" | "lgetxattr" | "fgetxattr" | "setxattr" | "lsetxattr" | "fsetxattr" => {
                self.list(call)
            }
            "removexattr" | "lremovexattr" | "fremovexattr" => self.list(call),
            "open" | "openat" | "openat2" | "creat" => self.open(call),
            "getsockopt" => self.peer(call),
            "chroot" => self.change_root(call),
            "kill" | "tkill" | "tgkill" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" | "pidfd_send_signal" => {
                self.signal(call)
            }
            _ => self.credentials(call),
        };
        match decided {
            Ok(answer) => answer,
            // Of links that lead round, or that this thread does not follow, the kernel tells.
            Err(Errno::ELOOP) => Answer::Continue,
            Err(errno) => Answer::Error(errno),
        }
    }
}

/// What an I/O error of a step's process means to it.
fn refused(error: &io::Error) -> Errno {
    errno_of(error)
}
