//! Putting the sources of a COPY into an overlay: directories merge, files replace, links in the destination are
//! followed inside the image.

use std::collections::HashMap;

use mica_fs::digest::Digest;
use mica_fs::layer::{Kind, Metadata};
use mica_fs::overlay::{self, Attr, Changes, Follow, Ino, Overlay, Owner, Source};
use mica_fs::path::ImagePath;

use super::sources::{Pivot, Selected, Sources};
use super::times::Kept;
use super::{Archives, CopyError, Placement, clean, parents, write};
use crate::context::DIRECTORY_MTIME;
use crate::dockerfile::Chmod;
use crate::op::archive;
use crate::tree::{self, Content, Node, Tree, TreeError};

impl Sources<'_> {
    /// Copies everything into `overlay`.
    ///
    /// # Errors
    /// [`CopyError`]; the overlay is then half-written and must be thrown away.
    pub fn place(&self, overlay: &Overlay, placement: &Placement) -> Result<(), CopyError> {
        let mut copier = Copier::new(overlay, placement);
        if self.destination_needed {
            copier.parents(&copier.destination()?.join(b"x"))?;
        }
        for source in self.selected() {
            copier.link_groups.clear();
            if let Some(pivot) = &source.pivot {
                copier.with_parents(self, source, pivot)?;
                continue;
            }
            match source.node.kind {
                Kind::Directory => {
                    // What is in it is copied, not the directory itself.
                    let to = copier.destination()?;
                    copier.parents(&to.join(b"x"))?;
                    let from = (&source.path, &ImagePath::root());
                    copier.directory(self, from, &source.node, &to, Existing::Keep)?;
                }
                _ => {
                    if placement.archives == Archives::Unpack && copier.unpack(self.tree, source)? {
                        continue;
                    }
                    let to = copier.file_destination(&source.name)?;
                    copier.leaf(self, &source.path, &source.node, &to)?;
                }
            }
        }
        Ok(())
    }
}

impl Sources<'_> {
    /// Copies the sources, which are one, to `destination`: unlike COPY a directory as well, with its owner and mode.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub fn place_whole(&self, overlay: &Overlay, destination: &ImagePath) -> Result<(), CopyError> {
        let placement = Placement {
            destination: destination.clone(),
            into_directory: false,
            owner: None,
            chmod: None,
            archives: Archives::Keep,
            earlier: None,
        };
        let mut copier = Copier::new(overlay, &placement);
        for source in self.selected() {
            let from = (&source.path, &ImagePath::root());
            match source.node.kind {
                Kind::Directory => {
                    copier.directory(self, from, &source.node, destination, Existing::Update)?;
                }
                _ => copier.leaf(self, &source.path, &source.node, destination)?,
            }
        }
        Ok(())
    }
}

/// Whether a directory that is already there takes over the source's metadata.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Update,
}

struct Copier<'a> {
    overlay: &'a Overlay,
    placement: &'a Placement,
    /// The first copy of each file with several hard links.
    link_groups: HashMap<u64, Ino>,
}

impl<'a> Copier<'a> {
    fn new(overlay: &'a Overlay, placement: &'a Placement) -> Self {
        Self {
            overlay,
            placement,
            link_groups: HashMap::new(),
        }
    }

    /// The destination with its symbolic links followed inside the image.
    fn destination(&self) -> Result<ImagePath, CopyError> {
        Ok(resolve_in(self.overlay, &self.placement.destination)?)
    }

    /// Where a file goes: into the destination if that is a directory, else to that very path.
    fn file_destination(&self, name: &[u8]) -> Result<ImagePath, CopyError> {
        let to = self.destination()?;
        let is_directory = matches!(self.lookup(&to)?, Some(attr) if attr.kind == Kind::Directory);
        Ok(match self.placement.into_directory || is_directory {
            true => to.join(name),
            false => to,
        })
    }

    fn unpack(&self, tree: &dyn Tree, source: &Selected) -> Result<bool, CopyError> {
        if source.node.kind != Kind::File {
            return Ok(false);
        }
        let Some(archive) = archive::open(&tree.content(&source.path, &source.node)?)? else {
            return Ok(false);
        };
        let to = self.destination()?;
        self.parents(&to.join(b"x"))?;
        archive::unpack(archive, self.overlay, &to, self.placement.owner)?;
        Ok(true)
    }

    fn directory(
        &mut self,
        sources: &Sources<'_>,
        (from, relative): (&ImagePath, &ImagePath),
        node: &Node,
        to: &ImagePath,
        existing: Existing,
    ) -> Result<(), CopyError> {
        let dir = match self.lookup(to)? {
            Some(attr) if attr.kind == Kind::Directory => {
                if existing == Existing::Update {
                    self.update(attr.ino, node, to)?;
                }
                attr.ino
            }
            Some(_) => {
                return Err(CopyError::Refused {
                    from: from.clone(),
                    to: to.clone(),
                    reason: "a directory cannot replace something that is not a directory",
                });
            }
            None => {
                self.parents(to)?;
                self.put(to, node, Source::Directory)?
            }
        };
        for child in sources.children(from, relative)? {
            let to = to.join(&child.name);
            let from = (&child.path, &child.relative);
            match child.node.kind {
                Kind::Directory => self.directory(sources, from, &child.node, &to, Existing::Update)?,
                _ => self.leaf_in(sources, &child.path, &child.node, dir, &to)?,
            }
        }
        Ok(())
    }

    /// Copies a source below the destination, with the directories of its path.
    fn with_parents(
        &mut self,
        sources: &Sources<'_>,
        source: &Selected,
        pivot: &Pivot,
    ) -> Result<(), CopyError> {
        let top = self.destination()?;
        self.parents(&top.join(b"x"))?;
        for (relative, node) in parents::above(sources.tree, pivot)? {
            let to = parents::under(&top, &relative);
            match self.lookup(&to)? {
                Some(attr) => self.change(
                    attr.ino,
                    &to,
                    &Changes {
                        mode: Some(node.metadata.mode),
                        ..Changes::default()
                    },
                )?,
                None => drop(self.put(&to, &node, Source::Directory)?),
            }
        }
        let to = parents::under(&top, &pivot.relative);
        match source.node.kind {
            Kind::Directory => {
                let from = (&source.path, &pivot.relative);
                let existing = match pivot.relative.is_root() {
                    true => Existing::Keep,
                    false => Existing::Update,
                };
                self.directory(sources, from, &source.node, &to, existing)
            }
            _ => self.leaf(sources, &source.path, &source.node, &to),
        }
    }

    /// Copies anything but a directory.
    fn leaf(
        &mut self,
        sources: &Sources<'_>,
        from: &ImagePath,
        node: &Node,
        to: &ImagePath,
    ) -> Result<(), CopyError> {
        self.parents(to)?;
        let (dir, _) = self.place_of(to)?;
        self.leaf_in(sources, from, node, dir, to)
    }

    /// The same if `dir` is the directory that holds `to`.
    fn leaf_in(
        &mut self,
        sources: &Sources<'_>,
        from: &ImagePath,
        node: &Node,
        dir: Ino,
        to: &ImagePath,
    ) -> Result<(), CopyError> {
        let name = to.name().unwrap_or_default();
        self.clear_in(from, dir, to)?;
        let group = node.link_group.filter(|_| node.kind != Kind::Symlink);
        if let Some(first) = group.and_then(|g| self.link_groups.get(&g)) {
            return self.link(*first, dir, name, to);
        }
        let mut metadata = self.metadata(node);
        let kept = self.kept(to, node, &mut metadata, || sources.tree.digest(from, node))?;
        let source = match node.kind {
            // Opening and reading many small files takes longer than copying what the last layer has of them.
            Kind::File => match kept.and_then(|kept| kept.content) {
                Some((layer, entry)) => Source::Layer(layer, entry),
                None => match sources.tree.content(from, node)? {
                    Content::Host(file) => Source::Host(file),
                    Content::Layer(layer, entry) => Source::Layer(layer, entry),
                },
            },
            Kind::Symlink => Source::Symlink(&node.target),
            Kind::CharDevice => Source::CharDevice(node.device),
            Kind::BlockDevice => Source::BlockDevice(node.device),
            Kind::Fifo => Source::Fifo,
            // A socket is of no use in an image, and a tar cannot hold it.
            Kind::Socket | Kind::Directory => return Ok(()),
        };
        let ino = self.put_in(dir, to, &metadata, source)?;
        if let Some(group) = group {
            self.link_groups.insert(group, ino);
        }
        Ok(())
    }

    /// Makes room at `to` for something that is no directory.
    fn clear(&self, from: &ImagePath, to: &ImagePath) -> Result<(), CopyError> {
        self.parents(to)?;
        let (dir, _) = self.place_of(to)?;
        self.clear_in(from, dir, to)
    }

    fn clear_in(&self, from: &ImagePath, dir: Ino, to: &ImagePath) -> Result<(), CopyError> {
        let name = to.name().unwrap_or_default();
        match self.overlay.child(dir, name).map_err(|e| write(to, e))? {
            None => Ok(()),
            Some(attr) if attr.kind == Kind::Directory => Err(CopyError::Refused {
                from: from.clone(),
                to: to.clone(),
                reason: "there is a directory of that name",
            }),
            Some(_) => self.untimed(dir, to, || self.overlay.unlink(dir, name)),
        }
    }

    /// Makes the directories above `to`. As in Docker they have the owner of `--chown` and the permissions of
    /// `--chmod`, if that is a number.
    fn parents(&self, to: &ImagePath) -> Result<(), CopyError> {
        let mut at = ImagePath::root();
        let parent = to.parent().unwrap_or_default();
        for name in parent.components() {
            at = at.join(name);
            match self.lookup(&at)? {
                Some(attr) if attr.kind == Kind::Directory => {}
                Some(_) => {
                    return Err(CopyError::Refused {
                        from: to.clone(),
                        to: at,
                        reason: "it is not a directory",
                    });
                }
                None => {
                    let mode = match self.placement.chmod {
                        Some(Chmod::Mode(mode)) => mode & 0o777,
                        Some(Chmod::Symbolic(_)) | None => 0o755,
                    };
                    let metadata = Metadata {
                        mode,
                        uid: self.placement.owner.map_or(0, |o| o.uid),
                        gid: self.placement.owner.map_or(0, |o| o.gid),
                        mtime: DIRECTORY_MTIME,
                        ..Default::default()
                    };
                    let (dir, name) = self.place_of(&at)?;
                    self.overlay
                        .place(dir, &name, &metadata, Source::Directory)
                        .map_err(|e| write(&at, e))?;
                }
            }
        }
        Ok(())
    }

    /// Puts something that is no file of a tree.
    fn put(&self, to: &ImagePath, node: &Node, source: Source<'_>) -> Result<Ino, CopyError> {
        let (dir, _) = self.place_of(to)?;
        let mut metadata = self.metadata(node);
        if node.kind == Kind::Directory {
            self.kept(to, node, &mut metadata, || Ok(Digest::of(b"")))?;
        }
        self.put_in(dir, to, &metadata, source)
    }

    fn put_in(
        &self,
        dir: Ino,
        to: &ImagePath,
        metadata: &Metadata,
        source: Source<'_>,
    ) -> Result<Ino, CopyError> {
        let name = to.name().unwrap_or_default();
        let placed = self.overlay.place(dir, name, metadata, source);
        placed.map(|attr| attr.ino).map_err(|e| write(to, e))
    }

    fn link(&self, ino: Ino, dir: Ino, name: &[u8], to: &ImagePath) -> Result<(), CopyError> {
        self.untimed(dir, to, || self.overlay.link(ino, dir, name).map(|_| ()))
    }

    /// Gives a directory that was there the metadata of the one that is copied over it.
    fn update(&self, ino: Ino, node: &Node, to: &ImagePath) -> Result<(), CopyError> {
        let metadata = self.metadata(node);
        let changes = Changes {
            mode: Some(metadata.mode),
            uid: Some(metadata.uid),
            gid: Some(metadata.gid),
            mtime: Some(metadata.mtime),
            ..Changes::default()
        };
        self.change(ino, to, &changes)
    }

    fn change(&self, ino: Ino, path: &ImagePath, changes: &Changes) -> Result<(), CopyError> {
        let changed = self.overlay.set_attr(ino, changes);
        changed.map(|_| ()).map_err(|e| write(path, e))
    }

    /// What a copy keeps of the one before it. Its metadata gets the time.
    fn kept(
        &self,
        to: &ImagePath,
        node: &Node,
        metadata: &mut Metadata,
        digest: impl FnOnce() -> Result<Digest, TreeError>,
    ) -> Result<Option<Kept>, CopyError> {
        let Some(earlier) = &self.placement.earlier else {
            return Ok(None);
        };
        let kept = earlier.kept(to, metadata, node, digest)?;
        if let Some(kept) = &kept {
            metadata.mtime = kept.time;
        }
        Ok(kept)
    }

    fn metadata(&self, node: &Node) -> Metadata {
        let mut metadata = node.metadata.clone();
        if let Some(owner) = self.placement.owner {
            metadata.uid = owner.uid;
            metadata.gid = owner.gid;
        }
        if let Some(chmod) = &self.placement.chmod
            && node.kind != Kind::Symlink
        {
            metadata.mode = chmod.apply(metadata.mode, node.kind == Kind::Directory);
        }
        metadata
    }

    fn untimed(
        &self,
        dir: Ino,
        path: &ImagePath,
        change: impl FnOnce() -> Result<(), overlay::Error>,
    ) -> Result<(), CopyError> {
        crate::op::untimed(self.overlay, dir, change).map_err(|e| write(path, e))
    }

    fn place_of(&self, path: &ImagePath) -> Result<(Ino, Vec<u8>), CopyError> {
        crate::op::place_of(self.overlay, path).map_err(|e| write(path, e))
    }

    fn lookup(&self, path: &ImagePath) -> Result<Option<Attr>, CopyError> {
        crate::op::lookup(self.overlay, path).map_err(|e| write(path, e))
    }
}

/// Follows the symbolic links of an image's path inside the image; what is not there keeps its name.
///
/// # Errors
/// [`TreeError`] for a circle of links.
pub fn resolve_in(overlay: &Overlay, path: &ImagePath) -> Result<ImagePath, TreeError> {
    tree::follow_links(path, |at| match overlay.resolve(at, Follow::No) {
        Ok(attr) if attr.kind == Kind::Symlink => {
            let target = overlay.read_link(attr.ino);
            target.map(Some).map_err(|source| TreeError::Image {
                path: at.clone(),
                source,
            })
        }
        _ => Ok(None),
    })
}

/// Makes the directory `path` and those above it, as WORKDIR does: mode 0755. A directory that the path leaves
/// again by `..` is made too, as Docker has it.
///
/// # Errors
/// [`CopyError`] if something other than a directory is in the way.
pub fn make_directory(overlay: &Overlay, path: &str, owner: Owner) -> Result<(), CopyError> {
    let placement = Placement {
        destination: ImagePath::root(),
        into_directory: true,
        owner: Some(owner),
        chmod: None,
        archives: Archives::Keep,
        earlier: None,
    };
    let copier = Copier::new(overlay, &placement);
    for (end, _) in path
        .match_indices('/')
        .filter(|(at, _)| *at > 0)
        .chain([(path.len(), "")])
    {
        let real = resolve_in(overlay, &clean(&path[..end])?)?;
        copier.parents(&real.join(b"x"))?;
    }
    Ok(())
}

/// Writes one file of given content, as a heredoc of COPY does.
///
/// # Errors
/// [`CopyError`] if something is in the way.
pub fn place_bytes(
    overlay: &Overlay,
    placement: &Placement,
    name: &[u8],
    content: Vec<u8>,
) -> Result<(), CopyError> {
    let copier = Copier::new(overlay, placement);
    let to = copier.file_destination(name)?;
    copier.clear(&to, &to)?;
    let node = Node {
        kind: Kind::File,
        metadata: Metadata {
            mode: 0o644,
            mtime: DIRECTORY_MTIME,
            ..Default::default()
        },
        size: content.len() as u64,
        target: Vec::new(),
        device: Default::default(),
        link_group: None,
        stamp: None,
    };
    copier.put(&to, &node, Source::Bytes(content)).map(|_| ())
}
