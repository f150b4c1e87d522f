//! The protocol's numbers and ours.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, RenameFlags, TimeOrNow};

use crate::layer::{Device, Kind, Timestamp};
use crate::overlay::{Allocate, Attr, Ino, NewKind, RenameMode, SetXattr};

/// The preferred size of a read or write, in bytes: a page, as on most file systems.
const BLOCK_SIZE: u32 = 4096;

/// The attributes in an entry reply that says "no such name": the kernel only looks at the inode number, 0.
pub(super) const ABSENT: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// What a listing with attributes says of `.` and `..`: the kernel only passes the number and the type on.
pub(super) fn bare_directory(ino: Ino) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        kind: FileType::Directory,
        ..ABSENT
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or_default(),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: encode_device(attr.device),
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
    }
}

/// What mknod(2) is to make; a mode without a type means a file.
pub(super) fn new_kind(mode: u32, device: u32) -> Option<NewKind<'static>> {
    if mode & libc::S_IFMT == 0 {
        return Some(NewKind::File);
    }
    let device = decode_device(device);
    match Kind::from_mode(mode)? {
        Kind::File => Some(NewKind::File),
        Kind::CharDevice => Some(NewKind::CharDevice(device)),
        Kind::BlockDevice => Some(NewKind::BlockDevice(device)),
        Kind::Fifo => Some(NewKind::Fifo),
        Kind::Socket => Some(NewKind::Socket),
        Kind::Directory | Kind::Symlink => None,
    }
}

/// The kernel's 32-bit form of a device number (`new_encode_dev`): 12 bits of major, 20 of minor.
fn encode_device(device: Device) -> u32 {
    let Device { major, minor } = device;
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xfff00) << 12
}

fn decode_device(number: u32) -> Device {
    Device {
        major: number >> 8 & 0xfff,
        minor: (number & 0xff) | (number >> 12 & 0xfff00),
    }
}

/// `None` for RENAME_WHITEOUT and what is not known: the kernel's answer to a flag that a file system lacks is
/// EINVAL (rename(2)).
pub(super) fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

pub(super) fn set_xattr_mode(flags: i32) -> SetXattr {
    match flags {
        libc::XATTR_CREATE => SetXattr::Create,
        libc::XATTR_REPLACE => SetXattr::Replace,
        _ => SetXattr::Any,
    }
}

/// The modes of fallocate(2) that are supported: those that the kernel passes to a FUSE server.
pub(super) fn allocation(mode: i32) -> Option<Allocate> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Some(Allocate::Extend),
        libc::FALLOC_FL_KEEP_SIZE => Some(Allocate::KeepSize),
        PUNCH => Some(Allocate::PunchHole),
        libc::FALLOC_FL_ZERO_RANGE => Some(Allocate::ZeroRange { keep_size: false }),
        ZERO_KEEP => Some(Allocate::ZeroRange { keep_size: true }),
        _ => None,
    }
}

pub(super) fn wanted_time(time: TimeOrNow) -> Timestamp {
    match time {
        TimeOrNow::Now => Timestamp::now(),
        TimeOrNow::SpecificTime(time) => timestamp(time),
    }
}

/// The time that the kernel sent. Before the epoch the kernel's nanoseconds count forward from the second, but
/// fuser 0.18 subtracts them; this undoes it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match UNIX_EPOCH.duration_since(time) {
        Ok(before) if before > Duration::ZERO => Timestamp {
            seconds: i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds),
            nanoseconds: before.subsec_nanos(),
        },
        _ => time.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [
            (0, 0),
            (1, 3),
            (8, 255),
            (8, 256),
            (259, 0xfffff),
            (0xfff, 0x12345),
        ] {
            let device = Device { major, minor };
            assert_eq!(decode_device(encode_device(device)), device);
        }
        // makedev(259, 300) as the kernel encodes it.
        assert_eq!(
            encode_device(Device {
                major: 259,
                minor: 300
            }),
            0x0011_032c
        );
    }

    #[test]
    fn times_before_the_epoch_are_read_as_the_kernel_sent_them() {
        // The kernel sends -1.75 s as second -2, nanosecond 250,000,000; fuser makes -2.25 s of it.
        let received = UNIX_EPOCH - Duration::new(2, 250_000_000);
        let expected = Timestamp {
            seconds: -2,
            nanoseconds: 250_000_000,
        };
        assert_eq!(timestamp(received), expected);
        assert_eq!(timestamp(UNIX_EPOCH), Timestamp::default());
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(5)),
            Timestamp::from_seconds(5)
        );
    }

    #[test]
    fn unsupported_flags_are_refused() {
        assert!(rename_mode(RenameFlags::RENAME_WHITEOUT).is_none());
        assert!(rename_mode(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_NOREPLACE).is_none());
        assert!(allocation(libc::FALLOC_FL_COLLAPSE_RANGE).is_none());
        assert!(allocation(libc::FALLOC_FL_PUNCH_HOLE).is_none());
        assert!(new_kind(libc::S_IFDIR, 0).is_none());
    }
}
