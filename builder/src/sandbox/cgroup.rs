//! A control group for a step: below one that the user names (`--cgroup-parent`), or where its limits can be set
//! (`--memory`, `--cpus`, `--pids-limit`).
//!
//! Only the unified hierarchy (cgroup v2) is used. Where it cannot be written, as by a user to whom systemd delegated
//! nothing, steps stay in mica's own group.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};

use super::error::SandboxError;

/// Where root's steps get their groups, if the user names no other place.
const OF_ROOT: &str = "mica";

/// How much of the machine a step may use. The default is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resources {
    /// Memory in bytes, and as much swap again, as with Docker.
    pub memory: Option<u64>,
    /// Microseconds of processor time in each period.
    pub cpu: Option<Cpu>,
    /// How many processes and threads there may be at once.
    pub pids: Option<u64>,
}

/// A share of the processors: so many microseconds of all together in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// The time in microseconds.
    pub quota: u64,
    /// The period in microseconds.
    pub period: u64,
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that are needed, and the files of a group with what they are to hold (cgroups(7)).
    fn files(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut files = Vec::new();
        if let Some(bytes) = self.memory {
            files.push(("memory", "memory.max", bytes.to_string()));
        }
        if let Some(Cpu { quota, period }) = self.cpu {
            files.push(("cpu", "cpu.max", format!("{quota} {period}")));
        }
        if let Some(count) = self.pids {
            files.push(("pids", "pids.max", count.to_string()));
        }
        files
    }
}

/// A control group that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: PathBuf,
}

/// Whether steps can get groups of their own with these limits, below `parent`, which is made if it is not there.
///
/// # Errors
/// [`SandboxError::Cgroup`] with the reason.
pub fn check_groups(parent: Option<&Path>, resources: &Resources) -> Result<(), SandboxError> {
    match parent.is_none() && resources.is_empty() {
        true => Ok(()),
        false => Cgroup::create(parent, resources).map(drop),
    }
}

impl Cgroup {
    /// Makes a group below `parent`, a path from the top of the hierarchy; without one, where this process may.
    pub(super) fn create(parent: Option<&Path>, resources: &Resources) -> Result<Self, SandboxError> {
        let failed = |source| SandboxError::Cgroup {
            parent: parent.map(Path::to_owned),
            source,
        };
        let top = hierarchy().map_err(failed)?;
        if let Some(parent) = parent {
            return Self::below(&top, parent, resources).map_err(failed);
        }
        // Root of the machine makes a place of its own. All others have what was delegated to them, if anything: the
        // group in which they are.
        Self::below(&top, Path::new(OF_ROOT), resources)
            .or_else(|_| {
                let own = own_group().ok_or(io::ErrorKind::NotFound)?;
                let place = inside(&top, Path::new(&own))?;
                leave_to_a_leaf(&place)?;
                Self::below(&top, Path::new(&own), resources)
            })
            .map_err(failed)
    }

    fn below(top: &Path, parent: &Path, resources: &Resources) -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mut directory = inside(top, parent)?;
        fs::create_dir_all(&directory)?;
        let files = resources.files();
        for (controller, ..) in &files {
            enable(top, &directory, controller)?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        directory.push(format!("mica-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        let group = Self { directory };
        for (_, file, value) in files {
            group.set(file, &value)?;
        }
        if let Some(bytes) = resources.memory {
            // A kernel without swap has no such file.
            let _absent_is_fine = group.set("memory.swap.max", &bytes.to_string());
        }
        Ok(group)
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    /// Moves a process into the group; its children are born there.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        self.set("cgroup.procs", &process.to_string())
    }

    /// Whether the kernel has killed something in the group because its memory was used up.
    pub(super) fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.directory.join("memory.events")).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.is_some_and(|count| count != "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that lingers in it would be killed with the step already.
        if let Err(error) = fs::remove_dir(&self.directory) {
            tracing::warn!(directory = %self.directory.display(), "cannot remove a control group: {error}");
        }
    }
}

/// A group's directory by its path in the hierarchy.
fn inside(top: &Path, group: &Path) -> io::Result<PathBuf> {
    let mut directory = top.to_owned();
    for part in group.components() {
        match part {
            Component::Normal(name) => directory.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::other("it leads out of the hierarchy"));
            }
        }
    }
    Ok(directory)
}

/// Lets the groups below `group` use a controller: every group above must pass it on.
fn enable(top: &Path, group: &Path, controller: &str) -> io::Result<()> {
    let below_top = group.strip_prefix(top).map_err(io::Error::other)?;
    let mut at = top.to_owned();
    let mut names = below_top.components();
    loop {
        let passed_on = fs::read_to_string(at.join("cgroup.subtree_control")).unwrap_or_default();
        if !passed_on.split_whitespace().any(|name| name == controller) {
            let written = fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
            written.map_err(|error| {
                let place = at.display();
                io::Error::new(
                    error.kind(),
                    format!("{place} has no controller {controller} for its groups: {error}"),
                )
            })?;
        }
        match names.next() {
            Some(name) => at.push(name),
            None => return Ok(()),
        }
    }
}

/// Moves this process from `group` into a group of its own below: one that passes controllers on may hold no processes
/// itself (cgroups(7), "no internal processes").
fn leave_to_a_leaf(group: &Path) -> io::Result<()> {
    let leaf = group.join("mica");
    match fs::create_dir(&leaf) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())
}

/// This process's group in the unified hierarchy: the line `0::PATH` of cgroups(7).
fn own_group() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    // It may have moved there for an earlier step.
    Some(path.strip_suffix("/mica").unwrap_or(path).to_owned())
}

/// Where the unified hierarchy is mounted.
fn hierarchy() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mount_point(&mounts).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "cgroup v2 is not mounted"))
}

/// The first mount of kind cgroup2: proc_pid_mountinfo(5), the fifth field and the first one after ` - `.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let place = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| PathBuf::from(place))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_among_the_mounts() {
        let text = "\
25 30 0:23 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
26 25 0:24 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
27 25 0:25 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_point(text), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point("25 30 0:23 / /proc rw - proc proc rw\n"), None);
    }

    #[test]
    fn a_parent_does_not_lead_out() {
        let parent = Path::new("a/../../../tmp");
        let error = check_groups(Some(parent), &Resources::default()).unwrap_err();
        assert!(matches!(error, SandboxError::Cgroup { .. }), "{error}");
        assert!(inside(Path::new("/top"), parent).is_err());
    }

    /// A directory in the hierarchy's place shows what is written where.
    #[test]
    fn limits_are_written_and_every_group_above_passes_controllers_on() {
        let top = tempfile::tempdir().unwrap();
        fs::write(top.path().join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        let resources = Resources {
            memory: Some(64 << 20),
            cpu: Some(Cpu {
                quota: 150_000,
                period: 100_000,
            }),
            pids: Some(20),
        };
        let group = Cgroup::below(top.path(), Path::new("/a/b"), &resources).unwrap();
        group.add(7).unwrap();
        let read = |file: &str| fs::read_to_string(group.directory.join(file)).unwrap();
        assert_eq!(read("memory.max"), "67108864");
        assert_eq!(read("memory.swap.max"), "67108864");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert_eq!(read("pids.max"), "20");
        assert_eq!(read("cgroup.procs"), "7");
        let control = |group: &str| fs::read_to_string(top.path().join(group).join("cgroup.subtree_control"));
        assert_eq!(control("").unwrap(), "+pids");
        assert_eq!(control("a/b").unwrap(), "+pids");
        assert!(group.directory.starts_with(top.path().join("a/b")));

        assert!(!group.ran_out_of_memory());
        fs::write(group.directory.join("memory.events"), "oom 1\noom_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
        // Files of a real group go with it.
        fs::remove_dir_all(&group.directory).unwrap();
        fs::create_dir(&group.directory).unwrap();
    }
}
