//! What the kernel and the filesystem agree on when a mount begins.

use std::io;

use fuser::{InitFlags, KernelConfig};

use crate::overlay::Owner;

/// The largest request: what Linux allows by default (`fs.fuse.max_pages_limit`, 256 pages).
pub(super) const MAX_REQUEST: u32 = 1 << 20;

/// What the adapter has to know about its mount.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// Whether writes may be held back in the kernel's cache.
    pub writeback: bool,
    /// Whether directories are listed without looking up their entries, so that a look-up stands for an
    /// access by the program.
    pub traced: bool,
    /// Whether the kernel checks permissions, and access control lists with them.
    pub acls: bool,
    /// Whether the umask is ours to apply, since it does not count where a directory has a default list.
    pub masks: bool,
    /// The owner of new nodes; the caller's where `None`.
    pub owner: Option<Owner>,
}

/// The capabilities to ask for, as far as the kernel offers them.
fn wanted_capabilities(settings: Settings) -> InitFlags {
    let mut flags = InitFlags::FUSE_ASYNC_READ
        | InitFlags::FUSE_BIG_WRITES
        | InitFlags::FUSE_MAX_PAGES
        | InitFlags::FUSE_ASYNC_DIO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_NO_OPEN_SUPPORT
        | InitFlags::FUSE_NO_OPENDIR_SUPPORT;
    if settings.writeback {
        flags |= InitFlags::FUSE_WRITEBACK_CACHE;
    }
    if settings.acls {
        flags |= InitFlags::FUSE_POSIX_ACL;
    }
    if settings.masks {
        flags |= InitFlags::FUSE_DONT_MASK;
    }
    if !settings.traced {
        flags |= InitFlags::FUSE_DO_READDIRPLUS | InitFlags::FUSE_READDIRPLUS_AUTO;
    }
    flags
}

/// Agrees with the kernel on what it may do.
pub(super) fn negotiate(config: &mut KernelConfig, settings: Settings) -> io::Result<()> {
    let offered = config.capabilities();
    let wanted = wanted_capabilities(settings);
    if let Err(missing) = config.add_capabilities(wanted & offered) {
        return Err(io::Error::other(format!("the kernel took back {missing:?}")));
    }
    if !offered.contains(wanted) {
        tracing::debug!(missing = ?(wanted - offered), "this kernel lacks some FUSE capabilities");
    }
    // The nearest value that the library allows is a good one too.
    let _ = config.set_max_write(MAX_REQUEST);
    Ok(())
}
