//! What a directory lists, and the cookies that continue a listing.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::inode::{Dir, Override};
use super::lower::{Lowers, NamePlace, Origin};
use super::tree::{Peek, Tree};
use super::*;

/// Entries that are collected under the lock at a time.
const BATCH: usize = 128;
/// Cookies 1 and 2 are those after `.` and `..`.
const FIRST: u64 = 3;
/// The number of the first lower name. There is room for as many others before it, and all cookies fit into the
/// 32 bits that old programs have for them.
const LOWER: u64 = 1 << 30;
/// Removed names that are remembered even in a small directory.
const MOST_GONE: usize = 64;

/// The names of one directory with their numbers. A lower name's number follows from its place among the lower names,
/// hidden or not, which never changes; names that only the upper has get falling ones before these, and keep them also
/// while another file takes the name over. So a reader that continues at a cookie neither misses nor repeats a name
/// that was there all the time, whatever happens in between; it never comes to new names, and so comes to an end even
/// if it makes or renames a file for each name that it reads. A listing without names of the upper can be made anew at
/// any time.
pub(super) struct Listing {
    lower: Vec<NamePlace>,
    by_number: BTreeMap<u64, Arc<[u8]>>,
    numbers: HashMap<Arc<[u8]>, u64>,
    lowest: u64,
    /// Names that were removed, and would have their numbers again if they came back soon.
    gone: HashSet<Arc<[u8]>>,
}

impl Listing {
    fn new(lowers: &Lowers, dir: &Dir) -> Self {
        let mut listing = Self {
            lower: lowers.name_places(&dir.contributors),
            by_number: BTreeMap::new(),
            numbers: HashMap::new(),
            lowest: LOWER,
            gone: HashSet::new(),
        };
        // The last one becomes the first.
        for (name, what) in dir.overrides.iter().rev() {
            if matches!(what, Override::Node(_)) {
                listing.add(lowers, &dir.contributors, name);
            }
        }
        listing
    }

    pub fn add(&mut self, lowers: &Lowers, contributors: &[Origin], name: &[u8]) {
        self.gone.remove(name);
        let place = |place: &NamePlace| lowers.name_at(contributors, *place).unwrap_or_default().cmp(name);
        if self.numbers.contains_key(name) || self.lower.binary_search_by(place).is_ok() {
            return;
        }
        let number = match self.lowest {
            // A thousand million names have come and gone since the listing was made.
            ..=FIRST => {
                let last = self.by_number.last_key_value().map_or(0, |(last, _)| *last);
                last.max(LOWER + self.lower.len() as u64) + 1
            }
            lowest => lowest - 1,
        };
        self.lowest = self.lowest.min(number);
        let name: Arc<[u8]> = name.into();
        self.by_number.insert(number, Arc::clone(&name));
        self.numbers.insert(name, number);
        self.forget_gone();
    }

    pub fn remove(&mut self, name: &[u8]) {
        if let Some((name, _)) = self.numbers.get_key_value(name) {
            self.gone.insert(Arc::clone(name));
        }
    }

    /// Forgets the removed names before they are most of all.
    fn forget_gone(&mut self) {
        if self.gone.len() > MOST_GONE + self.numbers.len() / 2 {
            for name in self.gone.drain() {
                if let Some(number) = self.numbers.remove(&name) {
                    self.by_number.remove(&number);
                }
            }
        }
    }

    /// The names after `cookie`, each with its number.
    fn after<'a>(
        &self,
        cookie: u64,
        lowers: &'a Lowers,
        contributors: &[Origin],
    ) -> impl Iterator<Item = (u64, Cow<'a, [u8]>)> {
        let from = cookie.saturating_add(1);
        let own = |range| {
            let names = self.by_number.range(range);
            names.map(|(number, name)| (*number, Cow::Owned(name.to_vec())))
        };
        let skipped = usize::try_from(from.saturating_sub(LOWER)).unwrap_or(usize::MAX);
        let lower = self.lower.get(skipped..).unwrap_or_default().iter();
        let lower = (from.max(LOWER)..).zip(lower).filter_map(|(number, place)| {
            let name = lowers.name_at(contributors, *place)?;
            Some((number, Cow::Borrowed(name)))
        });
        let behind = LOWER + self.lower.len() as u64;
        own(from.min(LOWER)..LOWER)
            .chain(lower)
            .chain(own(from.max(behind)..u64::MAX))
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
                Peek::Lower(found, _) => (lowers.number(found.origin), found.kind),
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
