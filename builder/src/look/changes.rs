//! How two trees differ.
//!
//! Where both have a directory from the same layers, only the names that the other layers mention are looked at. So the
//! states of one image before and after a layer are compared in the time that the layer takes, whatever lies below.

use mica_fs::digest::DiffId;
use mica_fs::layer::{Kind, Layer};
use mica_fs::overlay::{Found, Lowers, Origin};
use mica_fs::path::ImagePath;

use super::{NOWHERE, Node, View, entries, node};

/// A path at which two trees differ: it is in one of them at least.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where.
    pub path: ImagePath,
    /// What is there in the first tree.
    pub before: Option<Node>,
    /// What is there in the second.
    pub after: Option<Node>,
}

/// In what a path of two trees differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Aspect {
    /// It is of another type.
    Type,
    /// The bytes of a file.
    Content,
    /// The target of a symbolic link.
    Target,
    /// The number of a device.
    Device,
    /// Permission, set-ID and sticky bits.
    Mode,
    /// Owner or group.
    Owner,
    /// Extended attributes.
    Xattrs,
    /// The time of the last change.
    Time,
}

impl Aspect {
    /// One lowercase word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Type => "type",
            Self::Content => "content",
            Self::Target => "target",
            Self::Device => "device",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Xattrs => "xattrs",
            Self::Time => "time",
        }
    }
}

/// What counts as a difference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Precision {
    /// All but times.
    Meaning,
    /// Times as well, but not those of directories, which follow what is in them.
    Times,
    /// Also that something is stored again as it was.
    Storage,
}

/// In what two nodes differ.
pub fn aspects(a: &Node, b: &Node, precision: Precision) -> Vec<Aspect> {
    if a.kind != b.kind {
        return vec![Aspect::Type];
    }
    let is_file = a.kind == Kind::File;
    let same_bytes = a.size == b.size && a.digest == b.digest && a.digest.is_some();
    let (old, new) = (&a.metadata, &b.metadata);
    let pairs = [
        (Aspect::Content, is_file && !same_bytes),
        (Aspect::Target, a.target != b.target),
        (Aspect::Device, a.device != b.device),
        (Aspect::Mode, old.mode != new.mode),
        (Aspect::Owner, (old.uid, old.gid) != (new.uid, new.gid)),
        (Aspect::Xattrs, old.xattrs != new.xattrs),
        (
            Aspect::Time,
            precision >= Precision::Times && old.mtime != new.mtime,
        ),
    ];
    let differing = pairs.into_iter().filter(|(_, differs)| *differs);
    differing.map(|(aspect, _)| aspect).collect()
}

/// How the tree `new` differs from `old` at `top` and below it, sorted by name, directories before what they hold. What
/// is added or deleted with its directory is told as well; where a directory gives way to something else, or the other
/// way round, what goes comes first.
pub fn compare(old: View<'_>, new: View<'_>, top: &ImagePath, precision: Precision) -> Vec<Change> {
    let comparison = Comparison {
        identity: Identity::new(old.lowers, new.lowers),
        old: old.lowers,
        new: new.lowers,
        precision,
    };
    let mut changes = Vec::new();
    let mut todo = vec![Pair {
        path: top.clone(),
        before: old.found(top).or_else(|| root(top)),
        after: new.found(top).or_else(|| root(top)),
    }];
    while let Some(pair) = todo.pop() {
        comparison.pair(pair, &mut changes, &mut todo);
    }
    changes
}

/// The root of a view without layers.
fn root(path: &ImagePath) -> Option<Found> {
    path.is_root().then(|| Found {
        origin: NOWHERE,
        kind: Kind::Directory,
        contributors: Vec::new(),
    })
}

/// A path of both trees.
struct Pair {
    path: ImagePath,
    before: Option<Found>,
    after: Option<Found>,
}

struct Comparison<'a> {
    old: &'a Lowers,
    new: &'a Lowers,
    identity: Identity,
    precision: Precision,
}

impl Comparison<'_> {
    /// Compares the nodes at one path; what lies in them comes next.
    fn pair(&self, pair: Pair, changes: &mut Vec<Change>, todo: &mut Vec<Pair>) {
        let Pair { path, before, after } = pair;
        let is_directory = |found: &Found| found.kind == Kind::Directory;
        if let (Some(a), Some(b)) = (&before, &after) {
            if is_directory(a) && is_directory(b) {
                return self.directories(&path, a, b, changes, todo);
            }
            if !is_directory(a) && !is_directory(b) {
                return self.nodes(path, a, b, changes);
            }
            let (went, came) = ((before, None), (None, after));
            return todo.extend([came, went].map(|(before, after)| Pair {
                path: path.clone(),
                before,
                after,
            }));
        }
        let below = |lowers, found: &Option<Found>| found.as_ref().map(|found| entries(lowers, found));
        let gone = below(self.old, &before)
            .into_iter()
            .flatten()
            .map(|(name, found)| (name, Some(found), None));
        let come = below(self.new, &after)
            .into_iter()
            .flatten()
            .map(|(name, found)| (name, None, Some(found)));
        let start = todo.len();
        todo.extend(gone.chain(come).map(|(name, before, after)| Pair {
            path: path.join(name),
            before,
            after,
        }));
        todo[start..].reverse();
        changes.push(Change {
            path,
            before: before.map(|found| node(self.old, &found)),
            after: after.map(|found| node(self.new, &found)),
        });
    }

    fn nodes(&self, path: ImagePath, a: &Found, b: &Found, changes: &mut Vec<Change>) {
        if self.identity.same(a.origin, b.origin) {
            return;
        }
        let (a, b) = (node(self.old, a), node(self.new, b));
        if self.precision == Precision::Storage || !aspects(&a, &b, self.precision).is_empty() {
            changes.push(Change {
                path,
                before: Some(a),
                after: Some(b),
            });
        }
    }

    fn directories(
        &self,
        path: &ImagePath,
        a: &Found,
        b: &Found,
        changes: &mut Vec<Change>,
        todo: &mut Vec<Pair>,
    ) {
        let shared = self.identity.shared(&a.contributors, &b.contributors);
        let (only_a, only_b) = (
            &a.contributors[..a.contributors.len() - shared],
            &b.contributors[..b.contributors.len() - shared],
        );
        if only_a.is_empty() && only_b.is_empty() {
            return;
        }
        let is_whole = !a.contributors.is_empty() && !b.contributors.is_empty();
        let (before, after) = (node(self.old, a), node(self.new, b));
        if is_whole && !aspects(&before, &after, Precision::Meaning).is_empty() {
            changes.push(Change {
                path: path.clone(),
                before: Some(before),
                after: Some(after),
            });
        }
        let mut names: Vec<&[u8]> = Vec::new();
        for (lowers, contributors) in [(self.old, only_a), (self.new, only_b)] {
            for origin in contributors {
                let index = lowers.layer(*origin).map(|layer| layer.index());
                names.extend(
                    index
                        .into_iter()
                        .flat_map(|index| index.children(origin.entry).map(|(name, _)| name)),
                );
            }
        }
        names.sort_unstable();
        names.dedup();
        todo.extend(names.into_iter().rev().filter_map(|name| {
            let before = self.old.find(&a.contributors, name);
            let after = self.new.find(&b.contributors, name);
            (before.is_some() || after.is_some()).then(|| Pair {
                path: path.join(name),
                before,
                after,
            })
        }));
    }
}

/// When nodes of two stacks are the same without a look at them.
struct Identity {
    old: Vec<DiffId>,
    new: Vec<DiffId>,
    /// How many of the lowest layers are the same.
    prefix: usize,
    /// No layer links to a file of another, so that a layer says the same wherever it lies.
    anywhere: bool,
}

impl Identity {
    fn new(old: &Lowers, new: &Lowers) -> Self {
        let ids = |lowers: &Lowers| {
            lowers
                .layers()
                .iter()
                .map(|layer| Layer::diff_id(layer))
                .collect::<Vec<_>>()
        };
        let is_same_stack = std::ptr::eq(old, new);
        let (old_ids, new_ids) = (ids(old), ids(new));
        let prefix = old_ids.iter().zip(&new_ids).take_while(|(a, b)| a == b).count();
        Self {
            prefix,
            anywhere: !is_same_stack && !old.has_links_below() && !new.has_links_below(),
            old: old_ids,
            new: new_ids,
        }
    }

    fn same(&self, a: Origin, b: Origin) -> bool {
        let (x, y) = (a.layer as usize, b.layer as usize);
        let in_prefix = x == y && x < self.prefix;
        let same_layer = || self.anywhere && x < self.old.len() && self.old.get(x) == self.new.get(y);
        a.entry == b.entry && (in_prefix || same_layer())
    }

    /// How many of the lowest contributors to a directory are the same.
    fn shared(&self, a: &[Origin], b: &[Origin]) -> usize {
        let pairs = a.iter().rev().zip(b.iter().rev());
        pairs.take_while(|(a, b)| self.same(**a, **b)).count()
    }
}
