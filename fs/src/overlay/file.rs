//! What is in a file: reading, writing, space, and making it durable.

use std::io;

use super::data::{Changed, seek_layer};
use super::inode::{Body, Content};
use super::*;
use crate::digest::Digest;
use crate::layer::index::EntryId;

/// Where to read a file's bytes from.
enum Reader {
    Lower(Arc<Layer>, EntryId),
    Own(Arc<FileData>),
}

impl Overlay {
    /// Reads at `offset` and returns the number of bytes: less than asked for only at the end of the file.
    ///
    /// # Errors
    /// [`Error::IsADirectory`], [`Error::Invalid`] if the node is no file, [`Error::Io`].
    pub fn read(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.reader(ino)? {
            Reader::Own(data) => data.read(offset, buffer),
            Reader::Lower(layer, entry) => layer
                .read_at(entry, buffer, offset)
                .map_err(Error::io("read a file of a layer")),
        }
    }

    /// Writes all of `data` at `offset` and returns its length. The first write to a lower file copies it up.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::IsADirectory`], [`Error::Invalid`], [`Error::FileTooLarge`],
    /// [`Error::Io`].
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<usize> {
        if data.is_empty() {
            return Ok(0);
        }
        self.change_data(ino, |file| file.write(offset, data))?;
        Ok(data.len())
    }

    /// fallocate(2).
    ///
    /// # Errors
    /// As [`Self::write`]; [`Error::Invalid`] for a length of 0.
    pub fn allocate(&self, ino: Ino, how: Allocate, offset: u64, length: u64) -> Result<()> {
        self.change_data(ino, |file| file.allocate(how, offset, length))
    }

    /// lseek(2) for data and holes.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `offset` lies at or beyond the end, or there is no data after it.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        match self.reader(ino)? {
            Reader::Own(data) => data.seek(offset, what),
            Reader::Lower(layer, entry) => seek_layer(&layer, entry, offset, what),
        }
    }

    /// fsync(2) and fdatasync(2): makes the file's data durable and everything that leads to it. Whatever else a
    /// named upper has changed becomes durable with it. Without one nothing is: its changes end with the session.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn sync(&self, ino: Ino, durable: Durable) -> Result<()> {
        self.sync_data(ino)?;
        self.sync_log(durable)
    }

    /// The same for several, at the cost of the names and metadata of one. The results are in the order of the files.
    pub fn sync_together(&self, files: &[(Ino, Durable)]) -> Vec<Result<()>> {
        let data: Vec<_> = files.iter().map(|(ino, _)| self.sync_data(*ino)).collect();
        let all = files.iter().any(|(_, durable)| *durable == Durable::All);
        let log = self.sync_log(if all { Durable::All } else { Durable::Data });
        let shared = || match &log {
            Ok(()) => Ok(()),
            Err(error) => Err(Error::io("make changes durable")(io::Error::from_raw_os_error(
                error.errno(),
            ))),
        };
        data.into_iter()
            .map(|data| data.and_then(|()| shared()))
            .collect()
    }

    fn sync_data(&self, ino: Ino) -> Result<()> {
        if !self.keeps_changes() {
            return Ok(());
        }
        let data = match &self.tree().node(ino.0)?.body {
            Body::File(Content::Own(data)) => Some(Arc::clone(data)),
            _ => None,
        };
        data.map_or(Ok(()), |data| data.sync())
    }

    fn sync_log(&self, durable: Durable) -> Result<()> {
        match &self.upper {
            Some(upper) => upper.sync(self, durable),
            None => Ok(()),
        }
    }

    /// Whether changes outlive the session, so that a sync has something to do.
    pub fn keeps_changes(&self) -> bool {
        self.upper.as_ref().is_some_and(|upper| upper.is_named())
    }

    /// The digest of a file's content, if it is still that of a layer.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn content(&self, ino: Ino) -> Result<Option<Digest>> {
        let mut tree = self.tree();
        if let Some(trace) = &mut tree.trace {
            trace.content(ino.0);
        }
        let node = tree.node(ino.0)?;
        Ok(match &node.body {
            Body::File(Content::Lower) => node
                .origin
                .and_then(|origin| self.lower.entry(origin))
                .and_then(|entry| entry.digest()),
            Body::File(Content::Own(data)) => data
                .source()
                .and_then(|(layer, id)| layer.index().entry(id)?.digest()),
            _ => None,
        })
    }

    /// The file of a layer that holds the content of `ino`, if it is still that of a layer: for copying it into
    /// another overlay without moving its bytes.
    pub fn origin(&self, ino: Ino) -> Option<(Arc<Layer>, EntryId)> {
        let mut tree = self.tree();
        if let Some(trace) = &mut tree.trace {
            trace.content(ino.0);
        }
        let node = tree.node(ino.0).ok()?;
        match &node.body {
            Body::File(Content::Lower) => {
                let origin = node.origin?;
                Some((Arc::clone(self.lower.layer(origin)?), origin.entry))
            }
            Body::File(Content::Own(data)) => data.source(),
            _ => None,
        }
    }

    fn reader(&self, ino: Ino) -> Result<Reader> {
        let mut tree = self.tree();
        let node = tree.node(ino.0)?;
        let origin = match &node.body {
            Body::File(Content::Own(data)) => return Ok(Reader::Own(Arc::clone(data))),
            Body::File(Content::Lower) => node.origin.ok_or(Error::Stale)?,
            Body::Directory(_) => return Err(Error::IsADirectory),
            _ => return Err(Error::Invalid),
        };
        drop(node);
        if let Some(trace) = &mut tree.trace {
            trace.content(ino.0);
        }
        let layer = self.lower.layer(origin).ok_or(Error::Stale)?;
        Ok(Reader::Lower(Arc::clone(layer), origin.entry))
    }

    /// Changes the data of a file; its times change now.
    fn change_data(&self, ino: Ino, change: impl FnOnce(&FileData) -> Result<Changed>) -> Result<()> {
        let _changing = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let mut tree = self.tree_mut()?;
        let data = tree.own_data(ino.0, true)?;
        tree.touch(ino.0)?;
        drop(tree);
        self.change_bytes(ino, &data, change)
    }

    /// Changes bytes. Those of a flat file are saved where they lie; all others, and where they lie, by the log.
    pub(super) fn change_bytes(
        &self,
        ino: Ino,
        data: &FileData,
        change: impl FnOnce(&FileData) -> Result<Changed>,
    ) -> Result<()> {
        let changed = change(data);
        if !matches!(changed, Ok(Changed::InPlace)) && self.keeps_changes() {
            self.tree().note_data(ino.0);
        }
        changed.map(drop)
    }
}
