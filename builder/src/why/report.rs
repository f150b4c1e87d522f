//! What a step read, wrote, and looked for in vain; and what would make it depend on less.

use std::collections::{BTreeMap, HashSet};

use mica_fs::layer::index::{EntryId, Slot};
use mica_fs::layer::{Kind, Layer};
use mica_fs::overlay::{Observation, Presence, ReadSet};
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, StoreError};
use serde::Serialize;

use super::reads::{mentions, read_set};
use crate::ledger::{BuildId, BuildRecord, StepOutcome, StepRecord, sources};

/// Why there is no report of a step.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It was not recorded what the step read.
    #[error("it is not known what {step} of {id} has read")]
    Unknown {
        /// The build.
        id: BuildId,
        /// The step.
        step: String,
    },
    /// The store failed, or a layer is no longer there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReportError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => Some(
                "RUN, COPY, ADD and WORKDIR are recorded when they are executed, unless --cache=content or a failure \
                 kept them from it"
                    .to_owned(),
            ),
            Self::Store(_) => None,
        }
    }
}

/// What a step did with the filesystem below it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The build.
    pub build: String,
    /// The step as the build shows it.
    pub title: String,
    /// What it looked at that was there.
    pub looked_at: usize,
    /// The files whose content it read.
    pub read: Amount,
    /// All files in the layers below it; one that several layers have counts for each.
    pub below: Amount,
    /// What it read, by who gave it, the base first.
    pub needs: Vec<Need>,
    /// The files that it read, sorted.
    pub files: Vec<String>,
    /// The directories that it listed, sorted.
    pub listed: Vec<String>,
    /// What it looked for and did not find, sorted.
    pub absent: Vec<String>,
    /// The files that it wrote, and their bytes.
    pub wrote: Amount,
    /// The names that it removed.
    pub removed: usize,
    /// Directories by whose listing it came to depend on much.
    pub broad: Vec<Broad>,
    /// What would help.
    pub suggestions: Vec<Suggestion>,
}

/// A number of files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub files: usize,
    /// Their size in bytes.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What a step read of what another one, or the base, gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Need {
    /// The step as the build shows it; `None` for the base.
    pub step: Option<String>,
    /// How much.
    pub read: Amount,
}

/// A directory that was listed, and below which much was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broad {
    /// The directory.
    pub directory: String,
    /// How many paths below it.
    pub paths: usize,
}

/// What would make a step, or a build, depend on less.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(
    tag = "suggestion",
    rename_all = "kebab-case",
    rename_all_fields = "camelCase"
)]
pub enum Suggestion {
    /// The step leaves what a package manager keeps for later in the image.
    CacheMount {
        /// The directory.
        directory: String,
        /// The bytes of what it left there.
        bytes: u64,
    },
    /// The step read nothing of what an earlier one copied: it could stand before that.
    Order {
        /// The earlier one, as the build shows it.
        before: String,
    },
    /// No step read these files of the build context.
    Ignore {
        /// A line for `.dockerignore`.
        pattern: String,
        /// How many files it is.
        files: usize,
        /// Whether the files are in the image, which may need them when it runs.
        in_image: bool,
    },
}

/// A directory with more paths below it that were looked at is broad.
const BROAD: usize = 500;
/// How many broad directories are told.
const MOST_BROAD: usize = 5;
/// Where package managers keep what they fetched, and the name of what does.
const CACHES: [&str; 16] = [
    "/var/cache/apt",
    "/var/lib/apt/lists",
    "/var/cache/apk",
    "/var/cache/dnf",
    "/var/cache/yum",
    "/root/.cache/pip",
    "/root/.cache/go-build",
    "/go/pkg/mod",
    "/root/.npm",
    "/usr/local/share/.cache/yarn",
    "/root/.cargo/registry",
    "/usr/local/cargo/registry",
    "/root/.composer/cache",
    "/root/.m2",
    "/root/.gradle",
    "/root/.cache",
];

/// Reports on a step of a build.
///
/// # Errors
/// [`ReportError::Unknown`] if it was not recorded; what reading the store meets.
pub fn report(
    store: &Store,
    (id, record): (BuildId, &BuildRecord),
    step: &StepRecord,
) -> Result<Report, ReportError> {
    let Some(set) = read_set(store, step)? else {
        return Err(ReportError::Unknown {
            id,
            step: record.title(step),
        });
    };
    let mut report = Report {
        build: id.to_string(),
        title: record.title(step),
        looked_at: 0,
        read: Amount::default(),
        below: Amount::default(),
        needs: needs(store, record, step, &set)?,
        files: Vec::new(),
        listed: Vec::new(),
        absent: Vec::new(),
        wrote: Amount::default(),
        removed: 0,
        broad: broad(&set),
        suggestions: Vec::new(),
    };
    for layer in store.layers(&record.layers_before(step))? {
        files_of(&layer, &mut |_, bytes| report.below.add(bytes));
    }
    for (path, seen) in &set {
        let Observation::Present(seen) = seen else {
            report.absent.push(path.to_string());
            continue;
        };
        report.looked_at += 1;
        if is_read(seen) {
            report.read.add(seen.size);
            report.files.push(path.to_string());
        }
        if seen.listing.is_some() {
            report.listed.push(path.to_string());
        }
    }
    if let Some(layer) = step.layer {
        let layer = store.layer(&layer)?;
        files_of(&layer, &mut |_, bytes| report.wrote.add(bytes));
        report.removed = removed(&layer);
        report.suggestions = cache_mounts(&layer);
    }
    report.suggestions.extend(order(store, record, step, &set)?);
    report.suggestions.extend(ignored(store, record)?);
    Ok(report)
}

fn is_read(seen: &Presence) -> bool {
    seen.kind == Kind::File && seen.content.is_some()
}

/// Visits the files of a layer with their sizes; one with several names once.
fn files_of(layer: &Layer, each: &mut dyn FnMut(&ImagePath, u64)) {
    let mut seen = HashSet::new();
    visit(layer, &mut |path, slot| {
        if let Slot::Entry(id) = slot
            && seen.insert(*id)
            && let Some(entry) = layer.index().entry(*id)
            && entry.kind() == Kind::File
        {
            each(path, entry.size());
        }
    });
}

fn removed(layer: &Layer) -> usize {
    let mut count = 0;
    visit(layer, &mut |_, slot| {
        count += usize::from(*slot == Slot::Whiteout)
    });
    count
}

fn visit(layer: &Layer, each: &mut dyn FnMut(&ImagePath, &Slot)) {
    let mut todo = vec![(ImagePath::root(), EntryId::ROOT)];
    while let Some((path, directory)) = todo.pop() {
        for (name, slot) in layer.index().children(directory) {
            let path = path.join(name);
            each(&path, &slot);
            if let Slot::Entry(id) = slot
                && layer
                    .index()
                    .entry(id)
                    .is_some_and(|entry| entry.kind() == Kind::Directory)
            {
                todo.push((path, id));
            }
        }
    }
}

/// What was read, by who gave it.
fn needs(
    store: &Store,
    record: &BuildRecord,
    step: &StepRecord,
    set: &ReadSet,
) -> Result<Vec<Need>, StoreError> {
    let lineage = record.lineage(step);
    let mut givers = Vec::new();
    for giver in lineage.iter().rev().skip(1) {
        if let Some(layer) = giver.layer {
            givers.push((*giver, store.layer(&layer)?));
        }
    }
    let mut amounts: BTreeMap<usize, Amount> = BTreeMap::new();
    for (path, seen) in set {
        let Observation::Present(seen) = seen else {
            continue;
        };
        if is_read(seen) {
            let giver = givers.iter().position(|(_, layer)| mentions(layer, path));
            amounts
                .entry(giver.unwrap_or(givers.len()))
                .or_default()
                .add(seen.size);
        }
    }
    let need = |(giver, read): (usize, Amount)| Need {
        step: givers.get(giver).map(|(step, _)| record.title(step)),
        read,
    };
    Ok(amounts.into_iter().rev().map(need).collect())
}

/// The directories that were listed with the most below them, but for those that hold only another one of them.
fn broad(set: &ReadSet) -> Vec<Broad> {
    let mut below: BTreeMap<ImagePath, usize> = BTreeMap::new();
    for path in set
        .iter()
        .filter(|(_, seen)| matches!(seen, Observation::Present(_)))
        .map(|(path, _)| path)
    {
        let mut above = path.parent();
        while let Some(directory) = above {
            above = directory.parent();
            *below.entry(directory).or_default() += 1;
        }
    }
    let listed = |path: &ImagePath| matches!(set.get(path), Some(Observation::Present(seen)) if seen.listing.is_some());
    let mut found: Vec<_> = below
        .into_iter()
        .filter(|(path, count)| *count >= BROAD && listed(path))
        .collect();
    found.sort_by_key(|(path, count)| (std::cmp::Reverse(*count), path.clone()));
    let mut broad: Vec<(ImagePath, usize)> = Vec::new();
    for (path, count) in found {
        // A part of one that is told says something only if it is most of it: then it takes its place.
        match broad.iter_mut().find(|(told, _)| path.starts_with(told)) {
            Some(told) if count * 10 >= told.1 * 9 => *told = (path, count),
            Some(_) => {}
            None => broad.push((path, count)),
        }
    }
    let told = broad.into_iter().take(MOST_BROAD);
    told.map(|(path, paths)| Broad {
        directory: path.to_string(),
        paths,
    })
    .collect()
}

fn cache_mounts(layer: &Layer) -> Vec<Suggestion> {
    let mut left: BTreeMap<&str, u64> = BTreeMap::new();
    files_of(layer, &mut |path, bytes| {
        let text = format!("{path}/");
        let is_in = |cache: &&&str| {
            text.strip_prefix(**cache)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        if let Some(cache) = CACHES.iter().find(is_in) {
            *left.entry(cache).or_default() += bytes;
        }
    });
    let suggest = |(directory, bytes): (&str, u64)| Suggestion::CacheMount {
        directory: directory.to_owned(),
        bytes,
    };
    left.into_iter()
        .filter(|(_, bytes)| *bytes > 0)
        .map(suggest)
        .collect()
}

/// The COPY and ADD directly before a RUN that gave nothing of what it looked at.
fn order(
    store: &Store,
    record: &BuildRecord,
    step: &StepRecord,
    set: &ReadSet,
) -> Result<Option<Suggestion>, StoreError> {
    let before: Vec<_> = record
        .stage(&step.stage)
        .filter(|other| other.index < step.index)
        .collect();
    let copy = before.iter().rev().find(|other| other.layer.is_some());
    let is_copy = |other: &&&StepRecord| matches!(other.instruction().as_str(), "COPY" | "ADD");
    let Some(copy) = copy.filter(is_copy).filter(|_| step.instruction() == "RUN") else {
        return Ok(None);
    };
    let Some(layer) = copy.layer else { return Ok(None) };
    let mut looked_at = false;
    files_of(&*store.layer(&layer)?, &mut |path, _| {
        looked_at |= matches!(set.get(path), Some(Observation::Present(_)));
    });
    Ok((!looked_at).then(|| Suggestion::Order {
        before: record.title(copy),
    }))
}

/// What was copied from the build context and no step read: the topmost names of which all is so. Nothing if a step's
/// reads are not known.
fn ignored(store: &Store, record: &BuildRecord) -> Result<Vec<Suggestion>, StoreError> {
    let mut ends = HashSet::new();
    for step in record.steps.iter().filter(|step| step.instruction() == "RUN") {
        if matches!(
            step.outcome,
            StepOutcome::Pending | StepOutcome::Canceled | StepOutcome::Failed | StepOutcome::AtWork
        ) {
            return Ok(Vec::new());
        }
        let Some(set) = read_set(store, step)? else {
            return Ok(Vec::new());
        };
        for (path, seen) in &set {
            if matches!(seen, Observation::Present(seen) if is_read(seen)) {
                let components: Vec<_> = path.components().collect();
                ends.extend((0..components.len()).map(|from| components[from..].join(&b'/')));
            }
        }
    }
    let image: Vec<usize> = record
        .last()
        .map(|last| record.lineage(last).iter().map(|step| step.index).collect())
        .unwrap_or_default();
    let mut found = Vec::new();
    for step in &record.steps {
        for source in step
            .sources
            .iter()
            .filter(|source| source.place == "the build context")
        {
            let Some(list) = sources::find(store, &source.digest) else {
                continue;
            };
            let mut names: BTreeMap<Vec<u8>, (usize, bool)> = BTreeMap::new();
            for (path, listed) in &list {
                let is_file = listed.mode & libc::S_IFMT == libc::S_IFREG;
                if let Some(first) = path.components().next().filter(|_| is_file) {
                    let (files, read) = names.entry(first.to_vec()).or_default();
                    *files += 1;
                    *read |= ends.contains(path.as_bytes());
                }
            }
            let unread = names.into_iter().filter(|(_, (_, read))| !read);
            found.extend(unread.map(|(name, (files, _))| Suggestion::Ignore {
                pattern: String::from_utf8_lossy(&name).into_owned(),
                files,
                in_image: image.contains(&step.index),
            }));
        }
    }
    Ok(found)
}
