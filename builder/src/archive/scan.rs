//! A walk over the members of a tar, which may be a file or a stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use mica_fs::path::ImagePath;

use super::LoadError;

const BLOCK: u64 = 512;
/// The largest extended header that is read, in bytes: names longer than this are no names.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// The most members of an archive; the largest real images have a few hundred.
const MEMBER_LIMIT: usize = 100_000;
/// The most links in a row that are followed.
const LINK_LIMIT: usize = 16;

/// The members of an archive by name, as far as archives of images have them.
pub(super) struct Members<T>(BTreeMap<ImagePath, Member<T>>);

/// A member.
pub(super) enum Member<T> {
    File(T),
    Link(ImagePath),
}

/// Where the content of a file lies in a tar.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Members<T> {
    /// Adds a member; of several with one name the last counts.
    pub(super) fn insert(&mut self, path: ImagePath, member: Member<T>) -> Result<(), LoadError> {
        if self.0.len() == MEMBER_LIMIT {
            return Err(LoadError::NotAnArchive {
                reason: "it has too many members",
            });
        }
        self.0.insert(path, member);
        Ok(())
    }

    /// Whether there is a member of that name.
    pub(super) fn has(&self, path: &ImagePath) -> bool {
        self.0.contains_key(path)
    }

    /// The file that a name leads to.
    pub(super) fn get(&self, path: &ImagePath) -> Option<&T> {
        match self.0.get(&self.follow(path)?)? {
            Member::File(file) => Some(file),
            Member::Link(_) => None,
        }
    }

    /// The file that a name leads to.
    pub(super) fn get_mut(&mut self, path: &ImagePath) -> Option<&mut T> {
        match self.0.get_mut(&self.follow(path)?)? {
            Member::File(file) => Some(file),
            Member::Link(_) => None,
        }
    }

    fn follow(&self, path: &ImagePath) -> Option<ImagePath> {
        let mut path = path;
        for _ in 0..LINK_LIMIT {
            match self.0.get(path)? {
                Member::File(_) => return Some(path.clone()),
                Member::Link(target) => path = target,
            }
        }
        None
    }
}

/// Bytes that come one after the other.
pub(super) trait Forward: Read {
    /// Leaves out so many bytes; returns how many there were.
    fn skip(&mut self, count: u64) -> io::Result<u64>;
}

/// A stream as [`Forward`].
pub(super) struct Stream<R>(pub(super) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Forward for Stream<R> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        io::copy(&mut self.0.by_ref().take(count), &mut io::sink())
    }
}

/// A place in a file.
pub(super) struct At<'a> {
    file: &'a File,
    position: u64,
    length: u64,
}

impl<'a> At<'a> {
    /// The beginning of a file.
    pub(super) fn start(mut file: &'a File) -> Result<Self, LoadError> {
        let end = file.seek(SeekFrom::End(0));
        Ok(Self {
            file,
            position: 0,
            length: end.map_err(|source| LoadError::read("the archive", source))?,
        })
    }
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

impl Forward for At<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let there = count.min(self.length.saturating_sub(self.position));
        self.position += there;
        Ok(there)
    }
}

/// What the headers in front of a member say about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A walk over a tar. Reading from it reads the content of the file that it came to last.
pub(super) struct Scan<R> {
    input: R,
    position: u64,
    /// What is left of the content.
    left: u64,
    pending: Extensions,
}

impl<R: Forward> Read for Scan<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.by_ref().take(self.left).read(buffer)?;
        if n == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= n as u64;
        self.position += n as u64;
        Ok(n)
    }
}

impl<R: Forward> Scan<R> {
    /// A walk that begins where `input` is.
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            position: 0,
            left: 0,
            pending: Extensions::default(),
        }
    }

    /// The next file or link; `None` at the end of the archive.
    pub(super) fn next(&mut self) -> Result<Option<(ImagePath, Member<Place>)>, LoadError> {
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            if let Some(found) = self.member(&header)? {
                return Ok(Some(found));
            }
        }
    }

    /// Reads what follows the last member, so that whoever writes it can end.
    pub(super) fn finish(mut self) -> Result<(), LoadError> {
        match self.input.skip(u64::MAX) {
            Ok(_) => Ok(()),
            Err(source) => Err(LoadError::read("the archive", source)),
        }
    }

    /// Moves behind the content of a member, which must all be there, and its padding, which may be missing behind the
    /// last member.
    fn skip_content(&mut self) -> Result<(), LoadError> {
        if self.skip(self.left)? < std::mem::take(&mut self.left) {
            return Err(LoadError::Truncated);
        }
        self.skip(self.position.next_multiple_of(BLOCK) - self.position)?;
        Ok(())
    }

    fn skip(&mut self, count: u64) -> Result<u64, LoadError> {
        if count == 0 {
            return Ok(0);
        }
        let skipped = self.input.skip(count);
        let skipped = skipped.map_err(|source| LoadError::read("the archive", source))?;
        self.position += skipped;
        Ok(skipped)
    }

    /// The header at the present position, which moves behind it; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<tar::Header>, LoadError> {
        const NO_TAR: &str = "it is no tar, nor one compressed by gzip, bzip2, xz or zstd";
        let is_first = self.position == 0;
        let mut header = tar::Header::new_old();
        match self.read_up_to(header.as_mut_bytes())? {
            0 if is_first => {
                return Err(LoadError::NotAnArchive {
                    reason: "it is empty",
                });
            }
            0 => return Ok(None),
            n if n as u64 == BLOCK => {}
            _ if is_first => return Err(LoadError::NotAnArchive { reason: NO_TAR }),
            _ => return Err(LoadError::Truncated),
        }
        if header.as_bytes().iter().all(|&b| b == 0) {
            return Ok(None);
        }
        if !has_good_checksum(&header) {
            return Err(LoadError::NotAnArchive {
                reason: match is_first {
                    true => NO_TAR,
                    false => "a header of the tar is damaged",
                },
            });
        }
        Ok(Some(header))
    }

    /// What a header is about; `None` for what is neither file nor link.
    fn member(&mut self, header: &tar::Header) -> Result<Option<(ImagePath, Member<Place>)>, LoadError> {
        let damaged = |_| LoadError::NotAnArchive {
            reason: "a header of the tar is damaged",
        };
        let kind = header.entry_type();
        let own_size = header.entry_size().map_err(damaged)?;
        if kind.is_gnu_longname() {
            self.pending.name = Some(self.extension(own_size)?);
            return Ok(None);
        }
        if kind.is_gnu_longlink() {
            self.pending.link = Some(self.extension(own_size)?);
            return Ok(None);
        }
        if kind.is_pax_local_extensions() {
            let bytes = self.extension(own_size)?;
            self.pax(&bytes)?;
            return Ok(None);
        }
        let pending = std::mem::take(&mut self.pending);
        let name = pending.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let size = pending.size.unwrap_or(own_size);
        let link = pending
            .link
            .or_else(|| header.link_name_bytes().map(|link| link.into_owned()))
            .unwrap_or_default();
        // Archives with absolute names exist; they mean the archive's root.
        let path = ImagePath::clean(&name).map_err(|_| LoadError::NotAnArchive {
            reason: "a member has an impossible name",
        })?;
        if kind.is_gnu_sparse() {
            return Err(LoadError::NotAnArchive {
                reason: "a member is a sparse file, which no image archive has",
            });
        }
        let is_file = kind.is_file() || kind.is_contiguous();
        if is_file || kind.is_pax_global_extensions() {
            self.left = size;
        }
        let offset = self.position;
        let member = if is_file {
            Some(Member::File(Place { offset, size }))
        } else if kind.is_symlink() {
            symlink_target(&path, &link).map(Member::Link)
        } else if kind.is_hard_link() {
            ImagePath::clean(&link).ok().map(Member::Link)
        } else {
            None
        };
        Ok(member.map(|member| (path, member)))
    }

    /// The content of an extended header, without the NUL that GNU tar ends it with.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LoadError> {
        if size > EXTENSION_LIMIT {
            return Err(LoadError::NotAnArchive {
                reason: "a member's extended header is too long",
            });
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        if self.read_up_to(&mut bytes)? < bytes.len() {
            return Err(LoadError::Truncated);
        }
        if bytes.last() == Some(&0) {
            bytes.pop();
        }
        Ok(bytes)
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), LoadError> {
        for record in tar::PaxExtensions::new(bytes) {
            let record = record.map_err(|_| LoadError::NotAnArchive {
                reason: "a member's extended header is damaged",
            })?;
            match record.key_bytes() {
                b"path" => self.pending.name = Some(record.value_bytes().to_vec()),
                b"linkpath" => self.pending.link = Some(record.value_bytes().to_vec()),
                b"size" => self.pending.size = record.value().ok().and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Fills the buffer, or reads to the end; returns how many bytes there were.
    fn read_up_to(&mut self, buffer: &mut [u8]) -> Result<usize, LoadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.input.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LoadError::read("the archive", source)),
            }
        }
        self.position += filled as u64;
        Ok(filled)
    }
}

/// The target of a symbolic link at `path`, within the archive.
fn symlink_target(path: &ImagePath, link: &[u8]) -> Option<ImagePath> {
    if link.starts_with(b"/") {
        return ImagePath::clean(link).ok();
    }
    let mut whole = path.parent()?.as_bytes().to_vec();
    whole.push(b'/');
    whole.extend_from_slice(link);
    ImagePath::clean(&whole).ok()
}

fn has_good_checksum(header: &tar::Header) -> bool {
    let sum_of = |(i, &byte): (usize, &u8)| match i {
        148..156 => u32::from(b' '),
        _ => u32::from(byte),
    };
    let sum: u32 = header.as_bytes().iter().enumerate().map(sum_of).sum();
    header.cksum().is_ok_and(|stored| stored == sum)
}
