//! How many requests the kernel has sent: a count, unlike a time, is the same on every machine.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes the enum of kinds and the list of them all, each with its name.
macro_rules! kinds {
    ($($kind:ident $name:literal,)*) => {
        /// A kind of request, named as in the FUSE protocol.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub enum RequestKind {
            $($kind,)*
        }

        const KINDS: &[(RequestKind, &str)] = &[$((RequestKind::$kind, $name),)*];
    };
}

kinds! {
    Lookup "LOOKUP",
    Forget "FORGET",
    GetAttr "GETATTR",
    SetAttr "SETATTR",
    ReadLink "READLINK",
    Symlink "SYMLINK",
    MkNod "MKNOD",
    MkDir "MKDIR",
    Unlink "UNLINK",
    RmDir "RMDIR",
    Rename "RENAME",
    Link "LINK",
    Open "OPEN",
    Create "CREATE",
    Read "READ",
    Write "WRITE",
    Flush "FLUSH",
    FSync "FSYNC",
    OpenDir "OPENDIR",
    ReadDir "READDIR",
    ReadDirPlus "READDIRPLUS",
    FSyncDir "FSYNCDIR",
    StatFs "STATFS",
    SetXattr "SETXATTR",
    GetXattr "GETXATTR",
    ListXattr "LISTXATTR",
    RemoveXattr "REMOVEXATTR",
    Access "ACCESS",
    IoCtl "IOCTL",
    FAllocate "FALLOCATE",
    LSeek "LSEEK",
    CopyFileRange "COPY_FILE_RANGE",
}

/// The counters of one mount.
#[derive(Debug)]
pub(crate) struct Counters([AtomicU64; KINDS.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; KINDS.len()])
    }
}

impl Counters {
    pub fn add(&self, kind: RequestKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Requests {
        Requests(std::array::from_fn(|kind| self.0[kind].load(Ordering::Relaxed)))
    }
}

/// How many requests of each kind a mount has answered so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requests([u64; KINDS.len()]);

impl Requests {
    /// Those of one kind.
    pub fn of(&self, kind: RequestKind) -> u64 {
        self.0[kind as usize]
    }

    /// All of them. FORGETs do not count: nobody waits for them, and the kernel sends them when it likes.
    pub fn total(&self) -> u64 {
        self.0.iter().sum::<u64>() - self.of(RequestKind::Forget)
    }

    /// What came after `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|kind| {
            self.0[kind].saturating_sub(earlier.0[kind])
        }))
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (kind, name) in KINDS {
            match self.of(*kind) {
                0 => {}
                count => {
                    write!(f, "{separator}{name} {count}")?;
                    separator = ", ";
                }
            }
        }
        match separator {
            "" => f.write_str("none"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind() {
        let counters = Counters::default();
        assert_eq!(counters.read().to_string(), "none");
        counters.add(RequestKind::Lookup);
        let earlier = counters.read();
        for kind in [
            RequestKind::Lookup,
            RequestKind::CopyFileRange,
            RequestKind::Forget,
        ] {
            counters.add(kind);
        }
        let later = counters.read().since(&earlier);
        assert_eq!(later.of(RequestKind::Lookup), 1);
        assert_eq!(later.total(), 2);
        assert_eq!(later.to_string(), "LOOKUP 1, FORGET 1, COPY_FILE_RANGE 1");
    }
}
