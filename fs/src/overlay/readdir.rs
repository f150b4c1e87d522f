//! What a directory lists, and the cookies that continue a listing.

use std::collections::{BTreeMap, HashMap};

use super::inode::{Dir, Override};
use super::tree::{Peek, Tree};
use super::*;

/// Entries that are collected under the lock at a time.
const BATCH: usize = 128;
/// Cookies 1 and 2 are those after `.` and `..`.
const FIRST: u64 = 3;

/// The names of one directory with their numbers. A name keeps its number for as long as it is there; new
/// names get rising ones. So a reader that continues at a cookie neither misses nor repeats a name that was
/// there all the time, whatever happens in between.
pub(super) struct Listing {
    by_number: BTreeMap<u64, Arc<[u8]>>,
    numbers: HashMap<Arc<[u8]>, u64>,
    next: u64,
}

impl Listing {
    fn new() -> Self {
        Self {
            by_number: BTreeMap::new(),
            numbers: HashMap::new(),
            next: FIRST,
        }
    }

    pub fn add(&mut self, name: &[u8]) {
        if self.numbers.contains_key(name) {
            return;
        }
        let name: Arc<[u8]> = name.into();
        self.by_number.insert(self.next, Arc::clone(&name));
        self.numbers.insert(name, self.next);
        self.next += 1;
    }

    pub fn remove(&mut self, name: &[u8]) {
        if let Some(number) = self.numbers.remove(name) {
            self.by_number.remove(&number);
        }
    }
}

struct Entry {
    name: Arc<[u8]>,
    ino: u64,
    kind: Kind,
    next: u64,
}

impl Overlay {
    /// Lists a directory, `.` and `..` included, from the entry after `cookie` on (0 is the beginning), until
    /// `each` breaks. Cookies stay valid while the directory changes. No lock is held while `each` runs, so it
    /// may call the overlay.
    ///
    /// # Errors
    /// [`Error::NotADirectory`].
    pub fn read_dir(
        &self,
        ino: Ino,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut cookie = cookie;
        loop {
            let batch = self.tree().list(ino.0, cookie)?;
            let Some(last) = batch.last() else { return Ok(()) };
            cookie = last.next;
            for entry in &batch {
                let entry = DirEntry {
                    name: &entry.name,
                    ino: Ino(entry.ino),
                    kind: entry.kind,
                    next: entry.next,
                };
                if each(entry).is_break() {
                    return Ok(());
                }
            }
        }
    }
}

impl Tree {
    fn list(&mut self, ino: u64, cookie: u64) -> Result<Vec<Entry>> {
        self.make_listing(ino)?;
        if let Some(trace) = &mut self.trace {
            trace.listing(ino);
        }
        let node = self.node(ino)?;
        let dir = node.dir()?;
        let mut batch = Vec::new();
        let parent = node.home.as_ref().map_or(Ino::ROOT.0, |home| home.0);
        for (name, number, next) in [(&b"."[..], ino, 1), (b"..", parent, 2)] {
            if cookie < next {
                batch.push(Entry {
                    name: name.into(),
                    ino: number,
                    kind: Kind::Directory,
                    next,
                });
            }
        }
        let Some(listing) = &dir.listing else {
            return Ok(batch);
        };
        let rest = listing.by_number.range(cookie.saturating_add(1).max(FIRST)..);
        let entries = rest.filter_map(|(number, name)| {
            let (ino, kind) = match self.peek(dir, name)? {
                Peek::Node(ino) => (ino, self.nodes.get(&ino)?.kind()),
                Peek::Lower(found) => (self.lower.number(found.origin), found.kind),
            };
            Some(Entry {
                name: Arc::clone(name),
                ino,
                kind,
                next: *number,
            })
        });
        batch.extend(entries.take(BATCH));
        Ok(batch)
    }

    fn make_listing(&mut self, ino: u64) -> Result<()> {
        let dir = self.dir(ino)?;
        if dir.listing.is_some() {
            return Ok(());
        }
        let mut listing = Listing::new();
        for name in self.visible_names(dir) {
            listing.add(&name);
        }
        self.dir_mut(ino)?.listing = Some(Box::new(listing));
        Ok(())
    }

    /// The names of a directory: the lower ones sorted, then those that only the upper has, sorted.
    pub fn visible_names(&self, dir: &Dir) -> Vec<Vec<u8>> {
        let lower = self.lower.names(&dir.contributors);
        let is_lower = |name: &[u8]| lower.binary_search(&name).is_ok();
        let added = dir
            .overrides
            .iter()
            .filter(|(name, what)| matches!(what, Override::Node(_)) && !is_lower(name))
            .map(|(name, _)| name.to_vec());
        let kept = lower
            .iter()
            .filter(|name| dir.overrides.get(**name) != Some(&Override::Whiteout));
        kept.map(|name| name.to_vec()).chain(added).collect()
    }
}
