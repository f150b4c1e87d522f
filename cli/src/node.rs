//! What an image says of a path, in words and as JSON.

use mica_builder::look::Node;
use mica_builder::look::changes::{Aspect, Change, Precision, aspects};
use mica_fs::layer::{Kind, Timestamp, Xattrs};
use serde_json::{Value, json};

use crate::render::{printable, size};

/// The name of a type.
pub fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::CharDevice => "char-device",
        Kind::BlockDevice => "block-device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

/// All of it, as JSON.
pub fn json(node: &Node) -> Value {
    let meta = &node.metadata;
    let xattrs = meta
        .xattrs
        .iter()
        .map(|(name, value)| (text(name), text(value).into()));
    json!({
        "Type": type_name(node.kind),
        "Mode": format!("{:04o}", meta.mode),
        "Uid": meta.uid,
        "Gid": meta.gid,
        "Size": node.size,
        "ModTime": time(meta.mtime),
        "Digest": node.digest,
        "Target": (node.kind == Kind::Symlink).then(|| text(&node.target)),
        "Device": is_device(node.kind).then(|| device(node)),
        "Xattrs": xattrs.collect::<serde_json::Map<_, _>>(),
    })
}

/// Which difference it is: A is added, C is changed, D is deleted.
pub fn letter(change: &Change) -> char {
    match (&change.before, &change.after) {
        (None, _) => 'A',
        (Some(_), Some(_)) => 'C',
        (Some(_), None) => 'D',
    }
}

/// In what the two differ, with the old and the new: `mode 0644 → 0600, owner 0:0 → 5:5`.
pub fn differences(old: &Node, new: &Node, precision: Precision) -> String {
    let told = aspects(old, new, precision)
        .into_iter()
        .map(|aspect| difference(aspect, old, new));
    printable(&told.collect::<Vec<_>>().join(", "))
}

/// The names of what differs.
pub fn aspect_names(old: &Node, new: &Node, precision: Precision) -> Vec<&'static str> {
    aspects(old, new, precision)
        .into_iter()
        .map(Aspect::name)
        .collect()
}

fn difference(aspect: Aspect, old: &Node, new: &Node) -> String {
    let (a, b) = (&old.metadata, &new.metadata);
    let name = aspect.name();
    let pair = |old: String, new: String| format!("{name} {old} → {new}");
    match aspect {
        Aspect::Type => pair(type_name(old.kind).to_owned(), type_name(new.kind).to_owned()),
        Aspect::Content if old.size == new.size => format!("{name} (still {})", size(new.size)),
        Aspect::Content => pair(size(old.size), size(new.size)),
        Aspect::Target => pair(text(&old.target), text(&new.target)),
        Aspect::Device => pair(device(old), device(new)),
        Aspect::Mode => pair(format!("{:04o}", a.mode), format!("{:04o}", b.mode)),
        Aspect::Owner => pair(format!("{}:{}", a.uid, a.gid), format!("{}:{}", b.uid, b.gid)),
        Aspect::Xattrs => format!("{name} {}", xattrs(&a.xattrs, &b.xattrs)),
        Aspect::Time => pair(time(a.mtime), time(b.mtime)),
    }
}

/// The attributes that come (`+`), go (`-`) or change (`~`).
fn xattrs(old: &Xattrs, new: &Xattrs) -> String {
    let gone = old
        .keys()
        .filter(|name| !new.contains_key(*name))
        .map(|name| ('-', name));
    let come = new.iter().filter_map(|(name, value)| match old.get(name) {
        None => Some(('+', name)),
        Some(before) => (before != value).then_some(('~', name)),
    });
    let told = gone
        .chain(come)
        .map(|(sign, name)| format!("{sign}{}", text(name)));
    told.collect::<Vec<_>>().join(" ")
}

/// A time as in RFC 3339.
pub fn time(time: Timestamp) -> String {
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or_default();
    jiff::Timestamp::new(time.seconds, nanoseconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

fn is_device(kind: Kind) -> bool {
    matches!(kind, Kind::CharDevice | Kind::BlockDevice)
}

fn device(node: &Node) -> String {
    format!("{}:{}", node.device.major, node.device.minor)
}

/// The bytes as text, or in hexadecimal as getfattr(1) writes them.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_go_and_change() {
        let of = |pairs: &[(&str, &str)]| -> Xattrs {
            pairs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect()
        };
        let old = of(&[("user.a", "1"), ("user.b", "1"), ("user.c", "1")]);
        let new = of(&[("user.b", "2"), ("user.c", "1"), ("user.d", "1")]);
        assert_eq!(xattrs(&old, &new), "-user.a ~user.b +user.d");
        assert_eq!(text(b"\xff\x01"), "0xff01");
    }
}
