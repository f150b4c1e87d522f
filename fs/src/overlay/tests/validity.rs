//! Whether what one session has read holds in another tree.

use super::super::trace::differences;
use super::*;

type Members = Vec<(String, Metadata, Member)>;

/// A tree with something of each kind, in two layers.
fn tree_below() -> [Members; 2] {
    let all = |members: &[(&str, Member)]| -> Members {
        let member =
            |(path, member): &(&str, Member)| (path.to_string(), metadata(0o755, 1000), member.clone());
        members.iter().map(member).collect()
    };
    [
        all(&[
            ("/d", Member::Directory),
            ("/d/file", file("content")),
            ("/d/link", Member::Symlink(b"file".to_vec())),
            ("/d/device", Member::Char(Device { major: 1, minor: 3 })),
            ("/d/sub", Member::Directory),
            ("/d/sub/deep", file("deep")),
            ("/full", Member::Directory),
            ("/full/x", file("x")),
            ("/other", file("other")),
        ]),
        all(&[
            ("/d", Member::Directory),
            ("/d/above", file("above")),
            ("/d-e", file("between by bytes")),
        ]),
    ]
}

/// Records what `act` reads of the tree, and tells what of it is different after `change`.
fn changed(act: impl FnOnce(&Session), change: impl FnOnce(&mut [Members; 2])) -> Vec<(String, Aspect)> {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, members: &[Members; 2]| -> Vec<_> {
        let place = |n: usize| dir.path().join(format!("{name}{n}"));
        (0..2).map(|n| layer_of(&place(n), &members[n])).collect()
    };
    let mut members = tree_below();
    let before = write("before", &members);
    change(&mut members);
    let after = Lowers::new(write("after", &members));
    let options = Options {
        record: true,
        ..Options::default()
    };
    let session = Session::on(dir, before.clone(), options);
    act(&session);
    let set = session.overlay.read_set().expect("recorded");
    let encoded = trace::encode(&set).expect("encoded");
    assert_eq!(trace::decode(&encoded), Ok(set.clone()));
    assert_eq!(
        differences(&set, &Lowers::new(before)).count(),
        0,
        "nothing has changed"
    );
    let found = differences(&set, &after);
    found.map(|d| (d.path.to_string(), d.aspect)).collect()
}

fn member<'a>(layers: &'a mut [Members; 2], at: &str) -> &'a mut (String, Metadata, Member) {
    let mut all = layers.iter_mut().flatten();
    all.find(|(path, ..)| path == at).expect("it is there")
}

fn add(layers: &mut [Members; 2], at: &str) {
    layers[1].push((at.to_owned(), metadata(0o755, 1000), file("new")));
}

fn remove(layers: &mut [Members; 2], at: &str) {
    for layer in layers {
        layer.retain(|(path, ..)| path != at);
    }
}

#[track_caller]
fn only<T: std::fmt::Debug>(found: Vec<(String, T)>, at: &str) -> T {
    assert_eq!(found.len(), 1, "{found:?}");
    let (path, aspect) = found.into_iter().next().expect("one");
    assert_eq!(path, at);
    aspect
}

fn look(s: &Session) {
    s.ino("/d/file");
    s.ino("/d/sub/deep");
    s.ino("/d-e");
    assert!(s.overlay.resolve(&path("/d/missing"), Follow::No).is_err());
}

#[test]
fn what_was_not_looked_at_may_change() {
    let nothing = changed(look, |layers| {
        *member(layers, "/other") = ("/other".to_owned(), metadata(0o600, 7), file("changed"));
        remove(layers, "/full/x");
        add(layers, "/d/new");
        member(layers, "/d/above").2 = file("changed");
    });
    assert_eq!(nothing, []);
}

#[test]
fn a_look_sees_metadata_and_no_content() {
    let content = |layers: &mut [Members; 2]| member(layers, "/d/file").2 = file("CONTENT");
    assert_eq!(changed(look, content), []);
    let read = |s: &Session| drop(s.read("/d/file"));
    assert!(matches!(
        only(changed(read, content), "/d/file"),
        Aspect::Content { .. }
    ));
    let mode = changed(look, |layers| member(layers, "/d/file").1.mode = 0o700);
    let (before, now) = (0o755, 0o700);
    assert_eq!(only(mode, "/d/file"), Aspect::Mode { before, now });
    let owner = changed(look, |layers| member(layers, "/d/sub").1.gid = 5);
    let (before, now) = ((0, 0), (0, 5));
    assert_eq!(only(owner, "/d/sub"), Aspect::Owner { before, now });
    let time = changed(look, |layers| {
        member(layers, "/d-e").1.mtime = Timestamp::from_seconds(5);
    });
    assert!(matches!(only(time, "/d-e"), Aspect::Modified { .. }));
    let size = changed(look, |layers| member(layers, "/d/sub/deep").2 = file("deeper"));
    let (before, now) = (4, 6);
    assert_eq!(only(size, "/d/sub/deep"), Aspect::Size { before, now });
}

#[test]
fn names_come_and_go() {
    let vanished = changed(look, |layers| remove(layers, "/d/file"));
    assert_eq!(only(vanished, "/d/file"), Aspect::Vanished(Kind::File));
    let appeared = changed(look, |layers| add(layers, "/d/missing"));
    assert_eq!(only(appeared, "/d/missing"), Aspect::Appeared(Kind::File));
    let hidden = changed(look, |layers| {
        layers[1].push(("/d/file".to_owned(), metadata(0, 0), Member::Whiteout));
    });
    assert_eq!(only(hidden, "/d/file"), Aspect::Vanished(Kind::File));
    let replaced = changed(look, |layers| {
        layers[1].push(("/d/sub".to_owned(), metadata(0o755, 1000), file("now a file")));
    });
    assert_eq!(replaced.len(), 2, "{replaced:?}");
    let (before, now) = (Kind::Directory, Kind::File);
    assert_eq!(replaced[0].1, Aspect::Kind { before, now });
    assert_eq!(replaced[1].1, Aspect::Vanished(Kind::File));
}

#[test]
fn a_listing_sees_names_and_types() {
    let list = |s: &Session| drop(names(&s.overlay, s.ino("/d")));
    let new = changed(list, |layers| add(layers, "/d/new"));
    assert_eq!(only(new, "/d"), Aspect::Listing);
    let kind = changed(list, |layers| member(layers, "/d/file").2 = Member::Fifo);
    assert_eq!(only(kind, "/d"), Aspect::Listing);
    let content = changed(list, |layers| {
        member(layers, "/d/file").2 = file("longer content")
    });
    assert_eq!(content, []);
}

#[test]
fn links_and_devices_are_seen_by_looking() {
    let look = |s: &Session| assert_ne!(s.ino("/d/link"), s.ino("/d/device"));
    let target = changed(look, |layers| {
        member(layers, "/d/link").2 = Member::Symlink(b"sub".to_vec())
    });
    assert!(matches!(only(target, "/d/link"), Aspect::Target { .. }));
    let device = changed(look, |layers| {
        member(layers, "/d/device").2 = Member::Char(Device { major: 1, minor: 5 });
    });
    assert!(matches!(only(device, "/d/device"), Aspect::Device { .. }));
}

#[test]
fn attributes_are_seen_if_they_are_read() {
    let attribute = |layers: &mut [Members; 2]| {
        let xattrs = &mut member(layers, "/d/file").1.xattrs;
        xattrs.insert(b"user.x".to_vec(), b"1".to_vec());
    };
    assert_eq!(changed(look, attribute), []);
    let read = |s: &Session| {
        let missing = s.overlay.xattr(s.ino("/d/file"), b"user.x");
        assert!(matches!(missing, Err(Error::NoAttribute)));
    };
    assert!(matches!(
        only(changed(read, attribute), "/d/file"),
        Aspect::Xattrs { .. }
    ));
}

#[test]
fn a_further_name_of_a_file_is_seen() {
    let linked = changed(look, |layers| {
        let link = Member::HardLink("/d/file".to_owned());
        layers[0].push(("/d/second".to_owned(), metadata(0o755, 1000), link));
    });
    assert_eq!(only(linked, "/d/file"), Aspect::Links);
}

/// That a directory is not empty is learnt also by failing to remove it.
#[test]
fn a_failed_removal_depends_on_what_was_in_the_way() {
    let emptied = |layers: &mut [Members; 2]| remove(layers, "/full/x");
    let remove = |s: &Session| assert!(matches!(s.rmdir("/full"), Err(Error::NotEmpty)));
    assert_eq!(only(changed(remove, emptied), "/full"), Aspect::Listing);
    let replace = |s: &Session| {
        s.create("/new", NewKind::Directory);
        let failed = s.rename("/new", "/full", RenameMode::Replace);
        assert!(matches!(failed, Err(Error::NotEmpty)));
    };
    assert_eq!(only(changed(replace, emptied), "/full"), Aspect::Listing);
}

/// A changed file takes its other names into the layer, and the directories that lead to them.
#[test]
fn a_change_of_a_file_with_two_names_depends_on_the_directory_of_the_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let members = |mode| -> Members {
        let plain = |path: &str, member| (path.to_owned(), metadata(0o755, 1000), member);
        vec![
            plain("/a", file("linked")),
            ("/z".to_owned(), metadata(mode, 1000), Member::Directory),
            plain("/z/b", Member::HardLink("/a".to_owned())),
        ]
    };
    let before = layer_of(&dir.path().join("before"), &members(0o755));
    let after = layer_of(&dir.path().join("after"), &members(0o700));
    let options = Options {
        record: true,
        ..Options::default()
    };
    let s = Session::on(dir, vec![before], options);
    s.ino("/a");
    let after = Lowers::new(vec![after]);
    let set = s.overlay.read_set().expect("recorded");
    assert_eq!(differences(&set, &after).count(), 0, "it was only looked at");
    s.write("/a", b"changed");
    let set = s.overlay.read_set().expect("recorded");
    let found: Vec<_> = differences(&set, &after).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, path("/z"));
}
