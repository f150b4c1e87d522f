use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use super::*;

struct World {
    directory: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        fs::create_dir(directory.path().join("context")).expect("made");
        let store = Store::open(&directory.path().join("store")).expect("a store");
        Self { directory, store }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join("context").join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    /// The context as a new build finds it.
    fn context(&self, ignore: &str) -> Context {
        let ignore = Ignore::parse(ignore.as_bytes()).expect("patterns");
        let context = Context::new(&self.directory.path().join("context"), ignore).expect("a context");
        context.prepare(&self.store, Modes::OfFiles);
        context
    }

    /// Long enough for what was written before to be trusted.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).expect("a path")
}

/// What is known of a file without reading it.
fn known(context: &Context, file: &str) -> Option<Digest> {
    let node = context.node(&path(file)).expect("readable").expect("there");
    match context.content(&path(file), &node).expect("readable") {
        Content::Host(HostFile {
            expected: Expected::Stamped(known),
            ..
        }) => Some(known.digest),
        _ => None,
    }
}

fn read(context: &Context, file: &str) -> Digest {
    let node = context.node(&path(file)).expect("readable").expect("there");
    context.digest(&path(file), &node).expect("readable")
}

#[test]
fn the_next_build_knows_what_has_not_changed() {
    let world = World::new();
    world.write("d/same", "one");
    world.write("d/other", "two");
    world.settle();
    let first = world.context("");
    assert_eq!(known(&first, "d/same"), None);
    assert_eq!(read(&first, "d/same"), Digest::of(b"one"));
    assert_eq!(read(&first, "d/other"), Digest::of(b"two"));
    first.remember();
    // Of the same size, and with the same time.
    let file = world.directory.path().join("context/d/other");
    let time = fs::metadata(&file)
        .and_then(|stat| stat.modified())
        .expect("a time");
    world.write("d/other", "2.0");
    let opened = File::options().write(true).open(&file).expect("opened");
    opened.set_modified(time).expect("set");
    world.settle();
    let second = world.context("");
    assert_eq!(known(&second, "d/same"), Some(Digest::of(b"one")));
    assert_eq!(known(&second, "d/other"), None);
    assert_eq!(read(&second, "d/other"), Digest::of(b"2.0"));
    assert_eq!(known(&second, "d/other"), Some(Digest::of(b"2.0")));
}

#[test]
fn a_file_that_was_just_written_is_read_again() {
    let world = World::new();
    let context = world.context("");
    // A change after the reading might have the same time: the clock has ticks.
    for text in ["one", "two", "one", "two"] {
        world.write("f", text);
        assert_eq!(read(&context, "f"), Digest::of(text.as_bytes()));
        assert_eq!(known(&context, "f"), None);
    }
}

#[test]
fn what_is_damaged_or_gone_is_made_anew() {
    let world = World::new();
    world.write("f", "one");
    world.settle();
    let context = world.context("");
    read(&context, "f");
    context.remember();
    let directory = world.store.root().join("contexts");
    let file = fs::read_dir(&directory)
        .expect("listed")
        .next()
        .expect("a file")
        .expect("read")
        .path();
    for damage in [&b""[..], b"micactx", &[7; 500]] {
        fs::write(&file, damage).expect("written");
        let context = world.context("");
        assert_eq!(known(&context, "f"), None);
        assert_eq!(read(&context, "f"), Digest::of(b"one"));
        context.remember();
        assert_eq!(known(&world.context(""), "f"), Some(Digest::of(b"one")));
    }
    fs::remove_dir_all(&directory).expect("removed");
    assert_eq!(known(&world.context(""), "f"), None);
}

#[test]
fn the_modes_of_the_owner_are_those_of_umask_022() {
    for (made, told) in [
        (0o600, 0o644),
        (0o664, 0o644),
        (0o700, 0o755),
        (0o775, 0o755),
        (0o755, 0o755),
        (0o440, 0o444),
        (0o4750, 0o4755),
        (0, 0),
    ] {
        assert_eq!(Modes::OfOwner.apply(made), told, "{made:o}");
        assert_eq!(Modes::OfFiles.apply(made), made);
    }
}

#[test]
fn a_listing_tells_what_each_name_tells() {
    let world = World::new();
    for file in ["a", "b.txt", "d/keep/x", "d/drop/y", "e/z"] {
        world.write(file, file);
    }
    let root = world.directory.path().join("context");
    fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o4711)).expect("set");
    fs::hard_link(root.join("a"), root.join("linked")).expect("linked");
    symlink("nowhere", root.join("link")).expect("linked");
    for ignore in ["", "*.txt\nd\n!d/keep\ne\n", "*\n!e/z\n", "**/x\n!d/keep/x\n"] {
        let context = world.context(ignore);
        let mut todo = vec![ImagePath::root()];
        while let Some(directory) = todo.pop() {
            let listed = context.children(&directory).expect("listed");
            let mut one_by_one = Vec::new();
            for name in context.names(&directory).expect("listed") {
                let node = context.node(&directory.join(&name)).expect("readable");
                one_by_one.extend(node.map(|node| (name, node)));
            }
            assert_eq!(format!("{listed:?}"), format!("{one_by_one:?}"), "{ignore}");
            let directories = listed.iter().filter(|(_, node)| node.kind == Kind::Directory);
            todo.extend(directories.map(|(name, _)| directory.join(name)));
        }
    }
}
