//! Whether the topmost layers of an image alone tell what lies at a path: then those below need not be looked at.

use std::collections::VecDeque;
use std::sync::Arc;

use mica_fs::layer::index::{EntryId, Slot};
use mica_fs::layer::{Kind, Layer};
use mica_fs::overlay::Follow;
use mica_fs::path::ImagePath;

/// As many symbolic links as Linux follows on one path.
const MAX_LINKS: u32 = 40;

/// What the topmost layers say of a name.
enum Told {
    /// Nothing, or not all: it depends on the layers below.
    Open,
    /// There is nothing, whatever lies below.
    Nothing,
    Node(Kind, usize, EntryId),
    Directory(Directory),
}

/// A directory as the topmost layers have it.
#[derive(Clone)]
struct Directory {
    /// Its entry in each layer that has one, top first.
    parts: Vec<(usize, EntryId)>,
    /// Whether a layer below may add to it.
    open: bool,
}

/// Whether an overlay of these layers (bottom layer first), which are the topmost ones of an image, answers for `path`
/// as one of all layers would.
pub(super) fn settles(topmost: &[Arc<Layer>], path: &ImagePath, last: Follow) -> bool {
    let mut todo: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
    let mut above = Vec::new();
    let mut at = root(topmost);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at = above.pop().unwrap_or_else(|| root(topmost));
                continue;
            }
            _ => {}
        }
        let is_last = todo.is_empty();
        match find(topmost, &at, &name) {
            Told::Open => return false,
            Told::Nothing => return true,
            Told::Directory(directory) => {
                above.push(at);
                at = directory;
            }
            Told::Node(Kind::Symlink, layer, entry) if !is_last || last == Follow::Yes => {
                links += 1;
                let Some(entry) = topmost[layer].index().entry(entry) else {
                    return false;
                };
                if links > MAX_LINKS {
                    return true;
                }
                if entry.target().first() == Some(&b'/') {
                    above.clear();
                    at = root(topmost);
                }
                for component in entry.target().rsplit(|&b| b == b'/') {
                    todo.push_front(component.to_vec());
                }
            }
            Told::Node(..) => return true,
        }
    }
    !at.open
}

fn root(topmost: &[Arc<Layer>]) -> Directory {
    let mut parts = Vec::new();
    for (number, layer) in topmost.iter().enumerate().rev() {
        parts.push((number, EntryId::ROOT));
        if layer
            .index()
            .entry(EntryId::ROOT)
            .is_some_and(|root| root.is_opaque())
        {
            return Directory { parts, open: false };
        }
    }
    Directory { parts, open: true }
}

fn find(topmost: &[Arc<Layer>], directory: &Directory, name: &[u8]) -> Told {
    let mut found = Directory {
        parts: Vec::new(),
        open: directory.open,
    };
    for &(number, dir) in &directory.parts {
        let index = topmost[number].index();
        let entry = match index.lookup(dir, name) {
            None => continue,
            Some(Slot::Whiteout) => {
                found.open = false;
                break;
            }
            // The file lies below.
            Some(Slot::Link(_)) if found.parts.is_empty() => return Told::Open,
            Some(Slot::Link(_)) => {
                found.open = false;
                break;
            }
            Some(Slot::Entry(entry)) => entry,
        };
        let Some(node) = index.entry(entry) else {
            return Told::Open;
        };
        if node.kind() != Kind::Directory {
            if found.parts.is_empty() {
                return Told::Node(node.kind(), number, entry);
            }
            found.open = false;
            break;
        }
        found.parts.push((number, entry));
        if node.is_opaque() {
            found.open = false;
            break;
        }
    }
    match (found.parts.is_empty(), found.open) {
        (true, true) => Told::Open,
        (true, false) => Told::Nothing,
        (false, _) => Told::Directory(found),
    }
}
