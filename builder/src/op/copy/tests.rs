use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use mica_fs::overlay::{Options, SetXattr, Upper};

use mica_fs::digest::Digest;
use mica_fs::layer::Kind;
use mica_fs::layer::writer::LayerWriter;
use mica_fs::overlay::{Attr, Changes, Follow, Ino, Overlay};
use mica_fs::store::Store;

use super::*;
use crate::context::Context;
use crate::context::DIRECTORY_MTIME;
use crate::ignore::Ignore;
use crate::tree::{ImageTree, Tree as _};

/// A build context and an overlay that takes copies of it.
struct World {
    directory: tempfile::TempDir,
    overlay: Overlay,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let upper = directory.path().join("upper");
        fs::create_dir(&upper).expect("made");
        fs::create_dir(directory.path().join("context")).expect("made");
        let overlay =
            Overlay::writable(Vec::new(), Upper::scratch(&upper), Options::default()).expect("an overlay");
        Self { directory, overlay }
    }

    fn context(&self) -> std::path::PathBuf {
        self.directory.path().join("context")
    }

    fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("made");
        fs::write(&path, content).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        self
    }

    fn chmod(&self, path: &str, mode: u32) {
        let mode = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.context().join(path), mode).expect("set");
    }

    fn copy(&self, sources: &[&str], destination: &str) -> Result<(), CopyError> {
        self.copy_by(sources, &placement(destination), &[])
    }

    fn copy_by(&self, sources: &[&str], placement: &Placement, exclude: &[&str]) -> Result<(), CopyError> {
        let context = Context::new(&self.context(), Ignore::default()).expect("a context");
        let exclude = Ignore::from_patterns(exclude.iter().copied()).expect("patterns");
        let patterns: Vec<_> = sources.iter().map(|s| (*s).to_owned()).collect();
        Sources::find(&context, &patterns, &exclude, "the build context")?.place(&self.overlay, placement)
    }

    fn digest(&self, sources: &[&str]) -> Digest {
        let context = Context::new(&self.context(), Ignore::default()).expect("a context");
        let patterns: Vec<_> = sources.iter().map(|s| (*s).to_owned()).collect();
        let none = Ignore::default();
        let sources = Sources::find(&context, &patterns, &none, "the build context").expect("found");
        sources.digest().expect("readable")
    }

    /// Every path of the overlay with its content, its link target, or `/` for a directory.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        let mut todo = vec![ImagePath::root()];
        while let Some(dir) = todo.pop() {
            let ino = self.overlay.resolve(&dir, Follow::No).expect("a directory").ino;
            let mut names = Vec::new();
            let listed = self.overlay.read_dir(ino, 0, &mut |entry| {
                names.push(entry.name.to_vec());
                std::ops::ControlFlow::Continue(())
            });
            listed.expect("listed");
            for name in names.iter().filter(|name| *name != b"." && *name != b"..") {
                let path = dir.join(name);
                tree.insert(path.to_string(), self.show(&path));
                if self.attr(&path.to_string()).kind == Kind::Directory {
                    todo.push(path);
                }
            }
        }
        tree
    }

    fn show(&self, path: &ImagePath) -> String {
        let attr = self.overlay.resolve(path, Follow::No).expect("there");
        match attr.kind {
            Kind::Directory => "/".to_owned(),
            Kind::Symlink => {
                let target = self.overlay.read_link(attr.ino).expect("a link");
                format!("-> {}", String::from_utf8_lossy(&target))
            }
            _ => {
                let mut bytes = vec![0; usize::try_from(attr.size).expect("small")];
                self.overlay.read(attr.ino, 0, &mut bytes).expect("read");
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    fn attr(&self, path: &str) -> Attr {
        self.overlay
            .resolve(&image_path(path), Follow::No)
            .expect("there")
    }

    fn make(&self, path: &str) {
        make_directory(&self.overlay, path, Owner::default()).expect("made");
    }
}

fn image_path(path: &str) -> ImagePath {
    ImagePath::clean(path.as_bytes()).expect("a path")
}

fn placement(destination: &str) -> Placement {
    Placement {
        destination: image_path(destination),
        into_directory: destination.ends_with('/'),
        owner: None,
        chmod: None,
        archives: Archives::Keep,
        earlier: None,
    }
}

fn tree<const N: usize>(entries: [(&str, &str); N]) -> BTreeMap<String, String> {
    entries
        .into_iter()
        .map(|(path, content)| (path.to_owned(), content.to_owned()))
        .collect()
}

#[test]
fn a_file_goes_to_the_path_or_into_the_directory() {
    let world = World::new();
    world.write("a", "A");
    world.make("/there");
    world.copy(&["a"], "/file").expect("copied");
    world.copy(&["a"], "/new/").expect("copied");
    world.copy(&["a"], "/there").expect("copied");
    let expected = [
        ("/file", "A"),
        ("/new", "/"),
        ("/new/a", "A"),
        ("/there", "/"),
        ("/there/a", "A"),
    ];
    assert_eq!(world.tree(), tree(expected));
}

#[test]
fn a_directory_gives_its_content_and_merges() {
    let world = World::new();
    world
        .write("one/x", "1")
        .write("one/sub/y", "2")
        .write("two/x", "3");
    world.copy(&["one"], "/d").expect("copied");
    world.copy(&["two"], "/d").expect("copied");
    let expected = [("/d", "/"), ("/d/sub", "/"), ("/d/sub/y", "2"), ("/d/x", "3")];
    assert_eq!(world.tree(), tree(expected));
    assert_eq!(world.attr("/d").mtime, DIRECTORY_MTIME);
}

#[test]
fn links_in_a_directory_stay_and_named_ones_are_followed_inside_the_context() {
    let world = World::new();
    world.write("d/f", "F");
    symlink("f", world.context().join("d/l")).expect("linked");
    symlink("/d/f", world.context().join("absolute")).expect("linked");
    symlink("../../../etc/passwd", world.context().join("escape")).expect("linked");
    world.copy(&["d", "absolute"], "/o/").expect("copied");
    assert_eq!(
        world.tree(),
        tree([("/o", "/"), ("/o/absolute", "F"), ("/o/f", "F"), ("/o/l", "-> f")])
    );
    let missing = world.copy(&["escape"], "/p");
    assert!(matches!(missing, Err(CopyError::Missing { .. })), "{missing:?}");
}

#[test]
fn links_of_the_image_are_followed_inside_it() {
    let world = World::new();
    world.write("a", "A");
    world.make("/real");
    let link = |name: &str, target: &str| {
        let kind = mica_fs::overlay::NewKind::Symlink(target.as_bytes());
        world
            .overlay
            .create(Ino::ROOT, name.as_bytes(), kind, 0o777, Owner::default())
            .expect("linked");
    };
    link("lnk", "/real");
    link("up", "../../../real/deep");
    world.copy(&["a"], "/lnk/").expect("copied");
    world.copy(&["a"], "/up").expect("copied");
    assert_eq!(world.show(&image_path("/real/a")), "A");
    assert_eq!(world.show(&image_path("/real/deep")), "A");
}

#[test]
fn wildcards_match_within_a_component() {
    let world = World::new();
    world
        .write("a.txt", "a")
        .write("b.txt", "b")
        .write("d/c.txt", "c")
        .write("d/e.md", "e");
    world.copy(&["*.txt", "*/[c]*"], "/o/").expect("copied");
    let expected = [
        ("/o", "/"),
        ("/o/a.txt", "a"),
        ("/o/b.txt", "b"),
        ("/o/c.txt", "c"),
    ];
    assert_eq!(world.tree(), tree(expected));
    // Nothing need match, as in Docker: `COPY a.txt optional*.txt /o/`.
    world.copy(&["*.none"], "/none/").expect("nothing copied");
    assert_eq!(world.tree(), tree(expected));
    assert!(matches!(
        world.copy(&["escaped\\*"], "/o/"),
        Err(CopyError::Missing { .. })
    ));
    assert!(matches!(
        world.copy(&["[a"], "/o/"),
        Err(CopyError::Pattern { .. })
    ));
}

#[test]
fn owner_and_mode_apply_to_all_that_is_made() {
    let world = World::new();
    world.write("d/sub/f", "x");
    let modes = |chmod: &str, to: &str| {
        let placement = Placement {
            owner: Some(Owner { uid: 7, gid: 8 }),
            chmod: Some(Chmod::parse(chmod).expect("a mode")),
            ..placement(&format!("{to}/y/"))
        };
        world.copy_by(&["d"], &placement, &[]).expect("copied");
        let paths = ["", "/y", "/y/sub", "/y/sub/f"].map(|path| format!("{to}{path}"));
        paths.map(|path| {
            let attr = world.attr(&path);
            assert_eq!((attr.uid, attr.gid), (7, 8), "{path}");
            attr.mode
        })
    };
    // What leads to the copies is no copy: a symbolic mode would have nothing to begin with.
    assert_eq!(modes("u=rwX,go=", "/x"), [0o755, 0o755, 0o700, 0o600]);
    assert_eq!(modes("4711", "/z"), [0o711, 0o711, 0o4711, 0o4711]);
}

#[test]
fn excluded_paths_count_from_the_source() {
    let world = World::new();
    world
        .write("d/keep", "k")
        .write("d/sub/no.md", "n")
        .write("d/sub/yes.md", "y")
        .write("d/z/no.md", "n");
    world
        .copy_by(&["d"], &placement("/o"), &["**/*.md", "!sub/yes.md", "z"])
        .expect("copied");
    let expected = [
        ("/o", "/"),
        ("/o/keep", "k"),
        ("/o/sub", "/"),
        ("/o/sub/yes.md", "y"),
    ];
    assert_eq!(world.tree(), tree(expected));
}

#[test]
fn hard_links_within_a_directory_survive() {
    let world = World::new();
    world.write("d/a", "A");
    fs::hard_link(world.context().join("d/a"), world.context().join("d/b")).expect("linked");
    world.copy(&["d"], "/o").expect("copied");
    assert_eq!(world.attr("/o/a").ino, world.attr("/o/b").ino);
    world.copy(&["d/a", "d/b"], "/two/").expect("copied");
    assert_ne!(world.attr("/two/a").ino, world.attr("/two/b").ino);
}

#[test]
fn what_is_in_the_way_is_refused() {
    let world = World::new();
    world
        .write("f", "x")
        .write("d/sub/y", "y")
        .write("e/sub", "a file");
    world.copy(&["f"], "/file").expect("copied");
    world.copy(&["d"], "/o").expect("copied");
    assert!(matches!(
        world.copy(&["d"], "/file"),
        Err(CopyError::Refused { .. })
    ));
    assert!(matches!(
        world.copy(&["f"], "/file/below"),
        Err(CopyError::Refused { .. })
    ));
    assert!(matches!(world.copy(&["e"], "/o"), Err(CopyError::Refused { .. })));
}

#[test]
fn the_digest_is_of_content_never_of_times() {
    let world = World::new();
    world.write("d/f", "x").write("d/g", "y");
    let before = world.digest(&["d"]);
    let file = fs::File::open(world.context().join("d/f")).expect("open");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("set");
    assert_eq!(world.digest(&["d"]), before);
    world.write("d/f", "z");
    let changed = world.digest(&["d"]);
    assert_ne!(changed, before);
    fs::set_permissions(world.context().join("d/f"), fs::Permissions::from_mode(0o600)).expect("set");
    assert_ne!(world.digest(&["d"]), changed);
    fs::rename(world.context().join("d/g"), world.context().join("d/h")).expect("renamed");
    assert_ne!(world.digest(&["d"]), changed);
}

#[test]
fn a_change_after_the_key_was_made_is_noticed() {
    let world = World::new();
    world.write("d/f", "one").write("d/g", "x");
    let context = Context::new(&world.context(), Ignore::default()).expect("a context");
    let none = Ignore::default();
    let patterns = ["d".to_owned()];
    let sources = Sources::find(&context, &patterns, &none, "the build context").expect("found");
    let before = sources.digest().expect("readable");
    assert_eq!(sources.digest().expect("readable"), before);
    // Of the same size, and with the old time put back.
    let file = world.context().join("d/f");
    let time = fs::metadata(&file)
        .and_then(|stat| stat.modified())
        .expect("a time");
    world.write("d/f", "two");
    fs::File::options()
        .write(true)
        .open(&file)
        .and_then(|file| file.set_modified(time))
        .expect("set");
    assert_ne!(sources.digest().expect("readable"), before);
}

#[test]
fn times_of_directories_that_were_there_stay() {
    let world = World::new();
    world.write("f", "x");
    world.make("/d");
    let changes = Changes {
        mtime: Some(mica_fs::layer::Timestamp::from_seconds(77)),
        ..Changes::default()
    };
    let dir = world.attr("/d").ino;
    world.overlay.set_attr(dir, &changes).expect("set");
    world.copy(&["f"], "/d/").expect("copied");
    world.copy(&["f"], "/d/").expect("copied over itself");
    assert_eq!(world.attr("/d").mtime.seconds, 77);
}

#[test]
fn archives_are_known_by_their_bytes_and_unpacked_inside_the_destination() {
    let world = World::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, link: &str, content: &str, uid: u64, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_uid(uid);
        header.set_gid(uid);
        header.set_mode(mode);
        match link.is_empty() {
            true => builder.append_data(&mut header, name, content.as_bytes()),
            false => builder.append_link(&mut header, name, link),
        }
        .expect("added");
    };
    add("d/f", tar::EntryType::Regular, "", "F", 5, 0o4755);
    add("out", tar::EntryType::Symlink, "/elsewhere", "", 0, 0o777);
    add("out/g", tar::EntryType::Regular, "", "G", 0, 0o644);
    add("d/h", tar::EntryType::Link, "d/f", "", 6, 0o600);
    let bytes = builder.into_inner().expect("an archive");
    fs::write(world.context().join("misleading.txt"), &bytes).expect("written");
    fs::write(world.context().join("no.tar"), "just text").expect("written");
    let unpack = Placement {
        archives: Archives::Unpack,
        earlier: None,
        ..placement("/o/")
    };
    world
        .copy_by(&["misleading.txt", "no.tar"], &unpack, &[])
        .expect("copied");
    let expected = [
        ("/o", "/"),
        ("/o/d", "/"),
        ("/o/d/f", "F"),
        ("/o/d/h", "F"),
        ("/o/elsewhere", "/"),
        ("/o/elsewhere/g", "G"),
        ("/o/no.tar", "just text"),
        ("/o/out", "-> /elsewhere"),
    ];
    assert_eq!(world.tree(), tree(expected));
    // The link's own header counts, as in Docker.
    let linked = world.attr("/o/d/f");
    assert_eq!((linked.uid, linked.mode, linked.nlink), (6, 0o600, 2));
    let truncated = &bytes[..700];
    fs::write(world.context().join("cut.tar"), truncated).expect("written");
    assert!(matches!(
        world.copy_by(&["cut.tar"], &unpack, &[]),
        Err(CopyError::Archive(_))
    ));
}

#[test]
fn an_archive_cannot_leave_the_destination() {
    let world = World::new();
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    // The crate's own path setter refuses such a name.
    header.as_gnu_mut().expect("gnu").name[..8].copy_from_slice(b"../../up");
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).expect("added");
    fs::write(
        world.context().join("evil.tar"),
        builder.into_inner().expect("bytes"),
    )
    .expect("written");
    let unpack = Placement {
        archives: Archives::Unpack,
        earlier: None,
        ..placement("/o/")
    };
    let escape = world.copy_by(&["evil.tar"], &unpack, &[]);
    assert!(
        matches!(
            escape,
            Err(CopyError::Archive(archive::ArchiveError::Escape { .. }))
        ),
        "{escape:?}"
    );
}

#[test]
fn a_file_that_is_replaced_loses_what_it_had() {
    let world = World::new();
    world.write("f", "new");
    world.copy(&["f"], "/f").expect("copied");
    let ino = world.attr("/f").ino;
    world
        .overlay
        .set_xattr(ino, b"user.x", b"1", SetXattr::Any)
        .expect("set");
    world.copy(&["f"], "/f").expect("copied");
    let names = world.overlay.xattr_names(world.attr("/f").ino).expect("names");
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let world = World::new();
    for path in ["a/b/c.txt", "a/b/d/e.txt", "a/f.md", "g.txt"] {
        world.write(path, path);
    }
    symlink("b", world.context().join("a/link")).expect("made");
    let context = Context::new(&world.context(), Ignore::default()).expect("a context");
    let none = Ignore::default();
    let found = |pattern: &str| -> Vec<String> {
        let sources = Sources::with_parents(&context, &[pattern.to_owned()], &none, "the build context");
        let mut paths: Vec<_> = sources
            .map(|sources| {
                sources
                    .selected()
                    .iter()
                    .map(|one| one.relative().to_string())
                    .collect()
            })
            .unwrap_or_else(|_| vec!["missing".to_owned()]);
        paths
            .iter_mut()
            .for_each(|path| *path = path.trim_start_matches('/').to_owned());
        paths
    };
    assert_eq!(found("**/*.txt"), ["a/b/c.txt", "a/b/d/e.txt", "g.txt"]);
    assert_eq!(found("./a/./**/*.txt"), ["b/c.txt", "b/d/e.txt"]);
    assert_eq!(found("a/link/./*.txt"), ["c.txt"]);
    assert_eq!(found("a/link/*.txt"), [""; 0]);
    assert_eq!(found("a/**"), ["a/b", "a/f.md", "a/link"]);
    assert_eq!(found("a/**/b/**/e.txt"), ["a/b/d/e.txt"]);
    assert_eq!(found("/a/../g.*"), ["g.txt"]);
    assert_eq!(found("*/"), ["a", "g.txt"]);
    assert_eq!(found("x/./y"), ["missing"]);
    assert_eq!(found("*/b/./d/e.*"), ["d/e.txt"]);
    assert_eq!(found("none*/./x"), [""; 0]);
}

#[test]
fn a_directory_gives_what_is_in_it_and_not_its_mode() {
    let world = World::new();
    world.write("d/sub/f", "x");
    world.chmod("d", 0o700);
    world.chmod("d/sub", 0o710);
    world.copy(&["d"], "/new").expect("copied");
    world.copy(&["d"], "/slash/").expect("copied");
    let mode = |path: &str| world.attr(path).mode;
    assert_eq!(
        [mode("/new"), mode("/slash"), mode("/new/sub")],
        [0o755, 0o755, 0o710]
    );
    // With --parents the directories of the path are copied.
    let context = Context::new(&world.context(), Ignore::default()).expect("a context");
    let none = Ignore::default();
    let found = Sources::with_parents(&context, &["d/sub".to_owned()], &none, "the build context");
    let placed = found.expect("found").place(&world.overlay, &placement("/p/"));
    placed.expect("copied");
    assert_eq!(
        [mode("/p"), mode("/p/d"), mode("/p/d/sub")],
        [0o755, 0o700, 0o710]
    );
}

#[test]
fn what_is_as_it_was_is_not_read_again() {
    let world = World::new();
    world.write("d/same", "same").write("d/changed", "old");
    world.copy(&["d"], "/o").expect("copied");
    let store = Store::open(&world.directory.path().join("store")).expect("a store");
    let work = store.work_dir().expect("a directory");
    let mut writer = LayerWriter::new(work.path()).expect("a layer");
    mica_fs::snapshot::pack(&world.overlay, &mut writer).expect("packed");
    let layer = store.publish_layer(work, &writer.finish().expect("written"));
    let earlier = Earlier::new(layer.expect("published"));

    let again = World::new();
    again.write("d/same", "same").write("d/changed", "new");
    let placement = Placement {
        earlier: Some(earlier),
        ..placement("/o")
    };
    again.copy_by(&["d"], &placement, &[]).expect("copied");
    // A file of the host is read when the layer is made: this one is not.
    fs::remove_file(again.context().join("d/same")).expect("removed");
    let work = store.work_dir().expect("a directory");
    let mut writer = LayerWriter::new(work.path()).expect("a layer");
    mica_fs::snapshot::pack(&again.overlay, &mut writer).expect("packed");
    let layer = store.publish_layer(work, &writer.finish().expect("written"));
    let tree = ImageTree::new(vec![layer.expect("published")]);
    let digest = |path: &str| {
        let path = image_path(path);
        let node = tree.node(&path).expect("read").expect("there");
        tree.digest(&path, &node).expect("known")
    };
    assert_eq!(digest("/o/same"), Digest::of(b"same"));
    assert_eq!(digest("/o/changed"), Digest::of(b"new"));
}
