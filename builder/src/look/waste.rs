//! What an image stores in vain: files that no name of the finished image leads to.
//!
//! Bytes are those of files' contents. The headers of the tars and what a compressor makes of them do not count.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use mica_fs::layer::Kind;
use mica_fs::overlay::{Lowers, Origin};
use mica_fs::path::ImagePath;

use super::changes::{Precision, compare};
use super::{Stack, entries};

/// Why a stored file is not seen any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// A later layer stores another content there.
    Overwritten,
    /// A later layer removes it, or its directory.
    Deleted,
    /// A later layer stores the same bytes with another mode, owner, time or attribute: chmod(1), chown(1), touch(1).
    Duplicated,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Overwritten, Self::Deleted, Self::Duplicated];

    /// One lowercase word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overwritten => "overwritten",
            Self::Deleted => "deleted",
            Self::Duplicated => "duplicated",
        }
    }
}

/// A stored file that is not seen any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hidden {
    /// The path at which it was seen last.
    pub path: ImagePath,
    /// The layer that stores it; 1 is the lowest one.
    pub layer: usize,
    /// The layer that hid it.
    pub by: usize,
    /// How.
    pub reason: Reason,
    /// The bytes of its content.
    pub bytes: u64,
}

/// What a layer stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerWaste {
    /// The bytes of its files.
    pub stored: u64,
    /// Those of them that later layers hide.
    pub hidden: u64,
    /// The bytes of lower layers that it hides.
    pub hides: u64,
}

/// What an image stores in vain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Waste {
    /// The layers, bottom layer first.
    pub layers: Vec<LayerWaste>,
    /// The files that are not seen, the largest first, then by layer and path.
    pub hidden: Vec<Hidden>,
}

/// All that is stored in vain at one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathWaste {
    /// The path.
    pub path: ImagePath,
    /// The bytes of all its hidden contents.
    pub bytes: u64,
    /// How many there are.
    pub copies: usize,
    /// The layers that hid them, lowest first, and how.
    pub by: Vec<(usize, Reason)>,
}

impl Waste {
    /// The same of the layers above the lowest `base` alone: what those store, and what of it is not seen.
    #[must_use]
    pub fn above(mut self, base: usize) -> Self {
        self.hidden.retain(|file| file.layer > base);
        for (number, layer) in (1..).zip(&mut self.layers) {
            let by_it = self.hidden.iter().filter(|file| file.by == number);
            *layer = match number > base {
                true => LayerWaste {
                    hides: by_it.map(|file| file.bytes).sum(),
                    ..*layer
                },
                false => LayerWaste::default(),
            };
        }
        self
    }

    /// The bytes of all files that the layers store.
    pub fn stored(&self) -> u64 {
        self.layers.iter().map(|layer| layer.stored).sum()
    }

    /// Those of them that are not seen.
    pub fn wasted(&self) -> u64 {
        self.layers.iter().map(|layer| layer.hidden).sum()
    }

    /// The part of the stored bytes that is seen, from 0 to 1; 1 if nothing is stored.
    pub fn efficiency(&self) -> f64 {
        1.0 - ratio(self.wasted(), self.stored())
    }

    /// The bytes that are not seen for this reason.
    pub fn by_reason(&self, reason: Reason) -> u64 {
        self.hidden
            .iter()
            .filter(|file| file.reason == reason)
            .map(|file| file.bytes)
            .sum()
    }

    /// The hidden files by path, those with the most bytes first.
    pub fn by_path(&self) -> Vec<PathWaste> {
        let mut paths: HashMap<&ImagePath, PathWaste> = HashMap::new();
        for file in &self.hidden {
            let path = paths.entry(&file.path).or_insert_with(|| PathWaste {
                path: file.path.clone(),
                bytes: 0,
                copies: 0,
                by: Vec::new(),
            });
            path.bytes += file.bytes;
            path.copies += 1;
            path.by.push((file.by, file.reason));
        }
        let mut paths: Vec<_> = paths.into_values().collect();
        paths.iter_mut().for_each(|path| path.by.sort_unstable());
        paths.sort_by(|a, b| (Reverse(a.bytes), &a.path).cmp(&(Reverse(b.bytes), &b.path)));
        paths
    }
}

/// `part` of `whole`, from 0 to 1.
#[allow(clippy::cast_precision_loss)] // of no consequence for a ratio
pub fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Finds what the layers store in vain.
pub fn waste(stack: &Stack) -> Waste {
    let visible = visible(&stack.lowers);
    let mut last_seen: HashMap<Origin, (ImagePath, usize, Reason)> = HashMap::new();
    for height in 2..=stack.layers().len() {
        let changes = compare(
            stack.view(height - 1),
            stack.view(height),
            &ImagePath::root(),
            Precision::Storage,
        );
        for change in changes {
            let Some(before) = change.before.filter(|node| node.kind == Kind::File) else {
                continue;
            };
            if visible.contains(&before.origin) {
                continue;
            }
            let reason = match change.after {
                None => Reason::Deleted,
                Some(after) if after.kind == Kind::File && after.digest == before.digest => {
                    Reason::Duplicated
                }
                Some(_) => Reason::Overwritten,
            };
            // Of a file with several names the one that goes last counts.
            last_seen.insert(before.origin, (change.path, height, reason));
        }
    }
    let mut waste = Waste {
        layers: stored(stack, &visible),
        hidden: Vec::with_capacity(last_seen.len()),
    };
    for (origin, (path, by, reason)) in last_seen {
        let bytes = stack.lowers.entry(origin).map_or(0, |entry| entry.size());
        let layer = origin.layer as usize + 1;
        waste.layers[by - 1].hides += bytes;
        waste.hidden.push(Hidden {
            path,
            layer,
            by,
            reason,
            bytes,
        });
    }
    let order = |file: &Hidden| (Reverse(file.bytes), file.layer);
    waste
        .hidden
        .sort_by(|a, b| order(a).cmp(&order(b)).then_with(|| a.path.cmp(&b.path)));
    waste
}

/// The files that names of the finished image lead to.
fn visible(lowers: &Lowers) -> HashSet<Origin> {
    let mut visible = HashSet::new();
    let mut todo: Vec<_> = lowers.resolve(&ImagePath::root()).into_iter().collect();
    while let Some(directory) = todo.pop() {
        for (_, found) in entries(lowers, &directory) {
            match found.kind {
                Kind::Directory => todo.push(found),
                Kind::File => {
                    visible.insert(found.origin);
                }
                _ => {}
            }
        }
    }
    visible
}

fn stored(stack: &Stack, visible: &HashSet<Origin>) -> Vec<LayerWaste> {
    let of_layer = |(number, layer): (u32, &std::sync::Arc<mica_fs::layer::Layer>)| {
        let index = layer.index();
        let mut waste = LayerWaste::default();
        for entry in (0..index.len()).map(mica_fs::layer::index::EntryId) {
            let size = index.entry(entry).map_or(0, |entry| entry.size());
            waste.stored += size;
            if !visible.contains(&Origin { layer: number, entry }) {
                waste.hidden += size;
            }
        }
        waste
    };
    (0..).zip(stack.layers()).map(of_layer).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Layers, Says, dir, file, meta, path};
    use super::*;

    #[test]
    fn what_no_name_leads_to_is_wasted() {
        let chmod = |text: &str| Says::File(meta(0o600), text.as_bytes().to_vec());
        let layers = Layers::new()
            .layer(&[
                ("changed", file("12345")),
                ("chmod", file("1234567890")),
                ("d", dir()),
                ("d/gone", file("123")),
                ("d/linked", file("1234567")),
                ("kept", Says::Link("d/linked")),
                ("twice", file("12")),
            ])
            .layer(&[
                ("changed", file("1")),
                ("chmod", chmod("1234567890")),
                ("d", Says::Gone),
                ("twice", file("34")),
            ])
            .layer(&[("twice", Says::Gone), ("new", file("1234"))]);
        let waste = waste(&layers.stack());
        let told: Vec<_> = waste
            .hidden
            .iter()
            .map(|file| {
                (
                    file.path.to_string(),
                    file.layer,
                    file.by,
                    file.reason.name(),
                    file.bytes,
                )
            })
            .collect();
        let expected = [
            ("/chmod", 1, 2, "duplicated", 10),
            ("/changed", 1, 2, "overwritten", 5),
            ("/d/gone", 1, 2, "deleted", 3),
            ("/twice", 1, 2, "overwritten", 2),
            ("/twice", 2, 3, "deleted", 2),
        ];
        assert_eq!(
            told,
            expected.map(|(path, layer, by, reason, bytes)| (path.to_owned(), layer, by, reason, bytes))
        );
        assert_eq!((waste.stored(), waste.wasted()), (27 + 13 + 4, 22));
        let of = |stored, hidden, hides| LayerWaste {
            stored,
            hidden,
            hides,
        };
        assert_eq!(waste.layers, [of(27, 20, 0), of(13, 2, 20), of(4, 0, 2)]);
        assert!((waste.efficiency() - 0.5).abs() < 1e-9);
        let by_path = waste.by_path();
        assert_eq!((by_path[2].path.clone(), by_path[2].bytes), (path("twice"), 4));
        assert_eq!(by_path[2].by, [(2, Reason::Overwritten), (3, Reason::Deleted)]);
        assert_eq!(Reason::ALL.map(|reason| waste.by_reason(reason)), [7, 5, 10]);
        let above = waste.above(1);
        assert_eq!((above.stored(), above.wasted(), above.hidden.len()), (17, 2, 1));
        assert_eq!(above.layers, [of(0, 0, 0), of(13, 2, 0), of(4, 0, 2)]);
    }

    #[test]
    fn nothing_is_wasted_where_everything_is_seen() {
        let layers = Layers::new()
            .layer(&[("a", file("1"))])
            .layer(&[("b", file("2"))]);
        let found = waste(&layers.stack());
        assert_eq!((found.wasted(), found.hidden.len()), (0, 0));
        assert!((found.efficiency() - 1.0).abs() < 1e-9);
        assert_eq!(waste(&Layers::new().stack()).efficiency(), 1.0);
    }
}
