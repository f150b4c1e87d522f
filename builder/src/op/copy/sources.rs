//! What a COPY names: its sources found in a tree, and the digest of what they hold.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mica_fs::digest::Digest;
use mica_fs::layer::Kind;
use mica_fs::path::ImagePath;

use super::{CopyError, clean, parents};
use crate::glob;
use crate::ignore::Ignore;
use crate::ledger::sources::Listed;
use crate::tree::{self, Node, Tree, TreeError};

/// One source that was named: what it was in the tree, found and ready to be copied.
#[derive(Debug)]
pub struct Selected {
    /// Path in the tree, free of symbolic links.
    pub(super) path: ImagePath,
    /// The name that the copy gets in a directory: the last component as written, before links were followed.
    pub(super) name: Vec<u8>,
    pub(super) node: Node,
    /// For `--parents`: where the copy keeps its path from.
    pub(super) pivot: Option<Pivot>,
}

impl Selected {
    /// Its path in the tree, free of symbolic links.
    pub fn path(&self) -> &ImagePath {
        &self.path
    }

    /// Its type.
    pub fn kind(&self) -> Kind {
        self.node.kind
    }

    /// Its path as `--exclude` patterns see it, in front of the paths in it.
    pub(super) fn relative(&self) -> ImagePath {
        self.pivot
            .as_ref()
            .map(|pivot| pivot.relative.clone())
            .unwrap_or_default()
    }
}

/// What of a source's path its copy does not keep, and what it keeps.
#[derive(Debug)]
pub(super) struct Pivot {
    pub(super) base: ImagePath,
    pub(super) relative: ImagePath,
}

/// An entry of a directory that is copied.
pub(super) struct Child {
    pub(super) name: Vec<u8>,
    pub(super) path: ImagePath,
    pub(super) relative: ImagePath,
    pub(super) node: Node,
}

/// The sources of one COPY or ADD: patterns, looked up in a tree.
pub struct Sources<'a> {
    pub(super) tree: &'a dyn Tree,
    exclude: &'a Ignore,
    selected: Vec<Selected>,
    /// Whether the destination is made even if nothing is copied: a directory is copied with `--parents`, whatever in
    /// it matches.
    pub(super) destination_needed: bool,
}

impl<'a> Sources<'a> {
    /// Finds what `patterns` name in `tree`. A pattern with wildcards stands for any number of paths, also for
    /// none. `place` names the tree in errors.
    ///
    /// # Errors
    /// [`CopyError::Missing`] for a source that is not there, [`CopyError::Pattern`] for a malformed one.
    pub fn find(
        tree: &'a dyn Tree,
        patterns: &[String],
        exclude: &'a Ignore,
        place: &str,
    ) -> Result<Self, CopyError> {
        let mut selected = Vec::new();
        for pattern in patterns {
            let before = selected.len();
            if glob::is_pattern(pattern.as_bytes()) {
                for path in expand(tree, pattern)? {
                    selected.extend(select(tree, &path)?);
                }
            } else {
                selected.extend(select(tree, &clean(pattern)?)?);
            }
            if selected.len() == before && !glob::has_wildcard(pattern.as_bytes()) {
                return Err(CopyError::Missing {
                    path: pattern.clone(),
                    place: place.to_owned(),
                });
            }
        }
        Ok(Self {
            tree,
            exclude,
            selected,
            destination_needed: false,
        })
    }

    /// The same for `--parents`: a copy keeps the path of its source, or what follows the first `/./` in it; what is
    /// before that may have wildcards as well. `**` is any number of directories. Symbolic links in the part that is
    /// kept are not followed.
    ///
    /// # Errors
    /// Those of [`Self::find`].
    pub fn with_parents(
        tree: &'a dyn Tree,
        patterns: &[String],
        exclude: &'a Ignore,
        place: &str,
    ) -> Result<Self, CopyError> {
        let mut sources = Self {
            tree,
            exclude,
            selected: Vec::new(),
            destination_needed: false,
        };
        for pattern in patterns {
            let (base, kept) = pattern.split_once("/./").unwrap_or(("", pattern));
            let bases = match glob::is_pattern(base.as_bytes()) {
                true => expand(tree, base)?,
                false => vec![clean(base)?],
            };
            let before = sources.selected.len();
            for base in bases {
                sources.select_below(&tree::resolve(tree, &base)?, kept)?;
            }
            if sources.selected.len() == before && !glob::has_wildcard(pattern.as_bytes()) {
                return Err(CopyError::Missing {
                    path: pattern.clone(),
                    place: place.to_owned(),
                });
            }
        }
        Ok(sources)
    }

    /// Adds what matches `kept` below the directory `base`.
    fn select_below(&mut self, base: &ImagePath, kept: &str) -> Result<(), CopyError> {
        self.destination_needed |= self.tree.node(base)?.is_some();
        for (relative, node) in parents::expand(self.tree, base, kept)? {
            let excluded = !relative.is_root() && self.exclude.matches(relative.as_bytes());
            if excluded && node.kind != Kind::Directory {
                continue;
            }
            self.selected.push(Selected {
                path: parents::under(base, &relative),
                name: relative.name().unwrap_or_default().to_vec(),
                node,
                pivot: Some(Pivot {
                    base: base.clone(),
                    relative,
                }),
            });
        }
        Ok(())
    }

    /// The one source `path`, which is no pattern.
    ///
    /// # Errors
    /// [`CopyError::Missing`] if it is not there.
    pub fn one(tree: &'a dyn Tree, path: &str, exclude: &'a Ignore, place: &str) -> Result<Self, CopyError> {
        let found = select(tree, &clean(path)?)?;
        let missing = || CopyError::Missing {
            path: path.to_owned(),
            place: place.to_owned(),
        };
        Ok(Self {
            tree,
            exclude,
            selected: vec![found.ok_or_else(missing)?],
            destination_needed: false,
        })
    }

    /// What was found, in the order of the patterns.
    pub fn selected(&self) -> &[Selected] {
        &self.selected
    }

    /// A digest of all that the copies take from the tree: names, types, modes, owners, link targets and bytes;
    /// never times.
    ///
    /// # Errors
    /// [`TreeError`] if something cannot be read.
    pub fn digest(&self) -> Result<Digest, TreeError> {
        self.survey().map(|(digest, _)| digest)
    }

    /// The same, and a list of what it is of: to tell later what changed.
    ///
    /// # Errors
    /// As [`Self::digest`].
    pub fn survey(&self) -> Result<(Digest, Vec<(ImagePath, Listed)>), TreeError> {
        let mut summary = Summary::default();
        if self.destination_needed {
            summary.part(b"destination");
        }
        for source in &self.selected {
            if let Some(pivot) = &source.pivot {
                for (relative, node) in parents::above(self.tree, pivot)? {
                    summary.head(relative.as_bytes(), &node);
                    summary.list(parents::under(&pivot.base, &relative), &node);
                }
            }
            let root = (&source.path, &source.relative());
            // Looked at anew: it may have changed since it was found.
            let node = self.tree.node(&source.path)?;
            let node = node.unwrap_or_else(|| source.node.clone());
            self.summarise(root, &source.name, node, &mut summary)?;
        }
        summary.digest(self.tree)
    }

    fn summarise(
        &self,
        (path, relative): (&ImagePath, &ImagePath),
        name: &[u8],
        node: Node,
        summary: &mut Summary,
    ) -> Result<(), TreeError> {
        summary.head(name, &node);
        summary.list(path.clone(), &node);
        match node.kind {
            Kind::File => summary.file(node),
            Kind::Directory => {
                for child in self.children(path, relative)? {
                    self.summarise((&child.path, &child.relative), &child.name, child.node, summary)?;
                }
                summary.bytes.extend_from_slice(&u64::MAX.to_le_bytes());
            }
            _ => {}
        }
        Ok(())
    }

    /// What is in the directory `path` and not excluded. `relative` is its path from the source that was named,
    /// which is what `--exclude` patterns are about.
    pub(super) fn children(&self, path: &ImagePath, relative: &ImagePath) -> Result<Vec<Child>, TreeError> {
        let mut children = Vec::new();
        for (name, node) in self.tree.children(path)? {
            let (path, relative) = (path.join(&name), relative.join(&name));
            let excluded = self.exclude.matches(relative.as_bytes());
            let needed =
                node.kind == Kind::Directory && self.exclude.may_hold_exceptions(relative.as_bytes());
            if !excluded || (needed && !self.children(&path, &relative)?.is_empty()) {
                children.push(Child {
                    name,
                    path,
                    relative,
                    node,
                });
            }
        }
        Ok(children)
    }
}

/// What a digest of sources is made of. The files' own digests come last, since that is when files are read: by several
/// threads.
#[derive(Default)]
struct Summary {
    bytes: Vec<u8>,
    listed: Vec<(ImagePath, Listed)>,
    /// The files: where in `bytes` the digest of each belongs, and where in `listed` it is.
    files: Vec<(usize, usize, Node)>,
}

/// Where in the bytes a file's digest belongs, where in the list, and the digest.
type Hashed = (usize, usize, Digest);

/// A thread takes so many files at a time.
const BATCH: usize = 32;

impl Summary {
    /// A node without what it holds.
    fn head(&mut self, name: &[u8], node: &Node) {
        let meta = &node.metadata;
        for part in [name, node.target.as_slice()] {
            self.part(part);
        }
        let numbers = [
            node.kind.file_type_bits() | meta.mode,
            meta.uid,
            meta.gid,
            node.device.major,
            node.device.minor,
            u32::try_from(meta.xattrs.len()).unwrap_or(u32::MAX),
        ];
        for number in numbers {
            self.bytes.extend_from_slice(&number.to_le_bytes());
        }
        for part in meta.xattrs.iter().flat_map(|(name, value)| [name, value]) {
            self.part(part);
        }
    }

    fn part(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.bytes.extend_from_slice(part);
    }

    /// Lists a node without the content of a file.
    fn list(&mut self, path: ImagePath, node: &Node) {
        let meta = &node.metadata;
        let listed = Listed {
            mode: node.kind.file_type_bits() | meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            content: listed_content(node),
        };
        self.listed.push((path, listed));
    }

    /// The content of the file that was listed last.
    fn file(&mut self, node: Node) {
        self.files.push((self.bytes.len(), self.listed.len() - 1, node));
        self.bytes.extend_from_slice(&[0; 32]);
    }

    fn digest(self, tree: &dyn Tree) -> Result<(Digest, Vec<(ImagePath, Listed)>), TreeError> {
        let Self {
            mut bytes,
            files,
            mut listed,
        } = self;
        let next = AtomicUsize::new(0);
        let read = || {
            let mut digests = Vec::new();
            loop {
                let from = next.fetch_add(BATCH, Ordering::Relaxed);
                let Some(batch) = files.get(from..) else {
                    return Ok(digests);
                };
                for (at, number, node) in batch.iter().take(BATCH) {
                    digests.push((*at, *number, tree.digest(&listed[*number].0, node)?));
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(files.len().div_ceil(BATCH));
        let results: Vec<Result<Vec<Hashed>, TreeError>> = thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(read)).collect();
            let own = read();
            let joined = others.into_iter().map(|other| {
                other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            std::iter::once(own).chain(joined).collect()
        });
        for result in results {
            for (at, number, digest) in result? {
                bytes[at..at + 32].copy_from_slice(digest.as_bytes());
                listed[number].1.content ^= beginning(&digest);
            }
        }
        Ok((Digest::of(&bytes), listed))
    }
}

/// What a list says of the content of a node, but for the bytes of a file.
fn listed_content(node: &Node) -> u64 {
    let mut bytes = node.target.clone();
    if node.kind == Kind::CharDevice || node.kind == Kind::BlockDevice {
        bytes.extend(
            [node.device.major, node.device.minor]
                .map(u32::to_le_bytes)
                .concat(),
        );
    }
    for (name, value) in &node.metadata.xattrs {
        bytes.extend([name.as_slice(), value].concat());
    }
    match bytes.is_empty() {
        true => 0,
        false => beginning(&Digest::of(&bytes)),
    }
}

fn beginning(digest: &Digest) -> u64 {
    digest
        .as_bytes()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// The node that a source path leads to, with links followed: a source that is a link is copied as what it
/// leads to.
fn select(tree: &dyn Tree, path: &ImagePath) -> Result<Option<Selected>, TreeError> {
    let real = tree::resolve(tree, path)?;
    Ok(tree.node(&real)?.map(|node| Selected {
        name: path.name().unwrap_or_default().to_vec(),
        path: real,
        node,
        pivot: None,
    }))
}

/// The paths that match a pattern, sorted; component by component, so that only directories that can match are
/// listed.
fn expand(tree: &dyn Tree, pattern: &str) -> Result<Vec<ImagePath>, CopyError> {
    let malformed = || CopyError::Pattern {
        pattern: pattern.to_owned(),
    };
    let components = pattern.split('/').filter(|c| !c.is_empty() && *c != ".");
    let mut found = vec![ImagePath::root()];
    for component in components {
        let mut next = Vec::new();
        for dir in &found {
            let real = tree::resolve(tree, dir)?;
            if tree.node(&real)?.is_none_or(|node| node.kind != Kind::Directory) {
                continue;
            }
            for name in tree.names(&real)? {
                if glob::matches(component.as_bytes(), &name).map_err(|_| malformed())?
                    && tree.node(&real.join(&name))?.is_some()
                {
                    next.push(dir.join(&name));
                }
            }
        }
        found = next;
    }
    found.sort();
    Ok(found)
}
