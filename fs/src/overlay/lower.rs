//! The lower layers seen as one tree: look-ups merge at the indexes, nothing is copied or unpacked.
//!
//! A directory of this tree is the list of its *contributors*: the directory entries of that path, top layer
//! first, down to an opaque one or to something that is no directory.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use crate::layer::index::{Entry, EntryId, Slot};
use crate::layer::{Kind, Layer, Metadata};
use crate::path::ImagePath;

/// Where a lower node comes from: a layer (the bottom one is 0) and the entry in its index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The layer.
    pub layer: u32,
    /// The entry in the layer's index.
    pub entry: EntryId,
}

/// What a name of the lower tree stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node; of a directory the topmost contributor.
    pub origin: Origin,
    /// Its type.
    pub kind: Kind,
    /// A directory's contributors; empty for other nodes.
    pub contributors: Vec<Origin>,
}

/// Where a name of a lower directory stands: in which of the contributors, and its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamePlace {
    contributor: u32,
    number: u32,
}

/// Inode number of the first entry of the bottom layer: 1 is the root's.
const FIRST: u64 = 2;

/// The stack of lower layers, for reading: for whoever asks which layer gave what. [`super::Overlay`] is the same as a
/// filesystem.
pub struct Lowers {
    layers: Vec<Arc<Layer>>,
    /// The inode number of each layer's entry 0.
    first: Vec<u64>,
    end: u64,
    has_links_below: OnceLock<bool>,
    names: OnceLock<HashMap<Origin, Vec<ImagePath>>>,
}

impl Lowers {
    /// A stack, bottom layer first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        let mut end = FIRST;
        let mut first = Vec::with_capacity(layers.len());
        for layer in &layers {
            first.push(end);
            end += u64::from(layer.index().len());
        }
        Self {
            layers,
            first,
            end,
            has_links_below: OnceLock::new(),
            names: OnceLock::new(),
        }
    }

    /// The layers, bottom layer first.
    pub fn layers(&self) -> &[Arc<Layer>] {
        &self.layers
    }

    /// The lowest inode number that no lower node has.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The lower node of an inode number.
    pub fn origin(&self, number: u64) -> Option<Origin> {
        let layer = self
            .first
            .partition_point(|first| *first <= number)
            .checked_sub(1)?;
        let entry = EntryId(u32::try_from(number - self.first[layer]).ok()?);
        let layer = u32::try_from(layer).ok()?;
        (number < self.end).then_some(Origin { layer, entry })
    }

    /// The inode number of a lower node. It depends on nothing but the layers up to that one.
    pub(super) fn number(&self, origin: Origin) -> u64 {
        let first = self.first.get(origin.layer as usize).copied().unwrap_or(self.end);
        first + u64::from(origin.entry.0)
    }

    /// The layer that a node comes from; `None` only for a foreign origin.
    pub fn layer(&self, origin: Origin) -> Option<&Arc<Layer>> {
        self.layers.get(origin.layer as usize)
    }

    /// The entry that a node comes from; `None` only for a foreign origin.
    pub fn entry(&self, origin: Origin) -> Option<Entry<'_>> {
        self.layer(origin)?.index().entry(origin.entry)
    }

    /// The root's contributors.
    pub fn root(&self) -> Vec<Origin> {
        self.root_of(self.layers.len())
    }

    /// The root's contributors among the lowest `count` layers. What [`Self::find`] finds from them lies in these layers.
    pub fn root_of(&self, count: usize) -> Vec<Origin> {
        let mut contributors = Vec::new();
        for (number, layer) in self.layers.iter().enumerate().take(count).rev() {
            contributors.push(Origin {
                layer: u32::try_from(number).unwrap_or(u32::MAX),
                entry: EntryId::ROOT,
            });
            if layer
                .index()
                .entry(EntryId::ROOT)
                .is_some_and(|root| root.is_opaque())
            {
                break;
            }
        }
        contributors
    }

    /// What `name` stands for in the directory of these contributors.
    pub fn find(&self, contributors: &[Origin], name: &[u8]) -> Option<Found> {
        self.find_at(contributors, name).map(|(found, _)| found)
    }

    /// The same, and where the name stands: of a directory the topmost place.
    pub(super) fn find_at(&self, contributors: &[Origin], name: &[u8]) -> Option<(Found, NamePlace)> {
        let mut directory = Vec::new();
        let mut topmost = None;
        for (contributor, dir) in (0..).zip(contributors) {
            let index = self.layer(*dir)?.index();
            let Some((number, slot)) = index.find(dir.entry, name) else {
                continue;
            };
            let place = NamePlace { contributor, number };
            match slot {
                Slot::Whiteout => break,
                Slot::Link(target) if directory.is_empty() => {
                    return self
                        .resolve_in(dir.layer as usize, &target)
                        .filter(|found| found.kind != Kind::Directory)
                        .map(|found| (found, place));
                }
                Slot::Link(_) => break,
                Slot::Entry(entry) => {
                    let origin = Origin {
                        layer: dir.layer,
                        entry,
                    };
                    let node = index.entry(entry)?;
                    if node.kind() != Kind::Directory {
                        if directory.is_empty() {
                            let found = Found {
                                origin,
                                kind: node.kind(),
                                contributors: Vec::new(),
                            };
                            return Some((found, place));
                        }
                        break;
                    }
                    // An index numbers a directory before its children: a damaged one cannot make a cycle.
                    if entry <= dir.entry {
                        break;
                    }
                    directory.push(origin);
                    topmost.get_or_insert(place);
                    if node.is_opaque() {
                        break;
                    }
                }
            }
        }
        let found = Found {
            origin: *directory.first()?,
            kind: Kind::Directory,
            contributors: directory,
        };
        Some((found, topmost?))
    }

    /// What lies at `path`; symbolic links are not followed.
    pub fn resolve(&self, path: &ImagePath) -> Option<Found> {
        self.resolve_in(self.layers.len(), path)
    }

    /// What lies at `path` in the lowest `count` layers; symbolic links are not followed.
    pub fn resolve_in(&self, count: usize, path: &ImagePath) -> Option<Found> {
        let contributors = self.root_of(count);
        let mut at = Found {
            origin: *contributors.first()?,
            kind: Kind::Directory,
            contributors,
        };
        for name in path.components() {
            at = self.find(&at.contributors, name)?;
        }
        Some(at)
    }

    /// The names in the directory of these contributors, sorted. A name whose hard link leads nowhere is among
    /// them, though [`Self::find`] does not find it.
    pub fn names(&self, contributors: &[Origin]) -> Vec<&[u8]> {
        let places = self.name_places(contributors);
        places
            .into_iter()
            .filter_map(|place| self.name_at(contributors, place))
            .collect()
    }

    /// Where the names of [`Self::names`] stand, in the same order.
    pub(super) fn name_places(&self, contributors: &[Origin]) -> Vec<NamePlace> {
        let mut all = Vec::new();
        for (contributor, origin) in (0..).zip(contributors) {
            let Some(layer) = self.layer(*origin) else {
                continue;
            };
            let index = layer.index();
            all.extend((0..index.name_count(origin.entry)).filter_map(|number| {
                let (name, slot) = index.child(origin.entry, number)?;
                Some((name, NamePlace { contributor, number }, slot != Slot::Whiteout))
            }));
        }
        if contributors.len() > 1 {
            all.sort_unstable_by_key(|(name, place, _)| (*name, place.contributor));
            all.dedup_by_key(|(name, _, _)| *name);
        }
        let visible = all.into_iter().filter(|(_, _, visible)| *visible);
        visible.map(|(_, place, _)| place).collect()
    }

    /// The name at a place of [`Self::name_places`].
    pub(super) fn name_at(&self, contributors: &[Origin], place: NamePlace) -> Option<&[u8]> {
        let dir = contributors.get(place.contributor as usize)?;
        let (name, _) = self.layer(*dir)?.index().child(dir.entry, place.number)?;
        Some(name)
    }

    /// The type of what the name at a place of [`Self::name_places`] stands for; `None` if its hard link leads nowhere.
    pub(super) fn kind_at(&self, contributors: &[Origin], place: NamePlace) -> Option<Kind> {
        let dir = contributors.get(place.contributor as usize)?;
        let index = self.layer(*dir)?.index();
        match index.child(dir.entry, place.number)?.1 {
            Slot::Entry(id) => Some(index.entry(id)?.kind()),
            Slot::Link(target) => {
                let kind = self.resolve_in(dir.layer as usize, &target)?.kind;
                (kind != Kind::Directory).then_some(kind)
            }
            Slot::Whiteout => None,
        }
    }

    /// How many names the tree has, the root not among them.
    pub fn name_count(&self) -> usize {
        let mut count = 0;
        let mut todo = vec![self.root()];
        while let Some(contributors) = todo.pop() {
            for place in self.name_places(&contributors) {
                let Some(kind) = self.kind_at(&contributors, place) else {
                    continue;
                };
                count += 1;
                if kind == Kind::Directory
                    && let Some(name) = self.name_at(&contributors, place)
                    && let Some(found) = self.find(&contributors, name)
                {
                    todo.push(found.contributors);
                }
            }
        }
        count
    }

    /// The entry that describes a node: of a directory the topmost contributor that is not implicit.
    pub fn description(&self, found: &Found) -> Option<Entry<'_>> {
        found
            .contributors
            .iter()
            .filter_map(|origin| self.entry(*origin))
            .find(|entry| !entry.is_implicit())
            .or_else(|| self.entry(found.origin))
    }

    /// Mode, owner, time and attributes of a lower node.
    pub fn metadata(&self, found: &Found) -> Metadata {
        let Some(entry) = self.description(found) else {
            return Metadata::default();
        };
        Metadata {
            mode: entry.mode(),
            uid: entry.uid(),
            gid: entry.gid(),
            mtime: entry.mtime(),
            xattrs: entry.xattrs(),
        }
    }

    /// How many names of the lower tree lead to a node that is no directory.
    pub(super) fn link_count(&self, origin: Origin) -> u32 {
        let own = self.entry(origin).map_or(1, |entry| entry.nlink());
        if own <= 1 && !self.has_links_below() {
            return 1;
        }
        let count = self.names_by_origin().get(&origin).map_or(1, Vec::len);
        u32::try_from(count).unwrap_or(u32::MAX).max(1)
    }

    /// The sorted names of a node that is no directory, if it has several.
    pub(super) fn link_names(&self, origin: Origin) -> Option<&[ImagePath]> {
        match self.link_count(origin) {
            ..=1 => None,
            _ => self.names_by_origin().get(&origin).map(Vec::as_slice),
        }
    }

    /// Whether some layer links to a file of a layer below it. No layer that was made here does.
    pub fn has_links_below(&self) -> bool {
        *self.has_links_below.get_or_init(|| {
            self.layers.iter().skip(1).any(|layer| {
                let index = layer.index();
                (0..index.len())
                    .flat_map(|id| index.children(EntryId(id)))
                    .any(|(_, slot)| matches!(slot, Slot::Link(_)))
            })
        })
    }

    /// The visible names of the files that may have several: a layer's own count is wrong as soon as a layer
    /// above hides one of the names or adds another.
    fn names_by_origin(&self) -> &HashMap<Origin, Vec<ImagePath>> {
        self.names.get_or_init(|| {
            let mut candidates = BTreeSet::new();
            for layer in &self.layers {
                collect_linked_paths(layer, &mut candidates);
            }
            let mut names: HashMap<_, Vec<_>> = HashMap::new();
            for path in candidates {
                if let Some(found) = self.resolve(&path)
                    && found.kind != Kind::Directory
                {
                    names.entry(found.origin).or_default().push(path);
                }
            }
            names
        })
    }
}

/// Adds the paths of `layer` that lead to a file with several names.
fn collect_linked_paths(layer: &Layer, paths: &mut BTreeSet<ImagePath>) {
    let index = layer.index();
    let mut todo = vec![(EntryId::ROOT, ImagePath::root())];
    while let Some((dir, path)) = todo.pop() {
        for (name, slot) in index.children(dir) {
            match slot {
                Slot::Whiteout => {}
                Slot::Link(target) => {
                    paths.insert(path.join(name));
                    paths.insert(target);
                }
                Slot::Entry(id) => match index.entry(id) {
                    Some(entry) if entry.kind() == Kind::Directory && id > dir => {
                        todo.push((id, path.join(name)));
                    }
                    Some(entry) if entry.nlink() > 1 => {
                        paths.insert(path.join(name));
                    }
                    _ => {}
                },
            }
        }
    }
}
