//! What a command left behind on the machine: mounts, processes and connections of FUSE.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::command::tool;

/// A line of a mountinfo file.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub point: String,
    /// The type of the filesystem.
    pub kind: String,
}

/// What a `/proc/PID/mountinfo` shows beneath a directory.
pub fn mounted_beneath(mountinfo: &str, directory: &Path) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(parse)
        .filter(|mount| Path::new(&mount.point).starts_with(directory))
        .collect()
}

/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw`, as proc(5) has it. The tests' own paths
/// have no character that would be escaped.
fn parse(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    Some(Mount {
        point: left.split(' ').nth(4)?.to_owned(),
        kind: right.split(' ').next()?.to_owned(),
    })
}

/// The command lines of the processes that name a directory in their arguments, environment or current
/// directory: those that a scene's commands left.
pub fn processes_naming(directory: &Path) -> Vec<String> {
    let needle = directory.as_os_str().as_bytes();
    let processes = fs::read_dir("/proc").expect("/proc is mounted");
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| named_by(pid, needle)).collect()
}

fn named_by(pid: u32, needle: &[u8]) -> Option<String> {
    // A process that ends meanwhile is none that was left; nor is a zombie, whose files are empty.
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let arguments = file("cmdline");
    let is_named = [&arguments, &file("environ")]
        .into_iter()
        .any(|text| text.windows(needle.len()).any(|part| part == needle));
    is_named.then(|| {
        format!(
            "{pid}: {}",
            String::from_utf8_lossy(&arguments).replace('\0', " ")
        )
    })
}

/// A process that this one, or one of those, has started.
#[derive(Debug)]
pub struct Descendant {
    /// Its id.
    pub pid: i32,
    /// The names of its parent and itself, as `PARENT/NAME`.
    pub name: String,
}

/// All that this process has started, and what those have started, as long as they live. If this process is a subreaper,
/// none that has lost its parent is missing.
pub fn descendants() -> Vec<Descendant> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<_> = pids
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let (parent, name) = parse_stat(&stat)?;
            Some((pid, parent, name.to_owned()))
        })
        .collect();
    let own = i32::try_from(std::process::id()).expect("a process id is a pid_t");
    let mut parents = vec![(own, "")];
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&(parent, parent_name)) = parents.get(at) {
        for (pid, _, name) in all.iter().filter(|(_, of, _)| *of == parent) {
            parents.push((*pid, name));
            found.push(Descendant {
                pid: *pid,
                name: format!("{parent_name}/{name}"),
            });
        }
        at += 1;
    }
    found
}

/// Parent and name of a process that has not ended yet: `PID (NAME) STATE PARENT ...`, and a name may hold anything.
fn parse_stat(stat: &str) -> Option<(i32, &str)> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let has_ended = matches!(words.next()?, "Z" | "X");
    let parent = words.next()?.parse().ok()?;
    (!has_ended).then_some((parent, start.split_once(" (")?.1))
}

/// The connections of FUSE in the kernel that no process sees a mount of, by their device numbers. Only root sees them.
pub fn connections_without_mount() -> Vec<String> {
    let list = "mount -t fusectl none /sys/fs/fuse/connections; ls /sys/fs/fuse/connections";
    let listed = tool("unshare", Path::new("/"))
        .args(["--mount", "sh", "-c", list])
        .ok();
    let connections = listed.stdout();
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    // One that ends meanwhile sees none.
    let mounts = entries.filter_map(|entry| fs::read_to_string(entry.path().join("mountinfo")).ok());
    let mut seen = BTreeSet::new();
    for mountinfo in mounts {
        let devices = mountinfo
            .lines()
            .filter_map(|line| line.split(' ').nth(2)?.strip_prefix("0:"));
        seen.extend(devices.map(str::to_owned));
    }
    let unseen = connections.lines().filter(|device| !seen.contains(*device));
    unseen.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_is_understood() {
        let text = "36 35 98:0 /mnt1 /a/b rw,noatime master:1 - fuse.mica mica rw\n\
                    37 35 98:0 / /ab rw - ext4 /dev/vda rw\n";
        let found = mounted_beneath(text, Path::new("/a"));
        let expected = Mount {
            point: "/a/b".to_owned(),
            kind: "fuse.mica".to_owned(),
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_name_may_hold_anything() {
        assert_eq!(parse_stat("7 (a) b (c) S 3 7 7 0"), Some((3, "a) b (c")));
        assert_eq!(parse_stat("7 (a) Z 3 7 7 0"), None);
    }
}
