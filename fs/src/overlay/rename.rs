//! Moving names. A directory of the lower layers moves with its contributors: nothing is copied.

use super::tree::Tree;
use super::*;

impl Overlay {
    /// rename(2), and renameat2(2) with its flags.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::NotFound`]; [`Error::Exists`] with [`RenameMode::NoReplace`];
    /// [`Error::Invalid`] for a directory moved below itself; [`Error::NotADirectory`],
    /// [`Error::IsADirectory`] and [`Error::NotEmpty`] if the new name's node cannot be replaced.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let mut tree = self.tree_mut()?;
        check_name(name)?;
        check_name(new_name)?;
        let (from, to) = ((parent.0, name), (new_parent.0, new_name));
        tree.live_dir(to.0)?;
        let source = tree.existing(from.0, name)?;
        let target = tree.child(to.0, new_name)?;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
            (RenameMode::Exchange, None) => return Err(Error::NotFound),
            // Two names of one file: POSIX says that nothing happens.
            (_, Some(target)) if target == source => return Ok(()),
            _ => {}
        }
        tree.check_not_below(source, to.0)?;
        let mut gone = Vec::new();
        match (mode, target) {
            (RenameMode::Exchange, Some(target)) => {
                tree.check_not_below(target, from.0)?;
                tree.moved(target)?;
                tree.moved(source)?;
                tree.detach(from.0, from.1, source)?;
                tree.detach(to.0, to.1, target)?;
                tree.attach(from.0, from.1, target)?;
                tree.attach(to.0, to.1, source)?;
                tree.touch_status(target)?;
            }
            (_, Some(target)) => {
                tree.check_replaceable(source, target)?;
                tree.moved(source)?;
                gone = tree.remove(to.0, to.1, target)?;
                tree.detach(from.0, from.1, source)?;
                tree.attach(to.0, to.1, source)?;
            }
            (_, None) => {
                tree.moved(source)?;
                tree.detach(from.0, from.1, source)?;
                tree.attach(to.0, to.1, source)?;
            }
        }
        tree.touch_status(source)?;
        tree.touch(from.0)?;
        tree.touch(to.0)?;
        drop(tree);
        drop(gone);
        Ok(())
    }
}

impl Tree {
    /// A directory cannot become its own descendant.
    fn check_not_below(&self, directory: u64, parent: u64) -> Result<()> {
        if !self.node(directory)?.is_directory() {
            return Ok(());
        }
        let mut at = parent;
        loop {
            if at == directory {
                return Err(Error::Invalid);
            }
            match &self.node(at)?.home {
                Some((above, _)) => at = *above,
                None => return Ok(()),
            }
        }
    }

    fn check_replaceable(&mut self, source: u64, target: u64) -> Result<()> {
        match (
            self.node(source)?.is_directory(),
            self.node(target)?.is_directory(),
        ) {
            (true, false) => Err(Error::NotADirectory),
            (false, true) => Err(Error::IsADirectory),
            (false, false) => Ok(()),
            (true, true) => match self.seen_empty(target)? {
                true => Ok(()),
                false => Err(Error::NotEmpty),
            },
        }
    }

    /// What moves goes into the layer at its new place, with all its lower content.
    fn moved(&mut self, ino: u64) -> Result<()> {
        self.take_into_layer(ino)?;
        if let Some(trace) = &mut self.trace {
            trace.whole(ino);
        }
        Ok(())
    }
}
