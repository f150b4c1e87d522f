//! The index of a layer at rest: everything a mount needs to know about a layer, in one file that is mapped
//! into memory and answers a look-up without a system call.
//!
//! The format is described in `docs/format.md`. In short, after a fixed header come three arrays and a heap:
//!
//! - *entries*, fixed records with a node's metadata; entry 0 is the root directory;
//! - *names*, the directory entries: those of one directory lie together, sorted by name, so that a look-up is
//!   a binary search and a listing a slice;
//! - *extents*, for files whose data does not lie in the tar in one piece (GNU sparse files);
//! - the heap: names, link targets and extended attributes.
//!
//! All numbers are little-endian. Nothing read from the file is trusted as an offset: a damaged index gives
//! [`None`] or an error, never a panic or a read outside of the file.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::digest::{DiffId, Digest};
use crate::layer::{Device, Kind, Timestamp, Xattrs};
use crate::path::ImagePath;
use crate::sys::Mapping;

mod build;
#[cfg(test)]
mod tests;

pub use build::{Builder, Data, Encoded, InvalidEntry, Node};

/// First bytes of an index file; the last one is the version of the format.
const MAGIC: [u8; 8] = *b"micaidx\x01";
/// Reading a file of up to so many bytes costs less than mapping it and meeting its first page.
const SMALL: u64 = 16 << 10;
const HEADER: usize = 128;
const ENTRY: usize = 128;
const NAME: usize = 20;
const EXTENT: usize = 24;

const FLAG_OPAQUE: u8 = 1;
const FLAG_IMPLICIT: u8 = 2;
const FLAG_DIGEST: u8 = 4;
const FLAG_SPARSE: u8 = 8;

const TAG_ENTRY: u32 = 0;
const TAG_WHITEOUT: u32 = 1;
const TAG_LINK: u32 = 2;

/// The number of an entry within its layer's index. Entry 0 is the root directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EntryId(pub u32);

impl EntryId {
    /// The root directory.
    pub const ROOT: Self = Self(0);
}

/// What a name in a layer's directory stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    /// A node of this layer.
    Entry(EntryId),
    /// The name is removed from the layers below.
    Whiteout,
    /// A hard link whose target lies in a layer below: the target's path.
    Link(ImagePath),
}

/// Why an index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// It cannot be read.
    #[error("cannot read the layer index {path}")]
    Read {
        /// The index file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not an index of this version, or was cut short.
    #[error("the layer index {path} is damaged or of another version: {reason}")]
    Damaged {
        /// The index file.
        path: std::path::PathBuf,
        /// What does not fit.
        reason: &'static str,
    },
}

/// A mapped index.
pub struct Index {
    map: Bytes,
    entries: Section,
    names: Section,
    extents: Section,
    heap: Section,
    diff_id: DiffId,
    tar_size: u64,
}

/// The bytes of the file.
enum Bytes {
    Mapped(Mapping),
    Read(Box<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
        }
    }
}

impl Bytes {
    fn of(file: &File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        if size > SMALL {
            return Mapping::of(file).map(Self::Mapped);
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self::Read(bytes.into_boxed_slice()))
    }
}

/// A part of the file: its offset and its length in bytes.
#[derive(Clone, Copy)]
struct Section {
    offset: usize,
    length: usize,
}

impl Index {
    /// Maps an index file, or reads it if it is small, and checks its header.
    ///
    /// # Errors
    /// [`IndexError`] if it cannot be read, or is none of this version.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let map = File::open(path)
            .and_then(|file| Bytes::of(&file))
            .map_err(|source| IndexError::Read {
                path: path.to_owned(),
                source,
            })?;
        Self::from_map(map).map_err(|reason| IndexError::Damaged {
            path: path.to_owned(),
            reason,
        })
    }

    fn from_map(map: Bytes) -> Result<Self, &'static str> {
        let header = map.get(..HEADER).ok_or("it is too short")?;
        if header[..8] != MAGIC {
            return Err("it has another magic number");
        }
        let number = |at: usize| usize::try_from(u64_at(header, at)).map_err(|_| "a size is too large");
        let mut offset = HEADER;
        let mut section = |count: usize, size: usize| {
            let length = count.checked_mul(size).ok_or("a size is too large")?;
            let section = Section { offset, length };
            offset = offset.checked_add(length).ok_or("a size is too large")?;
            Ok::<_, &'static str>(section)
        };
        let entries = section(number(8)?, ENTRY)?;
        let names = section(number(16)?, NAME)?;
        let extents = section(number(24)?, EXTENT)?;
        let heap = section(number(32)?, 1)?;
        if offset != map.len() {
            return Err("its size differs from what its header says");
        }
        if entries.length == 0 {
            return Err("it has no root directory");
        }
        let mut diff_id = [0; 32];
        diff_id.copy_from_slice(&header[48..80]);
        Ok(Self {
            diff_id: DiffId(Digest::from_bytes(diff_id)),
            tar_size: u64_at(header, 40),
            map,
            entries,
            names,
            extents,
            heap,
        })
    }

    /// Whether the bytes are those that were written: compares the digest in the header.
    pub fn verify(&self) -> bool {
        let body = Digest::of(&self.map[HEADER..]);
        self.map[80..112] == *body.as_bytes()
    }

    /// The diff ID of the layer that this index describes.
    pub fn diff_id(&self) -> DiffId {
        self.diff_id
    }

    /// Size of the layer's uncompressed tar in bytes.
    pub fn tar_size(&self) -> u64 {
        self.tar_size
    }

    /// The number of entries, the root included.
    pub fn len(&self) -> u32 {
        u32::try_from(self.entries.length / ENTRY).unwrap_or(u32::MAX)
    }

    /// Whether the layer changes nothing: only an implicit root without names.
    pub fn is_empty(&self) -> bool {
        self.names.length == 0 && self.entry(EntryId::ROOT).is_none_or(|root| root.is_implicit())
    }

    /// The entry of that number; `None` only if the number is not of this index, or the index is damaged.
    pub fn entry(&self, id: EntryId) -> Option<Entry<'_>> {
        let start = self.entries.offset + (id.0 as usize).checked_mul(ENTRY)?;
        if start + ENTRY > self.entries.offset + self.entries.length {
            return None;
        }
        let record = self.map.get(start..start + ENTRY)?;
        let kind = Kind::from_mode(u32_at(record, 0))?;
        Some(Entry {
            index: self,
            record,
            kind,
        })
    }

    /// What `name` stands for in directory `dir` of this layer; `None` if this layer says nothing about it.
    pub fn lookup(&self, dir: EntryId, name: &[u8]) -> Option<Slot> {
        self.find(dir, name).map(|(_, slot)| slot)
    }

    /// The same, and the number of the name in the directory: see [`Self::child`].
    pub fn find(&self, dir: EntryId, name: &[u8]) -> Option<(u32, Slot)> {
        let names = self.names_of_dir(dir)?;
        let (mut low, mut high) = (0, names.len() / NAME);
        while low < high {
            let middle = (low + high) / 2;
            let record = names.get(middle * NAME..(middle + 1) * NAME)?;
            match self.name(record)?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((u32::try_from(middle).ok()?, self.slot(record)?)),
            }
        }
        None
    }

    /// The names of directory `dir` of this layer with what they stand for, sorted by name.
    pub fn children(&self, dir: EntryId) -> impl Iterator<Item = (&[u8], Slot)> {
        let names = self.names_of_dir(dir).unwrap_or_default();
        names
            .chunks_exact(NAME)
            .filter_map(|record| Some((self.name(record)?, self.slot(record)?)))
    }

    /// How many names directory `dir` of this layer has, whiteouts included.
    pub fn name_count(&self, dir: EntryId) -> u32 {
        let names = self.names_of_dir(dir).unwrap_or_default();
        u32::try_from(names.len() / NAME).unwrap_or(u32::MAX)
    }

    /// The name of that number in directory `dir` of this layer, and what it stands for. Numbers follow the order of
    /// the names; there is none only beyond the last, or if the index is damaged.
    pub fn child(&self, dir: EntryId, number: u32) -> Option<(&[u8], Slot)> {
        let start = (number as usize).checked_mul(NAME)?;
        let record = self.names_of_dir(dir)?.get(start..start.checked_add(NAME)?)?;
        Some((self.name(record)?, self.slot(record)?))
    }

    /// All paths that lead to entry `id`: several for a file with hard links. Takes time proportional to the
    /// size of the index.
    pub fn paths_of(&self, id: EntryId) -> Vec<ImagePath> {
        let mut found = Vec::new();
        let mut todo = vec![(EntryId::ROOT, ImagePath::root())];
        while let Some((dir, path)) = todo.pop() {
            for (name, slot) in self.children(dir) {
                let Slot::Entry(child) = slot else { continue };
                if child == id {
                    found.push(path.join(name));
                }
                // The walk that numbered the entries reached a directory before its children: a damaged index
                // cannot send this one in circles.
                let deeper = child > dir;
                if deeper && self.entry(child).is_some_and(|e| e.kind() == Kind::Directory) {
                    todo.push((child, path.join(name)));
                }
            }
        }
        found.sort();
        found
    }

    fn names_of_dir(&self, dir: EntryId) -> Option<&[u8]> {
        let entry = self.entry(dir)?;
        let first = u32_at(entry.record, 104) as usize;
        let count = u32_at(entry.record, 108) as usize;
        let all = self.section(self.names)?;
        all.get(first.checked_mul(NAME)?..first.checked_add(count)?.checked_mul(NAME)?)
    }

    fn name(&self, record: &[u8]) -> Option<&[u8]> {
        self.heap(u32_at(record, 0), u32_at(record, 4))
    }

    fn slot(&self, record: &[u8]) -> Option<Slot> {
        let (a, b) = (u32_at(record, 12), u32_at(record, 16));
        match u32_at(record, 8) {
            TAG_ENTRY => Some(Slot::Entry(EntryId(a))),
            TAG_WHITEOUT => Some(Slot::Whiteout),
            TAG_LINK => ImagePath::from_member(self.heap(a, b)?).ok().map(Slot::Link),
            _ => None,
        }
    }

    fn heap(&self, offset: u32, length: u32) -> Option<&[u8]> {
        let heap = self.section(self.heap)?;
        heap.get(offset as usize..(offset as usize).checked_add(length as usize)?)
    }

    fn section(&self, section: Section) -> Option<&[u8]> {
        self.map.get(section.offset..section.offset + section.length)
    }
}

/// One node of a layer.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    index: &'a Index,
    record: &'a [u8],
    kind: Kind,
}

impl<'a> Entry<'a> {
    /// The type of the node.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Permission, set-ID and sticky bits.
    pub fn mode(&self) -> u32 {
        u32_at(self.record, 0) & 0o7777
    }

    /// Owner inside the image.
    pub fn uid(&self) -> u32 {
        u32_at(self.record, 4)
    }

    /// Group inside the image.
    pub fn gid(&self) -> u32 {
        u32_at(self.record, 8)
    }

    /// The number of names that this layer gives to the node (1 for a directory).
    pub fn nlink(&self) -> u32 {
        u32_at(self.record, 12)
    }

    /// Time of the last change of the content.
    pub fn mtime(&self) -> Timestamp {
        Timestamp {
            seconds: u64_at(self.record, 16).cast_signed(),
            nanoseconds: u32_at(self.record, 24).min(999_999_999),
        }
    }

    /// Size of a file's content in bytes; 0 for other nodes.
    pub fn size(&self) -> u64 {
        u64_at(self.record, 32)
    }

    /// The device number of a device node.
    pub fn device(&self) -> Device {
        Device {
            major: u32_at(self.record, 112),
            minor: u32_at(self.record, 116),
        }
    }

    /// The target of a symbolic link; empty for other nodes.
    pub fn target(&self) -> &'a [u8] {
        let (offset, length) = (u32_at(self.record, 80), u32_at(self.record, 84));
        self.index.heap(offset, length).unwrap_or_default()
    }

    /// The digest of a file's content.
    pub fn digest(&self) -> Option<Digest> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&self.record[48..80]);
        self.has(FLAG_DIGEST).then(|| Digest::from_bytes(bytes))
    }

    /// Whether this directory hides what the layers below have in it.
    pub fn is_opaque(&self) -> bool {
        self.has(FLAG_OPAQUE)
    }

    /// Whether the layer does not describe this directory itself: it is only the parent of something. Its
    /// metadata is that of the layers below, or root's 0755 where there is none.
    pub fn is_implicit(&self) -> bool {
        self.has(FLAG_IMPLICIT)
    }

    /// The extended attributes.
    pub fn xattrs(&self) -> Xattrs {
        let (offset, length) = (u32_at(self.record, 88), u32_at(self.record, 92));
        let mut bytes = self.index.heap(offset, length).unwrap_or_default();
        let mut xattrs = Xattrs::new();
        while let Some((name, value)) = build::take_xattr(&mut bytes) {
            xattrs.insert(name.to_vec(), value.to_vec());
        }
        xattrs
    }

    /// Whether the node has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        u32_at(self.record, 92) != 0
    }

    /// Where a file's bytes lie in the tar, in order of their offset in the file; gaps read as zeros.
    pub fn extents(&self) -> impl Iterator<Item = Extent> + 'a {
        let whole = (!self.has(FLAG_SPARSE) && self.size() > 0).then(|| Extent {
            offset: 0,
            length: self.size(),
            position: u64_at(self.record, 40),
        });
        let sparse = match self.has(FLAG_SPARSE) {
            true => self.sparse_map().unwrap_or_default(),
            false => &[],
        };
        whole
            .into_iter()
            .chain(sparse.chunks_exact(EXTENT).map(|record| Extent {
                offset: u64_at(record, 0),
                length: u64_at(record, 8),
                position: u64_at(record, 16),
            }))
    }

    /// How many bytes of a file's content lie in the tar.
    pub fn stored(&self) -> u64 {
        self.extents()
            .fold(0, |sum, extent| sum.saturating_add(extent.length))
    }

    fn sparse_map(&self) -> Option<&'a [u8]> {
        let all = self.index.section(self.index.extents)?;
        let first = usize::try_from(u64_at(self.record, 40)).ok()?;
        let count = u32_at(self.record, 120) as usize;
        all.get(first.checked_mul(EXTENT)?..first.checked_add(count)?.checked_mul(EXTENT)?)
    }

    fn has(&self, flag: u8) -> bool {
        self.record[28] & flag != 0
    }
}

/// A piece of a file's content in the layer's tar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Offset in the tar.
    pub position: u64,
}

fn u32_at(record: &[u8], at: usize) -> u32 {
    record
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    record
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}
