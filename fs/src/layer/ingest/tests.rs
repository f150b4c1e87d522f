use std::fs;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::digest::Digest;
use crate::layer::index::{Entry, EntryId, Index, Slot};
use crate::layer::pax;
use crate::layer::writer::{LayerWriter, NewNode};
use crate::layer::{Layer, Timestamp};

/// A tar put together by hand.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    /// A header with its content. `change` may set any field; the checksum is made after it.
    fn with(mut self, kind: u8, name: &[u8], content: &[u8], change: impl FnOnce(&mut [u8; 512])) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_size(content.len() as u64);
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name);
        bytes[156] = kind;
        change(bytes);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.with(b'0', name.as_bytes(), content, |_| ())
    }

    fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.with(kind, name.as_bytes(), b"", |h| {
            h[157..157 + target.len()].copy_from_slice(target.as_bytes());
        })
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            pax::push(&mut content, key.as_bytes(), value);
        }
        self.with(b'x', b"PaxHeaders/x", &content, |_| ())
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).expect("a valid path")
}

fn taken(tar: &[u8]) -> (tempfile::TempDir, Layer) {
    let dir = tempfile::tempdir().expect("a directory");
    let written = ingest(&mut &tar[..], dir.path()).expect("taken in");
    assert_eq!(written.diff_id.0, Digest::of(tar));
    assert_eq!(written.tar_size, tar.len() as u64);
    assert!(
        fs::read(dir.path().join(TAR_FILE)).expect("read") == tar,
        "another tar"
    );
    let layer = Layer::open(dir.path()).expect("opened");
    (dir, layer)
}

fn refused(tar: &[u8]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    match ingest(&mut &tar[..], dir.path()) {
        Ok(_) => panic!("it was taken in"),
        Err(e) => e.to_string(),
    }
}

fn find(index: &Index, text: &str) -> Option<Slot> {
    let mut slot = Slot::Entry(EntryId::ROOT);
    for name in path(text).components() {
        let Slot::Entry(dir) = slot else { return None };
        slot = index.lookup(dir, name)?;
    }
    Some(slot)
}

fn entry<'a>(layer: &'a Layer, text: &str) -> Entry<'a> {
    match find(layer.index(), text) {
        Some(Slot::Entry(id)) => layer.index().entry(id).expect("an entry"),
        other => panic!("{text}: {other:?}"),
    }
}

fn read(layer: &Layer, text: &str) -> Vec<u8> {
    let Some(Slot::Entry(id)) = find(layer.index(), text) else {
        panic!("{text} is missing")
    };
    let entry = layer.index().entry(id).expect("an entry");
    let mut content = vec![1; usize::try_from(entry.size()).expect("small")];
    assert_eq!(layer.read_at(id, &mut content, 0).expect("read"), content.len());
    assert_eq!(entry.digest(), Some(Digest::of(&content)));
    content
}

#[test]
fn every_kind_of_member() {
    let tar = Raw::default()
        .with(b'g', b"pax_global_header", b"16 comment=hello\n", |_| ())
        .with(b'5', b"./", b"", |_| ())
        .with(0, b"old/", b"", |_| ())
        .file("old/a", b"content")
        .with(b'7', b"contiguous", b"c", |_| ())
        .link(b'1', "b", "./old/a")
        .link(b'1', "lower", "usr/lower")
        .link(b'2', "l", "/../anywhere")
        .with(b'3', b"null", b"", |h| {
            h[329..345].copy_from_slice(b"0000001\x000000003\0")
        })
        .with(b'6', b"fifo", b"", |_| ())
        .with(b'0', b"x/.wh.gone", b"ignored", |_| ())
        .with(b'0', b"x/.wh..wh..opq", b"", |_| ())
        .file(".wh..wh.plnk/1.2", b"aufs")
        .end();
    let (_dir, layer) = taken(&tar);
    assert!(!entry(&layer, "/").is_implicit());
    assert_eq!(read(&layer, "/old/a"), b"content");
    assert_eq!(read(&layer, "/contiguous"), b"c");
    assert_eq!(find(layer.index(), "/b"), find(layer.index(), "/old/a"));
    assert_eq!(
        find(layer.index(), "/lower"),
        Some(Slot::Link(path("/usr/lower")))
    );
    assert_eq!(entry(&layer, "/l").target(), b"/../anywhere");
    assert_eq!(entry(&layer, "/null").device(), Device { major: 1, minor: 3 });
    assert_eq!(entry(&layer, "/fifo").kind(), crate::layer::Kind::Fifo);
    assert_eq!(find(layer.index(), "/x/gone"), Some(Slot::Whiteout));
    assert!(entry(&layer, "/x").is_opaque());
    assert_eq!(layer.index().children(EntryId::ROOT).count(), 8);
}

#[test]
fn extended_headers_take_the_place_of_fields() {
    let long = "n".repeat(200);
    let tar = Raw::default()
        .pax(&[
            ("path", "long/ü".as_bytes()),
            ("uid", b"4000000000"),
            ("gid", b"5"),
            ("mtime", b"-1.25"),
            ("size", b"3"),
            ("SCHILY.xattr.user.k", b"a\nb\0"),
        ])
        .with(b'0', b"short", b"abc", |h| h[124..136].fill(b'7'))
        .with(b'L', b"././@LongLink", format!("{long}\0").as_bytes(), |_| ())
        .with(b'K', b"././@LongLink", format!("{long}/t\0").as_bytes(), |_| ())
        .link(b'2', "x", "y")
        .with(b'0', b"huge", b"", |h| {
            h[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe]);
            h[136..148].fill(0xff);
        })
        .end();
    let (_dir, layer) = taken(&tar);
    let first = entry(&layer, "/long/ü");
    assert_eq!((first.uid(), first.gid(), first.size()), (4_000_000_000, 5, 3));
    assert_eq!(
        (first.mtime().seconds, first.mtime().nanoseconds),
        (-2, 750_000_000)
    );
    assert_eq!(first.xattrs().get(&b"user.k"[..]), Some(&b"a\nb\0".to_vec()));
    assert_eq!(entry(&layer, &long).target(), format!("{long}/t").as_bytes());
    assert_eq!(entry(&layer, "/huge").uid(), u32::MAX - 1);
    assert_eq!(entry(&layer, "/huge").mtime().seconds, -1);
}

#[test]
fn names_of_posix_and_gnu_headers() {
    let prefix = |magic: &'static [u8; 8]| {
        move |h: &mut [u8; 512]| {
            h[257..265].copy_from_slice(magic);
            h[345..348].copy_from_slice(b"pre");
        }
    };
    let tar = Raw::default()
        .with(b'0', b"posix", b"", prefix(b"ustar\x0000"))
        .with(b'0', b"gnu", b"", prefix(b"ustar  \0"))
        .end();
    let (_dir, layer) = taken(&tar);
    assert!(find(layer.index(), "/pre/posix").is_some());
    assert!(find(layer.index(), "/gnu").is_some());
}

#[test]
fn what_ends_an_archive() {
    let one = Raw::default().file("a", b"x");
    let bare = one.0.clone();
    taken(&bare);
    taken(&[bare.as_slice(), &[0; 512]].concat());
    let mut padded = one.end();
    padded.extend_from_slice(&[0; 8192]);
    taken(&padded);
    taken(&[padded.as_slice(), b"what follows belongs to the diff ID"].concat());
    taken(&[0; 1024]);
    taken(&Raw::default().with(b'g', b"g", b"", |_| ()).0);
}

#[test]
fn damage_is_named_with_its_place() {
    let whole = Raw::default().file("first", b"x").file("second", &[1; 600]);
    for (cut, expected) in [
        (1024 + 512 + 10, "ends at byte 1546, in \"second\""),
        (1024 + 512 + 600, "ends at byte 2136, in \"second\""),
        (1024 + 100, "ends at byte 1124, in \"first\""),
    ] {
        let said = refused(&whole.0[..cut]);
        assert!(said.contains(expected), "{said}");
    }
    let mut damaged = whole.0.clone();
    damaged[1030] ^= 1;
    assert_eq!(
        refused(&damaged),
        "the layer's tar is damaged at byte 1024, after \"first\""
    );
    let amid = [&whole.0[..1024], &[0; 512], &whole.0[1024..]].concat();
    assert!(refused(&amid).contains("damaged at byte 1024"));
    for garbage in [&b""[..], b"short", &[b'x'; 4096]] {
        assert_eq!(refused(garbage), "not a tar archive");
    }
    let lonely = Raw::default().pax(&[("path", b"x")]);
    assert!(refused(&lonely.0).contains("cut short"));
}

#[test]
fn entries_that_no_layer_may_have() {
    let first = || Raw::default().file("first", b"x");
    let numbers = |at: usize, field: &'static [u8]| {
        first().with(b'0', b"e", b"", move |h| {
            h[at..at + field.len()].copy_from_slice(field)
        })
    };
    for (tar, expected) in [
        (first().file("../e", b""), "`..`"),
        (first().file("/e", b""), "absolute"),
        (first().pax(&[("path", b"a\0b")]).file("e", b""), "NUL"),
        (first().link(b'1', "e", "/etc/passwd"), "absolute"),
        (first().link(b'1', "e", "a/../../b"), "`..`"),
        (first().link(b'2', "e", ""), "symbolic link"),
        (first().link(b'2', "l", "/etc").file("l/e", b""), "no directory"),
        (first().file("e/.wh.", b""), "malformed whiteout"),
        (first().file("./", b""), "root directory"),
        (
            first().with(b'V', b"e", b"", |_| ()),
            "unknown type of tar entry: 'V'",
        ),
        (
            first().with(b'3', b"e", b"", |h| h[257..265].fill(0)),
            "device number",
        ),
        (numbers(108, b"000008\0"), "the uid"),
        (numbers(124, &[0xff; 12]), "the size"),
        (numbers(116, &[0x80, 1, 0, 0, 0, 0, 0, 0]), "the gid"),
        (
            first().with(b'x', b"e", b"", |h| h[124..136].copy_from_slice(b"00010000000\0")),
            "1 MiB",
        ),
        (
            first().with(b'x', b"e", b"nonsense", |_| ()),
            "a record is malformed",
        ),
        (first().pax(&[("mtime", b"noon")]).file("e", b""), "the mtime"),
    ] {
        let said = refused(&tar.end());
        assert!(
            said.contains(expected) && said.contains("byte "),
            "{expected}: {said}"
        );
    }
    let beyond = first().with(b'0', b"e", b"", |h| h[124..136].copy_from_slice(b"77777777777\0"));
    assert!(refused(&beyond.end()).contains("cut short"));
}

/// The file that every sparse test makes: 4 MiB with data at two places.
fn sparse_content() -> Vec<u8> {
    let mut content = vec![0; 4 << 20];
    content[1 << 20..(1 << 20) + 5000].fill(b'a');
    content[3 << 20..(3 << 20) + 100].fill(b'b');
    content
}

#[test]
fn sparse_files_of_gnu_tar_in_every_form() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = fs::File::create(dir.path().join("holes")).expect("created");
    let content = sparse_content();
    file.set_len(content.len() as u64).expect("sized");
    use std::os::unix::fs::FileExt;
    for (from, to) in [(1 << 20, (1 << 20) + 5000), (3 << 20, (3 << 20) + 100)] {
        file.write_all_at(&content[from..to], from as u64)
            .expect("written");
    }
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let output = Command::new("tar")
            .args(["--sparse", "--hole-detection=raw", "-C"])
            .arg(dir.path())
            .args(form)
            .args(["-cf", "-", "holes"])
            .stderr(Stdio::inherit())
            .output()
            .expect("GNU tar runs");
        assert!(
            output.status.success() && output.stdout.len() < 1 << 20,
            "{form:?}"
        );
        let (_dir, layer) = taken(&output.stdout);
        assert!(read(&layer, "/holes") == content, "{form:?}");
        assert!(entry(&layer, "/holes").extents().count() >= 2, "{form:?}");
    }
}

#[test]
fn impossible_sparse_maps_are_refused() {
    let sparse = |map: &'static [u8], size: &'static [u8]| {
        Raw::default()
            .pax(&[("GNU.sparse.size", size), ("GNU.sparse.map", map)])
            .file("e", b"0123456789")
            .end()
    };
    taken(&sparse(b"0,4,8,6", b"20"));
    for (map, size, expected) in [
        (&b"0,4,2,6"[..], &b"20"[..], "overlap"),
        (b"0,4,18,6", b"20", "overlap or pass"),
        (b"0,4", b"20", "not as long"),
        (b"0,4,8", b"20", "malformed"),
        (b"0,4,18446744073709551615,6", b"20", "overlap or pass"),
        (b"0,10", b"18446744073709551615", "64 GiB"),
    ] {
        let said = refused(&sparse(map, size));
        assert!(said.contains(expected), "{said}");
    }
    let in_data = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"9"),
    ];
    for content in [&b"1\n0\n"[..], b"x", b"99999999\n", b"1\n0\n9\nx"] {
        refused(&Raw::default().pax(&in_data).file("e", content).end());
    }
}

#[test]
fn marks_of_overlayfs_are_plain_data() {
    let tar = Raw::default()
        .with(b'3', b"device", b"", |_| ())
        .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
        .with(b'5', b"d", b"", |_| ())
        .end();
    let (_dir, layer) = taken(&tar);
    assert_eq!(entry(&layer, "/device").kind(), crate::layer::Kind::CharDevice);
    assert!(!entry(&layer, "/d").is_opaque());
    assert_eq!(entry(&layer, "/d").xattrs().len(), 1);
}

/// One step of writing a layer.
#[derive(Debug, Clone)]
enum Step {
    Directory(ImagePath, Metadata),
    File(ImagePath, Metadata, Vec<u8>),
    Symlink(ImagePath, Metadata, Vec<u8>),
    Device(ImagePath, Metadata, Device),
    HardLink(ImagePath, ImagePath),
    Whiteout(ImagePath),
    Opaque(ImagePath),
}

fn paths() -> impl Strategy<Value = ImagePath> {
    let name = prop_oneof![
        8 => "[a-c]",
        1 => "[a-z]{101,255}",
        1 => "\\.[é ]{1,4}",
    ];
    prop::collection::vec(name, 1..5).prop_map(|names| path(&names.join("/")))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let id = prop_oneof![Just(0_u32), any::<u32>()];
    let xattrs = prop::collection::btree_map("user\\.[a-z]{1,8}", any::<Vec<u8>>(), 0..3);
    let nanoseconds = prop_oneof![Just(0), 0..1_000_000_000_u32];
    (0..0o10000_u32, id.clone(), id, any::<i64>(), nanoseconds, xattrs).prop_map(
        |(mode, uid, gid, seconds, nanoseconds, xattrs)| Metadata {
            mode,
            uid,
            gid,
            mtime: Timestamp { seconds, nanoseconds },
            xattrs: xattrs.into_iter().map(|(k, v)| (k.into_bytes(), v)).collect(),
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = (0..4096_u32, 0..1_048_576_u32).prop_map(|(major, minor)| Device { major, minor });
    let step = prop_oneof![
        (paths(), metadata()).prop_map(|(p, m)| Step::Directory(p, m)),
        (paths(), metadata(), any::<Vec<u8>>()).prop_map(|(p, m, c)| Step::File(p, m, c)),
        (paths(), metadata(), prop::collection::vec(1..255_u8, 1..200))
            .prop_map(|(p, m, t)| Step::Symlink(p, m, t)),
        (paths(), metadata(), device).prop_map(|(p, m, d)| Step::Device(p, m, d)),
        (paths(), paths()).prop_map(|(p, t)| Step::HardLink(p, t)),
        paths().prop_map(Step::Whiteout),
        paths().prop_map(Step::Opaque),
    ];
    prop::collection::vec(step, 0..20)
}

/// Writes a layer of the steps that are possible: a refused step must leave no trace in the tar.
fn write(steps: &[Step], directory: &Path) -> Option<Written> {
    let mut writer = LayerWriter::new(directory).expect("started");
    for step in steps {
        let done = match step {
            Step::Directory(p, m) => writer.add(p, m, NewNode::Directory),
            Step::File(p, m, content) => {
                let size = content.len() as u64;
                let content = &mut content.as_slice();
                writer.add(p, m, NewNode::File { size, content })
            }
            Step::Symlink(p, m, target) => writer.add(p, m, NewNode::Symlink(target)),
            Step::Device(p, m, device) => writer.add(p, m, NewNode::CharDevice(*device)),
            Step::HardLink(p, target) => writer.hard_link(p, target),
            Step::Whiteout(p) => writer.whiteout(p),
            Step::Opaque(p) => writer.opaque(p),
        };
        match done {
            Ok(()) | Err(crate::layer::writer::WriteError::LinkTarget { .. }) => {}
            Err(_) => return None,
        }
    }
    Some(writer.finish().expect("finished"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_is_written_is_taken_in_the_same(steps in steps()) {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        if let Some(written) = write(&steps, one.path()) {
            let tar = fs::read(one.path().join(TAR_FILE))?;
            let taken = ingest(&mut tar.as_slice(), two.path());
            prop_assert_eq!(taken.ok(), Some(written));
            for file in [TAR_FILE, INDEX_FILE] {
                prop_assert!(fs::read(one.path().join(file))? == fs::read(two.path().join(file))?, "{}", file);
            }
        }
    }

    #[test]
    fn damage_never_panics(
        steps in steps(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        if write(&steps, one.path()).is_some() {
            let mut tar = fs::read(one.path().join(TAR_FILE))?;
            for (at, value) in flips {
                let at = at.index(tar.len());
                tar[at] = value;
                // With a right checksum the damage gets past the first check.
                let block = at / 512 * 512;
                if tar[block + 257..block + 262] == *b"ustar" {
                    let mut header = tar::Header::new_old();
                    header.as_mut_bytes().copy_from_slice(&tar[block..block + 512]);
                    header.set_cksum();
                    tar[block..block + 512].copy_from_slice(header.as_bytes());
                }
            }
            tar.truncate(1 + cut.index(tar.len() * 4).min(tar.len() - 1));
            let _ = ingest(&mut tar.as_slice(), two.path());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let dir = tempfile::tempdir()?;
        if let Ok(mut reader) = decompress(bytes.as_slice()) {
            prop_assert!(ingest(&mut reader, dir.path()).is_err() || bytes.iter().all(|&b| b == 0));
        }
    }
}
