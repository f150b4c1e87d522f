//! Whether two stacks are the same root filesystem in everything.

use std::collections::HashMap;

use mica_fs::layer::Kind;
use mica_fs::overlay::{Found, Lowers, Origin};
use mica_fs::path::ImagePath;

/// The first path at which the trees differ in any way: names, types, contents, metadata with times, or which names lead
/// to the same file.
pub fn first_difference(old: &Lowers, new: &Lowers) -> Option<ImagePath> {
    let mut pairs = Pairs::default();
    let root = ImagePath::root();
    let mut todo = vec![(root.clone(), old.resolve(&root)?, new.resolve(&root)?)];
    while let Some((path, a, b)) = todo.pop() {
        if !is_same_node(old, &a, new, &b) || !pairs.agree(&a, &b) {
            return Some(path);
        }
        if a.kind != Kind::Directory {
            continue;
        }
        let (names, others) = (old.names(&a.contributors), new.names(&b.contributors));
        let (mut names, mut others) = (names.into_iter(), others.into_iter());
        loop {
            let (name, other) = (names.next(), others.next());
            if name != other {
                return name.or(other).map(|name| path.join(name));
            }
            let Some(name) = name else { break };
            let below = path.join(name);
            match (old.find(&a.contributors, name), new.find(&b.contributors, name)) {
                (Some(a), Some(b)) => todo.push((below, a, b)),
                (None, None) => {}
                _ => return Some(below),
            }
        }
    }
    None
}

fn is_same_node(old: &Lowers, a: &Found, new: &Lowers, b: &Found) -> bool {
    let (Some(x), Some(y)) = (old.entry(a.origin), new.entry(b.origin)) else {
        return false;
    };
    let same_body = match a.kind {
        Kind::File => x.size() == y.size() && x.digest() == y.digest() && x.digest().is_some(),
        Kind::Symlink => x.target() == y.target(),
        Kind::CharDevice | Kind::BlockDevice => x.device() == y.device(),
        Kind::Directory | Kind::Fifo | Kind::Socket => true,
    };
    a.kind == b.kind && same_body && old.metadata(a) == new.metadata(b)
}

/// Files of the one tree and their counterparts in the other.
#[derive(Default)]
struct Pairs {
    of_old: HashMap<Origin, Origin>,
    of_new: HashMap<Origin, Origin>,
}

impl Pairs {
    fn agree(&mut self, a: &Found, b: &Found) -> bool {
        a.kind == Kind::Directory
            || *self.of_old.entry(a.origin).or_insert(b.origin) == b.origin
                && *self.of_new.entry(b.origin).or_insert(a.origin) == a.origin
    }
}
