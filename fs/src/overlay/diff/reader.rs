//! Reading a file for its way into a layer.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use crate::digest::{Digest, Hasher};
use crate::layer::Layer;
use crate::layer::index::EntryId;
use crate::overlay::data::{FileData, host};
use crate::overlay::{Error, Expected, HostFile};
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
    Host(HostReader),
}

impl FileReader {
    /// A file of a layer, of `size` bytes.
    pub fn of_layer(layer: Arc<Layer>, entry: EntryId, size: u64) -> Self {
        Self::new(Source::Layer(layer, entry), size)
    }

    /// A file with data of its own.
    pub(in crate::overlay) fn of_data(data: &Arc<FileData>) -> Self {
        let source = match (data.host(), data.source()) {
            (Some(file), _) => Source::Host(HostReader::new(file)),
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
            Source::Host(host) => match host.file.expected {
                Expected::Anything => None,
                Expected::Stamped(known) => (known.stamp.size == self.size).then_some(known.digest),
                Expected::Content(digest) => Some(digest),
            },
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
            Source::Host(host) => host.read(buffer, left)?,
        };
        self.offset += n as u64;
        Ok(n)
    }
}

/// A file of the host that is read.
struct HostReader {
    file: Arc<HostFile>,
    /// Opened by the first read.
    open: Option<File>,
    /// Of what was read, if only that tells whether the file has changed.
    hasher: Option<Hasher>,
}

impl HostReader {
    fn new(file: Arc<HostFile>) -> Self {
        let hasher = matches!(file.expected, Expected::Content(_)).then(Hasher::new);
        Self {
            file,
            open: None,
            hasher,
        }
    }

    /// Reads on; `left` bytes are left.
    fn read(&mut self, buffer: &mut [u8], left: usize) -> io::Result<usize> {
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(host::open(&self.file.path).map_err(system)?),
        };
        let n = open.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..n]);
        }
        if n < left {
            return Ok(n);
        }
        // A stamp that is the right one at the end was so all the time.
        let same = match self.file.expected {
            Expected::Anything => true,
            Expected::Stamped(known) => Stamp::of_metadata(&open.metadata()?) == known.stamp,
            Expected::Content(digest) => self.hasher.take().is_none_or(|hasher| hasher.finish() == digest),
        };
        match same {
            true => Ok(n),
            false => Err(io::Error::other("it changed while it was copied")),
        }
    }
}

fn system(error: Error) -> io::Error {
    match error {
        Error::Io { source, .. } => source,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::Known;

    #[test]
    fn what_is_not_what_was_expected_is_an_error() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("f");
        std::fs::write(&path, "bytes")?;
        let stamp = Stamp::of_metadata(&std::fs::metadata(&path)?);
        let read = |expected| {
            let path = path.clone();
            let file = HostFile {
                path,
                size: 5,
                expected,
            };
            let mut reader = FileReader::new(Source::Host(HostReader::new(Arc::new(file))), 5);
            io::read_to_string(&mut reader)
        };
        let digest = Digest::of(b"bytes");
        let known = Known { stamp, digest };
        for right in [
            Expected::Anything,
            Expected::Stamped(known),
            Expected::Content(digest),
        ] {
            assert_eq!(read(right)?, "bytes");
        }
        let other = Stamp {
            inode: stamp.inode + 1,
            ..stamp
        };
        assert!(read(Expected::Stamped(Known { stamp: other, digest })).is_err());
        assert!(read(Expected::Content(Digest::of(b"other"))).is_err());
        Ok(())
    }
}
