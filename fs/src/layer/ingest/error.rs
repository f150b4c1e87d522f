//! What can be wrong with a layer made elsewhere.

use std::io;
use std::path::PathBuf;

use crate::layer::index::InvalidEntry;
use crate::layer::marker::MalformedWhiteout;
use crate::path::InvalidPath;

/// Why a tar is not taken in as a layer.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The stream gave an error: a damaged compression, a broken connection.
    #[error("cannot read the layer at byte {offset} of its tar{}", member(.entry))]
    Read {
        /// The bytes of the tar that came before.
        offset: u64,
        /// The entry that was read, as the tar names it.
        entry: Option<String>,
        /// What the reader said.
        source: io::Error,
    },
    /// The layer's own files cannot be written.
    #[error("cannot write the layer's {path}")]
    Write {
        /// The file that is written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The stream does not begin as a tar does.
    #[error("not a tar archive")]
    NotATar,
    /// The tar ends in the middle of something.
    #[error("the layer's tar is cut short: it ends at byte {offset}{}", member(.entry))]
    Truncated {
        /// The size of what came.
        offset: u64,
        /// The entry that is incomplete, as the tar names it.
        entry: Option<String>,
    },
    /// An entry is damaged or has no place in a layer.
    #[error("{entry:?} (byte {offset} of the layer's tar): {problem}")]
    Entry {
        /// The entry as the tar names it; bytes that are no UTF-8 replaced.
        entry: String,
        /// Where its header begins.
        offset: u64,
        /// What is wrong.
        problem: Problem,
    },
    /// Something that is no header stands where one has to be.
    #[error("the layer's tar is damaged at byte {offset}{}", last(.after))]
    Damaged {
        /// Where the header had to be.
        offset: u64,
        /// The last entry that was in order.
        after: Option<String>,
    },
}

fn member(entry: &Option<String>) -> String {
    entry
        .as_ref()
        .map_or_else(String::new, |name| format!(", in {name:?}"))
}

fn last(entry: &Option<String>) -> String {
    entry
        .as_ref()
        .map_or_else(String::new, |name| format!(", after {name:?}"))
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The name is no path inside an image.
    #[error("the name cannot be in a layer: {0}")]
    Path(InvalidPath),
    /// The name is longer than Linux allows.
    #[error("the name is longer than 4095 bytes")]
    LongPath,
    /// A name that begins with `.wh.` but names nothing to remove.
    #[error(transparent)]
    Whiteout(#[from] MalformedWhiteout),
    /// The target of a hard link is no path inside an image.
    #[error("the hard link's target {target:?} cannot be in a layer: {reason}")]
    LinkTarget {
        /// The target as the tar names it.
        target: String,
        /// Why not.
        reason: InvalidPath,
    },
    /// A symbolic link that Linux cannot hold.
    #[error("the symbolic link's target is empty, longer than 4095 bytes, or has a NUL byte")]
    SymlinkTarget,
    /// A type of member that no layer has.
    #[error("an unknown type of tar entry: {0:?}")]
    Type(char),
    /// A field is no number or one out of range.
    #[error("the {0} is damaged or out of range")]
    Number(&'static str),
    /// A PAX header cannot be used.
    #[error("the PAX header cannot be used: {0}")]
    Pax(&'static str),
    /// A sparse file cannot be used.
    #[error("the sparse file cannot be used: {0}")]
    Sparse(&'static str),
    /// The entry does not fit the others.
    #[error(transparent)]
    Invalid(#[from] InvalidEntry),
}
