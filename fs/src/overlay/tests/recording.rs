//! What a session is seen to read.

use super::*;
use crate::digest::Digest;

fn recorded() -> Session {
    let options = Options {
        record: true,
        virtuals: vec![
            Virtual {
                path: path("/etc/hosts"),
                node: VirtualNode::File(Vec::new()),
            },
            Virtual {
                path: path("/run/x"),
                node: VirtualNode::Directory,
            },
        ],
    };
    Session::with(
        &[&[
            ("/etc", Member::Directory),
            ("/etc/hosts", file("lower")),
            ("/d", Member::Directory),
            ("/d/a", file("a")),
            ("/d/b", file("b")),
            ("/d/sub/c", file("c")),
            ("/l", Member::Symlink(b"d/a".to_vec())),
        ]],
        options,
    )
}

fn present(set: &ReadSet, at: &str) -> Presence {
    match set.get(&path(at)) {
        Some(Observation::Present(presence)) => presence.clone(),
        other => panic!("{at}: {other:?}"),
    }
}

fn paths(set: &ReadSet) -> Vec<String> {
    set.keys().map(|path| path.to_string()).collect()
}

#[test]
fn nothing_read_is_only_the_root() {
    let s = recorded();
    assert_eq!(paths(&s.overlay.read_set().expect("recorded")), ["/"]);
    assert!(Session::new(&[]).overlay.read_set().is_none());
}

#[test]
fn looking_is_not_reading() {
    let s = recorded();
    s.ino("/d/a");
    s.read("/d/b");
    s.ino("/l");
    let missing = s.overlay.resolve(&path("/d/missing"), Follow::No);
    assert!(matches!(missing, Err(Error::NotFound)));
    let set = s.overlay.read_set().expect("recorded");
    assert_eq!(paths(&set), ["/", "/d", "/d/a", "/d/b", "/d/missing", "/l"]);
    assert_eq!(set[&path("/d/missing")], Observation::Absent);
    assert_eq!(present(&set, "/d/a").content, None);
    assert_eq!(present(&set, "/d/b").content, Some(Digest::of(b"b")));
    assert_eq!(present(&set, "/l").target.as_deref(), Some(&b"d/a"[..]));
    assert_eq!(present(&set, "/d").listing, None);
    names(&s.overlay, s.ino("/d"));
    let set = s.overlay.read_set().expect("recorded");
    assert!(present(&set, "/d").listing.is_some());
}

#[test]
fn what_the_session_did_itself_is_not_observed() {
    let s = recorded();
    s.unlink("/d/a").expect("unlinked");
    assert!(s.overlay.resolve(&path("/d/a"), Follow::No).is_err());
    s.write("/d/new", b"x");
    s.read("/d/new");
    s.read("/etc/hosts");
    let set = s.overlay.read_set().expect("recorded");
    assert_eq!(paths(&set), ["/", "/d", "/d/a", "/d/new", "/etc"]);
    assert_eq!(present(&set, "/d/a").content, None);
    assert_eq!(set[&path("/d/new")], Observation::Absent);
    assert!(
        present(&set, "/d").xattrs.is_some(),
        "its metadata goes into the layer"
    );
}

#[test]
fn what_goes_into_the_layer_is_read() {
    let s = recorded();
    let mode = Changes {
        mode: Some(0o600),
        ..Changes::default()
    };
    s.overlay.set_attr(s.ino("/d/a"), &mode).expect("changed");
    s.overlay.write(s.ino("/d/b"), 0, b"x").expect("written");
    s.rename("/d/sub", "/moved", RenameMode::Replace).expect("moved");
    s.read("/moved/c");
    let set = s.overlay.read_set().expect("recorded");
    for (at, content) in [("/d/a", b"a"), ("/d/b", b"b"), ("/d/sub/c", b"c")] {
        assert_eq!(present(&set, at).content, Some(Digest::of(content)), "{at}");
    }
    let s = recorded();
    s.write("/d/a", b"from nothing");
    let set = s.overlay.read_set().expect("recorded");
    assert_eq!(present(&set, "/d/a").content, None);
}

#[test]
fn a_virtual_directory_is_there_because_none_was() {
    let s = recorded();
    s.ino("/run/x");
    let set = s.overlay.read_set().expect("recorded");
    assert_eq!(paths(&set), ["/", "/run"]);
    assert_eq!(set[&path("/run")], Observation::Absent);
}
