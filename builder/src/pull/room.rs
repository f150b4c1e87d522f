//! What a layer may take of the disk. A few bytes can be made to decompress to more than any disk holds, and zeros, which
//! become holes, never fill it.

use std::io::{self, Read};
use std::path::Path;

/// After so many bytes the disk is looked at again.
const STEP: u64 = 64 << 20;
/// What is left for others.
const RESERVE: u64 = 64 << 20;

/// A layer is larger than what the disk has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "uncompressed it has more than {passed} bytes, of which the disk that holds the store has room for {room}"
)]
pub struct NoRoom {
    /// So many bytes have come.
    pub passed: u64,
    /// So many bytes the disk could take when they began, or can take still.
    pub room: u64,
}

/// How many bytes the disk that holds `directory` can take, others being left some.
pub(super) fn room(directory: &Path) -> u64 {
    match rustix::fs::statvfs(directory) {
        Ok(disk) => disk
            .f_bavail
            .saturating_mul(disk.f_frsize)
            .saturating_sub(RESERVE),
        // Who cannot be asked sets no limit.
        Err(_) => u64::MAX,
    }
}

/// Reads what there is room for; then the error is a [`NoRoom`].
pub(super) struct Bounded<R, F> {
    from: R,
    room: F,
    passed: u64,
    /// When to look again.
    next: u64,
    /// What there was room for in the beginning.
    limit: u64,
}

impl<R: Read, F: Fn() -> u64> Bounded<R, F> {
    /// `room` tells how much of what is read the disk can still take.
    pub(super) fn new(from: R, room: F) -> Self {
        let limit = room();
        Self {
            from,
            room,
            passed: 0,
            next: STEP,
            limit,
        }
    }

    fn check(&mut self) -> Result<(), NoRoom> {
        self.next = self.passed + STEP;
        let (passed, left) = (self.passed, (self.room)());
        match (left, passed > self.limit) {
            (0, _) => Err(NoRoom { passed, room: 0 }),
            (_, true) => Err(NoRoom {
                passed,
                room: self.limit,
            }),
            (_, false) => Ok(()),
        }
    }
}

impl<R: Read, F: Fn() -> u64> Read for Bounded<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.passed += n as u64;
        if self.passed >= self.next {
            self.check().map_err(io::Error::other)?;
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn read(size: u64, room: impl Fn() -> u64) -> Result<u64, NoRoom> {
        let mut bounded = Bounded::new(io::repeat(0).take(size), room);
        io::copy(&mut bounded, &mut io::sink()).map_err(|error| error.downcast().expect("no room"))
    }

    #[test]
    fn what_fits_is_read_and_no_more() {
        assert_eq!(read(5 * STEP, || 6 * STEP), Ok(5 * STEP));
        let error = read(u64::MAX, || 3 * STEP).expect_err("without end");
        assert_eq!(error.room, 3 * STEP);
        assert!((3 * STEP..=5 * STEP).contains(&error.passed), "{error}");
        // Small layers may have what is left for others.
        assert_eq!(read(STEP / 2, || 0), Ok(STEP / 2));
    }

    #[test]
    fn others_may_fill_the_disk_meanwhile() {
        let asked = Cell::new(0_u64);
        let room = || {
            asked.set(asked.get() + 1);
            (10 * STEP).saturating_sub(asked.get() * 2 * STEP)
        };
        assert_eq!(read(8 * STEP, room).expect_err("full").room, 0);
    }

    #[test]
    fn disks_have_room() {
        assert!(room(Path::new("/proc/self/no such directory")) == u64::MAX);
        assert!(room(&std::env::temp_dir()) < u64::MAX);
    }
}
