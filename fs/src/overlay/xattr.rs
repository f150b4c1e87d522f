//! Extended attributes: plain data by full name, whatever the namespace.

use super::tree::Tree;
use super::*;
use crate::layer::Xattrs;

/// The longest name (`XATTR_NAME_MAX`) and value (`XATTR_SIZE_MAX`) in bytes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_536;
/// POSIX access control lists need the kernel's help, which is not asked for: to pretend would break modes.
const ACL: &[u8] = b"system.posix_acl_";

impl Overlay {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`]; [`Error::NotSupported`] for POSIX access control lists.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_attribute(name)?;
        let mut tree = self.tree();
        tree.xattrs_read(ino.0);
        let node = tree.node(ino.0)?;
        match &node.xattrs {
            Some(own) => own.get(name).cloned(),
            None => tree.xattrs(node).remove(name),
        }
        .ok_or(Error::NoAttribute)
    }

    /// The names of a node's extended attributes, sorted.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut tree = self.tree();
        tree.xattrs_read(ino.0);
        let xattrs = tree.xattrs(tree.node(ino.0)?);
        Ok(xattrs.into_keys().filter(|name| !name.starts_with(ACL)).collect())
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Exists`] and [`Error::NoAttribute`] as `how` asks;
    /// [`Error::AttributeName`], [`Error::AttributeTooLarge`], [`Error::NotSupported`].
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        check_attribute(name)?;
        if value.len() > MAX_VALUE {
            return Err(Error::AttributeTooLarge);
        }
        self.change_xattrs(ino, |xattrs| {
            match (how, xattrs.contains_key(name)) {
                (SetXattr::Create, true) => return Err(Error::Exists),
                (SetXattr::Replace, false) => return Err(Error::NoAttribute),
                _ => {}
            }
            xattrs.insert(name.to_vec(), value.to_vec());
            Ok(())
        })
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoAttribute`], [`Error::NotSupported`].
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_attribute(name)?;
        self.change_xattrs(ino, |xattrs| {
            xattrs.remove(name).map(drop).ok_or(Error::NoAttribute)
        })
    }

    fn change_xattrs(&self, ino: Ino, change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<()> {
        let mut tree = self.tree_mut()?;
        tree.xattrs_read(ino.0);
        let mut xattrs = tree.xattrs(tree.node(ino.0)?);
        change(&mut xattrs)?;
        tree.take_into_layer(ino.0)?;
        tree.node_mut(ino.0)?.xattrs = Some(Box::new(xattrs));
        tree.touch_status(ino.0)
    }
}

impl Tree {
    fn xattrs_read(&mut self, ino: u64) {
        if let Some(trace) = &mut self.trace {
            trace.xattrs(ino);
        }
    }
}

fn check_attribute(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Error::AttributeName);
    }
    if name.starts_with(ACL) {
        return Err(Error::NotSupported);
    }
    Ok(())
}
