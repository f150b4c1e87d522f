//! Random layers made elsewhere, against unpacking them one over the other.

use proptest::prelude::*;

use super::*;

/// A name of the top directory in one layer, and what the layer has there; `None` inside removes a name.
#[derive(Clone, Debug)]
enum Part {
    Leaf(u8),
    Gone,
    Dir {
        opaque: bool,
        inside: BTreeMap<char, Option<u8>>,
    },
}

fn part() -> impl Strategy<Value = Part> {
    let inside = prop::collection::btree_map(prop::char::range('a', 'c'), any::<Option<u8>>(), 0..3);
    prop_oneof![
        any::<u8>().prop_map(Part::Leaf),
        Just(Part::Gone),
        (any::<bool>(), inside).prop_map(|(opaque, inside)| Part::Dir { opaque, inside }),
    ]
}

fn remove(tree: &mut BTreeMap<String, Option<u8>>, at: &str) {
    let below = format!("{at}/");
    tree.retain(|path, _| path != at && !path.starts_with(&below));
}

/// Unpacks a part; directories are `None`.
fn unpack(tree: &mut BTreeMap<String, Option<u8>>, at: &str, part: &Part) {
    match part {
        Part::Gone => remove(tree, at),
        Part::Leaf(byte) => {
            remove(tree, at);
            tree.insert(at.to_owned(), Some(*byte));
        }
        Part::Dir { opaque, inside } => {
            if *opaque || tree.get(at).is_some_and(|before| before.is_some()) {
                remove(tree, at);
            }
            tree.insert(at.to_owned(), None);
            for (name, what) in inside {
                let path = format!("{at}/{name}");
                remove(tree, &path);
                if let Some(byte) = what {
                    tree.insert(path, Some(*byte));
                }
            }
        }
    }
}

fn members(at: &str, part: &Part) -> Vec<(String, Member)> {
    match part {
        Part::Gone => vec![(at.to_owned(), Member::Whiteout)],
        Part::Leaf(byte) => vec![(at.to_owned(), Member::File(vec![*byte]))],
        Part::Dir { opaque, inside } => {
            let mut all = vec![(at.to_owned(), Member::Directory)];
            if *opaque {
                all.push((at.to_owned(), Member::Opaque));
            }
            all.extend(inside.iter().map(|(name, what)| {
                let member = what.map_or(Member::Whiteout, |byte| Member::File(vec![byte]));
                (format!("{at}/{name}"), member)
            }));
            all
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn layers_merge_as_they_unpack(
        layers in prop::collection::vec(
            prop::collection::btree_map(prop::char::range('x', 'z'), part(), 0..4),
            1..5,
        ),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut unpacked = BTreeMap::from([(String::new(), None)]);
        let mut stack = Vec::new();
        for (n, parts) in layers.iter().enumerate() {
            let mut all = Vec::new();
            for (name, part) in parts {
                let at = format!("/{name}");
                unpack(&mut unpacked, &at, part);
                all.extend(members(&at, part));
            }
            let all: Vec<_> = all.iter().map(|(at, member)| (at.as_str(), member.clone())).collect();
            stack.push(layer(&dir.path().join(format!("{n}")), &all));
        }
        let merged = tree(&Overlay::read_only(stack)).into_iter();
        let merged: BTreeMap<_, _> = merged.map(|(at, seen)| (at, seen.content.first().copied())).collect();
        prop_assert_eq!(merged, unpacked);
    }
}
