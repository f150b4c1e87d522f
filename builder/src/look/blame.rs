//! Which layer each path of a directory is as it is from.

use mica_fs::layer::Kind;
use mica_fs::overlay::{Found, Lowers, Origin};
use mica_fs::path::ImagePath;

use super::changes::{Precision, aspects};
use super::{Node, Stack, entries, node};

/// A path and the layer that it is from.
#[derive(Clone, Debug)]
pub struct Blamed {
    /// The path.
    pub path: ImagePath,
    /// What is there.
    pub node: Node,
    /// The layer that changed it last; 1 is the lowest one. A layer that only stores it again did not. Of a directory,
    /// the layer that changed its own mode, owner or attributes last, or made it.
    pub layer: usize,
}

/// What `path` is, and what lies in it down to `depth` directories (0 is `path` alone), each with the layer that changed
/// it last; sorted by name, directories before what they hold. Nothing if there is no such path.
pub fn blame(stack: &Stack, path: &ImagePath, depth: usize) -> Vec<Blamed> {
    let lowers = &stack.lowers;
    let Some(top) = lowers.resolve(path) else {
        return Vec::new();
    };
    let above = path
        .split()
        .and_then(|(parent, name)| Some((lowers.resolve(&parent)?, name)));
    let layer = match &above {
        Some((parent, name)) => layer_of(lowers, &parent.contributors, name, &top),
        None => directory(lowers, &top.contributors),
    };
    let mut blamed = Vec::new();
    let mut todo = vec![(path.clone(), top, layer, depth)];
    while let Some((path, found, layer, depth)) = todo.pop() {
        if depth > 0 {
            let below = entries(lowers, &found).into_iter().rev().map(|(name, child)| {
                let layer = layer_of(lowers, &found.contributors, name, &child);
                (path.join(name), child, layer, depth - 1)
            });
            todo.extend(below);
        }
        blamed.push(Blamed {
            path,
            node: node(lowers, &found),
            layer: layer + 1,
        });
    }
    blamed
}

/// The layer that changed what `name` stands for in the directory of these contributors; the bottom one is 0.
fn layer_of(lowers: &Lowers, parent: &[Origin], name: &[u8], found: &Found) -> usize {
    if found.kind == Kind::Directory {
        return directory(lowers, &found.contributors);
    }
    let mut parent = parent;
    let mut now = node(lowers, found);
    loop {
        let names = |origin: &&Origin| {
            let index = lowers.layer(**origin).map(|layer| layer.index());
            index.is_some_and(|index| index.lookup(origin.entry, name).is_some())
        };
        let Some(giver) = parent.iter().find(names) else {
            return now.origin.layer as usize;
        };
        let below = parent
            .iter()
            .position(|origin| origin == giver)
            .map_or(parent.len(), |at| at + 1);
        parent = &parent[below..];
        let before = lowers
            .find(parent, name)
            .filter(|found| found.kind != Kind::Directory);
        match before.map(|found| node(lowers, &found)) {
            Some(before) if aspects(&before, &now, Precision::Times).is_empty() => now = before,
            _ => return giver.layer as usize,
        }
    }
}

/// The lowest of the layers that say the same of a directory as the topmost one that describes it.
fn directory(lowers: &Lowers, contributors: &[Origin]) -> usize {
    let alone = |origin: &Origin| Found {
        origin: *origin,
        kind: Kind::Directory,
        contributors: vec![*origin],
    };
    let described = |origin: &&Origin| lowers.entry(**origin).is_some_and(|entry| !entry.is_implicit());
    let mut described = contributors.iter().filter(described).peekable();
    let Some(first) = described.next() else {
        return contributors.last().map_or(0, |lowest| lowest.layer as usize);
    };
    let now = node(lowers, &alone(first));
    let same = |origin: &&Origin| aspects(&node(lowers, &alone(origin)), &now, Precision::Meaning).is_empty();
    described.take_while(same).last().unwrap_or(first).layer as usize
}

#[cfg(test)]
mod tests {
    use super::super::log::log;
    use super::super::tests::{Layers, Says, dir, file, meta, path};
    use super::*;

    fn layers() -> Layers {
        Layers::new()
            .layer(&[
                ("d", dir()),
                ("d/a", file("1")),
                ("d/b", file("1")),
                ("d/s", dir()),
                ("d/s/x", file("x")),
            ])
            .layer(&[("d", dir()), ("d/b", file("2"))])
            // Stored again as it was.
            .layer(&[
                ("d", dir()),
                ("d/a", file("1")),
                ("d/c", file("3")),
                ("d/h", Says::Link("d/c")),
            ])
            .layer(&[("d", Says::Dir(meta(0o700))), ("d/s", Says::Gone)])
            .layer(&[
                ("d", Says::Dir(meta(0o700))),
                ("d/s", dir()),
                ("d/s/y", Says::Symlink("x")),
            ])
    }

    fn told(at: &str, depth: usize) -> Vec<String> {
        let blamed = blame(&layers().stack(), &path(at), depth);
        blamed
            .iter()
            .map(|one| format!("{} {}", one.layer, one.path))
            .collect()
    }

    #[test]
    fn each_path_names_the_layer_that_changed_it_last() {
        let all = [
            "1 /", "4 /d", "1 /d/a", "2 /d/b", "3 /d/c", "3 /d/h", "5 /d/s", "5 /d/s/y",
        ];
        assert_eq!(told("/", usize::MAX), all);
        assert_eq!(told("d", 0), ["4 /d"]);
        assert_eq!(told("d/b", 9), ["2 /d/b"]);
        assert_eq!(told("d", 1), all[1..7]);
        assert!(told("nothing", 1).is_empty());
    }

    #[test]
    fn the_log_names_the_same_layer() {
        let stack = layers().stack();
        for blamed in blame(&stack, &ImagePath::root(), usize::MAX)
            .iter()
            .filter(|one| !one.node.is_directory())
        {
            let last = log(&stack, &blamed.path)
                .into_iter()
                .find(|version| !version.is_stored_again());
            assert_eq!(
                last.map(|version| version.layer),
                Some(blamed.layer),
                "{}",
                blamed.path
            );
        }
    }
}
