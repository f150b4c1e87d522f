//! Uppers that outlive their session.

use super::*;

fn open(s: &Session, at: &Path) -> Result<Overlay> {
    Overlay::writable(s.layers.clone(), Upper::named(at), Options::default())
}

/// A session with a bit of everything in it.
fn changed(s: Session, at: &Path) -> Session {
    let overlay = open(&s, at).expect("an upper");
    let s = Session { overlay, ..s };
    s.write("/small", b"new");
    s.write("/big", &vec![3; 100_000]);
    s.unlink("/gone").expect("unlinked");
    s.rename("/d", "/moved", RenameMode::Replace).expect("moved");
    s.create("/moved/fifo", NewKind::Fifo);
    s.create("/link", NewKind::Symlink(b"small"));
    let (root, name) = s.at("/other");
    let ino = s.ino("/a");
    s.overlay.link(ino, root, name).expect("linked");
    s.unlink("/a").expect("unlinked");
    let set = s.overlay.set_xattr(s.ino("/b"), b"user.x", b"1", SetXattr::Any);
    set.expect("set");
    s
}

fn base() -> Session {
    Session::new(&[&[
        ("/a", file("a")),
        ("/b", Member::HardLink("/a".into())),
        ("/d/x", file("x")),
        ("/dev", Member::Char(Device { major: 1, minor: 3 })),
        ("/fifo", Member::Fifo),
        ("/gone", file("gone")),
        ("/l", Member::Symlink(b"a".to_vec())),
    ]])
}

#[test]
fn a_saved_session_continues() {
    let base = base();
    let at = base.dir.path().join("named");
    let s = changed(base, &at);
    let before = s.tree();
    s.overlay.save().expect("saved");
    let (dir, layers) = (s.dir, s.layers);
    drop(s.overlay);
    let overlay = Overlay::writable(layers.clone(), Upper::named(&at), Options::default());
    let s = Session {
        dir,
        layers,
        overlay: overlay.expect("restored"),
    };
    assert_eq!(s.tree(), before);
    assert!(matches!(open(&s, &at), Err(Error::InUse { .. })), "it is in use");
    s.write("/big", b"again");
    s.unlink("/moved/fifo").expect("unlinked");
    assert_eq!(s.read("/big"), b"again");
    s.overlay.end().expect("saved");
    let after = s.tree();
    // Although the session before it is still there.
    let overlay = open(&s, &at).expect("nobody uses it any more");
    assert_eq!(Session { overlay, ..s }.tree(), after);
}

#[test]
fn what_was_not_saved_leaves_the_state_before() {
    let base = base();
    let at = base.dir.path().join("named");
    let s = changed(base, &at);
    s.overlay.sync(s.ino("/big"), Durable::All).expect("synced");
    let before = s.tree();
    s.unlink("/big").expect("unlinked");
    s.write("/later", &vec![1; 50_000]);
    let (dir, layers) = (s.dir, s.layers);
    drop(s.overlay);
    let overlay = Overlay::writable(layers.clone(), Upper::named(&at), Options::default());
    let s = Session {
        dir,
        layers,
        overlay: overlay.expect("restored"),
    };
    assert_eq!(s.tree(), before);
    assert_eq!(std::fs::read_dir(at.join("files")).expect("listed").count(), 1);
}

#[test]
fn damage_is_an_error() {
    let base = base();
    let at = base.dir.path().join("named");
    let s = changed(base, &at);
    s.overlay.save().expect("saved");
    let (_dir, layers) = (s.dir, s.layers);
    drop(s.overlay);
    let state = at.join("state");
    let good = std::fs::read(&state).expect("read");
    let refused = |layers: &[Arc<Layer>]| {
        let opened = Overlay::writable(layers.to_vec(), Upper::named(&at), Options::default());
        assert!(matches!(opened, Err(Error::State { .. })));
    };
    for cut in (0..good.len()).step_by(13) {
        std::fs::write(&state, &good[..cut]).expect("written");
        refused(&layers);
        let mut flipped = good.clone();
        flipped[cut] ^= 1;
        std::fs::write(&state, &flipped).expect("written");
        refused(&layers);
    }
    std::fs::write(&state, &good).expect("written");
    refused(&[]);
}
