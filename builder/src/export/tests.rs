use std::os::unix::fs::{MetadataExt as _, symlink};

use mica_fs::layer::Timestamp;

use super::*;
use crate::look::Stack;
use crate::look::changes::{Precision, compare};

const MANNER: Manner = Manner {
    owners: Owners::Image,
    time: None,
};

/// A store with one layer.
fn world() -> (tempfile::TempDir, Store, Vec<DiffId>) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let layer = layer(&store, |writer| {
        for path in ["bin", "etc"] {
            writer
                .add(&path_of(path), &metadata(0o755), NewNode::Directory)
                .unwrap();
        }
        file(writer, "bin/tool", 0o755, b"#!/bin/sh\n");
        writer
            .hard_link(&path_of("bin/again"), &path_of("bin/tool"))
            .unwrap();
        file(writer, "etc/secret", 0o600, b"x");
        writer
            .add(
                &path_of("etc/link"),
                &metadata(0o777),
                NewNode::Symlink(b"../../../../tmp"),
            )
            .unwrap();
    });
    (directory, store, vec![layer])
}

fn layer(store: &Store, fill: impl FnOnce(&mut LayerWriter)) -> DiffId {
    let work = store.work_dir().unwrap();
    let mut writer = LayerWriter::new(work.path()).unwrap();
    fill(&mut writer);
    let written = writer.finish().unwrap();
    store.publish_layer(work, &written).unwrap();
    written.diff_id
}

fn path_of(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).unwrap()
}

fn metadata(mode: u32) -> Metadata {
    Metadata {
        mode,
        mtime: Timestamp::from_seconds(1_000_000),
        ..Metadata::default()
    }
}

fn file(writer: &mut LayerWriter, path: &str, mode: u32, mut bytes: &[u8]) {
    let size = bytes.len() as u64;
    let content = &mut bytes;
    writer
        .add(&path_of(path), &metadata(mode), NewNode::File { size, content })
        .unwrap();
}

#[test]
fn files_come_out_as_they_are() {
    let (directory, store, layers) = world();
    let out = directory.path().join("out");
    root_directory(&store, &layers, &out, MANNER).unwrap();
    let tool = std::fs::metadata(out.join("bin/tool")).unwrap();
    assert_eq!(
        (tool.mode() & 0o7777, tool.mtime(), tool.nlink()),
        (0o755, 1_000_000, 2)
    );
    assert_eq!(
        tool.ino(),
        std::fs::metadata(out.join("bin/again")).unwrap().ino()
    );
    assert_eq!(std::fs::read(out.join("etc/secret")).unwrap(), b"x");
    assert_eq!(
        std::fs::read_link(out.join("etc/link")).unwrap().as_os_str(),
        "../../../../tmp"
    );
    // A second time replaces what is there.
    root_directory(&store, &layers, &out, MANNER).unwrap();
}

#[test]
fn links_in_the_destination_are_not_followed() {
    let (directory, store, layers) = world();
    let (out, outside) = (directory.path().join("out"), directory.path().join("outside"));
    for path in [&out, &outside] {
        std::fs::create_dir(path).unwrap();
    }
    symlink(&outside, out.join("etc")).unwrap();
    assert!(matches!(
        root_directory(&store, &layers, &out, MANNER),
        Err(ExportError::Write { .. })
    ));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let left: Vec<_> = std::fs::read_dir(&out)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["etc"], "nothing was written");

    std::fs::remove_file(out.join("etc")).unwrap();
    std::fs::write(outside.join("victim"), "untouched").unwrap();
    std::fs::create_dir_all(out.join("etc")).unwrap();
    symlink(outside.join("victim"), out.join("etc/secret")).unwrap();
    root_directory(&store, &layers, &out, MANNER).unwrap();
    assert_eq!(std::fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(std::fs::read(out.join("etc/secret")).unwrap(), b"x");
}

#[test]
fn files_have_the_time_and_the_owner_that_are_asked_for() {
    let (directory, store, layers) = world();
    let above = layer(&store, |writer| {
        let mut attributes = metadata(0o644);
        attributes.uid = 12_345;
        attributes.xattrs.insert(b"user.kind".to_vec(), b"test".to_vec());
        let device = mica_fs::layer::Device { major: 1, minor: 3 };
        writer
            .add(&path_of("dev"), &attributes, NewNode::CharDevice(device))
            .unwrap();
        let content = &mut &b"x"[..];
        writer
            .add(&path_of("owned"), &attributes, NewNode::File { size: 1, content })
            .unwrap();
    });
    let out = directory.path().join("made/out");
    let manner = Manner {
        owners: Owners::Own,
        time: Some(Timestamp::from_seconds(77)),
    };
    let lost = root_directory(&store, &[layers[0], above], &out, manner).unwrap();
    assert_eq!((lost.owners > 0, lost.devices), (true, 1));
    assert!(!out.join("dev").exists());
    for path in ["owned", "bin/tool", "bin"] {
        assert_eq!(std::fs::metadata(out.join(path)).unwrap().mtime(), 77, "{path}");
    }
    let me = nix::unistd::geteuid().as_raw();
    assert_eq!(std::fs::metadata(out.join("owned")).unwrap().uid(), me);
}

#[test]
fn the_tar_holds_the_same_tree() {
    let (_directory, store, layers) = world();
    let mut bytes = Vec::new();
    root_tar(&store, &layers, None, &mut bytes).unwrap();
    let copy = store.import_layer(&mut &bytes[..], None).unwrap().diff_id();
    let (old, new) = (Stack::open(&store, &layers), Stack::open(&store, &[copy]));
    let (old, new) = (old.unwrap(), new.unwrap());
    let differences = compare(old.top(), new.top(), &ImagePath::root(), Precision::Times);
    assert!(differences.is_empty(), "{differences:?}");
}
