//! Sets of Linux capabilities, and the one that a step gets.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::sys;

/// What a step's root user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Capabilities {
    /// Docker's default: 14 capabilities, masked and read-only paths in /proc and /sys.
    #[default]
    Default,
    /// All that mica itself has, and nothing masked: BuildKit's `security.insecure`.
    All,
}

/// A set of capabilities, as the kernel's bit mask: bit N is capability number N.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CapabilitySet(u64);

/// The last one of Linux 6.18, CAP_CHECKPOINT_RESTORE.
const LAST: u8 = 40;
/// CAP_KILL of capability.h.
const KILL: u8 = 5;
/// CAP_SETGID, CAP_SETUID and CAP_SETFCAP.
const MAPPING: [u8; 3] = [6, 7, 31];
/// CAP_SYS_ADMIN of capability.h.
const SYS_ADMIN: u8 = 21;
const MKNOD: u8 = 27;

impl Capabilities {
    /// As a bit mask: what a step's root has.
    pub fn bits(self) -> u64 {
        match self {
            Self::Default => CapabilitySet::DEFAULT.bits(),
            Self::All => (1 << (LAST + 1)) - 1,
        }
    }
}

impl CapabilitySet {
    /// Docker's: chown 0, dac_override 1, fowner 3, fsetid 4, kill 5, setgid 6, setuid 7,
    /// setpcap 8, net_bind_service 10, net_raw 13, sys_chroot 18, mknod 27, audit_write 29,
    /// setfcap 31 (moby `oci/caps/defaults.go`).
    pub(super) const DEFAULT: Self = Self::of(&[0, 1, 3, 4, KILL, 6, 7, 8, 10, 13, 18, 27, 29, 31]);

    /// What PID 1 of a step keeps: enough to signal a command that runs as another user.
    pub(super) const INIT: Self = Self::of(&[KILL]);

    const fn of(numbers: &[u8]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < numbers.len() {
            bits |= 1 << numbers[i];
            i += 1;
        }
        Self(bits)
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u64 {
        self.0
    }

    pub(super) const fn contains(self, number: u8) -> bool {
        number < 64 && self.0 >> number & 1 == 1
    }

    const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Whether this process holds CAP_SYS_ADMIN in its user namespace.
pub(super) fn has_sys_admin() -> bool {
    sys::capabilities().is_ok_and(|(effective, _)| effective.contains(SYS_ADMIN))
}

/// Whether this process may write the id maps of a user namespace below its own, root's included: user_namespaces(7).
pub(super) fn maps_ids() -> bool {
    sys::capabilities().is_ok_and(|(effective, _)| MAPPING.iter().all(|number| effective.contains(*number)))
}

/// Whether this process holds CAP_MKNOD in its user namespace, and so can leave it to a step.
pub(super) fn has_mknod() -> bool {
    sys::capabilities().is_ok_and(|(effective, _)| effective.contains(MKNOD))
}

/// Leaves this process, and what it execs, with the step's capabilities and no others.
///
/// Bounding, permitted and effective are the set; inheritable and ambient are empty. What the
/// process does not have is not asked for: mica may itself run in a container.
pub(super) fn drop_to(capabilities: Capabilities) -> Result<(), Errno> {
    let (_, permitted) = sys::capabilities()?;
    let set = match capabilities {
        Capabilities::Default => {
            sys::limit_bounding_set(CapabilitySet::DEFAULT)?;
            permitted.intersection(CapabilitySet::DEFAULT)
        }
        Capabilities::All => permitted,
    };
    sys::clear_ambient_set()?;
    sys::set_capabilities(set)
}

/// Leaves PID 1 with what it needs to forward signals.
pub(super) fn drop_to_init() -> Result<(), Errno> {
    let (_, permitted) = sys::capabilities()?;
    sys::set_capabilities(permitted.intersection(CapabilitySet::INIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_dockers_mask() {
        assert_eq!(CapabilitySet::DEFAULT.bits(), 0xa804_25fb);
        assert!(!CapabilitySet::DEFAULT.contains(SYS_ADMIN));
        assert!(!CapabilitySet::DEFAULT.contains(200));
    }
}
