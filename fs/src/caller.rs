//! Who a process is, where the kernel cannot know: identities kept in a table of ours.
//!
//! In a user namespace with a single id every process has that id. Whom it stands for is then written down here, and
//! the process carries the number of the line in its RLIMIT_LOCKS, which Linux does not use: children inherit it, exec
//! keeps it, the threads of a process share it, and whoever knows the process's id can read it. So nothing has to
//! follow processes as they come and go.
//!
//! These identities are bookkeeping, no protection: to the kernel all such processes are the same user.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::overlay::Acl;
use crate::sys::limit;

mod asking;
mod change;
mod reach;

pub(crate) use asking::asks_as_real;
pub use change::{Denied, Id};

/// The user or group ids of a process: credentials(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ids {
    /// Who started it.
    pub real: u32,
    /// As whom it acts.
    pub effective: u32,
    /// As whom it may act again.
    pub saved: u32,
    /// As whom it uses files.
    pub filesystem: u32,
}

impl Ids {
    /// All four the same.
    pub fn all(id: u32) -> Self {
        Self {
            real: id,
            effective: id,
            saved: id,
            filesystem: id,
        }
    }

    /// Whether it is the real, the effective or the saved one.
    pub fn contains(&self, id: u32) -> bool {
        [self.real, self.effective, self.saved].contains(&id)
    }
}

/// A capability by its number: capabilities(7), linux/capability.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the manual's.
pub enum Capability {
    Chown = 0,
    DacOverride = 1,
    DacReadSearch = 2,
    Fowner = 3,
    Fsetid = 4,
    Kill = 5,
    Setgid = 6,
    Setuid = 7,
    Setpcap = 8,
    SysChroot = 18,
    Mknod = 27,
    Setfcap = 31,
}

impl Capability {
    /// The mask of it.
    pub const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// Who a process is, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// Its users.
    pub user: Ids,
    /// Its groups.
    pub group: Ids,
    /// Its further groups, sorted.
    pub groups: Vec<u32>,
    /// Its capabilities, as a bit mask.
    pub permitted: u64,
    /// Those in force.
    pub effective: u64,
    /// Those that it passes on.
    pub inheritable: u64,
    /// What it and its descendants can ever have.
    pub bounding: u64,
    /// Whether it keeps its capabilities when it is root no longer (PR_SET_KEEPCAPS).
    pub keeps_capabilities: bool,
}

impl Credential {
    /// Root with these capabilities.
    pub fn root(capabilities: u64) -> Self {
        Self {
            user: Ids::default(),
            group: Ids::default(),
            groups: Vec::new(),
            permitted: capabilities,
            effective: capabilities,
            inheritable: 0,
            bounding: capabilities,
            keeps_capabilities: false,
        }
    }

    /// Whether a capability is in force.
    pub fn has(&self, capability: Capability) -> bool {
        self.effective & capability.bit() != 0
    }

    /// Whether it uses files as a member of group `gid`.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.group.filesystem == gid || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether access(2) asks about another than whom it uses files as.
    pub fn asks_for_another(&self) -> bool {
        self.user.real != self.user.filesystem
            || self.group.real != self.group.filesystem
            || self.effective != self.effective_as_real()
    }

    /// As whom access(2) asks: the real user, with the capabilities that it would have.
    pub fn as_real(&self) -> Self {
        let mut real = self.clone();
        real.user.filesystem = self.user.real;
        real.group.filesystem = self.group.real;
        real.effective = self.effective_as_real();
        real
    }

    fn effective_as_real(&self) -> u64 {
        match self.user.real {
            0 => self.permitted,
            _ => 0,
        }
    }

    /// Whether no file is closed to it and it may do with each what its owner may.
    pub fn overrides_permissions(&self) -> bool {
        self.has(Capability::DacOverride) && self.has(Capability::Fowner)
    }

    /// Whether it may use a file with this type and these permission bits, `owner` being user and group, in the ways
    /// of `wanted` (a sum of `R_OK`, `W_OK`, `X_OK`): path_resolution(7), capabilities(7). If there is a `list`, it counts
    /// and not the bits: acl(5).
    pub fn may(
        &self,
        wanted: u32,
        is_directory: bool,
        (mode, list): (u32, Option<&Acl>),
        (uid, gid): (u32, u32),
    ) -> bool {
        let user = self.user.filesystem;
        let bits = if user == uid {
            mode >> 6
        } else if self.is_in_group(gid) {
            mode >> 3
        } else {
            mode
        };
        let is_granted = match list {
            Some(list) => list.grants(wanted, user, |gid| self.is_in_group(gid), (uid, gid)),
            None => wanted & !bits & 7 == 0,
        };
        let executes = wanted & libc::X_OK as u32 != 0;
        let writes = wanted & libc::W_OK as u32 != 0;
        is_granted
            || self.has(Capability::DacOverride) && (is_directory || !executes || mode & 0o111 != 0)
            || self.has(Capability::DacReadSearch) && !writes && (is_directory || !executes)
    }
}

/// The credentials of the processes of a step, by their numbers.
#[derive(Debug)]
pub struct Callers {
    root: Arc<Credential>,
    known: Mutex<Known>,
}

impl Default for Callers {
    /// A table in which every process is root until it is given another credential.
    fn default() -> Self {
        Self {
            root: Arc::new(Credential::root(u64::MAX)),
            known: Mutex::default(),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    by_number: Vec<Arc<Credential>>,
    numbers: HashMap<Arc<Credential>, u64>,
}

impl Callers {
    /// The credential of a process or thread; `None` if it was given none, or is no more.
    pub fn given(&self, pid: u32) -> Option<Arc<Credential>> {
        self.numbered(limit::locks(pid).ok()?)
    }

    /// The credential with this number.
    pub fn numbered(&self, number: u64) -> Option<Arc<Credential>> {
        let at = usize::try_from(number).ok()?;
        self.known().by_number.get(at).map(Arc::clone)
    }

    /// The credential of a process or thread: root's if it was given none.
    pub fn of(&self, pid: u32) -> Arc<Credential> {
        self.given(pid).unwrap_or_else(|| Arc::clone(&self.root))
    }

    /// Makes a process this one.
    ///
    /// # Errors
    /// What prlimit(2) says: ESRCH if the process is no more.
    pub fn give(&self, pid: u32, credential: Credential) -> io::Result<()> {
        let number = self.number(credential);
        limit::set_locks(pid, number)
    }

    fn number(&self, credential: Credential) -> u64 {
        let mut known = self.known();
        if let Some(number) = known.numbers.get(&credential) {
            return *number;
        }
        let number = known.by_number.len() as u64;
        let credential = Arc::new(credential);
        known.by_number.push(Arc::clone(&credential));
        known.numbers.insert(credential, number);
        number
    }

    /// No panic can leave the table half-changed in a way that matters more than going on.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_those_of_the_first_class_that_fits() {
        let mut user = Credential::root(0);
        (user.user, user.group, user.groups) = (Ids::all(33), Ids::all(33), vec![5, 7]);
        let may = |wanted, mode, owner| user.may(wanted, false, (mode, None), owner);
        assert!(may(4, 0o400, (33, 0)) && !may(2, 0o400, (33, 0)));
        // The owner is no "other", even where others may more.
        assert!(!may(4, 0o077, (33, 0)));
        assert!(may(2, 0o020, (0, 7)) && !may(2, 0o002, (0, 7)));
        assert!(may(4, 0o004, (0, 0)) && !may(4, 0o440, (0, 0)));
    }

    #[test]
    fn root_may_all_but_execute_what_nobody_may() {
        let root = Credential::root(u64::MAX);
        let may = |wanted, is_directory, mode| root.may(wanted, is_directory, (mode, None), (1, 1));
        assert!(may(6, false, 0) && may(7, true, 0));
        assert!(!may(1, false, 0o666) && may(1, false, 0o001));
    }

    #[test]
    fn a_process_carries_its_credential() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("started");
        let callers = Callers::default();
        assert_eq!(callers.given(child.id()), None);
        let mut other = Credential::root(0);
        other.user = Ids::all(4_000_000_000);
        callers.give(child.id(), other.clone()).expect("given");
        assert_eq!(*callers.of(child.id()), other);
        callers.give(child.id(), Credential::root(1)).expect("given");
        callers.give(child.id(), other.clone()).expect("given again");
        assert_eq!(*callers.of(child.id()), other);
        assert_eq!(callers.known().by_number.len(), 2);
        child.kill().expect("killed");
        child.wait().expect("waited for");
    }
}
