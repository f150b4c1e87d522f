//! What of the layers below a step changed: what it read of it, and what it did not.

use std::collections::BTreeSet;
use std::sync::Arc;

use mica_fs::digest::DiffId;
use mica_fs::layer::index::{EntryId, Slot};
use mica_fs::layer::{Kind, Layer};
use mica_fs::overlay::{Aspect, Lowers, ReadSet, trace};
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, StoreError};

use super::{By, Pair, Reason, TOLD, Unread, WhyError};
use crate::ledger::{BaseKind, StepRecord, sources};
use crate::look::Stack;
use crate::look::changes::{Precision, compare};

/// How many files that were not read are told by name.
const EXAMPLES: usize = 5;

/// What a step has read, if that was recorded and is still there.
pub(super) fn read_set(store: &Store, step: &StepRecord) -> Result<Option<ReadSet>, StoreError> {
    let Some(digest) = step.reads else { return Ok(None) };
    let bytes = store.trace(&digest)?;
    Ok(bytes.and_then(|bytes| trace::decode(&bytes).ok()))
}

/// One word for what of a path is different.
fn word(aspect: &Aspect) -> &'static str {
    match aspect {
        Aspect::Appeared(_) => "appeared",
        Aspect::Vanished(_) => "vanished",
        Aspect::Kind { .. } => "type",
        Aspect::Mode { .. } => "mode",
        Aspect::Owner { .. } => "owner",
        Aspect::Size { .. } | Aspect::Content { .. } => "content",
        Aspect::Modified { .. } => "time",
        Aspect::Device { .. } => "device",
        Aspect::Target { .. } => "target",
        Aspect::Links => "links",
        Aspect::Listing => "listing",
        Aspect::Xattrs { .. } => "attributes",
    }
}

impl Pair<'_> {
    /// Which of the files that the step read are others now, and who changed them; and what else changed.
    pub(super) fn below(&self) -> Result<(Vec<Reason>, Option<Unread>), WhyError> {
        let layers = self.record.layers_before(self.step);
        let all_there = layers.iter().all(|layer| self.store.has_layer(layer));
        let set = read_set(self.store, self.before)?.filter(|_| all_there);
        let Some(set) = set else {
            return Ok((vec![self.first_below()], None));
        };
        let lowers = Lowers::new(self.store.layers(&layers)?);
        let mut changed: Vec<(ImagePath, &'static str)> = Vec::new();
        for difference in trace::differences(&set, &lowers) {
            // Of what differs in several ways the first is the most telling, but for a time, which says nothing.
            let word = word(&difference.aspect);
            match changed.last_mut() {
                Some((path, told)) if *path == difference.path => {
                    if *told == "time" {
                        *told = word;
                    }
                }
                _ => changed.push((difference.path, word)),
            }
        }
        let paths: Vec<_> = changed.iter().map(|(path, _)| path.clone()).collect();
        let unread = self.unread(&paths)?;
        if changed.is_empty() {
            let resolved = self.before.command.is_some() && self.before.command != self.step.command;
            let reason = match resolved {
                true => Reason::Meaning,
                false => Reason::Gone,
            };
            return Ok((vec![reason], unread));
        }
        // What a directory lists follows from what appeared and vanished in it: that is told first.
        changed.sort_by_key(|(_, word)| matches!(*word, "listing" | "time"));
        let more = changed.len().saturating_sub(TOLD);
        let mut reasons = Vec::new();
        for (path, aspect) in changed.into_iter().take(TOLD) {
            let names = match aspect {
                "listing" => self.names_changed(&path)?,
                _ => Vec::new(),
            };
            let child = names.first().map(|name| path.join(name));
            let names = names
                .iter()
                .map(|name| String::from_utf8_lossy(name).into_owned());
            reasons.push(Reason::Read {
                by: self.who_changed(child.as_ref().unwrap_or(&path))?,
                names: names.take(EXAMPLES).collect(),
                path: path.to_string(),
                aspect,
            });
        }
        if more > 0 {
            reasons.push(Reason::MoreReads { count: more });
        }
        Ok((reasons, unread))
    }

    /// What the step stood on then and stands on now. `None` if layers of it are gone.
    fn stacks(&self) -> Result<Option<(Stack, Stack)>, StoreError> {
        let open = |layers: Vec<DiffId>| -> Result<Option<Stack>, StoreError> {
            match layers.iter().all(|layer| self.store.has_layer(layer)) {
                true => Stack::open(self.store, &layers).map(Some),
                false => Ok(None),
            }
        };
        let old = open(self.earlier.layers_before(self.before))?;
        Ok(old.zip(open(self.record.layers_before(self.step))?))
    }

    /// The names in a directory that came, went, or are of another type.
    fn names_changed(&self, directory: &ImagePath) -> Result<Vec<Vec<u8>>, StoreError> {
        let Some((old, new)) = self.stacks()? else {
            return Ok(Vec::new());
        };
        let names = |stack: &Stack| -> BTreeSet<(Vec<u8>, Kind)> {
            let children = stack.top().children(directory).into_iter();
            children.map(|(name, node)| (name.to_vec(), node.kind)).collect()
        };
        let (old, new) = (names(&old), names(&new));
        let changed: BTreeSet<_> = old.symmetric_difference(&new).map(|(name, _)| name).collect();
        Ok(changed.into_iter().cloned().collect())
    }

    /// What changed below the step, but for the paths `read`. `None` if layers that are needed to tell are gone.
    pub(super) fn unread(&self, read: &[ImagePath]) -> Result<Option<Unread>, WhyError> {
        let Some((old, new)) = self.stacks()? else {
            return Ok(None);
        };
        let read: BTreeSet<_> = read.iter().collect();
        let changes = compare(old.top(), new.top(), &ImagePath::root(), Precision::Meaning);
        let mut unread = Unread::default();
        for change in changes.iter().filter(|change| !read.contains(&change.path)) {
            unread.count += 1;
            if unread.examples.len() < EXAMPLES {
                unread.examples.push(change.path.to_string());
            }
        }
        Ok((unread.count > 0).then_some(unread))
    }

    /// Without knowing what the step reads: the first thing below it that is another one.
    fn first_below(&self) -> Reason {
        let new = self.record.lineage(self.step);
        let old = self.earlier.lineage(self.before);
        let differing = new.iter().take(new.len() - 1).find(|step| {
            let layers = |step: &StepRecord| (step.layer, step.base.clone().map(|base| base.layers));
            !old.iter().any(|other| layers(other) == layers(step))
        });
        match differing {
            Some(step) if step.base.is_some() => base(step, &old),
            step => Reason::Below {
                by: step.map(|step| self.by(step, None)),
            },
        }
    }

    /// The last step before this one, or the last before the earlier one, that has something to say of the path.
    fn who_changed(&self, path: &ImagePath) -> Result<Option<By>, WhyError> {
        for (record, last) in [(self.record, self.step), (self.earlier, self.before)] {
            for step in record.lineage(last).into_iter().rev().skip(1) {
                let Some(layer) = step.layer.filter(|layer| self.store.has_layer(layer)) else {
                    continue;
                };
                if mentions(&self.store.layer(&layer)?, path) {
                    let source = self.source_of(step, path);
                    return Ok(Some(self.by(step, source)));
                }
            }
        }
        Ok(Some(By::Base))
    }

    fn by(&self, step: &StepRecord, source: Option<String>) -> By {
        By::Step {
            number: step.number(),
            title: self.record.title(step),
            source,
        }
    }

    /// The file of a COPY's sources that became `path`: of those that changed the one with the longest common end.
    fn source_of(&self, step: &StepRecord, path: &ImagePath) -> Option<String> {
        let before = super::align::counterpart(self.record, step, self.earlier)?;
        let common = |source: &ImagePath| {
            let (a, b): (Vec<_>, Vec<_>) = (source.components().collect(), path.components().collect());
            a.iter()
                .rev()
                .zip(b.iter().rev())
                .take_while(|(a, b)| a == b)
                .count()
        };
        let mut best: Option<(usize, ImagePath)> = None;
        for (new, old) in step.sources.iter().zip(&before.sources) {
            let (old, new) = (
                sources::find(self.store, &old.digest)?,
                sources::find(self.store, &new.digest)?,
            );
            for (source, _) in sources::compare(&old, &new) {
                let length = common(&source);
                if length > best.as_ref().map_or(0, |(best, _)| *best) {
                    best = Some((length, source));
                }
            }
        }
        best.map(|(_, source)| source.to_string().trim_start_matches('/').to_owned())
    }
}

fn base(step: &StepRecord, old: &[&StepRecord]) -> Reason {
    let manifest = |step: &StepRecord| match step.base.as_ref().map(|base| &base.kind) {
        Some(BaseKind::Image(manifest)) => Some(*manifest),
        _ => None,
    };
    Reason::Base {
        before: old.iter().find_map(|step| manifest(step)),
        after: manifest(step),
    }
}

/// Whether a layer says something of a path: that it is there, or that it is not.
pub(super) fn mentions(layer: &Arc<Layer>, path: &ImagePath) -> bool {
    let index = layer.index();
    let mut at = EntryId::ROOT;
    for name in path.components() {
        let opaque = index.entry(at).is_some_and(|entry| entry.is_opaque());
        match index.lookup(at, name) {
            None => return opaque,
            Some(Slot::Whiteout | Slot::Link(_)) => return true,
            Some(Slot::Entry(entry)) => at = entry,
        }
    }
    index
        .entry(at)
        .is_some_and(|entry| entry.kind() != Kind::Directory || !entry.is_implicit())
}
