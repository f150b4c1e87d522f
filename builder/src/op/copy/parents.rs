//! `COPY --parents`: sources with the directories of their paths.

use std::collections::BTreeMap;

use mica_fs::layer::Kind;
use mica_fs::path::ImagePath;

use super::CopyError;
use super::sources::Pivot;
use crate::glob;
use crate::tree::{Node, Tree, TreeError};

/// What matches `pattern` below the directory `base`, by its path from there. `**` stands for any number of
/// directories, none included; no symbolic link is followed. A match that another one holds is left out.
pub(super) fn expand(
    tree: &dyn Tree,
    base: &ImagePath,
    pattern: &str,
) -> Result<BTreeMap<ImagePath, Node>, CopyError> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in pattern.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            // Two in a row say nothing more, and cost a walk for each.
            "**" if components.last() == Some(&&b"**"[..]) => {}
            component => components.push(component.as_bytes()),
        }
    }
    let mut search = Search {
        tree,
        base,
        pattern,
        found: BTreeMap::new(),
    };
    if let Some(node) = tree.node(base)? {
        search.below(&ImagePath::root(), node, &components)?;
    }
    let directories: Vec<ImagePath> = search
        .found
        .iter()
        .filter(|(_, node)| node.kind == Kind::Directory)
        .map(|(path, _)| path.clone())
        .collect();
    let mut found = search.found;
    found.retain(|path, _| {
        let mut above = path.parent();
        while let Some(parent) = above {
            if directories.binary_search(&parent).is_ok() {
                return false;
            }
            above = parent.parent();
        }
        true
    });
    Ok(found)
}

/// The path `relative` below `base`.
pub(super) fn under(base: &ImagePath, relative: &ImagePath) -> ImagePath {
    relative
        .components()
        .fold(base.clone(), |path, name| path.join(name))
}

/// The directories above a source that its copy keeps, the outermost first.
pub(super) fn above(tree: &dyn Tree, pivot: &Pivot) -> Result<Vec<(ImagePath, Node)>, TreeError> {
    let mut paths = Vec::new();
    let mut at = pivot.relative.parent();
    while let Some(path) = at.filter(|path| !path.is_root()) {
        at = path.parent();
        paths.push(path);
    }
    let mut directories = Vec::new();
    for path in paths.into_iter().rev() {
        if let Some(node) = tree.node(&under(&pivot.base, &path))? {
            directories.push((path, node));
        }
    }
    Ok(directories)
}

struct Search<'a> {
    tree: &'a dyn Tree,
    base: &'a ImagePath,
    pattern: &'a str,
    found: BTreeMap<ImagePath, Node>,
}

impl Search<'_> {
    /// Matches `components` against `node` at `path` and what is below it.
    fn below(&mut self, path: &ImagePath, node: Node, components: &[&[u8]]) -> Result<(), CopyError> {
        let Some((first, rest)) = components.split_first() else {
            self.found.insert(path.clone(), node);
            return Ok(());
        };
        if node.kind != Kind::Directory {
            return Ok(());
        }
        let any_depth = *first == b"**";
        if any_depth && !rest.is_empty() {
            self.below(path, node, rest)?;
        }
        let directory = under(self.base, path);
        if !any_depth && !glob::is_pattern(first) {
            return self.child(path, first, rest);
        }
        for name in self.tree.names(&directory)? {
            if any_depth {
                // The last `**` takes everything; another one stays in force below a directory.
                let remaining = if rest.is_empty() { rest } else { components };
                self.child(path, &name, remaining)?;
            } else if self.matches(first, &name)? {
                self.child(path, &name, rest)?;
            }
        }
        Ok(())
    }

    fn child(&mut self, path: &ImagePath, name: &[u8], components: &[&[u8]]) -> Result<(), CopyError> {
        let path = path.join(name);
        match self.tree.node(&under(self.base, &path))? {
            Some(node) => self.below(&path, node, components),
            None => Ok(()),
        }
    }

    fn matches(&self, component: &[u8], name: &[u8]) -> Result<bool, CopyError> {
        glob::matches(component, name).map_err(|_| CopyError::Pattern {
            pattern: self.pattern.to_owned(),
        })
    }
}
