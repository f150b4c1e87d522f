//! kill(2) and its kin: to whom a process may send a signal.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mica_fs::caller::{Capability, Credential};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use crate::sandbox::sys;

/// The number of the step's init.
const INIT: u32 = 1;

impl Supervisor {
    /// kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo, pidfd_send_signal. A thread is who its process is.
    pub(super) fn signal(&self, call: &Call<'_>) -> Decision {
        let caller = self.caller(call);
        if caller.has(Capability::Kill) {
            return Ok(Answer::Continue);
        }
        let number = call.int(0);
        let target = match (call.name, u32::try_from(number)) {
            ("pidfd_send_signal", _) => self.credential_of_descriptor(call.pid, number),
            // It was given none, and is root's.
            (_, Ok(INIT)) => Some(Arc::new(Credential::root(self.capabilities))),
            (_, Ok(target @ 1..)) => self.credential_of_number(call, target),
            ("kill", _) => return self.signal_many(call, &caller),
            _ => return Ok(Answer::Continue),
        };
        match may_signal(&caller, target.as_deref()) {
            true => Ok(Answer::Continue),
            false => Err(Errno::EPERM),
        }
    }

    /// kill of a process group, or of all.
    fn signal_many(&self, call: &Call<'_>, caller: &Credential) -> Decision {
        let number = call.int(0);
        // Its /proc is not the step's own: nobody outside may get a signal.
        if self.shows_others {
            return Ok(Answer::Continue);
        }
        let own = self.process_field(call.pid, "NStgid:");
        // The last is that in the innermost namespace.
        let own: Option<u32> = own.and_then(|own| own.split_whitespace().next_back()?.parse().ok());
        let wanted = match number {
            0 => own.and_then(group),
            _ => Some(number.wrapping_neg()),
        };
        let is_meant = |process: &u32| match number {
            -1 => Some(*process) != own,
            _ => group(*process) == wanted,
        };
        // To this thread init is a process like others, which a signal would end.
        let targets = processes().filter(|process| *process != INIT && is_meant(process));
        let may = |target: &u32| may_signal(caller, self.credential_inside(&target.to_string()).as_deref());
        let (allowed, others): (Vec<_>, Vec<_>) = targets.partition(may);
        match (allowed.is_empty(), others.is_empty()) {
            (_, true) => Ok(Answer::Continue),
            // As the kernel has it.
            (true, false) if number == -1 => Ok(Answer::Value(0)),
            (true, false) => Err(Errno::EPERM),
            (false, false) => {
                call.must_be_pending()?;
                for process in allowed.into_iter().filter_map(held) {
                    sys::pidfd_signal(&process, call.int(1))?;
                }
                Ok(Answer::Value(0))
            }
        }
    }
}

/// Whether the ids fit: who sends it is who started the target, or whom that can become again.
fn may_signal(caller: &Credential, target: Option<&Credential>) -> bool {
    let ours = [caller.user.real, caller.user.effective];
    target.is_none_or(|target| {
        ours.iter()
            .any(|id| [target.user.real, target.user.saved].contains(id))
    })
}

/// The step's processes, by the numbers that it knows: this thread sees its /proc.
fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The process group that a process is in.
fn group(process: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

/// A process, which can be named by its directory.
fn held(process: u32) -> Option<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(format!("/proc/{process}").as_str(), flags, Mode::empty()).ok()
}
