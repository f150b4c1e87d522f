//! Who a process is, and becomes: the calls of credentials(7) and capabilities(7).

use mica_fs::caller::{Credential, Denied};
use nix::errno::Errno;

use super::call::{Answer, Call, Decision};
use super::{Supervisor, refused};

/// The most groups that a process can have: `NGROUPS_MAX`.
const MOST_GROUPS: usize = 65536;

/// `CAP_CHECKPOINT_RESTORE`, the last that Linux has.
const LAST_CAPABILITY: u64 = 40;

/// `_LINUX_CAPABILITY_VERSION_1`, which has one record of 32 bits; the later ones have two.
const NARROW: u32 = 0x1998_0330;
const WIDE: [u32; 2] = [0x2007_1026, 0x2008_0522];

impl From<Denied> for Refusal {
    fn from(_: Denied) -> Self {
        Self(Errno::EPERM)
    }
}

/// Why a process does not become what it wants to.
struct Refusal(Errno);

impl Supervisor {
    /// Answers what asks for a process's own credential, or changes it.
    pub(super) fn credentials(&self, call: &Call<'_>) -> Decision {
        let is_new = call.caller.is_none();
        let caller = self.caller(call);
        if let Some(answer) = told(call, &caller)? {
            return Ok(answer);
        }
        // Whoever prepares the command still is to the kernel what it says.
        if is_new && matches!(call.name, "capget" | "capset" | "prctl") {
            return Ok(Answer::Continue);
        }
        let records = match call.name {
            "capget" | "capset" => self.records(call)?,
            _ => None,
        };
        if call.name == "capget" {
            return tell_capabilities(call, &caller, records);
        }
        let mut next = (*caller).clone();
        let value = change(call, &mut next, records).map_err(|Refusal(errno)| errno)?;
        let Some(value) = value else {
            return Ok(Answer::Continue);
        };
        if is_new || next != *caller {
            call.must_be_pending()?;
            self.ids
                .callers
                .give(call.pid, next)
                .map_err(|error| refused(&error))?;
        }
        Ok(Answer::Value(value))
    }

    /// How many records of capabilities a call means; `None` if it is about another process, or asks for the version.
    fn records(&self, call: &Call<'_>) -> Result<Option<usize>, Errno> {
        let header = call.read_words(call.argument(0), 2)?;
        let [version, process] = *header.as_slice() else {
            return Ok(None);
        };
        let is_itself = process == 0 || self.number_inside(call.pid) == Some(process);
        Ok(match version {
            NARROW => Some(1),
            version if WIDE.contains(&version) => Some(2),
            _ => None,
        }
        .filter(|_| is_itself))
    }
}

/// Answers a question.
fn told(call: &Call<'_>, caller: &Credential) -> Result<Option<Answer>, Errno> {
    let value = match call.name {
        "getuid" => caller.user.real.into(),
        "geteuid" => caller.user.effective.into(),
        "getgid" => caller.group.real.into(),
        "getegid" => caller.group.effective.into(),
        "getresuid" | "getresgid" => {
            let ids = match call.name {
                "getresuid" => caller.user,
                _ => caller.group,
            };
            for (index, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
                call.write_words(call.argument(index), &[id])?;
            }
            0
        }
        "getgroups" => {
            let count = i32::try_from(caller.groups.len()).unwrap_or(i32::MAX);
            match call.int(0) {
                0 => {}
                size if size < count => return Err(Errno::EINVAL),
                _ if count == 0 => {}
                _ => call.write_words(call.argument(1), &caller.groups)?,
            }
            count.into()
        }
        _ => return Ok(None),
    };
    Ok(Some(Answer::Value(value)))
}

/// Makes the change that a call asks for; gives what it returns, or `None` if it is the kernel's business.
fn change(call: &Call<'_>, next: &mut Credential, records: Option<usize>) -> Result<Option<i64>, Refusal> {
    // -1 is no id: to set it is EINVAL where it does not mean "as it is".
    let one = || call.id(0).ok_or(Refusal(Errno::EINVAL));
    let three = || [call.id(0), call.id(1), call.id(2)];
    match call.name {
        "setuid" => next.set_uid(one()?)?,
        "setgid" => next.set_gid(one()?)?,
        "setreuid" => next.set_reuid(call.id(0), call.id(1))?,
        "setregid" => next.set_regid(call.id(0), call.id(1))?,
        "setresuid" => next.set_resuid(three())?,
        "setresgid" => next.set_resgid(three())?,
        "setfsuid" => {
            let before = match call.id(0) {
                Some(id) => next.set_fsuid(id),
                None => next.user.filesystem,
            };
            return Ok(Some(before.into()));
        }
        "setfsgid" => {
            let before = match call.id(0) {
                Some(id) => next.set_fsgid(id),
                None => next.group.filesystem,
            };
            return Ok(Some(before.into()));
        }
        "setgroups" => {
            let count = usize::try_from(call.int(0)).map_err(|_| Refusal(Errno::EINVAL))?;
            if count > MOST_GROUPS {
                return Err(Refusal(Errno::EINVAL));
            }
            let groups = call.read_words(call.argument(1), count).map_err(Refusal)?;
            next.set_groups(groups)?;
        }
        "capset" => {
            let Some(records) = records else {
                return Ok(None);
            };
            let words = call.read_words(call.argument(1), records * 3).map_err(Refusal)?;
            let set = |kind: usize| {
                let half = |record: usize| words.get(record * 3 + kind).copied().unwrap_or_default();
                u64::from(half(0)) | u64::from(half(1)) << 32
            };
            next.set_capabilities(set(0), set(1), set(2))?;
        }
        "prctl" => return control(call, next).map(Some),
        _ => return Ok(None),
    }
    Ok(Some(0))
}

/// prctl of what a credential has.
fn control(call: &Call<'_>, next: &mut Credential) -> Result<i64, Refusal> {
    let (option, argument) = (call.int(0), call.argument(1));
    match option {
        libc::PR_GET_KEEPCAPS => return Ok(next.keeps_capabilities.into()),
        libc::PR_SET_KEEPCAPS => match argument {
            keep @ (0 | 1) => next.keeps_capabilities = keep == 1,
            _ => return Err(Refusal(Errno::EINVAL)),
        },
        _ if argument > LAST_CAPABILITY => return Err(Refusal(Errno::EINVAL)),
        libc::PR_CAPBSET_READ => return Ok((next.bounding >> argument & 1).cast_signed()),
        _ => next.drop_bounding(1 << argument)?,
    }
    Ok(0)
}

fn tell_capabilities(call: &Call<'_>, caller: &Credential, records: Option<usize>) -> Decision {
    let (Some(records), 1..) = (records, call.argument(1)) else {
        return Ok(Answer::Continue);
    };
    let sets = [caller.effective, caller.permitted, caller.inheritable];
    let low = sets.map(|set| set as u32);
    let high = sets.map(|set| (set >> 32) as u32);
    let words: Vec<u32> = low.into_iter().chain(high).take(records * 3).collect();
    call.write_words(call.argument(1), &words)?;
    Ok(Answer::Value(0))
}
