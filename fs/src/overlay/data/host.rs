//! What a file of the host's filesystem needs besides the standard library.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use crate::overlay::{Allocate, Error, Seek};

/// Copying looks for holes in pieces of this size: a block of nearly every host filesystem.
pub(super) const BLOCK: usize = 4096;

/// Opens a source file for one reading: thousands of them are named at a time, too many to hold open. What was put in
/// its place meanwhile is refused if it is no regular file.
pub(in crate::overlay) fn open(path: &Path) -> Result<File, Error> {
    let open = || {
        let file = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it is no regular file any more")),
        }
    };
    open().map_err(Error::io("open a source file"))
}

/// Reads at `offset`; less than asked for only at the end of the file.
pub(super) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes the runs of blocks that are not all zeros.
pub(super) fn write_sparse(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let mut start = 0;
    while start < data.len() {
        let is_zero = |at: usize| {
            let block = &data[at..(at + BLOCK).min(data.len())];
            block == &ZEROS[..block.len()]
        };
        let zero = is_zero(start);
        let mut end = (start + BLOCK).min(data.len());
        while end < data.len() && is_zero(end) == zero {
            end = (end + BLOCK).min(data.len());
        }
        if !zero {
            file.write_all_at(&data[start..end], offset + start as u64)?;
        }
        start = end;
    }
    Ok(())
}

/// fallocate(2) on a file of `size` bytes, which has `grown` bytes afterwards.
pub(super) fn allocate(
    file: &File,
    how: Allocate,
    offset: u64,
    length: u64,
    size: u64,
    grown: u64,
) -> Result<(), Error> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| Error::FileTooLarge);
    let (at, len) = (signed(offset)?, signed(length)?);
    let flags = match how {
        Allocate::Extend => FallocateFlags::empty(),
        Allocate::KeepSize => FallocateFlags::FALLOC_FL_KEEP_SIZE,
        Allocate::PunchHole => FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE,
        Allocate::ZeroRange { keep_size: true } => {
            FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE
        }
        Allocate::ZeroRange { keep_size: false } => FallocateFlags::FALLOC_FL_ZERO_RANGE,
    };
    match fallocate(file.as_fd(), flags, at, len) {
        Ok(()) => Ok(()),
        // The host's filesystem cannot do it: what readers see is done by hand.
        Err(nix::errno::Errno::EOPNOTSUPP) => {
            if matches!(how, Allocate::PunchHole | Allocate::ZeroRange { .. }) {
                let end = (offset + length).min(size);
                write_zeros(file, offset, end).map_err(Error::io("write zeros to a flat file"))?;
            }
            if grown > size {
                file.set_len(grown).map_err(Error::io("extend a flat file"))?;
            }
            Ok(())
        }
        Err(errno) => Err(Error::io("allocate space")(errno)),
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; 64 * BLOCK];
    let mut at = start;
    while at < end {
        let n = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

/// lseek(2) for data and holes.
pub(super) fn seek(file: &File, offset: u64, what: Seek) -> Result<u64, Error> {
    let whence = match what {
        Seek::Data => Whence::SeekData,
        Seek::Hole => Whence::SeekHole,
    };
    let offset = i64::try_from(offset).map_err(|_| Error::OutOfRange)?;
    match lseek(file.as_fd(), offset, whence) {
        Ok(at) => Ok(at.unsigned_abs()),
        Err(nix::errno::Errno::ENXIO) => Err(Error::OutOfRange),
        Err(errno) => Err(Error::io("seek in a flat file")(errno)),
    }
}
