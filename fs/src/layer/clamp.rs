//! A layer again, with no time later than a given one: for images that are the same whenever they are built.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use super::index::{Entry, EntryId, Slot};
use super::writer::{LayerWriter, NewNode, WriteError};
use super::{Kind, Layer, Metadata, Timestamp};
use crate::path::ImagePath;

/// Writes what `layer`, which was made by a [`LayerWriter`], holds; what changed later than `latest` is of that time.
/// Equal layers give equal ones.
///
/// # Errors
/// [`WriteError`]; also for a layer made elsewhere that has hard links to layers below it.
pub fn clamp_times(
    layer: &Arc<Layer>,
    latest: Timestamp,
    writer: &mut LayerWriter,
) -> Result<(), WriteError> {
    let index = layer.index();
    let mut first_names: HashMap<EntryId, ImagePath> = HashMap::new();
    // Directories before what is in them, by name: the order of a snapshot.
    let mut todo = vec![(ImagePath::root(), Slot::Entry(EntryId::ROOT))];
    while let Some((path, slot)) = todo.pop() {
        let id = match slot {
            Slot::Entry(id) => id,
            Slot::Whiteout => {
                writer.whiteout(&path)?;
                continue;
            }
            Slot::Link(target) => return Err(WriteError::LinkTarget { path, target }),
        };
        let Some(entry) = index.entry(id) else { continue };
        if entry.kind() == Kind::Directory {
            directory(&path, &entry, latest, writer)?;
            // A damaged index must not send this in circles: an entry has a greater number than its directory.
            let deeper = |slot: &Slot| !matches!(slot, Slot::Entry(child) if *child <= id);
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
        node(&path, layer, id, &entry, latest, writer)?;
        if entry.nlink() > 1 {
            first_names.insert(id, path);
        }
    }
    Ok(())
}

fn directory(
    path: &ImagePath,
    entry: &Entry<'_>,
    latest: Timestamp,
    writer: &mut LayerWriter,
) -> Result<(), WriteError> {
    if !entry.is_implicit() {
        writer.add(path, &metadata(entry, latest), NewNode::Directory)?;
    }
    match entry.is_opaque() {
        true => writer.opaque(path),
        false => Ok(()),
    }
}

fn node(
    path: &ImagePath,
    layer: &Layer,
    id: EntryId,
    entry: &Entry<'_>,
    latest: Timestamp,
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
    writer.add(path, &metadata(entry, latest), node)
}

fn metadata(entry: &Entry<'_>, latest: Timestamp) -> Metadata {
    Metadata {
        mode: entry.mode(),
        uid: entry.uid(),
        gid: entry.gid(),
        mtime: entry.mtime().min(latest),
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
        writer.add(&path("d"), &of(new), NewNode::Directory).unwrap();
        writer.opaque(&path("d")).unwrap();
        let mut bytes = &b"content"[..];
        let file = NewNode::File {
            size: 7,
            content: &mut bytes,
        };
        writer.add(&path("d/f"), &of(new), file).unwrap();
        writer.hard_link(&path("d/g"), &path("d/f")).unwrap();
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
