//! Layers whose members are told by something else than their tar: a table of contents.

use super::error::Problem;
use super::lossy;
use super::name::{self, PATH_MAX, Place};
use crate::layer::Metadata;
use crate::layer::index::{Builder, Encoded, InvalidEntry, Node};
use crate::path::ImagePath;

/// Makes an index of members that are told one after the other, in the order of their tar. Names are spelled, and
/// checked, as those of a tar are.
#[derive(Default)]
pub struct Listing {
    index: Builder,
}

impl Listing {
    /// Adds a member.
    ///
    /// # Errors
    /// [`Problem`] if no layer can have it.
    pub fn add(&mut self, name: &[u8], metadata: Metadata, node: Node) -> Result<(), Problem> {
        match name::place(name)? {
            Place::Node(path) => {
                if let Node::Symlink(target) = &node
                    && (target.is_empty() || target.len() > PATH_MAX || target.contains(&0))
                {
                    return Err(Problem::SymlinkTarget);
                }
                self.index.add(&path, metadata, node)?;
            }
            Place::Whiteout(path) => self.index.add_whiteout(&path)?,
            Place::Opaque(path) => self.index.add_opaque(&path)?,
            Place::Ignored => {}
        }
        Ok(())
    }

    /// Adds a hard link to another member, or to a file of a layer below.
    ///
    /// # Errors
    /// [`Problem`] if no layer can have it.
    pub fn add_link(&mut self, name: &[u8], target: &[u8]) -> Result<(), Problem> {
        let Place::Node(path) = name::place(name)? else {
            return Ok(());
        };
        let target = ImagePath::from_member(target).map_err(|reason| Problem::LinkTarget {
            target: lossy(target),
            reason,
        })?;
        self.index.add_link(&path, &target)?;
        Ok(())
    }

    /// The index of what was told.
    ///
    /// # Errors
    /// [`InvalidEntry::TooLarge`].
    pub fn finish(self) -> Result<Encoded, InvalidEntry> {
        self.index.encode()
    }
}
