//! Random operations on the overlay and on a naive model of a filesystem: both must answer alike and show the
//! same tree, before and after the session is made into a layer.

use proptest::prelude::*;

use super::*;
use crate::snapshot;

mod naive;

use naive::{Model, ModelNode, Outcome};

fn assert_alike(overlay: &Overlay, model: &Model) {
    let (seen, expected) = (tree(overlay), model.shows());
    let paths = |keys: Vec<&String>| keys.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(paths(seen.keys().collect()), paths(expected.keys().collect()));
    for (at, node) in expected {
        let seen = &seen[&at];
        assert_eq!(
            (seen.kind, seen.mode, seen.uid, seen.gid, seen.device),
            (node.kind, node.mode, node.uid, node.gid, node.device),
            "{at}"
        );
        assert_eq!(seen.xattrs, node.xattrs, "{at}");
        assert_eq!(seen.content.len(), node.content.len(), "{at}");
        assert!(seen.content == node.content, "{at}: the content differs");
        if node.kind != Kind::Directory {
            assert_eq!(seen.nlink, node.links, "{at}");
        }
    }
}

/// Looks names up as a kernel does, and forgets them at some time later.
struct Kernel<'a> {
    overlay: &'a Overlay,
    references: Vec<Ino>,
}

impl Kernel<'_> {
    fn ino(&mut self, at: &str) -> Ino {
        let mut ino = Ino::ROOT;
        for name in at.split('/').filter(|name| !name.is_empty()) {
            ino = self.overlay.lookup(ino, name.as_bytes()).expect("found").ino;
            self.references.push(ino);
        }
        ino
    }

    fn forget_some(&mut self, dice: &mut Dice) {
        while self.references.len() > 6 {
            let which = dice.roll(self.references.len() as u64) as usize;
            self.overlay.forget(self.references.swap_remove(which), 1);
        }
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        for ino in self.references.drain(..) {
            self.overlay.forget(ino, 1);
        }
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
        let size = [0, 3, 5000, 16_384, 40_000][self.roll(5) as usize];
        let byte = self.roll(4) as u8;
        vec![byte; size]
    }

    fn offset(&mut self) -> u64 {
        [0, 1, 4096, 16_000, 16_384, 70_000][self.roll(6) as usize]
    }
}

/// One operation on both; the answers must agree.
fn step(overlay: &Overlay, kernel: &mut Kernel<'_>, model: &mut Model, number: u64) {
    let mut dice = Dice(number);
    let operation = dice.roll(16);
    let (parent_path, name) = dice.path();
    let Some(parent) = model.find(&parent_path) else {
        return;
    };
    if model.get(parent).kind != Kind::Directory {
        return;
    }
    kernel.forget_some(&mut dice);
    let dir = kernel.ino(&parent_path);
    let at = format!("{parent_path}/{name}");
    let target = model.find(&at);
    let (ours, theirs) = match operation {
        0..=3 => create(overlay, model, &mut dice, (parent, dir), &name),
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
            let Some(other) = model.find(&other_path) else {
                return;
            };
            if model.get(other).kind != Kind::Directory {
                return;
            }
            let other_dir = kernel.ino(&other_path);
            (
                overlay.rename(dir, name.as_bytes(), other_dir, other_name.as_bytes(), mode),
                model.rename((parent, &name), (other, &other_name), mode),
            )
        }
        9 => {
            let (other_path, other_name) = dice.path();
            let Some(other) = model.find(&format!("{other_path}/{other_name}")) else {
                return;
            };
            let ino = kernel.ino(&format!("{other_path}/{other_name}"));
            let ours = overlay
                .link(ino, dir, name.as_bytes())
                .map(|attr| overlay.forget(attr.ino, 1));
            (ours, link(model, other, parent, &name))
        }
        _ => {
            let Some(id) = target else { return };
            change(overlay, model.get(id), &mut dice, operation, kernel.ino(&at))
        }
    };
    assert_eq!(
        ours.map_err(|error| error.errno()),
        theirs,
        "operation {operation} on {at}"
    );
}

/// Random operations on an overlay, whatever it shows; the answers agree with the model's.
pub(crate) fn play(overlay: &Overlay, numbers: &[u64]) {
    let mut model = Model::of(overlay);
    let mut kernel = Kernel {
        overlay,
        references: Vec::new(),
    };
    for number in numbers {
        step(overlay, &mut kernel, &mut model, *number);
    }
}

fn link(model: &mut Model, id: usize, parent: usize, name: &str) -> Outcome {
    if model.get(id).kind == Kind::Directory {
        return Err(libc::EPERM);
    }
    if model.get(parent).entries.contains_key(name) {
        return Err(libc::EEXIST);
    }
    model.get(id).links += 1;
    model.get(parent).entries.insert(name.to_owned(), id);
    Ok(())
}

fn create(
    overlay: &Overlay,
    model: &mut Model,
    dice: &mut Dice,
    (parent, dir): (usize, Ino),
    name: &str,
) -> (Result<()>, Outcome) {
    let device = Device { major: 0, minor: 0 };
    let (kind, model_kind) = [
        (NewKind::File, Kind::File),
        (NewKind::Directory, Kind::Directory),
        (NewKind::Directory, Kind::Directory),
        (NewKind::Symlink(b"../x"), Kind::Symlink),
        (NewKind::CharDevice(device), Kind::CharDevice),
        (NewKind::Fifo, Kind::Fifo),
    ][dice.roll(6) as usize];
    let owner = Owner {
        uid: dice.roll(3) as u32,
        gid: 7,
    };
    let bytes = if kind == NewKind::File {
        dice.bytes()
    } else {
        Vec::new()
    };
    let ours = overlay
        .create(dir, name.as_bytes(), kind, 0o640, owner)
        .map(|attr| {
            overlay.write(attr.ino, 0, &bytes).expect("written");
            overlay.forget(attr.ino, 1);
        });
    let set_group = model.get(parent).mode & 0o2000;
    let node = ModelNode {
        kind: model_kind,
        mode: match model_kind {
            Kind::Symlink => 0o777,
            Kind::Directory => 0o640 | set_group,
            _ => 0o640,
        },
        uid: owner.uid,
        gid: if set_group != 0 {
            model.get(parent).gid
        } else {
            owner.gid
        },
        xattrs: Xattrs::new(),
        content: if kind == NewKind::Symlink(b"../x") {
            b"../x".to_vec()
        } else {
            bytes
        },
        device,
        entries: BTreeMap::new(),
        links: 1,
    };
    (ours, model.insert(parent, name, node))
}

fn change(
    overlay: &Overlay,
    node: &mut ModelNode,
    dice: &mut Dice,
    operation: u64,
    ino: Ino,
) -> (Result<()>, Outcome) {
    let is_file = node.kind == Kind::File;
    let at = dice.offset();
    match operation {
        10 if is_file => {
            let bytes = dice.bytes();
            write_bytes(&mut node.content, at, &bytes);
            (overlay.write(ino, at, &bytes).map(drop), Ok(()))
        }
        11 if is_file => {
            node.content.resize(at as usize, 0);
            let changes = Changes {
                size: Some(at),
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        12 if is_file => {
            let how = [
                Allocate::Extend,
                Allocate::KeepSize,
                Allocate::PunchHole,
                Allocate::ZeroRange { keep_size: true },
                Allocate::ZeroRange { keep_size: false },
            ][dice.roll(5) as usize];
            let (end, size) = ((at + 5000) as usize, node.content.len());
            if matches!(how, Allocate::Extend | Allocate::ZeroRange { keep_size: false }) {
                node.content.resize(end.max(size), 0);
            }
            if !matches!(how, Allocate::Extend | Allocate::KeepSize) {
                let end = end.min(node.content.len());
                node.content[(at as usize).min(end)..end].fill(0);
            }
            (overlay.allocate(ino, how, at, 5000), Ok(()))
        }
        13 => {
            let mode = [0o600, 0o755, 0o2775, 0o4711][dice.roll(4) as usize];
            node.mode = mode;
            let changes = Changes {
                mode: Some(mode),
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        14 => {
            let uid = dice.roll(3) as u32;
            node.uid = uid;
            if node.kind != Kind::Directory {
                node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
                node.xattrs.remove(&b"security.capability"[..]);
            }
            let changes = Changes {
                uid: Some(uid),
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        _ => {
            let name =
                [&b"user.x"[..], b"security.capability", b"trusted.overlay.opaque"][dice.roll(3) as usize];
            if dice.roll(3) == 0 {
                let theirs = node.xattrs.remove(name).map(drop).ok_or(libc::ENODATA);
                return (overlay.remove_xattr(ino, name), theirs);
            }
            let value = vec![dice.roll(3) as u8];
            node.xattrs.insert(name.to_vec(), value.clone());
            (overlay.set_xattr(ino, name, &value, SetXattr::Any), Ok(()))
        }
    }
}

fn write_bytes(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let (start, end) = (at as usize, at as usize + bytes.len());
    if bytes.is_empty() {
        return;
    }
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
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
        let mut kernel = Kernel {
            overlay: &overlay,
            references: Vec::new(),
        };
        for number in numbers {
            step(&overlay, &mut kernel, &mut model, *number);
        }
        drop(kernel);
        assert_alike(&overlay, &model);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default() })]

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
    for seed in 0..seeds.unwrap_or(40) {
        run_seed(seed, 200);
    }
}
