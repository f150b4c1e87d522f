//! Telling the kernel when to write.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Begins to write the bytes from `offset` on to the disk, without waiting for it. It is no more than advice: what it
/// cannot do, fsync(2) does later, and reports.
pub(crate) fn start_write_back(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the call takes numbers only, and the descriptor is open for as long as `file` is borrowed.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, length, libc::SYNC_FILE_RANGE_WRITE) };
}
