//! What became of a path, layer by layer.

use mica_fs::path::ImagePath;

use super::changes::{Precision, aspects, compare};
use super::{Node, Stack};

/// What a layer did to a path.
#[derive(Clone, Debug)]
pub struct Version {
    /// The layer; 1 is the lowest one. The path as it was then is that of [`Stack::view`] of this height.
    pub layer: usize,
    /// What was there before.
    pub before: Option<Node>,
    /// What was there afterwards.
    pub after: Option<Node>,
    /// The directory that went away or gave way to something else, and the path with it.
    pub gone_with: Option<ImagePath>,
    /// Of a directory: what changed in it.
    pub below: Below,
}

/// How many paths in a directory changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Below {
    /// Were added.
    pub added: usize,
    /// Were there before and afterwards.
    pub changed: usize,
    /// Were deleted.
    pub deleted: usize,
}

impl Version {
    /// Whether the layer stores the path again just as it was.
    pub fn is_stored_again(&self) -> bool {
        let both = self.before.as_ref().zip(self.after.as_ref());
        both.is_some_and(|(a, b)| !a.is_directory() && aspects(a, b, Precision::Times).is_empty())
    }
}

/// All that the layers did to `path`, the last first; nothing if it never was there. Symbolic links are not followed.
pub fn log(stack: &Stack, path: &ImagePath) -> Vec<Version> {
    let mut versions = Vec::new();
    let mut before = None;
    for layer in 1..=stack.layers().len() {
        let (old, new) = (stack.view(layer - 1), stack.view(layer));
        let after = new.find(path);
        let is_directory = |node: &Option<Node>| node.as_ref().is_some_and(Node::is_directory);
        let below = match is_directory(&before) || is_directory(&after) {
            true => below(stack, layer, path),
            false => Below::default(),
        };
        if is_changed(before.as_ref(), after.as_ref()) || below != Below::default() {
            let gone_with = (before.is_some() && after.is_none()).then(|| parent_gone(old, new, path));
            versions.push(Version {
                layer,
                before,
                after: after.clone(),
                gone_with: gone_with.flatten(),
                below,
            });
        }
        before = after;
    }
    versions.reverse();
    versions
}

/// Of a directory the time does not count: it follows what is in it.
fn is_changed(before: Option<&Node>, after: Option<&Node>) -> bool {
    match (before, after) {
        (Some(a), Some(b)) if a.is_directory() => !aspects(a, b, Precision::Meaning).is_empty(),
        (Some(a), Some(b)) => a.origin != b.origin,
        (a, b) => a.is_some() != b.is_some(),
    }
}

fn below(stack: &Stack, layer: usize, path: &ImagePath) -> Below {
    let changes = compare(stack.view(layer - 1), stack.view(layer), path, Precision::Meaning);
    let mut below = Below::default();
    for change in changes.iter().filter(|change| change.path != *path) {
        match (&change.before, &change.after) {
            (None, _) => below.added += 1,
            (Some(_), Some(_)) => below.changed += 1,
            (Some(_), None) => below.deleted += 1,
        }
    }
    below
}

/// The uppermost directory above `path` that is no longer one.
fn parent_gone(old: super::View<'_>, new: super::View<'_>, path: &ImagePath) -> Option<ImagePath> {
    let mut above = ImagePath::root();
    for name in path.components() {
        above = above.join(name);
        let was = old.find(&above).is_some_and(|node| node.is_directory());
        let is = new.find(&above).is_some_and(|node| node.is_directory());
        if was && !is && above != *path {
            return Some(above);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Layers, Says, dir, file, meta, path};
    use super::*;

    fn told(layers: &Layers, at: &str) -> Vec<String> {
        let line = |version: &Version| {
            let what = match (&version.before, &version.after) {
                (None, Some(_)) => "created".to_owned(),
                (_, None) => match &version.gone_with {
                    Some(parent) => format!("deleted with {parent}"),
                    None => "deleted".to_owned(),
                },
                (Some(_), Some(_)) if version.is_stored_again() => "stored again".to_owned(),
                (Some(a), Some(b)) => {
                    let names = aspects(a, b, Precision::Times)
                        .into_iter()
                        .map(|aspect| aspect.name());
                    names.collect::<Vec<_>>().join(",")
                }
            };
            let Below {
                added,
                changed,
                deleted,
            } = version.below;
            format!("{} {what} {added}/{changed}/{deleted}", version.layer)
        };
        log(&layers.stack(), &path(at)).iter().map(line).collect()
    }

    #[test]
    fn every_change_of_a_path_is_told_the_last_first() {
        let layers = Layers::new()
            .layer(&[("d", dir()), ("d/f", file("1"))])
            .layer(&[("other", file(""))])
            .layer(&[("d", dir()), ("d/f", Says::File(meta(0o600), b"1".to_vec()))])
            .layer(&[("d/f", Says::File(meta(0o600), b"1".to_vec()))])
            .layer(&[("d/f", Says::Gone)])
            .layer(&[("d/f", Says::Symlink("x"))])
            .layer(&[("d", file("no directory"))])
            .layer(&[("d", dir()), ("d/f", file("again"))])
            .layer(&[("d", dir()), ("d", Says::Opaque)]);
        assert_eq!(
            told(&layers, "d/f"),
            [
                "9 deleted 0/0/0",
                "8 created 0/0/0",
                "7 deleted with /d 0/0/0",
                "6 created 0/0/0",
                "5 deleted 0/0/0",
                "4 stored again 0/0/0",
                "3 mode 0/0/0",
                "1 created 0/0/0",
            ]
        );
        assert!(told(&layers, "nothing").is_empty());
    }

    #[test]
    fn a_directory_tells_what_changed_in_it() {
        let layers = Layers::new()
            .layer(&[("d", dir()), ("d/a", file("1")), ("d/b", file("1"))])
            .layer(&[
                ("d", dir()),
                ("d/a", Says::Gone),
                ("d/b", file("2")),
                ("d/c", file("3")),
            ])
            .layer(&[("d", dir()), ("e", file(""))])
            .layer(&[("d", Says::Dir(meta(0o700)))]);
        assert_eq!(
            told(&layers, "d"),
            ["4 mode 0/0/0", "2  1/1/1", "1 created 2/0/0"]
        );
    }
}
