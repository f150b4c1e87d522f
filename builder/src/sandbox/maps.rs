//! The id maps of a user namespace with many ids, and who writes them: newuidmap and newgidmap, of a user's subordinate
//! ids; or mica itself, where it is root of a container and all of the container's ids are its own.

use std::fs;
use std::io::{self, Read, Write};
use std::iter;
use std::process::{Command, Stdio};

use nix::unistd::{ForkResult, Gid, Pid, Uid};
use serde::{Deserialize, Serialize};

use super::capabilities::{has_sys_admin, maps_ids};
use super::doctor;
use super::error::{SandboxError, errno_of};
use super::idmap::{IdRange, IdRanges};
use super::subid::{self, Kind, Owner};
use super::sys;

const UID_HELPER: &str = "newuidmap";
const GID_HELPER: &str = "newgidmap";

/// What is to be in the maps.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Maps {
    uids: IdRanges,
    gids: IdRanges,
    writer: Writer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Writer {
    Helpers,
    Mica,
}

impl Maps {
    /// Those that a process of this user can have.
    ///
    /// # Errors
    /// If it has no ids but its own, or nobody writes the maps for it.
    pub fn find(uid: Uid, gid: Gid) -> Result<Self, SandboxError> {
        if let Some(maps) = Self::of_container(uid) {
            return Ok(maps);
        }
        let maps = Self::of_user(uid, gid)?;
        for helper in [UID_HELPER, GID_HELPER] {
            if doctor::find_program(helper).is_none() {
                return Err(SandboxError::HelperMissing { program: helper });
            }
        }
        Ok(maps)
    }

    /// Root of a container, who may not mount there, has its ids in a namespace of its own as well: user_namespaces(7).
    fn of_container(uid: Uid) -> Option<Self> {
        if !uid.is_root() || has_sys_admin() || !maps_ids() {
            return None;
        }
        let own = |map| Some(same(&IdRanges::of_this_process(map).ok()?));
        let maps = Self {
            uids: own("uid_map")?,
            gids: own("gid_map")?,
            writer: Writer::Mica,
        };
        (maps.uids.count() > 1 && maps.gids.count() > 1).then_some(maps)
    }

    fn of_user(uid: Uid, gid: Gid) -> Result<Self, SandboxError> {
        let owner = Owner::of(uid);
        let ranges = |kind| {
            let owned = subid::ranges(kind, &owner);
            if owned.is_empty() {
                return Err(SandboxError::NoSubordinateIds {
                    user: owner.to_string(),
                    file: kind.file(),
                    remedy: subid::remedy(&owner),
                });
            }
            Ok(owned)
        };
        Ok(Self {
            uids: after(uid.as_raw(), &ranges(Kind::Users)?),
            gids: after(gid.as_raw(), &ranges(Kind::Groups)?),
            writer: Writer::Helpers,
        })
    }

    /// How many users and groups there are, where mica needs nobody's help.
    pub fn counts_of_container(uid: Uid) -> Option<(u64, u64)> {
        let maps = Self::of_container(uid)?;
        Some((maps.uids.count(), maps.gids.count()))
    }

    fn write(&self, pid: u32) -> Outcome {
        let write = match self.writer {
            Writer::Helpers => help,
            Writer::Mica => write,
        };
        write(pid, &self.uids, false)?;
        write(pid, &self.gids, true)
    }
}

/// The user is root, then come the subordinate ids from 1 up.
fn after(id: u32, subordinate: &[(u32, u32)]) -> IdRanges {
    let own = IdRange {
        first: 0,
        outside: id,
        count: 1,
    };
    let mut next: u32 = 1;
    let others = subordinate.iter().map(|(outside, count)| {
        let first = next;
        let count = (*count).min(u32::MAX - first);
        next += count;
        IdRange {
            first,
            outside: *outside,
            count,
        }
    });
    iter::once(own).chain(others).collect()
}

/// Each id is itself.
fn same(ranges: &IdRanges) -> IdRanges {
    let ranges = ranges.as_slice().iter();
    ranges
        .map(|range| IdRange {
            outside: range.first,
            ..*range
        })
        .collect()
}

/// A child that stays in the parent user namespace: only from there may the maps be written.
pub(super) struct Mapper {
    child: Pid,
    go: io::PipeWriter,
    outcome: io::PipeReader,
}

/// What the child tells; a refusal with who refused.
type Outcome = Result<(), Refusal>;

#[derive(Serialize, Deserialize)]
struct Refusal {
    by: String,
    message: String,
}

impl Mapper {
    /// A child that writes `maps` when it is told to.
    pub fn start(maps: Maps) -> Result<Self, SandboxError> {
        let failed = |action| move |errno| SandboxError::Enter { action, errno };
        let pipe = || io::pipe().map_err(|error| errno_of(&error));
        let (go_read, go) = pipe().map_err(failed("create a pipe"))?;
        let (outcome, outcome_write) = pipe().map_err(failed("create a pipe"))?;
        let parent = std::process::id();
        match sys::fork().map_err(failed("fork"))? {
            ForkResult::Parent { child } => Ok(Self { child, go, outcome }),
            ForkResult::Child => {
                drop((go, outcome));
                sys::exit_now(write_when_told(&maps, parent, go_read, outcome_write))
            }
        }
    }

    /// Has the maps of this process, by now in its new user namespace, written.
    pub fn finish(mut self) -> Result<(), SandboxError> {
        let failed = |action| move |errno| SandboxError::Enter { action, errno };
        let told = self.go.write_all(b"g");
        drop(self.go);
        let mut text = String::new();
        let heard = self.outcome.read_to_string(&mut text);
        sys::wait_for(self.child).map_err(failed("wait for the id mapper"))?;
        match told.and(heard).and_then(|_| Ok(serde_json::from_str(&text)?)) {
            Ok(Outcome::Ok(())) => Ok(()),
            Ok(Err(Refusal { by, message })) => Err(SandboxError::NotMapped { by, message }),
            Err(error) => Err(SandboxError::Enter {
                action: "hear from the id mapper",
                errno: errno_of(&error),
            }),
        }
    }
}

fn write_when_told(maps: &Maps, pid: u32, mut go: io::PipeReader, mut outcome: io::PipeWriter) -> i32 {
    // No word means that the parent could not make the namespace.
    if !matches!(go.read(&mut [0]), Ok(1)) {
        return 0;
    }
    let told = serde_json::to_vec(&maps.write(pid)).map_err(io::Error::from);
    i32::from(told.and_then(|text| outcome.write_all(&text)).is_err())
}

fn numbers(range: &IdRange) -> [String; 3] {
    [range.first, range.outside, range.count].map(|number| number.to_string())
}

/// By the kernel's file, which takes all lines at once.
fn write(pid: u32, ranges: &IdRanges, gid: bool) -> Outcome {
    let file = if gid { "gid_map" } else { "uid_map" };
    let line = |range: &IdRange| numbers(range).join(" ");
    let text = ranges.as_slice().iter().map(line).collect::<Vec<_>>().join("\n");
    let path = format!("/proc/{pid}/{file}");
    fs::write(&path, text).map_err(|error| Refusal {
        by: format!("writing {path}"),
        message: error.to_string(),
    })
}

fn help(pid: u32, ranges: &IdRanges, gid: bool) -> Outcome {
    let program = if gid { GID_HELPER } else { UID_HELPER };
    let refused = |message| Refusal {
        by: program.to_owned(),
        message,
    };
    let path = doctor::find_program(program).ok_or_else(|| refused("it is not installed".into()))?;
    let output = Command::new(path)
        .arg(pid.to_string())
        .args(ranges.as_slice().iter().flat_map(numbers))
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(refused(match String::from_utf8_lossy(&output.stderr).trim() {
            "" => output.status.to_string(),
            words => words.to_owned(),
        })),
        Err(error) => Err(refused(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_root_and_the_others_follow() {
        assert_eq!(
            after(1000, &[(100_000, 65536), (300_000, 10)]),
            IdRanges::parse_map("0 1000 1\n1 100000 65536\n65537 300000 10\n")
        );
    }

    #[test]
    fn a_container_s_ids_are_themselves() {
        let map = IdRanges::parse_map("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(same(&map), IdRanges::parse_map("0 0 1\n1 1 65536\n"));
        assert_eq!(map.count(), 65537);
    }
}
