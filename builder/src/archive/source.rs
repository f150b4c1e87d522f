//! Where an image is loaded from: the members of a tar, or the files of a directory.
//!
//! A plain tar in a file is read where it lies. One that is compressed, or comes through a pipe, is taken in as it
//! comes ([`Arrived`]): its layers are read only once, and nothing else of it is written to the disk.

use std::fs::File;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mica_fs::digest::{Digest, Hashing};
use mica_fs::layer::ingest::decompress;
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use super::LoadError;
use super::arrived::{Arrived, Kept};
use super::scan::{At, Members, Place, Scan};
use crate::image::Descriptor;

/// The files of an archive by name.
pub(super) enum Source {
    Tar {
        file: Arc<File>,
        members: Members<Place>,
    },
    Directory(PathBuf),
    Arrived(Arrived),
}

impl Source {
    /// Lists the members of a plain tar.
    pub(super) fn tar(file: File) -> Result<Self, LoadError> {
        let mut members = Members::default();
        let mut scan = Scan::new(At::start(&file)?);
        while let Some((path, member)) = scan.next()? {
            members.insert(path, member)?;
        }
        let file = Arc::new(file);
        Ok(Self::Tar { file, members })
    }

    /// Opens an archive, or the directory of a layout, whose files can be read in any order and more than once. What
    /// is compressed is unpacked to a file without a name, in `$TMPDIR` or `/var/tmp`.
    pub(super) fn open_path(path: &Path) -> Result<Self, LoadError> {
        let error = |source| LoadError::read(&path.display().to_string(), source);
        let metadata = path.metadata().map_err(error)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let file = File::open(path).map_err(error)?;
        match metadata.is_file() && !is_compressed_file(&file).map_err(error)? {
            true => Self::tar(file),
            false => Self::spool(file),
        }
    }

    /// Takes in a stream to its end, into such a file.
    pub(super) fn spool(stream: impl Read) -> Result<Self, LoadError> {
        let mut plain = decompress(stream).map_err(|source| LoadError::read("the archive", source))?;
        let directory = std::env::var_os("TMPDIR").map_or_else(|| "/var/tmp".into(), PathBuf::from);
        let spool = |source| LoadError::Spool { source };
        let mut file = tempfile::tempfile_in(directory).map_err(spool)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match plain.read(&mut buffer) {
                Ok(0) => return Self::tar(file),
                Ok(n) => io::Write::write_all(&mut file, &buffer[..n]).map_err(spool)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(LoadError::read("the archive", source)),
            }
        }
    }

    /// Whether there is a file of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        match self {
            Self::Tar { members, .. } => member_path(name).is_some_and(|path| members.has(&path)),
            Self::Directory(directory) => {
                member_path(name).is_some_and(|path| directory.join(path.as_os_str()).exists())
            }
            Self::Arrived(arrived) => member_path(name).is_some_and(|path| arrived.members.has(&path)),
        }
    }

    /// Opens the file of that name: its content and its size in bytes.
    pub(super) fn open(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), LoadError> {
        let missing = || LoadError::Missing {
            member: name.to_owned(),
        };
        let path = member_path(name).ok_or_else(missing)?;
        match self {
            Self::Tar { file, members } => {
                let Place { offset, size } = *members.get(&path).ok_or_else(missing)?;
                let reader = Piece {
                    file: file.clone(),
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
            Self::Arrived(arrived) => {
                let bytes = arrived.bytes(name, &path)?.to_vec();
                let size = bytes.len() as u64;
                Ok((Box::new(Cursor::new(bytes)), size))
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
    ) -> Result<Hashing<Box<dyn Read + Send>>, LoadError> {
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

    /// What came of a member of a stream; `None` for other sources, and if there is none.
    pub(super) fn arrived(&mut self, name: &str) -> Option<&mut Kept> {
        match self {
            Self::Arrived(arrived) => arrived.members.get_mut(&member_path(name)?),
            Self::Tar { .. } | Self::Directory(_) => None,
        }
    }

    /// Puts a blob into the store as it is in the archive.
    pub(super) fn publish_blob(&self, store: &Store, blob: &Descriptor) -> Result<(), LoadError> {
        let name = blob_name(&blob.digest);
        if let (Self::Arrived(arrived), Some(path)) = (self, member_path(&name))
            && arrived.publish(store, &path, &blob.digest)?
        {
            return Ok(());
        }
        let (mut reader, _) = self.open(&name)?;
        store.import_blob(&mut reader, Some((blob.digest, blob.size)))?;
        Ok(())
    }

    /// Reads the blob of that digest, of at most `limit` bytes, and verifies it.
    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, LoadError> {
        let name = blob_name(digest);
        let bytes = self.read(&name, limit)?;
        verify(&name, digest, &Digest::of(&bytes))?;
        Ok(bytes)
    }
}

/// Whether a file begins like one of the compressed formats that are read, rather than like a tar.
pub(super) fn is_compressed_file(file: &File) -> io::Result<bool> {
    let mut start = [0; 6];
    let n = file.read_at(&mut start, 0)?;
    Ok(is_compressed(&start[..n]))
}

/// Whether bytes begin so.
pub(super) fn is_compressed(bytes: &[u8]) -> bool {
    let formats: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    formats.iter().any(|format| bytes.starts_with(format))
}

/// The name of a blob within an OCI image layout.
pub(crate) fn blob_name(digest: &Digest) -> String {
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

/// A range of a file.
struct Piece {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.end - self.position).min(buffer.len() as u64);
        let buffer = &mut buffer[..usize::try_from(wanted).unwrap_or(usize::MAX)];
        let n = self.file.read_at(buffer, self.position)?;
        self.position += n as u64;
        Ok(n)
    }
}
