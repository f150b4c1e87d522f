//! Telling whether a file of the host is still the one it was, without reading it.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use nix::sys::stat::FileStat;

use crate::digest::Digest;
use crate::layer::Timestamp;

/// A filesystem stamps its files by a clock that goes on at each tick of the kernel: every 10 ms, or more often.
const TICK: Duration = Duration::from_millis(20);
/// A filesystem without fractions of seconds goes on at each second; FAT at each second one.
const COARSE_TICK: Duration = Duration::from_millis(2_500);

/// What tells one state of a regular file from its later ones: a change of its content gives it another stamp, if only
/// the clock has gone on in between (see [`Self::is_settled`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Stamp {
    /// The number of its filesystem.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// When its content changed last; anybody can set it.
    pub mtime: Timestamp,
    /// When it changed last in any way; nobody can set it.
    pub ctime: Timestamp,
}

/// The digest of a file's content while the file has a stamp.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Known {
    /// Of the file.
    pub stamp: Stamp,
    /// Of its content.
    pub digest: Digest,
}

impl Stamp {
    /// The stamp in what stat(2) told.
    pub fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime: timestamp(stat.st_mtime, stat.st_mtime_nsec),
            ctime: timestamp(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    /// The stamp in what the standard library's stat told.
    pub fn of_metadata(stat: &std::fs::Metadata) -> Self {
        Self {
            device: stat.dev(),
            inode: stat.ino(),
            size: stat.size(),
            mtime: timestamp(stat.mtime(), stat.mtime_nsec()),
            ctime: timestamp(stat.ctime(), stat.ctime_nsec()),
        }
    }

    /// Whether every change after `now` gives another stamp. Within the same tick of the clock two changes give the
    /// same: what was read between them must not be believed later (git calls such a file racy).
    pub fn is_settled(&self, now: Timestamp) -> bool {
        let newest = self.mtime.max(self.ctime);
        let tick = match (self.mtime.nanoseconds, self.ctime.nanoseconds) {
            (0, 0) => COARSE_TICK,
            _ => TICK,
        };
        std::time::SystemTime::from(newest)
            .checked_add(tick)
            .is_some_and(|settled| settled < std::time::SystemTime::from(now))
    }
}

fn timestamp(seconds: i64, nanoseconds: i64) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp { seconds, nanoseconds }
    }

    fn stamp(mtime: Timestamp, ctime: Timestamp) -> Stamp {
        Stamp {
            device: 1,
            inode: 2,
            size: 3,
            mtime,
            ctime,
        }
    }

    #[test]
    fn only_what_is_older_than_a_tick_is_settled() {
        let fine = stamp(at(50, 7), at(100, 500_000_000));
        assert!(!fine.is_settled(at(100, 500_000_000)));
        assert!(!fine.is_settled(at(100, 510_000_000)));
        assert!(fine.is_settled(at(100, 530_000_000)));
        // A clock that was set back.
        assert!(!fine.is_settled(at(99, 0)));
        let future = stamp(at(500, 7), at(100, 7));
        assert!(!future.is_settled(at(200, 0)));
    }

    #[test]
    fn whole_seconds_need_seconds() {
        let coarse = stamp(at(100, 0), at(100, 0));
        assert!(!coarse.is_settled(at(102, 0)));
        assert!(coarse.is_settled(at(103, 0)));
    }

    #[test]
    fn both_ways_to_ask_tell_the_same() -> std::io::Result<()> {
        let file = tempfile::NamedTempFile::new()?;
        let stat = nix::sys::stat::lstat(file.path())?;
        let metadata = std::fs::symlink_metadata(file.path())?;
        assert_eq!(Stamp::of(&stat), Stamp::of_metadata(&metadata));
        Ok(())
    }
}
