//! The naive model.

use crate::overlay::tests::*;

/// A filesystem as one would write it without a thought for speed.
#[derive(Clone, Default)]
pub struct Model {
    /// When the current operation began.
    pub now: Timestamp,
    pub nodes: BTreeMap<usize, ModelNode>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ModelNode {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: Xattrs,
    pub content: Vec<u8>,
    pub device: Device,
    pub entries: BTreeMap<String, usize>,
    pub links: u32,
    pub mtime: Time,
    /// The number that it was first seen with.
    pub ino: Option<Ino>,
}

/// What is known of a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Time {
    Exactly(Timestamp),
    NotBefore(Timestamp),
}

impl Time {
    pub fn allows(self, time: Timestamp) -> bool {
        match self {
            Self::Exactly(wanted) => time == wanted,
            Self::NotBefore(least) => (time.seconds, time.nanoseconds) >= (least.seconds, least.nanoseconds),
        }
    }
}

pub type Outcome<T = ()> = std::result::Result<T, i32>;

impl Model {
    /// What the overlay shows when the session begins; names with one inode number are one file.
    pub fn of(overlay: &Overlay) -> Self {
        let mut model = Self::default();
        let mut ids = BTreeMap::new();
        for (at, seen) in tree(overlay) {
            let next = model.nodes.len();
            let id = *ids.entry(seen.ino).or_insert(next);
            let node = model.nodes.entry(id).or_insert_with(|| ModelNode {
                kind: seen.kind,
                mode: seen.mode,
                uid: seen.uid,
                gid: seen.gid,
                xattrs: seen.xattrs.clone(),
                content: seen.content.clone(),
                device: seen.device,
                entries: BTreeMap::new(),
                links: 0,
                mtime: match at.as_str() {
                    // Without any layer the root is as old as the session.
                    "" => Time::NotBefore(Timestamp::default()),
                    _ => Time::Exactly(seen.mtime),
                },
                ino: Some(seen.ino),
            });
            node.links += 1;
            if let Some((parent, name)) = at.rsplit_once('/') {
                let parent = model.find(parent).expect("parents come first");
                let entries = &mut model.nodes.get_mut(&parent).expect("a node").entries;
                entries.insert(name.to_owned(), id);
            }
        }
        model
    }

    pub fn find(&self, at: &str) -> Option<usize> {
        let mut id = 0;
        for name in at.split('/').filter(|name| !name.is_empty()) {
            id = *self.nodes.get(&id)?.entries.get(name)?;
        }
        self.nodes.contains_key(&id).then_some(id)
    }

    pub fn get(&mut self, id: usize) -> &mut ModelNode {
        self.nodes.get_mut(&id).expect("a node")
    }

    pub fn insert(&mut self, parent: usize, name: &str, node: ModelNode) -> Outcome {
        self.is_live(parent)?;
        if self.get(parent).entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        let id = self.nodes.keys().last().map_or(0, |last| last + 1);
        self.nodes.insert(id, node);
        self.get(parent).entries.insert(name.to_owned(), id);
        self.touch(parent);
        Ok(())
    }

    /// A removed node stays: something may have it open.
    pub fn drop_link(&mut self, id: usize) {
        self.get(id).links -= 1;
    }

    /// Nothing can be made in a directory that was removed.
    pub fn is_live(&self, id: usize) -> Outcome {
        if self.nodes[&id].links == 0 {
            Err(libc::ENOENT)
        } else {
            Ok(())
        }
    }

    /// The content of a node changes.
    pub fn touch(&mut self, id: usize) {
        self.get(id).mtime = Time::NotBefore(self.now);
    }

    pub fn remove(&mut self, parent: usize, name: &str, directory: bool) -> Outcome {
        let id = *self.get(parent).entries.get(name).ok_or(libc::ENOENT)?;
        let node = self.get(id);
        match (directory, node.kind == Kind::Directory) {
            (true, false) => return Err(libc::ENOTDIR),
            (false, true) => return Err(libc::EISDIR),
            (true, true) if !node.entries.is_empty() => return Err(libc::ENOTEMPTY),
            _ => {}
        }
        self.get(parent).entries.remove(name);
        self.drop_link(id);
        self.touch(parent);
        Ok(())
    }

    pub fn is_below(&self, id: usize, top: usize) -> bool {
        id == top
            || self.nodes[&top]
                .entries
                .values()
                .any(|child| self.is_below(id, *child))
    }

    pub fn rename(&mut self, from: (usize, &str), to: (usize, &str), mode: RenameMode) -> Outcome {
        let source = *self.get(from.0).entries.get(from.1).ok_or(libc::ENOENT)?;
        let target = self.get(to.0).entries.get(to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (RenameMode::Exchange, None) => return Err(libc::ENOENT),
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        if self.is_below(to.0, source) {
            return Err(libc::EINVAL);
        }
        let is_directory = |id: usize| self.nodes[&id].kind == Kind::Directory;
        if let (Some(target), RenameMode::Exchange) = (target, mode) {
            if self.is_below(from.0, target) {
                return Err(libc::EINVAL);
            }
            self.get(from.0).entries.insert(from.1.to_owned(), target);
        } else {
            if let Some(target) = target {
                match (is_directory(source), is_directory(target)) {
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    (true, true) if !self.nodes[&target].entries.is_empty() => return Err(libc::ENOTEMPTY),
                    _ => self.drop_link(target),
                }
            }
            self.get(from.0).entries.remove(from.1);
        }
        self.get(to.0).entries.insert(to.1.to_owned(), source);
        self.touch(from.0);
        self.touch(to.0);
        Ok(())
    }

    /// Everything by path, with its number.
    pub fn shows(&self) -> BTreeMap<String, (usize, ModelNode)> {
        let mut all = BTreeMap::new();
        let mut todo = vec![(String::new(), 0)];
        while let Some((at, id)) = todo.pop() {
            let node = self.nodes[&id].clone();
            for (name, child) in &node.entries {
                todo.push((format!("{at}/{name}"), *child));
            }
            all.insert(at, (id, node));
        }
        all
    }
}
