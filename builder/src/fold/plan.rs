//! What of each layer is needed, and which metadata goes to a lower layer.

use std::collections::HashMap;

use mica_fs::layer::index::{EntryId, Slot as IndexSlot};
use mica_fs::layer::rewrite;
use mica_fs::layer::{Kind, Metadata};
use mica_fs::overlay::{Found, Lowers, Origin};
use mica_fs::path::ImagePath;

/// The plans of the layers above the base, lowest first.
pub struct Plan {
    pub layers: Vec<LayerPlan>,
}

/// All names of a layer, directories before what they hold.
#[derive(Default)]
pub struct LayerPlan {
    pub slots: Vec<Slot>,
    /// What nodes get from the layers above.
    pub metadata: HashMap<EntryId, Metadata>,
    names: HashMap<EntryId, Vec<usize>>,
}

/// A name of a layer.
pub struct Slot {
    pub path: ImagePath,
    /// The number of the directory's slot.
    pub parent: Option<usize>,
    pub what: What,
}

/// What is known of a name before the layers below are settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// The finished image shows this node there, or this directory among others.
    Live(EntryId),
    /// The finished image is the same without it.
    Folded,
    /// The finished image shows nothing of it, but it hides what lower layers have there, unless that goes. What is below
    /// it in this layer has no slot.
    Dead,
    /// It hides what lower layers have there, unless that goes.
    Whiteout,
}

impl Plan {
    /// Plans for the layers above the lowest `base`, none of which links to a layer below it.
    pub fn new(lowers: &Lowers, base: usize) -> Self {
        let mut layers: Vec<_> = (base..lowers.layers().len())
            .map(|layer| LayerPlan::new(lowers, layer))
            .collect();
        // From the top down, so that metadata goes down step by step.
        for number in (1..layers.len()).rev() {
            let (lower, rest) = layers.split_at_mut(number);
            if let Some(layer) = rest.first_mut() {
                layer.fold_files(lowers, base, lower);
                layer.fold_directories(lowers, base, lower);
            }
        }
        Self { layers }
    }
}

impl LayerPlan {
    /// The names of a layer, and which of them the finished image shows.
    fn new(lowers: &Lowers, layer: usize) -> Self {
        let mut plan = Self::default();
        let number = u32::try_from(layer).unwrap_or(u32::MAX);
        let Some(index) = lowers.layers().get(layer).map(|layer| layer.index()) else {
            return plan;
        };
        let root = lowers.resolve(&ImagePath::root());
        let mut todo = vec![(ImagePath::root(), None, IndexSlot::Entry(EntryId::ROOT), root)];
        while let Some((path, parent, slot, shown)) = todo.pop() {
            let own = |entry| Origin { layer: number, entry };
            let is_live = |id| match &shown {
                Some(found) if found.kind == Kind::Directory => found.contributors.contains(&own(id)),
                Some(found) => found.origin == own(id),
                None => false,
            };
            let hides = || lowers.resolve_in(layer, &path).is_some();
            let place = plan.slots.len();
            let what = match slot {
                IndexSlot::Entry(id) if is_live(id) => {
                    plan.names.entry(id).or_default().push(place);
                    if let Some(directory) = shown.filter(|found| found.kind == Kind::Directory) {
                        let mut below: Vec<_> = index
                            .children(id)
                            .map(|(name, slot)| {
                                let shown = lowers.find(&directory.contributors, name);
                                (path.join(name), Some(place), slot, shown)
                            })
                            .collect();
                        below.reverse();
                        todo.append(&mut below);
                    }
                    What::Live(id)
                }
                IndexSlot::Entry(id) => {
                    plan.names.entry(id).or_default().push(place);
                    if hides() { What::Dead } else { What::Folded }
                }
                IndexSlot::Whiteout if hides() => What::Whiteout,
                IndexSlot::Whiteout => What::Folded,
                // The caller has seen to it that there is none.
                IndexSlot::Link(_) => continue,
            };
            plan.slots.push(Slot { path, parent, what });
        }
        plan
    }

    /// What a node of this layer will say of itself.
    fn said(&self, lowers: &Lowers, origin: Origin) -> Option<Metadata> {
        let own = || lowers.entry(origin).map(|entry| rewrite::metadata(&entry));
        self.metadata.get(&origin.entry).cloned().or_else(own)
    }

    /// Files that the layer stores with the bytes that are there already: their metadata goes down.
    fn fold_files(&mut self, lowers: &Lowers, base: usize, lower: &mut [Self]) {
        let number = base + lower.len();
        let files: Vec<EntryId> = self.names.keys().copied().collect();
        for id in files {
            let origin = origin(number, id);
            let Some(below) = self.same_bytes_below(lowers, base, lower, origin) else {
                continue;
            };
            let Some(metadata) = self.said(lowers, origin) else {
                continue;
            };
            let plan = &mut lower[below.layer as usize - base];
            plan.metadata.insert(below.entry, metadata);
            for place in plan.names.get(&below.entry).into_iter().flatten() {
                plan.slots[*place].what = What::Live(below.entry);
            }
            for place in self.names.get(&id).into_iter().flatten() {
                self.slots[*place].what = What::Folded;
            }
        }
    }

    /// The file of a lower layer of the build that has the bytes of this one and the same names, if it would be seen
    /// without this one.
    fn same_bytes_below(
        &self,
        lowers: &Lowers,
        base: usize,
        lower: &[Self],
        origin: Origin,
    ) -> Option<Origin> {
        let entry = lowers.entry(origin).filter(|entry| entry.kind() == Kind::File)?;
        let names = self.names.get(&origin.entry)?;
        // All names that the layer gives to it must be seen: those below what is dead have no slot.
        let is_live = |place: &usize| self.slots[*place].what == What::Live(origin.entry);
        if names.len() != entry.nlink() as usize || !names.iter().all(is_live) {
            return None;
        }
        let before = |place: &usize| lowers.resolve_in(origin.layer as usize, &self.slots[*place].path);
        let below = before(names.first()?)?.origin;
        let plan = lower.get((below.layer as usize).checked_sub(base)?)?;
        let there = lowers.entry(below)?;
        let same_bytes =
            there.kind() == Kind::File && there.size() == entry.size() && there.digest() == entry.digest();
        let paths = |plan: &Self, places: &[usize]| {
            let mut paths: Vec<_> = places
                .iter()
                .map(|place| plan.slots[*place].path.clone())
                .collect();
            paths.sort();
            paths
        };
        let names_below = plan.names.get(&below.entry)?;
        let same_names =
            names_below.len() == there.nlink() as usize && paths(self, names) == paths(plan, names_below);
        // Where the directory of the lower layer has a slot that is live, it is among those that are shown.
        let is_shown = |place: &usize| {
            let parent = plan.slots[*place].parent;
            parent.is_some_and(|parent| matches!(plan.slots[parent].what, What::Live(_)))
        };
        let is_before = names
            .iter()
            .all(|place| before(place).is_some_and(|found| found.origin == below));
        let fits = same_bytes
            && entry.digest().is_some()
            && same_names
            && is_before
            && names_below.iter().all(is_shown);
        fits.then_some(below)
    }

    /// Directories of which only the metadata is left, if a lower layer of the build has them as well.
    fn fold_directories(&mut self, lowers: &Lowers, base: usize, lower: &mut [Self]) {
        let number = base + lower.len();
        let mut holds = vec![false; self.slots.len()];
        for place in (0..self.slots.len()).rev() {
            let slot = &self.slots[place];
            if let What::Live(id) = slot.what
                && !holds[place]
                && let Some(heir) = self.heir(lowers, base, lower, (&slot.path, origin(number, id)))
            {
                if let (Heir::Below(heir), Some(metadata)) = (heir, self.said(lowers, origin(number, id))) {
                    lower[heir.layer as usize - base]
                        .metadata
                        .insert(heir.entry, metadata);
                }
                self.metadata.remove(&id);
                self.slots[place].what = What::Folded;
            }
            let slot = &self.slots[place];
            if slot.what != What::Folded
                && let Some(parent) = slot.parent
            {
                holds[parent] = true;
            }
        }
    }

    /// Who describes the directory `path` if this layer does not: if nobody of the build can, it has to stay.
    fn heir(
        &self,
        lowers: &Lowers,
        base: usize,
        lower: &[Self],
        (path, origin): (&ImagePath, Origin),
    ) -> Option<Heir> {
        let entry = lowers.entry(origin)?;
        let is_plain = entry.kind() == Kind::Directory && !entry.is_opaque() && !entry.is_implicit();
        let found: Found = is_plain.then(|| lowers.resolve(path)).flatten()?;
        let describes = |origin: &&Origin| lowers.entry(**origin).is_some_and(|entry| !entry.is_implicit());
        let topmost = found.contributors.iter().find(describes)?;
        let below = found
            .contributors
            .iter()
            .filter(describes)
            .find(|other| other.layer < origin.layer)?;
        // If those above have been folded away they left what they had to say here.
        if *topmost != origin && !self.metadata.contains_key(&origin.entry) {
            return Some(Heir::Above);
        }
        let plan = lower.get((below.layer as usize).checked_sub(base)?)?;
        let is_live = |place: &usize| plan.slots[*place].what == What::Live(below.entry);
        let is_seen = plan.names.get(&below.entry)?.iter().all(is_live);
        is_seen.then_some(Heir::Below(*below))
    }
}

/// Who describes a directory in place of a layer.
enum Heir {
    /// A layer above it, as it does already.
    Above,
    /// This directory of a lower layer.
    Below(Origin),
}

fn origin(layer: usize, entry: EntryId) -> Origin {
    Origin {
        layer: u32::try_from(layer).unwrap_or(u32::MAX),
        entry,
    }
}
