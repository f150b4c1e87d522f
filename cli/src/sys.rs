//! What the program asks of the system that has no safe form.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::unistd::ForkResult;

/// Splits the process in two, if it has one thread: another one's locks would stay locked in the child.
///
/// # Errors
/// `EBUSY` with several threads, and what fork(2) reports.
pub fn fork() -> nix::Result<ForkResult> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: there is one thread, this one, so no lock is left held in the child.
    unsafe { nix::unistd::fork() }
}
