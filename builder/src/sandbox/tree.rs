//! Mounts as descriptors: made detached, changed, then attached to a place.
//!
//! Nothing here goes through a path of the image by name, so no symlink of the image is followed
//! on the way, and /proc need not be mounted.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use super::sys;

/// Attributes of a mount, as `mount_setattr(2)` names them.
pub(super) mod attribute {
    pub(in super::super) const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY;
    pub(in super::super) const NO_SUID: u64 = libc::MOUNT_ATTR_NOSUID;
    pub(in super::super) const NO_DEV: u64 = libc::MOUNT_ATTR_NODEV;
    pub(in super::super) const NO_EXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
}

/// A mount that this process holds, attached or not.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

impl Tree {
    /// A new filesystem. An option without a value is a flag.
    pub(super) fn new(kind: &str, options: &[(&str, Option<&str>)], attributes: u64) -> Result<Self, Errno> {
        let c = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
        let context = sys::fsopen(&c(kind)?)?;
        // What mount(8) and df(1) show as the device.
        sys::fsconfig_set(context.as_fd(), c"source", Some(&c(kind)?))?;
        for (key, value) in options {
            let value = value.map(c).transpose()?;
            sys::fsconfig_set(context.as_fd(), &c(key)?, value.as_deref())?;
        }
        sys::fsmount(context.as_fd(), attributes).map(Self)
    }

    /// A copy of the mounts at and below `path` of this mount namespace.
    pub(super) fn copy_of(path: &Path) -> Result<Self, Errno> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE as u32;
        sys::open_tree(AT_FDCWD, path, flags).map(Self)
    }

    /// A copy of the mount of the file at `path`, and of nothing below.
    pub(super) fn copy_of_one(path: &Path) -> Result<Self, Errno> {
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        sys::open_tree(AT_FDCWD, path, flags).map(Self)
    }

    /// A copy of the mounts at and below the file that `place` describes.
    pub(super) fn copy_at(place: BorrowedFd<'_>) -> Result<Self, Errno> {
        let flags = libc::OPEN_TREE_CLONE
            | libc::OPEN_TREE_CLOEXEC
            | (libc::AT_RECURSIVE | libc::AT_EMPTY_PATH) as u32;
        sys::open_tree(place, Path::new(""), flags).map(Self)
    }

    /// Adds attributes, here and to all below.
    pub(super) fn set(&self, attributes: u64) -> Result<(), Errno> {
        sys::mount_setattr(self.0.as_fd(), attributes, libc::AT_RECURSIVE)
    }

    /// Adds attributes, here and not to what is mounted below.
    pub(super) fn set_alone(&self, attributes: u64) -> Result<(), Errno> {
        sys::mount_setattr(self.0.as_fd(), attributes, 0)
    }

    /// Attaches the mount over the file that `place` describes.
    pub(super) fn attach(&self, place: BorrowedFd<'_>) -> Result<(), Errno> {
        sys::move_mount(self.0.as_fd(), place)
    }

    /// Opens `path` with this mount's root as its root: symlinks, `..` and absolute targets stay
    /// inside.
    pub(super) fn open(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        resolve_in(self.0.as_fd(), path, flags)
    }

    /// The place of `path` in this mount, for something to be attached there.
    pub(super) fn place(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlag::O_PATH)
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Mounts a directory on itself, as a mount on which device nodes are without effect.
pub(crate) fn mount_without_devices(directory: &Path) -> Result<(), Errno> {
    let tree = Tree::copy_of_one(directory)?;
    tree.set_alone(attribute::NO_DEV)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    tree.attach(open(directory, flags, Mode::empty())?.as_fd())
}

/// Opens `path` with the directory `root` as its root.
fn resolve_in(root: BorrowedFd<'_>, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        match openat2(root, path, how) {
            // The kernel cannot tell whether a concurrent rename led outside, and asks to try again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            other => return other,
        }
    }
}
