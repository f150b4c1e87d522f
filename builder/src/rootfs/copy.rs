//! A root filesystem without FUSE: a copy in a directory, and what a step has changed there taken back into the
//! overlay, so that the layer is the same.
//!
//! What was changed is told by the status of each file before and after (its inode number, its birth and its last
//! change), which programs cannot set. What was read is not known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mica_fs::layer::{Device, Kind, Metadata, Timestamp, Xattrs};
use mica_fs::overlay::{self, Attr, Changes, Expected, Follow, HostFile, Ino, Overlay, SetXattr, Source};
use mica_fs::path::ImagePath;
use nix::mount::{MntFlags, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::export::{self, ExportError, Lost};
use crate::import::xattr;
use crate::sandbox;

/// How deep directories may lie: each takes a part of the stack.
const DEEPEST: usize = 200;

/// The clock of files goes on at least this often (a kernel with HZ=100).
const TICK: Duration = Duration::from_millis(10);

/// Why a root filesystem cannot be a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// It cannot be written.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The user cannot have files as the image has them.
    #[error("{} files of the image cannot belong to their owners here", .0.owners + .0.devices)]
    Lost(Lost),
    /// No program of the copy could be executed.
    #[error("{} is on a filesystem that is mounted with noexec; $MICA_ROOT can name another store", .0.display())]
    NoExec(PathBuf),
    /// A file of the copy.
    #[error("cannot use {path}")]
    File {
        /// Where it is.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The overlay does not take a change.
    #[error("cannot take the change of {path}")]
    Change {
        /// The file in the image.
        path: ImagePath,
        /// Why.
        source: overlay::Error,
    },
}

/// The copy, at a place of its own. Dropping it unmounts it.
pub(super) struct Copy {
    directory: PathBuf,
    before: HashMap<ImagePath, Stamp>,
    /// The files that no layer sees.
    virtuals: BTreeSet<ImagePath>,
    begun: Timestamp,
}

/// By what a change shows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    node: (u64, Option<(i64, u32)>),
    changed: (i64, u32),
    modified: (i64, u32),
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags)?;
        let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        Ok(Self {
            node: (
                stat.stx_ino,
                has_birth.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            ),
            changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
            modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        })
    }
}

impl Copy {
    /// Copies what the overlay shows to the empty `directory`.
    pub(super) fn make(
        overlay: &Overlay,
        directory: PathBuf,
        virtuals: BTreeSet<ImagePath>,
    ) -> Result<Self, CopyError> {
        let lost = export::place(overlay, &ImagePath::root(), Follow::No, &directory)?;
        if lost.owners + lost.devices > 0 {
            return Err(CopyError::Lost(lost));
        }
        // A mount of its own, on which the device nodes of real root's steps do not reach the host's devices.
        let failed = |errno: nix::Error| CopyError::File {
            path: directory.clone(),
            source: errno.into(),
        };
        if statvfs(&directory)
            .map_err(failed)?
            .flags()
            .contains(FsFlags::ST_NOEXEC)
        {
            return Err(CopyError::NoExec(directory));
        }
        sandbox::mount_without_devices(&directory).map_err(failed)?;
        let mut copy = Self {
            directory: directory.clone(),
            before: HashMap::new(),
            virtuals,
            begun: Timestamp::now(),
        };
        copy.note(&directory, &ImagePath::root())?;
        // What changes from now on has another time.
        std::thread::sleep(TICK);
        copy.begun = Timestamp::now();
        Ok(copy)
    }

    /// Takes down how everything is.
    fn note(&mut self, at: &Path, path: &ImagePath) -> Result<(), CopyError> {
        let failed = |source| CopyError::File {
            path: at.to_owned(),
            source,
        };
        self.before.insert(path.clone(), Stamp::of(at).map_err(failed)?);
        if at.symlink_metadata().map_err(failed)?.is_dir() {
            for name in names(at).map_err(failed)? {
                self.note(&at.join(OsStr::from_bytes(&name)), &path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Makes the overlay what the copy is by now. The files of the copy must stay until the layer is written.
    pub(super) fn take_back(&self, overlay: &Overlay) -> Result<(), CopyError> {
        let root = ImagePath::root();
        let failed = |source| CopyError::Change {
            path: root.clone(),
            source,
        };
        let attr = overlay.resolve(&root, Follow::No).map_err(failed)?;
        let mut back = Back {
            copy: self,
            overlay,
            links: HashMap::new(),
        };
        back.directory(&attr, &self.directory, &root)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.directory, MntFlags::MNT_DETACH) {
            tracing::warn!(path = %self.directory.display(), "cannot unmount: {errno}");
        }
    }
}

/// The way back.
struct Back<'a> {
    copy: &'a Copy,
    overlay: &'a Overlay,
    /// What was placed of the files with several names, by their inode numbers.
    links: HashMap<u64, Ino>,
}

impl Back<'_> {
    /// Takes back what was changed in a directory that was there before, or has just been placed.
    fn directory(&mut self, attr: &Attr, at: &Path, path: &ImagePath) -> Result<(), CopyError> {
        let file = |source| CopyError::File {
            path: at.to_owned(),
            source,
        };
        let change = |source| CopyError::Change {
            path: path.clone(),
            source,
        };
        let there = export::children(self.overlay, attr.ino).map_err(change)?;
        let mut there: BTreeMap<_, _> = there.into_iter().collect();
        let mut names_changed = false;
        for name in names(at).map_err(file)? {
            let (at, path) = (at.join(OsStr::from_bytes(&name)), path.join(&name));
            let existing = there.remove(&name);
            if self.copy.virtuals.contains(&path) {
                continue;
            }
            let now = Stamp::of(&at).map_err(file)?;
            match (existing, self.copy.before.get(&path)) {
                (Some(node), Some(old)) if old.node == now.node && node.kind == Kind::Directory => {
                    self.directory(&node, &at, &path)?;
                }
                (Some(_), Some(old)) if *old == now => {}
                (existing, _) => {
                    if let Some(node) = existing {
                        self.remove((attr.ino, &name), &node, &path)?;
                    }
                    self.add((attr.ino, &name), &at, &path)?;
                    names_changed = true;
                }
            }
        }
        for (name, node) in there {
            let path = path.join(&name);
            if self.copy.before.contains_key(&path) && !self.copy.virtuals.contains(&path) {
                self.remove((attr.ino, &name), &node, &path)?;
                names_changed = true;
            }
        }
        match self.copy.before.get(path) {
            Some(old) => self.metadata((attr, old), at, path, names_changed),
            None => Ok(()),
        }
    }

    /// Gives a directory that was there before its new metadata.
    fn metadata(
        &self,
        (attr, old): (&Attr, &Stamp),
        at: &Path,
        path: &ImagePath,
        names_changed: bool,
    ) -> Result<(), CopyError> {
        let change = |source| CopyError::Change {
            path: path.clone(),
            source,
        };
        let now = metadata(at)?;
        let differs = |new: u32, old: u32| (new != old).then_some(new);
        // Names that come and go change the time, and the layer does not tell that of a directory which is as it was: only
        // a time of before the step was set by someone. What was done here to the overlay has changed its time too.
        let is_new = old.modified != (now.mtime.seconds, now.mtime.nanoseconds);
        let was_set = is_new && now.mtime < self.copy.begun;
        let owner = Changes {
            uid: differs(now.uid, attr.uid),
            gid: differs(now.gid, attr.gid),
            ..Changes::default()
        };
        let rest = Changes {
            mode: differs(now.mode, attr.mode),
            mtime: (names_changed || was_set).then_some(now.mtime),
            ..Changes::default()
        };
        // A change of owner changes the mode.
        for changes in [owner, rest] {
            let is_one = changes.uid.or(changes.gid).or(changes.mode).is_some() || changes.mtime.is_some();
            if is_one {
                self.overlay.set_attr(attr.ino, &changes).map_err(change)?;
            }
        }
        let had = self.overlay.xattr_names(attr.ino).map_err(change)?;
        for name in had.iter().filter(|name| !now.xattrs.contains_key(*name)) {
            self.overlay.remove_xattr(attr.ino, name).map_err(change)?;
        }
        for (name, value) in &now.xattrs {
            let is_same =
                had.contains(name) && self.overlay.xattr(attr.ino, name).is_ok_and(|old| old == *value);
            if !is_same {
                let set = self.overlay.set_xattr(attr.ino, name, value, SetXattr::Any);
                set.map_err(change)?;
            }
        }
        Ok(())
    }

    fn remove(&self, (parent, name): (Ino, &[u8]), node: &Attr, path: &ImagePath) -> Result<(), CopyError> {
        let change = |source| CopyError::Change {
            path: path.clone(),
            source,
        };
        if node.kind != Kind::Directory {
            return self.overlay.unlink(parent, name).map_err(change);
        }
        for (name, child) in export::children(self.overlay, node.ino).map_err(change)? {
            self.remove((node.ino, &name), &child, &path.join(&name))?;
        }
        self.overlay.rmdir(parent, name).map_err(change)
    }

    fn add(&mut self, (parent, name): (Ino, &[u8]), at: &Path, path: &ImagePath) -> Result<(), CopyError> {
        let file = |source| CopyError::File {
            path: at.to_owned(),
            source,
        };
        let change = |source| CopyError::Change {
            path: path.clone(),
            source,
        };
        let found = at.symlink_metadata().map_err(file)?;
        let kind = found.file_type();
        let several = found.nlink() > 1 && !kind.is_dir();
        if let Some(first) = self.links.get(&found.ino()).filter(|_| several) {
            return self.overlay.link(*first, parent, name).map(drop).map_err(change);
        }
        let target;
        let number = nix::sys::stat::major(found.rdev()).try_into().ok();
        let number = number.zip(nix::sys::stat::minor(found.rdev()).try_into().ok());
        let (major, minor) = number.unwrap_or_default();
        let device = Device { major, minor };
        let source = if kind.is_dir() {
            Source::Directory
        } else if kind.is_symlink() {
            target = fs::read_link(at).map_err(file)?.into_os_string().into_vec();
            Source::Symlink(&target)
        } else if kind.is_char_device() {
            Source::CharDevice(device)
        } else if kind.is_block_device() {
            Source::BlockDevice(device)
        } else if kind.is_fifo() {
            Source::Fifo
        } else if kind.is_socket() {
            // No layer can hold one.
            return Ok(());
        } else {
            Source::Host(HostFile {
                path: at.to_owned(),
                size: found.len(),
                expected: Expected::Anything,
            })
        };
        let placed = self.overlay.place(parent, name, &metadata(at)?, source);
        let attr = placed.map_err(change)?;
        if several {
            self.links.insert(found.ino(), attr.ino);
        }
        match kind.is_dir() {
            true => self.new_directory(&attr, at, path),
            false => Ok(()),
        }
    }

    /// Everything of a directory that was not there before.
    fn new_directory(&mut self, attr: &Attr, at: &Path, path: &ImagePath) -> Result<(), CopyError> {
        let file = |source| CopyError::File {
            path: at.to_owned(),
            source,
        };
        for name in names(at).map_err(file)? {
            let (at, path) = (at.join(OsStr::from_bytes(&name)), path.join(&name));
            self.add((attr.ino, &name), &at, &path)?;
        }
        // Hard links have changed it.
        let time = Changes {
            mtime: Some(attr.mtime),
            ..Changes::default()
        };
        let set = self.overlay.set_attr(attr.ino, &time);
        set.map(drop).map_err(|source| CopyError::Change {
            path: path.clone(),
            source,
        })
    }
}

/// The names in a directory, sorted.
fn names(directory: &Path) -> io::Result<Vec<Vec<u8>>> {
    if directory.components().count() > DEEPEST {
        return Err(io::Error::other("the directories lie too deep"));
    }
    let entries = fs::read_dir(directory)?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_vec()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn metadata(at: &Path) -> Result<Metadata, CopyError> {
    let failed = |source| CopyError::File {
        path: at.to_owned(),
        source,
    };
    let found = at.symlink_metadata().map_err(failed)?;
    let mut xattrs: Xattrs = xattr::of(at).map_err(failed)?;
    // The machine's, not the image's.
    xattrs.retain(|name, _| name != b"security.selinux");
    Ok(Metadata {
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
        mtime: Timestamp {
            seconds: found.mtime(),
            nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or_default(),
        },
        xattrs,
    })
}
