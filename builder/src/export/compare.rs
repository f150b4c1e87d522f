//! How two trees differ.

use std::cmp::Ordering;

use mica_fs::layer::{Kind, Xattrs};
use mica_fs::overlay::{Attr, Error as OverlayError, Follow, Ino, Overlay};
use mica_fs::path::ImagePath;

use super::{ExportError, children, walk};

/// What is different between two trees.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Only in the second one.
    Added,
    /// In both, but not the same.
    Changed,
    /// Only in the first one.
    Deleted,
}

/// Compares two trees by type, owner, mode, content, target and attributes, and calls `each` for what differs,
/// sorted by name. Times are not compared. What is added or deleted with its directory is told as well.
///
/// # Errors
/// [`ExportError::Image`].
pub fn compare(
    old: &Overlay,
    new: &Overlay,
    each: &mut dyn FnMut(Difference, &ImagePath) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let root = |overlay: &Overlay| {
        overlay
            .resolve(&ImagePath::root(), Follow::No)
            .map_err(|source| ExportError::Image {
                path: ImagePath::root(),
                source,
            })
    };
    let mut comparison = Comparison { old, new, each };
    comparison.directories(&ImagePath::root(), root(old)?.ino, root(new)?.ino)
}

struct Comparison<'a> {
    old: &'a Overlay,
    new: &'a Overlay,
    each: &'a mut dyn FnMut(Difference, &ImagePath) -> Result<(), ExportError>,
}

impl Comparison<'_> {
    fn directories(&mut self, path: &ImagePath, old: Ino, new: Ino) -> Result<(), ExportError> {
        let error = |source| ExportError::Image {
            path: path.clone(),
            source,
        };
        let mut before = children(self.old, old).map_err(error)?.into_iter().peekable();
        let mut after = children(self.new, new).map_err(error)?.into_iter().peekable();
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((a, _)), Some((b, _))) => a.cmp(b),
            };
            let a = if order.is_le() { before.next() } else { None };
            let b = if order.is_ge() { after.next() } else { None };
            match (a, b) {
                (Some((name, a)), Some((_, b))) => self.nodes(&path.join(&name), &a, &b)?,
                (Some((name, _)), None) => self.whole(Difference::Deleted, &path.join(&name))?,
                (None, Some((name, _))) => self.whole(Difference::Added, &path.join(&name))?,
                (None, None) => return Ok(()),
            }
        }
    }

    fn nodes(&mut self, path: &ImagePath, a: &Attr, b: &Attr) -> Result<(), ExportError> {
        let error = |source| ExportError::Image {
            path: path.clone(),
            source,
        };
        let both_directories = a.kind == Kind::Directory && b.kind == Kind::Directory;
        if !both_directories && (a.kind == Kind::Directory || b.kind == Kind::Directory) {
            self.whole(Difference::Deleted, path)?;
            return self.whole(Difference::Added, path);
        }
        if !self.equal(a, b).map_err(error)? {
            (self.each)(Difference::Changed, path)?;
        }
        match both_directories {
            true => self.directories(path, a.ino, b.ino),
            false => Ok(()),
        }
    }

    fn equal(&self, a: &Attr, b: &Attr) -> Result<bool, OverlayError> {
        let (a_keys, b_keys) = [a, b]
            .map(|attr| (attr.kind, attr.mode, attr.uid, attr.gid, attr.device))
            .into();
        if a_keys != b_keys {
            return Ok(false);
        }
        let same_body = match a.kind {
            Kind::File => a.size == b.size && self.old.content(a.ino)? == self.new.content(b.ino)?,
            Kind::Symlink => self.old.read_link(a.ino)? == self.new.read_link(b.ino)?,
            _ => true,
        };
        Ok(same_body && xattrs(self.old, a)? == xattrs(self.new, b)?)
    }

    fn whole(&mut self, difference: Difference, path: &ImagePath) -> Result<(), ExportError> {
        let overlay = if difference == Difference::Deleted {
            self.old
        } else {
            self.new
        };
        walk(overlay, path, &mut |path, _| (self.each)(difference, path))
    }
}

fn xattrs(overlay: &Overlay, attr: &Attr) -> Result<Xattrs, OverlayError> {
    let names = overlay.xattr_names(attr.ino)?.into_iter();
    names
        .map(|name| overlay.xattr(attr.ino, &name).map(|value| (name, value)))
        .collect()
}
