//! mknod(2) of devices: they are metadata of our filesystem, which the kernel has no say in.

use std::ffi::CString;

use mica_fs::caller::{Capability, Credential, Ids};
use mica_fs::layer::Device;
use mica_fs::overlay::{NewKind, Owner};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::{Place, Seen};

const WRITE: u32 = libc::W_OK as u32;
const EXECUTE: u32 = libc::X_OK as u32;

impl Supervisor {
    /// mknod, mknodat of a device. Elsewhere than on our filesystems the kernel says what it always says.
    pub(super) fn make_device(&self, call: &Call<'_>) -> Decision {
        let (directory, at) = match call.name {
            "mknod" => (libc::AT_FDCWD, 0),
            _ => (call.int(0), 1),
        };
        let path = call.read_path(call.argument(at))?;
        let (mode, device) = (call.unsigned(at + 1), call.argument(at + 2));
        let (parent, name) = split(path.as_bytes());
        let Ok(parent) = CString::new(parent) else {
            return Ok(Answer::Continue);
        };
        // In a mount namespace of its own a path may mean something else.
        if !self.is_in_the_mounts(call.pid) {
            return Ok(Answer::Continue);
        }
        let parent = Place {
            directory,
            path: parent,
            follow: true,
        };
        let place = self.open_place(call, &parent)?;
        let seen = Seen::of(&place, libc::AT_STATX_DONT_SYNC, libc::STATX_INO)?;
        let Some(parent) = self.node(&seen) else {
            return Ok(Answer::Continue);
        };
        if fstatvfs(&place)?.flags().contains(FsFlags::ST_RDONLY) {
            return Err(Errno::EROFS);
        }
        let caller = self.caller(call);
        call.must_be_pending()?;
        if !caller.has(Capability::Mknod) {
            return Err(Errno::EPERM);
        }
        if !parent.is_reached_by(&caller, call.pid) {
            return Err(Errno::EACCES);
        }
        if !parent.allows(&caller, WRITE | EXECUTE)? {
            return Err(Errno::EACCES);
        }
        // The short form of the number, which is what the call takes.
        let device = Device {
            major: (device >> 8 & 0xfff) as u32,
            minor: (device & 0xff) as u32 | (device >> 12 & 0xfff00) as u32,
        };
        let kind = match mode & libc::S_IFMT {
            libc::S_IFCHR => NewKind::CharDevice(device),
            libc::S_IFBLK => NewKind::BlockDevice(device),
            _ => return Ok(Answer::Continue),
        };
        let owner = Owner {
            uid: caller.user.filesystem,
            gid: caller.group.filesystem,
        };
        let mode = (mode & 0o7777, self.umask(call.pid));
        let overlay = &parent.tree.overlay;
        let made = overlay.create_masked(parent.ino, name, kind, mode, owner);
        let made = made.map_err(|error| Errno::from_raw(error.errno()))?;
        // The kernel was not told of the node, and so does not refer to it.
        overlay.forget(made.ino, 1);
        parent.tree.kernel.forget_name(parent.ino, name);
        Ok(Answer::Value(0))
    }

    /// The file mode creation mask of a process; 022 if it cannot be read.
    fn umask(&self, pid: u32) -> u32 {
        self.process_field(pid, "Umask:")
            .and_then(|mask| u32::from_str_radix(&mask, 8).ok())
            .unwrap_or(0o022)
    }

    fn is_in_the_mounts(&self, pid: u32) -> bool {
        let link = format!("{pid}/ns/mnt");
        fstatat(&self.processes, link.as_str(), AtFlags::empty())
            .is_ok_and(|namespace| (namespace.st_dev, namespace.st_ino) == self.mounts)
    }

    /// Who a process is by what the kernel says in /proc/PID/status: its ids there are those of the reader's user
    /// namespace, which are the image's. `None` if it is no more.
    pub(super) fn credential_of_kernel(&self, pid: u32) -> Option<Credential> {
        let mut credential = credential(|name| self.process_field(pid, name))?;
        // Where mica has not got this capability, no step can have it; Docker's root has.
        if !self.grants_devices && credential.user.filesystem == 0 {
            credential.effective |= Capability::Mknod.bit();
        }
        Some(credential)
    }
}

/// The fields of proc_pid_status(5).
fn credential(field: impl Fn(&str) -> Option<String>) -> Option<Credential> {
    let numbers = |name| -> Option<Vec<u32>> {
        let field = field(name)?;
        field.split_whitespace().map(|id| id.parse().ok()).collect()
    };
    let ids = |name| match *numbers(name)?.as_slice() {
        [real, effective, saved, filesystem] => Some(Ids {
            real,
            effective,
            saved,
            filesystem,
        }),
        _ => None,
    };
    let set = |name| u64::from_str_radix(&field(name)?, 16).ok();
    let mut groups = numbers("Groups:")?;
    groups.sort_unstable();
    Some(Credential {
        user: ids("Uid:")?,
        group: ids("Gid:")?,
        groups,
        permitted: set("CapPrm:")?,
        effective: set("CapEff:")?,
        inheritable: set("CapInh:")?,
        bounding: set("CapBnd:")?,
        keeps_capabilities: false,
    })
}

/// The directory of a path, and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b".", path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_process_is_stands_in_its_status() {
        let status = |name: &str| {
            let value = match name {
                "Uid:" => "1\t2\t3\t4",
                "Gid:" => "5\t6\t7\t8",
                "Groups:" => "33 9 ",
                "CapEff:" => "00000000a80425fb",
                _ => "0000000000000000",
            };
            Some(value.to_owned())
        };
        let known = credential(status).expect("all fields are there");
        assert_eq!(
            (known.user.real, known.user.filesystem, known.group.saved),
            (1, 4, 7)
        );
        assert!(known.is_in_group(33) && known.is_in_group(8) && known.has(Capability::Mknod));
        assert!(credential(|name| status(name).filter(|_| name != "CapBnd:")).is_none());
    }

    #[test]
    fn paths_are_split_before_their_last_name() {
        assert_eq!(split(b"/dev/null"), (&b"/dev"[..], &b"null"[..]));
        assert_eq!(split(b"/null"), (&b"/"[..], &b"null"[..]));
        assert_eq!(split(b"null"), (&b"."[..], &b"null"[..]));
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
    }
}
