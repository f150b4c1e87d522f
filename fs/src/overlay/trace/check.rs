//! Whether what a session has read is the same in another lower tree.
//!
//! Metadata only: the indexes know every digest. The same code observes for the record and for the check, so
//! neither can see what the other does not.

use std::collections::HashMap;

use super::{Aspects, Observation, Presence, ReadSet, observe};
use crate::digest::Digest;
use crate::layer::{Device, Kind, Timestamp, Xattrs};
use crate::overlay::lower::{Found, Lowers, Origin};
use crate::path::ImagePath;

/// Something that a session has read, and that is not so in another tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where.
    pub path: ImagePath,
    /// What of it.
    pub aspect: Aspect,
}

/// What of a path is different: as the session saw it (`before`), and as it is (`now`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Aspect {
    /// There was nothing, and now there is something of this type.
    Appeared(Kind),
    /// There was something of this type, and now there is nothing.
    Vanished(Kind),
    /// Its type.
    Kind {
        /// As it was.
        before: Kind,
        /// As it is.
        now: Kind,
    },
    /// Its permission bits.
    Mode {
        /// As they were.
        before: u32,
        /// As they are.
        now: u32,
    },
    /// User and group.
    Owner {
        /// As they were.
        before: (u32, u32),
        /// As they are.
        now: (u32, u32),
    },
    /// The size of a file.
    Size {
        /// As it was.
        before: u64,
        /// As it is.
        now: u64,
    },
    /// The content of a file.
    Content {
        /// Its digest then.
        before: Digest,
        /// Its digest now.
        now: Digest,
    },
    /// The time of the last change.
    Modified {
        /// As it was.
        before: Timestamp,
        /// As it is.
        now: Timestamp,
    },
    /// The device number.
    Device {
        /// As it was.
        before: Device,
        /// As it is.
        now: Device,
    },
    /// Where a symbolic link leads.
    Target {
        /// As it was.
        before: Vec<u8>,
        /// As it is.
        now: Vec<u8>,
    },
    /// Which names are this one file.
    Links,
    /// The names in a directory and their types.
    Listing,
    /// Extended attributes.
    Xattrs {
        /// As they were.
        before: Xattrs,
        /// As they are.
        now: Xattrs,
    },
}

/// What of `set` is different in the tree of `lower`, in the order of the paths. Who asks for the first one only
/// pays for the paths up to it.
pub fn differences<'a>(set: &'a ReadSet, lower: &'a Lowers) -> impl Iterator<Item = Difference> + 'a {
    let mut finder = Finder {
        lower,
        directories: HashMap::new(),
    };
    set.iter().flat_map(move |(path, seen)| {
        let aspects = finder.compare(path, seen);
        aspects.into_iter().map(|aspect| Difference {
            path: path.clone(),
            aspect,
        })
    })
}

/// Finds paths, and remembers the directories on the way.
struct Finder<'a> {
    lower: &'a Lowers,
    /// The contributors of each directory; `None` where there is none.
    directories: HashMap<ImagePath, Option<Vec<Origin>>>,
}

impl Finder<'_> {
    fn compare(&mut self, path: &ImagePath, seen: &Observation) -> Vec<Aspect> {
        let found = self.find(path);
        match (seen, found) {
            (Observation::Absent, None) => Vec::new(),
            (Observation::Absent, Some(found)) => vec![Aspect::Appeared(found.kind)],
            (Observation::Present(before), None) => vec![Aspect::Vanished(before.kind)],
            (Observation::Present(before), Some(found)) => {
                let aspects = Aspects {
                    content: before.content.is_some(),
                    listing: before.listing.is_some(),
                    xattrs: before.xattrs.is_some(),
                    ..Aspects::default()
                };
                match observe(self.lower, &found, aspects) {
                    Some(now) if now == *before => Vec::new(),
                    Some(now) => aspects_of(before, &now),
                    None => vec![Aspect::Vanished(before.kind)],
                }
            }
        }
    }

    fn find(&mut self, path: &ImagePath) -> Option<Found> {
        let Some((parent, name)) = path.split() else {
            return self.lower.resolve(path);
        };
        let lower = self.lower;
        lower.find(self.directory(&parent)?, name)
    }

    /// The contributors of the directory `path`.
    fn directory(&mut self, path: &ImagePath) -> Option<&[Origin]> {
        if !self.directories.contains_key(path) {
            self.enter(path);
        }
        self.directories.get(path)?.as_deref()
    }

    /// Finds the directory `path`, and those above it. No recursion: a path may be deeper than a stack.
    fn enter(&mut self, path: &ImagePath) {
        let mut missing = Vec::new();
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|path| !self.directories.contains_key(path)) {
            at = path.parent();
            missing.push(path);
        }
        for path in missing.into_iter().rev() {
            let found = match path.split() {
                None => self.lower.resolve(&path),
                Some((parent, name)) => {
                    let parent = self.directories.get(&parent).and_then(Option::as_deref);
                    parent.and_then(|contributors| self.lower.find(contributors, name))
                }
            };
            let found = found.filter(|found| found.kind == Kind::Directory);
            self.directories
                .insert(path, found.map(|found| found.contributors));
        }
    }
}

fn aspects_of(before: &Presence, now: &Presence) -> Vec<Aspect> {
    let (was, is) = (before, now);
    if was.kind != is.kind {
        let (before, now) = (was.kind, is.kind);
        return vec![Aspect::Kind { before, now }];
    }
    let mut aspects = Vec::new();
    let mut differs = |aspect: Aspect, differs: bool| {
        if differs {
            aspects.push(aspect);
        }
    };
    let (before, now) = (was.mode, is.mode);
    differs(Aspect::Mode { before, now }, before != now);
    let (before, now) = ((was.uid, was.gid), (is.uid, is.gid));
    differs(Aspect::Owner { before, now }, before != now);
    let (before, now) = (was.size, is.size);
    differs(Aspect::Size { before, now }, before != now);
    let (before, now) = (was.mtime, is.mtime);
    differs(Aspect::Modified { before, now }, before != now);
    let (before, now) = (was.device, is.device);
    differs(Aspect::Device { before, now }, before != now);
    differs(Aspect::Links, was.links != is.links);
    differs(Aspect::Listing, was.listing != is.listing);
    if let (Some(before), Some(now)) = (was.content, is.content) {
        differs(Aspect::Content { before, now }, before != now);
    }
    if let (Some(before), Some(now)) = (was.target.clone(), is.target.clone()) {
        let changed = before != now;
        differs(Aspect::Target { before, now }, changed);
    }
    if let (Some(before), Some(now)) = (was.xattrs.clone(), is.xattrs.clone()) {
        let changed = before != now;
        differs(Aspect::Xattrs { before, now }, changed);
    }
    aspects
}
