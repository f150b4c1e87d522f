//! Tests of the overlay, by question.

use std::collections::BTreeMap;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::layer::writer::{LayerWriter, NewNode};
use crate::layer::{Metadata, Xattrs};

mod basics;
mod files;
mod listing;
mod merge;
pub(crate) mod model;
mod named;
mod recording;
mod threads;
mod validity;

/// What a layer of a test holds.
#[derive(Clone, Debug)]
pub(crate) enum Member {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    Char(Device),
    Fifo,
    HardLink(String),
    Whiteout,
    Opaque,
}

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).expect("a valid path")
}

pub(crate) fn metadata(mode: u32, seconds: i64) -> Metadata {
    Metadata {
        mode,
        mtime: Timestamp::from_seconds(seconds),
        ..Metadata::default()
    }
}

/// Writes a layer in a directory of its own.
pub(crate) fn layer(directory: &Path, members: &[(&str, Member)]) -> Arc<Layer> {
    let members: Vec<_> = members
        .iter()
        .map(|(path, member)| (path.to_string(), metadata(0o755, 1000), member.clone()))
        .collect();
    layer_of(directory, &members)
}

/// The same with metadata.
pub(crate) fn layer_of(directory: &Path, members: &[(String, Metadata, Member)]) -> Arc<Layer> {
    std::fs::create_dir_all(directory).expect("a directory");
    let mut writer = LayerWriter::new(directory).expect("a layer");
    for (name, metadata, member) in members {
        let at = path(name);
        match member {
            Member::Directory => writer.add(&at, metadata, NewNode::Directory),
            Member::File(bytes) => writer.add(
                &at,
                metadata,
                NewNode::File {
                    size: bytes.len() as u64,
                    content: &mut bytes.as_slice(),
                },
            ),
            Member::Symlink(target) => writer.add(&at, metadata, NewNode::Symlink(target)),
            Member::Char(device) => writer.add(&at, metadata, NewNode::CharDevice(*device)),
            Member::Fifo => writer.add(&at, metadata, NewNode::Fifo),
            Member::HardLink(target) => writer.hard_link(&at, &path(target)),
            Member::Whiteout => writer.whiteout(&at),
            Member::Opaque => writer.opaque(&at),
        }
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    writer.finish().expect("finished");
    Arc::new(Layer::open(directory).expect("a layer"))
}

/// A stack of layers and a writable overlay on it.
pub(crate) struct Session {
    pub dir: TempDir,
    pub layers: Vec<Arc<Layer>>,
    pub overlay: Overlay,
}

impl Session {
    pub fn new(layers: &[&[(&str, Member)]]) -> Self {
        Self::with(layers, Options::default())
    }

    pub fn with(layers: &[&[(&str, Member)]], options: Options) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let layers: Vec<_> = layers
            .iter()
            .enumerate()
            .map(|(n, members)| layer(&dir.path().join(format!("layer{n}")), members))
            .collect();
        Self::on(dir, layers, options)
    }

    pub fn on(dir: TempDir, layers: Vec<Arc<Layer>>, options: Options) -> Self {
        let upper = dir.path().join("upper");
        std::fs::create_dir_all(&upper).expect("a directory");
        let overlay = Overlay::writable(layers.clone(), Upper::scratch(&upper), options).expect("an overlay");
        Self { dir, layers, overlay }
    }

    pub fn ino(&self, at: &str) -> Ino {
        self.attr(at).ino
    }

    pub fn attr(&self, at: &str) -> Attr {
        self.overlay
            .resolve(&path(at), Follow::No)
            .unwrap_or_else(|error| panic!("{at}: {error}"))
    }

    /// The directory of a path and the last name.
    pub fn at<'a>(&self, at: &'a str) -> (Ino, &'a [u8]) {
        let (parent, name) = at.rsplit_once('/').expect("an absolute path");
        (self.ino(parent), name.as_bytes())
    }

    pub fn create(&self, at: &str, kind: NewKind<'_>) -> Ino {
        let (parent, name) = self.at(at);
        let created = self.overlay.create(parent, name, kind, 0o644, Owner::default());
        created.unwrap_or_else(|error| panic!("{at}: {error}")).ino
    }

    pub fn write(&self, at: &str, text: &[u8]) {
        let ino = match self.overlay.resolve(&path(at), Follow::No) {
            Ok(attr) => attr.ino,
            Err(_) => self.create(at, NewKind::File),
        };
        let changes = Changes {
            size: Some(0),
            ..Changes::default()
        };
        self.overlay.set_attr(ino, &changes).expect("truncated");
        self.overlay.write(ino, 0, text).expect("written");
    }

    pub fn unlink(&self, at: &str) -> Result<()> {
        let (parent, name) = self.at(at);
        self.overlay.unlink(parent, name)
    }

    pub fn rmdir(&self, at: &str) -> Result<()> {
        let (parent, name) = self.at(at);
        self.overlay.rmdir(parent, name)
    }

    pub fn rename(&self, from: &str, to: &str, mode: RenameMode) -> Result<()> {
        let ((parent, name), (new_parent, new_name)) = (self.at(from), self.at(to));
        self.overlay.rename(parent, name, new_parent, new_name, mode)
    }

    pub fn read(&self, at: &str) -> Vec<u8> {
        content(&self.overlay, self.ino(at))
    }

    pub fn tree(&self) -> BTreeMap<String, Seen> {
        tree(&self.overlay)
    }
}

pub(crate) fn content(overlay: &Overlay, ino: Ino) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 100_000];
    loop {
        let n = overlay.read(ino, bytes.len() as u64, &mut buffer).expect("read");
        if n == 0 {
            return bytes;
        }
        bytes.extend_from_slice(&buffer[..n]);
    }
}

pub(crate) fn names(overlay: &Overlay, ino: Ino) -> Vec<String> {
    let mut names = Vec::new();
    let listed = overlay.read_dir(ino, 0, &mut |entry| {
        names.push(String::from_utf8_lossy(entry.name).into_owned());
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(names[..2], [".", ".."]);
    names.split_off(2)
}

/// What there is to see of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: Xattrs,
    pub content: Vec<u8>,
    pub device: Device,
    pub ino: Ino,
    pub nlink: u32,
}

/// Everything that an overlay shows, by path.
pub(crate) fn tree(overlay: &Overlay) -> BTreeMap<String, Seen> {
    let mut all = BTreeMap::new();
    let mut todo = vec![String::new()];
    while let Some(at) = todo.pop() {
        let attr = overlay.resolve(&path(&at), Follow::No).expect("found");
        let mut bytes = Vec::new();
        match attr.kind {
            Kind::Directory => {
                for name in names(overlay, attr.ino) {
                    todo.push(format!("{at}/{name}"));
                }
            }
            Kind::File => bytes = content(overlay, attr.ino),
            Kind::Symlink => bytes = overlay.read_link(attr.ino).expect("a link"),
            _ => {}
        }
        let xattrs = overlay.xattr_names(attr.ino).expect("names");
        let xattrs = xattrs
            .into_iter()
            .map(|name| (name.clone(), overlay.xattr(attr.ino, &name).expect("a value")));
        let seen = Seen {
            kind: attr.kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            mtime: attr.mtime,
            xattrs: xattrs.collect(),
            content: bytes,
            device: attr.device,
            ino: attr.ino,
            nlink: attr.nlink,
        };
        all.insert(at, seen);
    }
    all
}

pub(crate) fn file(text: &str) -> Member {
    Member::File(text.as_bytes().to_vec())
}
