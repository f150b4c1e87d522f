//! What a session has changed, as the entries of a layer, in the order of a walk by name.
//!
//! Only what was changed is walked: the overrides. A lower node that was touched but is as it was gives no
//! entry; a directory gives one if its own mode, owner, attributes or set time changed, or if something in it
//! gives one, as in the layers that Docker makes.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::inode::{Body, Content, Dir, Node, Override};
use super::lower::{Found, Lowers, Origin};
use super::tree::Tree;
use super::*;
use crate::layer::Metadata;

mod reader;

pub(crate) use reader::FileReader;

/// One entry of the layer.
pub(crate) struct Change {
    pub path: ImagePath,
    pub what: What,
}

pub(crate) enum What {
    Node(Metadata, NewContent),
    /// Another name of what was given at this path.
    HardLink(ImagePath),
    /// The name is removed from the layers below.
    Whiteout,
    /// The directory, which was given just before, hides what the layers below have in it.
    Opaque,
}

pub(crate) enum NewContent {
    Directory,
    File(FileReader),
    Symlink(Vec<u8>),
    CharDevice(Device),
    BlockDevice(Device),
    Fifo,
}

impl Overlay {
    /// What the session has changed.
    pub(crate) fn changes(&self) -> Result<Vec<Change>> {
        Walk::new(&self.tree()).run()
    }
}

/// A directory as a session sees it.
#[derive(Clone)]
enum View {
    /// A node of the session.
    Node(u64),
    /// One that the session has not touched.
    Lower(Found),
}

/// A directory that is being walked.
struct Frame {
    path: ImagePath,
    view: View,
    /// The lower directory at this path.
    below: Option<Vec<Origin>>,
    /// The lower directory at this path is the one merged here, so only differences count; otherwise all does.
    in_place: bool,
    names: std::vec::IntoIter<Vec<u8>>,
    /// The directory's own entry, as long as nothing has asked for it.
    own_entry: Option<Metadata>,
}

struct Walk<'a> {
    tree: &'a Tree,
    lower: &'a Lowers,
    /// Changed lower files with several lower names: these may be anywhere, so everything is walked.
    wanted: HashSet<u64>,
    /// Where the first name of a file with several was given.
    first: HashMap<u64, ImagePath>,
    /// From the root down to where the walk is: no recursion, since a tree may be deeper than a stack.
    frames: Vec<Frame>,
    changes: Vec<Change>,
}

impl<'a> Walk<'a> {
    fn new(tree: &'a Tree) -> Self {
        let lower = &*tree.lower;
        let wanted = tree.nodes.iter().filter(|(_, node)| {
            let several = |origin| lower.link_count(origin) > 1;
            !node.is_directory() && node.links > 0 && node.origin.is_some_and(several) && differs(lower, node)
        });
        Self {
            tree,
            lower,
            wanted: wanted.map(|(ino, _)| *ino).collect(),
            first: HashMap::new(),
            frames: Vec::new(),
            changes: Vec::new(),
        }
    }

    fn run(mut self) -> Result<Vec<Change>> {
        let root = self.tree.node(Ino::ROOT.0)?;
        let metadata = metadata(self.tree, &root);
        let before = root.found().map(|found| self.lower.metadata(&found));
        let before = before.unwrap_or_else(|| Metadata {
            mode: 0o755,
            ..Metadata::default()
        });
        let changed = describe(&metadata) != describe(&before);
        self.enter(Frame {
            path: ImagePath::root(),
            view: View::Node(Ino::ROOT.0),
            below: Some(self.lower.root()),
            in_place: true,
            names: Vec::new().into_iter(),
            own_entry: changed.then_some(metadata),
        })?;
        if changed {
            self.give_directories();
        }
        while let Some(frame) = self.frames.last_mut() {
            match frame.names.next() {
                Some(name) => self.visit(&name)?,
                None => {
                    self.frames.pop();
                }
            }
        }
        Ok(self.changes)
    }

    fn enter(&mut self, mut frame: Frame) -> Result<()> {
        let all = !frame.in_place || !self.wanted.is_empty();
        frame.names = self.names(&frame.view, all)?.into_iter();
        self.frames.push(frame);
        Ok(())
    }

    fn names(&self, view: &View, all: bool) -> Result<Vec<Vec<u8>>> {
        let (contributors, dir) = match view {
            View::Lower(found) => (&found.contributors, None),
            View::Node(ino) => {
                let dir = self.tree.dir(*ino)?;
                (&dir.contributors, Some(dir))
            }
        };
        let mut names = BTreeSet::new();
        if let Some(dir) = dir {
            names.extend(dir.overrides.keys().map(|name| name.to_vec()));
            let virtuals = dir.virtuals.iter().flat_map(|virtuals| virtuals.keys());
            names.extend(virtuals.map(|name| name.to_vec()));
        }
        if all {
            names.extend(self.lower.names(contributors).into_iter().map(<[u8]>::to_vec));
        }
        Ok(names.into_iter().collect())
    }

    /// One name of the innermost directory.
    fn visit(&mut self, name: &[u8]) -> Result<()> {
        let Some(frame) = self.frames.last() else {
            return Ok(());
        };
        let path = frame.path.join(name);
        let below = frame
            .below
            .as_ref()
            .and_then(|contributors| self.lower.find(contributors, name));
        match self.seen(&frame.view, name)? {
            Some(View::Node(ino)) => self.visit_node(path, name, ino, below),
            Some(View::Lower(found)) => self.visit_lower(path, found, below),
            None => {
                if below.is_some() {
                    self.give(path, What::Whiteout);
                }
                Ok(())
            }
        }
    }

    /// What a name stands for outside of the session; for a virtual name what it hides.
    fn seen(&self, view: &View, name: &[u8]) -> Result<Option<View>> {
        let dir: &Dir = match view {
            View::Lower(found) => return Ok(self.lower.find(&found.contributors, name).map(View::Lower)),
            View::Node(ino) => self.tree.dir(*ino)?,
        };
        let hidden = dir.virtuals.as_ref().and_then(|virtuals| virtuals.get(name));
        let what = match hidden {
            Some(hidden) if !hidden.is_directory => hidden.hidden,
            Some(hidden) => dir.overrides.get(name).copied().or(hidden.hidden),
            None => dir.overrides.get(name).copied(),
        };
        Ok(match what {
            Some(Override::Node(ino)) => Some(View::Node(ino)),
            Some(Override::Whiteout) if hidden.is_none() => None,
            _ => self.lower.find(&dir.contributors, name).map(View::Lower),
        })
    }

    fn visit_node(&mut self, path: ImagePath, name: &[u8], ino: u64, below: Option<Found>) -> Result<()> {
        let node = self.tree.node(ino)?;
        let in_place = self.frames.last().is_some_and(|frame| frame.in_place);
        let metadata = metadata(self.tree, &node);
        match &node.body {
            Body::Socket => {
                if below.is_some() {
                    self.give(path, What::Whiteout);
                }
                Ok(())
            }
            Body::Directory(_) => {
                let merged = node.found().is_some() && node.found() == below;
                let on_demand = match merged {
                    true => !directory_differs(self.lower, &node, &metadata),
                    false => self.is_virtual_directory(name)?,
                };
                let hides = !merged && below.as_ref().is_some_and(|b| b.kind == Kind::Directory);
                self.enter(Frame {
                    path: path.clone(),
                    view: View::Node(ino),
                    below: below.map(|found| found.contributors).filter(|_| merged),
                    in_place: merged,
                    names: Vec::new().into_iter(),
                    own_entry: Some(metadata),
                })?;
                if !on_demand {
                    self.give_directories();
                }
                if hides {
                    self.give(path, What::Opaque);
                }
                Ok(())
            }
            _ => {
                let same = in_place && below.is_some_and(|b| Some(b.origin) == node.origin);
                if same && !differs(self.lower, &node) {
                    return Ok(());
                }
                let several = node.links > 1;
                let content = content(self.lower, &node)?;
                self.give_node(path, ino, several, metadata, content);
                Ok(())
            }
        }
    }

    fn is_virtual_directory(&self, name: &[u8]) -> Result<bool> {
        let Some(Frame {
            view: View::Node(ino),
            ..
        }) = self.frames.last()
        else {
            return Ok(false);
        };
        let virtuals = &self.tree.dir(*ino)?.virtuals;
        Ok(virtuals
            .as_ref()
            .is_some_and(|virtuals| virtuals.contains_key(name)))
    }

    /// Something that the session has not touched at this name.
    fn visit_lower(&mut self, path: ImagePath, found: Found, below: Option<Found>) -> Result<()> {
        let in_place = self.frames.last().is_some_and(|frame| frame.in_place);
        let ino = self.lower.number(found.origin);
        let metadata = self.lower.metadata(&found);
        if found.kind == Kind::Directory {
            if in_place && self.wanted.is_empty() {
                return Ok(());
            }
            self.enter(Frame {
                path,
                view: View::Lower(found),
                below: below.map(|found| found.contributors).filter(|_| in_place),
                in_place,
                names: Vec::new().into_iter(),
                own_entry: Some(metadata),
            })?;
            if !in_place {
                self.give_directories();
            }
            return Ok(());
        }
        // Of a file with several names one may have been changed by another name than this.
        if let Some(node) = self.tree.nodes.get(&ino) {
            if in_place && !self.wanted.contains(&ino) {
                return Ok(());
            }
            let content = content(self.lower, node)?;
            let metadata = self::metadata(self.tree, node);
            self.give_node(path, ino, node.links > 1, metadata, content);
        } else if !in_place {
            let several = self.lower.link_count(found.origin) > 1;
            let content = lower_content(self.lower, &found)?;
            self.give_node(path, ino, several, metadata, content);
        }
        Ok(())
    }

    fn give_node(
        &mut self,
        path: ImagePath,
        ino: u64,
        several: bool,
        metadata: Metadata,
        content: NewContent,
    ) {
        if several {
            if let Some(first) = self.first.get(&ino) {
                let link = What::HardLink(first.clone());
                return self.give(path, link);
            }
            self.first.insert(ino, path.clone());
        }
        self.give(path, What::Node(metadata, content));
    }

    fn give(&mut self, path: ImagePath, what: What) {
        self.give_directories();
        self.changes.push(Change { path, what });
    }

    /// Gives the directories that lead to where the walk is, if they were not given yet.
    fn give_directories(&mut self) {
        for frame in &mut self.frames {
            if let Some(metadata) = frame.own_entry.take() {
                self.changes.push(Change {
                    path: frame.path.clone(),
                    what: What::Node(metadata, NewContent::Directory),
                });
            }
        }
    }
}

/// What of a directory counts as a change whatever lies in it.
fn describe(metadata: &Metadata) -> (u32, u32, u32, &crate::layer::Xattrs) {
    (metadata.mode, metadata.uid, metadata.gid, &metadata.xattrs)
}

fn directory_differs(lower: &Lowers, node: &Node, metadata: &Metadata) -> bool {
    let Some(before) = node.found().map(|found| lower.metadata(&found)) else {
        return true;
    };
    describe(metadata) != describe(&before) || (node.dated && metadata.mtime != before.mtime)
}

/// Whether a node that is no directory differs from the lower node that it was.
fn differs(lower: &Lowers, node: &Node) -> bool {
    if matches!(node.body, Body::File(Content::Own(_))) {
        return true;
    }
    let Some(found) = node.found() else { return true };
    let before = lower.metadata(&found);
    (node.mode, node.uid, node.gid, node.mtime) != (before.mode, before.uid, before.gid, before.mtime)
        || node.xattrs.as_ref().is_some_and(|own| **own != before.xattrs)
}

fn metadata(tree: &Tree, node: &Node) -> Metadata {
    Metadata {
        mode: node.mode,
        uid: node.uid,
        gid: node.gid,
        mtime: node.mtime,
        xattrs: tree.xattrs(node),
    }
}

fn content(lower: &Lowers, node: &Node) -> Result<NewContent> {
    Ok(match &node.body {
        Body::File(Content::Own(data)) => NewContent::File(FileReader::of_data(data)),
        Body::Symlink(target) => NewContent::Symlink(target.to_vec()),
        Body::CharDevice(device) => NewContent::CharDevice(*device),
        Body::BlockDevice(device) => NewContent::BlockDevice(*device),
        Body::File(Content::Lower) | Body::Directory(_) | Body::Fifo | Body::Socket => {
            let found = node.found();
            return match found {
                Some(found) => lower_content(lower, &found),
                None => Ok(NewContent::Fifo),
            };
        }
    })
}

fn lower_content(lower: &Lowers, found: &Found) -> Result<NewContent> {
    let entry = lower.description(found).ok_or(Error::Stale)?;
    Ok(match found.kind {
        Kind::File => NewContent::File(FileReader::of_layer(
            Arc::clone(lower.layer(found.origin).ok_or(Error::Stale)?),
            found.origin.entry,
            entry.size(),
        )),
        Kind::Directory => NewContent::Directory,
        Kind::Symlink => NewContent::Symlink(entry.target().to_vec()),
        Kind::CharDevice => NewContent::CharDevice(entry.device()),
        Kind::BlockDevice => NewContent::BlockDevice(entry.device()),
        Kind::Fifo | Kind::Socket => NewContent::Fifo,
    })
}
