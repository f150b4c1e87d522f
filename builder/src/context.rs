//! The build context: a directory of the host, less what `.dockerignore` leaves out.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use mica_fs::digest::{Digest, Hasher};
use mica_fs::layer::{Device, Kind, Metadata, Timestamp, Xattrs};
use mica_fs::path::ImagePath;

use crate::ignore::Ignore;
use crate::tree::{Content, Node, Tree, TreeError};

/// A directory of the host as a tree.
///
/// Every node belongs to root (0:0), as Docker copies a context. Times are the files' own, but a directory's is
/// [`DIRECTORY_MTIME`]. Symbolic links are never followed: paths come from [`crate::tree::resolve`].
pub struct Context {
    root: PathBuf,
    ignore: Ignore,
    digests: Mutex<HashMap<ImagePath, (Stamp, Digest)>>,
}

/// What tells a file from the same one after a change: device, inode, size, and the times of the last change of its
/// content and of its status, each in seconds and nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([u64; 3], [i64; 4]);

impl Stamp {
    fn of(stat: &std::fs::Metadata) -> Self {
        Self(
            [stat.dev(), stat.ino(), stat.size()],
            [stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec()],
        )
    }
}

/// The time of every directory that COPY or ADD makes: the first day of 1980, the earliest that zip archives can
/// hold. A directory's time says when a checkout was made, not what it holds; a fixed one lets equal contents
/// give equal layers.
pub const DIRECTORY_MTIME: Timestamp = Timestamp::from_seconds(315_532_800);

impl Context {
    /// The directory `root`, without what `ignore` leaves out.
    ///
    /// # Errors
    /// What the system reports if it is no readable directory.
    pub fn new(root: &Path, ignore: Ignore) -> io::Result<Self> {
        let root = root.canonicalize()?;
        std::fs::read_dir(&root)?;
        Ok(Self {
            root,
            ignore,
            digests: Mutex::default(),
        })
    }

    /// What is left out.
    pub fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    fn host_path(&self, path: &ImagePath) -> PathBuf {
        self.root.join(path.as_os_str())
    }

    /// Opens a regular file. The last component is no link (else ELOOP), and a pipe put in its place meanwhile
    /// does not block.
    fn open(&self, path: &ImagePath) -> Result<File, TreeError> {
        File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.host_path(path))
            .map_err(|source| host(path, source))
    }
}

fn host(path: &ImagePath, source: io::Error) -> TreeError {
    TreeError::Host {
        path: path.clone(),
        source,
    }
}

impl Tree for Context {
    fn node(&self, path: &ImagePath) -> Result<Option<Node>, TreeError> {
        let full = self.host_path(path);
        let stat = match std::fs::symlink_metadata(&full) {
            Ok(stat) => stat,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => return Err(host(path, source)),
        };
        let kind = kind_of(stat.file_type());
        let ignored = !path.is_root() && self.ignore.matches(path.as_bytes());
        if ignored && (kind != Kind::Directory || !self.ignore.may_hold_exceptions(path.as_bytes())) {
            return Ok(None);
        }
        if ignored && !self.has_kept(path)? {
            return Ok(None);
        }
        let target = match kind {
            Kind::Symlink => std::fs::read_link(&full)
                .map_err(|e| host(path, e))?
                .into_os_string()
                .into_vec(),
            _ => Vec::new(),
        };
        Ok(Some(Node {
            kind,
            metadata: Metadata {
                mode: stat.mode() & 0o7777,
                uid: 0,
                gid: 0,
                mtime: match kind {
                    Kind::Directory => DIRECTORY_MTIME,
                    _ => Timestamp {
                        seconds: stat.mtime(),
                        nanoseconds: u32::try_from(stat.mtime_nsec()).unwrap_or(0),
                    },
                },
                xattrs: Xattrs::new(),
            },
            size: if kind == Kind::File { stat.size() } else { 0 },
            target,
            device: Device {
                major: libc::major(stat.rdev()),
                minor: libc::minor(stat.rdev()),
            },
            link_group: (kind != Kind::Directory && stat.nlink() > 1).then(|| stat.ino()),
        }))
    }

    fn names(&self, path: &ImagePath) -> Result<Vec<Vec<u8>>, TreeError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.host_path(path)).map_err(|e| host(path, e))? {
            let name = entry.map_err(|e| host(path, e))?.file_name();
            names.push(name.as_bytes().to_vec());
        }
        names.sort();
        Ok(names)
    }

    fn content(&self, path: &ImagePath) -> Result<Content, TreeError> {
        Ok(Content::Host(self.host_path(path)))
    }

    /// Known from an earlier call as long as the file did not change since.
    fn digest(&self, path: &ImagePath) -> Result<Digest, TreeError> {
        let stat = std::fs::symlink_metadata(self.host_path(path)).map_err(|e| host(path, e))?;
        let known = self
            .digests
            .lock()
            .map(|digests| digests.get(path).copied())
            .unwrap_or_default();
        if let Some((stamp, digest)) = known
            && stamp == Stamp::of(&stat)
        {
            return Ok(digest);
        }
        let mut file = self.open(path)?;
        // From before the bytes are read: a change while they are makes the digest unknown again.
        let stamp = Stamp::of(&file.metadata().map_err(|e| host(path, e))?);
        let mut hasher = Hasher::new();
        io::copy(&mut file, &mut hasher).map_err(|e| host(path, e))?;
        let digest = hasher.finish();
        if let Ok(mut digests) = self.digests.lock() {
            digests.insert(path.clone(), (stamp, digest));
        }
        Ok(digest)
    }
}

impl Context {
    /// Whether something below the ignored directory `path` is kept by an exception.
    fn has_kept(&self, path: &ImagePath) -> Result<bool, TreeError> {
        for name in self.names(path)? {
            if self.node(&path.join(&name))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn kind_of(file_type: std::fs::FileType) -> Kind {
    match file_type {
        t if t.is_dir() => Kind::Directory,
        t if t.is_symlink() => Kind::Symlink,
        t if t.is_char_device() => Kind::CharDevice,
        t if t.is_block_device() => Kind::BlockDevice,
        t if t.is_fifo() => Kind::Fifo,
        t if t.is_socket() => Kind::Socket,
        _ => Kind::File,
    }
}
