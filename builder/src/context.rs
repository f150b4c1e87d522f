//! The build context: a directory of the host, less what `.dockerignore` leaves out.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use mica_fs::digest::{Digest, Hasher};
use mica_fs::layer::{Device, Kind, Metadata, Timestamp, Xattrs};
use mica_fs::overlay::{Expected, HostFile};
use mica_fs::path::ImagePath;
use mica_fs::stamp::{Known, Stamp};
use mica_fs::store::Store;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, fstatat};

use crate::ignore::{Ignore, Inherited};
use crate::tree::{Content, Node, Tree, TreeError};

mod known;
#[cfg(test)]
mod tests;

use known::KnownFiles;

/// A directory of the host as a tree.
///
/// Every node belongs to root (0:0), as Docker copies a context. Times are the files' own, but a directory's is
/// [`DIRECTORY_MTIME`]. Symbolic links are never followed: paths come from [`crate::tree::resolve`].
pub struct Context {
    root: PathBuf,
    ignore: Ignore,
    known: KnownFiles,
    modes: OnceLock<Modes>,
}

/// The permission bits that the nodes of a context have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Modes {
    /// Those of the files.
    #[default]
    OfFiles,
    /// Those that the files would have if they had been made under umask 022: what the owner may do, the others may as
    /// well, but for writing. So the umask under which a tree was checked out does not matter.
    OfOwner,
}

impl Modes {
    fn apply(self, mode: u32) -> u32 {
        let owner = mode & 0o700;
        match self {
            Self::OfFiles => mode,
            Self::OfOwner => mode & 0o7000 | owner | (owner & 0o500) >> 3 | (owner & 0o500) >> 6,
        }
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
            known: KnownFiles::default(),
            modes: OnceLock::new(),
        })
    }

    /// What is left out.
    pub fn ignore(&self) -> &Ignore {
        &self.ignore
    }

    /// Recalls what earlier builds with this store knew of the files' content, so that only those are read that changed,
    /// and says which modes the nodes have. To be called before anything is read.
    pub fn prepare(&self, store: &Store, modes: Modes) {
        let _ = self.modes.set(modes);
        // Directories in the store itself are made anew for each build.
        if !self.root.starts_with(store.root()) {
            let name = Digest::of(self.root.as_os_str().as_bytes());
            self.known.keep_at(store.context_file(&name));
        }
    }

    /// Saves what is known of the files' content for [`Self::prepare`]. A failure costs time only: it is logged.
    pub fn remember(&self) {
        if let Err(error) = self.known.save() {
            tracing::warn!(context = %self.root.display(), %error, "cannot remember the files of the build context");
        }
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
        let stat = match nix::sys::stat::lstat(&full) {
            Ok(stat) => stat,
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => return Ok(None),
            Err(errno) => return Err(host(path, errno.into())),
        };
        let ignored = !path.is_root() && self.ignore.matches(path.as_bytes());
        let link = || std::fs::read_link(&full).map(|target| target.into_os_string().into_vec());
        self.seen(path, &stat, ignored, link)
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

    fn children(&self, path: &ImagePath) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let failed = |errno: nix::Error| host(path, errno.into());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut dir = Dir::open(&self.host_path(path), flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let name = entry.map_err(failed)?.file_name().to_owned();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        let inherited = self.inherited(path);
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let stat = match fstatat(dir.as_fd(), name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(nix::errno::Errno::ENOENT) => continue,
                Err(errno) => return Err(failed(errno)),
            };
            let child = path.join(name.to_bytes());
            let ignored = !self.ignore.is_empty() && self.ignore.step(&inherited, child.as_bytes()).0;
            let link = || Ok(readlinkat(dir.as_fd(), name.as_c_str())?.into_vec());
            if let Some(node) = self.seen(&child, &stat, ignored, link)? {
                children.push((name.into_bytes(), node));
            }
        }
        Ok(children)
    }

    fn content(&self, path: &ImagePath, node: &Node) -> Result<Content, TreeError> {
        let expected = match &node.stamp {
            Some(stamp) => self.known.get(path, stamp),
            None => Expected::Anything,
        };
        Ok(Content::Host(HostFile {
            path: self.host_path(path),
            size: node.size,
            expected,
        }))
    }

    fn digest(&self, path: &ImagePath, node: &Node) -> Result<Digest, TreeError> {
        if let Some(stamp) = &node.stamp
            && let Expected::Stamped(known) = self.known.get(path, stamp)
        {
            return Ok(known.digest);
        }
        let failed = |e| host(path, e);
        let mut file = self.open(path)?;
        // Both from before the bytes are read: a change while they are must make the digest unknown again.
        let now = Timestamp::now();
        let stamp = Stamp::of_metadata(&file.metadata().map_err(failed)?);
        let mut hasher = Hasher::new();
        io::copy(&mut file, &mut hasher).map_err(failed)?;
        let digest = hasher.finish();
        self.known.put(path, Known { stamp, digest }, now);
        Ok(digest)
    }
}

impl Context {
    /// The node at `path`, of which lstat(2) told `stat`; `link` reads it if it is a symbolic link. `None` if it is
    /// ignored.
    fn seen(
        &self,
        path: &ImagePath,
        stat: &FileStat,
        ignored: bool,
        link: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> Result<Option<Node>, TreeError> {
        let kind = Kind::from_mode(stat.st_mode).unwrap_or(Kind::File);
        let modes = self.modes.get().copied().unwrap_or_default();
        if ignored
            && (kind != Kind::Directory
                || !self.ignore.may_hold_exceptions(path.as_bytes())
                || self.children(path)?.is_empty())
        {
            return Ok(None);
        }
        let mtime = Timestamp {
            seconds: stat.st_mtime,
            nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        };
        Ok(Some(Node {
            kind,
            metadata: Metadata {
                mode: match kind {
                    Kind::Symlink => stat.st_mode & 0o7777,
                    _ => modes.apply(stat.st_mode & 0o7777),
                },
                uid: 0,
                gid: 0,
                mtime: if kind == Kind::Directory {
                    DIRECTORY_MTIME
                } else {
                    mtime
                },
                xattrs: Xattrs::new(),
            },
            size: match kind {
                Kind::File => u64::try_from(stat.st_size).unwrap_or(0),
                _ => 0,
            },
            target: match kind {
                Kind::Symlink => link().map_err(|e| host(path, e))?,
                _ => Vec::new(),
            },
            device: Device {
                major: libc::major(stat.st_rdev),
                minor: libc::minor(stat.st_rdev),
            },
            link_group: (kind != Kind::Directory && stat.st_nlink > 1).then_some(stat.st_ino),
            stamp: (kind == Kind::File).then(|| Stamp::of(stat)),
        }))
    }

    /// What the patterns have matched above the entries of the directory `path`.
    fn inherited(&self, path: &ImagePath) -> Inherited {
        let mut inherited = Inherited::default();
        let mut at = ImagePath::root();
        for name in path.components().filter(|_| !self.ignore.is_empty()) {
            at = at.join(name);
            inherited = self.ignore.step(&inherited, at.as_bytes()).1;
        }
        inherited
    }
}
