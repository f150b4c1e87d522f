//! System calls that nix lacks.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;

/// Sets an extended attribute of `name` in a directory; a symbolic link there is not followed.
pub(super) fn set_xattr(
    directory: impl AsFd,
    name: &OsStr,
    attribute: &[u8],
    value: &[u8],
) -> nix::Result<()> {
    // There is no setxattrat(2) before Linux 6.13; the directory is reached by its descriptor.
    let mut path = format!("/proc/self/fd/{}/", directory.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    let attribute = CString::new(attribute).map_err(|_| Errno::EINVAL)?;
    // SAFETY: both texts end in NUL, and `value` is as long as is said.
    let result = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            attribute.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}
