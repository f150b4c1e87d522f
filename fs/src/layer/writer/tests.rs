use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use super::*;
use crate::digest::Digest;
use crate::layer::index::{EntryId, Slot};
use crate::layer::{Kind, Layer, Timestamp};

fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).expect("a valid path")
}

fn metadata(mode: u32) -> Metadata {
    Metadata {
        mode,
        mtime: Timestamp::from_seconds(1_700_000_000),
        ..Metadata::default()
    }
}

fn add_file(writer: &mut LayerWriter, at: &str, metadata: &Metadata, content: &[u8]) {
    let mut reader = content;
    let node = NewNode::File {
        size: content.len() as u64,
        content: &mut reader,
    };
    writer.add(&path(at), metadata, node).expect("added");
}

/// Writes a layer with `fill` and opens it.
fn layer(fill: impl FnOnce(&mut LayerWriter)) -> (tempfile::TempDir, Written, Layer) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = LayerWriter::new(dir.path()).expect("started");
    fill(&mut writer);
    let written = writer.finish().expect("finished");
    let layer = Layer::open(dir.path()).expect("opened");
    (dir, written, layer)
}

fn find(layer: &Layer, text: &str) -> Option<Slot> {
    let mut slot = Slot::Entry(EntryId::ROOT);
    for name in path(text).components() {
        let Slot::Entry(dir) = slot else { return None };
        slot = layer.index().lookup(dir, name)?;
    }
    Some(slot)
}

fn read(layer: &Layer, text: &str) -> Vec<u8> {
    let Some(Slot::Entry(id)) = find(layer, text) else {
        panic!("{text} is missing")
    };
    let entry = layer.index().entry(id).expect("an entry");
    let mut content = vec![0; usize::try_from(entry.size()).expect("small")];
    let n = layer.read_at(id, &mut content, 0).expect("read");
    assert_eq!(n, content.len());
    assert_eq!(entry.digest(), Some(Digest::of(&content)));
    content
}

/// Every kind of node, with what needs a PAX header.
fn everything(writer: &mut LayerWriter) {
    let mut odd = metadata(0o4755);
    (odd.uid, odd.gid) = (3_000_000_000, 2_097_152);
    odd.mtime = Timestamp {
        seconds: -5,
        nanoseconds: 250_000_000,
    };
    odd.xattrs.insert(b"user.raw".to_vec(), vec![0, 0xff, b'=']);
    let device = Device { major: 8, minor: 17 };
    let long = "x".repeat(120);
    writer
        .add(&path("/"), &metadata(0o755), NewNode::Directory)
        .expect("added");
    writer
        .add(&path("/d"), &metadata(0o1777), NewNode::Directory)
        .expect("added");
    writer.opaque(&path("/d")).expect("added");
    add_file(writer, "/d/odd", &odd, b"content");
    add_file(writer, &format!("/d/{long}/{long}"), &metadata(0o644), &[7; 1000]);
    add_file(writer, "/empty", &metadata(0o600), b"");
    writer
        .hard_link(&path("/d/odd2"), &path("/d/odd"))
        .expect("added");
    writer
        .add(&path("/l"), &metadata(0o777), NewNode::Symlink(b"../d/odd"))
        .expect("added");
    writer
        .add(&path("/ll"), &metadata(0o777), NewNode::Symlink(&[b'y'; 300]))
        .expect("added");
    writer
        .add(&path("/c"), &metadata(0o600), NewNode::CharDevice(device))
        .expect("added");
    writer
        .add(&path("/b"), &metadata(0o600), NewNode::BlockDevice(device))
        .expect("added");
    writer
        .add(&path("/p"), &metadata(0o600), NewNode::Fifo)
        .expect("added");
    writer.whiteout(&path("/etc/gone")).expect("added");
}

#[test]
fn the_index_tells_what_was_added() {
    let (_dir, written, layer) = layer(everything);
    assert_eq!(
        (layer.diff_id(), layer.index().tar_size()),
        (written.diff_id, written.tar_size)
    );
    assert_eq!(written.entries, 13);
    assert_eq!(read(&layer, "/d/odd"), b"content");
    assert_eq!(find(&layer, "/d/odd"), find(&layer, "/d/odd2"));
    assert_eq!(find(&layer, "/etc/gone"), Some(Slot::Whiteout));
    assert_eq!(read(&layer, &format!("/d/{0}/{0}", "x".repeat(120))), [7; 1000]);
    let Some(Slot::Entry(dir)) = find(&layer, "/d") else {
        panic!()
    };
    let dir = layer.index().entry(dir).expect("an entry");
    assert!(dir.is_opaque() && dir.kind() == Kind::Directory);
}

#[test]
fn the_tar_crate_reads_the_same() {
    let (dir, written, _layer) = layer(everything);
    let bytes = fs::read(dir.path().join(TAR_FILE)).expect("read");
    assert_eq!(written.diff_id.0, Digest::of(&bytes));
    assert_eq!(written.tar_size, bytes.len() as u64);
    assert!(bytes.ends_with(&[0; 1024]));
    let mut archive = tar::Archive::new(bytes.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("UTF-8");
        if name == "d/odd" {
            assert_eq!(entry.header().uid().expect("a number"), 3_000_000_000);
            let records: Vec<_> = entry
                .pax_extensions()
                .expect("records")
                .expect("records")
                .map(|r| r.expect("a record"))
                .map(|r| (r.key_bytes().to_vec(), r.value_bytes().to_vec()))
                .collect();
            assert!(records.contains(&(b"mtime".to_vec(), b"-4.75".to_vec())));
            assert!(records.contains(&(b"SCHILY.xattr.user.raw".to_vec(), vec![0, 0xff, b'='])));
        }
        if name == "d/odd2" {
            assert_eq!(entry.link_name_bytes().as_deref(), Some(&b"d/odd"[..]));
            assert_eq!(entry.header().mode().expect("a mode"), 0o4755);
        }
        names.push(name);
    }
    assert_eq!(names[..3], ["./", "d/", "d/.wh..wh..opq"]);
    assert_eq!(names.last().map(String::as_str), Some("etc/.wh.gone"));
}

#[test]
fn gnu_tar_accepts_it() {
    let (dir, _written, _layer) = layer(everything);
    let output = Command::new("tar")
        .arg("tvf")
        .arg(dir.path().join(TAR_FILE))
        .output()
        .expect("GNU tar runs");
    let (listing, complaints) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{complaints}");
    assert_eq!(listing.lines().count(), 13, "{listing}");
    assert!(listing.contains("3000000000/2097152"), "{listing}");
    assert!(listing.contains("d/odd2 link to d/odd"), "{listing}");
}

#[test]
fn equal_layers_have_equal_diff_ids() {
    let (one, two) = (layer(everything), layer(everything));
    assert_eq!(one.1, two.1);
    let index = |dir: &tempfile::TempDir| fs::read(dir.path().join(INDEX_FILE)).expect("read");
    assert_eq!(index(&one.0), index(&two.0));
}

#[test]
fn an_empty_layer_is_two_blocks() {
    let (_dir, written, layer) = layer(|_| ());
    assert_eq!((written.tar_size, written.entries), (1024, 0));
    assert!(layer.index().is_empty());
}

#[test]
fn zeros_take_no_room_and_read_as_zeros() {
    let mut content = vec![0; 5 << 20];
    content[3 << 20] = 1;
    content.extend_from_slice(b"end");
    let (dir, written, layer) = layer(|writer| {
        add_file(writer, "/sparse", &metadata(0o644), &content);
        add_file(writer, "/zeros", &metadata(0o644), &[0; 200_000]);
    });
    let tar = dir.path().join(TAR_FILE);
    assert_eq!(Digest::of(&fs::read(&tar).expect("read")), written.diff_id.0);
    assert_eq!(read(&layer, "/sparse"), content);
    let on_disk = fs::metadata(&tar).expect("there").blocks() * 512;
    assert!(on_disk < 1 << 20, "{on_disk} bytes on disk");
}

#[test]
fn what_a_layer_cannot_hold_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = LayerWriter::new(dir.path()).expect("started");
    let refused = writer.add(&path("/d/.wh.x"), &metadata(0o755), NewNode::Directory);
    assert!(refused.is_err_and(|e| e.to_string().contains("/d/.wh.x")));
    let refused = writer.hard_link(&path("/l"), &path("/usr/below"));
    assert!(matches!(refused, Err(WriteError::LinkTarget { .. })));
    let mut odd = metadata(0o644);
    odd.xattrs.insert(b"user.a=b".to_vec(), Vec::new());
    let refused = writer.add(&path("/x"), &odd, NewNode::Fifo);
    assert!(matches!(refused, Err(WriteError::Xattr { .. })));
    assert!(writer.whiteout(&path("/")).is_err());
    let mut short = &b"abc"[..];
    let node = NewNode::File {
        size: 4,
        content: &mut short,
    };
    let refused = writer.add(&path("/s"), &metadata(0o644), node);
    assert!(matches!(
        refused,
        Err(WriteError::Short {
            size: 4,
            found: 3,
            ..
        })
    ));
}
