//! A mount namespace of a test's own, in which root may change the machine without changing it: other files
//! mounted over `/etc/passwd`, another `/dev/fuse`, a small disk.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Mounts of other tests at this moment would live as long as the namespace, and their `mica umount` wait.
const LEAVE: &str = "awk '/ - fuse\\.mica /{print $5}' /proc/self/mountinfo | xargs -r umount -l || :";

/// The namespace, kept by a process that lives as long as this value.
pub struct Namespace {
    keeper: Child,
}

impl Namespace {
    /// A private copy of this process's mount namespace, changed by a shell script that runs in `directory`.
    ///
    /// # Panics
    /// If the script fails; only root can do this.
    pub fn new(directory: &Path, script: &str) -> Self {
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc"])
            // `cat` ends when the pipe closes: with this value, or with the test, however that ends. Its environment
            // names nothing of the scene, so it is not taken for something that a command left.
            .arg(format!("{LEAVE}\n{script}\necho ready; exec env -i cat"))
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is installed");
        let mut line = String::new();
        let stdout = keeper.stdout.as_mut().expect("stdout is a pipe");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a pipe can be read");
        assert_eq!(line, "ready\n", "the namespace cannot be set up by: {script}");
        Self { keeper }
    }

    /// A command in this namespace, in the directory given.
    pub fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()))
            .args(["env", "-C"])
            .arg(directory);
        command
    }

    /// What is mounted in this namespace: `/proc/PID/mountinfo`.
    pub fn mountinfo(&self) -> String {
        let file = format!("/proc/{}/mountinfo", self.keeper.id());
        std::fs::read_to_string(file).expect("the keeper lives")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Closes its stdin.
        drop(self.keeper.stdin.take());
        // It has nothing to fail with but being gone already.
        let _ = self.keeper.wait();
    }
}
