//! Where an image is loaded from: the members of a tar, or the files of a directory.
//!
//! Archives come in any order and may refer forward, so a tar is read from a seekable, plain file: a compressed
//! one, or one from a pipe, is first written out into the store's work directory. Contents are never held in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mica_fs::digest::{Digest, Hashing};
use mica_fs::path::ImagePath;

use super::LoadError;

const BLOCK: u64 = 512;
/// The largest extended header that is read, in bytes: names longer than this are no names.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// The most members of an archive; the largest real images have a few hundred.
const MEMBER_LIMIT: usize = 100_000;
/// The most links in a row that are followed.
const LINK_LIMIT: usize = 16;

/// The files of an archive by name.
pub(super) enum Source {
    Tar {
        file: File,
        members: BTreeMap<ImagePath, Member>,
    },
    Directory(PathBuf),
}

/// A member of a tar, as far as archives of images have them.
pub(super) enum Member {
    File { offset: u64, size: u64 },
    Link(ImagePath),
}

impl Source {
    /// Lists the members of a plain tar.
    pub(super) fn tar(file: File) -> Result<Self, LoadError> {
        let members = Scan::new(&file)?.members()?;
        Ok(Self::Tar { file, members })
    }

    /// Whether there is a file of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Tar { members, .. } => member_path(name).is_some_and(|path| members.contains_key(&path)),
            Self::Directory(directory) => {
                member_path(name).is_some_and(|path| directory.join(path.as_os_str()).exists())
            }
        }
    }

    /// Opens the file of that name: its content and its size in bytes.
    pub(super) fn open(&self, name: &str) -> Result<(Box<dyn Read + '_>, u64), LoadError> {
        let missing = || LoadError::Missing {
            member: name.to_owned(),
        };
        let path = member_path(name).ok_or_else(missing)?;
        match self {
            Self::Tar { file, members } => {
                let (offset, size) = follow(members, path).ok_or_else(missing)?;
                let reader = Piece {
                    file,
                    position: offset,
                    end: offset + size,
                };
                Ok((Box::new(reader), size))
            }
            Self::Directory(directory) => {
                let file =
                    File::open(directory.join(path.as_os_str())).map_err(|source| match source.kind() {
                        io::ErrorKind::NotFound => missing(),
                        _ => LoadError::read(name, source),
                    })?;
                let metadata = file.metadata().map_err(|source| LoadError::read(name, source))?;
                if !metadata.is_file() {
                    return Err(missing());
                }
                Ok((Box::new(file), metadata.len()))
            }
        }
    }

    /// Reads a file of at most `limit` bytes.
    pub(super) fn read(&self, name: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
        let (reader, size) = self.open(name)?;
        if size > limit {
            return Err(LoadError::TooLarge {
                member: name.to_owned(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::new();
        reader
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|source| LoadError::read(name, source))?;
        Ok(bytes)
    }

    /// Opens the blob of that digest for reading through a hash; its size must be `size`.
    pub(super) fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<Hashing<Box<dyn Read + '_>>, LoadError> {
        let name = blob_name(digest);
        let (reader, found) = self.open(&name)?;
        if found != size {
            return Err(LoadError::Size {
                member: name,
                expected: size,
                found,
            });
        }
        Ok(Hashing::new(reader))
    }

    /// Reads the blob of that digest, of at most `limit` bytes, and verifies it.
    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(digest);
        let bytes = self.read(&name, limit)?;
        verify(&name, digest, &Digest::of(&bytes))?;
        Ok(bytes)
    }
}

/// The name of a blob within an OCI image layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Compares the digest that a member has with the one that it ought to have.
pub(super) fn verify(member: &str, expected: &Digest, found: &Digest) -> Result<(), LoadError> {
    match expected == found {
        true => Ok(()),
        false => Err(LoadError::Digest {
            member: member.to_owned(),
            expected: *expected,
            found: *found,
        }),
    }
}

/// A name within an archive; `None` for one that leads out of it.
fn member_path(name: &str) -> Option<ImagePath> {
    ImagePath::from_member(name.as_bytes())
        .ok()
        .filter(|path| !path.is_root())
}

fn follow(members: &BTreeMap<ImagePath, Member>, mut path: ImagePath) -> Option<(u64, u64)> {
    for _ in 0..LINK_LIMIT {
        match members.get(&path)? {
            Member::File { offset, size } => return Some((*offset, *size)),
            Member::Link(target) => path = target.clone(),
        }
    }
    None
}

/// A range of a file.
struct Piece<'a> {
    file: &'a File,
    position: u64,
    end: u64,
}

impl Read for Piece<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.end - self.position).min(buffer.len() as u64);
        let buffer = &mut buffer[..usize::try_from(wanted).unwrap_or(usize::MAX)];
        let n = self.file.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}

/// What the headers in front of a member say about it.
#[derive(Default)]
struct Extensions {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A walk over the headers of a tar.
struct Scan<'a> {
    file: &'a File,
    length: u64,
    position: u64,
    pending: Extensions,
}

impl<'a> Scan<'a> {
    fn new(mut file: &'a File) -> Result<Self, LoadError> {
        let length = file
            .seek(SeekFrom::End(0))
            .map_err(|source| LoadError::read("the archive", source))?;
        Ok(Self {
            file,
            length,
            position: 0,
            pending: Extensions::default(),
        })
    }

    fn members(mut self) -> Result<BTreeMap<ImagePath, Member>, LoadError> {
        let mut members = BTreeMap::new();
        if self.length == 0 {
            return Err(LoadError::NotAnArchive {
                reason: "it is empty",
            });
        }
        while let Some(header) = self.header()? {
            if members.len() == MEMBER_LIMIT {
                return Err(LoadError::NotAnArchive {
                    reason: "it has too many members",
                });
            }
            self.member(&header, &mut members)?;
        }
        Ok(members)
    }

    /// The header at the present position, which moves behind it; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<tar::Header>, LoadError> {
        if self.position == self.length {
            return Ok(None);
        }
        let mut header = tar::Header::new_old();
        self.read_exact(header.as_mut_bytes())?;
        if header.as_bytes().iter().all(|&b| b == 0) {
            return Ok(None);
        }
        if !has_good_checksum(&header) {
            return Err(LoadError::NotAnArchive {
                reason: match self.position {
                    BLOCK => "it is no tar, nor one compressed by gzip, bzip2, xz or zstd",
                    _ => "a header of the tar is damaged",
                },
            });
        }
        Ok(Some(header))
    }

    fn member(
        &mut self,
        header: &tar::Header,
        members: &mut BTreeMap<ImagePath, Member>,
    ) -> Result<(), LoadError> {
        let damaged = |_| LoadError::NotAnArchive {
            reason: "a header of the tar is damaged",
        };
        let kind = header.entry_type();
        let own_size = header.entry_size().map_err(damaged)?;
        if kind.is_gnu_longname() {
            self.pending.name = Some(self.extension(own_size)?);
            return Ok(());
        }
        if kind.is_gnu_longlink() {
            self.pending.link = Some(self.extension(own_size)?);
            return Ok(());
        }
        if kind.is_pax_local_extensions() {
            let bytes = self.extension(own_size)?;
            return self.pax(&bytes);
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
        let offset = self.position;
        let has_data = kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse();
        if has_data || kind.is_pax_global_extensions() {
            self.skip(size, &path)?;
        }
        if kind.is_gnu_sparse() {
            return Err(LoadError::NotAnArchive {
                reason: "a member is a sparse file, which no image archive has",
            });
        }
        let member = if has_data {
            Member::File { offset, size }
        } else if kind.is_symlink() {
            let Some(target) = symlink_target(&path, &link) else {
                return Ok(());
            };
            Member::Link(target)
        } else if kind.is_hard_link() {
            let Ok(target) = ImagePath::clean(&link) else {
                return Ok(());
            };
            Member::Link(target)
        } else {
            return Ok(());
        };
        members.insert(path, member);
        Ok(())
    }

    /// The content of an extended header, without the NUL that GNU tar ends it with.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, LoadError> {
        let too_long = LoadError::NotAnArchive {
            reason: "a member's extended header is too long",
        };
        if size > EXTENSION_LIMIT {
            return Err(too_long);
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| too_long)?];
        let start = self.position;
        self.read_exact(&mut bytes)?;
        self.position = start;
        self.skip(size, &ImagePath::root())?;
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

    fn read_exact(&mut self, buffer: &mut [u8]) -> Result<(), LoadError> {
        self.file
            .read_exact_at(buffer, self.position)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof if self.position == 0 => LoadError::NotAnArchive {
                    reason: "it is no tar, nor one compressed by gzip, bzip2, xz or zstd",
                },
                io::ErrorKind::UnexpectedEof => LoadError::Truncated,
                _ => LoadError::read("the archive", source),
            })?;
        self.position += buffer.len() as u64;
        Ok(())
    }

    /// Moves behind content of that size, which must all be there.
    fn skip(&mut self, size: u64, path: &ImagePath) -> Result<(), LoadError> {
        let end = self.position.checked_add(size).filter(|&end| end <= self.length);
        let Some(end) = end else {
            tracing::debug!(%path, size, "the archive ends within a member");
            return Err(LoadError::Truncated);
        };
        // Padding may be missing behind the last member.
        self.position = end.next_multiple_of(BLOCK).min(self.length);
        Ok(())
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
    let bytes = header.as_bytes();
    let sum: u32 = bytes
        .iter()
        .enumerate()
        .map(|(i, &byte)| {
            if (148..156).contains(&i) {
                32
            } else {
                u32::from(byte)
            }
        })
        .sum();
    header.cksum().is_ok_and(|stored| stored == sum)
}

/// A plain, seekable tar of what `reader` gives, in a file without a name in `directory`.
pub(super) fn spool(reader: &mut dyn Read, directory: &Path) -> Result<File, LoadError> {
    let mut file = tempfile::tempfile_in(directory).map_err(|source| LoadError::Spool { source })?;
    let mut plain = mica_fs::layer::ingest::decompress(reader)
        .map_err(|source| LoadError::read("the archive", source))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = match plain.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => return Err(LoadError::Truncated),
            Err(source) if source.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(LoadError::read("the archive", source)),
        };
        io::Write::write_all(&mut file, &buffer[..n]).map_err(|source| LoadError::Spool { source })?;
    }
    Ok(file)
}
