//! The copy-on-write union of layers, as a plain object: one method per file operation, no FUSE types.
//!
//! Lower layers are merged at their indexes and never change. What a session changes lies in an *upper*:
//! names and metadata in memory, the bytes of changed files in memory or in flat files named by inode number.
//! So a chown, a rename or a removal moves no data, nothing of the image's ownership has to be possible on the
//! host, and a whiteout is a variant of an enum.
//!
//! One lock guards names and metadata and is held for microseconds; the data of each file has a lock of its
//! own (`data.rs`). No lock of names is ever held across the reading or writing of files.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};

use data::FileData;
use tree::Tree;

use crate::layer::{Device, Kind, Layer, Timestamp};
use crate::path::ImagePath;

mod acl;
mod attr;
mod create;
mod data;
pub(crate) mod diff;
mod error;
mod file;
mod flat;
mod inode;
mod lookup;
mod lower;
mod place;
mod plain;
mod readdir;
mod remove;
mod rename;
#[cfg(test)]
pub(crate) mod tests;
pub mod trace;
mod tree;
mod upper;
mod virtuals;
mod xattr;

pub use acl::Acl;
pub use error::Error;
pub use lower::{Found, Lowers, Origin};
pub use place::{Expected, HostFile, Source};
pub use trace::{Aspect, Difference, Observation, Presence, ReadSet};
pub use upper::{Durable, Upper};
pub use virtuals::{Virtual, VirtualNode};

/// The result of an operation on the overlay.
pub type Result<T> = std::result::Result<T, Error>;

/// An inode number. A lower node's follows from its place in the layers, so it is the same in each session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ino(pub u64);

impl Ino {
    /// The root directory.
    pub const ROOT: Self = Self(1);
}

/// The attributes of a node, as stat(2) has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Type.
    pub kind: Kind,
    /// Permission, set-ID and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of names. Of a directory 2 and one for each directory in it, or 1 if it has lower parts.
    pub nlink: u32,
    /// Size in bytes. Every directory has the same.
    pub size: u64,
    /// Space in units of 512 bytes.
    pub blocks: u64,
    /// Device number of a device.
    pub device: Device,
    /// Last access; reading does not change it.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the content or the status.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
}

/// A node on the way from another up to the root: see [`Overlay::above`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Above {
    /// Its path from the root.
    pub path: Vec<u8>,
    /// Permission, set-ID and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The access control list that counts besides the mode.
    pub list: Option<Acl>,
}

/// Owner and group of new nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group, unless the parent directory has the set-group-ID bit and so gives its own.
    pub gid: u32,
}

/// Changes of attributes; what is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Permission, set-ID and sticky bits.
    pub mode: Option<u32>,
    /// Owner. A change of owner or group takes the set-ID bits and file capabilities away, as chown(2) does.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: truncates or extends a file.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Last change of the status; the present if not given.
    pub ctime: Option<Timestamp>,
    /// Also takes the set-ID bits and file capabilities away (`FUSE_HANDLE_KILLPRIV_V2`).
    pub kill_privileges: bool,
}

/// What to create.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewKind<'a> {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
}

/// What a rename does with the new name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replaces what has it.
    Replace,
    /// Fails if something has it.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// What to seek for in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

/// What fallocate(2) is to do with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Reserve space; the file grows to hold the range.
    Extend,
    /// Reserve space; the size stays.
    KeepSize,
    /// Make the range a hole; the size stays.
    PunchHole,
    /// Make the range read as zeros.
    ZeroRange {
        /// The size stays.
        keep_size: bool,
    },
}

/// Whether an extended attribute must exist.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetXattr {
    /// It may.
    Any,
    /// It must not.
    Create,
    /// It must.
    Replace,
}

/// Whether a symbolic link at the end of a path is followed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Follow {
    /// Yes, as stat(2).
    Yes,
    /// No, as lstat(2).
    No,
}

/// An entry of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// The inode number.
    pub ino: Ino,
    /// The type.
    pub kind: Kind,
    /// The cookie that continues after this entry.
    pub next: u64,
}

/// The size and the free space of the filesystem, as statvfs(3) has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_size: u32,
    /// Blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for users without privileges.
    pub available: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// The longest name in bytes.
    pub name_max: u32,
}

/// How a writable session differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Record what the session reads: see [`Overlay::read_set`].
    pub record: bool,
    /// Nodes that exist for this session only.
    pub virtuals: Vec<Virtual>,
}

/// The union of layers, perhaps with an upper. All operations may be called from several threads.
pub struct Overlay {
    tree: Mutex<Tree>,
    lower: Arc<Lowers>,
    upper: Option<upper::Active>,
    /// Shared by whoever changes the bytes of a file; held alone while they are to stay as they are.
    bytes: RwLock<()>,
    record: bool,
}

impl Overlay {
    /// The union of `layers`, bottom layer first, for reading.
    pub fn read_only(layers: Vec<Arc<Layer>>) -> Self {
        let lower = Arc::new(Lowers::new(layers));
        Self {
            tree: Mutex::new(Tree::new(Arc::clone(&lower), None)),
            lower,
            upper: None,
            bytes: RwLock::default(),
            record: false,
        }
    }

    /// The union of `layers`, bottom layer first, with an upper that takes the changes.
    ///
    /// # Errors
    /// [`Error::Io`] if the upper's directory cannot be used, [`Error::State`] if a named upper holds a state
    /// that is damaged or belongs to other layers, [`Error::InUse`] if another session has it, [`Error::NotSupported`]
    /// for virtual nodes with a named upper, and what placing the virtual nodes meets.
    pub fn writable(layers: Vec<Arc<Layer>>, upper: Upper, options: Options) -> Result<Self> {
        let lower = Arc::new(Lowers::new(layers));
        let upper = upper::Active::open(upper)?;
        let mut tree = Tree::new(Arc::clone(&lower), Some(Arc::clone(upper.files())));
        upper.restore(&mut tree)?;
        if upper.is_named() && !options.virtuals.is_empty() {
            return Err(Error::NotSupported);
        }
        tree.install_virtuals(options.virtuals)?;
        if options.record {
            let found = tree.node(Ino::ROOT.0)?.found();
            tree.trace = Some(trace::Trace::new(Ino::ROOT.0, found));
        }
        Ok(Self {
            tree: Mutex::new(tree),
            lower,
            upper: Some(upper),
            bytes: RwLock::default(),
            record: options.record,
        })
    }

    /// The layers below, bottom layer first.
    pub fn layers(&self) -> &[Arc<Layer>] {
        self.lower.layers()
    }

    /// What the session has read of the lower layers so far, if it is recorded.
    pub fn read_set(&self) -> Option<ReadSet> {
        self.tree().read_set()
    }

    /// Saves all that a named upper has changed, so that a later session finds it. For other overlays there is
    /// nothing to do.
    ///
    /// # Errors
    /// [`Error::Io`]; what was saved before then still holds.
    pub fn save(&self) -> Result<()> {
        match &self.upper {
            Some(upper) => upper.sync(self, Durable::All),
            None => Ok(()),
        }
    }

    /// Saves as [`Overlay::save`] does and lets go of a named upper: from then on the next session can have it, although
    /// something may still hold this one. Nothing is to be changed any more.
    ///
    /// # Errors
    /// [`Error::Io`]; if saving failed, the upper is not let go of.
    pub fn end(&self) -> Result<()> {
        self.save()?;
        self.upper.as_ref().map_or(Ok(()), upper::Active::release)
    }

    /// Holds up every change of the bytes of files until it is dropped. Names and metadata go on changing.
    pub(crate) fn hold_bytes(&self) -> RwLockWriteGuard<'_, ()> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock on names and metadata. A panic elsewhere cannot leave them half-changed in a way that matters
    /// more than going on.
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for a change.
    fn tree_mut(&self) -> Result<MutexGuard<'_, Tree>> {
        match self.upper {
            Some(_) => Ok(self.tree()),
            None => Err(Error::ReadOnly),
        }
    }
}

/// Refuses what is no name of a directory entry.
fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > crate::path::NAME_MAX {
        return Err(Error::NameTooLong);
    }
    match name {
        b"" | b"." | b".." => Err(Error::Invalid),
        _ if name.iter().any(|b| matches!(b, 0 | b'/')) => Err(Error::Invalid),
        _ => Ok(()),
    }
}
