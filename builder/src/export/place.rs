//! Files of an image as files of this machine.
//!
//! Every name is created beneath a directory that is held open, and never through a symbolic link: whatever lies
//! in the destination, or in the image, nothing is written outside of the destination.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use mica_fs::layer::{Kind, Timestamp};
use mica_fs::overlay::{Attr, Follow, Overlay};
use mica_fs::path::ImagePath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{
    Gid, LinkatFlags, Uid, UnlinkatFlags, fchownat, getegid, geteuid, linkat, symlinkat, unlinkat,
};

use super::{ExportError, children, content, sys};

/// The most directories that are kept open for hard links yet to come; beyond it links become files of their own.
const OPEN_LIMIT: usize = 256;

/// How files are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Manner {
    /// Whose they are.
    pub owners: Owners,
    /// The time of all of them, in place of their own.
    pub time: Option<Timestamp>,
}

/// Whose the files are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// The image's: only root can give files away.
    Image,
    /// Of who makes them. Devices are left out, which only root can make.
    Own,
}

/// How many files are not what they are in the image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Those that have another owner.
    pub owners: u64,
    /// Devices that were left out.
    pub devices: u64,
    /// Extended attributes that could not be set.
    pub attributes: u64,
}

/// Like `place_as`, with the image's owners where the user is root, and the image's times.
///
/// # Errors
/// As `place_as`.
pub fn place(
    overlay: &Overlay,
    top: &ImagePath,
    follow: Follow,
    destination: &Path,
) -> Result<Lost, ExportError> {
    let owners = match geteuid().is_root() {
        true => Owners::Image,
        false => Owners::Own,
    };
    place_as(overlay, top, follow, destination, Manner { owners, time: None })
}

/// Copies what is at `top` in the image to `destination`, a path of this machine whose directory exists. A directory
/// is merged into a directory that is there; other things are replaced. `follow` says whether a symbolic link at `top`
/// is followed, inside the image.
///
/// # Errors
/// [`ExportError`]; part of the files may be there then.
pub(super) fn place_as(
    overlay: &Overlay,
    top: &ImagePath,
    follow: Follow,
    destination: &Path,
    manner: Manner,
) -> Result<Lost, ExportError> {
    let attr = overlay
        .resolve(top, follow)
        .map_err(|source| ExportError::Image {
            path: top.clone(),
            source,
        })?;
    let mut placing = Placing {
        overlay,
        manner,
        lost: Lost::default(),
        links: HashMap::new(),
    };
    let write = |errno: Errno| failed(destination, errno);
    let (parent, name) = match (destination.parent(), destination.file_name()) {
        (Some(parent), Some(name)) => (parent, name),
        // `.`, `/` and `..` are directories that are there.
        _ => (destination, OsStr::new(".")),
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY;
    let directory = openat(AT_FDCWD, parent, flags, Mode::empty()).map_err(write)?;
    // The user names the destination itself and may name it by a symbolic link.
    let follow = if attr.kind == Kind::Directory && destination.is_dir() {
        OFlag::empty()
    } else {
        OFlag::O_NOFOLLOW
    };
    let at = At {
        directory: &directory,
        name,
        path: destination.to_owned(),
    };
    placing.node(&at, top, &attr, follow)?;
    Ok(placing.lost)
}

/// Where a node is to be made.
struct At<'a> {
    directory: &'a OwnedFd,
    name: &'a OsStr,
    /// For messages.
    path: PathBuf,
}

struct Placing<'a> {
    overlay: &'a Overlay,
    manner: Manner,
    lost: Lost,
    /// The directories and names that hold nodes with several names.
    links: HashMap<u64, (OwnedFd, Vec<u8>)>,
}

fn failed(path: &Path, errno: Errno) -> ExportError {
    ExportError::Write {
        path: path.to_owned(),
        source: errno.into(),
    }
}

impl Placing<'_> {
    fn node(&mut self, at: &At<'_>, path: &ImagePath, attr: &Attr, follow: OFlag) -> Result<(), ExportError> {
        let image = |source| ExportError::Image {
            path: path.clone(),
            source,
        };
        let write = |errno: Errno| failed(&at.path, errno);
        if attr.kind == Kind::Directory {
            return self.directory(at, path, attr, follow);
        }
        match unlinkat(at.directory, at.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(write(errno)),
        }
        if let Some((directory, name)) = self.links.get(&attr.ino.0) {
            let name = OsStr::from_bytes(name);
            return linkat(directory, name, at.directory, at.name, LinkatFlags::empty()).map_err(write);
        }
        if attr.nlink > 1 && self.links.len() < OPEN_LIMIT {
            let directory = at.directory.try_clone().map_err(|source| ExportError::Write {
                path: at.path.clone(),
                source,
            })?;
            self.links
                .insert(attr.ino.0, (directory, at.name.as_bytes().to_vec()));
        }
        match attr.kind {
            Kind::File => self.file(at, path, attr)?,
            Kind::Symlink => {
                let target = self.overlay.read_link(attr.ino).map_err(image)?;
                symlinkat(OsStr::from_bytes(&target), at.directory, at.name).map_err(write)?;
            }
            Kind::Fifo | Kind::CharDevice | Kind::BlockDevice => {
                if attr.kind != Kind::Fifo && self.manner.owners == Owners::Own {
                    self.lost.devices += 1;
                    return Ok(());
                }
                let kind = SFlag::from_bits_truncate(attr.kind.file_type_bits());
                let device = makedev(attr.device.major.into(), attr.device.minor.into());
                mknodat(
                    at.directory,
                    at.name,
                    kind,
                    Mode::from_bits_truncate(0o600),
                    device,
                )
                .map_err(write)?;
            }
            Kind::Directory | Kind::Socket => return Ok(()),
        }
        self.metadata(at, path, attr)
    }

    fn file(&self, at: &At<'_>, path: &ImagePath, attr: &Attr) -> Result<(), ExportError> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(at.directory, at.name, flags, Mode::from_bits_truncate(0o600))
            .map_err(|errno| failed(&at.path, errno))?;
        let mut file = File::from(file);
        let copied =
            io::copy(&mut content(self.overlay, attr), &mut file).map_err(|source| ExportError::Write {
                path: at.path.clone(),
                source,
            })?;
        if copied != attr.size {
            tracing::warn!(%path, copied, size = attr.size, "the file has another size than the image says");
        }
        Ok(())
    }

    fn directory(
        &mut self,
        at: &At<'_>,
        path: &ImagePath,
        attr: &Attr,
        follow: OFlag,
    ) -> Result<(), ExportError> {
        let write = |errno: Errno| failed(&at.path, errno);
        match mkdirat(at.directory, at.name, Mode::from_bits_truncate(0o700)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(write(errno)),
        }
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY | follow;
        let directory = openat(at.directory, at.name, flags, Mode::empty()).map_err(write)?;
        let children = children(self.overlay, attr.ino).map_err(|source| ExportError::Image {
            path: path.clone(),
            source,
        })?;
        for (name, child) in children {
            let at = At {
                directory: &directory,
                name: OsStr::from_bytes(&name),
                path: at.path.join(OsStr::from_bytes(&name)),
            };
            self.node(&at, &path.join(&name), &child, OFlag::O_NOFOLLOW)?;
        }
        // Last, since a directory may be read-only, and what is made in it changes its time.
        let at = At {
            directory: &directory,
            name: OsStr::new("."),
            path: at.path.clone(),
        };
        self.metadata(&at, path, attr)
    }

    fn metadata(&mut self, at: &At<'_>, path: &ImagePath, attr: &Attr) -> Result<(), ExportError> {
        let write = |errno: Errno| failed(&at.path, errno);
        if self.manner.owners == Owners::Own {
            let own = (geteuid().as_raw(), getegid().as_raw());
            self.lost.owners += u64::from((attr.uid, attr.gid) != own);
        } else {
            let (uid, gid) = (Uid::from_raw(attr.uid), Gid::from_raw(attr.gid));
            let owned = fchownat(
                at.directory,
                at.name,
                Some(uid),
                Some(gid),
                AtFlags::AT_SYMLINK_NOFOLLOW,
            );
            match owned {
                // Root of a user namespace may not have the ID.
                Err(Errno::EINVAL | Errno::EPERM) => self.lost.owners += 1,
                other => other.map_err(write)?,
            }
        }
        if attr.kind != Kind::Symlink {
            let mode = Mode::from_bits_truncate(attr.mode);
            // The name was just made by us and is no symbolic link.
            fchmodat(at.directory, at.name, mode, FchmodatFlags::FollowSymlink).map_err(write)?;
        }
        self.attributes(at, path, attr)?;
        let time = time_spec(self.manner.time.unwrap_or(attr.mtime));
        utimensat(
            at.directory,
            at.name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .map_err(write)
    }
}

impl Placing<'_> {
    /// Sets the extended attributes, after the owner, since a change of that takes capabilities away.
    fn attributes(&mut self, at: &At<'_>, path: &ImagePath, attr: &Attr) -> Result<(), ExportError> {
        let image = |source| ExportError::Image {
            path: path.clone(),
            source,
        };
        for name in self.overlay.xattr_names(attr.ino).map_err(image)? {
            let value = self.overlay.xattr(attr.ino, &name).map_err(image)?;
            match sys::set_xattr(at.directory, at.name, &name, &value) {
                Ok(()) => {}
                // The file system, or the user, cannot have it.
                Err(Errno::EOPNOTSUPP | Errno::EPERM | Errno::EINVAL) => self.lost.attributes += 1,
                Err(errno) => return Err(failed(&at.path, errno)),
            }
        }
        Ok(())
    }
}

fn time_spec(time: Timestamp) -> TimeSpec {
    TimeSpec::new(time.seconds, time.nanoseconds.into())
}
