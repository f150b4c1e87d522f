//! Stacks for tests.

use std::sync::Arc;

use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Layer, Metadata, Timestamp};
use mica_fs::path::ImagePath;

use super::changes::{Precision, aspects, compare};
use super::*;

/// Layers of a test, in a directory of its own.
pub(crate) struct Layers {
    directory: tempfile::TempDir,
    layers: Vec<Arc<Layer>>,
}

/// What a layer of a test says about a path.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    Dir(Metadata),
    File(Metadata, Vec<u8>),
    Link(&'static str),
    Symlink(&'static str),
    Gone,
    Opaque,
}

pub(crate) fn meta(mode: u32) -> Metadata {
    Metadata {
        mode,
        mtime: Timestamp::from_seconds(1_000),
        ..Metadata::default()
    }
}

pub(crate) fn dir() -> Says {
    Says::Dir(meta(0o755))
}

pub(crate) fn file(text: &str) -> Says {
    Says::File(meta(0o644), text.as_bytes().to_vec())
}

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).unwrap()
}

impl Layers {
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            layers: Vec::new(),
        }
    }

    /// Adds a layer on top.
    pub fn layer(mut self, says: &[(&str, Says)]) -> Self {
        self.push(says);
        self
    }

    pub fn push(&mut self, says: &[(&str, Says)]) {
        let place = self.directory.path().join(self.layers.len().to_string());
        std::fs::create_dir(&place).unwrap();
        let mut writer = LayerWriter::new(&place).unwrap();
        for (at, says) in says {
            write(&mut writer, &path(at), says);
        }
        writer.finish().unwrap();
        self.layers.push(Arc::new(Layer::open(&place).unwrap()));
    }

    pub fn stack(&self) -> Stack {
        Stack::new(self.layers.clone())
    }
}

fn write(writer: &mut LayerWriter, at: &ImagePath, says: &Says) {
    let written = match says {
        Says::Dir(metadata) => writer.add(at, metadata, NewNode::Directory),
        Says::File(metadata, bytes) => {
            let (size, content) = (bytes.len() as u64, &mut &bytes[..]);
            writer.add(at, metadata, NewNode::File { size, content })
        }
        Says::Link(target) => writer.hard_link(at, &path(target)),
        Says::Symlink(target) => writer.add(at, &meta(0o777), NewNode::Symlink(target.as_bytes())),
        Says::Gone => writer.whiteout(at),
        Says::Opaque => writer.opaque(at),
    };
    written.unwrap();
}

/// The changes as text: `A /path`, `C /path content,mode`.
fn told(old: View<'_>, new: View<'_>, precision: Precision) -> Vec<String> {
    let changes = compare(old, new, &ImagePath::root(), precision);
    let line = |change: &changes::Change| match (&change.before, &change.after) {
        (None, _) => format!("A {}", change.path),
        (_, None) => format!("D {}", change.path),
        (Some(a), Some(b)) => {
            let names: Vec<_> = aspects(a, b, precision)
                .into_iter()
                .map(changes::Aspect::name)
                .collect();
            format!("C {} {}", change.path, names.join(","))
        }
    };
    changes.iter().map(line).collect()
}

fn three_layers() -> Layers {
    let of_other = Metadata {
        uid: 7,
        ..meta(0o600)
    };
    let later = Metadata {
        mtime: Timestamp::from_seconds(2_000),
        ..meta(0o644)
    };
    Layers::new()
        .layer(&[
            ("d", dir()),
            ("d/a", file("one")),
            ("d/b", file("two")),
            ("d/sub", dir()),
            ("d/sub/x", file("x")),
            ("e", dir()),
            ("e/deep", file("deep")),
        ])
        .layer(&[
            ("d", dir()),
            ("d/a", Says::File(of_other, b"one".to_vec())),
            ("d/b", Says::File(later, b"two".to_vec())),
            ("d/sub", Says::Gone),
            ("n", file("new")),
        ])
        .layer(&[("d", dir()), ("d/a", file("three")), ("e", file("now a file"))])
}

#[test]
fn states_of_a_stack_are_compared() {
    let layers = three_layers();
    let stack = layers.stack();
    let first = told(stack.view(0), stack.view(1), Precision::Meaning);
    assert_eq!(
        first,
        [
            "A /d",
            "A /d/a",
            "A /d/b",
            "A /d/sub",
            "A /d/sub/x",
            "A /e",
            "A /e/deep"
        ]
    );
    let second = ["C /d/a mode,owner", "D /d/sub", "D /d/sub/x", "A /n"];
    assert_eq!(told(stack.view(1), stack.view(2), Precision::Meaning), second);
    let with_times = [
        "C /d/a mode,owner",
        "C /d/b time",
        "D /d/sub",
        "D /d/sub/x",
        "A /n",
    ];
    assert_eq!(told(stack.view(1), stack.view(2), Precision::Times), with_times);
    let third = ["C /d/a content,mode,owner", "D /e", "D /e/deep", "A /e"];
    assert_eq!(told(stack.view(2), stack.view(3), Precision::Meaning), third);
    assert!(told(stack.top(), stack.top(), Precision::Times).is_empty());
}

#[test]
fn other_stacks_differ_only_where_their_trees_do() {
    let layers = three_layers();
    let stack = layers.stack();
    // The same tree in one layer.
    let flat = Layers::new().layer(&[
        ("d", dir()),
        ("d/a", file("three")),
        ("d/b", file("two")),
        ("e", file("now a file")),
        ("n", file("other")),
    ]);
    let flat = flat.stack();
    assert_eq!(
        told(stack.top(), flat.top(), Precision::Meaning),
        ["C /n content"]
    );
    assert_eq!(
        told(flat.top(), stack.top(), Precision::Meaning),
        ["C /n content"]
    );
    // The same layer on another base says the same, but what lies below differs.
    let mut rebased = Layers::new().layer(&[("d", dir()), ("d/old", file("old"))]);
    rebased.layers.push(Arc::clone(&layers.layers[2]));
    let rebased = rebased.stack();
    let differences = ["D /d/b", "A /d/old", "D /n"];
    assert_eq!(told(stack.top(), rebased.top(), Precision::Meaning), differences);
}

#[test]
fn a_view_has_nodes_and_their_content() {
    let layers = three_layers();
    let stack = layers.stack();
    let read = |height: usize| {
        let node = stack.view(height).find(&path("d/a")).unwrap();
        let mut text = String::new();
        stack.content(&node).read_to_string(&mut text).unwrap();
        (node.metadata.mode, node.origin.layer, text)
    };
    assert_eq!(read(1), (0o644, 0, "one".to_owned()));
    assert_eq!(read(2), (0o600, 1, "one".to_owned()));
    assert_eq!(read(9), (0o644, 2, "three".to_owned()));
    assert!(stack.view(0).find(&path("d")).is_none());
    assert!(stack.view(0).find(&ImagePath::root()).unwrap().is_directory());
    let names: Vec<_> = stack
        .view(2)
        .children(&path("d"))
        .into_iter()
        .map(|(name, _)| name.to_vec())
        .collect();
    assert_eq!(names, [b"a".to_vec(), b"b".to_vec()]);
}
