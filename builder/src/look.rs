//! Looking into an image: how its trees differ, which layer gave each path, and what is stored in vain.
//!
//! All of it is answered from the indexes of the layers: nothing is mounted, unpacked or read but the contents that are
//! asked for. A [`Stack`] is an image's layers; a [`View`] of it is the tree after one of them, so that the states that a
//! build went through can be compared like images.

use std::io::{self, Read};
use std::sync::Arc;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::index::EntryId;
use mica_fs::layer::{Device, Kind, Layer, Metadata};
use mica_fs::overlay::{Found, Lowers, Origin};
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, StoreError};

pub mod blame;
pub mod changes;
pub mod instruction;
pub mod log;
pub mod patch;
pub mod place;
#[cfg(test)]
pub(crate) mod tests;
pub mod waste;

/// The layers of an image.
pub struct Stack {
    lowers: Lowers,
}

impl Stack {
    /// The stack of these layers, bottom layer first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self {
            lowers: Lowers::new(layers),
        }
    }

    /// The stack of these layers of the store.
    ///
    /// # Errors
    /// [`StoreError`] if a layer is missing or damaged.
    pub fn open(store: &Store, layers: &[DiffId]) -> Result<Self, StoreError> {
        Ok(Self::new(store.layers(layers)?))
    }

    /// The layers, bottom layer first.
    pub fn layers(&self) -> &[Arc<Layer>] {
        self.lowers.layers()
    }

    /// The tree of the lowest `height` layers: 0 is the empty one. More than there are is all of them.
    pub fn view(&self, height: usize) -> View<'_> {
        View {
            lowers: &self.lowers,
            height: height.min(self.layers().len()),
        }
    }

    /// The tree of all layers.
    pub fn top(&self) -> View<'_> {
        self.view(self.layers().len())
    }

    /// Reads a file of one of the views.
    pub fn content(&self, file: &Node) -> impl Read {
        Content {
            layer: self.lowers.layer(file.origin).cloned(),
            file: file.origin,
            offset: 0,
        }
    }
}

/// The tree of the lowest layers of a stack.
#[derive(Clone, Copy)]
pub struct View<'a> {
    lowers: &'a Lowers,
    height: usize,
}

impl<'a> View<'a> {
    /// How many layers it is the tree of.
    pub fn height(self) -> usize {
        self.height
    }

    /// What lies at `path`; symbolic links are not followed. The empty view has a root, too.
    pub fn find(self, path: &ImagePath) -> Option<Node> {
        match self.found(path) {
            Some(found) => Some(node(self.lowers, &found)),
            None => path.is_root().then(|| Node {
                metadata: Metadata {
                    mode: 0o755,
                    ..Metadata::default()
                },
                ..Node::of(Kind::Directory, NOWHERE)
            }),
        }
    }

    /// What is in the directory at `path`, sorted by name; nothing if it is none.
    pub fn children(self, path: &ImagePath) -> Vec<(&'a [u8], Node)> {
        let found = self.found(path).into_iter();
        found
            .flat_map(|directory| entries(self.lowers, &directory))
            .map(|(name, found)| (name, node(self.lowers, &found)))
            .collect()
    }

    fn found(self, path: &ImagePath) -> Option<Found> {
        self.lowers.resolve_in(self.height, path)
    }
}

/// The origin of the root of a view without layers.
const NOWHERE: Origin = Origin {
    layer: 0,
    entry: EntryId::ROOT,
};

/// The names in a directory and what they stand for.
fn entries<'a>(lowers: &'a Lowers, directory: &Found) -> Vec<(&'a [u8], Found)> {
    let contributors = &directory.contributors;
    let names = lowers.names(contributors).into_iter();
    names
        .filter_map(|name| Some((name, lowers.find(contributors, name)?)))
        .collect()
}

/// All that an image says about a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The type.
    pub kind: Kind,
    /// Mode, owner, time and attributes.
    pub metadata: Metadata,
    /// Size of a file in bytes; else 0.
    pub size: u64,
    /// The digest of a file's content.
    pub digest: Option<Digest>,
    /// The target of a symbolic link; else empty.
    pub target: Vec<u8>,
    /// The number of a device.
    pub device: Device,
    /// Which layer says so, the bottom one is 0, and where in its index. Of a directory that which describes it.
    pub origin: Origin,
}

impl Node {
    fn of(kind: Kind, origin: Origin) -> Self {
        Self {
            kind,
            metadata: Metadata::default(),
            size: 0,
            digest: None,
            target: Vec::new(),
            device: Device::default(),
            origin,
        }
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

/// Describes what was found.
fn node(lowers: &Lowers, found: &Found) -> Node {
    let described = |origin: &&Origin| lowers.entry(**origin).is_some_and(|entry| !entry.is_implicit());
    let origin = *found.contributors.iter().find(described).unwrap_or(&found.origin);
    let Some(entry) = lowers.entry(origin) else {
        return Node::of(found.kind, origin);
    };
    Node {
        metadata: lowers.metadata(found),
        size: entry.size(),
        digest: entry.digest(),
        target: entry.target().to_vec(),
        device: entry.device(),
        ..Node::of(found.kind, origin)
    }
}

struct Content {
    layer: Option<Arc<Layer>>,
    file: Origin,
    offset: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let layer = self.layer.as_ref().ok_or(io::ErrorKind::InvalidData)?;
        let n = layer.read_at(self.file.entry, buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}
