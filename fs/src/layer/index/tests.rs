use super::*;
use crate::layer::Metadata;

fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).expect("a valid path")
}

fn metadata(mode: u32) -> Metadata {
    Metadata {
        mode,
        ..Metadata::default()
    }
}

fn file(text: &str) -> Node {
    Node::File(Data {
        size: text.len() as u64,
        digest: Some(Digest::of(text.as_bytes())),
        extents: vec![Extent {
            offset: 0,
            length: text.len() as u64,
            position: 512,
        }],
    })
}

fn written(builder: Builder) -> Index {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let diff_id = DiffId(Digest::of(b"tar"));
    let index = builder.encode().expect("encoded");
    index.write(diff_id, 7, file.as_file_mut()).expect("written");
    let index = Index::open(file.path()).expect("opened");
    assert!(index.verify());
    assert_eq!((index.diff_id(), index.tar_size()), (diff_id, 7));
    index
}

fn find(index: &Index, text: &str) -> Option<Slot> {
    let mut slot = Slot::Entry(EntryId::ROOT);
    for name in path(text).components() {
        let Slot::Entry(dir) = slot else { return None };
        slot = index.lookup(dir, name)?;
    }
    Some(slot)
}

fn entry<'a>(index: &'a Index, text: &str) -> Entry<'a> {
    match find(index, text) {
        Some(Slot::Entry(id)) => index.entry(id).expect("an entry"),
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn entries_come_back_as_given() {
    let mut builder = Builder::new();
    let mut meta = metadata(0o4755);
    meta.uid = 1000;
    meta.gid = 4_000_000_000;
    meta.mtime = Timestamp {
        seconds: -5,
        nanoseconds: 999_999_999,
    };
    meta.xattrs.insert(b"user.a".to_vec(), b"".to_vec());
    meta.xattrs.insert(b"security.capability".to_vec(), vec![0, 1, 2]);
    builder
        .add(&path("/usr/bin/x"), meta.clone(), file("hello"))
        .expect("added");
    builder
        .add(&path("/l"), metadata(0o777), Node::Symlink(b"usr/bin/x".to_vec()))
        .expect("added");
    let device = Device { major: 1, minor: 3 };
    builder
        .add(&path("/null"), metadata(0o666), Node::CharDevice(device))
        .expect("added");
    let index = written(builder);
    let x = entry(&index, "/usr/bin/x");
    assert_eq!(
        (x.kind(), x.mode(), x.uid(), x.gid()),
        (Kind::File, 0o4755, 1000, 4_000_000_000)
    );
    assert_eq!((x.mtime(), x.size(), x.nlink()), (meta.mtime, 5, 1));
    assert_eq!(x.digest(), Some(Digest::of(b"hello")));
    assert_eq!(x.xattrs(), meta.xattrs);
    assert_eq!(x.extents().map(|e| e.position).collect::<Vec<_>>(), [512]);
    assert!(entry(&index, "/usr").is_implicit());
    assert_eq!(entry(&index, "/l").target(), b"usr/bin/x");
    assert_eq!(entry(&index, "/null").device(), device);
    assert_eq!(find(&index, "/usr/bin/y"), None);
}

#[test]
fn whiteouts_in_any_order() {
    for whiteout_first in [true, false] {
        let mut builder = Builder::new();
        let whiteout = |b: &mut Builder| {
            b.add_whiteout(&path("/d")).expect("added");
            b.add_whiteout(&path("/f")).expect("added");
            b.add_whiteout(&path("/gone")).expect("added");
        };
        if whiteout_first {
            whiteout(&mut builder);
        }
        builder
            .add(&path("/d"), metadata(0o755), Node::Directory)
            .expect("added");
        builder
            .add(&path("/d/x"), metadata(0o644), file("x"))
            .expect("added");
        builder
            .add(&path("/f"), metadata(0o644), file("f"))
            .expect("added");
        if !whiteout_first {
            whiteout(&mut builder);
        }
        let index = written(builder);
        assert!(entry(&index, "/d").is_opaque(), "{whiteout_first}");
        assert_eq!(entry(&index, "/f").kind(), Kind::File);
        assert_eq!(find(&index, "/gone"), Some(Slot::Whiteout));
    }
}

#[test]
fn hard_links_share_an_entry_or_point_below() {
    let mut builder = Builder::new();
    builder.add_link(&path("/early"), &path("/a")).expect("added");
    builder
        .add(&path("/a"), metadata(0o644), file("a"))
        .expect("added");
    builder.add_link(&path("/b"), &path("/a")).expect("added");
    builder.add_link(&path("/c"), &path("/below")).expect("added");
    let index = written(builder);
    assert_eq!(find(&index, "/a"), find(&index, "/b"));
    assert_eq!(find(&index, "/a"), find(&index, "/early"));
    assert_eq!(entry(&index, "/a").nlink(), 3);
    assert_eq!(find(&index, "/c"), Some(Slot::Link(path("/below"))));
    let Some(Slot::Entry(id)) = find(&index, "/a") else {
        panic!()
    };
    assert_eq!(index.paths_of(id), [path("/a"), path("/b"), path("/early")]);
}

#[test]
fn a_later_entry_replaces_an_earlier_one() {
    let mut builder = Builder::new();
    builder
        .add(&path("/d/x"), metadata(0o644), file("x"))
        .expect("added");
    builder
        .add(&path("/d"), metadata(0o700), Node::Directory)
        .expect("added");
    let mut again = Builder::new();
    again
        .add(&path("/d/x"), metadata(0o644), file("x"))
        .expect("added");
    again
        .add(&path("/d"), metadata(0o644), file("now a file"))
        .expect("added");
    let (kept, replaced) = (written(builder), written(again));
    assert_eq!(entry(&kept, "/d").mode(), 0o700);
    assert_eq!(entry(&kept, "/d/x").size(), 1);
    assert_eq!(entry(&replaced, "/d").kind(), Kind::File);
    assert_eq!(replaced.len(), 2);
}

#[test]
fn nothing_passes_through_a_link() {
    let mut builder = Builder::new();
    builder
        .add(&path("/l"), metadata(0o777), Node::Symlink(b"/etc".to_vec()))
        .expect("added");
    let refused = builder.add(&path("/l/passwd"), metadata(0o644), file("x"));
    assert!(matches!(refused, Err(InvalidEntry::ThroughNonDirectory { .. })));
}

#[test]
fn damage_is_an_error_not_a_panic() {
    let mut builder = Builder::new();
    for n in 0..20 {
        builder
            .add(&path(&format!("/d/{n}")), metadata(0o644), file("x"))
            .expect("added");
    }
    let mut bytes = Vec::new();
    let index = builder.encode().expect("encoded");
    index
        .write(DiffId(Digest::of(b"")), 0, &mut bytes)
        .expect("written");
    let dir = tempfile::tempdir().expect("a directory");
    let at = dir.path().join("index");
    for cut in (0..bytes.len()).step_by(37) {
        std::fs::write(&at, &bytes[..cut]).expect("written");
        assert!(Index::open(&at).is_err(), "cut at {cut}");
    }
    for flip in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[flip] ^= 0xff;
        std::fs::write(&at, &damaged).expect("written");
        if let Ok(index) = Index::open(&at) {
            let all: Vec<_> = index.children(EntryId::ROOT).collect();
            let _ = (
                all.len(),
                index.paths_of(EntryId(3)),
                index.entry(EntryId(2)).map(|e| e.xattrs()),
            );
            assert!(flip < HEADER || !index.verify());
        }
    }
}
