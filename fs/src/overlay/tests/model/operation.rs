//! Operations on the overlay and on the model.

use super::Dice;
use super::naive::{Model, ModelNode, Outcome, Time};
use crate::overlay::tests::*;

pub fn link(
    overlay: &Overlay,
    model: &mut Model,
    (id, ino): (usize, Ino),
    (parent, dir): (usize, Ino),
    name: &str,
) -> (Result<()>, Outcome) {
    let ours = overlay
        .link(ino, dir, name.as_bytes())
        .map(|attr| overlay.forget(attr.ino, 1));
    let theirs = (|| {
        if model.get(id).kind == Kind::Directory {
            return Err(libc::EPERM);
        }
        model.is_live(id)?;
        if model.get(parent).entries.contains_key(name) {
            return Err(libc::EEXIST);
        }
        model.get(id).links += 1;
        model.get(parent).entries.insert(name.to_owned(), id);
        model.touch(parent);
        Ok(())
    })();
    (ours, theirs)
}

pub fn create(
    overlay: &Overlay,
    model: &mut Model,
    dice: &mut Dice,
    (parent, dir): (usize, Ino),
    name: &str,
) -> (Result<()>, Outcome) {
    let device = Device {
        major: dice.roll(2) as u32 * 259,
        minor: dice.roll(2) as u32 * 300,
    };
    let (kind, model_kind) = [
        (NewKind::File, Kind::File),
        (NewKind::Directory, Kind::Directory),
        (NewKind::Directory, Kind::Directory),
        (NewKind::Symlink(b"../x"), Kind::Symlink),
        (NewKind::CharDevice(device), Kind::CharDevice),
        (NewKind::BlockDevice(device), Kind::BlockDevice),
        (NewKind::Fifo, Kind::Fifo),
        (NewKind::Socket, Kind::Socket),
    ][dice.roll(8) as usize];
    let owner = Owner {
        uid: dice.roll(3) as u32,
        gid: 7,
    };
    let bytes = if kind == NewKind::File {
        dice.bytes()
    } else {
        Vec::new()
    };
    let ours = overlay
        .create(dir, name.as_bytes(), kind, 0o640, owner)
        .map(|attr| {
            overlay.write(attr.ino, 0, &bytes).expect("written");
            overlay.forget(attr.ino, 1);
        });
    let set_group = model.get(parent).mode & 0o2000;
    let node = ModelNode {
        kind: model_kind,
        mode: match model_kind {
            Kind::Symlink => 0o777,
            Kind::Directory => 0o640 | set_group,
            _ => 0o640,
        },
        uid: owner.uid,
        gid: if set_group != 0 {
            model.get(parent).gid
        } else {
            owner.gid
        },
        xattrs: Xattrs::new(),
        content: if kind == NewKind::Symlink(b"../x") {
            b"../x".to_vec()
        } else {
            bytes
        },
        device: match model_kind {
            Kind::CharDevice | Kind::BlockDevice => device,
            _ => Device::default(),
        },
        entries: BTreeMap::new(),
        links: 1,
        mtime: Time::NotBefore(model.now),
        ino: None,
    };
    (ours, model.insert(parent, name, node))
}

pub fn change(
    overlay: &Overlay,
    model: &mut Model,
    id: usize,
    dice: &mut Dice,
    ino: Ino,
) -> (Result<()>, Outcome) {
    let now = model.now;
    let node = model.get(id);
    let is_file = node.kind == Kind::File;
    let at = dice.offset();
    let operation = dice.roll(9);
    if is_file && matches!(operation, 2 | 3) {
        node.mtime = Time::NotBefore(now);
    }
    match operation {
        0 | 1 if is_file => {
            let bytes = dice.bytes();
            // A quarter of them appends.
            let at = if dice.roll(4) == 0 {
                node.content.len() as u64
            } else {
                at
            };
            if !bytes.is_empty() {
                node.mtime = Time::NotBefore(now);
            }
            write_bytes(&mut node.content, at, &bytes);
            (overlay.write(ino, at, &bytes).map(drop), Ok(()))
        }
        2 if is_file => {
            node.content.resize(at as usize, 0);
            let changes = Changes {
                size: Some(at),
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        3 if is_file => {
            let how = [
                Allocate::Extend,
                Allocate::KeepSize,
                Allocate::PunchHole,
                Allocate::ZeroRange { keep_size: true },
                Allocate::ZeroRange { keep_size: false },
            ][dice.roll(5) as usize];
            let (end, size) = ((at + 5000) as usize, node.content.len());
            if matches!(how, Allocate::Extend | Allocate::ZeroRange { keep_size: false }) {
                node.content.resize(end.max(size), 0);
            }
            if !matches!(how, Allocate::Extend | Allocate::KeepSize) {
                let end = end.min(node.content.len());
                node.content[(at as usize).min(end)..end].fill(0);
            }
            (overlay.allocate(ino, how, at, 5000), Ok(()))
        }
        4 => {
            let mode = [0o600, 0o755, 0o2775, 0o4711][dice.roll(4) as usize];
            node.mode = mode;
            let changes = Changes {
                mode: Some(mode),
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        5 => {
            let (uid, gid) = (dice.roll(3) as u32, [None, Some(5)][dice.roll(2) as usize]);
            node.uid = uid;
            node.gid = gid.unwrap_or(node.gid);
            if node.kind != Kind::Directory {
                node.mode &= if node.mode & 0o010 != 0 { !0o6000 } else { !0o4000 };
                node.xattrs.remove(&b"security.capability"[..]);
            }
            let changes = Changes {
                uid: Some(uid),
                gid,
                ..Changes::default()
            };
            (overlay.set_attr(ino, &changes).map(drop), Ok(()))
        }
        6 => {
            let mtime = Timestamp {
                seconds: [-5, 0, 1 << 33][dice.roll(3) as usize],
                nanoseconds: [0, 999_999_999][dice.roll(2) as usize],
            };
            node.mtime = Time::Exactly(mtime);
            let changes = Changes {
                mtime: Some(mtime),
                atime: Some(mtime),
                ..Changes::default()
            };
            let ours = overlay.set_attr(ino, &changes);
            let ours = ours.map(|attr| assert_eq!((attr.atime, attr.mtime), (mtime, mtime)));
            (ours, Ok(()))
        }
        _ => {
            let name =
                [&b"user.x"[..], b"security.capability", b"trusted.overlay.opaque"][dice.roll(3) as usize];
            if dice.roll(3) == 0 {
                let theirs = node.xattrs.remove(name).map(drop).ok_or(libc::ENODATA);
                return (overlay.remove_xattr(ino, name), theirs);
            }
            let value = vec![dice.roll(3) as u8];
            let how = [SetXattr::Any, SetXattr::Create, SetXattr::Replace][dice.roll(3) as usize];
            let ours = overlay.set_xattr(ino, name, &value, how);
            let theirs = match (how, node.xattrs.contains_key(name)) {
                (SetXattr::Create, true) => Err(libc::EEXIST),
                (SetXattr::Replace, false) => Err(libc::ENODATA),
                _ => {
                    node.xattrs.insert(name.to_vec(), value);
                    Ok(())
                }
            };
            (ours, theirs)
        }
    }
}

pub fn write_bytes(content: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let (start, end) = (at as usize, at as usize + bytes.len());
    if bytes.is_empty() {
        return;
    }
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}
