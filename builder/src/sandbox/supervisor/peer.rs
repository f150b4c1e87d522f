//! Who is at the other end of a socket: SO_PEERCRED of unix(7).

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use mica_fs::caller::Credential;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, fstatat};

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use crate::sandbox::sys;

/// The size of `struct ucred`.
const LENGTH: u32 = 12;

impl Supervisor {
    /// getsockopt with SO_PEERCRED: the peer as it is now, where the kernel remembers how it was when it connected.
    pub(super) fn peer(&self, call: &Call<'_>) -> Decision {
        let process = self
            .process_field(call.pid, "Tgid:")
            .and_then(|id| id.parse().ok());
        let socket = sys::borrow_descriptor(process.ok_or(Errno::ESRCH)?, call.int(0))?;
        let peer = getsockopt(&socket, PeerCredentials)?.pid();
        let peer = u32::try_from(peer).unwrap_or_default();
        let Some(credential) = self.ids.callers.given(peer) else {
            return Ok(Answer::Continue);
        };
        let room = call.read_words(call.argument(4), 1)?;
        if room.first().is_none_or(|room| *room < LENGTH) {
            return Ok(Answer::Continue);
        }
        let Some(pid) = self.number_inside(peer) else {
            return Ok(Answer::Continue);
        };
        let record = [pid, credential.user.effective, credential.group.effective];
        call.write_words(call.argument(3), &record)?;
        call.write_words(call.argument(4), &[LENGTH])?;
        Ok(Answer::Value(0))
    }

    /// Who the process is that has this number to the caller of kill(2).
    pub(super) fn credential_of_number(&self, call: &Call<'_>, number: u32) -> Option<Arc<Credential>> {
        if !self.shows_others {
            return self.credential_inside(&number.to_string());
        }
        let namespace = |pid: u32| {
            let link = format!("{pid}/ns/pid");
            fstatat(&self.processes, link.as_str(), AtFlags::empty()).map(|namespace| namespace.st_ino)
        };
        let own = namespace(call.pid).ok()?;
        let all = std::fs::read_dir(format!("/proc/self/fd/{}", self.processes.as_raw_fd())).ok()?;
        let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let is_it = |pid: &u32| namespace(*pid) == Ok(own) && self.number_inside(*pid) == Some(number);
        self.ids.callers.given(pids.into_iter().find(is_it)?)
    }

    /// Who the process is that a descriptor of the process `pid` stands for (pidfd_open(2)). The step's init was given no
    /// credential, and is root's.
    pub(super) fn credential_of_descriptor(&self, pid: u32, descriptor: i32) -> Option<Arc<Credential>> {
        let process = self.field_of(&format!("{pid}/fdinfo/{descriptor}"), "Pid:")?;
        let given = self.ids.callers.given(process.parse().ok()?);
        given.or_else(|| Some(Arc::new(Credential::root(self.capabilities))))
    }

    /// Who the process is that has this number in the step's /proc.
    pub(super) fn credential_inside(&self, number: &str) -> Option<Arc<Credential>> {
        // This thread sees the step's /proc, where the resource limit stands too.
        let limits = std::fs::read_to_string(format!("/proc/{number}/limits")).ok()?;
        let line = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max file locks"))?;
        self.ids
            .callers
            .numbered(line.split_whitespace().next()?.parse().ok()?)
    }

    /// The number that a process has to the step.
    pub(super) fn number_inside(&self, pid: u32) -> Option<u32> {
        let numbers = self.process_field(pid, "NSpid:")?;
        // The last is that in the innermost namespace.
        numbers.split_whitespace().next_back()?.parse().ok()
    }

    /// A line of /proc/PID/status, without its name.
    pub(super) fn process_field(&self, pid: u32, name: &str) -> Option<String> {
        self.field_of(&format!("{pid}/status"), name)
    }

    /// A line of a file below mica's /proc, without its name.
    fn field_of(&self, path: &str, name: &str) -> Option<String> {
        let file = openat(
            &self.processes,
            path,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        let mut lines = text.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name))?;
        Some(rest.trim().to_owned())
    }
}
