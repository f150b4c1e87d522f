//! Requests that move file content.

use std::cell::RefCell;

use fuser::{Errno, ReplyData, ReplyLseek, ReplyWrite};

use super::errno;
use super::negotiate::MAX_REQUEST;
use crate::overlay::{Changes, Error, Ino, Overlay, Seek};

/// The most that one COPY_FILE_RANGE request copies, so that it does not hold up its thread: the kernel's
/// caller sees a short copy and asks again.
const MAX_COPY: u64 = 16 << 20;

thread_local! {
    /// Each event-loop thread answers reads from one buffer: a fresh one would be zeroed each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn with_buffer<T>(size: usize, use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        if buffer.len() < size {
            buffer.resize(size, 0);
        }
        use_it(&mut buffer[..size])
    })
}

pub(super) fn read(overlay: &Overlay, ino: Ino, offset: u64, size: u32, reply: ReplyData) {
    read_by(size, reply, |buffer| overlay.read(ino, offset, buffer));
}

/// Answers with what `read` puts into the buffer.
pub(super) fn read_by(size: u32, reply: ReplyData, read: impl FnOnce(&mut [u8]) -> Result<usize, Error>) {
    with_buffer(size.min(MAX_REQUEST) as usize, |buffer| match read(buffer) {
        Ok(read) => reply.data(&buffer[..read.min(buffer.len())]),
        Err(error) => reply.error(errno(&error)),
    });
}

pub(super) fn write(
    overlay: &Overlay,
    ino: Ino,
    offset: u64,
    data: &[u8],
    kill_privileges: bool,
    reply: ReplyWrite,
) {
    let written = match kill_privileges {
        false => overlay.write(ino, offset, data),
        true => drop_privileges(overlay, ino).and_then(|()| overlay.write(ino, offset, data)),
    };
    match written {
        Ok(written) => reply.written(u32::try_from(written).unwrap_or(u32::MAX)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Takes the set-ID bits away, as a write by somebody without CAP_FSETID does.
fn drop_privileges(overlay: &Overlay, ino: Ino) -> Result<(), Error> {
    let changes = Changes {
        kill_privileges: true,
        ..Changes::default()
    };
    overlay.set_attr(ino, &changes).map(drop)
}

pub(super) fn seek(overlay: &Overlay, ino: Ino, offset: i64, whence: i32, reply: ReplyLseek) {
    seek_by(offset, whence, reply, |offset, what| {
        overlay.seek(ino, offset, what)
    });
}

/// Answers with where `seek` finds data or a hole.
pub(super) fn seek_by(
    offset: i64,
    whence: i32,
    reply: ReplyLseek,
    seek: impl FnOnce(u64, Seek) -> Result<u64, Error>,
) {
    let what = match whence {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return reply.error(Errno::EINVAL),
    };
    let Ok(offset) = u64::try_from(offset) else {
        return reply.error(Errno::ENXIO);
    };
    match seek(offset, what).map(i64::try_from) {
        Ok(Ok(found)) => reply.offset(found),
        Ok(Err(_)) => reply.error(Errno::EOVERFLOW),
        Err(error) => reply.error(errno(&error)),
    }
}

pub(super) fn copy(overlay: &Overlay, from: (Ino, u64), to: (Ino, u64), length: u64, reply: ReplyWrite) {
    let length = length.min(MAX_COPY);
    let mut done = 0;
    let result = with_buffer(MAX_REQUEST as usize, |buffer| {
        while done < length {
            let want = usize::try_from(length - done)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let read = overlay.read(from.0, from.1.saturating_add(done), &mut buffer[..want])?;
            if read == 0 {
                break;
            }
            let written = overlay.write(to.0, to.1.saturating_add(done), &buffer[..read])?;
            done += written as u64;
            if written < read {
                break;
            }
        }
        Ok(())
    });
    match result {
        Err(error) if done == 0 => reply.error(errno(&error)),
        // What was copied before an error counts; the next request meets the error again.
        _ => reply.written(u32::try_from(done).unwrap_or(u32::MAX)),
    }
}
