//! Merging, copy-up, creating, removing, moving.

use super::*;

#[test]
fn layers_merge_top_first() {
    let s = Session::new(&[
        &[
            ("/d/a", file("old")),
            ("/d/b", file("b")),
            ("/gone", file("x")),
            ("/o/x", file("x")),
        ],
        &[
            ("/d/a", file("new")),
            ("/gone", Member::Whiteout),
            ("/o", Member::Directory),
            ("/o", Member::Opaque),
            ("/o/y", file("y")),
        ],
    ]);
    let all: Vec<_> = s.tree().into_keys().collect();
    assert_eq!(all, ["", "/d", "/d/a", "/d/b", "/o", "/o/y"]);
    assert_eq!(s.read("/d/a"), b"new");
}

#[test]
fn the_first_write_copies_up() {
    let big = vec![7; 100_000];
    let s = Session::new(&[&[("/small", file("hello")), ("/big", Member::File(big.clone()))]]);
    for (at, size) in [("/small", 5), ("/big", 100_000)] {
        let ino = s.ino(at);
        s.overlay.write(ino, 1, b"XY").expect("written");
        let now = s.read(at);
        assert_eq!((now.len(), &now[1..3], s.ino(at)), (size, &b"XY"[..], ino));
    }
    assert_eq!(s.read("/small"), b"hXYlo");
    assert_eq!(s.read("/big")[3..], big[3..]);
    let below = Overlay::read_only(s.layers.clone());
    assert_eq!(tree(&below)["/big"].content, big);
}

#[test]
fn a_lower_directory_moves_with_its_content() {
    let s = Session::new(&[
        &[("/d/sub/a", file("a")), ("/d/b", file("b"))],
        &[("/d/sub/c", file("c"))],
    ]);
    s.write("/d/new", b"n");
    let ino = s.ino("/d");
    s.rename("/d", "/e", RenameMode::Replace).expect("moved");
    let all: Vec<_> = s.tree().into_keys().collect();
    assert_eq!(
        all,
        ["", "/e", "/e/b", "/e/new", "/e/sub", "/e/sub/a", "/e/sub/c"]
    );
    assert_eq!((s.ino("/e"), s.read("/e/sub/c")), (ino, b"c".to_vec()));
    let refused = s.rename("/e", "/e/sub/e", RenameMode::Replace);
    assert!(matches!(refused, Err(Error::Invalid)));
}

#[test]
fn an_unlinked_file_lives_until_it_is_forgotten() {
    let s = Session::new(&[&[]]);
    let ino = s.create("/f", NewKind::File);
    s.overlay.write(ino, 0, &vec![1; 50_000]).expect("written");
    let flat = s.dir.path().join("upper").join(format!("{:x}", ino.0));
    assert!(flat.exists());
    s.unlink("/f").expect("unlinked");
    assert_eq!(
        s.overlay.attr(ino).map(|a| (a.nlink, a.size)).ok(),
        Some((0, 50_000))
    );
    assert_eq!(content(&s.overlay, ino), vec![1; 50_000]);
    s.overlay.forget(ino, 1);
    assert!(!flat.exists());
    assert!(matches!(s.overlay.attr(ino), Err(Error::Stale)));
}

#[test]
fn removing_what_lies_below() {
    let s = Session::new(&[&[("/d/a", file("a")), ("/d/b", file("b"))]]);
    assert!(matches!(s.rmdir("/d"), Err(Error::NotEmpty)));
    assert!(matches!(s.unlink("/d"), Err(Error::IsADirectory)));
    s.unlink("/d/a").expect("unlinked");
    s.unlink("/d/b").expect("unlinked");
    assert!(matches!(s.unlink("/d/b"), Err(Error::NotFound)));
    s.rmdir("/d").expect("removed");
    s.create("/d", NewKind::Directory);
    assert_eq!(names(&s.overlay, s.ino("/d")), [""; 0]);
}
