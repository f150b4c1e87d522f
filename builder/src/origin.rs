//! Where COPY and mounts take their files from, opened: the build context, a directory of the command line, or the
//! merged layers of a stage or an image.

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::Kind;
use mica_fs::path::ImagePath;

use crate::context::Context;
use crate::ignore::Ignore;
use crate::op::copy::{CopyError, Sources};
use crate::tree::{ImageTree, Tree};

/// Files that the command line names: the build context, or another by a name.
pub enum BuildContext {
    /// A directory of the host.
    Directory(Box<Context>),
    /// The merged root of layers, bottom first: an archive, a repository.
    Layers(Vec<DiffId>),
}

impl BuildContext {
    /// The directory, if it is one.
    pub fn directory(&self) -> Option<&Context> {
        match self {
            Self::Directory(directory) => Some(directory),
            Self::Layers(_) => None,
        }
    }

    /// What an ignore file leaves out; only a directory has one that counts.
    pub fn ignore(&self) -> Option<&Ignore> {
        self.directory().map(Context::ignore)
    }
}

/// A tree of files with a name for messages.
pub struct Origin<'a> {
    files: Files<'a>,
    place: String,
}

enum Files<'a> {
    Directory(&'a Context),
    Layers(Box<ImageTree>, Vec<DiffId>),
}

impl<'a> Origin<'a> {
    /// A directory of the host; `place` names it in messages.
    pub fn directory(context: &'a Context, place: impl Into<String>) -> Self {
        Self {
            files: Files::Directory(context),
            place: place.into(),
        }
    }

    /// The merged root of `layers`, bottom first, which is `tree`.
    pub fn layers(tree: ImageTree, layers: Vec<DiffId>, place: impl Into<String>) -> Self {
        Self {
            files: Files::Layers(Box::new(tree), layers),
            place: place.into(),
        }
    }

    /// The files.
    pub fn tree(&self) -> &dyn Tree {
        match &self.files {
            Files::Directory(context) => *context,
            Files::Layers(tree, _) => &**tree,
        }
    }

    /// What to call it: `the build context`.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The layers that it is made of; `None` for a directory of the host.
    pub fn as_layers(&self) -> Option<&[DiffId]> {
        match &self.files {
            Files::Directory(_) => None,
            Files::Layers(_, layers) => Some(layers),
        }
    }
}

/// One file or directory of an [`Origin`], found.
pub struct Part<'a> {
    origin: Origin<'a>,
    wanted: String,
    path: ImagePath,
    kind: Kind,
    digest: Digest,
}

impl<'a> Part<'a> {
    /// Finds `wanted`, with symbolic links followed inside the origin, and reads what it holds for its digest.
    ///
    /// # Errors
    /// [`CopyError::Missing`] if it is not there, [`CopyError::Tree`] if it cannot be read.
    pub fn find(origin: Origin<'a>, wanted: &str) -> Result<Self, CopyError> {
        let exclude = Ignore::default();
        let sources = Sources::one(origin.tree(), wanted, &exclude, origin.place())?;
        let digest = sources.digest()?;
        let found = sources
            .selected()
            .first()
            .map(|one| (one.path().clone(), one.kind()));
        // `Sources::one` gives one or an error.
        let (path, kind) = found.unwrap_or((ImagePath::root(), Kind::Directory));
        Ok(Self {
            origin,
            wanted: wanted.to_owned(),
            path,
            kind,
            digest,
        })
    }

    /// The origin that it is of.
    pub fn origin(&self) -> &Origin<'a> {
        &self.origin
    }

    /// Its path as it was asked for.
    pub fn wanted(&self) -> &str {
        &self.wanted
    }

    /// Its path in the origin, free of symbolic links.
    pub fn path(&self) -> &ImagePath {
        &self.path
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The digest of all that it holds.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}
