//! Who is at the other end of a socket: SO_PEERCRED of unix(7).

use std::sync::Arc;

use mica_fs::caller::Credential;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

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

    /// Who the process is that has this number to the step.
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
        use std::io::Read as _;
        let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_CLOEXEC;
        let path = format!("{pid}/status");
        let file = nix::fcntl::openat(
            &self.processes,
            path.as_str(),
            flags,
            nix::sys::stat::Mode::empty(),
        )
        .ok()?;
        let mut text = String::new();
        std::fs::File::from(file).read_to_string(&mut text).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(|rest| rest.trim().to_owned())
    }
}
