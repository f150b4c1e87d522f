//! A layer again, with some of it changed: for images that are the same whenever they are built, and for those that are
//! to store nothing twice.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::index::{Entry, EntryId, Slot};
use super::writer::{LayerWriter, NewNode, WriteError};
use super::{Kind, Layer, Metadata, Timestamp};
use crate::path::ImagePath;

/// What becomes of a name of a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Fate {
    /// It stays.
    #[default]
    Keep,
    /// It goes, and what is below it with it.
    Drop,
    /// So it does, and a whiteout takes its place.
    Hide,
}

/// What is to change in a layer.
pub trait Edit {
    /// What becomes of a name.
    fn fate(&self, path: &ImagePath) -> Fate;

    /// The mode, owner, time and attributes that a node is to have; `None` leaves a directory of which the layer says
    /// nothing as it is. It is asked once for a node, whatever names it has.
    fn metadata(&self, id: EntryId, entry: &Entry<'_>) -> Option<Metadata>;
}

/// Writes what `layer`, which was made by a [`LayerWriter`], holds, but for what is to change. Equal layers give equal
/// ones.
///
/// # Errors
/// [`WriteError`]; also for a layer made elsewhere that has hard links to layers below it.
pub fn rewrite(layer: &Arc<Layer>, edit: &dyn Edit, writer: &mut LayerWriter) -> Result<(), WriteError> {
    let index = layer.index();
    let mut first_names: HashMap<EntryId, ImagePath> = HashMap::new();
    // Directories before what is in them, by name: the order of a snapshot.
    let mut todo = vec![(ImagePath::root(), Slot::Entry(EntryId::ROOT))];
    while let Some((path, slot)) = todo.pop() {
        let id = match (edit.fate(&path), slot) {
            (Fate::Drop, _) => continue,
            (Fate::Hide, _) | (Fate::Keep, Slot::Whiteout) => {
                writer.whiteout(&path)?;
                continue;
            }
            (Fate::Keep, Slot::Entry(id)) => id,
            (Fate::Keep, Slot::Link(target)) => return Err(WriteError::LinkTarget { path, target }),
        };
        let Some(entry) = index.entry(id) else { continue };
        if entry.kind() == Kind::Directory {
            if let Some(metadata) = edit.metadata(id, &entry) {
                writer.add(&path, &metadata, NewNode::Directory)?;
            }
            if entry.is_opaque() {
                writer.opaque(&path)?;
            }
            // A damaged index must not send this in circles: a directory has a greater number than the one it is in. A
            // file has the number of its first name, which may be anywhere.
            let is_directory = |child| {
                index
                    .entry(child)
                    .is_some_and(|entry| entry.kind() == Kind::Directory)
            };
            let deeper =
                |slot: &Slot| !matches!(slot, Slot::Entry(child) if *child <= id && is_directory(*child));
            let mut children: Vec<_> = index
                .children(id)
                .filter(|(_, slot)| deeper(slot))
                .map(|(name, slot)| (path.join(name), slot))
                .collect();
            children.reverse();
            todo.append(&mut children);
            continue;
        }
        if let Some(first) = first_names.get(&id) {
            writer.hard_link(&path, first)?;
            continue;
        }
        let metadata = edit.metadata(id, &entry).unwrap_or_else(|| metadata(&entry));
        node(&path, layer, id, &entry, &metadata, writer)?;
        if entry.nlink() > 1 {
            first_names.insert(id, path);
        }
    }
    Ok(())
}

/// Writes what `layer`, which was made by a [`LayerWriter`], holds; what changed later than `latest` is of that time.
/// Equal layers give equal ones.
///
/// # Errors
/// As [`rewrite`].
pub fn clamp_times(
    layer: &Arc<Layer>,
    latest: Timestamp,
    writer: &mut LayerWriter,
) -> Result<(), WriteError> {
    rewrite(layer, &Clamp(latest), writer)
}

struct Clamp(Timestamp);

impl Edit for Clamp {
    fn fate(&self, _path: &ImagePath) -> Fate {
        Fate::Keep
    }

    fn metadata(&self, _id: EntryId, entry: &Entry<'_>) -> Option<Metadata> {
        let mut metadata = (!entry.is_implicit()).then(|| metadata(entry))?;
        metadata.mtime = metadata.mtime.min(self.0);
        Some(metadata)
    }
}

fn node(
    path: &ImagePath,
    layer: &Layer,
    id: EntryId,
    entry: &Entry<'_>,
    metadata: &Metadata,
    writer: &mut LayerWriter,
) -> Result<(), WriteError> {
    let mut content = Content { layer, id, offset: 0 };
    let node = match entry.kind() {
        Kind::File => NewNode::File {
            size: entry.size(),
            content: &mut content,
        },
        Kind::Symlink => NewNode::Symlink(entry.target()),
        Kind::CharDevice => NewNode::CharDevice(entry.device()),
        Kind::BlockDevice => NewNode::BlockDevice(entry.device()),
        Kind::Fifo => NewNode::Fifo,
        Kind::Directory => NewNode::Directory,
        // No layer holds one.
        Kind::Socket => return Ok(()),
    };
    writer.add(path, metadata, node)
}

/// What an entry says of its node.
pub fn metadata(entry: &Entry<'_>) -> Metadata {
    Metadata {
        mode: entry.mode(),
        uid: entry.uid(),
        gid: entry.gid(),
        mtime: entry.mtime(),
        xattrs: entry.xattrs(),
    }
}

struct Content<'a> {
    layer: &'a Layer,
    id: EntryId,
    offset: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.layer.read_at(self.id, buffer, self.offset)?;
        self.offset += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Device;
    use crate::layer::writer::Written;

    const OLD: Timestamp = Timestamp {
        seconds: 1_000,
        nanoseconds: 7,
    };
    const LATEST: Timestamp = Timestamp {
        seconds: 2_000,
        nanoseconds: 0,
    };

    fn path(text: &str) -> ImagePath {
        ImagePath::clean(text.as_bytes()).unwrap()
    }

    /// A layer of everything that a layer can hold; what is new has the time `new`.
    fn layer(directory: &std::path::Path, new: Timestamp) -> (Written, Arc<Layer>) {
        let mut writer = LayerWriter::new(directory).unwrap();
        let of = |mtime| Metadata {
            mode: 0o640,
            uid: 1,
            gid: 2,
            mtime,
            xattrs: [(b"user.a".to_vec(), b"b".to_vec())].into(),
        };
        // Its second name lies deeper than the first.
        let mut bytes = &b"linked"[..];
        let file = NewNode::File {
            size: 6,
            content: &mut bytes,
        };
        writer.add(&path("above"), &of(new), file).unwrap();
        writer.add(&path("d"), &of(new), NewNode::Directory).unwrap();
        writer.opaque(&path("d")).unwrap();
        let mut bytes = &b"content"[..];
        let file = NewNode::File {
            size: 7,
            content: &mut bytes,
        };
        writer.add(&path("d/f"), &of(new), file).unwrap();
        writer.hard_link(&path("d/g"), &path("d/f")).unwrap();
        writer
            .hard_link(&path("deep/down/again"), &path("above"))
            .unwrap();
        writer.whiteout(&path("deep/gone")).unwrap();
        writer
            .add(&path("l"), &of(OLD), NewNode::Symlink(b"d/f"))
            .unwrap();
        let device = Device { major: 5, minor: 1 };
        writer
            .add(&path("n"), &of(new), NewNode::CharDevice(device))
            .unwrap();
        writer.add(&path("p"), &of(new), NewNode::Fifo).unwrap();
        let written = writer.finish().unwrap();
        (written, Arc::new(Layer::open(directory).unwrap()))
    }

    #[test]
    fn only_later_times_change() {
        let directories: [_; 4] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        let [early, late, wanted, clamped] = directories.each_ref().map(|directory| directory.path());
        let (_, late) = layer(
            late,
            Timestamp {
                seconds: 9_000,
                nanoseconds: 1,
            },
        );
        let (expected, _) = layer(wanted, LATEST);
        let mut writer = LayerWriter::new(clamped).unwrap();
        clamp_times(&late, LATEST, &mut writer).unwrap();
        assert_eq!(writer.finish().unwrap(), expected);

        let (written, old) = layer(early, OLD);
        let again = tempfile::tempdir().unwrap();
        let mut writer = LayerWriter::new(again.path()).unwrap();
        clamp_times(&old, LATEST, &mut writer).unwrap();
        assert_eq!(writer.finish().unwrap(), written);
    }
}
