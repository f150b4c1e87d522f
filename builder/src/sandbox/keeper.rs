//! The keeper: a process that ends mica's mounts when mica is killed.
//!
//! The kernel ends a mount when nobody holds its connection any more. But a thread of mica may be in the middle of a
//! request to mica's own mount: it unmounts it, or asks for a file on it. Killed, it still waits for the answer; those
//! that would give it are dead; and it holds the connection, which it shares with them. So all would stay as it is for
//! good: mica, the step and the mount. The keeper shares nothing with mica but the mount namespace, hears from the kernel
//! that a thread of mica has ended which never asks anything, and breaks the connections off.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use nix::mount::{MntFlags, umount2};
use nix::sys::prctl;
use nix::unistd::{Pid, setsid};

use super::program::Program;
use super::sys::{self, pidfd_open, pidfd_signal};

/// The hidden first argument under which the program must call [`keeper_main`] before anything else.
pub const KEEPER_ARG: &str = "__mica-keeper";

/// The type of our mounts.
const KIND: &str = "fuse.mica";

/// Has the mounts watched over that this process will make from now on. Does nothing the second time.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The kernel tells the end of the thread that starts a process, so this one does nothing else.
        let thread = thread::Builder::new().name("mica-keeper".to_owned());
        match thread.spawn(keep) {
            Ok(thread) => *lock() = Some(thread),
            Err(error) => without(&error),
        }
    });
    READY.wait();
}

/// Ends the watch, to be called when all mounts have ended: else the keeper ends after this process, and who then has it
/// as a child may be a container's first process that waits for none.
pub fn dismiss() {
    let Some(thread) = lock().take() else { return };
    let Some(Some(keeper)) = READY.get() else { return };
    if pidfd_signal(keeper, libc::SIGKILL).is_ok() {
        // It has waited for the keeper by then.
        let _ = thread.join();
    }
}

/// The thread that has started the keeper, and waits for it.
fn lock() -> MutexGuard<'static, Option<JoinHandle<()>>> {
    static THREAD: Mutex<Option<JoinHandle<()>>> = Mutex::new(None);
    THREAD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The keeper, once it is there or is known not to be.
static READY: OnceLock<Option<OwnedFd>> = OnceLock::new();

/// Mounts end all the same, but for those that mica is asking something when it is killed.
fn without(error: &io::Error) {
    tracing::debug!("nothing watches over the mounts: {error}");
    READY.get_or_init(|| None);
}

fn keep() {
    let start = || {
        let mut command = Command::new(Program::get()?.path());
        let others: Vec<_> = mounts()?.into_iter().map(|mount| mount.id).collect();
        command.arg0("mica").arg(KEEPER_ARG).arg(others.join(","));
        command.env_clear().current_dir("/");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sys::tell_parent_s_end(&mut command);
        command.spawn()
    };
    match start() {
        Ok(mut keeper) => {
            // It ends after this process, unless it is told to end before.
            let process = Pid::from_raw(i32::try_from(keeper.id()).unwrap_or_default());
            READY.get_or_init(|| pidfd_open(process).ok());
            if let Err(error) = keeper.wait() {
                tracing::debug!("the keeper of the mounts is lost: {error}");
            }
        }
        Err(error) => without(&error),
    }
}

/// The main function of the program when its first argument is [`KEEPER_ARG`]; the second one names the mounts that are
/// others'.
pub fn keeper_main(others: &str) -> ! {
    // Out of reach of what is sent to mica's process group or terminal.
    let _ = setsid();
    let _ = prctl::set_name(c"mica-keeper");
    // Whatever it was given: it must hold nothing of mica's.
    let status = match sys::close_from(3).map(|()| sys::await_parent_s_end()) {
        Ok(Ok(())) => end_mounts(&others.split(',').collect()),
        _ => 1,
    };
    sys::exit_now(status)
}

fn end_mounts(others: &BTreeSet<&str>) -> i32 {
    let Ok(mounts) = mounts() else { return 1 };
    for mount in mounts {
        if !others.contains(mount.id.as_str()) {
            // Forced: requests without an answer fail. That it has gone meanwhile is well.
            let flags = MntFlags::MNT_FORCE | MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
            let _ = umount2(mount.point.as_str(), flags);
        }
    }
    0
}

struct Mount {
    id: String,
    point: String,
}

/// The mounts of mica that were made in this mount namespace.
fn mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(parse).collect())
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`: proc_pid_mountinfo(5). What came from the
/// namespace of the machine has a master there.
fn parse(line: &str) -> Option<Mount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = mount.split(' ');
    let id = fields.next()?.to_owned();
    let point = unescape(fields.nth(3)?)?;
    let is_own = fields.skip(1).all(|field| !field.starts_with("master:"));
    (is_own && filesystem.split(' ').next()? == KIND).then_some(Mount { id, point })
}

/// Characters that would end a field are written as `\040`.
fn unescape(text: &str) -> Option<String> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(code, 8).ok()?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_mounts_are_told_from_those_of_the_machine() {
        let found = |line| parse(line).map(|mount| (mount.id, mount.point));
        let own = "42 27 0:39 / /a\\040b/root rw,nosuid - fuse.mica mica rw,user_id=0";
        assert_eq!(found(own), Some(("42".to_owned(), "/a b/root".to_owned())));
        assert_eq!(found("42 27 0:39 / /root rw master:3 - fuse.mica mica rw"), None);
        assert_eq!(found("42 27 0:39 / /root rw - fuse.sshfs mica rw"), None);
        assert_eq!(found("42 27 0:39 / /a\\9 rw - fuse.mica mica rw"), None);
    }
}
