//! Limits of a step: its resource limits (`--ulimit`), the size of its /dev/shm, its control group, its privileges.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::cgroup::Resources;
use super::error::{Failure, Step};

/// The names that Docker has for the limits of setrlimit(2).
const RESOURCES: &[(&str, Resource)] = &[
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// What a step gets less, or more, of than others. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// The size of /dev/shm in bytes; Docker's 64 MiB if `None`.
    pub shm_size: Option<u64>,
    /// Resource limits; the later of two of the same resource counts.
    pub ulimits: Vec<Ulimit>,
    /// The control group in which the step gets one of its own: relative to the top of the hierarchy.
    pub cgroup_parent: Option<PathBuf>,
    /// What the kernel accounts to the step as a whole.
    pub resources: Resources,
    /// Whether programs can give no privileges, as those do that are set-user-ID (`PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

/// A resource limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    name: String,
    soft: u64,
    hard: u64,
}

/// Why a text is no [`Ulimit`].
#[derive(Debug, thiserror::Error)]
pub enum InvalidUlimit {
    /// Not of the form.
    #[error("the form is NAME=SOFT[:HARD], with numbers or -1 for no limit")]
    Form,
    /// There is no such resource.
    #[error("there is no limit {0:?}")]
    Name(String),
    /// The limit in force would be above the one it can be raised to.
    #[error("the soft limit {soft} is above the hard limit {hard}")]
    Order {
        /// The first.
        soft: u64,
        /// The second.
        hard: u64,
    },
}

impl Ulimit {
    /// Reads `NAME=SOFT[:HARD]`, as `docker build --ulimit` has it.
    ///
    /// # Errors
    /// [`InvalidUlimit`].
    pub fn parse(text: &str) -> Result<Self, InvalidUlimit> {
        let (name, value) = text.split_once('=').ok_or(InvalidUlimit::Form)?;
        if !Self::names().any(|known| known == name) {
            return Err(InvalidUlimit::Name(name.to_owned()));
        }
        let number = |text: &str| match text {
            "-1" => Ok(RLIM_INFINITY),
            text => text.parse().map_err(|_| InvalidUlimit::Form),
        };
        let (soft, hard) = match value.split_once(':') {
            Some((soft, hard)) => (number(soft)?, number(hard)?),
            None => (number(value)?, number(value)?),
        };
        match soft <= hard {
            true => Ok(Self {
                name: name.to_owned(),
                soft,
                hard,
            }),
            false => Err(InvalidUlimit::Order { soft, hard }),
        }
    }

    /// The names there are.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RESOURCES.iter().map(|(name, _)| *name)
    }

    fn resource(&self) -> Result<Resource, Failure> {
        let found = RESOURCES.iter().find(|(name, _)| *name == self.name);
        let found = found.map(|(_, resource)| *resource);
        found.ok_or_else(|| self.failed(Errno::EINVAL))
    }

    fn failed(&self, errno: Errno) -> Failure {
        let failure = Failure::new(Step::Limit, self.to_string(), errno);
        match errno {
            Errno::EPERM => failure.hint("only root can raise a hard limit: `ulimit -H -a` shows them"),
            _ => failure,
        }
    }
}

impl fmt::Display for Ulimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |limit: u64| match limit {
            RLIM_INFINITY => "-1".to_owned(),
            limit => limit.to_string(),
        };
        write!(f, "{}={}:{}", self.name, number(self.soft), number(self.hard))
    }
}

/// Raises this process's hard limits to those that a step is to have. Nothing is lowered: the process, while it still
/// has the privilege, must be able to do its own work.
pub(super) fn raise(ulimits: &[Ulimit]) -> Result<(), Failure> {
    for ulimit in ulimits {
        let resource = ulimit.resource()?;
        let failed = |errno| ulimit.failed(errno);
        let (soft, hard) = getrlimit(resource).map_err(failed)?;
        if ulimit.hard > hard {
            setrlimit(resource, soft, ulimit.hard).map_err(failed)?;
        }
    }
    Ok(())
}

/// Sets the limits of the process that becomes the command.
pub(super) fn set(ulimits: &[Ulimit]) -> Result<(), Failure> {
    ulimits.iter().try_for_each(|ulimit| {
        setrlimit(ulimit.resource()?, ulimit.soft, ulimit.hard).map_err(|errno| ulimit.failed(errno))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        let shown = |text: &str| Ulimit::parse(text).map(|ulimit| ulimit.to_string());
        assert_eq!(shown("nofile=10").unwrap(), "nofile=10:10");
        assert_eq!(shown("nofile=10:20").unwrap(), "nofile=10:20");
        assert_eq!(shown("core=0:-1").unwrap(), "core=0:-1");
        assert!(matches!(shown("nofile=20:10"), Err(InvalidUlimit::Order { .. })));
        assert!(matches!(shown("nofile=-1:10"), Err(InvalidUlimit::Order { .. })));
        assert!(matches!(shown("files=1"), Err(InvalidUlimit::Name(_))));
        for wrong in ["nofile", "nofile=", "nofile=x", "nofile=1:", "nofile=1:2:3"] {
            assert!(matches!(shown(wrong), Err(InvalidUlimit::Form)), "{wrong}");
        }
    }
}
