//! Trees of files that COPY and ADD take from: the build context on the host, and the merged root of an image
//! or of another stage.

use std::sync::Arc;

use mica_fs::digest::Digest;
use mica_fs::layer::index::EntryId;
use mica_fs::layer::{Device, Kind, Layer, Metadata};
use mica_fs::overlay::{self, Follow, HostFile, Ino, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::stamp::Stamp;

/// A node of a tree, as lstat(2) would tell it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its type.
    pub kind: Kind,
    /// Owner, mode, times and extended attributes, as the copy shall have them unless flags say otherwise.
    pub metadata: Metadata,
    /// Size of a file's content in bytes.
    pub size: u64,
    /// Target of a symbolic link.
    pub target: Vec<u8>,
    /// Number of a device node.
    pub device: Device,
    /// The same for all names of one file with several hard links; `None` for a file with one name.
    pub link_group: Option<u64>,
    /// Of a file of the host: what tells its state from later ones.
    pub stamp: Option<Stamp>,
}

/// The bytes of a file.
pub enum Content {
    /// A regular file of the host.
    Host(HostFile),
    /// A file of a layer in the store.
    Layer(Arc<Layer>, EntryId),
}

/// Why a tree cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// A file of the build context.
    #[error("cannot read {path} in the build context")]
    Host {
        /// The file, relative to the context.
        path: ImagePath,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of an image.
    #[error("cannot read {path} in the image")]
    Image {
        /// The file.
        path: ImagePath,
        /// What the overlay said.
        source: overlay::Error,
    },
    /// Symbolic links that lead in a circle.
    #[error("{path}: too many levels of symbolic links")]
    Loop {
        /// Where the resolution began.
        path: ImagePath,
    },
}

/// A read-only tree.
pub trait Tree: Send + Sync {
    /// The node at `path`, which must not lead through symbolic links (see [`resolve`]); `None` if there is
    /// nothing, or if the tree leaves it out.
    ///
    /// # Errors
    /// [`TreeError`] if it cannot be read.
    fn node(&self, path: &ImagePath) -> Result<Option<Node>, TreeError>;

    /// The names in the directory `path`, sorted.
    ///
    /// # Errors
    /// [`TreeError`] if it cannot be read.
    fn names(&self, path: &ImagePath) -> Result<Vec<Vec<u8>>, TreeError>;

    /// The entries of the directory `path`, sorted by name, without those that the tree leaves out.
    ///
    /// # Errors
    /// [`TreeError`] if one cannot be read.
    fn children(&self, path: &ImagePath) -> Result<Vec<(Vec<u8>, Node)>, TreeError> {
        let mut children = Vec::new();
        for name in self.names(path)? {
            if let Some(node) = self.node(&path.join(&name))? {
                children.push((name, node));
            }
        }
        Ok(children)
    }

    /// The content of the file `path`, which is `node`.
    ///
    /// # Errors
    /// [`TreeError`] if it cannot be opened.
    fn content(&self, path: &ImagePath, node: &Node) -> Result<Content, TreeError>;

    /// The digest of the content of the file `path`, which is `node`.
    ///
    /// # Errors
    /// [`TreeError`] if it cannot be read.
    fn digest(&self, path: &ImagePath, node: &Node) -> Result<Digest, TreeError>;
}

/// Follows the symbolic links in `path` without ever leaving the tree: absolute targets and `..` are taken from
/// the tree's root. What does not exist keeps its name. The result leads through no link.
///
/// # Errors
/// [`TreeError::Loop`] after 40 links, and what [`Tree::node`] reports.
pub fn resolve(tree: &dyn Tree, path: &ImagePath) -> Result<ImagePath, TreeError> {
    follow_links(path, |at| {
        Ok(tree
            .node(at)?
            .filter(|node| node.kind == Kind::Symlink)
            .map(|node| node.target))
    })
}

/// The same for anything that can tell the target of the link at a path.
///
/// # Errors
/// [`TreeError::Loop`], and what `target_of` reports.
pub fn follow_links(
    path: &ImagePath,
    target_of: impl Fn(&ImagePath) -> Result<Option<Vec<u8>>, TreeError>,
) -> Result<ImagePath, TreeError> {
    const MAX_LINKS: usize = 40;
    let mut todo: Vec<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    todo.reverse();
    let mut at = ImagePath::root();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at = at.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = at.join(&name);
        let Some(target) = target_of(&next)? else {
            at = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(TreeError::Loop { path: path.clone() });
        }
        if target.first() == Some(&b'/') {
            at = ImagePath::root();
        }
        todo.extend(target.split(|&b| b == b'/').rev().map(<[u8]>::to_vec));
    }
    Ok(at)
}

/// The merged root of a stack of layers.
pub struct ImageTree {
    overlay: Overlay,
}

impl ImageTree {
    /// The merged root of `layers`, bottom layer first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self {
            overlay: Overlay::read_only(layers),
        }
    }

    fn ino(&self, path: &ImagePath) -> Result<Ino, TreeError> {
        let attr = self.overlay.resolve(path, Follow::No);
        attr.map(|attr| attr.ino).map_err(|source| at(path, source))
    }

    fn origin(&self, path: &ImagePath) -> Result<(Arc<Layer>, EntryId), TreeError> {
        let ino = self.ino(path)?;
        self.overlay
            .origin(ino)
            .ok_or_else(|| at(path, overlay::Error::NotFound))
    }
}

fn at(path: &ImagePath, source: overlay::Error) -> TreeError {
    TreeError::Image {
        path: path.clone(),
        source,
    }
}

impl Tree for ImageTree {
    fn node(&self, path: &ImagePath) -> Result<Option<Node>, TreeError> {
        let attr = match self.overlay.resolve(path, Follow::No) {
            Ok(attr) => attr,
            Err(overlay::Error::NotFound | overlay::Error::NotADirectory) => return Ok(None),
            Err(source) => return Err(at(path, source)),
        };
        let mut xattrs = mica_fs::layer::Xattrs::new();
        for name in self.overlay.xattr_names(attr.ino).map_err(|e| at(path, e))? {
            let value = self.overlay.xattr(attr.ino, &name).map_err(|e| at(path, e))?;
            xattrs.insert(name, value);
        }
        let target = match attr.kind {
            Kind::Symlink => self.overlay.read_link(attr.ino).map_err(|e| at(path, e))?,
            _ => Vec::new(),
        };
        Ok(Some(Node {
            kind: attr.kind,
            metadata: Metadata {
                mode: attr.mode,
                uid: attr.uid,
                gid: attr.gid,
                mtime: attr.mtime,
                xattrs,
            },
            size: attr.size,
            target,
            device: attr.device,
            link_group: (attr.kind != Kind::Directory && attr.nlink > 1).then_some(attr.ino.0),
            stamp: None,
        }))
    }

    fn names(&self, path: &ImagePath) -> Result<Vec<Vec<u8>>, TreeError> {
        let mut names = Vec::new();
        self.overlay
            .read_dir(self.ino(path)?, 0, &mut |entry| {
                if entry.name != b"." && entry.name != b".." {
                    names.push(entry.name.to_vec());
                }
                std::ops::ControlFlow::Continue(())
            })
            .map_err(|e| at(path, e))?;
        names.sort();
        Ok(names)
    }

    fn content(&self, path: &ImagePath, _: &Node) -> Result<Content, TreeError> {
        self.origin(path)
            .map(|(layer, entry)| Content::Layer(layer, entry))
    }

    fn digest(&self, path: &ImagePath, _: &Node) -> Result<Digest, TreeError> {
        let (layer, id) = self.origin(path)?;
        let digest = layer.index().entry(id).and_then(|entry| entry.digest());
        digest.ok_or_else(|| at(path, overlay::Error::NotFound))
    }
}
