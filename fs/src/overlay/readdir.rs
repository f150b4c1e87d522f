//! What a directory lists, and the cookies that continue a listing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use super::inode::{Dir, Override};
use super::lower::{Lowers, NamePlace, Origin};
use super::tree::{Peek, Tree};
use super::*;

/// Entries that are collected under the lock at a time.
const BATCH: usize = 128;
/// Cookies 1 and 2 are those after `.` and `..`.
const FIRST: u64 = 3;

/// The names of one directory with their numbers. A lower name's number is its place among the lower names, hidden
/// or not, which never changes; names that only the upper has get rising ones behind these. So a reader that
/// continues at a cookie neither misses nor repeats a name that was there all the time, whatever happens in between,
/// and a listing without names of the upper can be made anew at any time.
pub(super) struct Listing {
    lower: Vec<NamePlace>,
    by_number: BTreeMap<u64, Arc<[u8]>>,
    numbers: HashMap<Arc<[u8]>, u64>,
    next: u64,
}

impl Listing {
    fn new(lowers: &Lowers, dir: &Dir) -> Self {
        let lower = lowers.name_places(&dir.contributors);
        let mut listing = Self {
            next: FIRST + lower.len() as u64,
            lower,
            by_number: BTreeMap::new(),
            numbers: HashMap::new(),
        };
        for (name, what) in &dir.overrides {
            if matches!(what, Override::Node(_)) {
                listing.add(lowers, &dir.contributors, name);
            }
        }
        listing
    }

    pub fn add(&mut self, lowers: &Lowers, contributors: &[Origin], name: &[u8]) {
        let place = |place: &NamePlace| lowers.name_at(contributors, *place).unwrap_or_default().cmp(name);
        if self.numbers.contains_key(name) || self.lower.binary_search_by(place).is_ok() {
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

    /// The names after `cookie`, each with its number.
    fn after<'a>(
        &self,
        cookie: u64,
        lowers: &'a Lowers,
        contributors: &[Origin],
    ) -> impl Iterator<Item = (u64, Cow<'a, [u8]>)> {
        let from = cookie.saturating_add(1).max(FIRST);
        let skipped = usize::try_from(from - FIRST).unwrap_or(usize::MAX);
        let lower = self.lower.get(skipped..).unwrap_or_default().iter();
        let lower = (from..).zip(lower).filter_map(|(number, place)| {
            let name = lowers.name_at(contributors, *place)?;
            Some((number, Cow::Borrowed(name)))
        });
        let own = self.by_number.range(from..);
        lower.chain(own.map(|(number, name)| (*number, Cow::Owned(name.to_vec()))))
    }
}

struct Entry<'a> {
    name: Cow<'a, [u8]>,
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
            let batch = self.tree().list(&self.lower, ino.0, cookie)?;
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
    /// `lowers` are the tree's own; their names outlive the lock.
    fn list<'a>(&mut self, lowers: &'a Lowers, ino: u64, cookie: u64) -> Result<Vec<Entry<'a>>> {
        let dir = self.dir(ino)?;
        if dir.listing.is_none() {
            let listing = Listing::new(lowers, dir);
            self.dir_mut(ino)?.listing = Some(Box::new(listing));
        }
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
                    name: Cow::Borrowed(name),
                    ino: number,
                    kind: Kind::Directory,
                    next,
                });
            }
        }
        let Some(listing) = &dir.listing else {
            return Ok(batch);
        };
        let entries = listing.after(cookie, lowers, &dir.contributors);
        let entries = entries.filter_map(|(next, name)| {
            let (ino, kind) = match self.peek(dir, &name)? {
                Peek::Node(ino) => (ino, self.nodes.get(&ino)?.kind()),
                Peek::Lower(found) => (lowers.number(found.origin), found.kind),
            };
            Some(Entry {
                name,
                ino,
                kind,
                next,
            })
        });
        batch.extend(entries.take(BATCH));
        if batch.is_empty() && listing.numbers.is_empty() {
            self.dir_mut(ino)?.listing = None;
        }
        Ok(batch)
    }
}
