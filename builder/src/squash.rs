//! What a stack of layers adds to those below it, as one layer (`--squash`).

use std::collections::{BTreeMap, HashMap, HashSet};

use mica_fs::layer::writer::LayerWriter;
use mica_fs::layer::{Kind, Xattrs};
use mica_fs::overlay::{Attr, Error as OverlayError, Follow, Overlay};
use mica_fs::path::ImagePath;

use crate::export::{self, ExportError};

/// A difference between two trees.
enum Change {
    Whiteout(ImagePath),
    /// New, or another one than before.
    Node(ImagePath, Attr),
    /// As before, but perhaps another name of something that is not.
    Name(ImagePath, Attr),
}

/// Writes what makes the tree `old` the tree `new`, sorted by name; whiteouts come before what else is in a directory.
///
/// # Errors
/// [`ExportError`].
pub fn squash(old: &Overlay, new: &Overlay, writer: &mut LayerWriter) -> Result<(), ExportError> {
    let changes = changes(old, new)?;
    let changed: HashSet<u64> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Node(_, attr) => Some(attr.ino.0),
            Change::Whiteout(_) | Change::Name(..) => None,
        })
        .collect();
    let failed = |source| ExportError::Tar { source };
    let mut first_names: HashMap<u64, ImagePath> = HashMap::new();
    for change in changes {
        let (path, attr) = match change {
            Change::Whiteout(path) => {
                writer.whiteout(&path).map_err(failed)?;
                continue;
            }
            Change::Name(_, attr) if !changed.contains(&attr.ino.0) => continue,
            Change::Node(path, attr) | Change::Name(path, attr) => (path, attr),
        };
        match first_names.get(&attr.ino.0) {
            Some(first) => writer.hard_link(&path, first).map_err(failed)?,
            None => export::add(writer, new, &path, &path, &attr, None)?,
        }
        if attr.kind != Kind::Directory && attr.nlink > 1 {
            first_names.entry(attr.ino.0).or_insert(path);
        }
    }
    Ok(())
}

fn changes(old: &Overlay, new: &Overlay) -> Result<Vec<Change>, ExportError> {
    let root = |overlay: &Overlay| {
        let path = ImagePath::root();
        let found = overlay.resolve(&path, Follow::No);
        found.map_err(|source| ExportError::Image { path, source })
    };
    let mut changes = Vec::new();
    let mut todo = vec![(ImagePath::root(), Some(root(old)?), root(new)?)];
    while let Some((path, before, after)) = todo.pop() {
        let failed = |source| ExportError::Image {
            path: path.clone(),
            source,
        };
        let same = match &before {
            Some(before) => is_same(old, before, new, &after).map_err(failed)?,
            None => false,
        };
        if after.kind != Kind::Directory {
            match same {
                false => changes.push(Change::Node(path, after)),
                true if after.nlink > 1 => changes.push(Change::Name(path, after)),
                true => {}
            }
            continue;
        }
        let mut below: BTreeMap<Vec<u8>, Attr> = match before {
            Some(before) if before.kind == Kind::Directory => {
                let children = export::children(old, before.ino).map_err(failed)?;
                children.into_iter().collect()
            }
            _ => BTreeMap::new(),
        };
        let children = export::children(new, after.ino).map_err(failed)?;
        if !same {
            changes.push(Change::Node(path.clone(), after));
        }
        let mut next: Vec<_> = children
            .into_iter()
            .map(|(name, child)| (path.join(&name), below.remove(&name), child))
            .collect();
        changes.extend(below.keys().map(|name| Change::Whiteout(path.join(name))));
        next.reverse();
        todo.append(&mut next);
    }
    Ok(changes)
}

/// Whether a node is in all that a layer holds of it what it was; what is in a directory does not count.
fn is_same(old: &Overlay, a: &Attr, new: &Overlay, b: &Attr) -> Result<bool, OverlayError> {
    let key = |attr: &Attr| {
        let links = (attr.kind != Kind::Directory).then_some(attr.nlink);
        (
            attr.kind,
            attr.mode,
            attr.uid,
            attr.gid,
            attr.mtime,
            attr.device,
            links,
        )
    };
    if key(a) != key(b) {
        return Ok(false);
    }
    let same_body = match a.kind {
        Kind::File => a.size == b.size && old.content(a.ino)? == new.content(b.ino)?,
        Kind::Symlink => old.read_link(a.ino)? == new.read_link(b.ino)?,
        _ => true,
    };
    Ok(same_body && xattrs(old, a)? == xattrs(new, b)?)
}

fn xattrs(overlay: &Overlay, attr: &Attr) -> Result<Xattrs, OverlayError> {
    let names = overlay.xattr_names(attr.ino)?.into_iter();
    names
        .map(|name| overlay.xattr(attr.ino, &name).map(|value| (name, value)))
        .collect()
}
