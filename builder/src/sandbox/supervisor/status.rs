//! stat(2) and its kin: the owners that our metadata has.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use mica_fs::caller::Credential;
use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::sys::stat::FileStat;

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::{Place, Seen, of_itself};
use crate::sandbox::seccomp::bpf::Architecture;
use crate::sandbox::sys;

/// What stat(2) and its kin may be told. Of all else the kernel says that it is wrong.
const KNOWN_FLAGS: i32 =
    libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH | libc::AT_STATX_SYNC_TYPE;

impl Supervisor {
    /// stat, lstat, fstat, newfstatat, statx and the 32-bit forms.
    pub(super) fn status(&self, call: &Call<'_>) -> Decision {
        if call.caller.is_none() {
            return Ok(Answer::Continue);
        }
        let (place, buffer) = match call.name {
            "fstat" | "fstat64" => (Place::descriptor(call.int(0)), call.argument(1)),
            "stat" | "stat64" => (
                Place::path(call.read_path(call.argument(0))?, true)?,
                call.argument(1),
            ),
            "lstat" | "lstat64" => (
                Place::path(call.read_path(call.argument(0))?, false)?,
                call.argument(1),
            ),
            "statx" => return self.extended_status(call),
            _ => match call.int(3) {
                flags if flags & !KNOWN_FLAGS != 0 => return Ok(Answer::Continue),
                flags => (self.place_at(call, flags)?, call.argument(2)),
            },
        };
        let Some(told) = self.told(call, &place, 0, libc::STATX_BASIC_STATS)? else {
            return Ok(Answer::Continue);
        };
        let stat = sys::stat_of(&told);
        match call.architecture {
            Architecture::X86_64 | Architecture::Aarch64 => call.write(buffer, sys::bytes_of(&stat))?,
            Architecture::X86 => call.write(buffer, &stat64(&stat))?,
            Architecture::Arm => return Ok(Answer::Continue),
        }
        Ok(Answer::Value(0))
    }

    fn extended_status(&self, call: &Call<'_>) -> Decision {
        let (flags, mask) = (call.int(2), call.unsigned(3));
        if mask & (libc::STATX_UID | libc::STATX_GID) == 0 || flags & !KNOWN_FLAGS != 0 {
            return Ok(Answer::Continue);
        }
        // Some C libraries give no path where they mean the descriptor.
        let place = match call.argument(1) {
            0 => Place::descriptor(call.int(0)),
            _ => self.place_at(call, flags)?,
        };
        let fresh = flags & (libc::AT_STATX_FORCE_SYNC | libc::AT_STATX_DONT_SYNC);
        let Some(told) = self.told(call, &place, fresh, mask)? else {
            return Ok(Answer::Continue);
        };
        call.write(call.argument(4), sys::bytes_of(&told))?;
        Ok(Answer::Value(0))
    }

    /// What statx(2) with this mask is to tell about a place; `None` if the kernel tells it as well, or if it is not
    /// certain here.
    fn told(
        &self,
        call: &Call<'_>,
        place: &Place,
        flags: i32,
        mask: u32,
    ) -> Result<Option<libc::statx>, Errno> {
        // Whenever a file is closed, the kernel forgets the space it takes, and then would ask the mount for it.
        let without = mask & !libc::STATX_BLOCKS;
        let Ok(seen) = self.look(call, place, flags, without) else {
            return Ok(None);
        };
        let (owner, mut told) = match self.node(&seen) {
            None => match self.stranger(call, place, &seen) {
                Some(owner) => (owner, None),
                None => return Ok(None),
            },
            Some(node) => {
                let Ok((attr, is_all)) = node.attr_at_hand() else {
                    return Ok(None);
                };
                if !node.is_reached_by(&self.caller(call), call.pid) {
                    return Err(Errno::EACCES);
                }
                let owner = (attr.uid, attr.gid);
                if !is_all && owner == (0, 0) {
                    return Ok(None);
                }
                let mut told = seen.0;
                told.stx_blocks = attr.blocks;
                told.stx_mask |= mask & libc::STATX_BLOCKS;
                (owner, is_all.then_some(told))
            }
        };
        if told.is_none() {
            let whole = self.look(call, place, flags, mask);
            let same = whole.ok().filter(|whole| whole.identity() == seen.identity());
            told = same.map(|Seen(told)| told);
        }
        if let Some(told) = &mut told {
            (told.stx_uid, told.stx_gid) = owner;
        }
        Ok(told)
    }

    /// Whose a file of a filesystem is that is not ours, if the kernel would tell it wrongly.
    fn stranger(&self, call: &Call<'_>, place: &Place, seen: &Seen) -> Option<(u32, u32)> {
        let (device, _) = seen.identity();
        let owner = if device == self.own_processes && of_itself(place).is_some() {
            call.caller.clone()
        } else if device == self.step_processes {
            self.process_owner(call, place)
        } else {
            None
        };
        let owner = owner.map(|owner| (owner.user.effective, owner.group.effective));
        owner.or_else(|| self.foreign_owner(seen))
    }

    /// Who the process is that a place in /proc is about.
    fn process_owner(&self, call: &Call<'_>, place: &Place) -> Option<Arc<Credential>> {
        let open = self.open_place(call, place).ok()?;
        let link = format!("thread-self/fd/{}", open.as_raw_fd());
        let path = readlinkat(&self.processes, link.as_str()).ok()?;
        self.credential_inside(&process_of(path.as_encoded_bytes())?)
    }

    pub(super) fn place_at(&self, call: &Call<'_>, flags: i32) -> Result<Place, Errno> {
        Place::at(call.int(0), call.read_path(call.argument(1))?, flags)
    }
}

/// The process that a path below /proc is about, as it is numbered there.
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
