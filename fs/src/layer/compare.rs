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
        in_b: HashMap::new(),
        in_a: HashMap::new(),
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
    in_b: HashMap<EntryId, EntryId>,
    /// The same the other way.
    in_a: HashMap<EntryId, EntryId>,
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
        let in_b = *self.in_b.entry(a).or_insert(b);
        let in_a = *self.in_a.entry(b).or_insert(a);
        if (in_a, in_b) != (a, b) || !alike(&left, &right) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layer::{Layer, Metadata};
    use crate::overlay::tests::{Member, file, layer_of, metadata};

    type Members = Vec<(String, Metadata, Member)>;

    fn members() -> Members {
        let plain = |path: &str, member| (path.to_owned(), metadata(0o755, 1000), member);
        vec![
            plain("/d", Member::Directory),
            plain("/d/file", file("content")),
            plain("/d/second", Member::HardLink("/d/file".to_owned())),
            plain("/d/third", file("content")),
            plain("/gone", Member::Whiteout),
            plain("/link", Member::Symlink(b"d".to_vec())),
        ]
    }

    /// The paths at which a layer differs once `change` has changed it.
    fn differ(change: impl FnOnce(&mut Members)) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, members: &Members| -> Arc<Layer> { layer_of(&dir.path().join(name), members) };
        let before = write("before", &members());
        let mut changed = members();
        change(&mut changed);
        let after = write("after", &changed);
        let one_way = differences(before.index(), after.index());
        assert_eq!(one_way, differences(after.index(), before.index()));
        one_way.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn times_do_not_count() {
        let nothing = differ(|members| {
            for (_, metadata, _) in members {
                metadata.mtime = Timestamp::from_seconds(7);
            }
        });
        assert_eq!(nothing, Vec::<String>::new());
    }

    #[test]
    fn all_else_counts() {
        assert_eq!(differ(|members| members[3].2 = file("CONTENT")), ["/d/third"]);
        assert_eq!(differ(|members| members[3].1.mode = 0o600), ["/d/third"]);
        assert_eq!(differ(|members| members[0].1.uid = 5), ["/d"]);
        assert_eq!(
            differ(|members| members[5].2 = Member::Symlink(b"e".to_vec())),
            ["/link"]
        );
        assert_eq!(differ(|members| drop(members.remove(4))), ["/gone"]);
        assert_eq!(differ(|members| members[4].2 = file("not gone")), ["/gone"]);
        let attribute = differ(|members| {
            let xattrs = &mut members[3].1.xattrs;
            xattrs.insert(b"user.x".to_vec(), b"1".to_vec());
        });
        assert_eq!(attribute, ["/d/third"]);
        let opaque = ("/d".to_owned(), Metadata::default(), Member::Opaque);
        assert_eq!(differ(|members| members.insert(1, opaque)), ["/d"]);
        let added = ("/d/sub/new".to_owned(), metadata(0o644, 1), file(""));
        assert_eq!(differ(|members| members.push(added)), ["/d/sub"]);
    }

    #[test]
    fn which_names_are_one_file_counts() {
        let copied = differ(|members| members[2].2 = file("content"));
        assert_eq!(copied, ["/d/file", "/d/second"]);
        let another = differ(|members| {
            members[2].2 = Member::HardLink("/d/third".to_owned());
            // A link follows its target.
            members.swap(2, 3);
        });
        assert!(another.contains(&"/d/second".to_owned()), "{another:?}");
    }

    #[test]
    fn the_oldest_and_the_newest_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut members = members();
        members[3].1.mtime = Timestamp::from_seconds(1);
        members[0].1.mtime = Timestamp::from_seconds(5000);
        let layer = layer_of(dir.path(), &members);
        assert_eq!(oldest(layer.index()), Some(Timestamp::from_seconds(1)));
        assert_eq!(newest(layer.index()), Some(Timestamp::from_seconds(5000)));
    }
}
