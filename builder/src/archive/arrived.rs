//! An archive that comes as a stream: each layer is taken in as it comes, so that it is written to the disk once, in
//! the form in which the store keeps it.
//!
//! What a member is for is often said behind it (`manifest.json` may come last). So a member is guessed at: a small one
//! and a JSON document stay in memory, anything else is tried as a layer. If that fails it matters only once an image
//! wants the member as a layer.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use mica_fs::digest::{Digest, Hashing};
use mica_fs::layer::ingest::{IngestError, decompress, ingest};
use mica_fs::layer::writer::Written;
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, WorkDir};

use super::LoadError;
use super::scan::{Member, Members, Place, Scan, Stream};
use crate::image::CONFIG_LIMIT;

/// Up to this size in bytes a member is kept in memory, whatever it is.
const SMALL: u64 = 64 << 10;
/// The most bytes of an archive that are kept in memory.
const MEMORY: u64 = 48 << 20;

/// The members of a stream.
#[derive(Default)]
pub(super) struct Arrived {
    pub(super) members: Members<Kept>,
    in_memory: u64,
}

/// A file of the stream.
pub(super) enum Kept {
    Bytes(Vec<u8>),
    /// A large one whose name is the digest of a blob that the store has: it was not looked at.
    Stored {
        digest: Digest,
        size: u64,
    },
    Layer(Tried),
}

/// What came of a member as a layer.
pub(super) struct Tried {
    /// Of the bytes of the member.
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Until it is taken.
    layer: Option<Result<(WorkDir, Written), IngestError>>,
    /// The bytes as they came, if these are to be kept beside the layer.
    compressed: Option<(WorkDir, PathBuf)>,
}

impl Tried {
    /// The layer, not yet published. It can be taken once.
    pub(super) fn take(&mut self) -> Option<Result<(WorkDir, Written), IngestError>> {
        self.layer.take()
    }
}

impl Arrived {
    /// Takes in a stream to its end.
    pub(super) fn take_in(store: &Store, stream: &mut dyn Read) -> Result<Self, LoadError> {
        let plain = decompress(stream).map_err(|source| LoadError::read("the archive", source))?;
        let mut scan = Scan::new(Stream(plain));
        let mut arrived = Self::default();
        while let Some((path, member)) = scan.next()? {
            let member = match member {
                Member::Link(target) => Member::Link(target),
                Member::File(place) => Member::File(arrived.keep(store, &path, place, &mut scan)?),
            };
            arrived.members.insert(path, member)?;
        }
        scan.finish()?;
        Ok(arrived)
    }

    fn keep(
        &mut self,
        store: &Store,
        path: &ImagePath,
        Place { size, .. }: Place,
        content: &mut dyn Read,
    ) -> Result<Kept, LoadError> {
        let error = |source| LoadError::read(&path.to_string(), source);
        let mut head = Vec::new();
        (&mut *content)
            .take(SMALL)
            .read_to_end(&mut head)
            .map_err(error)?;
        let is_json = matches!(head.trim_ascii_start().first(), Some(b'{' | b'['));
        let fits = self.in_memory + size <= MEMORY;
        if fits && (size <= SMALL || is_json && size <= CONFIG_LIMIT) {
            content.read_to_end(&mut head).map_err(error)?;
            self.in_memory += size;
            return Ok(Kept::Bytes(head));
        }
        if let Some(digest) = named_digest(path).filter(|digest| store.has_blob(digest)) {
            return Ok(Kept::Stored { digest, size });
        }
        // Only the blobs of an OCI layout have digests that are to stay.
        let keeps_blob = path.as_bytes().starts_with(b"blobs/") && super::source::is_compressed(&head);
        let tried = attempt(store, path, &mut (&head[..]).chain(content), keeps_blob)?;
        Ok(Kept::Layer(tried))
    }

    /// A file that is in memory.
    pub(super) fn bytes(&self, name: &str, path: &ImagePath) -> Result<&[u8], LoadError> {
        match self.members.get(path) {
            Some(Kept::Bytes(bytes)) => Ok(bytes),
            Some(Kept::Layer(Tried { size, .. }) | Kept::Stored { size, .. }) => Err(LoadError::TooLarge {
                member: name.to_owned(),
                size: *size,
                limit: SMALL,
            }),
            None => Err(LoadError::Missing {
                member: name.to_owned(),
            }),
        }
    }

    /// Puts the bytes of a member into the store as they came. Whether there are any.
    pub(super) fn publish(
        &self,
        store: &Store,
        path: &ImagePath,
        digest: &Digest,
    ) -> Result<bool, LoadError> {
        let Some(Kept::Layer(tried)) = self.members.get(path) else {
            return Ok(false);
        };
        let Some((_, file)) = tried.compressed.as_ref().filter(|_| tried.digest == *digest) else {
            return Ok(false);
        };
        store.publish_blob(file, digest)?;
        Ok(true)
    }
}

/// The digest that a member's name promises: that of a blob in an OCI layout, or of a layer as podman and Docker name
/// it. A wrong promise is found out where an image wants something else under that name.
fn named_digest(path: &ImagePath) -> Option<Digest> {
    let text = std::str::from_utf8(path.as_bytes()).ok()?;
    let name = text.strip_prefix("blobs/sha256/").unwrap_or(text);
    let name = name.strip_suffix(".tar").unwrap_or(name);
    Digest::from_hex(name.strip_suffix("/layer").unwrap_or(name)).ok()
}

/// Takes in what may be a layer.
fn attempt(
    store: &Store,
    path: &ImagePath,
    content: &mut dyn Read,
    keeps_blob: bool,
) -> Result<Tried, LoadError> {
    let member = path.to_string();
    let error = |source| LoadError::read(&member, source);
    let work = store.work_dir()?;
    let blob = keeps_blob.then(|| Copying::to_new_file(store)).transpose()?;
    let mut reader = Hashing::new(Tee {
        from: content,
        to: blob,
    });
    let layer = ingest(&mut decompress(&mut reader).map_err(error)?, work.path());
    // The rest is part of the member's digest, which explains a bad layer better.
    io::copy(&mut reader, &mut io::sink()).map_err(error)?;
    let (tee, digest, size) = reader.finish();
    let compressed = tee.to.map(Copying::finish).transpose()?;
    // A failure of the disk is none of the layer.
    if let Err(source @ IngestError::Write { .. }) = layer {
        return Err(LoadError::Layer { member, source });
    }
    Ok(Tried {
        digest,
        size,
        layer: Some(layer.map(|written| (work, written))),
        compressed,
    })
}

/// A file in a work directory that is being written.
struct Copying {
    work: WorkDir,
    path: PathBuf,
    file: BufWriter<File>,
}

impl Copying {
    fn to_new_file(store: &Store) -> Result<Self, LoadError> {
        let work = store.work_dir()?;
        let path = Path::new(work.path()).join("blob");
        let file = File::create_new(&path).map_err(|source| LoadError::Spool { source })?;
        Ok(Self {
            work,
            path,
            file: BufWriter::with_capacity(256 << 10, file),
        })
    }

    fn finish(mut self) -> Result<(WorkDir, PathBuf), LoadError> {
        self.file.flush().map_err(|source| LoadError::Spool { source })?;
        Ok((self.work, self.path))
    }
}

/// Reads, and writes what was read to a file.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: Option<Copying>,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        if let Some(copying) = &mut self.to {
            copying.file.write_all(&buffer[..n])?;
        }
        Ok(n)
    }
}
