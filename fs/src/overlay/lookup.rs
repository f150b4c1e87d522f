//! What is here: names to nodes, references, and paths.

use std::collections::VecDeque;

use super::attr::complete;
use super::create::Making;
use super::inode::Body;
use super::tree::Tree;
use super::*;

/// As many symbolic links as Linux follows on one path.
const MAX_LINKS: u32 = 40;

impl Overlay {
    /// The node that `name` leads to in a directory. It counts one reference, until [`Self::forget`].
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], [`Error::NameTooLong`].
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Attr> {
        if name.len() > crate::path::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let mut tree = self.tree();
        let ino = match name {
            b"." | b".." => {
                let node = tree.node(parent.0)?;
                let above = node.home.as_ref().map_or(Ino::ROOT.0, |home| home.0);
                let ino = if name == b"." { parent.0 } else { above };
                drop(node);
                tree.node_mut(ino)?.references += 1;
                ino
            }
            _ => tree.look_up(parent.0, name)?,
        };
        let attr = tree.attr(ino)?;
        drop(tree);
        Ok(complete(attr))
    }

    /// The node that `name` leads to in a directory, if there is one. It counts no reference, but the number stays valid
    /// for as long as a name leads to it.
    ///
    /// # Errors
    /// [`Error::NotADirectory`].
    pub fn child(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        let mut tree = self.tree();
        let Some(ino) = tree.child(parent.0, name)? else {
            return Ok(None);
        };
        tree.node_mut(ino)?.held = true;
        let attr = tree.attr(ino)?;
        drop(tree);
        Ok(Some(complete(attr)))
    }

    /// Gives back `count` references. A node without references lives on if a name leads to something changed
    /// in it; the data of a removed file goes now.
    pub fn forget(&self, ino: Ino, count: u64) {
        let mut tree = self.tree();
        let idle = match tree.nodes.get_mut(&ino.0) {
            Some(node) => {
                node.references = node.references.saturating_sub(count);
                Some(ino.0)
            }
            None => tree.forget_plain(ino.0, count),
        };
        let gone = idle.map(|ino| tree.release(ino));
        drop(tree);
        drop(gone);
    }

    /// The node at `path`. Symbolic links lead around inside the image only. It counts no reference, but the
    /// number stays valid for as long as a name leads to it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], [`Error::SymlinkLoop`].
    pub fn resolve(&self, path: &ImagePath, last: Follow) -> Result<Attr> {
        let mut tree = self.tree();
        let ino = tree.walk(path, last, None)?;
        tree.node_mut(ino)?.held = true;
        let attr = tree.attr(ino)?;
        drop(tree);
        Ok(complete(attr))
    }
}

impl Tree {
    /// Follows a path from the root; makes the directories that are missing, if told how.
    pub fn walk(&mut self, path: &ImagePath, last: Follow, make: Option<Making>) -> Result<u64> {
        let mut todo: VecDeque<Vec<u8>> = path.components().map(<[u8]>::to_vec).collect();
        let mut above = Vec::new();
        let mut at = Ino::ROOT.0;
        let mut links = 0;
        while let Some(name) = todo.pop_front() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = above.pop().unwrap_or(Ino::ROOT.0);
                    continue;
                }
                _ => {}
            }
            let child = match (self.child(at, &name)?, &make) {
                (Some(child), _) => child,
                (None, Some(making)) => self.make_dir(at, &name, making)?,
                (None, None) => return Err(Error::NotFound),
            };
            let follow = !todo.is_empty() || last == Follow::Yes;
            match &self.node(child)?.body {
                Body::Symlink(target) if follow => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::SymlinkLoop);
                    }
                    if target.first() == Some(&b'/') {
                        above.clear();
                        at = Ino::ROOT.0;
                    }
                    for component in target.rsplit(|&b| b == b'/') {
                        todo.push_front(component.to_vec());
                    }
                }
                _ => {
                    above.push(at);
                    at = child;
                }
            }
        }
        Ok(at)
    }
}
