//! A directory of this machine as a layer: a root filesystem, or the upper directory of an overlayfs mount.
//!
//! What such an upper directory removes is spelled by character devices 0:0 and attributes (Linux,
//! Documentation/filesystems/overlayfs.rst), or, where fuse-overlayfs may not make devices, by the names that layers
//! have. Both are read, and the layer spells them as all layers do. An upper directory that refers to what lies below
//! by more than that, as with `redirect_dir` and `metacopy`, is no layer.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata as HostMetadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use mica_fs::layer::marker::{MalformedWhiteout, Marker};
use mica_fs::layer::writer::{LayerWriter, NewNode, WriteError};
use mica_fs::layer::{Device, Kind, Metadata, Timestamp, Xattrs};
use mica_fs::path::ImagePath;
use nix::unistd::{geteuid, getgid, getuid};

use super::xattr;

/// The attributes that an image can have; others are the machine's own: labels, and what file systems keep there.
const NAMESPACES: [&[u8]; 4] = [
    b"user.",
    b"trusted.",
    b"security.capability",
    b"system.posix_acl_",
];
/// Where overlayfs keeps its own attributes, as root and as a user.
const OVERLAYFS: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// fuse-overlayfs's.
const FUSE_OVERLAYFS_OPAQUE: &[u8] = b"user.fuseoverlayfs.opaque";

/// Why a directory cannot become a layer.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Something in it cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A name that marks a removed file, but names none.
    #[error("{path}: {source}")]
    Whiteout {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: MalformedWhiteout,
    },
    /// An attribute of overlayfs with a value that it does not write.
    #[error("{path}: a malformed whiteout: its attribute {name} is {value:?}")]
    Attribute {
        /// The file.
        path: PathBuf,
        /// The attribute.
        name: String,
        /// Its value, bytes that are no UTF-8 replaced.
        value: String,
    },
    /// The upper directory tells only half of what it shows.
    #[error("{path} is not all there: overlayfs left part of it in the directory below (attribute {name})")]
    Partial {
        /// The file.
        path: PathBuf,
        /// The attribute that says so.
        name: String,
    },
    /// The layer cannot be written.
    #[error("cannot make a layer of it")]
    Write(#[from] WriteError),
}

impl DirectoryError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Partial { .. } => Some(
                "change the files on a mount with the options redirect_dir=off,metacopy=off, or import what the \
                 mount shows rather than its upper directory",
            ),
            Self::Read { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("import it as the user who may read all of it, or as root")
            }
            _ => None,
        }
    }
}

/// Adds all that is in `directory` to a layer. Of files that have owners it takes these, but for an unprivileged user:
/// what belongs to the user is root's in the image. Sockets are left out.
pub(super) fn add(writer: &mut LayerWriter, directory: &Path) -> Result<(), DirectoryError> {
    let mut walk = Walk {
        writer,
        links: HashMap::new(),
        owners: Owners::new(),
        todo: vec![(directory.to_owned(), ImagePath::root(), Children::Plain)],
    };
    while let Some((host, path, of)) = walk.todo.pop() {
        walk.node(&host, &path, of)?;
    }
    Ok(())
}

struct Walk<'a> {
    writer: &'a mut LayerWriter,
    /// The first name of each file with several.
    links: HashMap<(u64, u64), ImagePath>,
    owners: Owners,
    /// What is still to be added, the next one last, and the directory that it is in.
    todo: Vec<(PathBuf, ImagePath, Children)>,
}

/// What a directory says of its files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Children {
    Plain,
    /// Files with the attribute `overlay.whiteout` are whiteouts.
    Marked,
}

impl Walk<'_> {
    fn node(&mut self, host: &Path, path: &ImagePath, of: Children) -> Result<(), DirectoryError> {
        let found = fs::symlink_metadata(host).map_err(failed(host))?;
        let Some(kind) = Kind::from_mode(found.mode()).filter(|kind| *kind != Kind::Socket) else {
            tracing::debug!(path = %host.display(), "a socket is left out");
            return Ok(());
        };
        let device = Device {
            major: libc::major(found.rdev()),
            minor: libc::minor(found.rdev()),
        };
        if kind == Kind::CharDevice && device == Device::default() {
            return Ok(self.writer.whiteout(path)?);
        }
        let mut xattrs = xattr::of(host).map_err(failed(host))?;
        let marks = Marks::take(&mut xattrs, host)?;
        if of == Children::Marked && marks.whiteout && kind == Kind::File {
            return Ok(self.writer.whiteout(path)?);
        }
        let several = kind != Kind::Directory && found.nlink() > 1;
        if several && let Some(first) = self.links.get(&(found.dev(), found.ino())) {
            return Ok(self.writer.hard_link(path, first)?);
        }
        let metadata = self.owners.metadata(&found, xattrs);
        match kind {
            Kind::Directory => {
                self.writer.add(path, &metadata, NewNode::Directory)?;
                return self.directory(host, path, marks);
            }
            Kind::File => self.file(host, path, &metadata)?,
            Kind::Symlink => {
                let target = fs::read_link(host).map_err(failed(host))?;
                let target = target.as_os_str().as_bytes();
                self.writer.add(path, &metadata, NewNode::Symlink(target))?;
            }
            Kind::CharDevice => self.writer.add(path, &metadata, NewNode::CharDevice(device))?,
            Kind::BlockDevice => self.writer.add(path, &metadata, NewNode::BlockDevice(device))?,
            Kind::Fifo | Kind::Socket => self.writer.add(path, &metadata, NewNode::Fifo)?,
        }
        if several {
            self.links.insert((found.dev(), found.ino()), path.clone());
        }
        Ok(())
    }

    fn file(&mut self, host: &Path, path: &ImagePath, metadata: &Metadata) -> Result<(), DirectoryError> {
        let mut content = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(host)
            .map_err(failed(host))?;
        let size = content.metadata().map_err(failed(host))?.len();
        let content = &mut content;
        Ok(self.writer.add(path, metadata, NewNode::File { size, content })?)
    }

    /// What is in a directory, by name: so that the same directory makes the same layer.
    fn directory(&mut self, host: &Path, path: &ImagePath, marks: Marks) -> Result<(), DirectoryError> {
        let mut opaque = marks.opaque;
        let mut names = Vec::new();
        for entry in fs::read_dir(host).map_err(failed(host))? {
            names.push(entry.map_err(failed(host))?.file_name().into_vec());
        }
        names.sort();
        let (mut whiteouts, mut children) = (Vec::new(), Vec::new());
        for name in names {
            let at = host.join(OsString::from_vec(name.clone()));
            let marker = Marker::of(&name).map_err(|source| DirectoryError::Whiteout {
                path: at.clone(),
                source,
            })?;
            match marker {
                None => children.push((at, path.join(&name), marks.children)),
                Some(Marker::Whiteout(removed)) => whiteouts.push(path.join(removed)),
                Some(Marker::Opaque) => opaque = true,
                Some(Marker::Ignored) => {}
            }
        }
        if opaque {
            self.writer.opaque(path)?;
        }
        for removed in whiteouts {
            self.writer.whiteout(&removed)?;
        }
        self.todo.extend(children.into_iter().rev());
        Ok(())
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    |source| DirectoryError::Read {
        path: path.to_owned(),
        source,
    }
}

/// What overlayfs says by attributes.
struct Marks {
    opaque: bool,
    whiteout: bool,
    children: Children,
}

impl Marks {
    /// Takes overlayfs's own attributes out of those of a file, and says what they mean.
    fn take(xattrs: &mut Xattrs, path: &Path) -> Result<Self, DirectoryError> {
        let mut marks = Self {
            opaque: xattrs.remove(FUSE_OVERLAYFS_OPAQUE).is_some(),
            whiteout: false,
            children: Children::Plain,
        };
        let (own, plain): (Xattrs, Xattrs) = std::mem::take(xattrs)
            .into_iter()
            .partition(|(name, _)| own_name(name).is_some());
        *xattrs = plain;
        for (full, value) in own {
            let name = || String::from_utf8_lossy(&full).into_owned();
            match (own_name(&full).unwrap_or_default(), value.as_slice()) {
                (b"opaque", b"y") => marks.opaque = true,
                (b"opaque", b"x") => marks.children = Children::Marked,
                (b"opaque", _) => {
                    return Err(DirectoryError::Attribute {
                        path: path.to_owned(),
                        name: name(),
                        value: String::from_utf8_lossy(&value).into_owned(),
                    });
                }
                (b"whiteout", _) => marks.whiteout = true,
                (b"redirect" | b"metacopy", _) => {
                    return Err(DirectoryError::Partial {
                        path: path.to_owned(),
                        name: name(),
                    });
                }
                // An attribute of a mount within a mount: it was escaped once.
                (escaped, _) if escaped.starts_with(b"overlay.") => {
                    let prefix = &full[..full.len() - escaped.len()];
                    let inner = [prefix, &escaped[b"overlay.".len()..]].concat();
                    xattrs.insert(inner, value);
                }
                // origin, impure, nlink, uuid and the like: about the mount, not about the file.
                (_, _) => {}
            }
        }
        Ok(marks)
    }
}

/// What follows the prefix of overlayfs in an attribute's name.
fn own_name(name: &[u8]) -> Option<&[u8]> {
    OVERLAYFS.iter().find_map(|prefix| name.strip_prefix(*prefix))
}

/// Whom files belong to in the image.
struct Owners {
    /// The user and the group whose files are root's.
    root: (u32, u32),
}

impl Owners {
    fn new() -> Self {
        match geteuid().is_root() {
            true => Self { root: (0, 0) },
            false => Self {
                root: (getuid().as_raw(), getgid().as_raw()),
            },
        }
    }

    fn metadata(&self, found: &HostMetadata, mut xattrs: Xattrs) -> Metadata {
        xattrs.retain(|name, _| NAMESPACES.iter().any(|namespace| name.starts_with(namespace)));
        let inside = |id, root| if id == root { 0 } else { id };
        Metadata {
            mode: found.mode() & 0o7777,
            uid: inside(found.uid(), self.root.0),
            gid: inside(found.gid(), self.root.1),
            mtime: Timestamp {
                seconds: found.mtime(),
                nanoseconds: u32::try_from(found.mtime_nsec()).unwrap_or(0),
            },
            xattrs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether something is opaque, a whiteout, and has marked children.
    type Marked = (bool, bool, bool);

    fn marks(attributes: &[(&str, &str)]) -> (Result<Marked, String>, Vec<String>) {
        let attribute = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let mut xattrs: Xattrs = attributes.iter().map(attribute).collect();
        let marks = Marks::take(&mut xattrs, Path::new("/u/f"));
        let left = xattrs
            .keys()
            .map(|name| String::from_utf8_lossy(name).into_owned());
        let marks = marks
            .map(|marks| (marks.opaque, marks.whiteout, marks.children == Children::Marked))
            .map_err(|error| error.to_string());
        (marks, left.collect())
    }

    #[test]
    fn the_attributes_of_overlayfs_are_understood() {
        for (attributes, expected, left) in [
            (&[("user.x", "1")][..], (false, false, false), &["user.x"][..]),
            (&[("trusted.overlay.opaque", "y")], (true, false, false), &[]),
            (
                &[("user.overlay.opaque", "y"), ("user.overlay.origin", "..")],
                (true, false, false),
                &[],
            ),
            (&[("user.fuseoverlayfs.opaque", "y")], (true, false, false), &[]),
            (&[("trusted.overlay.opaque", "x")], (false, false, true), &[]),
            (&[("user.overlay.whiteout", "")], (false, true, false), &[]),
            (
                &[("trusted.overlay.overlay.opaque", "y")],
                (false, false, false),
                &["trusted.overlay.opaque"],
            ),
        ] {
            assert_eq!(
                marks(attributes),
                (Ok(expected), left.iter().map(|s| (*s).to_owned()).collect())
            );
        }
    }

    #[test]
    fn what_is_malformed_or_partial_is_named() {
        for (attribute, value) in [
            ("trusted.overlay.opaque", "maybe"),
            ("user.overlay.redirect", "/x"),
            ("trusted.overlay.metacopy", ""),
        ] {
            let said = marks(&[(attribute, value)]).0.expect_err("refused");
            assert!(said.contains("/u/f") && said.contains(attribute), "{said}");
        }
    }
}
