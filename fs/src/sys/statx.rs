//! What is mounted at a path, without a request to the server of a FUSE mount.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The mount that a path leads into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MountIdentity {
    /// The device number of the file system, as major and minor.
    pub device: (u32, u32),
    /// Whether the path is the root of that mount.
    pub is_mount_root: bool,
}

impl MountIdentity {
    /// Looks at `path` as far as the kernel knows it already (`AT_STATX_DONT_SYNC`): this also works while the
    /// server of a FUSE mount is dead, stuck, or the caller itself.
    ///
    /// # Errors
    /// What statx(2) reports.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        let mut found = MaybeUninit::<libc::statx>::zeroed();
        let flags = libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT | libc::AT_SYMLINK_NOFOLLOW;
        // SAFETY: `path` ends in NUL, and `found` has room for the structure that the kernel fills in.
        let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, 0, found.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: all zeros is a valid value of the structure, and the kernel has filled it in.
        let found = unsafe { found.assume_init() };
        let root = u64::try_from(libc::STATX_ATTR_MOUNT_ROOT).unwrap_or_default();
        Ok(Self {
            device: (found.stx_dev_major, found.stx_dev_minor),
            is_mount_root: found.stx_attributes & root != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_mount_root_from_a_directory_within() -> io::Result<()> {
        assert!(MountIdentity::at(Path::new("/proc"))?.is_mount_root);
        let inside = MountIdentity::at(Path::new("/proc/self"))?;
        assert!(!inside.is_mount_root);
        assert_eq!(inside.device, MountIdentity::at(Path::new("/proc"))?.device);
        Ok(())
    }
}
