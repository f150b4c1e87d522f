//! New nodes and new names.

use super::acl::Acl;
use super::attr::complete;
use super::data::{Content as Bytes, FileData};
use super::inode::{Body, Content, Node};
use super::tree::Tree;
use super::*;
use crate::layer::Xattrs;

/// The most names that a file can have: ext4's limit, so that what works here works there.
const MAX_LINKS: u32 = 65_000;
/// The longest target of a symbolic link in bytes (`PATH_MAX` without the NUL).
const MAX_TARGET: usize = 4095;

/// How to make missing directories on a path.
pub(super) struct Making {
    pub mode: u32,
    pub owner: Owner,
    pub mtime: Option<Timestamp>,
    pub for_session: bool,
}

impl Overlay {
    /// Creates a node. `mode` is complete: the umask has been applied. It counts one reference.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Exists`], [`Error::NotFound`] if the directory has been removed,
    /// [`Error::NotADirectory`], [`Error::NameTooLong`].
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NewKind<'_>,
        mode: u32,
        owner: Owner,
    ) -> Result<Attr> {
        self.create_masked(parent, name, kind, (mode, 0), owner)
    }

    /// The same with a mode and a umask, which counts unless the directory has a default access control list.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_masked(
        &self,
        parent: Ino,
        name: &[u8],
        kind: NewKind<'_>,
        mode: (u32, u32),
        owner: Owner,
    ) -> Result<Attr> {
        let mut tree = self.tree_mut()?;
        check_name(name)?;
        tree.live_dir(parent.0)?;
        if tree.child(parent.0, name)?.is_some() {
            return Err(Error::Exists);
        }
        let ino = tree.create(parent.0, name, kind, mode, owner)?;
        tree.touch(parent.0)?;
        tree.node_mut(ino)?.references += 1;
        let attr = tree.attr(ino)?;
        drop(tree);
        Ok(complete(attr))
    }

    /// Gives a node that is no directory one more name. It counts one reference.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Exists`], [`Error::NotPermitted`] for a directory, [`Error::TooManyLinks`],
    /// [`Error::NotFound`] if the node or the directory has been removed.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let mut tree = self.tree_mut()?;
        check_name(name)?;
        tree.live_dir(parent.0)?;
        let node = tree.node(ino.0)?;
        if node.is_directory() {
            return Err(Error::NotPermitted);
        }
        match node.links {
            0 => return Err(Error::NotFound),
            MAX_LINKS.. => return Err(Error::TooManyLinks),
            _ => {}
        }
        if tree.child(parent.0, name)?.is_some() {
            return Err(Error::Exists);
        }
        tree.take_into_layer(ino.0)?;
        tree.attach(parent.0, name, ino.0)?;
        let node = tree.node_mut(ino.0)?;
        node.links += 1;
        node.references += 1;
        tree.touch_status(ino.0)?;
        tree.touch(parent.0)?;
        let attr = tree.attr(ino.0)?;
        drop(tree);
        Ok(complete(attr))
    }

    /// Makes the directory `path` and those above it that are missing, as `mkdir -p` does, and returns the last.
    /// Symbolic links are followed. `mtime` dates the new directories; the others keep their times, so that
    /// what is made does not depend on when.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NotADirectory`] if something else is in the way, [`Error::SymlinkLoop`].
    pub fn make_dirs(
        &self,
        path: &ImagePath,
        mode: u32,
        owner: Owner,
        mtime: Option<Timestamp>,
    ) -> Result<Ino> {
        let mut tree = self.tree_mut()?;
        let making = Making {
            mode,
            owner,
            mtime,
            for_session: false,
        };
        let ino = tree.walk(path, Follow::Yes, Some(making))?;
        tree.live_dir(ino)?;
        tree.node_mut(ino)?.held = true;
        Ok(Ino(ino))
    }
}

impl Tree {
    fn create(
        &mut self,
        parent: u64,
        name: &[u8],
        kind: NewKind<'_>,
        (mode, umask): (u32, u32),
        owner: Owner,
    ) -> Result<u64> {
        let body = match kind {
            NewKind::File => Body::File(Content::Own(Arc::new(FileData::new(
                self.next,
                self.files()?,
                Bytes::Memory(Vec::new()),
                0,
            )))),
            NewKind::Directory => Body::Directory(Box::default()),
            NewKind::Symlink([]) => return Err(Error::NotFound),
            NewKind::Symlink(target) if target.len() > MAX_TARGET => return Err(Error::NameTooLong),
            NewKind::Symlink(target) => Body::Symlink(target.into()),
            NewKind::CharDevice(device) => Body::CharDevice(device),
            NewKind::BlockDevice(device) => Body::BlockDevice(device),
            NewKind::Fifo => Body::Fifo,
            NewKind::Socket => Body::Socket,
        };
        let is_directory = matches!(body, Body::Directory(_));
        let directory = self.node(parent)?;
        let (mode, gid) = directory.inherit(is_directory, mode, owner);
        if matches!(body, Body::Symlink(_)) {
            return self.add_at(parent, name, Node::new(body, 0o777, owner.uid, gid));
        }
        let default = self.acl(&directory, acl::DEFAULT);
        let mut node = Node::new(body, mode & !umask, owner.uid, gid);
        if let Some(default) = default {
            node.inherit_acl(default, mode);
        }
        self.add_at(parent, name, node)
    }

    /// Adds a new node under a free name.
    pub fn add_at(&mut self, parent: u64, name: &[u8], mut node: Node) -> Result<u64> {
        node.links = 1;
        let ino = self.add(node);
        self.note_data(ino);
        self.attach(parent, name, ino)?;
        Ok(ino)
    }

    /// Makes one missing directory of a path.
    pub fn make_dir(&mut self, parent: u64, name: &[u8], making: &Making) -> Result<u64> {
        check_name(name)?;
        self.live_dir(parent)?;
        if making.for_session {
            self.note_virtual(parent, name, true)?;
        }
        let ino = self.create(parent, name, NewKind::Directory, (making.mode, 0), making.owner)?;
        if let Some(mtime) = making.mtime {
            let node = self.node_mut(ino)?;
            (node.atime, node.mtime) = (mtime, mtime);
        }
        Ok(ino)
    }
}

impl Node {
    /// What a new node gets of the default access control list of its directory.
    fn inherit_acl(&mut self, default: Acl, mode: u32) {
        let mut xattrs = Xattrs::new();
        if self.is_directory() {
            xattrs.insert(acl::DEFAULT.to_vec(), default.value());
        }
        let access = default.created_with(mode);
        self.mode = mode & !0o777 | access.mode();
        if !access.is_mode() {
            xattrs.insert(acl::ACCESS.to_vec(), access.value());
        }
        self.xattrs = Some(Box::new(xattrs));
    }
}
