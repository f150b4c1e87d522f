//! Making names gone.

use super::inode::{Dir, Node, Override};
use super::tree::Tree;
use super::*;

impl Overlay {
    /// Removes a name of something that is no directory. The node lives on while it has other names or
    /// references.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NotFound`], [`Error::IsADirectory`].
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let mut tree = self.tree_mut()?;
        check_name(name)?;
        let ino = tree.existing(parent.0, name)?;
        if tree.node(ino)?.is_directory() {
            return Err(Error::IsADirectory);
        }
        let gone = tree.remove(parent.0, name, ino)?;
        tree.touch(parent.0)?;
        drop(tree);
        drop(gone);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NotFound`], [`Error::NotADirectory`], [`Error::NotEmpty`].
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let mut tree = self.tree_mut()?;
        check_name(name)?;
        let ino = tree.existing(parent.0, name)?;
        if !tree.seen_empty(ino)? {
            return Err(Error::NotEmpty);
        }
        let gone = tree.remove(parent.0, name, ino)?;
        tree.touch(parent.0)?;
        drop(tree);
        drop(gone);
        Ok(())
    }
}

impl Tree {
    /// Takes a name from its node, which loses a link; what is returned is to be dropped outside of the lock.
    pub fn remove(&mut self, parent: u64, name: &[u8], ino: u64) -> Result<Vec<Node>> {
        self.pin(ino)?;
        self.detach(parent, name, ino)?;
        let node = self.node_mut(ino)?;
        node.links = node.links.saturating_sub(1);
        self.touch_status(ino)?;
        Ok(self.release(ino))
    }

    /// Whether a directory is empty, which someone is about to learn.
    pub fn seen_empty(&mut self, ino: u64) -> Result<bool> {
        let empty = self.is_empty(self.dir(ino)?);
        if let Some(trace) = &mut self.trace {
            trace.listing(ino);
        }
        Ok(empty)
    }

    /// Whether no name leads anywhere in a directory.
    fn is_empty(&self, dir: &Dir) -> bool {
        let overridden = dir.overrides.values().any(|o| matches!(o, Override::Node(_)));
        !overridden
            && self
                .lower
                .names(&dir.contributors)
                .into_iter()
                .all(|name| self.peek(dir, name).is_none())
    }
}
