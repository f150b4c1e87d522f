//! Placing complete nodes, as COPY and ADD do: no data moves where it can stay.

use std::path::PathBuf;

use super::attr::complete;
use super::data::{Content as Bytes, FileData};
use super::inode::{Body, Content, Node};
use super::*;
use crate::digest::Digest;
use crate::layer::Metadata;
use crate::layer::index::EntryId;
use crate::stamp::Known;

/// Where a placed node's content comes from.
pub enum Source<'a> {
    /// A file of a layer, of this stack or another.
    Layer(Arc<Layer>, EntryId),
    /// A regular file of the host. It must not change until the snapshot is made, which reads it.
    Host(HostFile),
    /// These bytes.
    Bytes(Vec<u8>),
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(&'a [u8]),
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// A regular file of the host.
#[derive(Clone, Debug)]
pub struct HostFile {
    /// Where it is; a symbolic link is not followed.
    pub path: PathBuf,
    /// How many bytes of it count.
    pub size: u64,
    /// What is known of its content already. A snapshot fails if it is something else.
    pub expected: Expected,
}

/// What a file of the host holds, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It was not read yet.
    Anything,
    /// This, for as long as the file has the stamp.
    Stamped(Known),
    /// This, but the stamp would not tell a change.
    Content(Digest),
}

impl Overlay {
    /// Creates a node with all its metadata. The directory's times stay as they are, so that the result does
    /// not depend on when. It counts no reference, but the number stays valid for as long as a name leads to it.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Exists`], [`Error::NotFound`] if the directory has been removed,
    /// [`Error::NotADirectory`], [`Error::NameTooLong`], [`Error::Io`].
    pub fn place(&self, parent: Ino, name: &[u8], metadata: &Metadata, source: Source<'_>) -> Result<Attr> {
        check_name(name)?;
        let number = {
            let mut tree = self.tree_mut()?;
            tree.live_dir(parent.0)?;
            if tree.child(parent.0, name)?.is_some() {
                return Err(Error::Exists);
            }
            let number = tree.next;
            tree.next += 1;
            number
        };
        let body = self.body_of(number, source)?;
        let mut node = Node::new(body, metadata.mode & 0o7777, metadata.uid, metadata.gid);
        (node.mtime, node.atime) = (metadata.mtime, metadata.mtime);
        node.dated = true;
        node.held = true;
        node.links = 1;
        node.xattrs = Some(Box::new(metadata.xattrs.clone()));
        let mut tree = self.tree_mut()?;
        tree.live_dir(parent.0)?;
        if tree.child(parent.0, name)?.is_some() {
            return Err(Error::Exists);
        }
        tree.nodes.insert(number, Box::new(node));
        tree.note_data(number);
        tree.attach(parent.0, name, number)?;
        let attr = tree.attr(number)?;
        drop(tree);
        Ok(complete(attr))
    }

    fn body_of(&self, ino: u64, source: Source<'_>) -> Result<Body> {
        let files = Arc::clone(self.upper.as_ref().ok_or(Error::ReadOnly)?.files());
        let data = |content, size| FileData::new(ino, Arc::clone(&files), content, size);
        let data = match source {
            Source::Directory => return Ok(Body::Directory(Box::default())),
            Source::Symlink(target) => return Ok(Body::Symlink(target.into())),
            Source::CharDevice(device) => return Ok(Body::CharDevice(device)),
            Source::BlockDevice(device) => return Ok(Body::BlockDevice(device)),
            Source::Fifo => return Ok(Body::Fifo),
            Source::Layer(layer, id) => {
                let entry = layer.index().entry(id);
                let entry = entry.filter(|entry| entry.kind() == Kind::File);
                let size = entry.ok_or(Error::Invalid)?.size();
                data(Bytes::Layer(layer, id), size)
            }
            Source::Bytes(bytes) => {
                let data = data(Bytes::Memory(Vec::new()), 0);
                data.write(0, &bytes)?;
                data
            }
            Source::Host(file) => {
                let size = file.size;
                data(Bytes::Host(Arc::new(file)), size)
            }
        };
        if self.keeps_changes() {
            // A saved state can only name the layer that the file itself comes from.
            data.placement()?;
        }
        Ok(Body::File(Content::Own(Arc::new(data))))
    }
}
