//! Lower nodes that nobody changed: their number says which entry of which layer they are, and the entry says the rest.
//!
//! So a walk of an image needs no [`Node`] for each file, only who knows it and where it was found, in case it is
//! changed later. Directories have nodes: they hold what was merged to make them.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::ops::Deref;

use super::inode::Node;
use super::lower::{Found, NamePlace};
use super::tree::Tree;
use super::{Error, Kind};

/// Numbers in a page. Those of a directory's files follow each other, so that a listing fills pages.
const PAGE: u64 = 16;
/// A table with room for no more pages than this is not worth shrinking.
const SMALL_TABLE: usize = 1 << 10;

/// An unchanged lower node that is no directory.
pub(super) struct Plain {
    /// The directory in which it was first found, and where its name stands there.
    parent: u64,
    place: NamePlace,
    /// References that the kernel holds.
    references: NonZeroU64,
}

/// A node to read from.
pub(super) enum View<'a> {
    Node(&'a Node),
    /// Made of a [`Plain`], to be dropped after use.
    Plain(Box<Node>),
}

impl Deref for View<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        match self {
            Self::Node(node) => node,
            Self::Plain(node) => node,
        }
    }
}

/// All plain nodes by number: at most 28 bytes for each where many are known, in pieces that are given back.
#[derive(Default)]
pub(super) struct Plains {
    pages: HashMap<u64, Page>,
}

#[derive(Default)]
struct Page {
    used: u64,
    slots: Box<[Option<Plain>; PAGE as usize]>,
}

impl Plains {
    fn get(&self, ino: u64) -> Option<&Plain> {
        self.pages.get(&(ino / PAGE))?.slots[slot(ino)].as_ref()
    }

    fn get_mut(&mut self, ino: u64) -> Option<&mut Plain> {
        self.pages.get_mut(&(ino / PAGE))?.slots[slot(ino)].as_mut()
    }

    pub fn contains(&self, ino: u64) -> bool {
        self.get(ino).is_some()
    }

    fn insert(&mut self, ino: u64, plain: Plain) {
        let page = self.pages.entry(ino / PAGE).or_default();
        page.used += u64::from(page.slots[slot(ino)].replace(plain).is_none());
    }

    fn remove(&mut self, ino: u64) -> Option<Plain> {
        let page = self.pages.get_mut(&(ino / PAGE))?;
        let plain = page.slots[slot(ino)].take()?;
        page.used -= 1;
        if page.used == 0 {
            self.pages.remove(&(ino / PAGE));
        }
        if self.pages.capacity() > SMALL_TABLE && self.pages.len() < self.pages.capacity() / 8 {
            self.pages.shrink_to(self.pages.len() * 2);
        }
        Some(plain)
    }
}

fn slot(ino: u64) -> usize {
    usize::try_from(ino % PAGE).unwrap_or_default()
}

impl Tree {
    pub fn node(&self, ino: u64) -> Result<View<'_>, Error> {
        match (self.nodes.get(&ino), self.plains.get(ino)) {
            (Some(node), _) => Ok(View::Node(node)),
            (None, Some(plain)) => self.node_of(ino, plain).map(|node| View::Plain(Box::new(node))),
            (None, None) => Err(Error::Stale),
        }
    }

    /// A node to change. A plain one is plain no longer.
    pub fn node_mut(&mut self, ino: u64) -> Result<&mut Node, Error> {
        if let Some(plain) = self.plains.get(ino) {
            let node = self.node_of(ino, plain)?;
            self.plains.remove(ino);
            self.nodes.insert(ino, Box::new(node));
        }
        self.nodes
            .get_mut(&ino)
            .map(|node| &mut **node)
            .ok_or(Error::Stale)
    }

    fn node_of(&self, ino: u64, plain: &Plain) -> Result<Node, Error> {
        let origin = self.lower.origin(ino).ok_or(Error::Stale)?;
        let damaged = || Error::Damaged {
            layer: origin.layer,
            entry: origin.entry.0,
        };
        let kind = self.lower.entry(origin).ok_or_else(damaged)?.kind();
        let found = Found {
            origin,
            kind,
            contributors: Vec::new(),
        };
        let contributors = &self.dir(plain.parent)?.contributors;
        let name = self
            .lower
            .name_at(contributors, plain.place)
            .ok_or_else(damaged)?;
        let mut node = Node::lower(&self.lower, found).ok_or_else(damaged)?;
        node.home = Some((plain.parent, name.into()));
        node.references = plain.references.get();
        Ok(node)
    }

    /// One reference more to the lower node that was found in `parent`, which is plain unless it is a directory or has
    /// a node already.
    pub fn refer(&mut self, parent: u64, name: &[u8], found: Found, place: NamePlace) -> Result<u64, Error> {
        let ino = self.lower.number(found.origin);
        if found.kind == Kind::Directory || self.nodes.contains_key(&ino) {
            self.materialise(parent, name, found)?;
            self.node_mut(ino)?.references += 1;
            return Ok(ino);
        }
        match self.plains.get_mut(ino) {
            Some(plain) => plain.references = plain.references.saturating_add(1),
            None => {
                let references = NonZeroU64::MIN;
                let plain = Plain {
                    parent,
                    place,
                    references,
                };
                self.plains.insert(ino, plain);
                self.node_mut(parent)?.children += 1;
            }
        }
        Ok(ino)
    }

    /// Takes references back from a plain node. Returns the directory that has one child less if it is gone.
    pub fn forget_plain(&mut self, ino: u64, count: u64) -> Option<u64> {
        let plain = self.plains.get_mut(ino)?;
        if let Some(left) = NonZeroU64::new(plain.references.get().saturating_sub(count)) {
            plain.references = left;
            return None;
        }
        let parent = self.plains.remove(ino)?.parent;
        if let Some(parent) = self.nodes.get_mut(&parent) {
            parent.children = parent.children.saturating_sub(1);
        }
        Some(parent)
    }
}

#[cfg(test)]
mod tests {
    use super::SMALL_TABLE;
    use crate::overlay::tests::{Member, Session, content, file};
    use crate::overlay::{Error, Ino};

    /// How many nodes and plain ones there are.
    fn counts(s: &Session) -> (usize, usize) {
        let tree = s.overlay.tree();
        let plains = tree.plains.pages.values().map(|page| page.used as usize).sum();
        (tree.nodes.len(), plains)
    }

    #[test]
    fn a_walk_makes_nodes_of_directories_alone() {
        let count = 20_000;
        let names: Vec<_> = (0..count).map(|n| format!("/d/{n}")).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), file("x"))).collect();
        let s = Session::new(&[&members]);
        let dir = s.overlay.lookup(Ino::ROOT, b"d").expect("found").ino;
        let inos: Vec<_> = (0..count)
            .map(|n| {
                s.overlay
                    .lookup(dir, n.to_string().as_bytes())
                    .expect("found")
                    .ino
            })
            .collect();
        assert_eq!(counts(&s), (2, count));
        assert!(s.overlay.tree().plains.pages.len() <= count / 16 + 1);
        inos.iter().for_each(|ino| s.overlay.forget(*ino, 1));
        assert_eq!(counts(&s), (2, 0));
        assert!(s.overlay.tree().plains.pages.capacity() <= SMALL_TABLE);
        s.overlay.forget(dir, 1);
        assert_eq!(counts(&s), (1, 0));
    }

    #[test]
    fn a_directory_stays_as_long_as_what_was_found_in_it() {
        let s = Session::new(&[&[("/d/f", file("x"))]]);
        let dir = s.overlay.lookup(Ino::ROOT, b"d").expect("found").ino;
        let ino = s.overlay.lookup(dir, b"f").expect("found").ino;
        s.overlay.forget(dir, 1);
        s.overlay.write(ino, 0, b"y").expect("written");
        assert_eq!(s.read("/d/f"), b"y");
    }

    #[test]
    fn what_is_changed_keeps_its_references() {
        let s = Session::new(&[&[
            ("/d/f", file("old")),
            ("/d/g", Member::HardLink("/d/f".to_owned())),
        ]]);
        let dir = s.overlay.lookup(Ino::ROOT, b"d").expect("found").ino;
        let ino = s.overlay.lookup(dir, b"f").expect("found").ino;
        assert_eq!(s.overlay.lookup(dir, b"g").expect("found").ino, ino);
        for name in [&b"f"[..], b"g"] {
            s.overlay.write(ino, 0, name).expect("written");
            s.overlay.unlink(dir, name).expect("removed");
        }
        s.overlay.forget(ino, 1);
        assert_eq!(content(&s.overlay, ino), b"gld");
        s.overlay.forget(ino, 1);
        assert!(matches!(s.overlay.attr(ino), Err(Error::Stale)));
    }

    #[test]
    fn a_file_is_no_directory() {
        let s = Session::new(&[&[("/f", file("x"))]]);
        let ino = s.overlay.lookup(Ino::ROOT, b"f").expect("found").ino;
        assert!(matches!(s.overlay.lookup(ino, b"x"), Err(Error::NotADirectory)));
        assert!(matches!(
            s.overlay.read_dir(ino, 0, &mut |_| unreachable!()),
            Err(Error::NotADirectory)
        ));
    }
}
