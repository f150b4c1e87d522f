//! Extended attributes: plain data by full name, whatever the namespace.

use super::acl::Acl;
use super::inode::{Body, Node};
use super::tree::Tree;
use super::*;
use crate::layer::Xattrs;

/// The longest name (`XATTR_NAME_MAX`) and value (`XATTR_SIZE_MAX`) in bytes.
const MAX_NAME: usize = 255;
const MAX_VALUE: usize = 65_536;
/// The namespaces in which attributes can be set: xattr(7). What a layer has of others can be read and removed.
const NAMESPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

impl Overlay {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// [`Error::NoAttribute`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_attribute(name)?;
        let mut tree = self.tree();
        tree.xattrs_read(ino.0);
        let node = tree.node(ino.0)?;
        match &node.xattrs {
            Some(own) => own.get(name).cloned(),
            None => tree.xattrs(&node).remove(name),
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
        let xattrs = tree.xattrs(&*tree.node(ino.0)?);
        Ok(xattrs.into_keys().collect())
    }

    /// Sets an extended attribute. An access control list sets the mode as well.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Exists`] and [`Error::NoAttribute`] as `how` asks;
    /// [`Error::AttributeName`], [`Error::AttributeTooLarge`]; [`Error::NotSupported`] for a name in a namespace that
    /// is none; [`Error::Invalid`] for an access control list that is none.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], how: SetXattr) -> Result<()> {
        check_attribute(name)?;
        if matches!(name, acl::ACCESS | acl::DEFAULT) {
            return self.set_acl(ino, name, value);
        }
        if !NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) {
            return Err(Error::NotSupported);
        }
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

    /// The access control list that guards a node, if it has one that counts: without permissions for the group's class
    /// the mode says all.
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn access_list(&self, ino: Ino) -> Result<Option<Acl>> {
        let tree = self.tree();
        let node = tree.node(ino.0)?;
        Ok(tree.access_list(&node))
    }

    /// Removes an extended attribute. There need be no access control list to remove one.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::NoAttribute`].
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_attribute(name)?;
        self.change_xattrs(ino, |xattrs| match xattrs.remove(name) {
            None if !matches!(name, acl::ACCESS | acl::DEFAULT) => Err(Error::NoAttribute),
            _ => Ok(()),
        })
    }

    /// One that says no more than the mode does is not kept.
    fn set_acl(&self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        let acl = Acl::parse(value).ok_or(Error::Invalid)?;
        let is_access = name == acl::ACCESS;
        let mut tree = self.tree_mut()?;
        let node = tree.node(ino.0)?;
        match &node.body {
            Body::Symlink(_) => return Err(Error::NotSupported),
            Body::Directory(_) => {}
            _ if is_access => {}
            _ => return Err(Error::Invalid),
        }
        let mut xattrs = tree.xattrs(&node);
        match is_access && acl.is_mode() {
            true => xattrs.remove(name),
            false => xattrs.insert(name.to_vec(), acl.value()),
        };
        tree.take_into_layer(ino.0)?;
        let node = tree.node_mut(ino.0)?;
        node.xattrs = Some(Box::new(xattrs));
        if is_access {
            node.mode = node.mode & !0o777 | acl.mode();
        }
        tree.touch_status(ino.0)
    }

    fn change_xattrs(&self, ino: Ino, change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<()> {
        let mut tree = self.tree_mut()?;
        tree.xattrs_read(ino.0);
        let mut xattrs = tree.xattrs(&*tree.node(ino.0)?);
        change(&mut xattrs)?;
        tree.take_into_layer(ino.0)?;
        tree.node_mut(ino.0)?.xattrs = Some(Box::new(xattrs));
        tree.touch_status(ino.0)
    }
}

impl Tree {
    /// An access control list of a node, if it has a valid one.
    pub fn acl(&self, node: &Node, name: &[u8]) -> Option<Acl> {
        let value = match &node.xattrs {
            Some(own) => own.get(name).cloned(),
            None => self.xattrs(node).remove(name),
        };
        Acl::parse(&value?)
    }

    /// [`Overlay::access_list`].
    pub fn access_list(&self, node: &Node) -> Option<Acl> {
        match node.mode & 0o070 {
            0 => None,
            _ => self.acl(node, acl::ACCESS),
        }
    }

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
    Ok(())
}
