//! The part of ADD that unpacks an archive of the build context into the image.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use mica_fs::layer::index::EntryId;
use mica_fs::layer::ingest::decompress;
use mica_fs::layer::{Device, Kind, Layer, Metadata, Timestamp, Xattrs};
use mica_fs::overlay::{self, Attr, Changes, Follow, Ino, NewKind, Overlay, Owner, SetXattr, Source};
use mica_fs::path::ImagePath;

use crate::context::DIRECTORY_MTIME;
use crate::tree::{self, Content, TreeError};

/// Why an archive cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is damaged or cut short.
    #[error("cannot read the archive at its entry {entry}")]
    Read {
        /// The last entry that was read, or `1`.
        entry: String,
        /// What is wrong.
        source: io::Error,
    },
    /// An entry that would lead out of the destination.
    #[error("the archive's entry {entry} leads out of the destination")]
    Escape {
        /// Its name.
        entry: String,
    },
    /// An entry that the image does not take.
    #[error("cannot unpack {path}")]
    Write {
        /// Where it was to go.
        path: ImagePath,
        /// What the overlay said.
        source: overlay::Error,
    },
    /// Links in a circle.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// An archive, recognised and ready to be unpacked.
pub type Archive = tar::Archive<Box<dyn Read>>;

/// Opens `content` if it is a tar archive, plain or compressed with gzip, bzip2, xz or zstd: recognised by its
/// bytes, never by its name. `None` if it is anything else.
///
/// # Errors
/// [`ArchiveError::Read`] if the file cannot be read at all.
pub fn open(content: &Content) -> Result<Option<Archive>, ArchiveError> {
    match content {
        Content::Host(file) => open_file(&file.path),
        Content::Layer(layer, entry) => recognise(&|| {
            Ok(Box::new(LayerFile {
                layer: layer.clone(),
                entry: *entry,
                offset: 0,
            }))
        }),
    }
}

/// As [`open`], for a file of the host.
///
/// # Errors
/// [`ArchiveError::Read`] if the file cannot be read at all.
pub fn open_file(path: &Path) -> Result<Option<Archive>, ArchiveError> {
    recognise(&|| {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Box::new(file))
    })
}

/// The archive that `open` opens, if it is one.
fn recognise(open: &dyn Fn() -> io::Result<Box<dyn Read>>) -> Result<Option<Archive>, ArchiveError> {
    let begin = || -> io::Result<Option<Archive>> {
        // A stream that does not decompress, or whose first block is no header, is just a file.
        let Ok(probe) = decompress(open()?) else {
            return Ok(None);
        };
        let mut probe = tar::Archive::new(probe);
        match probe.entries()?.next() {
            Some(Ok(_)) => Ok(Some(tar::Archive::new(decompress(open()?)?))),
            _ => Ok(None),
        }
    };
    begin().map_err(|source| ArchiveError::Read {
        entry: "1".to_owned(),
        source,
    })
}

/// Reads a file of a layer from its beginning.
struct LayerFile {
    layer: Arc<Layer>,
    entry: EntryId,
    offset: u64,
}

impl Read for LayerFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.layer.read_at(self.entry, buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

/// Unpacks `archive` below `to` as Docker does: symbolic links inside are resolved as if `to` were the root,
/// an entry replaces what was there, missing parents belong to root, and `owner`, if given, gets every entry.
///
/// # Errors
/// [`ArchiveError`]; the overlay is then half-written and must be thrown away.
pub fn unpack(
    mut archive: Archive,
    overlay: &Overlay,
    to: &ImagePath,
    owner: Option<Owner>,
) -> Result<(), ArchiveError> {
    let unpacker = Unpacker { overlay, to, owner };
    let mut last = "1".to_owned();
    unpacker.directories(to)?;
    let entries = archive.entries().map_err(|e| read(&last, e))?;
    for entry in entries {
        let mut entry = entry.map_err(|e| read(&last, e))?;
        last = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        unpacker.entry(&mut entry, &last)?;
    }
    Ok(())
}

fn read(entry: &str, source: io::Error) -> ArchiveError {
    ArchiveError::Read {
        entry: entry.to_owned(),
        source,
    }
}

fn write(path: &ImagePath, source: overlay::Error) -> ArchiveError {
    ArchiveError::Write {
        path: path.clone(),
        source,
    }
}

struct Unpacker<'a> {
    overlay: &'a Overlay,
    to: &'a ImagePath,
    owner: Option<Owner>,
}

type Entry<'a> = tar::Entry<'a, Box<dyn Read>>;

impl Unpacker<'_> {
    fn entry(&self, entry: &mut Entry<'_>, name: &str) -> Result<(), ArchiveError> {
        let path = self.inside(&entry.path_bytes(), name)?;
        let kind = entry.header().entry_type();
        let metadata = self.metadata(entry).map_err(|e| read(name, e))?;
        if path == *self.to {
            // `.` says nothing of the destination, which is there; `/`, in an archive of absolute names, does.
            return match kind.is_dir() && entry.path_bytes().starts_with(b"/") {
                true => self.update(&path, &metadata),
                false => Ok(()),
            };
        }
        self.directories(&path.parent().unwrap_or_default())?;
        if kind.is_hard_link() {
            return self.hard_link(entry, &path, &metadata, name);
        }
        let there = self.lookup(&path)?;
        if kind.is_dir() && there.as_ref().is_some_and(|attr| attr.kind == Kind::Directory) {
            return self.update(&path, &metadata);
        }
        if there.is_some() {
            self.remove(&path)?;
        }
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let device = device(entry).map_err(|e| read(name, e))?;
        let source = match kind {
            tar::EntryType::Directory => Source::Directory,
            tar::EntryType::Symlink => Source::Symlink(&target),
            tar::EntryType::Char => Source::CharDevice(device),
            tar::EntryType::Block => Source::BlockDevice(device),
            tar::EntryType::Fifo => Source::Fifo,
            tar::EntryType::XGlobalHeader => return Ok(()),
            _ => return self.file(entry, &path, &metadata, name),
        };
        self.place(&path, &metadata, source).map(|_| ())
    }

    /// Writes a file piece by piece: its size is the archive's word only.
    fn file(
        &self,
        entry: &mut Entry<'_>,
        path: &ImagePath,
        metadata: &Metadata,
        name: &str,
    ) -> Result<(), ArchiveError> {
        let (dir, last) = self.place_of(path)?;
        let owner = Owner {
            uid: metadata.uid,
            gid: metadata.gid,
        };
        let mut ino = Ino::ROOT;
        self.untimed(dir, path, || {
            ino = self
                .overlay
                .create(dir, &last, NewKind::File, metadata.mode, owner)?
                .ino;
            Ok(())
        })?;
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0;
        loop {
            let n = entry.read(&mut buffer).map_err(|e| read(name, e))?;
            if n == 0 {
                break;
            }
            let mut piece = &buffer[..n];
            while !piece.is_empty() {
                let written = self
                    .overlay
                    .write(ino, offset, piece)
                    .map_err(|e| write(path, e))?;
                offset += written as u64;
                piece = &piece[written..];
            }
        }
        self.overlay.forget(ino, 1);
        self.update(path, metadata)?;
        // After the owner: a change of owner takes file capabilities away.
        for (name, value) in &metadata.xattrs {
            let set = self.overlay.set_xattr(ino, name, value, SetXattr::Any);
            set.map_err(|e| write(path, e))?;
        }
        Ok(())
    }

    /// A link to an earlier entry. Its own header's owner, mode and times hold for the file from now on.
    fn hard_link(
        &self,
        entry: &Entry<'_>,
        path: &ImagePath,
        metadata: &Metadata,
        name: &str,
    ) -> Result<(), ArchiveError> {
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        let target = self.inside(&target, name)?;
        let ino = self
            .overlay
            .resolve(&target, Follow::No)
            .map_err(|e| write(&target, e))?
            .ino;
        if self.lookup(path)?.is_some() {
            self.remove(path)?;
        }
        let (dir, last) = self.place_of(path)?;
        self.untimed(dir, path, || self.overlay.link(ino, dir, &last).map(|_| ()))?;
        self.update(path, metadata)
    }

    /// The place of an entry's name below the destination, with the links of its parents followed there.
    fn inside(&self, name: &[u8], shown: &str) -> Result<ImagePath, ArchiveError> {
        let escape = || ArchiveError::Escape {
            entry: shown.to_owned(),
        };
        let relative: Vec<u8> = name.iter().copied().skip_while(|&b| b == b'/').collect();
        let path = ImagePath::from_member(&relative).map_err(|_| escape())?;
        let Some((parent, last)) = path.split() else {
            return Ok(self.to.clone());
        };
        let parent = tree::follow_links(&parent, |at| {
            let at = below(self.to, at);
            match self.overlay.resolve(&at, Follow::No) {
                Ok(attr) if attr.kind == Kind::Symlink => {
                    let target = self.overlay.read_link(attr.ino);
                    target
                        .map(Some)
                        .map_err(|source| TreeError::Image { path: at, source })
                }
                _ => Ok(None),
            }
        })?;
        Ok(below(self.to, &parent).join(last))
    }

    fn metadata(&self, entry: &mut Entry<'_>) -> io::Result<Metadata> {
        let mut xattrs = Xattrs::new();
        let mut mtime = Timestamp::from_seconds(i64::try_from(entry.header().mtime()?).unwrap_or(i64::MAX));
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                let (key, value) = (extension.key_bytes(), extension.value_bytes());
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    xattrs.insert(name.to_vec(), value.to_vec());
                } else if key == b"mtime" {
                    mtime = pax_time(value).unwrap_or(mtime);
                }
            }
        }
        let header = entry.header();
        let id = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("an owner's number is too large"));
        Ok(Metadata {
            mode: match header.entry_type() {
                // No filesystem of Linux has another one.
                tar::EntryType::Symlink => 0o777,
                _ => header.mode()? & 0o7777,
            },
            uid: self.owner.map_or_else(|| id(header.uid()?), |o| Ok(o.uid))?,
            gid: self.owner.map_or_else(|| id(header.gid()?), |o| Ok(o.gid))?,
            mtime,
            xattrs,
        })
    }

    fn update(&self, path: &ImagePath, metadata: &Metadata) -> Result<(), ArchiveError> {
        let changes = Changes {
            mode: Some(metadata.mode),
            uid: Some(metadata.uid),
            gid: Some(metadata.gid),
            mtime: Some(metadata.mtime),
            ..Changes::default()
        };
        let attr = self.overlay.resolve(path, Follow::No);
        let ino = attr.map_err(|e| write(path, e))?.ino;
        // The owner first: a change of owner takes the set-ID bits away, as chown(2) does.
        let owner = Changes {
            mode: None,
            mtime: None,
            ..changes
        };
        self.overlay
            .set_attr(ino, &owner)
            .and_then(|_| self.overlay.set_attr(ino, &changes))
            .map(|_| ())
            .map_err(|e| write(path, e))
    }

    /// Makes the directories up to `path` where they are missing.
    fn directories(&self, path: &ImagePath) -> Result<(), ArchiveError> {
        let mut at = ImagePath::root();
        for name in path.components() {
            at = at.join(name);
            if self.lookup(&at)?.is_some() {
                continue;
            }
            // The destination itself gets the owner that was asked for; parents that the archive only implies don't.
            let owner = self.owner.filter(|_| self.to.starts_with(&at));
            let metadata = Metadata {
                mode: 0o755,
                uid: owner.map_or(0, |o| o.uid),
                gid: owner.map_or(0, |o| o.gid),
                mtime: DIRECTORY_MTIME,
                ..Metadata::default()
            };
            self.place(&at, &metadata, Source::Directory)?;
        }
        Ok(())
    }

    fn place(&self, path: &ImagePath, metadata: &Metadata, source: Source<'_>) -> Result<(), ArchiveError> {
        let (dir, name) = self.place_of(path)?;
        self.untimed(dir, path, || {
            self.overlay.place(dir, &name, metadata, source).map(|_| ())
        })
    }

    /// Removes `path` and all below it.
    fn remove(&self, path: &ImagePath) -> Result<(), ArchiveError> {
        let (dir, name) = self.place_of(path)?;
        let attr = self
            .overlay
            .resolve(path, Follow::No)
            .map_err(|e| write(path, e))?;
        if attr.kind != Kind::Directory {
            return self.untimed(dir, path, || self.overlay.unlink(dir, &name));
        }
        let mut names = Vec::new();
        let listed = self.overlay.read_dir(attr.ino, 0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                names.push(entry.name.to_vec());
            }
            std::ops::ControlFlow::Continue(())
        });
        listed.map_err(|e| write(path, e))?;
        for name in names {
            self.remove(&path.join(&name))?;
        }
        self.untimed(dir, path, || self.overlay.rmdir(dir, &name))
    }

    /// Does something in directory `dir` that leaves the directory's times as they were.
    fn untimed(
        &self,
        dir: Ino,
        path: &ImagePath,
        change: impl FnOnce() -> Result<(), overlay::Error>,
    ) -> Result<(), ArchiveError> {
        super::untimed(self.overlay, dir, change).map_err(|e| write(path, e))
    }

    fn place_of(&self, path: &ImagePath) -> Result<(Ino, Vec<u8>), ArchiveError> {
        super::place_of(self.overlay, path).map_err(|e| write(path, e))
    }

    fn lookup(&self, path: &ImagePath) -> Result<Option<Attr>, ArchiveError> {
        super::lookup(self.overlay, path).map_err(|e| write(path, e))
    }
}

/// `path`, taken from the directory `root`.
fn below(root: &ImagePath, path: &ImagePath) -> ImagePath {
    path.components().fold(root.clone(), |at, name| at.join(name))
}

fn device(entry: &Entry<'_>) -> io::Result<Device> {
    Ok(Device {
        major: entry.header().device_major().unwrap_or_default().unwrap_or(0),
        minor: entry.header().device_minor().unwrap_or_default().unwrap_or(0),
    })
}

/// The time of a PAX record: decimal seconds, perhaps with a fraction.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut digits: String = fraction.chars().take(9).collect();
    while digits.len() < 9 {
        digits.push('0');
    }
    let nanoseconds: u32 = digits.parse().ok()?;
    match (whole.starts_with('-'), nanoseconds) {
        (true, 1..) => Some(Timestamp {
            seconds: seconds.checked_sub(1)?,
            nanoseconds: 1_000_000_000 - nanoseconds,
        }),
        _ => Some(Timestamp { seconds, nanoseconds }),
    }
}
