//! Permissions where the kernel cannot check them: every process is the same user to it, and every node root's.
//!
//! What a process may do is decided by its credential ([`Callers`]) and by the owners that our metadata has. The kernel
//! walks along paths that it knows without asking, so whether a process may search the directories above a node is
//! checked when the node is used. Files are opened without asking as well: that is for whoever answers the system calls
//! of these processes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::Errno;

use crate::caller::{self, Callers, Capability, Credential};
use crate::overlay::{Attr, Changes, Ino, Overlay, Owner};

const READ: u32 = libc::R_OK as u32;
const WRITE: u32 = libc::W_OK as u32;
const EXECUTE: u32 = libc::X_OK as u32;

/// Whether it is allowed, and what to answer if not.
pub(super) type Verdict = Result<(), Errno>;

/// Who decides.
pub(super) struct Guard {
    callers: Arc<Callers>,
    overlay: Arc<Overlay>,
}

impl Guard {
    pub(super) fn new(callers: Arc<Callers>, overlay: Arc<Overlay>) -> Self {
        Self { callers, overlay }
    }

    /// The owner of what a process makes.
    pub(super) fn owner(&self, pid: u32) -> Owner {
        let caller = self.callers.of(pid);
        Owner {
            uid: caller.user.filesystem,
            gid: caller.group.filesystem,
        }
    }

    /// Whether set-ID bits stay when a process truncates a file.
    pub(super) fn keeps_set_id(&self, pid: u32) -> bool {
        self.callers.of(pid).has(Capability::Fsetid)
    }

    /// Looking a name up.
    pub(super) fn search(&self, pid: u32, parent: Ino) -> Verdict {
        self.may(pid, parent, EXECUTE)
    }

    /// access(2), and entering a directory. Who may all still cannot execute what nobody can.
    pub(super) fn access(&self, pid: u32, ino: Ino, wanted: u32) -> Verdict {
        let caller = self.callers.of(pid);
        match caller.asks_for_another() && caller::asks_as_real(pid) {
            true => self.allows(&caller.as_real(), pid, ino, wanted & 7),
            false => self.allows(&caller, pid, ino, wanted & 7),
        }
    }

    /// Making a name in a directory.
    pub(super) fn add(&self, pid: u32, parent: Ino) -> Verdict {
        self.may(pid, parent, WRITE | EXECUTE)
    }

    /// Taking a name from a directory. In a sticky one only the owner of either may: inode(7).
    pub(super) fn remove(&self, pid: u32, parent: Ino, name: &OsStr) -> Verdict {
        let caller = self.callers.of(pid);
        if caller.overrides_permissions() {
            return Ok(());
        }
        self.allows(&caller, pid, parent, WRITE | EXECUTE)?;
        let directory = self.attr(parent)?;
        let user = caller.user.filesystem;
        if directory.mode & libc::S_ISVTX == 0 || directory.uid == user || caller.has(Capability::Fowner) {
            return Ok(());
        }
        match self.overlay.child(parent, name.as_bytes()) {
            Ok(Some(node)) if node.uid != user => Err(Errno::EPERM),
            // What is not there is told by who is asked to remove it.
            _ => Ok(()),
        }
    }

    /// Changing attributes, perhaps by a file that is `open`. Takes from the mode what the process may not set.
    pub(super) fn change(&self, pid: u32, ino: Ino, changes: &mut Changes, open: bool) -> Verdict {
        let caller = self.callers.of(pid);
        if caller.overrides_permissions() {
            return Ok(());
        }
        let attr = self.attr(ino)?;
        let is_owner = caller.user.filesystem == attr.uid || caller.has(Capability::Fowner);
        if let Some(mode) = &mut changes.mode {
            if !is_owner {
                return Err(Errno::EPERM);
            }
            if !caller.is_in_group(attr.gid) && !caller.has(Capability::Fsetid) {
                *mode &= !libc::S_ISGID;
            }
        }
        if changes.size.is_some() && !open {
            self.allows(&caller, pid, ino, WRITE)?;
        }
        // Alone, they are the kernel's own word on what it writes back.
        let by_hand = changes.atime.is_some() && !open;
        if by_hand && !is_owner && changes.size.is_none() {
            self.allows(&caller, pid, ino, WRITE)?;
        }
        Ok(())
    }

    /// Reading an extended attribute.
    pub(super) fn read_attribute(&self, pid: u32, ino: Ino, name: &[u8]) -> Verdict {
        match name.starts_with(b"user.") {
            true => self.may(pid, ino, READ),
            false => Ok(()),
        }
    }

    /// Setting or removing an extended attribute: xattr(7).
    pub(super) fn write_attribute(&self, pid: u32, ino: Ino, name: &[u8]) -> Verdict {
        if name.starts_with(b"user.") {
            return self.may(pid, ino, WRITE);
        }
        let caller = self.callers.of(pid);
        match caller.has(Capability::Setfcap) || caller.overrides_permissions() {
            true => Ok(()),
            false => Err(Errno::EPERM),
        }
    }

    fn may(&self, pid: u32, ino: Ino, wanted: u32) -> Verdict {
        let caller = self.callers.of(pid);
        match caller.overrides_permissions() {
            // The kernel has seen to it that somebody may execute it.
            true => Ok(()),
            false => self.allows(&caller, pid, ino, wanted),
        }
    }

    fn allows(&self, caller: &Credential, pid: u32, ino: Ino, wanted: u32) -> Verdict {
        let may = caller.may_use(&self.overlay, ino, wanted);
        if !may.map_err(|error| super::errno(&error))? {
            return Err(Errno::EACCES);
        }
        match caller.reaches(&self.overlay, pid, ino) {
            true => Ok(()),
            false => Err(Errno::EACCES),
        }
    }

    fn attr(&self, ino: Ino) -> Result<Attr, Errno> {
        self.overlay.attr(ino).map_err(|error| super::errno(&error))
    }
}
