use std::sync::Arc;

use super::*;
use crate::layer::Layer;
use crate::layer::index::{Index, Slot};
use crate::overlay::tests::{Member, Session, file, path};
use crate::overlay::*;

/// Packs into `name` beneath the session's directory.
fn pack_as(s: &Session, name: &str) -> Arc<Layer> {
    let directory = s.dir.path().join(name);
    std::fs::create_dir_all(&directory).expect("a directory");
    let mut writer = LayerWriter::new(&directory).expect("a layer");
    pack(&s.overlay, &mut writer).expect("packed");
    writer.finish().expect("finished");
    Arc::new(Layer::open(&directory).expect("a layer"))
}

/// What a layer says, one line for each name: `-` removed, `!` opaque, `?` a directory it does not describe.
fn lines(index: &Index) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![(crate::layer::index::EntryId::ROOT, String::new())];
    while let Some((dir, at)) = todo.pop() {
        for (name, slot) in index.children(dir) {
            let at = format!("{at}/{}", String::from_utf8_lossy(name));
            match slot {
                Slot::Whiteout => lines.push(format!("-{at}")),
                Slot::Link(target) => lines.push(format!("{at} -> {target}")),
                Slot::Entry(id) => {
                    let entry = index.entry(id).expect("an entry");
                    let mark = match (entry.is_opaque(), entry.is_implicit()) {
                        (true, _) => "!",
                        (false, true) => "?",
                        (false, false) => "",
                    };
                    lines.push(format!("{mark}{at}"));
                    todo.push((id, at));
                }
            }
        }
    }
    lines.sort_by(|a, b| {
        a.trim_start_matches(['-', '!', '?'])
            .cmp(b.trim_start_matches(['-', '!', '?']))
    });
    lines
}

fn packed(s: &Session) -> Vec<String> {
    lines(pack_as(s, "packed").index())
}

fn base() -> Session {
    Session::new(&[&[
        ("/d", Member::Directory),
        ("/d/e", Member::Directory),
        ("/d/e/f", file("f")),
        ("/d/g", file("g")),
        ("/one", file("1")),
        ("/two", Member::HardLink("/one".into())),
        ("/z", file("z")),
    ]])
}

#[test]
fn nothing_changed_is_an_empty_layer() {
    let s = base();
    s.tree();
    s.write("/d/new", b"x");
    s.unlink("/d/new").expect("unlinked");
    let mode = |mode| Changes {
        mode: Some(mode),
        ..Changes::default()
    };
    for bits in [0o600, 0o755] {
        s.overlay.set_attr(s.ino("/z"), &mode(bits)).expect("changed");
    }
    s.rename("/z", "/y", RenameMode::NoReplace).expect("moved");
    s.rename("/y", "/z", RenameMode::NoReplace).expect("moved");
    let layer = pack_as(&s, "packed");
    assert!(layer.index().is_empty());
    assert_eq!(lines(layer.index()), [""; 0]);
}

#[test]
fn ancestors_come_with_what_changed() {
    let s = base();
    s.write("/d/e/new", b"x");
    s.unlink("/z").expect("unlinked");
    assert_eq!(packed(&s), ["/d", "/d/e", "/d/e/new", "-/z"]);
}

#[test]
fn a_replaced_directory_is_opaque() {
    let s = base();
    s.unlink("/d/e/f").expect("unlinked");
    s.rmdir("/d/e").expect("removed");
    s.create("/d/e", NewKind::Directory);
    s.create("/d/e/h", NewKind::Fifo);
    assert_eq!(packed(&s), ["/d", "!/d/e", "/d/e/h"]);
}

#[test]
fn a_moved_directory_is_written_whole() {
    let s = base();
    s.rename("/d", "/m", RenameMode::Replace).expect("moved");
    assert_eq!(packed(&s), ["-/d", "/m", "/m/e", "/m/e/f", "/m/g"]);
}

#[test]
fn a_changed_file_is_written_under_all_its_names() {
    let s = base();
    s.write("/one", b"changed");
    let layer = pack_as(&s, "packed");
    assert_eq!(lines(layer.index()), ["/one", "/two"]);
    let root = crate::layer::index::EntryId::ROOT;
    assert_eq!(
        layer.index().lookup(root, b"one"),
        layer.index().lookup(root, b"two")
    );
}

#[test]
fn a_new_name_leaves_the_lower_names_alone() {
    let s = base();
    let ino = s.ino("/one");
    for name in [&b"four"[..], b"three"] {
        s.overlay.link(ino, Ino::ROOT, name).expect("linked");
    }
    assert_eq!(s.attr("/two").nlink, 4);
    assert_eq!(packed(&s), ["/four", "/three"]);
}

#[test]
fn sockets_stay_behind() {
    let s = base();
    s.create("/d/socket", NewKind::Socket);
    s.unlink("/z").expect("unlinked");
    s.create("/z", NewKind::Socket);
    assert_eq!(packed(&s), ["-/z"]);
}

#[test]
fn the_root_is_written_only_if_it_changed() {
    let s = base();
    let changes = Changes {
        mode: Some(0o700),
        ..Changes::default()
    };
    s.overlay.set_attr(Ino::ROOT, &changes).expect("changed");
    let layer = pack_as(&s, "packed");
    let root = layer.index().entry(crate::layer::index::EntryId::ROOT);
    assert_eq!(
        root.map(|root| (root.is_implicit(), root.mode())),
        Some((false, 0o700))
    );
}

#[test]
fn equal_changes_give_equal_layers() {
    let change = |names: [&'static str; 3]| {
        let s = base();
        for name in names {
            let (parent, last) = s.at(name);
            let metadata = crate::overlay::tests::metadata(0o644, 5);
            let placed = s
                .overlay
                .place(parent, last, &metadata, Source::Bytes(name.into()));
            placed.expect("placed");
        }
        pack_as(&s, "packed").diff_id()
    };
    assert_eq!(change(["/x", "/d/y", "/w"]), change(["/w", "/x", "/d/y"]));
}

#[test]
fn virtual_names_never_reach_the_layer() {
    let file = |at| Virtual {
        path: path(at),
        node: VirtualNode::File(b"virtual".to_vec()),
    };
    let directory = Virtual {
        path: path("/proc"),
        node: VirtualNode::Directory,
    };
    let virtuals = || {
        vec![
            file("/z"),
            file("/d/hosts"),
            file("/run/secrets/s"),
            directory.clone(),
        ]
    };
    let session = || {
        let s = base();
        let options = Options {
            virtuals: virtuals(),
            ..Options::default()
        };
        Session::on(s.dir, s.layers, options)
    };
    let s = session();
    assert_eq!(s.read("/z"), b"virtual");
    assert_eq!(s.read("/run/secrets/s"), b"virtual");
    assert_eq!(packed(&s), [""; 0]);

    let s = session();
    s.write("/z", b"overwritten");
    s.unlink("/d/hosts").expect("unlinked");
    s.write("/d/temporary", b"x");
    s.rename("/d/temporary", "/d/hosts", RenameMode::Replace)
        .expect("moved");
    s.unlink("/run/secrets/s").expect("unlinked");
    s.rmdir("/run/secrets").expect("removed");
    s.rmdir("/run").expect("removed");
    assert_eq!(packed(&s), [""; 0]);

    let s = session();
    s.write("/run/real", b"x");
    s.rename("/z", "/kept", RenameMode::Replace).expect("moved");
    assert_eq!(packed(&s), ["/kept", "/run", "/run/real"]);
}
