//! A layer: what an entry of it can be, and the layer at rest.
//!
//! The `.wh.` spelling of whiteouts lives in the layer codec alone; everywhere else a whiteout is a
//! variant of [`index::Slot`] and an opaque directory a flag of its entry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::digest::DiffId;

pub mod compare;
pub mod index;
pub mod ingest;
pub mod marker;
mod pax;
pub mod rewrite;
mod tar_file;
pub mod writer;

use index::{EntryId, Index, IndexError};

/// A point in time: seconds since the Unix epoch (negative before it) and nanoseconds within that second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self {
            seconds,
            nanoseconds: 0,
        }
    }

    /// The present as the kernel dates files: the system's clock at its last tick. A file that is made and
    /// written within a tick so has the time already that the kernel would set at the write, and would send.
    pub fn now() -> Self {
        match nix::time::clock_gettime(nix::time::ClockId::CLOCK_REALTIME_COARSE) {
            Ok(time) => Self {
                seconds: time.tv_sec(),
                nanoseconds: u32::try_from(time.tv_nsec()).unwrap_or_default(),
            },
            Err(_) => std::time::SystemTime::now().into(),
        }
    }
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self {
                seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: after.subsec_nanos(),
            },
            Err(before) => {
                let before = before.duration();
                let seconds = -i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
                match before.subsec_nanos() {
                    0 => Self::from_seconds(seconds),
                    n => Self {
                        seconds: seconds - 1,
                        nanoseconds: 1_000_000_000 - n,
                    },
                }
            }
        }
    }
}

impl From<Timestamp> for std::time::SystemTime {
    /// Times that the system's clock type cannot hold become the epoch.
    fn from(time: Timestamp) -> Self {
        use std::time::{Duration, UNIX_EPOCH};
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let second = if time.seconds < 0 {
            UNIX_EPOCH.checked_sub(whole)
        } else {
            UNIX_EPOCH.checked_add(whole)
        };
        second
            .and_then(|t| t.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))))
            .unwrap_or(UNIX_EPOCH)
    }
}

/// Extended attributes by full name (`security.capability`, `user.x`).
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// What every node carries besides its content.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Metadata {
    /// Permission bits with set-user-ID, set-group-ID and sticky: at most 0o7777.
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// The type of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A Unix socket. A tar cannot hold one: a snapshot leaves it out, as Docker does.
    Socket,
}

impl Kind {
    /// The `S_IFMT` bits of `st_mode`.
    pub const fn file_type_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
        }
    }

    /// The kind that the `S_IFMT` bits of `mode` name.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => return None,
        })
    }
}

/// A device number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Device {
    /// Selects the driver.
    pub major: u32,
    /// Selects the device of that driver.
    pub minor: u32,
}

/// A layer: the index of its uncompressed tar, and where the tar's bytes come from.
pub struct Layer {
    index: Index,
    tar: Tar,
}

/// Bytes that are read at an offset, from any thread.
pub trait ReadAt: Send + Sync {
    /// Fills `buffer` with the bytes that begin at `offset`.
    ///
    /// # Errors
    /// What reading reports; `UnexpectedEof` if there are fewer bytes.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// Where the bytes of a tar come from.
enum Tar {
    /// The tar lies in the store. The first read opens it: most layers of a deep image are never read from.
    File { path: PathBuf, open: OnceLock<File> },
    /// It lies elsewhere. Its positions are those of the index, which need not be the ones of a real tar.
    Elsewhere(Box<dyn ReadAt>),
}

impl Tar {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Self::File { path, open } => {
                let file = match open.get() {
                    Some(file) => file,
                    None => {
                        let failed = |error: io::Error| {
                            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
                        };
                        let file = File::open(path).map_err(failed)?;
                        open.get_or_init(|| file)
                    }
                };
                file.read_exact_at(buffer, offset)
            }
            Self::Elsewhere(bytes) => bytes.read_exact_at(buffer, offset),
        }
    }
}

/// Name of the uncompressed tar within a layer's directory.
pub const TAR_FILE: &str = "tar";
/// Name of the index within a layer's directory.
pub const INDEX_FILE: &str = "index";

impl Layer {
    /// Opens the layer in `directory`. Neither the tar nor the index is read through.
    ///
    /// # Errors
    /// [`IndexError`] if the index is missing or damaged. That the tar is missing shows when it is read.
    pub fn open(directory: &Path) -> Result<Self, IndexError> {
        let index = Index::open(&directory.join(INDEX_FILE))?;
        let tar = Tar::File {
            path: directory.join(TAR_FILE),
            open: OnceLock::new(),
        };
        Ok(Self { index, tar })
    }

    /// A layer whose bytes lie elsewhere: `tar` is read at the positions that `index` names.
    pub fn elsewhere(index: Index, tar: Box<dyn ReadAt>) -> Self {
        let tar = Tar::Elsewhere(tar);
        Self { index, tar }
    }

    /// The digest of the uncompressed tar.
    pub fn diff_id(&self) -> DiffId {
        self.index.diff_id()
    }

    /// What the layer holds.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Whether its bytes are not the store's.
    pub fn is_elsewhere(&self) -> bool {
        matches!(self.tar, Tar::Elsewhere(_))
    }

    /// Reads from the content of the file `id`, starting at byte `offset`. Returns the number of bytes read:
    /// less than asked for only at the end of the file.
    ///
    /// # Errors
    /// What pread(2) reports; `UnexpectedEof` if the tar is shorter than its index says.
    pub fn read_at(&self, id: EntryId, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let Some(entry) = self.index.entry(id) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let wanted = entry.size().saturating_sub(offset).min(buffer.len() as u64);
        let buffer = &mut buffer[..usize::try_from(wanted).unwrap_or(usize::MAX)];
        let end = offset + wanted;
        let mut done = offset;
        for extent in entry.extents() {
            let (from, to) = (
                extent.offset.max(offset),
                (extent.offset.saturating_add(extent.length)).min(end),
            );
            if from >= to {
                continue;
            }
            let place = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            buffer[place(done.min(from))..place(from)].fill(0);
            self.tar.read_exact_at(
                &mut buffer[place(from)..place(to)],
                extent.position + (from - extent.offset),
            )?;
            done = to;
        }
        let read = buffer.len();
        buffer[usize::try_from(done - offset).unwrap_or(read).min(read)..].fill(0);
        Ok(read)
    }
}
