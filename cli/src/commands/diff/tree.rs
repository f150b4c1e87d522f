//! Differences drawn as a tree.

use std::collections::BTreeMap;

use mica_builder::look::Node;
use mica_builder::look::changes::{Change, Precision};

use crate::node::{differences, letter};
use crate::render::{printable, size};

/// A directory on the way to changes, or a change.
#[derive(Default)]
struct Branch<'a> {
    changes: Vec<&'a Change>,
    below: BTreeMap<Vec<u8>, Branch<'a>>,
}

/// The changes as lines, each beneath its directory.
pub fn draw(changes: &[Change], precision: Precision) -> String {
    let mut root = Branch::default();
    for change in changes {
        let place = change.path.components().fold(&mut root, |branch, name| {
            branch.below.entry(name.to_vec()).or_default()
        });
        place.changes.push(change);
    }
    let mut text = String::new();
    if changes.is_empty() {
        return text;
    }
    let about = root
        .changes
        .first()
        .map(|change| format!("  {}", detail(change, precision)));
    text += &format!("/{}\n", about.unwrap_or_default());
    // From the last to the first, since the next one is taken from the end. No recursion: a tree may be deep.
    let mut todo = rows(root, String::new());
    while let Some(Row {
        indent,
        is_last,
        name,
        branch,
    }) = todo.pop()
    {
        let (corner, bar) = if is_last {
            ("└── ", "    ")
        } else {
            ("├── ", "│   ")
        };
        let name = printable(&String::from_utf8_lossy(&name));
        let (first, others) = match branch.changes.split_first() {
            Some((first, others)) => (Some(*first), others),
            None => (None, &[][..]),
        };
        // What goes stands above what comes in its place.
        for change in first.into_iter().chain(others.iter().copied()) {
            let slash = if is_directory(change) { "/" } else { "" };
            let about = detail(change, precision);
            let about = if about.is_empty() {
                about
            } else {
                format!("  {about}")
            };
            text += &format!("{indent}{corner}{} {name}{slash}{about}\n", letter(change));
        }
        if first.is_none() {
            text += &format!("{indent}{corner}{name}/\n");
        }
        todo.extend(rows(branch, indent + bar));
    }
    text
}

struct Row<'a> {
    indent: String,
    is_last: bool,
    name: Vec<u8>,
    branch: Branch<'a>,
}

fn rows(branch: Branch<'_>, indent: String) -> Vec<Row<'_>> {
    let below = branch.below.into_iter().rev().enumerate();
    let row = |(number, (name, branch))| Row {
        indent: indent.clone(),
        is_last: number == 0,
        name,
        branch,
    };
    below.map(row).collect()
}

fn is_directory(change: &Change) -> bool {
    let node = change.after.as_ref().or(change.before.as_ref());
    node.is_some_and(Node::is_directory)
}

/// What differs, or how large what comes or goes is.
fn detail(change: &Change, precision: Precision) -> String {
    match (&change.before, &change.after) {
        (Some(old), Some(new)) => differences(old, new, precision),
        (None, Some(node)) | (Some(node), None) if node.size > 0 => size(node.size),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mica_builder::look::Stack;
    use mica_builder::look::changes::compare;
    use mica_fs::layer::writer::{LayerWriter, NewNode};
    use mica_fs::layer::{Layer, Metadata};
    use mica_fs::path::ImagePath;
    use std::sync::Arc;

    #[test]
    fn what_changed_stands_beneath_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::new(directory.path()).unwrap();
        for (path, text) in [("a/b/c", "1"), ("a/b/d", "22"), ("a/z", ""), ("e", "333")] {
            let path = ImagePath::clean(path.as_bytes()).unwrap();
            let content = &mut text.as_bytes();
            let file = NewNode::File {
                size: text.len() as u64,
                content,
            };
            writer.add(&path, &Metadata::default(), file).unwrap();
        }
        writer.finish().unwrap();
        let stack = Stack::new(vec![Arc::new(Layer::open(directory.path()).unwrap())]);
        let changes = compare(stack.view(0), stack.top(), &ImagePath::root(), Precision::Meaning);
        let files: Vec<_> = changes
            .into_iter()
            .filter(|change| !is_directory(change))
            .collect();
        let drawn =
            "/\n├── a/\n│   ├── b/\n│   │   ├── A c  1B\n│   │   └── A d  2B\n│   └── A z\n└── A e  3B\n";
        assert_eq!(draw(&files, Precision::Meaning), drawn);
        assert_eq!(draw(&[], Precision::Meaning), "");
    }
}
