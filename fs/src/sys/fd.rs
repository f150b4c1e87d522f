//! Descriptors that come from another process.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes ownership of a descriptor that recvmsg(2) has just put into this process (SCM_RIGHTS).
///
/// Give it only such a number, and only once.
pub(crate) fn received(number: RawFd) -> OwnedFd {
    // SAFETY: the kernel made this descriptor for the receiver of the message; nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(number) }
}
