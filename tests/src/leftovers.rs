//! What a command left behind on the machine: mounts and processes.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

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
}
