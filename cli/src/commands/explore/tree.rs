//! The tree of files as it is shown: only open directories are read, and what is not shown is not there.

use std::collections::{BTreeMap, HashMap, HashSet};

use mica_builder::look::changes::{Precision, compare};
use mica_builder::look::{Node, Stack, View};
use mica_fs::path::ImagePath;

/// What became of a path between the two trees that are compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mark {
    /// It is as it was.
    Same,
    /// It is new.
    Added,
    /// It is another one.
    Changed,
    /// It is gone.
    Removed,
}

impl Mark {
    pub const ALL: [Self; 4] = [Self::Added, Self::Changed, Self::Removed, Self::Same];

    /// The sign before a name.
    pub fn sign(self) -> char {
        match self {
            Self::Same => ' ',
            Self::Added => '+',
            Self::Changed => '~',
            Self::Removed => '-',
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// The heights of a stack between which is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heights {
    pub old: usize,
    pub new: usize,
}

/// What differs between two heights.
#[derive(Default)]
pub struct Delta {
    marks: HashMap<ImagePath, Mark>,
    /// The directories with differences below them.
    touched: HashSet<ImagePath>,
}

impl Delta {
    pub fn between(stack: &Stack, heights: Heights) -> Self {
        let root = ImagePath::root();
        let changes = compare(
            stack.view(heights.old),
            stack.view(heights.new),
            &root,
            Precision::Meaning,
        );
        let mut delta = Self::default();
        for change in changes {
            let mark = match (&change.before, &change.after) {
                (None, _) => Mark::Added,
                (Some(_), Some(_)) => Mark::Changed,
                (Some(_), None) => Mark::Removed,
            };
            let mut above = change.path.parent();
            while let Some(directory) = above.filter(|directory| !delta.touched.contains(directory)) {
                above = directory.parent();
                delta.touched.insert(directory);
            }
            // What goes and comes again as another type is changed.
            let both = |there: &mut Mark| *there = if *there == mark { mark } else { Mark::Changed };
            delta.marks.entry(change.path).and_modify(both).or_insert(mark);
        }
        delta
    }

    pub fn mark(&self, path: &ImagePath) -> Mark {
        self.marks.get(path).copied().unwrap_or(Mark::Same)
    }

    pub fn is_touched(&self, path: &ImagePath) -> bool {
        self.touched.contains(path)
    }

    /// How many paths have this mark.
    pub fn count(&self, mark: Mark) -> usize {
        self.marks.values().filter(|other| **other == mark).count()
    }

    /// The paths that are gone.
    pub fn removed(&self) -> impl Iterator<Item = &ImagePath> {
        self.marks
            .iter()
            .filter(|(_, mark)| **mark == Mark::Removed)
            .map(|(path, _)| path)
    }
}

/// Which marks are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Filter([bool; 4]);

impl Filter {
    pub const EVERYTHING: Self = Self([true; 4]);

    pub fn shows(self, mark: Mark) -> bool {
        self.0[mark as usize]
    }

    pub fn toggle(&mut self, mark: Mark) {
        self.0[mark as usize] ^= true;
    }
}

/// A line of the tree.
#[derive(Clone, Debug)]
pub struct Row {
    pub path: ImagePath,
    /// How many directories it is in, the root not among them.
    pub depth: usize,
    /// What is there, or was.
    pub node: Node,
    pub mark: Mark,
    /// Of a directory that is in both trees: whether something below it differs.
    pub touched: bool,
    /// Of a directory: whether what is in it is shown.
    pub open: bool,
}

/// The lines below the root, as far as directories are open.
pub fn rows(
    stack: &Stack,
    heights: Heights,
    delta: &Delta,
    open: &HashSet<ImagePath>,
    filter: Filter,
) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut todo = children(stack, heights, delta, &ImagePath::root());
    todo.reverse();
    while let Some(mut row) = todo.pop() {
        if !filter.shows(row.mark) && !row.touched {
            continue;
        }
        row.open = row.node.is_directory() && open.contains(&row.path);
        if row.open {
            todo.extend(children(stack, heights, delta, &row.path).into_iter().rev());
        }
        rows.push(row);
    }
    rows
}

/// What is, or was, in a directory, sorted by name.
fn children(stack: &Stack, heights: Heights, delta: &Delta, directory: &ImagePath) -> Vec<Row> {
    let of = |view: View<'_>| -> BTreeMap<Vec<u8>, Node> {
        view.children(directory)
            .into_iter()
            .map(|(name, node)| (name.to_vec(), node))
            .collect()
    };
    let mut names = match delta.is_touched(directory) {
        true => {
            let mut gone = of(stack.view(heights.old));
            gone.retain(|name, _| delta.mark(&directory.join(name)) == Mark::Removed);
            gone
        }
        false => BTreeMap::new(),
    };
    if delta.mark(directory) != Mark::Removed {
        names.extend(of(stack.view(heights.new)));
    }
    let depth = directory.components().count();
    let row = |(name, node): (Vec<u8>, Node)| {
        let path = directory.join(&name);
        let mark = delta.mark(&path);
        Row {
            mark,
            touched: matches!(mark, Mark::Same | Mark::Changed) && delta.is_touched(&path),
            open: false,
            depth,
            node,
            path,
        }
    };
    names.into_iter().map(row).collect()
}

/// The bytes of the files in each directory of a tree, with all that is below it. A file with several names counts where
/// it is met first, as with du(1).
pub fn directory_sizes(stack: &Stack, height: usize) -> HashMap<ImagePath, u64> {
    let mut sizes: HashMap<ImagePath, u64> = HashMap::new();
    let mut order = Vec::new();
    let mut counted = HashSet::new();
    let mut todo = vec![ImagePath::root()];
    while let Some(directory) = todo.pop() {
        let mut own = 0;
        for (name, node) in stack.view(height).children(&directory) {
            if node.size > 0 && counted.insert(node.origin) {
                own += node.size;
            }
            if node.is_directory() {
                todo.push(directory.join(name));
            }
        }
        sizes.insert(directory.clone(), own);
        order.push(directory);
    }
    // A directory was found before those in it.
    for directory in order.into_iter().rev() {
        let own = sizes.get(&directory).copied().unwrap_or_default();
        if let Some(sum) = directory.parent().and_then(|above| sizes.get_mut(&above)) {
            *sum += own;
        }
    }
    sizes
}

/// The paths of a tree whose name holds `text`, whatever its case, in the order of the tree.
pub fn find(stack: &Stack, height: usize, delta: &Delta, text: &str) -> Vec<ImagePath> {
    let text = text.to_lowercase();
    // With a slash it is a part of the path.
    let fits = |path: &ImagePath| {
        let name = match text.contains('/') {
            true => path.to_string().into_bytes(),
            false => path.name().unwrap_or_default().to_vec(),
        };
        String::from_utf8_lossy(&name).to_lowercase().contains(&text)
    };
    let mut found: Vec<_> = delta.removed().filter(|path| fits(path)).cloned().collect();
    let mut todo = vec![ImagePath::root()];
    while let Some(directory) = todo.pop() {
        for (name, node) in stack.view(height).children(&directory) {
            let path = directory.join(name);
            if fits(&path) {
                found.push(path.clone());
            }
            if node.is_directory() {
                todo.push(path);
            }
        }
    }
    found.sort_by(|a, b| a.components().cmp(b.components()));
    found.dedup();
    found
}
