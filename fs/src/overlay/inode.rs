//! What a node is: its metadata, and what only its kind has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::data::FileData;
use super::lower::{Found, Lowers, Origin};
use super::readdir::Listing;
use super::virtuals::Virtuals;
use super::{Attr, Error, Ino};
use crate::layer::{Device, Kind, Timestamp, Xattrs};

/// The size that every directory has: it must not depend on how its entries are stored.
const DIRECTORY_SIZE: u64 = 4096;

pub(super) struct Node {
    /// Of a lower node: what it is in the lower tree.
    pub origin: Option<Origin>,
    /// References that the kernel holds.
    pub references: u64,
    /// Something in this process may know the number: the node stays.
    pub held: bool,
    pub pinned: bool,
    /// Nodes that have this directory as their home.
    pub children: u32,
    /// The directory and the name under which the node was first found, as long as it has that name.
    pub home: Option<(u64, Box<[u8]>)>,
    /// The number of names; 0 once it is removed.
    pub links: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub atime: Timestamp,
    pub mtime: Timestamp,
    pub ctime: Timestamp,
    pub btime: Timestamp,
    /// The mtime was set by hand, not by a change of the content.
    pub dated: bool,
    /// The attributes; those of the lower node, or none of a new one, while `None`.
    pub xattrs: Option<Box<Xattrs>>,
    pub body: Body,
}

pub(super) enum Body {
    File(Content),
    Directory(Box<Dir>),
    Symlink(Box<[u8]>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
    Socket,
}

/// The content of a file.
pub(super) enum Content {
    /// That of the lower node.
    Lower,
    /// Its own.
    Own(Arc<FileData>),
}

#[derive(Default)]
pub(super) struct Dir {
    /// The lower directories merged here, top first; empty for a new directory.
    pub contributors: Vec<Origin>,
    /// What differs from the contributors, or leads to something that does.
    pub overrides: BTreeMap<Box<[u8]>, Override>,
    /// Directories among the overrides.
    pub subdirectories: u32,
    pub listing: Option<Box<Listing>>,
    /// Names that exist for this session only.
    pub virtuals: Option<Box<Virtuals>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Override {
    Node(u64),
    Whiteout,
}

impl Node {
    /// A new node, which no name leads to yet.
    pub fn new(body: Body, mode: u32, uid: u32, gid: u32) -> Self {
        let now = Timestamp::now();
        Self {
            origin: None,
            references: 0,
            held: false,
            pinned: true,
            children: 0,
            home: None,
            links: 0,
            mode,
            uid,
            gid,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            dated: false,
            xattrs: None,
            body,
        }
    }

    /// A node as the lower tree has it.
    pub fn lower(lower: &Lowers, found: Found) -> Option<Self> {
        let entry = lower.description(&found)?;
        let origin = found.origin;
        let body = match found.kind {
            Kind::File => Body::File(Content::Lower),
            Kind::Directory => Body::Directory(Box::new(Dir {
                contributors: found.contributors,
                ..Dir::default()
            })),
            Kind::Symlink => Body::Symlink(entry.target().into()),
            Kind::CharDevice => Body::CharDevice(entry.device()),
            Kind::BlockDevice => Body::BlockDevice(entry.device()),
            Kind::Fifo => Body::Fifo,
            Kind::Socket => Body::Socket,
        };
        let links = match body {
            Body::Directory(_) => 1,
            _ => lower.link_count(origin),
        };
        let mtime = entry.mtime();
        Some(Self {
            origin: Some(origin),
            references: 0,
            held: false,
            pinned: false,
            children: 0,
            home: None,
            links,
            mode: entry.mode(),
            uid: entry.uid(),
            gid: entry.gid(),
            atime: mtime,
            mtime,
            ctime: mtime,
            btime: mtime,
            dated: false,
            xattrs: None,
            body,
        })
    }

    pub fn kind(&self) -> Kind {
        match self.body {
            Body::File(_) => Kind::File,
            Body::Directory(_) => Kind::Directory,
            Body::Symlink(_) => Kind::Symlink,
            Body::CharDevice(_) => Kind::CharDevice,
            Body::BlockDevice(_) => Kind::BlockDevice,
            Body::Fifo => Kind::Fifo,
            Body::Socket => Kind::Socket,
        }
    }

    pub fn is_directory(&self) -> bool {
        matches!(self.body, Body::Directory(_))
    }

    pub fn dir(&self) -> Result<&Dir, Error> {
        match &self.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Error::NotADirectory),
        }
    }

    pub fn dir_mut(&mut self) -> Result<&mut Dir, Error> {
        match &mut self.body {
            Body::Directory(dir) => Ok(dir),
            _ => Err(Error::NotADirectory),
        }
    }

    /// The lower directories or the lower entry, as the lower tree would find it.
    pub fn found(&self) -> Option<Found> {
        Some(Found {
            origin: self.origin?,
            kind: self.kind(),
            contributors: match &self.body {
                Body::Directory(dir) => dir.contributors.clone(),
                _ => Vec::new(),
            },
        })
    }

    /// The attributes; size and space of a file with own content are the caller's to fill in from the second
    /// value, outside of the lock.
    pub fn attr(&self, ino: u64, lower: &Lowers) -> (Attr, Option<Arc<FileData>>) {
        let (mut size, mut blocks, mut device, mut data) = (0, 0, Device::default(), None);
        let mut nlink = self.links;
        match &self.body {
            Body::File(Content::Lower) => {
                if let Some(entry) = self.origin.and_then(|origin| lower.entry(origin)) {
                    size = entry.size();
                    blocks = entry.stored().div_ceil(512);
                }
            }
            Body::File(Content::Own(own)) => data = Some(Arc::clone(own)),
            Body::Directory(dir) => {
                size = DIRECTORY_SIZE;
                blocks = DIRECTORY_SIZE / 512;
                // A directory with lower parts has the constant 1, which tells tools not to count on it:
                // counting would make every stat depend on the listing.
                if self.links > 0 && dir.contributors.is_empty() {
                    nlink = dir.subdirectories.saturating_add(2);
                }
            }
            Body::Symlink(target) => size = target.len() as u64,
            Body::CharDevice(d) | Body::BlockDevice(d) => device = *d,
            Body::Fifo | Body::Socket => {}
        }
        let attr = Attr {
            ino: Ino(ino),
            kind: self.kind(),
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink,
            size,
            blocks,
            device,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        };
        (attr, data)
    }
}
