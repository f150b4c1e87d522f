//! Random stacks of layers, and what a naive merge makes of them.

use proptest::prelude::*;

use super::kernel::Kernel;
use super::naive::{Model, ModelNode, Time};
use super::{Dice, assert_alike, assert_same_tree, effort, pack, step};
use crate::overlay::tests::*;

/// The members of one layer, by path: a name is there once, and what lies above an entry is a directory.
type Spec = BTreeMap<String, (Metadata, Member)>;

fn spec(numbers: &[u64]) -> Spec {
    let mut spec = Spec::new();
    for number in numbers {
        let mut dice = Dice(*number);
        let (parent, name) = dice.path();
        let at = format!("{parent}/{name}");
        let mut metadata = metadata(
            [0o755, 0o700, 0o2775][dice.roll(3) as usize],
            dice.roll(100) as i64,
        );
        metadata.uid = dice.roll(3) as u32;
        if dice.roll(4) == 0 {
            metadata.xattrs.insert(b"user.x".to_vec(), b"lower".to_vec());
        }
        let mut above = parent.as_str();
        let mut fits = !spec.contains_key(&at);
        while !above.is_empty() {
            fits &= spec
                .get(above)
                .is_none_or(|(_, member)| matches!(member, Member::Directory));
            above = above.rsplit_once('/').map_or("", |(rest, _)| rest);
        }
        let has_children = spec.keys().any(|other| other.starts_with(&format!("{at}/")));
        let linked = spec
            .iter()
            .find(|(_, (_, member))| matches!(member, Member::File(_)));
        let member = match dice.roll(12) {
            0..=2 => Member::Directory,
            _ if has_children => continue,
            3..=5 => Member::File(dice.bytes()),
            6 => Member::Symlink(b"a".to_vec()),
            7 => Member::Char(Device { major: 0, minor: 0 }),
            8 | 9 => Member::Whiteout,
            _ => match linked {
                Some((target, _)) => Member::HardLink(target.clone()),
                None => Member::Fifo,
            },
        };
        if !fits {
            continue;
        }
        if matches!(member, Member::Directory) && dice.roll(3) == 0 {
            // Written as a member `at/` after the directory.
            spec.insert(format!("{at}/"), (metadata.clone(), Member::Opaque));
        }
        spec.insert(at, (metadata, member));
    }
    spec
}

fn write(directory: &Path, spec: &Spec) -> Arc<Layer> {
    let links_last =
        |(_, (_, member)): &(&String, &(Metadata, Member))| matches!(member, Member::HardLink(_));
    let (links, others): (Vec<_>, Vec<_>) = spec.iter().partition(links_last);
    let members: Vec<_> = others
        .into_iter()
        .chain(links)
        .map(|(at, (metadata, member))| {
            (
                at.trim_end_matches('/').to_owned(),
                metadata.clone(),
                member.clone(),
            )
        })
        .collect();
    layer_of(directory, &members)
}

/// Applies a layer to what the layers below show.
fn merge(model: &mut Model, spec: &Spec) {
    for (at, (_, member)) in spec {
        match member {
            Member::Whiteout => remove(model, at),
            Member::Opaque => {
                if let Some(id) = model.find(at) {
                    model.get(id).entries.clear();
                }
            }
            _ => {}
        }
    }
    let mut links = Vec::new();
    for (at, (metadata, member)) in spec {
        let kind = match member {
            Member::Directory => Kind::Directory,
            Member::File(_) => Kind::File,
            Member::Symlink(_) => Kind::Symlink,
            Member::Char(_) => Kind::CharDevice,
            Member::Fifo => Kind::Fifo,
            Member::HardLink(target) => {
                links.push((at, target));
                continue;
            }
            Member::Whiteout => {
                make_directory(model, at.rsplit_once('/').expect("absolute").0);
                continue;
            }
            Member::Opaque => continue,
        };
        let content = match member {
            Member::File(bytes) | Member::Symlink(bytes) => bytes.clone(),
            _ => Vec::new(),
        };
        add(model, at, Some(metadata), kind, content);
    }
    for (at, target) in links {
        remove(model, at);
        let id = model.find(target).expect("a file of this layer");
        let (parent, name) = at.rsplit_once('/').expect("absolute");
        let parent = make_directory(model, parent);
        model.get(parent).entries.insert(name.to_owned(), id);
    }
}

fn remove(model: &mut Model, at: &str) {
    let (parent, name) = at.rsplit_once('/').expect("absolute");
    if let Some(parent) = model.find(parent) {
        model.get(parent).entries.remove(name);
    }
}

/// A directory that is no member of a layer is there by what lies in it.
fn make_directory(model: &mut Model, at: &str) -> usize {
    match model.find(at) {
        Some(id) if model.get(id).kind == Kind::Directory => id,
        _ => add(model, at, None, Kind::Directory, Vec::new()),
    }
}

fn add(model: &mut Model, at: &str, metadata: Option<&Metadata>, kind: Kind, content: Vec<u8>) -> usize {
    let (parent, name) = at.rsplit_once('/').expect("absolute");
    let parent = make_directory(model, parent);
    let default = Metadata {
        mode: 0o755,
        ..Metadata::default()
    };
    let before = model
        .find(at)
        .filter(|id| kind == Kind::Directory && model.nodes[id].kind == kind);
    let metadata = metadata.unwrap_or(&default);
    let node = ModelNode {
        kind,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        xattrs: metadata.xattrs.clone(),
        content,
        device: Device::default(),
        entries: before
            .map(|id| model.nodes[&id].entries.clone())
            .unwrap_or_default(),
        links: 1,
        mtime: Time::Exactly(metadata.mtime),
        ino: None,
    };
    let id = model.nodes.keys().last().map_or(0, |last| last + 1);
    model.nodes.insert(id, node);
    model.get(parent).entries.insert(name.to_owned(), id);
    id
}

/// Counts the names of each node: a layer above may have hidden some.
fn count_links(model: &mut Model) {
    let names: Vec<_> = model.shows().into_values().map(|(id, _)| id).collect();
    for node in model.nodes.values_mut() {
        node.links = 0;
    }
    for id in names {
        model.get(id).links += 1;
    }
}

/// A random stack shows what the naive merge does, a random session on it does what it does on the model, and its
/// layer shows the same.
fn run(layers: &[Vec<u64>], session: &[u64]) {
    let dir = tempfile::tempdir().expect("a directory");
    let specs: Vec<_> = layers.iter().map(|numbers| spec(numbers)).collect();
    let mut stack = Vec::new();
    let mut model = Model::default();
    let root = ModelNode {
        kind: Kind::Directory,
        mode: 0o755,
        uid: 0,
        gid: 0,
        xattrs: Xattrs::new(),
        content: Vec::new(),
        device: Device::default(),
        entries: BTreeMap::new(),
        links: 1,
        mtime: Time::NotBefore(Timestamp::default()),
        ino: None,
    };
    model.nodes.insert(0, root);
    for (number, spec) in specs.iter().enumerate() {
        stack.push(write(&dir.path().join(format!("layer{number}")), spec));
        merge(&mut model, spec);
    }
    count_links(&mut model);
    assert_alike(&Overlay::read_only(stack.clone()), &mut model);
    let session_dir = dir.path().join("upper");
    std::fs::create_dir_all(&session_dir).expect("a directory");
    let overlay = Overlay::writable(stack.clone(), Upper::scratch(&session_dir), Options::default());
    let overlay = overlay.expect("an overlay");
    let mut kernel = Kernel::new(&overlay);
    for number in session {
        step(&mut kernel, &mut model, *number);
    }
    drop(kernel);
    stack.push(pack(&overlay, &dir.path().join("packed")));
    assert_same_tree(&overlay, &Overlay::read_only(stack));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: effort(48), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn random_stacks_agree_with_the_model(
        layers in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..16), 1..5),
        session in prop::collection::vec(any::<u64>(), 0..30),
    ) {
        run(&layers, &session);
    }
}
