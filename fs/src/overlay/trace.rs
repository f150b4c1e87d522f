//! What a session has looked at in the lower tree.
//!
//! The kernel asks for each name at least once on a fresh mount, so the first access to everything is seen
//! here; later ones may be answered by its caches and need not be. Only *that* something was looked at is
//! recorded: what there was to see follows from the lower tree, which never changes, when the set is asked for.
//! Names are those at the first access, in the lower tree, whatever the session renames later.

use std::collections::{BTreeMap, BTreeSet, HashMap};

mod check;
mod codec;

pub use check::{Aspect, Difference, differences};
pub use codec::{DecodeError, decode, encode};

use super::lower::{Found, Lowers};
use super::tree::Tree;
use crate::digest::{Digest, Hasher};
use crate::layer::{Device, Kind, Timestamp, Xattrs};
use crate::path::ImagePath;

/// What a session has read, by path in the lower tree.
pub type ReadSet = BTreeMap<ImagePath, Observation>;

/// What a session has learnt about one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Observation {
    /// Nothing is there.
    Absent,
    /// Something is there.
    Present(Presence),
}

/// What a session has learnt about something that is there. The first fields come with the look-up; those that
/// are options were learnt if they are `Some`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Presence {
    /// Its type.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size of a file; 0 for other nodes.
    pub size: u64,
    /// Time of the last change.
    pub mtime: Timestamp,
    /// Device number; 0:0 for other nodes.
    pub device: Device,
    /// The digest of the sorted names of a node with several hard links: their number, and which names are one file.
    pub links: Option<Digest>,
    /// The target of a symbolic link.
    pub target: Option<Vec<u8>>,
    /// The digest of the content that was read.
    pub content: Option<Digest>,
    /// The digest of the listing that was read: its sorted names with their types.
    pub listing: Option<Digest>,
    /// The extended attributes that were read.
    pub xattrs: Option<Xattrs>,
}

#[derive(Default)]
pub(super) struct Trace {
    seen: HashMap<u64, Seen>,
    absent: BTreeSet<ImagePath>,
}

#[derive(Clone, Copy, Default)]
struct Aspects {
    content: bool,
    listing: bool,
    xattrs: bool,
    written: bool,
    /// Everything below, too.
    whole: bool,
}

struct Seen {
    paths: Vec<ImagePath>,
    found: Found,
    aspects: Aspects,
}

impl Trace {
    /// A trace that has seen the root, as every mount does.
    pub fn new(root: u64, found: Option<Found>) -> Self {
        let mut trace = Self::default();
        if let Some(found) = found {
            trace.seen.insert(
                root,
                Seen {
                    paths: vec![ImagePath::root()],
                    found,
                    aspects: Aspects::default(),
                },
            );
        }
        trace
    }

    pub fn knows(&self, ino: u64) -> bool {
        self.seen.contains_key(&ino)
    }

    /// The lower tree has `name` in `parent`.
    pub fn present(&mut self, parent: u64, name: &[u8], ino: u64, found: &Found) {
        if found.kind == Kind::Directory && self.knows(ino) {
            return;
        }
        let Some(path) = self.path(parent, name) else {
            return;
        };
        match self.seen.get_mut(&ino) {
            Some(seen) if seen.paths.contains(&path) => {}
            Some(seen) => seen.paths.push(path),
            None => {
                self.seen.insert(
                    ino,
                    Seen {
                        paths: vec![path],
                        found: found.clone(),
                        aspects: Aspects::default(),
                    },
                );
            }
        }
    }

    /// The lower tree does not have `name` in `parent`.
    pub fn absent(&mut self, parent: u64, name: &[u8]) {
        if let Some(path) = self.path(parent, name) {
            self.absent.insert(path);
        }
    }

    /// The content was read.
    pub fn content(&mut self, ino: u64) {
        self.mark(ino, |aspects| aspects.content = true);
    }

    /// The listing was read.
    pub fn listing(&mut self, ino: u64) {
        self.mark(ino, |aspects| aspects.listing = true);
    }

    /// The extended attributes were read.
    pub fn xattrs(&mut self, ino: u64) {
        self.mark(ino, |aspects| aspects.xattrs = true);
    }

    /// The node's metadata goes into the layer. True if that is news.
    pub fn written(&mut self, ino: u64) -> bool {
        let Some(seen) = self.seen.get_mut(&ino) else {
            return false;
        };
        seen.aspects.xattrs = true;
        !std::mem::replace(&mut seen.aspects.written, true)
    }

    /// The node goes into the layer with its content, and with all that lies below it.
    pub fn whole(&mut self, ino: u64) {
        self.mark(ino, |aspects| aspects.whole = true);
    }

    fn mark(&mut self, ino: u64, set: impl FnOnce(&mut Aspects)) {
        if let Some(seen) = self.seen.get_mut(&ino) {
            set(&mut seen.aspects);
        }
    }

    fn path(&self, parent: u64, name: &[u8]) -> Option<ImagePath> {
        Some(self.seen.get(&parent)?.paths.first()?.join(name))
    }

    /// The set, with what the lower tree says about each path.
    fn read_set(&self, lower: &Lowers) -> ReadSet {
        let mut set: ReadSet = self
            .absent
            .iter()
            .map(|path| (path.clone(), Observation::Absent))
            .collect();
        for seen in self.seen.values() {
            if seen.aspects.written {
                observe_links(lower, &seen.found, &mut set);
            }
            for path in &seen.paths {
                if seen.aspects.whole {
                    observe_whole(lower, path, &seen.found, &mut set);
                } else if let Some(presence) = observe(lower, &seen.found, seen.aspects) {
                    merge(&mut set, path, presence);
                }
            }
        }
        set
    }
}

impl Tree {
    /// What the session has read, if it is recorded. Of no layers at all nothing is: without a root no path leads
    /// anywhere, and an empty set would be right everywhere.
    pub fn read_set(&self) -> Option<ReadSet> {
        let trace = self.trace.as_ref()?;
        (!self.lower.layers().is_empty()).then(|| trace.read_set(&self.lower))
    }
}

/// A changed file with several names goes into the layer under each of them, with the directories that lead there.
fn observe_links(lower: &Lowers, found: &Found, set: &mut ReadSet) {
    if found.kind == Kind::Directory {
        return;
    }
    for name in lower.link_names(found.origin).unwrap_or_default() {
        let mut at = Some(name.clone());
        while let Some(path) = at {
            let aspects = Aspects {
                content: path == *name,
                xattrs: true,
                ..Aspects::default()
            };
            let presence = lower
                .resolve(&path)
                .and_then(|found| observe(lower, &found, aspects));
            if let Some(presence) = presence {
                merge(set, &path, presence);
            }
            at = path.parent();
        }
    }
}

fn observe_whole(lower: &Lowers, path: &ImagePath, found: &Found, set: &mut ReadSet) {
    let all = Aspects {
        content: true,
        listing: true,
        xattrs: true,
        ..Aspects::default()
    };
    let mut todo = vec![(path.clone(), found.clone())];
    while let Some((path, found)) = todo.pop() {
        for name in lower.names(&found.contributors) {
            if let Some(child) = lower.find(&found.contributors, name) {
                todo.push((path.join(name), child));
            }
        }
        if let Some(presence) = observe(lower, &found, all) {
            merge(set, &path, presence);
        }
    }
}

/// Adds what was learnt to what is known of the path already.
fn merge(set: &mut ReadSet, path: &ImagePath, presence: Presence) {
    let presence = match set.remove(path) {
        Some(Observation::Present(known)) => Presence {
            content: presence.content.or(known.content),
            listing: presence.listing.or(known.listing),
            xattrs: presence.xattrs.or(known.xattrs),
            ..presence
        },
        Some(Observation::Absent) | None => presence,
    };
    set.insert(path.clone(), Observation::Present(presence));
}

fn observe(lower: &Lowers, found: &Found, aspects: Aspects) -> Option<Presence> {
    let entry = lower.description(found)?;
    let is = |kind| found.kind == kind;
    Some(Presence {
        kind: found.kind,
        mode: entry.mode(),
        uid: entry.uid(),
        gid: entry.gid(),
        size: entry.size(),
        mtime: entry.mtime(),
        device: entry.device(),
        links: match is(Kind::Directory) {
            true => None,
            false => lower.link_names(found.origin).map(names_digest),
        },
        target: is(Kind::Symlink).then(|| entry.target().to_vec()),
        content: (aspects.content && is(Kind::File)).then(|| entry.digest().unwrap_or_else(unknown_content)),
        listing: (aspects.listing && is(Kind::Directory)).then(|| listing_digest(lower, found)),
        xattrs: aspects.xattrs.then(|| entry.xattrs()),
    })
}

/// What stands for a content whose digest nobody knows: equal to none that is known.
fn unknown_content() -> Digest {
    Digest::of(b"a content whose digest is not known")
}

fn listing_digest(lower: &Lowers, found: &Found) -> Digest {
    let mut hasher = Hasher::new();
    for place in lower.name_places(&found.contributors) {
        let name = lower.name_at(&found.contributors, place);
        let kind = lower.kind_at(&found.contributors, place);
        if let (Some(name), Some(kind)) = (name, kind) {
            hasher.update(&kind.file_type_bits().to_le_bytes());
            hasher.update(name);
            hasher.update(&[0]);
        }
    }
    hasher.finish()
}

fn names_digest(names: &[ImagePath]) -> Digest {
    let mut hasher = Hasher::new();
    for name in names {
        hasher.update(name.as_bytes());
        hasher.update(&[0]);
    }
    hasher.finish()
}
