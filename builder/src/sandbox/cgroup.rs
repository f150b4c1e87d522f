//! A control group for a step, below one that the user names (`--cgroup-parent`).
//!
//! Only the unified hierarchy (cgroup v2) is used. Where it cannot be written, as by a user to whom systemd delegated
//! nothing, steps stay in mica's own group.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::error::SandboxError;

/// A control group that goes when this is dropped.
#[derive(Debug)]
pub(super) struct Cgroup {
    directory: PathBuf,
}

/// Whether steps can get groups of their own below `parent`, which is made if it is not there.
///
/// # Errors
/// [`SandboxError::Cgroup`] with the reason.
pub fn check_parent(parent: &Path) -> Result<(), SandboxError> {
    Cgroup::create(parent).map(drop)
}

impl Cgroup {
    /// Makes a group below `parent`, a path from the top of the hierarchy.
    pub(super) fn create(parent: &Path) -> Result<Self, SandboxError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let failed = |source| SandboxError::Cgroup {
            parent: parent.to_owned(),
            source,
        };
        let mut directory = hierarchy().map_err(failed)?;
        for part in parent.components() {
            match part {
                Component::Normal(name) => directory.push(name),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(failed(io::Error::other("it leads out of the hierarchy")));
                }
            }
        }
        fs::create_dir_all(&directory).map_err(failed)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        directory.push(format!("mica-{}-{number}", std::process::id()));
        fs::create_dir(&directory).map_err(failed)?;
        Ok(Self { directory })
    }

    /// Moves a process into the group; its children are born there.
    pub(super) fn add(&self, process: u32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), process.to_string())
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
        let error = check_parent(Path::new("a/../../../tmp")).unwrap_err();
        assert!(matches!(error, SandboxError::Cgroup { .. }), "{error}");
    }
}
