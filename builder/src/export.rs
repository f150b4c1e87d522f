//! The merged root filesystem of an image, outside of images: as a tar or as files of this machine.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;

use mica_fs::digest::DiffId;
use mica_fs::layer::writer::{LayerWriter, NewNode, WriteError};
use mica_fs::layer::{Kind, Metadata, TAR_FILE, Timestamp};
use mica_fs::overlay::{Attr, Error as OverlayError, Follow, Ino, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, StoreError};

mod directory;
mod place;
mod sys;
#[cfg(test)]
mod tests;

pub use directory::root_directory;
pub use place::{Lost, Manner, Owners, place};

/// Why a filesystem could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The image's own tree cannot be read.
    #[error("cannot read {path} in the image")]
    Image {
        /// Where in the image.
        path: ImagePath,
        /// What is wrong.
        source: OverlayError,
    },
    /// The tar cannot be made.
    #[error("cannot write the image's files as a tar")]
    Tar {
        /// What is wrong.
        source: WriteError,
    },
    /// The output cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file of this machine.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The merged tree of a stack of layers, bottom layer first, for reading.
///
/// # Errors
/// [`StoreError`] if a layer is missing or damaged.
pub fn merged(store: &Store, layers: &[DiffId]) -> Result<Overlay, StoreError> {
    Ok(Overlay::read_only(store.layers(layers)?))
}

/// Writes the merged root filesystem of a stack of layers as a tar, sorted by name: the same layers give the same
/// bytes. Sockets are left out. All files have the time `time`, if one is given.
///
/// # Errors
/// [`ExportError`]; what was written by then is no whole tar.
pub fn root_tar(
    store: &Store,
    layers: &[DiffId],
    time: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let overlay = merged(store, layers)?;
    let root = ImagePath::root();
    write_tar(store, &overlay, (&root, &root), time, out)
}

/// Writes what is at `top` in the image as a tar, in which it has the name `name`.
///
/// # Errors
/// [`ExportError`].
pub fn tar(
    store: &Store,
    overlay: &Overlay,
    top: &ImagePath,
    name: &ImagePath,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    write_tar(store, overlay, (top, name), None, out)
}

/// Writes what is at the first path, in the tar at the second.
fn write_tar(
    store: &Store,
    overlay: &Overlay,
    (top, name): (&ImagePath, &ImagePath),
    time: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let work = store.work_dir()?;
    let failed = |source| ExportError::Tar { source };
    // The layer codec is the only one that knows how to spell long names, attributes and the like.
    let mut writer = LayerWriter::new(work.path()).map_err(failed)?;
    let mut first_names = std::collections::HashMap::new();
    walk(overlay, top, &mut |path, attr| {
        let rest = path.as_bytes().strip_prefix(top.as_bytes()).unwrap_or_default();
        let inside = [name.as_bytes(), b"/", rest].concat();
        let inside = ImagePath::clean(&inside).unwrap_or_default();
        if inside.is_root() && attr.kind != Kind::Directory {
            return Ok(());
        }
        if attr.kind != Kind::Directory && attr.nlink > 1 {
            if let Some(first) = first_names.get(&attr.ino.0) {
                return writer.hard_link(&inside, first).map_err(failed);
            }
            first_names.insert(attr.ino.0, inside.clone());
        }
        add(&mut writer, overlay, path, &inside, attr, time)
    })?;
    writer.finish().map_err(failed)?;
    let write = |source| ExportError::Write {
        path: "the tar".into(),
        source,
    };
    let mut file = File::open(work.path().join(TAR_FILE)).map_err(write)?;
    io::copy(&mut file, out).and_then(|_| out.flush()).map_err(write)
}

/// Adds the node at `path`, as `inside`; with `time` in place of its own if one is given.
pub(crate) fn add(
    writer: &mut LayerWriter,
    overlay: &Overlay,
    path: &ImagePath,
    inside: &ImagePath,
    attr: &Attr,
    time: Option<Timestamp>,
) -> Result<(), ExportError> {
    let image = |source| ExportError::Image {
        path: path.clone(),
        source,
    };
    let mut metadata = Metadata {
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        mtime: time.unwrap_or(attr.mtime),
        ..Metadata::default()
    };
    for name in overlay.xattr_names(attr.ino).map_err(image)? {
        let value = overlay.xattr(attr.ino, &name).map_err(image)?;
        metadata.xattrs.insert(name, value);
    }
    let target;
    let mut content = content(overlay, attr);
    let node = match attr.kind {
        Kind::Directory => NewNode::Directory,
        Kind::File => NewNode::File {
            size: attr.size,
            content: &mut content,
        },
        Kind::Symlink => {
            target = overlay.read_link(attr.ino).map_err(image)?;
            NewNode::Symlink(&target)
        }
        Kind::CharDevice => NewNode::CharDevice(attr.device),
        Kind::BlockDevice => NewNode::BlockDevice(attr.device),
        Kind::Fifo => NewNode::Fifo,
        Kind::Socket => return Ok(()),
    };
    writer
        .add(inside, &metadata, node)
        .map_err(|source| ExportError::Tar { source })
}

/// Visits what is at `top` and everything below it, directories before what is in them, sorted by name. Symbolic
/// links below `top` are not followed.
///
/// # Errors
/// [`ExportError::Image`], and what `each` fails with.
pub fn walk(
    overlay: &Overlay,
    top: &ImagePath,
    each: &mut dyn FnMut(&ImagePath, &Attr) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let error = |path: &ImagePath| {
        let path = path.clone();
        move |source| ExportError::Image { path, source }
    };
    let attr = overlay.resolve(top, Follow::No).map_err(error(top))?;
    let mut todo = vec![(top.clone(), attr)];
    while let Some((path, attr)) = todo.pop() {
        each(&path, &attr)?;
        if attr.kind == Kind::Directory {
            let mut children = children(overlay, attr.ino).map_err(error(&path))?;
            children.reverse();
            todo.extend(children.into_iter().map(|(name, attr)| (path.join(&name), attr)));
        }
    }
    Ok(())
}

/// The entries of a directory, sorted by name.
///
/// # Errors
/// If it is no directory.
pub fn children(overlay: &Overlay, directory: Ino) -> Result<Vec<(Vec<u8>, Attr)>, OverlayError> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    overlay.read_dir(directory, 0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        ControlFlow::Continue(())
    })?;
    names.sort();
    // The references that a look-up counts are never given back: the nodes are wanted as long as the overlay.
    names
        .into_iter()
        .map(|name| {
            let attr = overlay.lookup(directory, &name)?;
            Ok((name, attr))
        })
        .collect()
}

/// Reads a file of the image.
pub fn content<'a>(overlay: &'a Overlay, attr: &Attr) -> impl Read + 'a {
    Content {
        overlay,
        ino: attr.ino,
        offset: 0,
    }
}

struct Content<'a> {
    overlay: &'a Overlay,
    ino: Ino,
    offset: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self
            .overlay
            .read(self.ino, self.offset, buffer)
            .map_err(io::Error::other)?;
        self.offset += n as u64;
        Ok(n)
    }
}
