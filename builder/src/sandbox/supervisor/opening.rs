//! open(2): whether a process may, where the kernel lets each.
//!
//! The filesystem is not asked when a file is opened: to ask it takes several times as long as to ask here, and the step's
//! root, who opens nearly all files, may open each.

use mica_fs::layer::Kind;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::Place;

const READ: u32 = libc::R_OK as u32;
const WRITE: u32 = libc::W_OK as u32;

impl Supervisor {
    /// open, openat, openat2, creat. The kernel does it.
    pub(super) fn open(&self, call: &Call<'_>) -> Decision {
        let Some(caller) = &call.caller else {
            return Ok(Answer::Continue);
        };
        if caller.overrides_permissions() {
            return Ok(Answer::Continue);
        }
        let flags = match call.name {
            "creat" => libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC,
            "open" => call.int(1),
            "openat" => call.int(2),
            // The first word of `struct open_how`, of which the kernel refuses what is not in the lower half.
            _ => call
                .read_words(call.argument(2), 1)?
                .first()
                .map_or(0, |low| *low as i32),
        };
        let follow = match flags & libc::O_NOFOLLOW {
            0 => 0,
            _ => libc::AT_SYMLINK_NOFOLLOW,
        };
        let place = match call.name {
            "creat" | "open" => Place::at(libc::AT_FDCWD, call.read_path(call.argument(0))?, follow)?,
            _ => self.place_at(call, follow)?,
        };
        // What is not there, or cannot be opened so, the kernel tells. Where a name is made the filesystem is asked.
        let Some(node) = self.reached(call, caller, &place)? else {
            return Ok(Answer::Continue);
        };
        let attr = node.attr()?;
        let is_directory = attr.kind == Kind::Directory;
        let Some(wanted) = wanted(flags, is_directory).filter(|_| attr.kind != Kind::Symlink) else {
            return Ok(Answer::Continue);
        };
        match node.allows(caller, wanted)? {
            true => Ok(Answer::Continue),
            false => Err(Errno::EACCES),
        }
    }
}

/// The permissions that open(2) with these flags needs, as a sum of `R_OK` and `W_OK`; `None` if the kernel decides without
/// them: there must be no such file yet, the descriptor is to name the file only, or it is not of the kind that it must be.
fn wanted(flags: i32, is_directory: bool) -> Option<u32> {
    let flags = OFlag::from_bits_retain(flags);
    let unasked = [OFlag::O_CREAT | OFlag::O_EXCL, OFlag::O_PATH, OFlag::O_TMPFILE];
    if unasked.into_iter().any(|unasked| flags.contains(unasked)) {
        return None;
    }
    let access = match flags & OFlag::O_ACCMODE {
        OFlag::O_RDONLY => READ,
        OFlag::O_WRONLY => WRITE,
        _ => READ | WRITE,
    };
    let changes = match flags.contains(OFlag::O_TRUNC) {
        true => WRITE,
        false => 0,
    };
    let wanted = access | changes;
    let fits = match is_directory {
        true => wanted == READ && !flags.contains(OFlag::O_CREAT),
        false => !flags.contains(OFlag::O_DIRECTORY),
    };
    fits.then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_say_what_is_wanted() {
        let (create, write) = (libc::O_CREAT, libc::O_WRONLY);
        let file = |flags| wanted(flags, false);
        assert_eq!(file(libc::O_RDONLY | libc::O_CLOEXEC), Some(READ));
        assert_eq!(file(write | create | libc::O_APPEND), Some(WRITE));
        assert_eq!(file(libc::O_RDONLY | libc::O_TRUNC), Some(READ | WRITE));
        assert_eq!(file(libc::O_RDWR), Some(READ | WRITE));
        for unasked in [
            write | create | libc::O_EXCL,
            libc::O_PATH,
            libc::O_TMPFILE | libc::O_RDWR,
            libc::O_DIRECTORY,
        ] {
            assert_eq!(file(unasked), None);
        }
        assert_eq!(wanted(libc::O_DIRECTORY, true), Some(READ));
        assert_eq!(wanted(write, true), None);
    }
}
