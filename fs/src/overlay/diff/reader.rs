//! Reading a file for its way into a layer.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use crate::digest::Digest;
use crate::layer::Layer;
use crate::layer::index::EntryId;
use crate::overlay::data::{FileData, host};
use crate::overlay::{Error, HostFile};
use crate::stamp::Stamp;

/// Reads a file of the overlay once, from its beginning to its end.
pub(crate) struct FileReader {
    source: Source,
    size: u64,
    offset: u64,
}

enum Source {
    Layer(Arc<Layer>, EntryId),
    Own(Arc<FileData>),
    /// Opened by the first read.
    Host(Arc<HostFile>, Option<File>),
}

impl FileReader {
    /// A file of a layer, of `size` bytes.
    pub fn of_layer(layer: Arc<Layer>, entry: EntryId, size: u64) -> Self {
        Self::new(Source::Layer(layer, entry), size)
    }

    /// A file with data of its own.
    pub(in crate::overlay) fn of_data(data: &Arc<FileData>) -> Self {
        let source = match (data.host(), data.source()) {
            (Some(file), _) => Source::Host(file, None),
            (None, Some((layer, entry))) => Source::Layer(layer, entry),
            (None, None) => Source::Own(Arc::clone(data)),
        };
        Self::new(source, data.size())
    }

    fn new(source: Source, size: u64) -> Self {
        Self {
            source,
            size,
            offset: 0,
        }
    }

    /// Bytes in the file.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of the file, if it is known. Reading fails if it is not what is read.
    pub fn digest(&self) -> Option<Digest> {
        match &self.source {
            Source::Layer(layer, id) => layer
                .index()
                .entry(*id)
                .filter(|entry| entry.size() == self.size)
                .and_then(|entry| entry.digest()),
            Source::Host(file, _) => file
                .known
                .filter(|known| known.stamp.size == self.size)
                .map(|known| known.digest),
            Source::Own(_) => None,
        }
    }
}

impl Read for FileReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.size - self.offset).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let buffer = &mut buffer[..wanted];
        let n = match &mut self.source {
            Source::Layer(layer, entry) => layer.read_at(*entry, buffer, self.offset)?,
            Source::Own(data) => data.read(self.offset, buffer).map_err(system)?,
            Source::Host(file, opened) => {
                let begins = opened.is_none();
                let open = match opened {
                    Some(open) => open,
                    none => none.insert(host::open(&file.path).map_err(system)?),
                };
                if begins {
                    check(file, open)?;
                }
                let n = open.read(buffer)?;
                if n == left {
                    check(file, open)?;
                }
                n
            }
        };
        self.offset += n as u64;
        Ok(n)
    }
}

/// Whether the file is still the one whose content is known.
fn check(file: &HostFile, open: &File) -> io::Result<()> {
    match file.known {
        Some(known) if Stamp::of_metadata(&open.metadata()?) != known.stamp => {
            Err(io::Error::other("it changed while it was copied"))
        }
        _ => Ok(()),
    }
}

fn system(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}
