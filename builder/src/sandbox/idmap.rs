//! Which users a step can have: real ones as root, subordinate ones in a user namespace, or such as only mica knows.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use mica_fs::caller::Callers;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, getgid, getuid, setresgid, setresuid};

use super::capabilities::{has_mknod, has_sys_admin};
use super::doctor;
use super::error::SandboxError;
use super::maps::{Mapper, Maps};
use super::sys;

/// How ids of the image relate to ids of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdMode {
    /// The user namespace mica was started in, as root there.
    Root,
    /// A user namespace: id 0 is the user, the others are subordinate ids (subuid(5)). For root of a container, all are
    /// the container's.
    Subordinate,
    /// A user namespace in which id 0 is the user, and no other id exists: mica keeps those of the image.
    Single,
}

impl IdMode {
    /// The mode [`enter`] would choose, or why it would choose none. Changes nothing.
    pub fn detect() -> Result<Self, SandboxError> {
        Self::choose(UserNs::Auto)
    }

    /// The mode that is wanted, if it can be had.
    fn choose(want: UserNs) -> Result<Self, SandboxError> {
        match want {
            UserNs::Inherit if is_root() => return Ok(Self::Root),
            UserNs::Inherit => return Err(SandboxError::NotPrivileged),
            UserNs::Auto if is_root() => return Ok(Self::Root),
            UserNs::Auto | UserNs::Subordinate | UserNs::Single => {}
        }
        match sys::probe_user_namespace() {
            Ok(sys::Probe::Works) => {}
            Ok(sys::Probe::NoUserNamespace(errno)) | Err(errno) => return Err(refused(errno)),
            Ok(sys::Probe::NoCapabilities(errno)) => {
                return Err(SandboxError::UserNamespaceRestricted { errno });
            }
        }
        match (want, Maps::find(getuid(), getgid())) {
            (UserNs::Single, _) | (UserNs::Auto, Err(_)) => Ok(Self::Single),
            (_, Ok(_)) => Ok(Self::Subordinate),
            (_, Err(error)) => Err(error),
        }
    }
}

/// Whether [`enter`] may make a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UserNs {
    /// One is made unless the process is root with CAP_SYS_ADMIN: with subordinate ids if the user has them.
    #[default]
    Auto,
    /// None is made; the process must be root with CAP_SYS_ADMIN.
    Inherit,
    /// One with subordinate ids.
    Subordinate,
    /// One with a single id.
    Single,
}

impl FromStr for UserNs {
    type Err = InvalidUserNs;

    /// Reads `auto`, `root`, `subuid` or `single`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "root" => Ok(Self::Inherit),
            "subuid" => Ok(Self::Subordinate),
            "single" => Ok(Self::Single),
            _ => Err(InvalidUserNs(text.to_owned())),
        }
    }
}

/// A text that names no [`UserNs`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is none of auto, root, subuid, single")]
pub struct InvalidUserNs(String);

/// A run of ids that the process can give to files and processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first id, as images see it.
    pub first: u32,
    /// The id that the parent user namespace sees in its place.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// All the ids that exist in the user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IdRanges(Vec<IdRange>);

impl IdRanges {
    /// Whether a file or process can have `id`.
    pub fn can_map(&self, id: u32) -> bool {
        self.0
            .iter()
            .any(|range| id >= range.first && id - range.first < range.count)
    }

    /// The ranges, in the order of the kernel's map.
    pub fn as_slice(&self) -> &[IdRange] {
        &self.0
    }

    /// How many ids they are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| u64::from(range.count)).sum()
    }

    /// Those of this process, by the name of the file in /proc/self: `uid_map` or `gid_map`.
    pub(super) fn of_this_process(file: &str) -> io::Result<Self> {
        fs::read_to_string(format!("/proc/self/{file}")).map(|text| Self::parse_map(&text))
    }

    /// Reads /proc/PID/uid_map (user_namespaces(7)).
    pub(super) fn parse_map(text: &str) -> Self {
        let range = |line: &str| {
            let mut fields = line.split_whitespace().map(|field| field.parse().ok());
            Some(IdRange {
                first: fields.next()??,
                outside: fields.next()??,
                count: fields.next()??,
            })
        };
        Self(text.lines().filter_map(range).collect())
    }
}

impl FromIterator<IdRange> for IdRanges {
    fn from_iter<T: IntoIterator<Item = IdRange>>(ranges: T) -> Self {
        Self(ranges.into_iter().collect())
    }
}

/// What [`enter`] has made of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// How ids are mapped.
    pub mode: IdMode,
    /// The user ids there are.
    pub uids: IdRanges,
    /// The group ids there are.
    pub gids: IdRanges,
}

impl Entered {
    /// Whether a file can be owned by user `uid`.
    pub fn can_map(&self, uid: u32) -> bool {
        self.uids.can_map(uid)
    }
}

/// Gives the process a mount namespace of its own in which it may mount, as root or as a user who becomes root of a
/// new user namespace.
///
/// Call it once, at the start of the program: the process must still be single-threaded, and what
/// depends on the user's identity (HOME, the XDG directories) must already be known. /dev/fuse must
/// be opened after it: a descriptor from before belongs to the wrong user namespace.
///
/// Mounts made afterwards are seen by this process and its children only, and end with them. Mounts
/// that the host makes later still arrive. On an error the process may be in a half-made namespace
/// and should end.
pub fn enter(want: UserNs) -> Result<Entered, SandboxError> {
    let mode = IdMode::choose(want)?;
    match mode {
        IdMode::Root => {}
        IdMode::Subordinate => enter_user_namespace()?,
        IdMode::Single => enter_with_one_id()?,
    }
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| match mode {
        IdMode::Subordinate | IdMode::Single => SandboxError::UserNamespaceRestricted { errno },
        _ => SandboxError::Enter {
            action: "create a mount namespace",
            errno,
        },
    })?;
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, slave, None::<&str>).map_err(|errno| match errno {
        Errno::EINVAL => SandboxError::RootNotMounted,
        errno => SandboxError::Enter {
            action: "detach the mounts from the host's",
            errno,
        },
    })?;
    let map = |file| {
        IdRanges::of_this_process(file).map_err(|error| SandboxError::Enter {
            action: "read the id map in /proc/self",
            errno: super::error::errno_of(&error),
        })
    };
    let (uids, gids) = (map("uid_map")?, map("gid_map")?);
    let mode = *MODE.get_or_init(|| mode);
    Ok(Entered { mode, uids, gids })
}

/// What [`enter`] has made of this process, which cannot be undone.
static MODE: OnceLock<IdMode> = OnceLock::new();

/// Whom the processes of steps stand for, if the kernel has a single id for all: the same table for every step, since
/// what is in it never changes.
pub fn callers() -> Option<Arc<Callers>> {
    static CALLERS: OnceLock<Arc<Callers>> = OnceLock::new();
    let is_single = entered() == Some(IdMode::Single);
    is_single.then(|| Arc::clone(CALLERS.get_or_init(Arc::default)))
}

/// Whether the kernel makes devices for the steps' root: with CAP_MKNOD, and in the first user namespace only.
pub fn makes_devices() -> bool {
    /// `PROC_USER_INIT_INO` of linux/proc_ns.h.
    const FIRST: u64 = 0xEFFF_FFFD;
    has_mknod() && fs::metadata("/proc/self/ns/user").is_ok_and(|namespace| namespace.ino() == FIRST)
}

/// How ids are mapped in this process, once it has entered its namespaces.
pub fn entered() -> Option<IdMode> {
    MODE.get().copied()
}

fn is_root() -> bool {
    Uid::effective().is_root() && has_sys_admin()
}

fn refused(errno: Errno) -> SandboxError {
    SandboxError::UserNamespace {
        errno,
        remedy: doctor::user_namespace_remedy(errno),
    }
}

fn enter_user_namespace() -> Result<(), SandboxError> {
    let failed = |action| move |errno| SandboxError::Enter { action, errno };
    let mapper = Mapper::start(Maps::find(getuid(), getgid())?)?;
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
        Errno::EINVAL => SandboxError::Enter {
            action: "create a user namespace after threads were started",
            errno,
        },
        errno => refused(errno),
    })?;
    mapper.finish()?;
    let (root, group) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(group, group, group).map_err(failed("become group 0"))?;
    // The user's other groups stay: they let mica read what the user may. A step sets its own.
    setresuid(root, root, root).map_err(failed("become root of the user namespace"))
}

/// Makes a user namespace in which this user is root, and nobody else is there: nobody's permission is needed.
fn enter_with_one_id() -> Result<(), SandboxError> {
    let failed = |action| move |errno| SandboxError::Enter { action, errno };
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| match errno {
        Errno::EINVAL => SandboxError::Enter {
            action: "create a user namespace after threads were started",
            errno,
        },
        errno => refused(errno),
    })?;
    // Without the first, the kernel takes no map of groups from who has no privilege: user_namespaces(7).
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| super::error::errno_of(&error))
            .map_err(failed("map the user's own id"))?;
    }
    // It carries the numbers of credentials; a limit that the user had would be taken for one.
    let _ = setrlimit(Resource::RLIMIT_LOCKS, libc::RLIM_INFINITY, libc::RLIM_INFINITY);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_says_which_ids_exist() {
        let map = "         0       1000          1\n         1     100000      65536\n";
        let ranges = IdRanges::parse_map(map);
        assert_eq!(ranges.as_slice().len(), 2);
        assert!(ranges.can_map(0) && ranges.can_map(65536));
        assert!(!ranges.can_map(65537) && !ranges.can_map(u32::MAX));
        assert!(IdRanges::parse_map("0 0 4294967295").can_map(4_000_000_000));
    }
}
