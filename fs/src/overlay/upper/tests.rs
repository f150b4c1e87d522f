//! The log of a named upper: what a crash leaves of it, and what a sync costs.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::overlay::tests::model::play;
use crate::overlay::tests::{Member, Seen, Session, file, tree};

/// An upper, the session on it, and what lies below.
struct Named {
    session: Session,
    at: PathBuf,
}

impl Named {
    fn new(layers: &[&[(&str, Member)]]) -> Self {
        let session = Session::new(layers);
        let at = session.dir.path().join("named");
        let overlay = open(&session.layers, &at).expect("an upper");
        let session = Session { overlay, ..session };
        Self { session, at }
    }

    /// The session ends without a word, as by SIGKILL, and another begins.
    fn crash(self) -> Self {
        let Self { session, at } = self;
        let Session { dir, layers, overlay } = session;
        drop(overlay);
        let overlay = open(&layers, &at).expect("an upper");
        let session = Session { dir, layers, overlay };
        Self { session, at }
    }

    fn sync(&self, durable: Durable) {
        self.session.overlay.sync(Ino::ROOT, durable).expect("synced");
    }

    fn length(&self) -> u64 {
        let upper = self.session.overlay.upper.as_ref().expect("an upper");
        let saved = upper.saved.as_ref().expect("a named one");
        saved.log.lock().expect("not poisoned").length()
    }

    /// The bytes by which a sync makes the log grow.
    fn cost(&self, durable: Durable) -> u64 {
        let before = self.length();
        self.sync(durable);
        self.length() - before
    }
}

fn open(layers: &[Arc<Layer>], at: &Path) -> Result<Overlay> {
    Overlay::writable(layers.to_vec(), Upper::named(at), Options::default())
}

fn base() -> Named {
    Named::new(&[&[
        ("/a", file("a")),
        ("/b", Member::HardLink("/a".into())),
        ("/c/a", file("x")),
        ("/c/d/a", file("y")),
        ("/d", Member::Symlink(b"c".to_vec())),
    ]])
}

/// The flat files of an upper, by name.
fn flat_files(upper: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(upper.join(FILES)).expect("listed");
    let files = files.map(|file| file.expect("a file"));
    files
        .map(|file| (file.file_name().into(), fs::read(file.path()).expect("read")))
        .collect()
}

/// What a session showed, apart from what lies in flat files, which is not the log's to restore.
fn logged(mut tree: BTreeMap<String, Seen>, flat: &BTreeMap<PathBuf, Vec<u8>>) -> BTreeMap<String, Seen> {
    for seen in tree.values_mut() {
        if flat.contains_key(Path::new(&format!("{:x}", seen.ino.0))) {
            seen.content.clear();
        }
    }
    tree
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// However much of the last sync reached the disk when the machine stopped, and whatever it made of the rest, the
    /// upper is as at the end of that sync or of the one before.
    #[test]
    fn a_torn_log_is_that_of_a_sync(
        rounds in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..30), 1..4),
        last in prop::collection::vec(any::<u64>(), 1..30),
        tears in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 8),
    ) {
        let mut named = base();
        for numbers in &rounds {
            play(&named.session.overlay, numbers);
            named.sync(Durable::All);
            let before = tree(&named.session.overlay);
            named = named.crash();
            prop_assert_eq!(tree(&named.session.overlay), before);
        }
        let (begin, whole) = (tree(&named.session.overlay), named.length() as usize);
        // A crash finds the flat files of both: those that are no longer named go after the log is written.
        let mut flat = flat_files(&named.at);
        play(&named.session.overlay, &last);
        named.sync(Durable::All);
        flat.extend(flat_files(&named.at));
        let (begin, end) = (logged(begin, &flat), logged(tree(&named.session.overlay), &flat));
        let mut log = fs::read(named.at.join("state")).expect("a log");
        log.truncate(named.length() as usize);
        let torn = named.session.dir.path().join("torn");
        for (at, bit) in tears {
            let mut left = log.clone();
            let at = whole + at.index(log.len() - whole + 1);
            match left.get_mut(at) {
                Some(byte) if bit < 4 => *byte ^= 1 << bit,
                _ => left.truncate(at),
            }
            fs::create_dir_all(torn.join(FILES)).expect("a directory");
            for (name, bytes) in &flat {
                fs::write(torn.join(FILES).join(name), bytes).expect("written");
            }
            fs::write(torn.join("state"), &left).expect("written");
            let opened = open(&named.session.layers, &torn).expect("an upper");
            let found = logged(tree(&opened), &flat);
            let expected = if left == log { &end } else { &begin };
            prop_assert!(found == *expected);
            // It goes on from there.
            play(&opened, &last);
            opened.save().expect("saved");
            let before = tree(&opened);
            drop(opened);
            let opened = open(&named.session.layers, &torn).expect("an upper");
            prop_assert_eq!(tree(&opened), before);
        }
    }
}

#[test]
fn a_sync_costs_what_changed() {
    let named = base();
    for n in 0..2000 {
        named.session.write(&format!("/c/file{n}"), b"some bytes");
    }
    assert!(named.cost(Durable::All) > 100_000);
    assert_eq!(named.cost(Durable::All), 0, "nothing changed");
    named.session.write("/c/file7", b"other bytes");
    assert!(named.cost(Durable::Data) < 600);
    named.session.write("/c/new", b"");
    assert!(named.cost(Durable::Data) < 800);
}

#[test]
fn bytes_of_a_flat_file_are_not_logged_again() {
    let named = base();
    named.session.write("/big", &vec![1; 100_000]);
    named.sync(Durable::Data);
    let ino = named.session.ino("/big");
    named
        .session
        .overlay
        .write(ino, 50_000, &[2; 4096])
        .expect("written");
    assert_eq!(named.cost(Durable::Data), 0);
    assert!(named.cost(Durable::All) < 500, "the times");
    named
        .session
        .overlay
        .write(ino, 50_000, &[3; 4096])
        .expect("written");
    named.session.overlay.sync(ino, Durable::Data).expect("synced");
    let named = named.crash();
    assert_eq!(named.session.read("/big")[50_000..54_096], [3; 4096]);
}

#[test]
fn a_file_that_leaves_memory_is_found_where_it_went() {
    let named = base();
    named.session.write("/grows", b"small");
    named.sync(Durable::All);
    let ino = named.session.ino("/grows");
    named
        .session
        .overlay
        .write(ino, 0, &vec![7; 60_000])
        .expect("written");
    named.sync(Durable::All);
    let named = named.crash();
    assert_eq!(named.session.read("/grows"), vec![7; 60_000]);
}

#[test]
fn a_log_that_has_doubled_is_written_anew() {
    let named = base();
    let mut longest = 0;
    for n in 0..200_u32 {
        named.session.write("/c/changing", &[n as u8; 16_000]);
        named.sync(Durable::All);
        longest = longest.max(named.length());
    }
    assert!(longest > 1_000_000 && longest < 1_200_000, "{longest}");
    let named = named.crash();
    assert_eq!(named.session.read("/c/changing"), [199; 16_000]);
}

#[test]
fn after_a_failed_sync_the_next_saves_all() {
    let named = base();
    named.session.write("/a", b"first");
    named.sync(Durable::All);
    named.session.write("/new", b"second");
    let state = named.at.join("state");
    // Neither can the log be written anew: its place is taken by a directory.
    named.session.unlink("/b").expect("unlinked");
    if let Some(upper) = named
        .session
        .overlay
        .upper
        .as_ref()
        .and_then(|upper| upper.saved.as_ref())
    {
        upper
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .distrust();
    }
    fs::create_dir(named.at.join("state.new")).expect("a directory");
    assert!(named.session.overlay.sync(Ino::ROOT, Durable::All).is_err());
    assert!(state.is_file());
    fs::remove_dir(named.at.join("state.new")).expect("removed");
    named.sync(Durable::All);
    let before = tree(&named.session.overlay);
    assert_eq!(tree(&named.crash().session.overlay), before);
}

#[test]
fn syncs_at_once_save_everything() {
    let named = base();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let session = &named.session;
            scope.spawn(move || {
                for n in 0..50 {
                    let (parent, name) = (session.ino("/c"), format!("{thread}-{n}"));
                    let made = session.overlay.create(
                        parent,
                        name.as_bytes(),
                        NewKind::File,
                        0o644,
                        Owner::default(),
                    );
                    let ino = made.expect("made").ino;
                    session.overlay.write(ino, 0, name.as_bytes()).expect("written");
                    session.overlay.sync(ino, Durable::Data).expect("synced");
                }
            });
        }
    });
    let named = named.crash();
    for thread in 0..4 {
        for n in 0..50 {
            let name = format!("{thread}-{n}");
            assert_eq!(named.session.read(&format!("/c/{name}")), name.as_bytes());
        }
    }
}

#[test]
fn several_are_synced_for_the_price_of_one() {
    let named = base();
    let files = ["/one", "/two", "/three"].map(|at| {
        named.session.write(at, at.as_bytes());
        (named.session.ino(at), Durable::Data)
    });
    let missing = (Ino(99_999), Durable::All);
    let results = named
        .session
        .overlay
        .sync_together(&[files[0], missing, files[1], files[2]]);
    let failed: Vec<_> = results.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, true, false, false]);
    assert_eq!(named.cost(Durable::All), 0);
    assert_eq!(named.crash().session.read("/three"), b"/three");
}

#[test]
fn a_large_file_is_saved_as_what_changed_of_it() {
    let mut expected: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 4096 + at) as u8).collect();
    let mut named = Named::new(&[&[("/f", Member::File(expected.clone()))]]);
    let mut change = |named: &Named, at: u64, bytes: &[u8]| {
        let ino = named.session.ino("/f");
        named.session.overlay.write(ino, at, bytes).expect("written");
        expected[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    };
    change(&named, 500_000, b"first");
    assert!(named.cost(Durable::All) < 500);
    // In a block that is the upper's already: what the log says of the file stays true.
    change(&named, 500_100, b"in place");
    assert_eq!(named.cost(Durable::Data), 0);
    change(&named, 999_990, b"second");
    assert!(named.cost(Durable::Data) < 500);
    named = named.crash();
    change(&named, 4_090, b"over the edge");
    assert!(named.session.read("/f") == expected);
    let flat = fs::read_dir(named.at.join(FILES))
        .expect("listed")
        .next()
        .expect("a file");
    let metadata = flat.and_then(|file| file.metadata()).expect("metadata");
    assert!(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512 <= 6 * 4096);
    named.sync(Durable::All);
    named = named.crash();
    assert!(named.session.read("/f") == expected);
    // What was cut off does not come back.
    let ino = named.session.ino("/f");
    for size in [300_000, 600_000] {
        let changes = crate::overlay::Changes {
            size: Some(size),
            ..Default::default()
        };
        named.session.overlay.set_attr(ino, &changes).expect("truncated");
    }
    named.sync(Durable::Data);
    named = named.crash();
    expected.truncate(300_000);
    expected.resize(600_000, 0);
    assert!(named.session.read("/f") == expected);
}
