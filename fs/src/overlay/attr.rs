//! What a node's attributes are, and changing them.

use std::sync::Arc;

use super::data::FileData;
use super::inode::{Body, Content, Node};
use super::tree::Tree;
use super::*;

const SET_USER: u32 = libc::S_ISUID;
const SET_GROUP: u32 = libc::S_ISGID;
const GROUP_EXECUTE: u32 = libc::S_IXGRP;

impl Overlay {
    /// The attributes of a node.
    ///
    /// # Errors
    /// [`Error::Stale`] if there is no such node, as everywhere.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        let tree = self.tree();
        let attr = tree.attr(ino.0)?;
        drop(tree);
        Ok(complete(attr))
    }

    /// The attributes as far as they are known without asking the host, and whether that is all of them: otherwise size
    /// and space of a file are missing.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn attr_at_hand(&self, ino: Ino) -> Result<(Attr, bool)> {
        let (attr, data) = self.tree().attr(ino.0)?;
        Ok((attr, data.is_none()))
    }

    /// Changes attributes, and returns the new ones. The size changes first: if that fails nothing does.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; for a size [`Error::IsADirectory`], [`Error::Invalid`] if the node is no file,
    /// [`Error::FileTooLarge`], [`Error::Io`].
    pub fn set_attr(&self, ino: Ino, changes: &Changes) -> Result<Attr> {
        if let Some(size) = changes.size {
            let _changing = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
            let data = self.tree_mut()?.own_data(ino.0, size > 0)?;
            self.change_bytes(ino, &data, |data| data.truncate(size))?;
        }
        let mut tree = self.tree_mut()?;
        if *changes != Changes::default() {
            tree.change_attr(ino.0, changes)?;
        }
        let attr = tree.attr(ino.0)?;
        drop(tree);
        Ok(complete(attr))
    }

    /// A node and the directories above it, innermost first, with what decides who may search them. Of a node with
    /// several names, or with none any more, the way is that of one it had.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn above(&self, ino: Ino) -> Result<Vec<Above>> {
        let tree = self.tree();
        let mut found = Vec::new();
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = ino.0;
        loop {
            let node = tree.node(at)?;
            found.push(Above {
                path: Vec::new(),
                mode: node.mode,
                uid: node.uid,
                gid: node.gid,
                list: tree.access_list(&node),
            });
            let Some((parent, name)) = &node.home else {
                break;
            };
            names.push(name.to_vec());
            at = *parent;
        }
        drop(tree);
        for (depth, directory) in found.iter_mut().enumerate() {
            for name in names.iter().skip(depth).rev() {
                directory.path.push(b'/');
                directory.path.extend_from_slice(name);
            }
        }
        if let Some(root) = found.last_mut().filter(|root| root.path.is_empty()) {
            root.path.push(b'/');
        }
        Ok(found)
    }

    /// Takes the set-group-ID bit away.
    ///
    /// # Errors
    /// [`Error::ReadOnly`].
    pub fn clear_set_group(&self, ino: Ino) -> Result<()> {
        let mut tree = self.tree_mut()?;
        tree.change(ino.0)?;
        tree.node_mut(ino.0)?.mode &= !SET_GROUP;
        Ok(())
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the node is none.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        match &self.tree().node(ino.0)?.body {
            Body::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Error::Invalid),
        }
    }

    /// Size and free space: those of the upper's filesystem; constant if there is none, and while a session is
    /// recorded, since free space must not be an input of what it does.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn stat_fs(&self) -> Result<StatFs> {
        let fixed = StatFs {
            block_size: 4096,
            blocks: 1 << 28,
            free: 1 << 27,
            available: 1 << 27,
            files: 1 << 32,
            files_free: 1 << 31,
            name_max: 255,
        };
        let Some(upper) = self.upper.as_ref().filter(|_| !self.record) else {
            return Ok(fixed);
        };
        let host = nix::sys::statvfs::statvfs(upper.files().directory())
            .map_err(Error::io("ask the upper's filesystem for its space"))?;
        Ok(StatFs {
            block_size: u32::try_from(host.fragment_size()).unwrap_or(fixed.block_size),
            blocks: host.blocks(),
            free: host.blocks_free(),
            available: host.blocks_available(),
            files: host.files(),
            files_free: host.files_free(),
            name_max: fixed.name_max,
        })
    }
}

/// Fills in what only the file's data knows; not for under the lock.
pub(super) fn complete((mut attr, data): (Attr, Option<Arc<FileData>>)) -> Attr {
    if let Some(data) = data {
        attr.size = data.size();
        attr.blocks = data.blocks();
    }
    attr
}

impl Tree {
    /// The attributes, to be completed outside of the lock.
    pub fn attr(&self, ino: u64) -> Result<(Attr, Option<Arc<FileData>>)> {
        Ok(self.node(ino)?.attr(ino, &self.lower))
    }

    fn change_attr(&mut self, ino: u64, changes: &Changes) -> Result<()> {
        let times = Changes {
            atime: changes.atime,
            mtime: changes.mtime,
            ctime: changes.ctime,
            ..Changes::default()
        };
        match *changes == times {
            true => self.change_times(ino)?,
            false => self.change(ino)?,
        }
        self.trace_content(ino)?;
        let now = Timestamp::now();
        let strip = changes.kill_privileges || changes.uid.is_some() || changes.gid.is_some();
        let strip = strip && !self.node(ino)?.is_directory();
        if strip {
            self.strip_privileges(ino)?;
        }
        if let Some(mode) = changes.mode {
            self.change_mode(ino, mode & 0o7777)?;
        }
        let node = self.node_mut(ino)?;
        node.uid = changes.uid.unwrap_or(node.uid);
        node.gid = changes.gid.unwrap_or(node.gid);
        node.atime = changes.atime.unwrap_or(node.atime);
        if changes.size.is_some() {
            node.mtime = now;
        }
        if let Some(mtime) = changes.mtime {
            node.mtime = mtime;
            node.dated = true;
        }
        node.ctime = changes.ctime.unwrap_or(now);
        Ok(())
    }

    /// An access control list agrees with the mode.
    fn change_mode(&mut self, ino: u64, mode: u32) -> Result<()> {
        let node = self.node(ino)?;
        let changed = self
            .acl(&node, acl::ACCESS)
            .map(|acl| (acl.with_mode(mode), self.xattrs(&node)));
        let node = self.node_mut(ino)?;
        node.mode = mode;
        if let Some((acl, mut xattrs)) = changed {
            xattrs.insert(acl::ACCESS.to_vec(), acl.value());
            node.xattrs = Some(Box::new(xattrs));
        }
        Ok(())
    }

    /// A node's metadata changes, so all of it goes into the layer: of a lower file the content as well.
    pub fn take_into_layer(&mut self, ino: u64) -> Result<()> {
        self.change(ino)?;
        self.trace_content(ino)
    }

    fn trace_content(&mut self, ino: u64) -> Result<()> {
        if matches!(self.node(ino)?.body, Body::File(Content::Lower))
            && let Some(trace) = &mut self.trace
        {
            trace.content(ino);
        }
        Ok(())
    }

    /// What the kernel takes from a file when someone without the right to keep it writes to it or gives it
    /// away: inode(7), capabilities(7).
    fn strip_privileges(&mut self, ino: u64) -> Result<()> {
        let node = self.node(ino)?;
        let xattrs = self.xattrs(&node);
        let node = self.node_mut(ino)?;
        node.mode &= !SET_USER;
        if node.mode & GROUP_EXECUTE != 0 {
            node.mode &= !SET_GROUP;
        }
        if xattrs.contains_key(&b"security.capability"[..]) {
            let mut xattrs = xattrs;
            xattrs.remove(&b"security.capability"[..]);
            node.xattrs = Some(Box::new(xattrs));
        }
        Ok(())
    }
}

impl Node {
    /// Mode and group that a new node in this directory gets: a set-group-ID directory hands down its group,
    /// and to directories the bit as well.
    pub fn inherit(&self, is_directory: bool, mode: u32, owner: Owner) -> (u32, u32) {
        if self.mode & SET_GROUP == 0 {
            return (mode & 0o7777, owner.gid);
        }
        let bit = if is_directory { SET_GROUP } else { 0 };
        (mode & 0o7777 | bit, self.gid)
    }
}
