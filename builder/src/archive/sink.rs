//! Where the parts of an archive go: into a tar, or into the directory of a layout.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use mica_fs::digest::Digest;
use tempfile::NamedTempFile;

use super::SaveError;
use super::source::blob_name;

/// Takes the parts of an archive. No blob is given twice.
pub(crate) trait Sink {
    /// Whether a blob is there already, and need not be given.
    fn has(&self, digest: &Digest, size: u64) -> bool;

    /// Writes a blob.
    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> Result<(), SaveError>;

    /// A file for a blob whose digest is not yet known.
    fn scratch(&self) -> Result<NamedTempFile, SaveError>;

    /// Writes the blob that such a file has become.
    fn blob_file(&mut self, digest: &Digest, size: u64, file: NamedTempFile) -> Result<(), SaveError>;

    /// Writes a file at the top, in place of one of that name.
    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), SaveError>;
}

/// A tar. Since the size stands before a member, a layer that is compressed on the way is written to `scratch` first.
pub(crate) struct Archive<'a> {
    tar: tar::Builder<&'a mut dyn Write>,
    written: BTreeSet<Digest>,
    scratch: &'a Path,
}

impl<'a> Archive<'a> {
    pub(crate) fn begin(out: &'a mut dyn Write, scratch: &'a Path) -> Result<Self, SaveError> {
        let mut tar = tar::Builder::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            tar.append_data(&mut header(tar::EntryType::Directory, 0), directory, io::empty())
                .map_err(archive_error)?;
        }
        let written = BTreeSet::new();
        Ok(Self {
            tar,
            written,
            scratch,
        })
    }

    pub(crate) fn end(self) -> Result<(), SaveError> {
        self.tar
            .into_inner()
            .and_then(|out| out.flush())
            .map_err(archive_error)
    }

    fn member(&mut self, name: &str, size: u64, content: &mut dyn Read) -> Result<(), SaveError> {
        let mut header = header(tar::EntryType::Regular, size);
        self.tar
            .append_data(&mut header, name, content)
            .map_err(archive_error)
    }
}

impl Sink for Archive<'_> {
    fn has(&self, digest: &Digest, _size: u64) -> bool {
        self.written.contains(digest)
    }

    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> Result<(), SaveError> {
        self.written.insert(*digest);
        self.member(&blob_name(digest), size, content)
    }

    fn scratch(&self) -> Result<NamedTempFile, SaveError> {
        NamedTempFile::new_in(self.scratch).map_err(archive_error)
    }

    fn blob_file(&mut self, digest: &Digest, size: u64, mut file: NamedTempFile) -> Result<(), SaveError> {
        file.rewind().map_err(archive_error)?;
        self.written.insert(*digest);
        self.member(&blob_name(digest), size, &mut file)
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), SaveError> {
        self.member(name, content.len() as u64, &mut &content[..])
    }
}

fn archive_error(source: io::Error) -> SaveError {
    SaveError::Write {
        path: "the archive".into(),
        source,
    }
}

/// A header without owner, time or anything else of this machine.
fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// A directory.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn begin(directory: PathBuf) -> Result<Self, SaveError> {
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(error(&blobs))?;
        Ok(Self(directory))
    }
}

impl Sink for Directory {
    fn has(&self, digest: &Digest, size: u64) -> bool {
        let there = fs::metadata(self.0.join(blob_name(digest)));
        there.is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
    }

    fn blob(&mut self, digest: &Digest, size: u64, content: &mut dyn Read) -> Result<(), SaveError> {
        let mut file = self.scratch()?;
        io::copy(content, &mut file).map_err(error(file.path()))?;
        self.blob_file(digest, size, file)
    }

    fn scratch(&self) -> Result<NamedTempFile, SaveError> {
        let made = tempfile::Builder::new()
            .prefix(".mica-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(&self.0);
        made.map_err(error(&self.0))
    }

    fn blob_file(&mut self, digest: &Digest, _size: u64, file: NamedTempFile) -> Result<(), SaveError> {
        let path = self.0.join(blob_name(digest));
        file.persist(&path).map_err(|e| error(&path)(e.error))?;
        Ok(())
    }

    fn file(&mut self, name: &str, content: &[u8]) -> Result<(), SaveError> {
        let path = self.0.join(name);
        let mut file = self.scratch()?;
        file.write_all(content).map_err(error(&path))?;
        file.persist(&path).map_err(|e| error(&path)(e.error))?;
        Ok(())
    }
}

fn error(path: &Path) -> impl FnOnce(io::Error) -> SaveError + use<> {
    let path = path.to_owned();
    move |source| SaveError::Write { path, source }
}
