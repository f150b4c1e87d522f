//! Whether two layers make the same changes.

use std::collections::HashMap;

use super::index::{Entry, EntryId, Index, Slot};
use super::{Kind, Timestamp};
use crate::path::ImagePath;

/// The paths at which two layers differ in anything but times, sorted: in what is there, its type, content, mode, owner,
/// attributes, in what is removed, and in which names are one file.
pub fn differences(a: &Index, b: &Index) -> Vec<ImagePath> {
    let mut compared = Compared {
        a,
        b,
        same: HashMap::new(),
        differ: Vec::new(),
    };
    compared.node(&ImagePath::root(), EntryId::ROOT, EntryId::ROOT);
    let mut todo = vec![(ImagePath::root(), EntryId::ROOT, EntryId::ROOT)];
    while let Some((path, in_a, in_b)) = todo.pop() {
        compared.directory(&path, in_a, in_b, &mut todo);
    }
    compared.differ.sort();
    compared.differ
}

/// The earliest time that something in the layer has which is no directory; `None` if there is nothing.
pub fn oldest(index: &Index) -> Option<Timestamp> {
    entries(index)
        .filter(|entry| entry.kind() != Kind::Directory)
        .map(|entry| entry.mtime())
        .min()
}

/// The latest time of anything in the layer.
pub fn newest(index: &Index) -> Option<Timestamp> {
    entries(index)
        .filter(|entry| !entry.is_implicit())
        .map(|entry| entry.mtime())
        .max()
}

fn entries(index: &Index) -> impl Iterator<Item = Entry<'_>> {
    (0..index.len()).filter_map(|id| index.entry(EntryId(id)))
}

struct Compared<'a> {
    a: &'a Index,
    b: &'a Index,
    /// Which node of the second layer a node of the first one is.
    same: HashMap<EntryId, EntryId>,
    differ: Vec<ImagePath>,
}

impl Compared<'_> {
    /// Compares the names of a directory that both have; adds the directories among them.
    fn directory(
        &mut self,
        path: &ImagePath,
        in_a: EntryId,
        in_b: EntryId,
        todo: &mut Vec<(ImagePath, EntryId, EntryId)>,
    ) {
        let (mut of_a, mut of_b) = (self.a.children(in_a).peekable(), self.b.children(in_b).peekable());
        loop {
            let order = match (of_a.peek(), of_b.peek()) {
                (None, None) => return,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
            };
            let left = if order.is_le() { of_a.next() } else { None };
            let right = if order.is_ge() { of_b.next() } else { None };
            let Some((name, _)) = left.as_ref().or(right.as_ref()) else {
                return;
            };
            let path = path.join(name);
            match (left.map(|(_, slot)| slot), right.map(|(_, slot)| slot)) {
                (Some(Slot::Entry(a)), Some(Slot::Entry(b))) => {
                    if self.node(&path, a, b) && a > in_a && b > in_b {
                        todo.push((path, a, b));
                    }
                }
                (a, b) if a == b => {}
                _ => self.differ.push(path),
            }
        }
    }

    /// Whether both are directories.
    fn node(&mut self, path: &ImagePath, a: EntryId, b: EntryId) -> bool {
        let (Some(left), Some(right)) = (self.a.entry(a), self.b.entry(b)) else {
            self.differ.push(path.clone());
            return false;
        };
        if *self.same.entry(a).or_insert(b) != b || !alike(&left, &right) {
            self.differ.push(path.clone());
        }
        left.kind() == Kind::Directory && right.kind() == Kind::Directory
    }
}

fn alike(a: &Entry<'_>, b: &Entry<'_>) -> bool {
    let of = |entry: &Entry<'_>| {
        (
            (entry.kind(), entry.mode(), entry.uid(), entry.gid()),
            (entry.size(), entry.digest(), entry.nlink(), entry.device()),
            (entry.is_opaque(), entry.is_implicit(), entry.xattrs()),
        )
    };
    of(a) == of(b) && a.target() == b.target()
}
