//! Several overlays and texts in one tree of directories, for reading: the plain object behind a mount that shows all of
//! a build at once.
//!
//! What costs something is made when it is first looked at. An inode number says whose it is: the upper bits name the
//! part of the forest, the lower ones are the node's own number there, so numbers never collide.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};

use crate::layer::{Device, Kind, Timestamp};
use crate::overlay::{Attr, DirEntry, Error, Ino, Overlay, Result, Seek, StatFs};

/// How many bits of an inode number are the node's own.
const OWN_BITS: u32 = 40;

/// Makes a part of the forest when it is first looked at.
pub type Make<T> = Box<dyn Fn() -> Result<T> + Send + Sync>;

/// What a name of the forest stands for.
pub enum Plant {
    /// A directory.
    Directory(BTreeMap<Vec<u8>, Plant>),
    /// A file.
    Text(Make<Vec<u8>>),
    /// A whole filesystem.
    Overlay(Make<Overlay>),
}

/// The tree.
pub struct Forest {
    /// The root is the first.
    parts: Vec<Part>,
    time: Timestamp,
}

struct Part {
    parent: usize,
    body: Body,
}

enum Body {
    Directory(BTreeMap<Vec<u8>, usize>),
    Text(Lazy<Vec<u8>>),
    Overlay(Lazy<Overlay>),
}

struct Lazy<T> {
    make: Make<T>,
    made: Mutex<Option<Arc<T>>>,
}

impl<T> Lazy<T> {
    fn new(make: Make<T>) -> Self {
        Self {
            make,
            made: Mutex::new(None),
        }
    }

    fn get(&self) -> Result<Arc<T>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(value) => Ok(Arc::clone(value)),
            None => Ok(Arc::clone(made.insert(Arc::new((self.make)()?)))),
        }
    }
}

/// Where an inode number leads.
enum At<'f> {
    /// To a directory of the forest's own.
    Directory(usize, &'f BTreeMap<Vec<u8>, usize>),
    /// To a text.
    Text(usize, Arc<Vec<u8>>),
    /// Into an overlay.
    Overlay(usize, Arc<Overlay>, Ino),
}

impl Forest {
    /// The forest with this root directory.
    pub fn new(root: BTreeMap<Vec<u8>, Plant>) -> Self {
        let mut forest = Self {
            parts: Vec::new(),
            time: Timestamp::now(),
        };
        forest.plant(0, Plant::Directory(root));
        forest
    }

    fn plant(&mut self, parent: usize, plant: Plant) -> usize {
        let number = self.parts.len();
        // The number is taken before those of its children.
        let body = Body::Directory(BTreeMap::new());
        self.parts.push(Part { parent, body });
        self.parts[number].body = match plant {
            Plant::Text(make) => Body::Text(Lazy::new(make)),
            Plant::Overlay(make) => Body::Overlay(Lazy::new(make)),
            Plant::Directory(children) => {
                let children = children.into_iter();
                Body::Directory(
                    children
                        .map(|(name, child)| (name, self.plant(number, child)))
                        .collect(),
                )
            }
        };
        number
    }

    fn at(&self, ino: Ino) -> Result<At<'_>> {
        let (number, own) = ((ino.0 >> OWN_BITS) as usize, ino.0 & ((1 << OWN_BITS) - 1));
        let part = self.parts.get(number).ok_or(Error::Stale)?;
        Ok(match &part.body {
            Body::Directory(names) => At::Directory(number, names),
            Body::Text(text) => At::Text(number, text.get()?),
            Body::Overlay(overlay) => At::Overlay(number, overlay.get()?, Ino(own)),
        })
    }

    /// The number that a part's own node has in the forest.
    fn ino(part: usize, own: Ino) -> Ino {
        Ino((part as u64) << OWN_BITS | own.0)
    }

    /// What `name` in the directory `parent` is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], and what making a part meets.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        match self.at(parent)? {
            At::Directory(_, names) => {
                let part = names.get(name).ok_or(Error::NotFound)?;
                self.attr(Self::ino(*part, Ino::ROOT))
            }
            At::Text(..) => Err(Error::NotADirectory),
            At::Overlay(part, overlay, ino) => Ok(of_part(part, overlay.lookup(ino, name)?)),
        }
    }

    /// Gives back references to a node.
    pub fn forget(&self, ino: Ino, count: u64) {
        // A part that cannot be made has no references.
        if let Ok(At::Overlay(_, overlay, own)) = self.at(ino)
            && own != Ino::ROOT
        {
            overlay.forget(own, count);
        }
    }

    /// The attributes of a node.
    ///
    /// # Errors
    /// [`Error::Stale`], and what making a part meets.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        match self.at(ino)? {
            At::Directory(part, names) => Ok(self.plain(part, Kind::Directory, 2 + names.len() as u64)),
            At::Text(part, text) => Ok(self.plain(part, Kind::File, text.len() as u64)),
            At::Overlay(part, overlay, own) => Ok(of_part(part, overlay.attr(own)?)),
        }
    }

    fn plain(&self, part: usize, kind: Kind, size: u64) -> Attr {
        let (mode, nlink) = match kind {
            Kind::Directory => (0o555, 2),
            _ => (0o444, 1),
        };
        Attr {
            ino: Self::ino(part, Ino::ROOT),
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink,
            size,
            blocks: size.div_ceil(512),
            device: Device::default(),
            atime: self.time,
            mtime: self.time,
            ctime: self.time,
            btime: self.time,
        }
    }

    /// Passes the entries of a directory after `cookie` to `each`, until that breaks.
    ///
    /// # Errors
    /// [`Error::NotADirectory`], and what making a part meets.
    pub fn read_dir(
        &self,
        ino: Ino,
        cookie: u64,
        each: &mut dyn FnMut(DirEntry<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        let (part, names) = match self.at(ino)? {
            At::Directory(part, names) => (part, names),
            At::Text(..) => return Err(Error::NotADirectory),
            At::Overlay(part, overlay, own) => {
                return overlay.read_dir(own, cookie, &mut |entry| {
                    each(DirEntry {
                        ino: Self::ino(part, entry.ino),
                        ..entry
                    })
                });
            }
        };
        let dots = [(&b"."[..], part), (&b".."[..], self.parts[part].parent)];
        let children = names.iter().map(|(name, part)| (name.as_slice(), *part));
        for ((name, part), next) in dots.into_iter().chain(children).zip(1_u64..) {
            let entry = DirEntry {
                name,
                ino: Self::ino(part, Ino::ROOT),
                kind: match self.parts[part].body {
                    Body::Text(_) => Kind::File,
                    Body::Directory(_) | Body::Overlay(_) => Kind::Directory,
                },
                next,
            };
            if next > cookie && each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is none.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        match self.at(ino)? {
            At::Overlay(_, overlay, own) => overlay.read_link(own),
            At::Directory(..) | At::Text(..) => Err(Error::Invalid),
        }
    }

    /// Reads from a file; returns how much.
    ///
    /// # Errors
    /// Those of [`Overlay::read`].
    pub fn read(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.at(ino)? {
            At::Overlay(_, overlay, own) => overlay.read(own, offset, buffer),
            At::Directory(..) => Err(Error::IsADirectory),
            At::Text(_, text) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX);
                let rest = text.get(from..).unwrap_or_default();
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
        }
    }

    /// Where the next data or hole of a file is.
    ///
    /// # Errors
    /// Those of [`Overlay::seek`].
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        match self.at(ino)? {
            At::Overlay(_, overlay, own) => overlay.seek(own, offset, what),
            At::Directory(..) | At::Text(..) => Err(Error::NotSupported),
        }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        match self.at(ino)? {
            At::Overlay(_, overlay, own) => overlay.xattr(own, name),
            At::Directory(..) | At::Text(..) => Err(Error::NoAttribute),
        }
    }

    /// The names of a node's extended attributes.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        match self.at(ino)? {
            At::Overlay(_, overlay, own) => overlay.xattr_names(own),
            At::Directory(..) | At::Text(..) => Ok(Vec::new()),
        }
    }

    /// The size of the filesystem: nothing is free in it.
    pub fn stat_fs(&self) -> StatFs {
        StatFs {
            block_size: 4096,
            blocks: 0,
            free: 0,
            available: 0,
            files: self.parts.len() as u64,
            files_free: 0,
            name_max: 255,
        }
    }
}

fn of_part(part: usize, attr: Attr) -> Attr {
    Attr {
        ino: Forest::ino(part, attr.ino),
        ..attr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forest() -> Forest {
        let text = || -> Make<Vec<u8>> { Box::new(|| Ok(b"text".to_vec())) };
        let tree = || -> Make<Overlay> { Box::new(|| Ok(Overlay::read_only(Vec::new()))) };
        let inner = BTreeMap::from([
            (b"a".to_vec(), Plant::Overlay(tree())),
            (b"b".to_vec(), Plant::Overlay(tree())),
        ]);
        Forest::new(BTreeMap::from([
            (b"trees".to_vec(), Plant::Directory(inner)),
            (b"file".to_vec(), Plant::Text(text())),
            (b"broken".to_vec(), Plant::Overlay(Box::new(|| Err(Error::Stale)))),
        ]))
    }

    fn names(forest: &Forest, ino: Ino, from: u64) -> Vec<String> {
        let mut names = Vec::new();
        let mut each = |entry: DirEntry<'_>| {
            names.push(String::from_utf8_lossy(entry.name).into_owned());
            ControlFlow::Continue(())
        };
        forest.read_dir(ino, from, &mut each).unwrap();
        names
    }

    #[test]
    fn every_node_has_a_number_of_its_own() {
        let forest = forest();
        let trees = forest.lookup(Ino::ROOT, b"trees").unwrap().ino;
        let (a, b) = (
            forest.lookup(trees, b"a").unwrap(),
            forest.lookup(trees, b"b").unwrap(),
        );
        assert_eq!(a.kind, Kind::Directory);
        let all = [
            Ino::ROOT,
            trees,
            a.ino,
            b.ino,
            forest.lookup(Ino::ROOT, b"file").unwrap().ino,
        ];
        assert_eq!(std::collections::BTreeSet::from(all).len(), 5);
        assert_eq!(forest.attr(a.ino).unwrap().ino, a.ino);
        assert!(matches!(forest.lookup(a.ino, b"none"), Err(Error::NotFound)));
    }

    #[test]
    fn listings_go_on_where_they_were_left() {
        let forest = forest();
        assert_eq!(
            names(&forest, Ino::ROOT, 0),
            [".", "..", "broken", "file", "trees"]
        );
        assert_eq!(names(&forest, Ino::ROOT, 3), ["file", "trees"]);
        assert_eq!(names(&forest, Ino::ROOT, 5), [""; 0]);
    }

    #[test]
    fn texts_are_read_and_a_part_that_cannot_be_made_is_an_error_of_its_own() {
        let forest = forest();
        let file = forest.lookup(Ino::ROOT, b"file").unwrap();
        assert_eq!(file.size, 4);
        let mut buffer = [0; 9];
        assert_eq!(forest.read(file.ino, 1, &mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], b"ext");
        assert_eq!(forest.read(file.ino, 9, &mut buffer).unwrap(), 0);
        assert!(matches!(forest.lookup(Ino::ROOT, b"broken"), Err(Error::Stale)));
    }
}
