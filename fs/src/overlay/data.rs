//! The bytes of one changed or new file, apart from its metadata.
//!
//! Each file has a lock of its own: readers, and writers into a flat file, share it; whatever changes *where*
//! the bytes lie (copy-up, truncation, the move out of memory) holds it alone. So no writer can reach bytes
//! that a copy-up is about to leave behind, and no operation on one file waits for another file.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::flat::{FlatFiles, SMALL};
use super::{Allocate, Error, HostFile, Seek};
use crate::layer::Layer;
use crate::layer::index::EntryId;

pub(super) mod host;
pub(super) mod partial;

use host::BLOCK;
use partial::{AT_ONCE, Blocks, Partial};

/// The largest size of a file, as the kernel's `off_t` has it.
const MAX_SIZE: u64 = i64::MAX as u64;

/// Where the bytes are.
pub(super) enum Content {
    /// In a layer, unchanged.
    Layer(Arc<Layer>, EntryId),
    /// In a file of the host that nobody changes meanwhile.
    Host(Arc<HostFile>),
    Memory(Vec<u8>),
    /// Some blocks in the flat file, the others in a layer.
    Partial(Partial),
    /// In the flat file of the inode.
    Flat,
}

/// What a change did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Changed {
    /// Bytes of the flat file that were its own before: what a log says of it stays true.
    InPlace,
    /// Bytes in memory, or where bytes lie.
    Placement,
}

/// Where the bytes are, for a log.
pub(super) enum Placement {
    Memory(Vec<u8>),
    Partial(Blocks),
    Flat,
}

/// The data of one file.
pub(super) struct FileData {
    ino: u64,
    files: Arc<FlatFiles>,
    size: AtomicU64,
    content: RwLock<Content>,
    /// What this file has taken out of the budget for files in memory.
    charged: AtomicU64,
    /// The flat file has bytes that were not synced.
    unsynced: AtomicBool,
    /// The flat file goes with this value.
    discard: AtomicBool,
}

impl FileData {
    pub fn new(ino: u64, files: Arc<FlatFiles>, content: Content, size: u64) -> Self {
        Self {
            charged: AtomicU64::new(0),
            ino,
            files,
            size: AtomicU64::new(size),
            content: RwLock::new(content),
            unsynced: AtomicBool::new(true),
            discard: AtomicBool::new(false),
        }
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Space in units of 512 bytes. While the bytes are on the move, it is estimated from the size.
    pub fn blocks(&self) -> u64 {
        let estimate = self.size().div_ceil(512);
        let flat = || Some(self.files.open(self.ino).ok()?.metadata().ok()?.blocks());
        match self.content.try_read().as_deref() {
            Ok(Content::Flat) => flat().unwrap_or(estimate),
            Ok(Content::Partial(partial)) => {
                let flat = flat().unwrap_or(estimate);
                flat.saturating_add(partial.space().div_ceil(512)).min(estimate)
            }
            _ => estimate,
        }
    }

    /// The flat file goes when the last user of this value does.
    pub fn discard(&self) {
        self.discard.store(true, Ordering::Release);
    }

    /// The layer that still holds the bytes, if it does.
    pub fn source(&self) -> Option<(Arc<Layer>, EntryId)> {
        match &*self.read_content() {
            Content::Layer(layer, entry) => Some((Arc::clone(layer), *entry)),
            _ => None,
        }
    }

    /// The file of the host that still holds the bytes, if one does.
    pub fn host(&self) -> Option<Arc<HostFile>> {
        match &*self.read_content() {
            Content::Host(file) => Some(Arc::clone(file)),
            _ => None,
        }
    }

    /// Whether there is a flat file.
    pub fn has_flat_file(&self) -> bool {
        matches!(&*self.read_content(), Content::Partial(_) | Content::Flat)
    }

    /// Where the bytes are; before that, foreign ones are moved into the flat file.
    pub fn placement(&self) -> Result<Placement, Error> {
        let mut content = self.write_content();
        match &*content {
            Content::Layer(..) | Content::Host(_) => self.make_flat(&mut content, self.size())?,
            Content::Memory(_) | Content::Partial(_) | Content::Flat => {}
        }
        Ok(match &*content {
            Content::Memory(bytes) => Placement::Memory(bytes.clone()),
            Content::Partial(partial) => Placement::Partial(partial.blocks()),
            _ => Placement::Flat,
        })
    }

    /// Reads at `offset`; less than asked for only at the end of the file.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        self.read_from(&self.read_content(), offset, buffer)
    }

    fn read_from(&self, content: &Content, offset: u64, buffer: &mut [u8]) -> Result<usize, Error> {
        let left = self.size().saturating_sub(offset).min(buffer.len() as u64);
        let buffer = &mut buffer[..usize::try_from(left).unwrap_or(usize::MAX)];
        match content {
            Content::Layer(layer, entry) => layer
                .read_at(*entry, buffer, offset)
                .map_err(Error::io("read a file of a layer")),
            Content::Host(file) => host::read_full(&host::open(&file.path)?, offset, buffer)
                .map_err(Error::io("read a source file")),
            Content::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let n = buffer.len().min(bytes.len() - start);
                buffer[..n].copy_from_slice(&bytes[start..start + n]);
                Ok(n)
            }
            Content::Partial(partial) => self.read_partial(partial, offset, buffer),
            Content::Flat => self.flat().and_then(|file| {
                host::read_full(&file, offset, buffer).map_err(Error::io("read a flat file"))
            }),
        }
    }

    /// Writes all of `data` at `offset`; the first write copies up.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<Changed, Error> {
        let end = end_of(offset, data.len() as u64)?;
        let content = self.read_content();
        match &*content {
            Content::Flat => return self.write_flat(offset, data, end),
            Content::Partial(partial) if partial.has(offset..end) => {
                return self.write_flat(offset, data, end);
            }
            _ => {}
        }
        drop(content);
        let mut content = self.write_content();
        self.make_writable(&mut content, end.max(self.size()), self.size())?;
        match &mut *content {
            Content::Memory(bytes) => {
                let (start, end) = (small(offset), small(end));
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[start..end].copy_from_slice(data);
                self.size.store(bytes.len() as u64, Ordering::Release);
            }
            Content::Partial(partial) => {
                self.copy_edges(partial, offset..end)?;
                self.write_flat(offset, data, end)?;
                self.change_partial(&mut content, |partial| partial.take(&(offset..end)));
            }
            _ => drop(self.write_flat(offset, data, end)?),
        }
        Ok(Changed::Placement)
    }

    /// The content lock is held, shared or alone.
    fn write_flat(&self, offset: u64, data: &[u8], end: u64) -> Result<Changed, Error> {
        self.unsynced.store(true, Ordering::Release);
        self.flat()?
            .write_all_at(data, offset)
            .map_err(Error::io("write a flat file"))?;
        self.size.fetch_max(end, Ordering::AcqRel);
        Ok(Changed::InPlace)
    }

    /// Sets the size; what is copied up is only what remains.
    pub fn truncate(&self, size: u64) -> Result<Changed, Error> {
        if size > MAX_SIZE {
            return Err(Error::FileTooLarge);
        }
        let mut content = self.write_content();
        let changed = content.as_changed();
        self.make_writable(&mut content, size, size.min(self.size()))?;
        match &mut *content {
            Content::Memory(bytes) => {
                bytes.resize(small(size), 0);
            }
            content => {
                self.unsynced.store(true, Ordering::Release);
                self.flat()?
                    .set_len(size)
                    .map_err(Error::io("truncate a flat file"))?;
                // Where it grows again there are zeros, not what the layer has.
                self.change_partial(content, |partial| partial.truncate(size));
            }
        }
        self.size.store(size, Ordering::Release);
        Ok(changed)
    }

    /// fallocate(2).
    pub fn allocate(&self, how: Allocate, offset: u64, length: u64) -> Result<Changed, Error> {
        if length == 0 {
            return Err(Error::Invalid);
        }
        let end = end_of(offset, length)?;
        let mut content = self.write_content();
        let changed = content.as_changed();
        let size = self.size();
        let grown = match how {
            Allocate::Extend | Allocate::ZeroRange { keep_size: false } => size.max(end),
            Allocate::KeepSize | Allocate::PunchHole | Allocate::ZeroRange { keep_size: true } => size,
        };
        let room = match how {
            Allocate::KeepSize => size.max(end),
            _ => grown,
        };
        self.make_writable(&mut content, room, size)?;
        match &mut *content {
            Content::Memory(bytes) => {
                if bytes.len() < small(grown) {
                    bytes.resize(small(grown), 0);
                }
                if matches!(how, Allocate::PunchHole | Allocate::ZeroRange { .. }) {
                    let (start, end) = (small(offset.min(size)), small(end.min(size)));
                    bytes[start..end].fill(0);
                }
            }
            other => {
                self.unsynced.store(true, Ordering::Release);
                let empties = matches!(how, Allocate::PunchHole | Allocate::ZeroRange { .. });
                let range = offset..end.min(grown).max(offset);
                if let Content::Partial(partial) = &*other
                    && empties
                {
                    self.copy_edges(partial, range.clone())?;
                }
                host::allocate(&*self.flat()?, how, offset, length, size, grown)?;
                if empties {
                    self.change_partial(other, |partial| partial.take(&range));
                }
            }
        }
        self.size.store(grown, Ordering::Release);
        Ok(changed)
    }

    /// lseek(2) with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, offset: u64, what: Seek) -> Result<u64, Error> {
        let content = self.read_content();
        let size = self.size();
        match &*content {
            Content::Layer(layer, entry) => seek_layer(layer, *entry, offset, what),
            Content::Memory(_) | Content::Partial(_) => seek_dense(size, offset, what),
            Content::Host(file) => host::seek(&host::open(&file.path)?, offset, what),
            Content::Flat => host::seek(&*self.flat()?, offset, what),
        }
    }

    /// Makes what was written durable, as fsync(2).
    pub fn sync(&self) -> Result<(), Error> {
        let content = self.read_content();
        if matches!(&*content, Content::Flat | Content::Partial(_))
            && self.unsynced.swap(false, Ordering::AcqRel)
        {
            self.flat()?
                .sync_data()
                .inspect_err(|_| self.unsynced.store(true, Ordering::Release))
                .map_err(Error::io("sync a flat file"))?;
        }
        Ok(())
    }

    /// Copy-up: afterwards the bytes are in memory, which has room for `room` bytes in the budget, or in the
    /// flat file, of a large file as far as they are changed. Only the first `keep` bytes are needed further.
    fn make_writable(&self, content: &mut Content, room: u64, keep: u64) -> Result<(), Error> {
        match content {
            Content::Flat | Content::Partial(_) => Ok(()),
            Content::Memory(_) if room <= SMALL && self.charge(room) => Ok(()),
            Content::Layer(..) | Content::Host(_)
                if room.max(keep) <= SMALL && self.charge(room.max(keep)) =>
            {
                let mut bytes = vec![0; small(keep)];
                if self.read_from(content, 0, &mut bytes)? < bytes.len() {
                    return Err(cut_short());
                }
                self.replace(content, Content::Memory(bytes));
                Ok(())
            }
            Content::Layer(layer, entry) if keep > AT_ONCE => {
                let partial = Partial::new(Arc::clone(layer), *entry, keep);
                let flat = self.files.create(self.ino);
                flat.and_then(|flat| flat.set_len(keep))
                    .map_err(Error::io("create a flat file"))?;
                self.unsynced.store(true, Ordering::Release);
                self.replace(content, Content::Partial(partial));
                Ok(())
            }
            Content::Memory(_) | Content::Layer(..) | Content::Host(_) => self.make_flat(content, keep),
        }
    }

    /// Takes as much of the budget for files in memory as `bytes` need; false if that is too much. It goes back
    /// with the bytes.
    fn charge(&self, bytes: u64) -> bool {
        let charged = self.charged.load(Ordering::Relaxed);
        let fits = bytes <= charged || self.files.reserve(bytes - charged);
        if fits {
            self.charged.fetch_max(bytes, Ordering::Relaxed);
        }
        fits
    }

    /// Copies the first `keep` bytes into the flat file; blocks of zeros become holes.
    fn make_flat(&self, content: &mut Content, keep: u64) -> Result<(), Error> {
        let flat = self
            .files
            .create(self.ino)
            .map_err(Error::io("create a flat file"))?;
        let mut buffer = vec![0; 64 * BLOCK];
        let mut offset = 0;
        while offset < keep {
            if let Some(data) = self.next_data(content, offset)? {
                offset = data;
            } else {
                break;
            }
            let left = usize::try_from(keep.saturating_sub(offset)).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            let piece = &mut buffer[..wanted];
            if self.read_from(content, offset, piece)? < wanted {
                return Err(cut_short());
            }
            host::write_sparse(&flat, offset, piece).map_err(Error::io("copy up a file"))?;
            offset += wanted as u64;
        }
        flat.set_len(keep).map_err(Error::io("copy up a file"))?;
        self.unsynced.store(true, Ordering::Release);
        self.replace(content, Content::Flat);
        Ok(())
    }

    /// Where the next data lies at or after `offset`; `None` if there is only a hole.
    fn next_data(&self, content: &Content, offset: u64) -> Result<Option<u64>, Error> {
        let found = match content {
            Content::Layer(layer, entry) => seek_layer(layer, *entry, offset, Seek::Data),
            Content::Host(file) => {
                host::open(&file.path).and_then(|file| host::seek(&file, offset, Seek::Data))
            }
            Content::Memory(_) | Content::Partial(_) | Content::Flat => Ok(offset),
        };
        match found {
            Ok(at) => Ok(Some(at)),
            Err(Error::OutOfRange) => Ok(None),
            Err(other) => Err(other),
        }
    }

    fn replace(&self, content: &mut Content, with: Content) {
        match std::mem::replace(content, with) {
            Content::Memory(_) => self.files.release(self.charged.swap(0, Ordering::Relaxed)),
            Content::Layer(..) | Content::Host(_) | Content::Partial(_) | Content::Flat => {}
        }
    }

    fn flat(&self) -> Result<Arc<File>, Error> {
        self.files.open(self.ino).map_err(Error::io("open a flat file"))
    }

    fn read_content(&self) -> RwLockReadGuard<'_, Content> {
        self.content.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_content(&self) -> RwLockWriteGuard<'_, Content> {
        self.content.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        match self.content.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Content::Memory(_) => self.files.release(*self.charged.get_mut()),
            Content::Flat | Content::Partial(_) if *self.discard.get_mut() => self.files.discard(self.ino),
            Content::Layer(..) | Content::Host(_) | Content::Partial(_) | Content::Flat => {}
        }
    }
}

impl Content {
    /// What a change of it is.
    fn as_changed(&self) -> Changed {
        match self {
            Self::Flat => Changed::InPlace,
            _ => Changed::Placement,
        }
    }
}

fn cut_short() -> Error {
    Error::io("copy up a file")(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Offset plus length, if a file can be that large.
fn end_of(offset: u64, length: u64) -> Result<u64, Error> {
    offset
        .checked_add(length)
        .filter(|end| *end <= MAX_SIZE)
        .ok_or(Error::FileTooLarge)
}

/// A size or offset within a file that is in memory.
fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// A file without holes.
fn seek_dense(size: u64, offset: u64, what: Seek) -> Result<u64, Error> {
    match what {
        _ if offset >= size => Err(Error::OutOfRange),
        Seek::Data => Ok(offset),
        Seek::Hole => Ok(size),
    }
}

/// lseek(2) for data and holes of a file of a layer.
pub(super) fn seek_layer(layer: &Layer, id: EntryId, offset: u64, what: Seek) -> Result<u64, Error> {
    let Some(entry) = layer.index().entry(id) else {
        return Err(Error::Stale);
    };
    let size = entry.size();
    if offset >= size {
        return Err(Error::OutOfRange);
    }
    let mut hole = offset;
    for extent in entry.extents().filter(|extent| extent.length > 0) {
        let end = extent.offset.saturating_add(extent.length);
        if end <= hole {
            continue;
        }
        match what {
            Seek::Data => return Ok(extent.offset.max(offset)),
            Seek::Hole if extent.offset > hole => return Ok(hole),
            Seek::Hole => hole = end,
        }
    }
    match what {
        Seek::Data => Err(Error::OutOfRange),
        Seek::Hole => Ok(hole.min(size)),
    }
}
