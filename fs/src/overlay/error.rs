//! What an operation on the overlay can fail with, and the errno of each.

use std::io;
use std::path::PathBuf;

/// Why an operation on the overlay failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such name, or the directory has been removed.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the file exists")]
    Exists,
    /// Something that must be a directory is none.
    #[error("not a directory")]
    NotADirectory,
    /// The operation is not for directories.
    #[error("is a directory")]
    IsADirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The overlay has no upper.
    #[error("the filesystem is read-only")]
    ReadOnly,
    /// The node has no extended attribute of that name.
    #[error("no such attribute")]
    NoAttribute,
    /// An argument makes no sense, as a directory moved into itself.
    #[error("invalid argument")]
    Invalid,
    /// A name of more than 255 bytes, or a link target of more than 4,095.
    #[error("the name is too long")]
    NameTooLong,
    /// The file has as many names as a file can have.
    #[error("too many links")]
    TooManyLinks,
    /// More than 40 symbolic links on one path.
    #[error("too many levels of symbolic links")]
    SymlinkLoop,
    /// Something that this filesystem does not do.
    #[error("the operation is not supported")]
    NotSupported,
    /// The operation is not for this kind of node, as a hard link to a directory.
    #[error("the operation is not permitted")]
    NotPermitted,
    /// The root cannot be removed or moved.
    #[error("the root directory is in use")]
    Busy,
    /// The inode number is not one that this overlay knows now.
    #[error("the inode number is stale")]
    Stale,
    /// A file would grow beyond 2^63 - 1 bytes.
    #[error("the file is too large")]
    FileTooLarge,
    /// There is no data, or no hole, at or after this offset.
    #[error("no data beyond this offset")]
    OutOfRange,
    /// The name of an extended attribute is empty or longer than 255 bytes.
    #[error("the attribute's name has a bad length")]
    AttributeName,
    /// The value of an extended attribute is longer than 64 KiB.
    #[error("the attribute's value is too large")]
    AttributeTooLarge,
    /// A layer's index contradicts itself.
    #[error("layer {layer} is damaged at entry {entry}")]
    Damaged {
        /// Position in the stack, the bottom layer being 0.
        layer: u32,
        /// The entry's number.
        entry: u32,
    },
    /// The system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The saved state of a named upper cannot be used.
    #[error("the upper {path} cannot be used: {reason}")]
    State {
        /// The upper's directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A named upper has one session at a time.
    #[error("the upper {path} cannot be used: another session is using it")]
    InUse {
        /// The upper's directory.
        path: PathBuf,
    },
}

impl Error {
    /// The error number that a system call reports for this.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NotFound => libc::ENOENT,
            Self::Exists => libc::EEXIST,
            Self::NotADirectory => libc::ENOTDIR,
            Self::IsADirectory => libc::EISDIR,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::ReadOnly => libc::EROFS,
            Self::NoAttribute => libc::ENODATA,
            Self::Invalid => libc::EINVAL,
            Self::NameTooLong => libc::ENAMETOOLONG,
            Self::TooManyLinks => libc::EMLINK,
            Self::SymlinkLoop => libc::ELOOP,
            Self::NotSupported => libc::EOPNOTSUPP,
            Self::NotPermitted => libc::EPERM,
            Self::Busy | Self::InUse { .. } => libc::EBUSY,
            Self::Stale => libc::ESTALE,
            Self::FileTooLarge => libc::EFBIG,
            Self::OutOfRange => libc::ENXIO,
            Self::AttributeName => libc::ERANGE,
            Self::AttributeTooLarge => libc::E2BIG,
            Self::Damaged { .. } | Self::State { .. } => libc::EIO,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }

    /// For `map_err`: the system refused to do `what`.
    pub(super) fn io<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }
}
