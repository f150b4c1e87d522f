use std::cell::RefCell;
use std::collections::BTreeMap;

use mica_fs::layer::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::look::Stack;
use crate::look::tests::{Layers, Says, dir, file, meta};
use crate::look::waste::waste;

/// Folded layers, each in a directory.
struct Folded {
    _directory: tempfile::TempDir,
    layers: Vec<Option<Arc<Layer>>>,
    base: Vec<Arc<Layer>>,
}

impl Folded {
    fn of(layers: &[Arc<Layer>], base: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let written = RefCell::new(0);
        let folded = fold_stack(&Lowers::new(layers.to_vec()), base, &mut |_, edit| {
            *written.borrow_mut() += 1;
            let place = directory.path().join(written.borrow().to_string());
            std::fs::create_dir(&place).unwrap();
            edit.write(&place)?;
            Ok(Arc::new(Layer::open(&place).unwrap()))
        });
        Self {
            layers: folded.unwrap(),
            base: layers[..base].to_vec(),
            _directory: directory,
        }
    }

    fn all(&self) -> Vec<Arc<Layer>> {
        self.base
            .iter()
            .chain(self.layers.iter().flatten())
            .cloned()
            .collect()
    }

    /// The names of the layer in place of the one of that number, directories left out.
    fn names(&self, number: usize) -> Vec<String> {
        let Some(layer) = &self.layers[number] else {
            return vec!["(none)".to_owned()];
        };
        let mut names = Vec::new();
        let mut todo = vec![(EntryId::ROOT, ImagePath::root())];
        while let Some((dir, at)) = todo.pop() {
            for (name, slot) in layer.index().children(dir) {
                let at = at.join(name);
                match slot {
                    mica_fs::layer::index::Slot::Entry(id) => {
                        let entry = layer.index().entry(id).unwrap();
                        match entry.kind() {
                            mica_fs::layer::Kind::Directory => todo.push((id, at)),
                            _ => names.push(format!("{at} {:o}", entry.mode())),
                        }
                    }
                    _ => names.push(format!("-{at}")),
                }
            }
        }
        names.sort();
        names
    }
}

fn chmod(mode: u32, text: &str) -> Says {
    Says::File(meta(mode), text.as_bytes().to_vec())
}

#[test]
fn metadata_goes_down_and_what_is_gone_goes() {
    let later = mica_fs::layer::Metadata {
        mtime: Timestamp::from_seconds(9),
        ..meta(0o755)
    };
    let layers = Layers::new()
        .layer(&[("base", file("base")), ("d", dir())])
        .layer(&[
            ("d", dir()),
            ("d/app", file("application")),
            ("d/deleted", file("x")),
            ("tmp", dir()),
            ("tmp/cache", file("cache")),
        ])
        .layer(&[
            ("d", dir()),
            ("d/app", chmod(0o700, "application")),
            ("base", chmod(0o600, "base")),
        ])
        .layer(&[("d", Says::Dir(later)), ("d/app", chmod(0o711, "application"))])
        .layer(&[("d", dir()), ("d/deleted", Says::Gone), ("tmp", Says::Gone)])
        .layer(&[("last", file("last"))]);
    let folded = Folded::of(layers.stack().layers(), 1);
    assert_eq!(folded.names(0), ["/d/app 711"]);
    // A file of the base is not moved into it.
    assert_eq!(folded.names(1), ["/base 600"]);
    assert_eq!(folded.names(2), ["(none)"]);
    assert_eq!(folded.names(3), ["(none)"]);
    let untouched = folded.layers[4].as_ref().unwrap().diff_id();
    assert_eq!(untouched, layers.stack().layers()[5].diff_id());
    let left = waste(&Stack::new(folded.all()));
    assert_eq!((left.wasted(), left.stored()), (4, 4 + 11 + 4 + 4));
}

#[test]
fn what_hides_the_base_stays() {
    let layers = Layers::new()
        .layer(&[
            ("a", file("a")),
            ("d", dir()),
            ("d/x", file("x")),
            ("f", file("f")),
        ])
        .layer(&[("a", file("other")), ("d", Says::Gone), ("f", Says::Gone)])
        .layer(&[("a", Says::Gone), ("d", dir()), ("d/y", file("y"))])
        .layer(&[("f", file("f again"))]);
    let folded = Folded::of(layers.stack().layers(), 1);
    assert_eq!(folded.names(0), ["-/a", "-/d", "-/f"]);
    // The whiteout of `a` below it does the same.
    assert_eq!(folded.names(1), ["/d/y 644"]);
}

#[test]
fn links_are_moved_together_or_not_at_all() {
    let layers = Layers::new()
        .layer(&[
            ("one", file("bytes")),
            ("two", Says::Link("one")),
            ("three", file("3")),
            ("four", Says::Link("three")),
        ])
        .layer(&[
            ("one", chmod(0o600, "bytes")),
            ("two", Says::Link("one")),
            ("three", chmod(0o600, "3")),
        ]);
    let folded = Folded::of(layers.stack().layers(), 0);
    assert_eq!(folded.names(0), ["/four 644", "/one 600", "/two 600"]);
    assert_eq!(folded.names(1), ["/three 600"]);
}

#[test]
fn a_difference_is_found() {
    let one = Layers::new().layer(&[("a", file("1")), ("b", Says::Link("a"))]);
    let changed = [
        Layers::new().layer(&[("a", file("1")), ("b", file("1"))]),
        Layers::new().layer(&[("a", file("2")), ("b", Says::Link("a"))]),
        Layers::new().layer(&[("a", chmod(0o600, "1")), ("b", Says::Link("a"))]),
        Layers::new().layer(&[("a", file("1")), ("b", Says::Link("a")), ("c", file(""))]),
    ];
    let lowers = |layers: &Layers| Lowers::new(layers.stack().layers().to_vec());
    assert_eq!(same::first_difference(&lowers(&one), &lowers(&one)), None);
    for other in &changed {
        assert!(same::first_difference(&lowers(&one), &lowers(other)).is_some());
    }
}

/// A layer of a few names: what a path is comes of two numbers. Parents may be left to be implied.
fn layer_of(numbers: &[(u8, u8)]) -> Vec<(String, Says)> {
    const NAMES: [&str; 8] = ["a", "a/x", "a/y", "b", "b/x", "b/c", "b/c/x", "z"];
    let mut says: BTreeMap<String, Says> = BTreeMap::new();
    for (name, what) in numbers {
        let at = NAMES[usize::from(*name) % NAMES.len()].to_owned();
        let above = |other: &str| at.starts_with(&format!("{other}/"));
        let fits = says
            .iter()
            .all(|(other, says)| !above(other) || matches!(says, Says::Dir(_) | Says::Opaque));
        let below = says.keys().any(|other| other.starts_with(&format!("{at}/")));
        let metadata = mica_fs::layer::Metadata {
            mtime: Timestamp::from_seconds(i64::from(what / 64)),
            ..meta(if what % 2 == 0 { 0o644 } else { 0o755 })
        };
        let first = says
            .iter()
            .find(|(other, says)| matches!(says, Says::File(..)) && **other != at);
        let new = match what % 16 {
            _ if !fits || says.contains_key(&at) => continue,
            0..=3 => Says::Dir(metadata),
            _ if below => continue,
            4..=5 => Says::Gone,
            6..=7 if first.is_some() => Says::Link(
                NAMES
                    .iter()
                    .find(|name| Some(**name) == first.map(|(at, _)| at.as_str()))
                    .unwrap(),
            ),
            8 => Says::Symlink("x"),
            n => Says::File(metadata, vec![b'0' + n % 3; 3]),
        };
        if matches!(new, Says::Dir(_)) && what % 16 == 3 {
            // `!` comes before every name below it.
            says.insert(format!("{at}/!"), Says::Opaque);
        }
        says.insert(at, new);
    }
    // A link comes after its target.
    let (links, others): (Vec<_>, Vec<_>) = says
        .into_iter()
        .partition(|(_, says)| matches!(says, Says::Link(_)));
    let plain = |(at, says): (String, Says)| (at.trim_end_matches("/!").to_owned(), says);
    others.into_iter().chain(links).map(plain).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// That nothing changes is checked by the folding itself, which fails otherwise.
    #[test]
    fn folding_changes_nothing_and_stores_less(
        stack in prop::collection::vec(prop::collection::vec(any::<(u8, u8)>(), 0..8), 2..6),
        base in 0_usize..2,
    ) {
        let mut layers = Layers::new();
        for numbers in &stack {
            let says = layer_of(numbers);
            let says: Vec<_> = says.iter().map(|(at, says)| (at.as_str(), says.clone())).collect();
            layers.push(&says);
        }
        let before = layers.stack();
        let folded = Folded::of(before.layers(), base);
        let after = Stack::new(folded.all());
        let (old, new) = (waste(&before), waste(&after));
        prop_assert!(new.stored() <= old.stored());
        // What is deleted or overwritten within the build is not stored at all.
        for file in &new.hidden {
            prop_assert!(file.layer <= base, "{file:?}");
        }
        // There is nothing left to do.
        let again = Folded::of(&folded.all(), base);
        prop_assert_eq!(waste(&Stack::new(again.all())).stored(), new.stored());
    }
}
