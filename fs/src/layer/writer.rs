//! Writing a layer: its tar and its index together.
//!
//! The tar depends on what is added and on nothing else, so equal layers have equal diff IDs. How entries are
//! encoded is part of the format: see `docs/format.md`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;

use crate::digest::{DiffId, Digest, Hasher};
use crate::layer::index::{Builder, Data, Encoded, Extent, InvalidEntry, Node};
use crate::layer::marker::{OPAQUE, WHITEOUT};
use crate::layer::tar_file::TarFile;
use crate::layer::{Device, INDEX_FILE, Metadata, TAR_FILE};
use crate::path::ImagePath;

mod header;
#[cfg(test)]
mod tests;

use header::Member;

/// Size of a tar's blocks in bytes.
pub(super) const BLOCK: u64 = 512;

/// A node to add, with what only its kind has.
pub enum NewNode<'a> {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// The number of bytes that `content` gives.
        size: u64,
        /// Where the bytes come from.
        content: &'a mut dyn Read,
    },
    /// The same if its digest is known already; it is believed.
    KnownFile {
        /// The number of bytes that `content` gives.
        size: u64,
        /// Their digest.
        digest: Digest,
        /// Where the bytes come from.
        content: &'a mut dyn Read,
    },
    /// A symbolic link with its target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// What a finished layer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// The digest of the uncompressed tar.
    pub diff_id: DiffId,
    /// Its size in bytes.
    pub tar_size: u64,
    /// The number of members of the tar, whiteouts and hard links included: 0 for a layer that changes nothing.
    pub entries: u32,
}

/// Why a layer cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The layer's own files cannot be written.
    #[error("cannot write the layer's {path}")]
    Write {
        /// The file that is written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No room for the layer's own files, or the quota is used up.
    #[error(
        "the disk that holds {path} is full: `mica prune` frees what no image needs, or set MICA_ROOT to another disk"
    )]
    Full {
        /// The file that is written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file's content cannot be read.
    #[error("cannot read the content of {path}")]
    Content {
        /// The file inside the image.
        path: ImagePath,
        /// What the reader said.
        source: io::Error,
    },
    /// A file's content is shorter than the size that was announced.
    #[error("the content of {path} ends after {found} of {size} bytes: did it change while it was read?")]
    Short {
        /// The file inside the image.
        path: ImagePath,
        /// The size that was announced.
        size: u64,
        /// What came.
        found: u64,
    },
    /// The name means a whiteout in a layer.
    #[error("{path} cannot be stored in an image: names that begin with `.wh.` mark removed files there")]
    Reserved {
        /// The entry.
        path: ImagePath,
    },
    /// A hard link to what this layer does not hold (yet).
    #[error("cannot store {path} as a hard link: {target} is no file in the same layer")]
    LinkTarget {
        /// The link.
        path: ImagePath,
        /// What it should be another name of.
        target: ImagePath,
    },
    /// An attribute name that a tar cannot hold.
    #[error("cannot store the extended attribute {name:?} of {path}: a tar cannot hold its name")]
    Xattr {
        /// The entry.
        path: ImagePath,
        /// The attribute's name, bytes that are no UTF-8 replaced.
        name: String,
    },
    /// A device number beyond what a tar can hold; Linux has none.
    #[error("cannot store the device {path}: its number {major}:{minor} is too large", major = .device.major, minor = .device.minor)]
    Device {
        /// The entry.
        path: ImagePath,
        /// Its number.
        device: Device,
    },
    /// The entry has no place in a layer.
    #[error(transparent)]
    Invalid(#[from] InvalidEntry),
}

impl WriteError {
    fn write(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path, source },
            _ => Self::Write { path, source },
        }
    }
}

/// A layer in the making. Dropped unfinished, it leaves incomplete files in its directory.
pub struct LayerWriter {
    directory: PathBuf,
    tar: TarFile,
    index: Builder,
    entries: u32,
}

impl LayerWriter {
    /// Starts an empty layer in `directory`: its files `tar` and `index` must not exist.
    ///
    /// # Errors
    /// [`WriteError::Write`] and [`WriteError::Full`].
    pub fn new(directory: &Path) -> Result<Self, WriteError> {
        let path = directory.join(TAR_FILE);
        let tar = TarFile::create(&path).map_err(|source| WriteError::write(path, source))?;
        Ok(Self {
            directory: directory.to_owned(),
            tar,
            index: Builder::new(),
            entries: 0,
        })
    }

    /// Adds a node. Of a file's content exactly the announced size is read.
    ///
    /// # Errors
    /// [`WriteError`]. After an error of the kinds `Write`, `Full`, `Content`, `Short` and `Invalid` the layer cannot be
    /// continued; what the others refuse has left no trace.
    pub fn add(
        &mut self,
        path: &ImagePath,
        metadata: &Metadata,
        node: NewNode<'_>,
    ) -> Result<(), WriteError> {
        check_names(path)?;
        let mut member = Member::new(path.as_bytes().to_vec(), metadata);
        member.xattrs = Some(&metadata.xattrs);
        let node = match node {
            NewNode::Directory => {
                member.kind = tar::EntryType::Directory;
                if path.is_root() {
                    member.name = b".".to_vec();
                }
                member.name.push(b'/');
                Node::Directory
            }
            NewNode::File { size, content } => {
                return self.file(path, member, metadata, (size, None), content);
            }
            NewNode::KnownFile {
                size,
                digest,
                content,
            } => {
                return self.file(path, member, metadata, (size, Some(digest)), content);
            }
            NewNode::Symlink(target) => {
                member.kind = tar::EntryType::Symlink;
                member.link = target.to_vec();
                Node::Symlink(target.to_vec())
            }
            NewNode::CharDevice(device) => {
                member.kind = tar::EntryType::Char;
                member.device = device;
                Node::CharDevice(device)
            }
            NewNode::BlockDevice(device) => {
                member.kind = tar::EntryType::Block;
                member.device = device;
                Node::BlockDevice(device)
            }
            NewNode::Fifo => {
                member.kind = tar::EntryType::Fifo;
                Node::Fifo
            }
        };
        self.header(path, &member)?;
        self.index.add(path, metadata.clone(), node)?;
        Ok(())
    }

    /// Adds `path` as another name of `target`, which has been added before and is no directory.
    ///
    /// A link to a file of a layer below is refused: Docker unpacks each layer by itself and could not make it.
    /// Such a file is stored again with its content, as copy-up does it on overlayfs.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn hard_link(&mut self, path: &ImagePath, target: &ImagePath) -> Result<(), WriteError> {
        check_names(path)?;
        // Tools that unpack a layer set owner and mode from each header, also from those of links.
        let Some(metadata) = self.index.link_target(target).cloned() else {
            return Err(WriteError::LinkTarget {
                path: path.clone(),
                target: target.clone(),
            });
        };
        let mut member = Member::new(path.as_bytes().to_vec(), &metadata);
        member.kind = tar::EntryType::Link;
        member.link = target.as_bytes().to_vec();
        self.header(path, &member)?;
        self.index.add_link(path, target)?;
        Ok(())
    }

    /// Removes `path` from the layers below.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn whiteout(&mut self, path: &ImagePath) -> Result<(), WriteError> {
        let (parent, name) = path.split().ok_or(InvalidEntry::Root)?;
        check_names(path)?;
        self.marker(path, &parent, &[WHITEOUT, name].concat())?;
        self.index.add_whiteout(path)?;
        Ok(())
    }

    /// Makes the directory `path` hide what the layers below have in it. It comes before the directory's
    /// children, as Docker writes it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn opaque(&mut self, path: &ImagePath) -> Result<(), WriteError> {
        check_names(path)?;
        self.marker(path, path, OPAQUE)?;
        self.index.add_opaque(path)?;
        Ok(())
    }

    /// Completes the tar and the index and syncs both to disk.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn finish(mut self) -> Result<Written, WriteError> {
        // POSIX.1-2017, pax, "ustar Interchange Format": two zero blocks end an archive.
        self.write(&[0; 2 * BLOCK as usize])?;
        let (tar, index) = (self.tar, self.index);
        // The index is made while the last of the tar reaches the disk.
        let (tar, index) = thread::scope(|scope| {
            let index = scope.spawn(|| index.encode());
            (tar.finish(), index.join())
        });
        let (digest, tar_size) =
            tar.map_err(|source| WriteError::write(self.directory.join(TAR_FILE), source))?;
        // It does not panic; if it did, the layer was too strange to store.
        let index = index.unwrap_or(Err(InvalidEntry::TooLarge))?;
        let diff_id = DiffId(digest);
        let path = self.directory.join(INDEX_FILE);
        write_index(&index, diff_id, tar_size, &path).map_err(|source| WriteError::write(path, source))?;
        Ok(Written {
            diff_id,
            tar_size,
            entries: self.entries,
        })
    }

    /// An empty file that stands for something else.
    fn marker(&mut self, path: &ImagePath, parent: &ImagePath, name: &[u8]) -> Result<(), WriteError> {
        let mut full = parent.as_bytes().to_vec();
        if !full.is_empty() {
            full.push(b'/');
        }
        full.extend_from_slice(name);
        self.header(path, &Member::new(full, &Metadata::default()))
    }

    fn header(&mut self, path: &ImagePath, member: &Member<'_>) -> Result<(), WriteError> {
        let blocks = member.encode(path)?;
        self.write(&blocks)?;
        self.entries = self.entries.checked_add(1).ok_or(InvalidEntry::TooLarge)?;
        Ok(())
    }

    fn file(
        &mut self,
        path: &ImagePath,
        mut member: Member<'_>,
        metadata: &Metadata,
        (size, digest): (u64, Option<Digest>),
        content: &mut dyn Read,
    ) -> Result<(), WriteError> {
        member.size = size;
        self.header(path, &member)?;
        let data = self.content(path, size, digest, content)?;
        self.index.add(path, metadata.clone(), Node::File(data))?;
        Ok(())
    }

    fn content(
        &mut self,
        path: &ImagePath,
        size: u64,
        digest: Option<Digest>,
        content: &mut dyn Read,
    ) -> Result<Data, WriteError> {
        let position = self.tar.position();
        let mut hasher = digest.is_none().then(Hasher::new);
        let mut left = size;
        while left > 0 {
            let space = self
                .tar
                .space()
                .map_err(|e| WriteError::write(self.directory.join(TAR_FILE), e))?;
            let wanted = space.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let n = match content.read(&mut space[..wanted]) {
                Ok(0) => {
                    let (path, found) = (path.clone(), size - left);
                    return Err(WriteError::Short { path, size, found });
                }
                Ok(n) => n.min(wanted),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let path = path.clone();
                    return Err(WriteError::Content { path, source });
                }
            };
            let read = self.tar.advance(n);
            if let Some(hasher) = &mut hasher {
                hasher.update(read);
            }
            left -= n as u64;
        }
        let padding = size.next_multiple_of(BLOCK) - size;
        self.write(&[0; BLOCK as usize][..usize::try_from(padding).unwrap_or(0)])?;
        let whole = Extent {
            offset: 0,
            length: size,
            position,
        };
        Ok(Data {
            size,
            digest: digest.or_else(|| Some(hasher.unwrap_or_default().finish())),
            extents: if size == 0 { Vec::new() } else { vec![whole] },
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.tar
            .write(bytes)
            .map_err(|e| WriteError::write(self.directory.join(TAR_FILE), e))
    }
}

/// Whether the names can be told from whiteouts.
fn check_names(path: &ImagePath) -> Result<(), WriteError> {
    match path.components().any(|name| name.starts_with(WHITEOUT)) {
        true => Err(WriteError::Reserved { path: path.clone() }),
        false => Ok(()),
    }
}

/// Writes the index file, which must not exist, and syncs it.
pub(super) fn write_index(index: &Encoded, diff_id: DiffId, tar_size: u64, path: &Path) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 18, File::create_new(path)?);
    index.write(diff_id, tar_size, &mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}
