//! The changes of a session as a layer.

use crate::layer::writer::{LayerWriter, NewNode, WriteError};
use crate::overlay::diff::{NewContent, What};
use crate::overlay::{Error, Overlay};

#[cfg(test)]
mod tests;

/// Why a session cannot be made into a layer.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The changes cannot be told.
    #[error("cannot collect what the session changed")]
    Changes(#[from] Error),
    /// The layer cannot be written, or a changed file not be read.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes what the session has changed so far, in the order of a walk by name, so that equal changes give equal
/// layers. If nothing has changed nothing is written. Sockets are left out: a layer cannot hold one.
///
/// The layer is what the overlay shows at one moment. Until it is written, whoever changes bytes of a file waits.
///
/// # Errors
/// [`PackError`]; what was written of the layer then is worthless.
pub fn pack(overlay: &Overlay, writer: &mut LayerWriter) -> Result<(), PackError> {
    let _still = overlay.hold_bytes();
    for change in overlay.changes()? {
        let path = &change.path;
        match change.what {
            What::Whiteout => writer.whiteout(path)?,
            What::Opaque => writer.opaque(path)?,
            What::HardLink(target) => writer.hard_link(path, &target)?,
            What::Node(metadata, content) => {
                let mut content = content;
                let node = match &mut content {
                    NewContent::Directory => NewNode::Directory,
                    NewContent::Symlink(target) => NewNode::Symlink(target),
                    NewContent::CharDevice(device) => NewNode::CharDevice(*device),
                    NewContent::BlockDevice(device) => NewNode::BlockDevice(*device),
                    NewContent::Fifo => NewNode::Fifo,
                    NewContent::File(file) => match file.digest() {
                        Some(digest) => NewNode::KnownFile {
                            size: file.size(),
                            digest,
                            content: file,
                        },
                        None => NewNode::File {
                            size: file.size(),
                            content: file,
                        },
                    },
                };
                writer.add(path, &metadata, node)?;
            }
        }
    }
    Ok(())
}
