//! Taking in a layer made elsewhere: its tar is kept byte for byte, hashed and indexed while it streams in.
//!
//! All dialects of tar that container tools and GNU tar write are understood (V7, ustar, PAX, GNU, star), with
//! Docker's rules where they differ. Nothing is believed: a name that leads out of the image, a size that the
//! stream does not hold or a malformed whiteout is an error that names the entry and the byte.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::digest::{DiffId, Hasher};
use crate::layer::index::{Builder, Data, Extent, InvalidEntry, Node};
use crate::layer::tar_file::TarFile;
use crate::layer::writer::{BLOCK, Written, write_index};
use crate::layer::{Device, INDEX_FILE, Metadata, TAR_FILE, Timestamp};
use crate::path::ImagePath;

mod decompress;
mod error;
mod extended;
mod header;
mod listing;
mod name;
mod sparse;
mod stream;
#[cfg(test)]
mod tests;

pub use decompress::decompress;
pub use error::{IngestError, Problem};
use extended::Extended;
use header::{Header, Kind};
pub use listing::Listing;
use name::{PATH_MAX, Place};
use stream::{Block, Stream, StreamError};

/// The most bytes that PAX records or a long name may take.
const MAX_EXTENDED: u64 = 1 << 20;

/// Takes in an uncompressed tar: writes `tar` and `index` in `directory`, where neither may exist, and syncs
/// them. Reads `tar` to its end.
///
/// # Errors
/// [`IngestError`]; then incomplete files may be left in the directory.
pub fn ingest(tar: &mut dyn Read, directory: &Path) -> Result<Written, IngestError> {
    let path = directory.join(TAR_FILE);
    let file = TarFile::create(&path).map_err(|source| IngestError::Write { path, source })?;
    ingest_to(file, tar, directory)
}

/// As [`ingest`], but writes only `index`: the tar itself is not kept.
///
/// # Errors
/// [`IngestError`].
pub fn ingest_index(tar: &mut dyn Read, directory: &Path) -> Result<Written, IngestError> {
    ingest_to(TarFile::unkept(), tar, directory)
}

fn ingest_to(file: TarFile, tar: &mut dyn Read, directory: &Path) -> Result<Written, IngestError> {
    let path = directory.join(TAR_FILE);
    let mut ingest = Ingest {
        stream: Stream::new(tar, file),
        tar: path.clone(),
        index: Builder::new(),
        entry: None,
        entries: 0,
    };
    ingest.members()?;
    let (digest, tar_size) = ingest
        .stream
        .finish()
        .map_err(|source| IngestError::Write { path, source })?;
    let diff_id = DiffId(digest);
    let path = directory.join(INDEX_FILE);
    let index = ingest.index.encode();
    index
        .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidData, e))
        .and_then(|index| write_index(&index, diff_id, tar_size, &path))
        .map_err(|source| IngestError::Write { path, source })?;
    Ok(Written {
        diff_id,
        tar_size,
        entries: ingest.entries,
    })
}

struct Ingest<'a> {
    stream: Stream<'a>,
    tar: PathBuf,
    index: Builder,
    /// The entry at hand, or the last one.
    entry: Option<String>,
    entries: u32,
}

/// A member with everything that its header and the ones before it say.
struct Member {
    header: Header,
    kind: Kind,
    extended: Extended,
    /// Where its first header begins.
    offset: u64,
    name: Vec<u8>,
    size: u64,
}

impl Ingest<'_> {
    fn members(&mut self) -> Result<(), IngestError> {
        while let Some(member) = self.next()? {
            self.entry = Some(lossy(&member.name));
            let offset = member.offset;
            self.add(member).map_err(|e| self.located(e, offset))?;
            self.entries = self.entries.saturating_add(1);
        }
        self.stream.drain().map_err(|e| self.failed(e))
    }

    /// The next member; `None` at the end of the archive.
    fn next(&mut self) -> Result<Option<Member>, IngestError> {
        let offset = self.stream.position();
        let mut extended = Extended::default();
        let mut first = true;
        loop {
            let Some(header) = self.header(first)? else {
                return Ok(None);
            };
            let name = header.name();
            let kind = header
                .kind()
                .map_err(|problem| entry_error(&name, offset, problem))?;
            first &= kind == Kind::GlobalPax;
            let taken = match kind {
                Kind::Pax | Kind::GlobalPax | Kind::LongName | Kind::LongLink => {
                    self.entry = Some(lossy(&name));
                    self.extend(kind, &header, &mut extended)
                }
                _ => {
                    return Member::new(header, kind, extended, offset)
                        .map(Some)
                        .map_err(|problem| entry_error(&name, offset, problem));
                }
            };
            taken.map_err(|e| self.located(e, offset))?;
        }
    }

    /// The next header. `None` at the end of the archive, if it may end here.
    fn header(&mut self, may_end: bool) -> Result<Option<Header>, IngestError> {
        let offset = self.stream.position();
        let block = match self.stream.block() {
            Ok(block) => block,
            Err(StreamError::End) if offset == 0 => return Err(IngestError::NotATar),
            Err(e) => return Err(self.failed(e)),
        };
        let zero = |block: &Block| block == &[0; BLOCK as usize];
        match block {
            None if offset == 0 => Err(IngestError::NotATar),
            // An archive without an end mark is taken, as GNU tar does.
            None if may_end => Ok(None),
            None => Err(self.failed(StreamError::End)),
            Some(block) if zero(&block) => match self.stream.block().map_err(|e| self.failed(e))? {
                Some(next) if !zero(&next) => Err(self.damaged(offset)),
                _ if may_end => Ok(None),
                _ => Err(self.damaged(offset)),
            },
            Some(block) => match Header::new(block) {
                Some(header) => Ok(Some(header)),
                None if offset == 0 => Err(IngestError::NotATar),
                None => Err(self.damaged(offset)),
            },
        }
    }

    /// Takes in a header that is about the member to come.
    fn extend(&mut self, kind: Kind, header: &Header, extended: &mut Extended) -> Result<(), Trouble> {
        let size = header.size().ok_or(Problem::Number("size"))?;
        if size > MAX_EXTENDED {
            return Err(Problem::Pax("it is larger than 1 MiB").into());
        }
        let mut content = Vec::new();
        self.stream
            .copy(size, &mut |bytes| content.extend_from_slice(bytes))?;
        self.stream.padding(size)?;
        let text = || content.split(|&b| b == 0).next().unwrap_or_default().to_vec();
        match kind {
            Kind::Pax => extended.add_pax(&content)?,
            Kind::LongName => extended.path = Some(text()),
            Kind::LongLink => extended.link = Some(text()),
            // Docker ignores global records; `git archive` puts its commit there.
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, mut member: Member) -> Result<(), Trouble> {
        let place = name::place(&member.name)?;
        let path = match place {
            Place::Node(path) => path,
            marker => {
                // Of a marker only the name counts.
                self.skip(member.size)?;
                return self.add_marker(marker);
            }
        };
        if member.kind == Kind::HardLink {
            return self.add_hard_link(&path, &member);
        }
        let metadata = member.metadata()?;
        let node = self.node(&mut member)?;
        self.index.add(&path, metadata, node)?;
        Ok(())
    }

    fn add_marker(&mut self, marker: Place) -> Result<(), Trouble> {
        match marker {
            Place::Whiteout(path) => self.index.add_whiteout(&path)?,
            Place::Opaque(path) => self.index.add_opaque(&path)?,
            Place::Ignored | Place::Node(_) => {}
        }
        Ok(())
    }

    fn add_hard_link(&mut self, path: &ImagePath, member: &Member) -> Result<(), Trouble> {
        let target = member.link();
        let target = ImagePath::from_member(target).map_err(|reason| Problem::LinkTarget {
            target: lossy(target),
            reason,
        })?;
        self.index.add_link(path, &target)?;
        Ok(())
    }

    fn node(&mut self, member: &mut Member) -> Result<Node, Trouble> {
        Ok(match member.kind {
            Kind::Directory => Node::Directory,
            Kind::Symlink => match member.link() {
                target if target.is_empty() || target.len() > PATH_MAX || target.contains(&0) => {
                    return Err(Problem::SymlinkTarget.into());
                }
                target => Node::Symlink(target.to_vec()),
            },
            Kind::CharDevice => Node::CharDevice(member.device()?),
            Kind::BlockDevice => Node::BlockDevice(member.device()?),
            Kind::Fifo => Node::Fifo,
            _ => Node::File(self.file(member)?),
        })
    }

    fn file(&mut self, member: &mut Member) -> Result<Data, Trouble> {
        let Some((map, stored)) = self.sparse_map(member)? else {
            return self.whole_file(member.size);
        };
        let extents = map.extents(self.stream.position(), stored)?;
        let mut hasher = Hasher::new();
        let mut done = 0;
        for extent in &extents {
            hash_zeros(&mut hasher, extent.offset - done);
            self.stream
                .copy(extent.length, &mut |bytes| hasher.update(bytes))?;
            done = extent.offset + extent.length;
        }
        hash_zeros(&mut hasher, map.size - done);
        self.stream.padding(stored)?;
        Ok(Data {
            size: map.size,
            digest: Some(hasher.finish()),
            extents,
        })
    }

    fn whole_file(&mut self, size: u64) -> Result<Data, Trouble> {
        let whole = Extent {
            offset: 0,
            length: size,
            position: self.stream.position(),
        };
        let mut hasher = Hasher::new();
        self.stream.copy(size, &mut |bytes| hasher.update(bytes))?;
        self.stream.padding(size)?;
        Ok(Data {
            size,
            digest: Some(hasher.finish()),
            extents: if size == 0 { Vec::new() } else { vec![whole] },
        })
    }

    /// The map of a sparse file and the size of the data that follows; `None` for another file.
    fn sparse_map(&mut self, member: &mut Member) -> Result<Option<(sparse::Map, u64)>, Trouble> {
        if member.kind == Kind::GnuSparse {
            let (mut map, mut more) = sparse::Map::from_gnu(member.header.block())?;
            while more {
                let block = self.stream.block()?.ok_or(StreamError::End)?;
                more = map.add_gnu_block(&block)?;
            }
            return Ok(Some((map, member.size)));
        }
        let records = &member.extended.sparse;
        let Some(mut map) = records.map()? else {
            return Ok(None);
        };
        let mut stored = member.size;
        if records.is_in_data() {
            let mut lines = sparse::DataMap::new();
            loop {
                stored = stored
                    .checked_sub(BLOCK)
                    .ok_or(Problem::Sparse("its map is cut short"))?;
                let block = self.stream.block()?.ok_or(StreamError::End)?;
                if lines.add(&block)? {
                    break;
                }
            }
            map.pieces = lines.pieces();
        }
        Ok(Some((map, stored)))
    }

    fn skip(&mut self, size: u64) -> Result<(), StreamError> {
        self.stream.copy(size, &mut |_| ())?;
        self.stream.padding(size)
    }

    fn located(&self, trouble: Trouble, offset: u64) -> IngestError {
        match trouble {
            Trouble::Stream(e) => self.failed(e),
            Trouble::Entry(problem) => IngestError::Entry {
                entry: self.entry.clone().unwrap_or_default(),
                offset,
                problem,
            },
        }
    }

    fn failed(&self, error: StreamError) -> IngestError {
        let (offset, entry) = (self.stream.position(), self.entry.clone());
        match error {
            StreamError::Read(source) => IngestError::Read {
                offset,
                entry,
                source,
            },
            StreamError::Write(source) => {
                let path = self.tar.clone();
                IngestError::Write { path, source }
            }
            StreamError::End => IngestError::Truncated { offset, entry },
        }
    }

    fn damaged(&self, offset: u64) -> IngestError {
        let after = self.entry.clone();
        IngestError::Damaged { offset, after }
    }
}

impl Member {
    fn new(header: Header, kind: Kind, extended: Extended, offset: u64) -> Result<Self, Problem> {
        let stated = match extended.size {
            Some(size) => size,
            None => header.size().ok_or(Problem::Number("size"))?,
        };
        // Only files have content; others may state a size nevertheless, as for Go's archive/tar.
        let size = match kind {
            Kind::File | Kind::GnuSparse => stated,
            _ => 0,
        };
        let name = extended.sparse.name.clone().or_else(|| extended.path.clone());
        Ok(Self {
            name: name.unwrap_or_else(|| header.name()),
            header,
            kind,
            extended,
            offset,
            size,
        })
    }

    fn link(&self) -> &[u8] {
        self.extended
            .link
            .as_deref()
            .unwrap_or_else(|| self.header.link())
    }

    fn device(&self) -> Result<Device, Problem> {
        let (major, minor) = self.header.device().ok_or(Problem::Number("device number"))?;
        Ok(Device { major, minor })
    }

    fn metadata(&mut self) -> Result<Metadata, Problem> {
        let or =
            |extended: Option<u32>, plain: Option<u32>, what| extended.or(plain).ok_or(Problem::Number(what));
        let mtime = match self.extended.mtime {
            Some(mtime) => mtime,
            None => Timestamp::from_seconds(self.header.mtime().ok_or(Problem::Number("mtime"))?),
        };
        Ok(Metadata {
            mode: self.header.mode()?,
            uid: or(self.extended.uid, self.header.uid(), "uid")?,
            gid: or(self.extended.gid, self.header.gid(), "gid")?,
            mtime,
            xattrs: std::mem::take(&mut self.extended.xattrs),
        })
    }
}

/// What stops an entry from being taken in.
enum Trouble {
    Stream(StreamError),
    Entry(Problem),
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        Self::Stream(error)
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Entry(problem)
    }
}

impl From<InvalidEntry> for Trouble {
    fn from(invalid: InvalidEntry) -> Self {
        Self::Entry(invalid.into())
    }
}

fn entry_error(name: &[u8], offset: u64, problem: Problem) -> IngestError {
    IngestError::Entry {
        entry: lossy(name),
        offset,
        problem,
    }
}

/// A name for an error, not too long to read.
fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(&name[..name.len().min(PATH_MAX)]).into_owned()
}

fn hash_zeros(hasher: &mut Hasher, count: u64) {
    static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
    let mut left = count;
    while left > 0 {
        let n = ZEROS.len().min(usize::try_from(left).unwrap_or(ZEROS.len()));
        hasher.update(&ZEROS[..n]);
        left -= n as u64;
    }
}
