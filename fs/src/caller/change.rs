//! How a process becomes another: setuid(2) and its kin, capset(2), and what exec does; credentials(7),
//! capabilities(7).

use super::{Capability, Credential, Ids};

/// An id that a call sets, or leaves as it is (-1).
pub type Id = Option<u32>;

/// The process may not do that: EPERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied;

/// The capabilities that go with using files as root: `CAP_FS_SET` of the kernel.
const FILES: u64 = Capability::Chown.bit()
    | Capability::DacOverride.bit()
    | Capability::DacReadSearch.bit()
    | Capability::Fowner.bit()
    | Capability::Fsetid.bit()
    | Capability::Mknod.bit();

impl Ids {
    /// setuid(2), setgid(2).
    fn set(&mut self, id: u32, privileged: bool) -> Result<(), Denied> {
        if privileged {
            *self = Self::all(id);
        } else if id == self.real || id == self.saved {
            (self.effective, self.filesystem) = (id, id);
        } else {
            return Err(Denied);
        }
        Ok(())
    }

    /// setreuid(2), setregid(2).
    fn set_real(&mut self, real: Id, effective: Id, privileged: bool) -> Result<(), Denied> {
        let before = *self;
        let may_be_real = |id| privileged || id == before.real || id == before.effective;
        let may_be_effective = |id| privileged || before.contains(id);
        if !real.is_none_or(may_be_real) || !effective.is_none_or(may_be_effective) {
            return Err(Denied);
        }
        self.real = real.unwrap_or(before.real);
        self.effective = effective.unwrap_or(before.effective);
        if real.is_some() || effective.is_some_and(|id| id != before.real) {
            self.saved = self.effective;
        }
        self.filesystem = self.effective;
        Ok(())
    }

    /// setresuid(2), setresgid(2).
    fn set_all(&mut self, [real, effective, saved]: [Id; 3], privileged: bool) -> Result<(), Denied> {
        let allowed = |id: Id| privileged || id.is_none_or(|id| self.contains(id));
        if ![real, effective, saved].into_iter().all(allowed) {
            return Err(Denied);
        }
        let is = |id: Id, now: u32| id.is_none_or(|id| id == now);
        let acts = is(effective, self.effective) && is(effective, self.filesystem);
        if is(real, self.real) && is(saved, self.saved) && acts {
            // What changes nothing leaves the one for files as well.
            return Ok(());
        }
        self.real = real.unwrap_or(self.real);
        self.effective = effective.unwrap_or(self.effective);
        self.saved = saved.unwrap_or(self.saved);
        self.filesystem = self.effective;
        Ok(())
    }

    /// setfsuid(2), setfsgid(2), which never fail.
    fn set_filesystem(&mut self, id: u32, privileged: bool) {
        if privileged || self.contains(id) || id == self.filesystem {
            self.filesystem = id;
        }
    }

    fn has_root(&self) -> bool {
        self.contains(0)
    }
}

impl Credential {
    /// setuid(2).
    pub fn set_uid(&mut self, id: u32) -> Result<(), Denied> {
        self.change_user(|user, privileged| user.set(id, privileged))
    }

    /// setreuid(2).
    pub fn set_reuid(&mut self, real: Id, effective: Id) -> Result<(), Denied> {
        self.change_user(|user, privileged| user.set_real(real, effective, privileged))
    }

    /// setresuid(2).
    pub fn set_resuid(&mut self, ids: [Id; 3]) -> Result<(), Denied> {
        self.change_user(|user, privileged| user.set_all(ids, privileged))
    }

    /// setfsuid(2); gives the id from before.
    pub fn set_fsuid(&mut self, id: u32) -> u32 {
        let before = self.user.filesystem;
        self.user.set_filesystem(id, self.has(Capability::Setuid));
        match (before, self.user.filesystem) {
            (0, 1..) => self.effective &= !FILES,
            (1.., 0) => self.effective |= FILES & self.permitted,
            _ => {}
        }
        before
    }

    /// setgid(2).
    pub fn set_gid(&mut self, id: u32) -> Result<(), Denied> {
        let privileged = self.has(Capability::Setgid);
        self.group.set(id, privileged)
    }

    /// setregid(2).
    pub fn set_regid(&mut self, real: Id, effective: Id) -> Result<(), Denied> {
        let privileged = self.has(Capability::Setgid);
        self.group.set_real(real, effective, privileged)
    }

    /// setresgid(2).
    pub fn set_resgid(&mut self, ids: [Id; 3]) -> Result<(), Denied> {
        let privileged = self.has(Capability::Setgid);
        self.group.set_all(ids, privileged)
    }

    /// setfsgid(2); gives the id from before.
    pub fn set_fsgid(&mut self, id: u32) -> u32 {
        let before = self.group.filesystem;
        self.group.set_filesystem(id, self.has(Capability::Setgid));
        before
    }

    /// setgroups(2).
    pub fn set_groups(&mut self, mut groups: Vec<u32>) -> Result<(), Denied> {
        if !self.has(Capability::Setgid) {
            return Err(Denied);
        }
        groups.sort_unstable();
        self.groups = groups;
        Ok(())
    }

    /// capset(2).
    pub fn set_capabilities(
        &mut self,
        effective: u64,
        permitted: u64,
        inheritable: u64,
    ) -> Result<(), Denied> {
        let within = |set: u64, limit: u64| set & !limit == 0;
        if !within(permitted, self.permitted)
            || !within(effective, permitted)
            || !within(inheritable, self.inheritable | self.bounding)
        {
            return Err(Denied);
        }
        (self.effective, self.permitted, self.inheritable) = (effective, permitted, inheritable);
        Ok(())
    }

    /// PR_CAPBSET_DROP of prctl(2).
    pub fn drop_bounding(&mut self, capabilities: u64) -> Result<(), Denied> {
        if !self.has(Capability::Setpcap) {
            return Err(Denied);
        }
        self.bounding &= !capabilities;
        Ok(())
    }

    /// [`Self::executing`] for a process that gains nothing by it any more (PR_SET_NO_NEW_PRIVS).
    pub fn executing_without_gain(&self) -> Self {
        let mut next = self.executing(None, None);
        next.permitted &= self.permitted;
        next.effective &= next.permitted;
        next
    }

    /// What execve(2) makes of it, `user` and `group` being the owners of a program with the set-ID bits.
    pub fn executing(&self, user: Id, group: Id) -> Self {
        let mut next = self.clone();
        next.keeps_capabilities = false;
        next.user.effective = user.unwrap_or(next.user.effective);
        next.group.effective = group.unwrap_or(next.group.effective);
        for ids in [&mut next.user, &mut next.group] {
            (ids.saved, ids.filesystem) = (ids.effective, ids.effective);
        }
        let is_root = next.user.real == 0 || next.user.effective == 0;
        next.permitted = match is_root {
            true => next.bounding | next.inheritable,
            false => 0,
        };
        next.effective = if next.user.effective == 0 {
            next.permitted
        } else {
            0
        };
        next
    }

    /// Capabilities follow the user: `cap_emulate_setxuid` of the kernel.
    fn change_user(
        &mut self,
        change: impl FnOnce(&mut Ids, bool) -> Result<(), Denied>,
    ) -> Result<(), Denied> {
        let before = self.user;
        let privileged = self.has(Capability::Setuid);
        change(&mut self.user, privileged)?;
        let after = self.user;
        if before.has_root() && !after.has_root() && !self.keeps_capabilities {
            (self.permitted, self.effective) = (0, 0);
        }
        match (before.effective, after.effective) {
            (0, 1..) => self.effective = 0,
            (1.., 0) => self.effective = self.permitted,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Credential {
        Credential::root(u64::MAX)
    }

    #[test]
    fn who_drops_root_for_good_cannot_come_back() {
        let mut process = root();
        process.set_groups(vec![9, 4]).expect("root");
        process.set_resgid([Some(33); 3]).expect("root");
        process.set_uid(33).expect("root");
        assert_eq!(process.groups, [4, 9]);
        assert_eq!((process.permitted, process.effective), (0, 0));
        assert_eq!(process.set_uid(0), Err(Denied));
        assert_eq!(process.set_resuid([None, Some(0), None]), Err(Denied));
        assert_eq!(process.set_groups(Vec::new()), Err(Denied));
        assert_eq!(process.set_gid(0), Err(Denied));
        assert_eq!(process.set_uid(33), Ok(()));
    }

    #[test]
    fn who_keeps_the_saved_id_can_come_back() {
        let mut process = root();
        process.set_resuid([None, Some(100), None]).expect("root");
        assert!(process.effective == 0 && process.permitted != 0);
        assert!(!process.overrides_permissions());
        process.set_resuid([None, Some(0), None]).expect("saved");
        assert!(process.overrides_permissions());
        // With -1 for the real id and another effective one, the saved one follows: setreuid(2).
        process.set_reuid(None, Some(7)).expect("root");
        assert_eq!((process.user.real, process.user.saved), (0, 7));
    }

    #[test]
    fn capabilities_can_be_kept_over_a_change_of_user() {
        let mut process = root();
        process.keeps_capabilities = true;
        process.set_resuid([Some(33); 3]).expect("root");
        assert!(process.permitted != 0 && process.effective == 0);
        let permitted = process.permitted;
        process
            .set_capabilities(permitted, permitted, 0)
            .expect("its own");
        assert!(process.has(Capability::Setgid));
        process.set_capabilities(0, 0, 0).expect("fewer");
        assert_eq!(process.set_capabilities(1, 1, 0), Err(Denied));
    }

    #[test]
    fn files_can_be_used_as_somebody_else() {
        let mut process = root();
        assert_eq!(process.set_fsuid(5), 0);
        assert!(!process.has(Capability::DacOverride) && process.has(Capability::Setuid));
        assert_eq!(process.set_fsuid(0), 5);
        assert!(process.has(Capability::DacOverride));
    }

    #[test]
    fn a_set_user_id_program_is_its_owner() {
        let mut process = root();
        process.set_uid(1000).expect("root");
        let sudo = process.executing(Some(0), None);
        assert_eq!(
            (sudo.user.real, sudo.user.effective, sudo.user.saved),
            (1000, 0, 0)
        );
        assert!(sudo.overrides_permissions());
        let plain = process.executing(None, None);
        assert_eq!(plain, process);
        // Root that acts as another gets nothing in force from an exec.
        let mut process = root();
        process.set_resuid([None, Some(5), Some(0)]).expect("root");
        let program = process.executing(None, None);
        assert_eq!((program.effective, program.user.saved), (0, 5));
    }
}
