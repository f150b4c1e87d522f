//! Random operations on the overlay and on a naive model of a filesystem: both must answer alike and show the
//! same tree, before and after the session is made into a layer.

use proptest::prelude::*;

use super::*;
use crate::snapshot;

mod concurrent;
mod kernel;
mod naive;
mod operation;
mod stack;

use kernel::Kernel;
use naive::{Model, ModelNode, Outcome};
use operation::{change, create, link};

fn assert_alike(overlay: &Overlay, model: &mut Model) {
    let (mut seen, expected) = (kernel::look(overlay), model.shows());
    let paths: Vec<_> = seen.keys().cloned().collect();
    assert_eq!(paths, expected.keys().cloned().collect::<Vec<_>>());
    for (at, (id, node)) in expected {
        let seen = seen.remove(&at).expect("the paths are the same");
        assert_node(&at, &seen, &node);
        let ino = *model.get(id).ino.get_or_insert(seen.ino);
        assert_eq!(ino, seen.ino, "{at}: another inode number");
    }
}

fn assert_node(at: &str, seen: &Seen, node: &ModelNode) {
    assert_eq!(
        (seen.kind, seen.mode, seen.uid, seen.gid, seen.device),
        (node.kind, node.mode, node.uid, node.gid, node.device),
        "{at}"
    );
    assert_eq!(seen.xattrs, node.xattrs, "{at}");
    assert_eq!(seen.content.len(), node.content.len(), "{at}");
    assert!(seen.content == node.content, "{at}: the content differs");
    assert!(
        node.mtime.allows(seen.mtime),
        "{at}: {:?}, not {:?}",
        seen.mtime,
        node.mtime
    );
    if node.kind != Kind::Directory {
        assert_eq!(seen.nlink, node.links, "{at}");
    }
}

/// Operations are drawn from numbers, so that proptest can make a failing sequence smaller.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        let result = self.0 % sides;
        self.0 = (self.0 / sides) ^ self.0.rotate_left(29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        result
    }

    fn path(&mut self) -> (String, String) {
        let mut parent = String::new();
        for _ in 0..self.roll(3) {
            parent = format!("{parent}/{}", self.name());
        }
        (parent, self.name())
    }

    fn name(&mut self) -> String {
        ["a", "b", "c", "d"][self.roll(4) as usize].to_owned()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let size = [0, 3, 5000, 16_384, 40_000, 100_000][self.roll(6) as usize];
        let byte = self.roll(4) as u8;
        vec![byte; size]
    }

    fn offset(&mut self) -> u64 {
        [0, 1, 4096, 16_000, 16_384, 70_000][self.roll(6) as usize]
    }
}

/// One operation on both; the answers must agree, and everything that is to be seen.
fn step(kernel: &mut Kernel<'_>, model: &mut Model, number: u64) {
    let mut dice = Dice(number);
    let operation = dice.roll(24);
    model.now = Timestamp::now();
    kernel.forget_some(&mut dice);
    let answers = match operation {
        0..16 => named(kernel, model, &mut dice, operation),
        16..21 => opened(kernel, model, &mut dice, operation),
        _ => {
            kernel.read_a_directory(model, &mut dice);
            None
        }
    };
    if let Some((ours, theirs)) = answers {
        assert_eq!(
            ours.map_err(|error| error.errno()),
            theirs,
            "operation {operation}"
        );
    }
    assert_alike(kernel.overlay, model);
    kernel.assert_open_alike(model);
}

type Answers = Option<(Result<()>, Outcome)>;

/// An operation on a path.
fn named(kernel: &mut Kernel<'_>, model: &mut Model, dice: &mut Dice, operation: u64) -> Answers {
    let overlay = kernel.overlay;
    let (parent_path, name) = dice.path();
    let parent = directory(model, &parent_path)?;
    let dir = kernel.ino(&parent_path);
    let at = format!("{parent_path}/{name}");
    Some(match operation {
        0..=3 => create(overlay, model, dice, (parent, dir), &name),
        4 => (
            overlay.unlink(dir, name.as_bytes()),
            model.remove(parent, &name, false),
        ),
        5 => (
            overlay.rmdir(dir, name.as_bytes()),
            model.remove(parent, &name, true),
        ),
        6..=8 => {
            let (other_path, other_name) = dice.path();
            let mode = [
                RenameMode::Replace,
                RenameMode::Replace,
                RenameMode::NoReplace,
                RenameMode::Exchange,
            ][dice.roll(4) as usize];
            let other = directory(model, &other_path)?;
            let other_dir = kernel.ino(&other_path);
            (
                overlay.rename(dir, name.as_bytes(), other_dir, other_name.as_bytes(), mode),
                model.rename((parent, &name), (other, &other_name), mode),
            )
        }
        9 => {
            let (other_path, other_name) = dice.path();
            let other_path = format!("{other_path}/{other_name}");
            let other = model.find(&other_path)?;
            let ino = kernel.ino(&other_path);
            link(overlay, model, (other, ino), (parent, dir), &name)
        }
        _ => {
            let id = model.find(&at)?;
            let ino = kernel.ino(&at);
            change(overlay, model, id, dice, ino)
        }
    })
}

fn directory(model: &mut Model, path: &str) -> Option<usize> {
    let id = model.find(path)?;
    (model.get(id).kind == Kind::Directory).then_some(id)
}

/// An operation on something open, which may have been removed.
fn opened(kernel: &mut Kernel<'_>, model: &mut Model, dice: &mut Dice, operation: u64) -> Answers {
    let overlay = kernel.overlay;
    match operation {
        16 => {
            let (parent, name) = dice.path();
            let at = format!("{parent}/{name}");
            let id = model.find(&at)?;
            kernel.open(id, &at);
            None
        }
        17 => {
            kernel.close_one(dice);
            None
        }
        _ => {
            let (id, ino) = kernel.one_open(dice)?;
            let is_directory = model.get(id).kind == Kind::Directory;
            Some(match dice.roll(4) {
                0 => link(overlay, model, (id, ino), (0, Ino::ROOT), &dice.name()),
                1 if is_directory => create(overlay, model, dice, (id, ino), "a"),
                _ => change(overlay, model, id, dice, ino),
            })
        }
    }
}

/// Random operations on an overlay, whatever it shows; the answers agree with the model's.
pub(crate) fn play(overlay: &Overlay, numbers: &[u64]) {
    let mut model = Model::of(overlay);
    let mut kernel = Kernel::new(overlay);
    for number in numbers {
        step(&mut kernel, &mut model, *number);
    }
}

/// The session as a layer on its stack shows what the session showed.
fn pack(overlay: &Overlay, directory: &Path) -> Arc<Layer> {
    std::fs::create_dir_all(directory).expect("a directory");
    let mut writer = LayerWriter::new(directory).expect("a layer");
    snapshot::pack(overlay, &mut writer).expect("packed");
    writer.finish().expect("finished");
    Arc::new(Layer::open(directory).expect("a layer"))
}

fn assert_same_tree(live: &Overlay, packed: &Overlay) {
    let (live, packed) = (tree(live), tree(packed));
    let live: Vec<_> = live
        .into_iter()
        .filter(|(_, seen)| seen.kind != Kind::Socket)
        .collect();
    let comparable = |seen: &Seen| {
        let mtime = (seen.kind != Kind::Directory).then_some(seen.mtime);
        Seen {
            ino: Ino::ROOT,
            nlink: 0,
            mtime: mtime.unwrap_or_default(),
            ..seen.clone()
        }
    };
    let paths: Vec<_> = live.iter().map(|(at, _)| at).collect();
    assert_eq!(paths, packed.keys().collect::<Vec<_>>());
    for (at, seen) in &live {
        let (seen, after) = (comparable(seen), comparable(&packed[at]));
        assert!(
            seen == after,
            "{at}: {:?} {:?}",
            (seen.kind, seen.mode, seen.mtime, &seen.xattrs),
            (after.kind, after.mode, after.mtime, &after.xattrs)
        );
    }
}

/// Sessions on top of each other, each a layer for the next; some are recorded, some end and go on.
fn run(sessions: &[Vec<u64>]) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut layers: Vec<Arc<Layer>> = Vec::new();
    for (n, numbers) in sessions.iter().enumerate() {
        let at = dir.path().join(format!("upper{n}"));
        std::fs::create_dir_all(&at).expect("a directory");
        let named = numbers.len() % 2 == 1;
        let open = || {
            let upper = if named {
                Upper::named(&at)
            } else {
                Upper::scratch(&at)
            };
            let options = Options {
                record: n % 2 == 1,
                ..Options::default()
            };
            Overlay::writable(layers.clone(), upper, options).expect("an overlay")
        };
        let mut overlay = open();
        let mut model = Model::of(&Overlay::read_only(layers.clone()));
        let mut kernel = Kernel::new(&overlay);
        for number in numbers {
            step(&mut kernel, &mut model, *number);
        }
        drop(kernel);
        assert_alike(&overlay, &mut model);
        if named {
            overlay.save().expect("saved");
            let before = tree(&overlay);
            drop(overlay);
            overlay = open();
            assert_eq!(tree(&overlay), before);
        }
        let packed = pack(&overlay, &dir.path().join(format!("layer{n}")));
        layers.push(packed);
        assert_same_tree(&overlay, &Overlay::read_only(layers.clone()));
    }
}

/// As many sessions as bits of the seed say.
fn run_seed(seed: u64, length: u64) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^ (mixed >> 27)
    };
    let sessions = 1 + next() % 4;
    let sessions: Vec<Vec<u64>> = (0..sessions)
        .map(|_| (0..next() % length).map(|_| next()).collect())
        .collect();
    run(&sessions);
}

/// How often to try: often, or very often with `scripts/test --long`.
fn effort(times: u32) -> u32 {
    match std::env::var_os("MICA_TEST_LONG") {
        Some(_) => times * 100,
        None => times,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: effort(24), max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn random_sessions_agree_with_the_model(
        sessions in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..40), 1..4),
    ) {
        run(&sessions);
    }
}

#[test]
fn seeded_sessions_agree_with_the_model() {
    let seeds = std::env::var("MICA_MODEL_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok());
    for seed in 0..seeds.unwrap_or(u64::from(effort(40))) {
        run_seed(seed, 200);
    }
}
