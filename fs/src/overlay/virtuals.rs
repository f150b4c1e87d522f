//! Nodes that exist for one session only, as `/etc/resolv.conf` in a build step. It is the *name* that is
//! virtual: whatever the session does to it, nothing of it reaches the diff; a node that is moved away to
//! another name is like any other.

use std::collections::BTreeMap;

use super::create::Making;
use super::data::{Content as Bytes, FileData};
use super::inode::{Body, Content, Node, Override};
use super::tree::Tree;
use super::*;

/// A node that exists for one session only.
#[derive(Clone, Debug)]
pub struct Virtual {
    /// Where. Missing directories above it are virtual, too; symbolic links in them are followed.
    pub path: ImagePath,
    /// What.
    pub node: VirtualNode,
}

/// What a virtual node is. It belongs to root, with mode 0755 or 0644.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VirtualNode {
    /// A directory to mount something on. If there is a directory already, that one serves.
    Directory,
    /// A file of this content, which hides what has the name.
    File(Vec<u8>),
}

/// The virtual names of one directory.
pub(super) type Virtuals = BTreeMap<Box<[u8]>, Hidden>;

/// What a virtual name stands for, and what it hides.
pub(super) struct Hidden {
    /// A virtual directory: what is created in it is real.
    pub is_directory: bool,
    /// What the name stood for in a saved upper.
    pub hidden: Option<Override>,
}

impl Tree {
    /// Places the nodes; no time of a directory changes.
    pub fn install_virtuals(&mut self, virtuals: Vec<Virtual>) -> Result<()> {
        for Virtual { path, node } in virtuals {
            let making = Making {
                mode: 0o755,
                owner: Owner::default(),
                mtime: None,
                for_session: true,
            };
            match node {
                VirtualNode::Directory => {
                    self.walk(&path, Follow::Yes, Some(making))?;
                }
                VirtualNode::File(bytes) => {
                    let (parent, name) = path.split().ok_or(Error::Busy)?;
                    let parent = self.walk(&parent, Follow::Yes, Some(making))?;
                    self.install_file(parent, name, bytes)?;
                }
            }
        }
        Ok(())
    }

    fn install_file(&mut self, parent: u64, name: &[u8], bytes: Vec<u8>) -> Result<()> {
        check_name(name)?;
        self.live_dir(parent)?;
        self.note_virtual(parent, name, false)?;
        if let Some(before) = self.child(parent, name)? {
            // It only steps aside: what it is must not change for the session.
            self.pin(before)?;
            self.detach(parent, name, before)?;
        }
        let files = self.files()?;
        let data = FileData::new(self.next, files, Bytes::Memory(Vec::new()), 0);
        data.write(0, &bytes)?;
        let body = Body::File(Content::Own(Arc::new(data)));
        self.add_at(parent, name, Node::new(body, 0o644, 0, 0))?;
        Ok(())
    }

    /// Notes that a name is virtual from now on.
    pub fn note_virtual(&mut self, parent: u64, name: &[u8], is_directory: bool) -> Result<()> {
        self.pin(parent)?;
        let dir = self.dir_mut(parent)?;
        let hidden = dir.overrides.get(name).copied();
        let virtuals = dir.virtuals.get_or_insert_default();
        virtuals
            .entry(name.into())
            .or_insert(Hidden { is_directory, hidden });
        Ok(())
    }
}
