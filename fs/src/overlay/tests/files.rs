//! Content, metadata and attributes of single nodes, and the errors.

use proptest::prelude::*;

use super::*;
use crate::layer::index::EntryId;

fn errno<T>(result: Result<T>) -> i32 {
    result.map_or_else(|error| error.errno(), |_| 0)
}

fn size(bytes: u64) -> Changes {
    Changes {
        size: Some(bytes),
        ..Changes::default()
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let s = Session::new(&[&[("/f", file("f")), ("/d/x", file("x"))]]);
    let (f, d, root) = (s.ino("/f"), s.ino("/d"), Ino::ROOT);
    let create = |name: &[u8]| {
        s.overlay
            .create(root, name, NewKind::File, 0o644, Owner::default())
    };
    assert_eq!(errno(create(b"f")), libc::EEXIST);
    assert_eq!(errno(create(&[b'x'; 256])), libc::ENAMETOOLONG);
    assert_eq!(errno(create(b"a/b")), libc::EINVAL);
    assert_eq!(errno(s.overlay.lookup(f, b"x")), libc::ENOTDIR);
    assert_eq!(errno(s.overlay.link(d, root, b"hard")), libc::EPERM);
    assert_eq!(errno(s.overlay.write(d, 0, b"x")), libc::EISDIR);
    assert_eq!(errno(s.overlay.write(f, u64::MAX, b"x")), libc::EFBIG);
    assert_eq!(errno(s.overlay.set_attr(f, &size(1 << 63))), libc::EFBIG);
    assert_eq!(errno(s.overlay.read_link(f)), libc::EINVAL);
    assert_eq!(errno(s.overlay.attr(Ino(12345))), libc::ESTALE);
    assert_eq!(errno(s.overlay.xattr(f, b"user.none")), libc::ENODATA);
    let set = |name: &[u8]| errno(s.overlay.set_xattr(f, name, b"x", SetXattr::Any));
    assert_eq!(set(b"system.other"), libc::EOPNOTSUPP);
    assert_eq!(set(b"system.posix_acl_access"), libc::EINVAL);
    assert_eq!(errno(s.overlay.allocate(f, Allocate::Extend, 0, 0)), libc::EINVAL);
    let reader = Overlay::read_only(s.layers.clone());
    assert_eq!(errno(reader.unlink(root, b"f")), libc::EROFS);
    assert_eq!(errno(reader.set_attr(f, &size(0))), libc::EROFS);
}

/// What a file of 300,000 bytes, no two blocks of it alike, has at an offset.
fn patterned() -> Vec<u8> {
    (0..300_000u32)
        .map(|at| (at / 4096 * 31 + at % 251) as u8)
        .collect()
}

fn on_disk(s: &Session, ino: Ino) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let flat = s.dir.path().join("upper").join(format!("{:x}", ino.0));
    std::fs::metadata(flat).expect("a flat file").blocks() * 512
}

#[test]
fn a_change_of_a_large_file_costs_what_it_changes() {
    let before = patterned();
    let s = Session::new(&[&[("/f", Member::File(before.clone()))]]);
    let ino = s.ino("/f");
    s.overlay.write(ino, 100_000, b"changed").expect("written");
    let mut expected = before;
    expected[100_000..100_007].copy_from_slice(b"changed");
    assert!(s.read("/f") == expected);
    assert!(on_disk(&s, ino) <= 4 * 4096, "{}", on_disk(&s, ino));
    assert_eq!(s.attr("/f").blocks, 300_000_u64.div_ceil(512));
    // What is cut off does not come back.
    s.overlay.set_attr(ino, &size(5000)).expect("truncated");
    s.overlay.set_attr(ino, &size(1 << 40)).expect("extended");
    assert!(s.attr("/f").blocks < 64);
    s.overlay.set_attr(ino, &size(120_000)).expect("truncated");
    expected.truncate(5000);
    expected.resize(120_000, 0);
    assert!(s.read("/f") == expected);
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, u8, usize),
    Truncate(u64),
    Allocate(Allocate, u64, u64),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let near = prop_oneof![0..330_000u64, (0..80u64).prop_map(|block| block * 4096)];
    let how = prop_oneof![
        Just(Allocate::Extend),
        Just(Allocate::KeepSize),
        Just(Allocate::PunchHole),
        Just(Allocate::ZeroRange { keep_size: true }),
        Just(Allocate::ZeroRange { keep_size: false }),
    ];
    let change = prop_oneof![
        6 => (near.clone(), any::<u8>(), prop_oneof![1..9000usize, 1..200_000usize])
            .prop_map(|(at, byte, length)| Change::Write(at, byte, length)),
        1 => near.clone().prop_map(Change::Truncate),
        2 => (how, near, 1..20_000u64).prop_map(|(how, at, length)| Change::Allocate(how, at, length)),
    ];
    prop::collection::vec(change, 1..20)
}

impl Change {
    fn apply(&self, overlay: &Overlay, ino: Ino) {
        match *self {
            Self::Write(at, byte, length) => {
                overlay.write(ino, at, &vec![byte; length]).expect("written");
            }
            Self::Truncate(to) => {
                overlay.set_attr(ino, &size(to)).expect("truncated");
            }
            Self::Allocate(how, at, length) => overlay.allocate(ino, how, at, length).expect("allocated"),
        }
    }

    /// The same to bytes.
    fn imitate(&self, bytes: &mut Vec<u8>) {
        match *self {
            Self::Write(at, byte, length) => {
                let (start, end) = (at as usize, at as usize + length);
                bytes.resize(bytes.len().max(end), 0);
                bytes[start..end].fill(byte);
            }
            Self::Truncate(to) => bytes.resize(to as usize, 0),
            Self::Allocate(how, at, length) => {
                let (start, end) = (at as usize, (at + length) as usize);
                if matches!(how, Allocate::Extend | Allocate::ZeroRange { keep_size: false }) {
                    bytes.resize(bytes.len().max(end), 0);
                }
                if matches!(how, Allocate::PunchHole | Allocate::ZeroRange { .. }) {
                    let (start, end) = (start.min(bytes.len()), end.min(bytes.len()));
                    bytes[start..end].fill(0);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_large_file_is_changed_as_bytes_are(changes in changes()) {
        let mut expected = patterned();
        let s = Session::new(&[&[("/f", Member::File(expected.clone()))]]);
        let ino = s.ino("/f");
        for change in changes {
            change.apply(&s.overlay, ino);
            change.imitate(&mut expected);
            prop_assert_eq!(s.attr("/f").size, expected.len() as u64);
            prop_assert!(s.read("/f") == expected, "after {change:?}");
        }
    }
}

#[test]
fn a_removed_directory_takes_nothing_in() {
    let s = Session::new(&[&[("/d", Member::Directory), ("/f", file("f"))]]);
    let d = s.overlay.lookup(Ino::ROOT, b"d").expect("found").ino;
    s.rmdir("/d").expect("removed");
    assert_eq!(s.overlay.attr(d).map(|attr| attr.nlink).ok(), Some(0));
    let created = s.overlay.create(d, b"x", NewKind::File, 0o644, Owner::default());
    assert_eq!(errno(created), libc::ENOENT);
    let moved = s.overlay.rename(Ino::ROOT, b"f", d, b"f", RenameMode::Replace);
    assert_eq!(errno(moved), libc::ENOENT);
    assert_eq!(names(&s.overlay, d), [""; 0]);
}

#[test]
fn links_are_counted() {
    let s = Session::new(&[
        &[
            ("/a", file("a")),
            ("/b", Member::HardLink("/a".into())),
            ("/c", Member::HardLink("/a".into())),
        ],
        &[("/c", Member::Whiteout)],
    ]);
    assert_eq!((s.attr("/a").nlink, s.ino("/a")), (2, s.ino("/b")));
    s.unlink("/a").expect("unlinked");
    assert_eq!(s.attr("/b").nlink, 1);
    let new = s.create("/new", NewKind::Directory);
    s.create("/new/sub", NewKind::Directory);
    assert_eq!(s.overlay.attr(new).map(|attr| attr.nlink).ok(), Some(3));
    for n in 1..65_000 {
        let linked = s.overlay.link(s.ino("/b"), new, format!("{n}").as_bytes());
        linked.expect("linked");
    }
    assert_eq!(errno(s.overlay.link(s.ino("/b"), new, b"more")), libc::EMLINK);
}

#[test]
fn numbers_outlive_copy_up_and_renames() {
    let s = Session::new(&[&[("/d/f", file("f"))], &[("/d/g", file("g"))]]);
    let before = [s.ino("/d"), s.ino("/d/f"), s.ino("/d/g")];
    s.write("/d/f", b"changed");
    s.rename("/d", "/e", RenameMode::Replace).expect("moved");
    assert_eq!([s.ino("/e"), s.ino("/e/f"), s.ino("/e/g")], before);
    let again = Overlay::read_only(s.layers.clone());
    let d = again.resolve(&path("/d"), Follow::No).expect("found");
    assert_eq!(d.ino, before[0]);
}

#[test]
fn set_group_id_directories_hand_down() {
    let s = Session::new(&[&[("/d", Member::Directory)]]);
    let changes = Changes {
        mode: Some(0o2775),
        gid: Some(50),
        ..Changes::default()
    };
    s.overlay.set_attr(s.ino("/d"), &changes).expect("changed");
    s.create("/d/f", NewKind::File);
    s.create("/d/sub", NewKind::Directory);
    let seen = |at| (s.attr(at).gid, s.attr(at).mode);
    assert_eq!((seen("/d/f"), seen("/d/sub")), ((50, 0o644), (50, 0o2644)));
}

#[test]
fn privileges_end_with_the_owner() {
    let s = Session::new(&[&[("/f", file("f"))]]);
    let f = s.ino("/f");
    let arm = || {
        let mode = Changes {
            mode: Some(0o6755),
            ..Changes::default()
        };
        s.overlay.set_attr(f, &mode).expect("changed");
        let set = s
            .overlay
            .set_xattr(f, b"security.capability", b"x", SetXattr::Any);
        set.expect("set");
    };
    let owner = Changes {
        uid: Some(1),
        ..Changes::default()
    };
    let kill = Changes {
        kill_privileges: true,
        ..Changes::default()
    };
    for changes in [owner, kill] {
        arm();
        assert_eq!(
            s.overlay.set_attr(f, &changes).map(|attr| attr.mode).ok(),
            Some(0o755)
        );
        assert_eq!(errno(s.overlay.xattr(f, b"security.capability")), libc::ENODATA);
    }
    s.overlay.set_attr(f, &size(0)).expect("truncated");
}

#[test]
fn holes_are_found_and_kept() {
    let mut sparse = vec![0; 60_000];
    sparse[20_000] = 1;
    let s = Session::new(&[&[("/f", Member::File(sparse.clone()))]]);
    let f = s.ino("/f");
    s.overlay.write(f, 0, b"x").expect("written");
    sparse[0] = b'x';
    assert_eq!(s.read("/f"), sparse);
    assert!(
        s.overlay.attr(f).expect("attributes").blocks < 64,
        "copy-up keeps holes"
    );
    s.overlay.set_attr(f, &size(1 << 40)).expect("extended");
    s.overlay.write(f, (1 << 40) - 1, b"y").expect("written");
    let hole = s.overlay.seek(f, 20_000, Seek::Hole).expect("a hole");
    let data = s.overlay.seek(f, hole, Seek::Data).expect("data");
    assert!(hole < 30_000 && data > (1 << 40) - 8192);
    assert_eq!(errno(s.overlay.seek(f, 1 << 40, Seek::Data)), libc::ENXIO);
    let new = s.create("/small", NewKind::File);
    s.overlay.write(new, 0, b"abc").expect("written");
    assert_eq!(s.overlay.seek(new, 1, Seek::Data).ok(), Some(1));
    assert_eq!(s.overlay.seek(new, 1, Seek::Hole).ok(), Some(3));
}

#[test]
fn times_may_lie_before_the_epoch() {
    let s = Session::new(&[&[("/f", file("f"))]]);
    let time = Timestamp {
        seconds: -1,
        nanoseconds: 5,
    };
    let changes = Changes {
        mtime: Some(time),
        ..Changes::default()
    };
    let attr = s.overlay.set_attr(s.ino("/f"), &changes).expect("changed");
    assert_eq!(attr.mtime, time);
    assert!(attr.ctime > Timestamp::from_seconds(1_000_000_000));
}

#[test]
fn a_device_0_0_is_no_whiteout() {
    let s = Session::new(&[&[("/f", file("f"))]]);
    s.unlink("/f").expect("unlinked");
    s.create("/f", NewKind::CharDevice(Device::default()));
    assert_eq!(s.attr("/f").kind, Kind::CharDevice);
}

#[test]
fn paths_stay_in_the_image() {
    let s = Session::new(&[&[
        ("/etc/passwd", file("inside")),
        ("/abs", Member::Symlink(b"/etc".to_vec())),
        ("/d/up", Member::Symlink(b"../../../../etc/passwd".to_vec())),
        ("/loop", Member::Symlink(b"loop".to_vec())),
    ]]);
    let resolve = |at| s.overlay.resolve(&path(at), Follow::Yes).map(|attr| attr.ino);
    let passwd = s.ino("/etc/passwd");
    assert_eq!(resolve("/abs/passwd").ok(), Some(passwd));
    assert_eq!(resolve("/d/up").ok(), Some(passwd));
    assert_eq!(errno(resolve("/loop")), libc::ELOOP);
    assert_eq!(errno(resolve("/etc/passwd/x")), libc::ENOTDIR);
    let time = Timestamp::from_seconds(5);
    let made = s
        .overlay
        .make_dirs(&path("/abs/a/b"), 0o700, Owner { uid: 3, gid: 4 }, Some(time));
    assert_eq!(made.ok(), Some(s.ino("/etc/a/b")));
    let attr = s.attr("/etc/a");
    assert_eq!((attr.mode, attr.uid, attr.mtime), (0o700, 3, time));
    assert_eq!(s.attr("/etc").mtime, Timestamp::default());
}

#[test]
fn placed_nodes_need_no_copy() {
    let s = Session::new(&[&[("/f", Member::File(vec![5; 50_000])), ("/d", Member::Directory)]]);
    let d = s.ino("/d");
    let index = s.layers[0].index();
    let Some(crate::layer::index::Slot::Entry(id)) = index.lookup(EntryId::ROOT, b"f") else {
        panic!("no entry")
    };
    let path = s.dir.path().join("source");
    std::fs::write(&path, vec![6; 40_000]).expect("written");
    let host = Source::Host(HostFile {
        path: path.clone(),
        size: 40_000,
        expected: Expected::Anything,
    });
    let layer = Source::Layer(Arc::clone(&s.layers[0]), id);
    for (name, source) in [
        (&b"layer"[..], layer),
        (b"host", host),
        (b"bytes", Source::Bytes(vec![7; 9])),
    ] {
        s.overlay
            .place(d, name, &metadata(0o4711, 9), source)
            .expect("placed");
    }
    assert_eq!(
        std::fs::read_dir(s.dir.path().join("upper"))
            .expect("listed")
            .count(),
        0
    );
    assert_eq!(s.read("/d/layer"), vec![5; 50_000]);
    assert_eq!(s.read("/d/host"), vec![6; 40_000]);
    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink("/etc/passwd", &path).expect("linked");
    let refused = s.overlay.read(s.ino("/d/host"), 0, &mut [0; 9]);
    assert!(refused.is_err(), "a link in the place of a source was followed");
    assert_eq!(
        s.overlay.content(s.ino("/d/layer")).ok().flatten(),
        index.entry(id).and_then(|e| e.digest())
    );
    assert_eq!(
        (s.attr("/d/bytes").mode, s.attr("/d").mtime),
        (0o4711, Timestamp::from_seconds(1000))
    );
    s.overlay.write(s.ino("/d/layer"), 1, b"z").expect("written");
    assert_eq!(s.read("/f"), vec![5; 50_000]);
    let again = s.overlay.place(d, b"bytes", &metadata(0o644, 9), Source::Fifo);
    assert_eq!(errno(again), libc::EEXIST);
}
