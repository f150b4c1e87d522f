//! Building an index while a layer's entries come by, in any order that a tar can have.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::{
    ENTRY, EXTENT, EntryId, Extent, FLAG_DIGEST, FLAG_IMPLICIT, FLAG_OPAQUE, FLAG_SPARSE, HEADER, MAGIC,
    NAME, Slot, TAG_ENTRY, TAG_LINK, TAG_WHITEOUT,
};
use crate::digest::{DiffId, Digest};
use crate::layer::{Device, Kind, Metadata, Timestamp};
use crate::path::ImagePath;

/// An entry that a layer must not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEntry {
    /// The path leads through something of this layer that is no directory: a symbolic link, for instance,
    /// that would lead elsewhere.
    #[error("{path} lies below {through}, which is no directory in this layer")]
    ThroughNonDirectory {
        /// The entry.
        path: ImagePath,
        /// What it leads through.
        through: ImagePath,
    },
    /// The root replaced by something else, or removed.
    #[error("the layer replaces the root directory by something else")]
    Root,
    /// More entries or names than the format can count.
    #[error("the layer is too large: more than 4,294,967,295 entries or bytes of names")]
    TooLarge,
}

/// Where the content of a regular file lies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Data {
    /// Size in bytes.
    pub size: u64,
    /// The digest of the whole content, where it is known.
    pub digest: Option<Digest>,
    /// The pieces in the tar, ascending and without overlap; what they leave out reads as zeros.
    pub extents: Vec<Extent>,
}

/// What an entry is, with what only that kind has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A regular file.
    File(Data),
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

impl Node {
    fn kind(&self) -> Kind {
        match self {
            Self::File(_) => Kind::File,
            Self::Directory => Kind::Directory,
            Self::Symlink(_) => Kind::Symlink,
            Self::CharDevice(_) => Kind::CharDevice,
            Self::BlockDevice(_) => Kind::BlockDevice,
            Self::Fifo => Kind::Fifo,
        }
    }
}

struct Pending {
    metadata: Metadata,
    node: Node,
    opaque: bool,
    implicit: bool,
    nlink: u32,
    children: BTreeMap<Vec<u8>, Slot>,
}

impl Pending {
    fn implicit_directory() -> Self {
        Self {
            metadata: Metadata {
                mode: 0o755,
                ..Metadata::default()
            },
            node: Node::Directory,
            opaque: false,
            implicit: true,
            nlink: 1,
            children: BTreeMap::new(),
        }
    }

    fn is_directory(&self) -> bool {
        self.node == Node::Directory
    }
}

/// Collects a layer's entries and writes its index.
pub struct Builder {
    entries: Vec<Pending>,
}

impl Default for Builder {
    fn default() -> Self {
        Self::new()
    }
}

impl Builder {
    /// An index of a layer that changes nothing yet.
    pub fn new() -> Self {
        Self {
            entries: vec![Pending::implicit_directory()],
        }
    }

    /// Adds a node. A later entry replaces an earlier one of the same path, as when a tar is unpacked; a
    /// directory given again keeps its children.
    ///
    /// # Errors
    /// [`InvalidEntry`] if the path cannot be in a layer.
    pub fn add(&mut self, path: &ImagePath, metadata: Metadata, node: Node) -> Result<(), InvalidEntry> {
        let Some((parent, name)) = path.split() else {
            if node != Node::Directory {
                return Err(InvalidEntry::Root);
            }
            self.entries[0].metadata = metadata;
            self.entries[0].implicit = false;
            return Ok(());
        };
        let dir = self.directory(&parent, path)?;
        let before = self.entries[dir].children.get(name).cloned();
        if let (Some(Slot::Entry(id)), Node::Directory) = (&before, &node) {
            let entry = &mut self.entries[id.0 as usize];
            if entry.is_directory() {
                entry.metadata = metadata;
                entry.implicit = false;
                return Ok(());
            }
        }
        self.drop_link(before.as_ref());
        let id = self.push(Pending {
            metadata,
            opaque: before == Some(Slot::Whiteout) && node == Node::Directory,
            node,
            implicit: false,
            nlink: 1,
            children: BTreeMap::new(),
        })?;
        self.entries[dir].children.insert(name.to_vec(), Slot::Entry(id));
        Ok(())
    }

    /// Adds a hard link to `target`, which lies in this layer or in one below.
    ///
    /// # Errors
    /// [`InvalidEntry`] if the path cannot be in a layer.
    pub fn add_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), InvalidEntry> {
        let (parent, name) = path.split().ok_or(InvalidEntry::Root)?;
        if path == target {
            return Ok(());
        }
        let slot = match self.find(target) {
            Some(id) if !self.entries[id.0 as usize].is_directory() => {
                self.entries[id.0 as usize].nlink += 1;
                Slot::Entry(id)
            }
            _ => Slot::Link(target.clone()),
        };
        let dir = self.directory(&parent, path)?;
        let before = self.entries[dir].children.insert(name.to_vec(), slot);
        self.drop_link(before.as_ref());
        Ok(())
    }

    /// Removes the name from the layers below. What this layer itself has there stays, whichever comes first in
    /// the tar (OCI image specification, "Whiteouts"); a directory becomes opaque.
    ///
    /// # Errors
    /// [`InvalidEntry`] if the path cannot be in a layer.
    pub fn add_whiteout(&mut self, path: &ImagePath) -> Result<(), InvalidEntry> {
        let (parent, name) = path.split().ok_or(InvalidEntry::Root)?;
        let dir = self.directory(&parent, path)?;
        match self.entries[dir].children.get(name).cloned() {
            Some(Slot::Entry(id)) => {
                let entry = &mut self.entries[id.0 as usize];
                entry.opaque |= entry.is_directory();
            }
            Some(_) => {}
            None => {
                self.entries[dir].children.insert(name.to_vec(), Slot::Whiteout);
            }
        }
        Ok(())
    }

    /// Makes the directory hide what the layers below have in it.
    ///
    /// # Errors
    /// [`InvalidEntry`] if the path cannot be in a layer.
    pub fn add_opaque(&mut self, path: &ImagePath) -> Result<(), InvalidEntry> {
        let dir = self.directory(path, path)?;
        self.entries[dir].opaque = true;
        Ok(())
    }

    /// The metadata of the entry at `path`, if this layer has one there that can be hard-linked: any but a
    /// directory.
    pub fn link_target(&self, path: &ImagePath) -> Option<&Metadata> {
        let entry = &self.entries[self.find(path)?.0 as usize];
        (!entry.is_directory()).then_some(&entry.metadata)
    }

    /// The entry at `path` within this layer.
    fn find(&self, path: &ImagePath) -> Option<EntryId> {
        let mut at = EntryId::ROOT;
        for name in path.components() {
            match self.entries[at.0 as usize].children.get(name)? {
                Slot::Entry(id) => at = *id,
                Slot::Whiteout | Slot::Link(_) => return None,
            }
        }
        Some(at)
    }

    /// The directory at `path`, made (implicit) where this layer does not have it. `entry` is what it is for.
    fn directory(&mut self, path: &ImagePath, entry: &ImagePath) -> Result<usize, InvalidEntry> {
        let mut at = 0;
        let mut through = ImagePath::root();
        for name in path.components() {
            through = through.join(name);
            at = match self.entries[at].children.get(name) {
                Some(Slot::Entry(id)) if self.entries[id.0 as usize].is_directory() => id.0 as usize,
                Some(Slot::Entry(_) | Slot::Link(_)) => {
                    return Err(InvalidEntry::ThroughNonDirectory {
                        path: entry.clone(),
                        through,
                    });
                }
                before => {
                    let opaque = before.is_some();
                    let id = self.push(Pending {
                        opaque,
                        ..Pending::implicit_directory()
                    })?;
                    self.entries[at].children.insert(name.to_vec(), Slot::Entry(id));
                    id.0 as usize
                }
            };
        }
        Ok(at)
    }

    fn push(&mut self, entry: Pending) -> Result<EntryId, InvalidEntry> {
        let id = u32::try_from(self.entries.len()).map_err(|_| InvalidEntry::TooLarge)?;
        self.entries.push(entry);
        Ok(EntryId(id))
    }

    /// A name no longer leads to what it led to.
    fn drop_link(&mut self, slot: Option<&Slot>) {
        if let Some(Slot::Entry(id)) = slot {
            let entry = &mut self.entries[id.0 as usize];
            entry.nlink = entry.nlink.saturating_sub(1);
        }
    }

    /// The index but for what it says of the tar. Entries come in the order of a walk by name, so equal layers give
    /// equal indexes.
    ///
    /// # Errors
    /// [`InvalidEntry::TooLarge`] if the layer is too large for the format.
    pub fn encode(mut self) -> Result<Encoded, InvalidEntry> {
        self.resolve_links();
        let mut image = Sections::default();
        image.place(&self.entries, 0)?;
        image.fill(&self.entries)?;
        let body = [image.entries, image.names, image.extents, image.heap];
        let mut hasher = crate::digest::Hasher::new();
        body.iter().for_each(|part| hasher.update(part));
        Ok(Encoded {
            body,
            digest: hasher.finish(),
        })
    }

    /// Links to what came later in the tar than the link itself.
    fn resolve_links(&mut self) {
        for dir in 0..self.entries.len() {
            let links: Vec<_> = self.entries[dir]
                .children
                .iter()
                .filter_map(|(name, slot)| match slot {
                    Slot::Link(target) => Some((name.clone(), self.find(target)?)),
                    _ => None,
                })
                .filter(|(_, id)| !self.entries[id.0 as usize].is_directory())
                .collect();
            for (name, id) in links {
                self.entries[id.0 as usize].nlink += 1;
                self.entries[dir].children.insert(name, Slot::Entry(id));
            }
        }
    }
}

/// An index that lacks only what it says of the tar.
pub struct Encoded {
    body: [Vec<u8>; 4],
    digest: Digest,
}

impl Encoded {
    /// Writes the index of the tar that has this digest and size.
    ///
    /// # Errors
    /// What `out` reports.
    pub fn write(&self, diff_id: DiffId, tar_size: u64, out: &mut dyn Write) -> io::Result<()> {
        let mut header = Vec::with_capacity(HEADER);
        header.extend_from_slice(&MAGIC);
        for (part, size) in self.body.iter().zip([ENTRY, NAME, EXTENT, 1]) {
            header.extend_from_slice(&((part.len() / size) as u64).to_le_bytes());
        }
        header.extend_from_slice(&tar_size.to_le_bytes());
        header.extend_from_slice(diff_id.0.as_bytes());
        header.extend_from_slice(self.digest.as_bytes());
        header.resize(HEADER, 0);
        out.write_all(&header)?;
        self.body.iter().try_for_each(|part| out.write_all(part))
    }
}

/// The parts of the file in the making.
#[derive(Default)]
struct Sections {
    entries: Vec<u8>,
    names: Vec<u8>,
    extents: Vec<u8>,
    heap: Vec<u8>,
    /// Number in the file of each pending entry that has been placed, and the order of the file.
    placed: BTreeMap<u32, u32>,
    order: Vec<u32>,
}

impl Sections {
    /// Numbers the entries in the order of a walk, breadth first; what no name leads to any more is left out.
    fn place(&mut self, entries: &[Pending], root: u32) -> Result<(), InvalidEntry> {
        self.placed.insert(root, 0);
        self.order.push(root);
        let mut next = 0;
        while let Some(&at) = self.order.get(next) {
            next += 1;
            for slot in entries[at as usize].children.values() {
                let Slot::Entry(id) = slot else { continue };
                let number = u32::try_from(self.order.len()).map_err(|_| InvalidEntry::TooLarge)?;
                if let std::collections::btree_map::Entry::Vacant(vacant) = self.placed.entry(id.0) {
                    vacant.insert(number);
                    self.order.push(id.0);
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, entries: &[Pending]) -> Result<(), InvalidEntry> {
        for id in std::mem::take(&mut self.order) {
            let entry = &entries[id as usize];
            let first = (self.names.len() / NAME) as u64;
            for (name, slot) in &entry.children {
                self.add_name(name, slot)?;
            }
            self.add_entry(entry, first)?;
        }
        Ok(())
    }

    fn add_name(&mut self, name: &[u8], slot: &Slot) -> Result<(), InvalidEntry> {
        let (offset, length) = self.add_bytes(name)?;
        let (tag, a, b) = match slot {
            Slot::Entry(id) => (TAG_ENTRY, self.placed.get(&id.0).copied().unwrap_or(0), 0),
            Slot::Whiteout => (TAG_WHITEOUT, 0, 0),
            Slot::Link(target) => {
                let (offset, length) = self.add_bytes(target.as_bytes())?;
                (TAG_LINK, offset, length)
            }
        };
        for number in [offset, length, tag, a, b] {
            self.names.extend_from_slice(&number.to_le_bytes());
        }
        Ok(())
    }

    fn add_entry(&mut self, entry: &Pending, first_name: u64) -> Result<(), InvalidEntry> {
        let small = |n: u64| u32::try_from(n).map_err(|_| InvalidEntry::TooLarge);
        let Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs,
        } = &entry.metadata;
        let mut flags = 0;
        let (mut size, mut position, mut pieces) = (0, 0, 0);
        let mut digest = [0; 32];
        let mut target = (0, 0);
        let mut device = Device::default();
        match &entry.node {
            Node::File(data) => {
                size = data.size;
                if let Some(known) = &data.digest {
                    digest = *known.as_bytes();
                    flags |= FLAG_DIGEST;
                }
                match data.extents.as_slice() {
                    [whole] if whole.offset == 0 && whole.length == size => position = whole.position,
                    [] if size == 0 => {}
                    extents => {
                        flags |= FLAG_SPARSE;
                        position = (self.extents.len() / EXTENT) as u64;
                        pieces = small(extents.len() as u64)?;
                        for extent in extents {
                            for number in [extent.offset, extent.length, extent.position] {
                                self.extents.extend_from_slice(&number.to_le_bytes());
                            }
                        }
                    }
                }
            }
            Node::Symlink(text) => target = self.add_bytes(text)?,
            Node::CharDevice(d) | Node::BlockDevice(d) => device = *d,
            Node::Directory | Node::Fifo => {}
        }
        if entry.opaque {
            flags |= FLAG_OPAQUE;
        }
        if entry.implicit {
            flags |= FLAG_IMPLICIT;
        }
        let xattrs = {
            let mut bytes = Vec::new();
            for (name, value) in xattrs {
                for part in [name, value] {
                    bytes.extend_from_slice(&small(part.len() as u64)?.to_le_bytes());
                    bytes.extend_from_slice(part);
                }
            }
            self.add_bytes(&bytes)?
        };
        let mut record = Vec::with_capacity(ENTRY);
        let mode = (mode & 0o7777) | entry.node.kind().file_type_bits();
        for number in [mode, *uid, *gid, entry.nlink] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        record.extend_from_slice(&seconds.to_le_bytes());
        record.extend_from_slice(&nanoseconds.to_le_bytes());
        record.extend_from_slice(&[flags, 0, 0, 0]);
        record.extend_from_slice(&size.to_le_bytes());
        record.extend_from_slice(&position.to_le_bytes());
        record.extend_from_slice(&digest);
        let names = small(entry.children.len() as u64)?;
        let (target, xattrs) = ([target.0, target.1], [xattrs.0, xattrs.1]);
        for number in target
            .into_iter()
            .chain(xattrs)
            .chain([0, 0, small(first_name)?, names])
        {
            record.extend_from_slice(&number.to_le_bytes());
        }
        for number in [device.major, device.minor, pieces, 0] {
            record.extend_from_slice(&number.to_le_bytes());
        }
        debug_assert_eq!(record.len(), ENTRY);
        self.entries.extend_from_slice(&record);
        Ok(())
    }

    fn add_bytes(&mut self, bytes: &[u8]) -> Result<(u32, u32), InvalidEntry> {
        if bytes.is_empty() {
            return Ok((0, 0));
        }
        let small = |n: usize| u32::try_from(n).map_err(|_| InvalidEntry::TooLarge);
        let place = (small(self.heap.len())?, small(bytes.len())?);
        self.heap.extend_from_slice(bytes);
        Ok(place)
    }
}

/// Takes one attribute off the front of an encoded list: name and value, each after its length.
pub(super) fn take_xattr<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        *bytes = rest;
        Some(part)
    };
    Some((part()?, part()?))
}
