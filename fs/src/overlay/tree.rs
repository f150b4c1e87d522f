//! The nodes that a session has touched, and how they come and go.
//!
//! Memory follows what is touched: a lower directory gets a [`Node`] when it is first looked up, other lower nodes
//! when they are about to change (until then they are `plain`). It loses it when the kernel forgets it, unless it is
//! *pinned*: new, changed, or on the way to something changed. A pinned node stands in the overrides of its parent,
//! whose whole chain up to the root is pinned as well; so what a session changed is found by following overrides
//! alone.

use std::collections::HashMap;
use std::sync::Arc;

use super::data::{Content as Bytes, FileData};
use super::flat::FlatFiles;
use super::inode::{Body, Content, Dir, Node, Override};
use super::lower::{Found, Lowers, NamePlace, Origin};
use super::plain::Plains;
use super::trace::Trace;
use super::upper::Unsaved;
use super::{Error, Ino};
use crate::layer::{Kind, Timestamp, Xattrs};

/// What a name stands for, before a node is made of it.
pub(super) enum Peek {
    Node(u64),
    /// The second says where the name stands.
    Lower(Found, NamePlace),
}

/// Names, metadata and the way to the data of everything touched.
pub(super) struct Tree {
    pub lower: Arc<Lowers>,
    /// Where changed data goes; `None` makes the tree read-only.
    pub files: Option<Arc<FlatFiles>>,
    /// Boxed, so that the table stays small while it grows.
    pub nodes: HashMap<u64, Box<Node>>,
    /// Unchanged lower nodes that are no directories.
    pub plains: Plains,
    /// The next new inode number.
    pub next: u64,
    pub trace: Option<Trace>,
    /// Of a named upper: what its log lacks.
    pub unsaved: Option<Unsaved>,
}

impl Tree {
    pub fn new(lower: Arc<Lowers>, files: Option<Arc<FlatFiles>>) -> Self {
        let contributors = lower.root();
        let root = contributors.first().and_then(|origin| {
            Node::lower(
                &lower,
                Found {
                    origin: *origin,
                    kind: Kind::Directory,
                    contributors: contributors.clone(),
                },
            )
        });
        let mut root = root.unwrap_or_else(|| Node::new(Body::Directory(Box::default()), 0o755, 0, 0));
        root.links = 1;
        root.pinned = true;
        root.held = true;
        Self {
            next: lower.end(),
            lower,
            files,
            nodes: HashMap::from([(Ino::ROOT.0, Box::new(root))]),
            plains: Plains::default(),
            trace: None,
            unsaved: None,
        }
    }

    pub fn dir(&self, ino: u64) -> Result<&Dir, Error> {
        match self.nodes.get(&ino) {
            Some(node) => node.dir(),
            None if self.plains.contains(ino) => Err(Error::NotADirectory),
            None => Err(Error::Stale),
        }
    }

    pub fn dir_mut(&mut self, ino: u64) -> Result<&mut Dir, Error> {
        self.node_mut(ino)?.dir_mut()
    }

    /// What `name` stands for in `dir`, without making a node.
    pub fn peek(&self, dir: &Dir, name: &[u8]) -> Option<Peek> {
        match dir.overrides.get(name) {
            Some(Override::Node(ino)) => Some(Peek::Node(*ino)),
            Some(Override::Whiteout) => None,
            None => {
                let (found, place) = self.lower.find_at(&dir.contributors, name)?;
                Some(Peek::Lower(found, place))
            }
        }
    }

    /// The same, and it is recorded that somebody asked.
    fn observe(&mut self, parent: u64, name: &[u8]) -> Result<Option<Peek>, Error> {
        let dir = self.dir(parent)?;
        let peek = self.peek(dir, name);
        let whiteout = dir.overrides.contains_key(name);
        match (&peek, &mut self.trace) {
            (Some(Peek::Node(ino)), _) => self.trace_known(parent, name, *ino),
            (Some(Peek::Lower(found, _)), Some(trace)) => {
                trace.present(parent, name, self.lower.number(found.origin), found);
            }
            (None, Some(trace)) if !whiteout => trace.absent(parent, name),
            (_, _) => {}
        }
        Ok(peek)
    }

    /// The node that `name` leads to, made if it is the first time.
    pub fn child(&mut self, parent: u64, name: &[u8]) -> Result<Option<u64>, Error> {
        match self.observe(parent, name)? {
            Some(Peek::Node(ino)) => Ok(Some(ino)),
            Some(Peek::Lower(found, _)) => self.materialise(parent, name, found).map(Some),
            None => Ok(None),
        }
    }

    /// The number of what `name` leads to, which has one reference more.
    pub fn look_up(&mut self, parent: u64, name: &[u8]) -> Result<u64, Error> {
        match self.observe(parent, name)? {
            Some(Peek::Node(ino)) => {
                self.node_mut(ino)?.references += 1;
                Ok(ino)
            }
            Some(Peek::Lower(found, place)) => self.refer(parent, name, found, place),
            None => Err(Error::NotFound),
        }
    }

    /// The node that `name` must lead to.
    pub fn existing(&mut self, parent: u64, name: &[u8]) -> Result<u64, Error> {
        self.child(parent, name)?.ok_or(Error::NotFound)
    }

    /// The node of a lower one that was found in `parent`.
    pub fn materialise(&mut self, parent: u64, name: &[u8], found: Found) -> Result<u64, Error> {
        let ino = self.lower.number(found.origin);
        if self.plains.contains(ino) {
            self.node_mut(ino)?;
        }
        let home = Some((parent, Box::from(name)));
        match self.nodes.get_mut(&ino) {
            Some(node) if node.home.is_some() || node.pinned => return Ok(ino),
            Some(node) => node.home = home,
            None => {
                let Origin { layer, entry } = found.origin;
                let mut node = Node::lower(&self.lower, found).ok_or(Error::Damaged {
                    layer,
                    entry: entry.0,
                })?;
                node.home = home;
                self.nodes.insert(ino, Box::new(node));
            }
        }
        self.node_mut(parent)?.children += 1;
        Ok(ino)
    }

    /// The node differs from the lower tree from now on, or something below it does.
    pub fn pin(&mut self, ino: u64) -> Result<(), Error> {
        let mut at = ino;
        loop {
            let node = self.node_mut(at)?;
            if std::mem::replace(&mut node.pinned, true) {
                return Ok(());
            }
            let is_directory = node.is_directory();
            let home = node.home.clone();
            if let Some(unsaved) = &mut self.unsaved {
                unsaved.node(at);
            }
            let Some((parent, name)) = home else {
                return Ok(());
            };
            if let Some(unsaved) = &mut self.unsaved {
                unsaved.name(parent, &name);
            }
            let dir = self.dir_mut(parent)?;
            dir.overrides.insert(name, Override::Node(at));
            dir.subdirectories += u32::from(is_directory);
            at = parent;
        }
    }

    /// Pins a node that is about to change, and notes what of it and its parents goes into the layer.
    pub fn change(&mut self, ino: u64) -> Result<(), Error> {
        self.change_times(ino)?;
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.node(ino);
        }
        Ok(())
    }

    /// The same if only times and bytes are about to change.
    pub fn change_times(&mut self, ino: u64) -> Result<(), Error> {
        self.pin(ino)?;
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.times(ino);
        }
        let mut at = ino;
        while let Some(trace) = &mut self.trace
            && trace.written(at)
        {
            let Some((parent, _)) = &self.node(at)?.home else {
                break;
            };
            at = *parent;
        }
        Ok(())
    }

    /// Gives a node a name, which must be free in `parent`. Times are the caller's.
    pub fn attach(&mut self, parent: u64, name: &[u8], ino: u64) -> Result<(), Error> {
        self.change(parent)?;
        let node = self.node_mut(ino)?;
        let is_directory = node.is_directory();
        node.pinned = true;
        let homeless = node.home.is_none();
        if homeless {
            node.home = Some((parent, name.into()));
        }
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.node(ino);
            unsaved.name(parent, name);
        }
        let lower = Arc::clone(&self.lower);
        let node = self.node_mut(parent)?;
        node.children += u32::from(homeless);
        let dir = node.dir_mut()?;
        dir.overrides.insert(name.into(), Override::Node(ino));
        dir.subdirectories += u32::from(is_directory);
        if let Some(listing) = &mut dir.listing {
            listing.add(&lower, &dir.contributors, name);
        }
        Ok(())
    }

    /// Takes a name away from the node it leads to, which is pinned. The number of links and times are the
    /// caller's.
    pub fn detach(&mut self, parent: u64, name: &[u8], ino: u64) -> Result<(), Error> {
        self.change(parent)?;
        let node = self.node_mut(ino)?;
        let is_directory = node.is_directory();
        let was_home = node
            .home
            .as_ref()
            .is_some_and(|(p, n)| *p == parent && **n == *name);
        if was_home {
            node.home = None;
        }
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.node(ino);
            unsaved.name(parent, name);
        }
        let lower = Arc::clone(&self.lower);
        let node = self.node_mut(parent)?;
        node.children -= u32::from(was_home);
        let dir = node.dir_mut()?;
        let before = if lower.find(&dir.contributors, name).is_some() {
            dir.overrides.insert(name.into(), Override::Whiteout)
        } else {
            dir.overrides.remove(name)
        };
        if is_directory && matches!(before, Some(Override::Node(_))) {
            dir.subdirectories -= 1;
        }
        if let Some(listing) = &mut dir.listing {
            listing.remove(name);
        }
        Ok(())
    }

    /// The entries of a directory changed.
    pub fn touch(&mut self, ino: u64) -> Result<(), Error> {
        let now = Timestamp::now();
        let node = self.node_mut(ino)?;
        (node.mtime, node.ctime) = (now, now);
        Ok(())
    }

    /// The status of a node changed.
    pub fn touch_status(&mut self, ino: u64) -> Result<(), Error> {
        self.node_mut(ino)?.ctime = Timestamp::now();
        Ok(())
    }

    /// Adds a new node and returns its number.
    pub fn add(&mut self, node: Node) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Box::new(node));
        ino
    }

    /// Gives up nodes that nothing needs, from `ino` upwards. What is returned is to be dropped outside of the
    /// lock, since flat files go with it.
    #[must_use]
    pub fn release(&mut self, ino: u64) -> Vec<Node> {
        let mut gone = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT.0
            && let Some(node) = self.nodes.get_mut(&at)
            && node.references == 0
        {
            let removed = node.links == 0;
            if !removed && (node.pinned || node.held || node.children > 0) {
                if let Body::Directory(dir) = &mut node.body {
                    dir.listing = None;
                }
                break;
            }
            let Some(node) = self.nodes.remove(&at) else { break };
            if let Body::File(Content::Own(data)) = &node.body
                && removed
            {
                data.discard();
            }
            let home = node.home.clone();
            gone.push(*node);
            let Some((parent, _)) = home else { break };
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children = parent.children.saturating_sub(1);
            }
            at = parent;
        }
        gone
    }

    /// The node is a directory that still has a place in the tree.
    pub fn live_dir(&self, ino: u64) -> Result<(), Error> {
        let node = self.node(ino)?;
        node.dir()?;
        if node.links == 0 {
            return Err(Error::NotFound);
        }
        Ok(())
    }

    pub fn files(&self) -> Result<Arc<FlatFiles>, Error> {
        self.files.clone().ok_or(Error::ReadOnly)
    }

    /// The own data of a file that is about to be written or truncated. Nothing is copied yet.
    pub fn own_data(&mut self, ino: u64, keeps_content: bool) -> Result<Arc<FileData>, Error> {
        let files = self.files()?;
        let node = self.node(ino)?;
        match &node.body {
            Body::File(Content::Own(data)) => {
                let data = Arc::clone(data);
                self.change_times(ino)?;
                return Ok(data);
            }
            Body::File(Content::Lower) => {}
            Body::Directory(_) => return Err(Error::IsADirectory),
            _ => return Err(Error::Invalid),
        }
        let origin = node.origin.ok_or(Error::Stale)?;
        let layer = Arc::clone(self.lower.layer(origin).ok_or(Error::Stale)?);
        let size = self.lower.entry(origin).map_or(0, |entry| entry.size());
        if keeps_content && let Some(trace) = &mut self.trace {
            trace.content(ino);
        }
        self.change(ino)?;
        let content = Bytes::Layer(layer, origin.entry);
        let data = Arc::new(FileData::new(ino, files, content, size));
        self.node_mut(ino)?.body = Body::File(Content::Own(Arc::clone(&data)));
        self.note_data(ino);
        Ok(data)
    }

    /// The bytes of a file are new, moved, or changed in memory.
    pub fn note_data(&mut self, ino: u64) {
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.data(ino);
        }
    }

    /// The extended attributes of a node.
    pub fn xattrs(&self, node: &Node) -> Xattrs {
        match (&node.xattrs, node.found()) {
            (Some(own), _) => Xattrs::clone(own),
            (None, Some(found)) => self.lower.metadata(&found).xattrs,
            (None, None) => Xattrs::new(),
        }
    }

    /// Notes the first access to a node that was there before anything was recorded.
    fn trace_known(&mut self, parent: u64, name: &[u8], ino: u64) {
        let Some(trace) = &mut self.trace else { return };
        let found = self.nodes.get(&ino).and_then(|node| node.found());
        match found {
            Some(found) if !trace.knows(ino) => trace.present(parent, name, ino, &found),
            Some(_) => {}
            None => {
                // A virtual directory is there only because the lower tree has none.
                let dir = self.nodes.get(&parent).and_then(|node| node.dir().ok());
                let hidden = dir.and_then(|dir| dir.virtuals.as_ref()?.get(name));
                if hidden.is_some_and(|hidden| hidden.is_directory) {
                    trace.absent(parent, name);
                }
            }
        }
    }
}
