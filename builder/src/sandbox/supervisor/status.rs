//! stat(2) and its kin: the owners that our metadata has.

use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::Place;
use crate::sandbox::seccomp::bpf::Architecture;
use crate::sandbox::sys;

impl Supervisor {
    /// stat, lstat, fstat, newfstatat, statx and the 32-bit forms.
    pub(super) fn status(&self, call: &Call<'_>) -> Decision {
        if call.caller.is_none() {
            return Ok(Answer::Continue);
        }
        let (place, buffer) = match call.name {
            "fstat" | "fstat64" => (Place::descriptor(call.int(0)), call.argument(1)),
            "stat" | "stat64" => (
                Place::path(call.read_path(call.argument(0))?, true),
                call.argument(1),
            ),
            "lstat" | "lstat64" => (
                Place::path(call.read_path(call.argument(0))?, false),
                call.argument(1),
            ),
            "statx" => return self.extended_status(call),
            _ => (self.place_at(call, call.int(3))?, call.argument(2)),
        };
        // What cannot be found, or not by this thread, the kernel tells of.
        let Ok(mut stat) = self.look(call, &place) else {
            return Ok(Answer::Continue);
        };
        let Some((uid, gid)) = self.owner(call, &place, &stat)? else {
            return Ok(Answer::Continue);
        };
        (stat.st_uid, stat.st_gid) = (uid, gid);
        match call.architecture {
            Architecture::X86_64 | Architecture::Aarch64 => call.write(buffer, sys::bytes_of(&stat))?,
            Architecture::X86 => call.write(buffer, &stat64(&stat))?,
            Architecture::Arm => return Ok(Answer::Continue),
        }
        Ok(Answer::Value(0))
    }

    fn extended_status(&self, call: &Call<'_>) -> Decision {
        let (flags, mask) = (call.int(2), call.unsigned(3));
        if mask & (libc::STATX_UID | libc::STATX_GID) == 0 {
            return Ok(Answer::Continue);
        }
        // Some C libraries give no path where they mean the descriptor.
        let place = match call.argument(1) {
            0 => Place::descriptor(call.int(0)),
            _ => self.place_at(call, flags)?,
        };
        let Ok(file) = self.open_place(call, &place) else {
            return Ok(Answer::Continue);
        };
        let flags = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC) | libc::AT_EMPTY_PATH;
        let mut extended = sys::statx(file.as_fd(), c"", flags, mask)?;
        let plain = fstat(&file)?;
        let Some((uid, gid)) = self.owner(call, &place, &plain)? else {
            return Ok(Answer::Continue);
        };
        (extended.stx_uid, extended.stx_gid) = (uid, gid);
        call.write(call.argument(4), sys::bytes_of(&extended))?;
        Ok(Answer::Value(0))
    }

    pub(super) fn place_at(&self, call: &Call<'_>, flags: i32) -> Result<Place, Errno> {
        Ok(Place::at(call.int(0), call.read_path(call.argument(1))?, flags))
    }

    /// Whose it is, if the kernel would tell it wrongly.
    fn owner(&self, call: &Call<'_>, place: &Place, stat: &FileStat) -> Result<Option<(u32, u32)>, Errno> {
        let Some(node) = self.node(stat) else {
            let process = process_of(place.path.as_bytes());
            let owner = process.and_then(|number| self.credential_inside(&number));
            let owner = owner.map(|owner| (owner.user.effective, owner.group.effective));
            return Ok(owner.or_else(|| self.foreign_owner(stat)));
        };
        let attr = node.attr()?;
        if !node.is_reached_by(&self.caller(call), call.pid) {
            return Err(Errno::EACCES);
        }
        let is_roots = (attr.uid, attr.gid) == (0, 0);
        Ok((!is_roots).then_some((attr.uid, attr.gid)))
    }
}

/// The process that a path below /proc is about, as the step numbers it.
fn process_of(path: &[u8]) -> Option<String> {
    let name = path.strip_prefix(b"/proc/")?.split(|byte| *byte == b'/').next()?;
    let is_number = !name.is_empty() && name.iter().all(u8::is_ascii_digit);
    is_number.then(|| String::from_utf8_lossy(name).into_owned())
}

/// `struct stat64` of 32-bit x86, as arch/x86/include/uapi/asm/stat.h has it.
fn stat64(stat: &FileStat) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(96);
    let mut put = |piece: &[u8]| bytes.extend_from_slice(piece);
    let seconds = |time: i64| (time as u32).to_ne_bytes();
    put(&stat.st_dev.to_ne_bytes());
    put(&[0; 4]);
    put(&(stat.st_ino as u32).to_ne_bytes());
    put(&stat.st_mode.to_ne_bytes());
    put(&(stat.st_nlink as u32).to_ne_bytes());
    put(&stat.st_uid.to_ne_bytes());
    put(&stat.st_gid.to_ne_bytes());
    put(&stat.st_rdev.to_ne_bytes());
    put(&[0; 4]);
    put(&stat.st_size.to_ne_bytes());
    put(&(stat.st_blksize as u32).to_ne_bytes());
    put(&stat.st_blocks.to_ne_bytes());
    for (time, nanoseconds) in [
        (stat.st_atime, stat.st_atime_nsec),
        (stat.st_mtime, stat.st_mtime_nsec),
        (stat.st_ctime, stat.st_ctime_nsec),
    ] {
        put(&seconds(time));
        put(&seconds(nanoseconds));
    }
    put(&stat.st_ino.to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_32_bit_form_has_its_length() {
        let stat = nix::sys::stat::stat("/").expect("there is a root");
        assert_eq!(stat64(&stat).len(), 96);
    }
}
