//! Git repositories made for a test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// When every commit is made: seconds since the epoch.
pub const COMMITTED: u64 = 1_600_000_000;

/// A repository with a work tree.
pub struct Repository {
    directory: PathBuf,
}

impl Repository {
    /// Makes an empty repository; its branch is `main`.
    pub fn new(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).expect("the directory can be made");
        let repository = Self { directory };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Writes a file, and its parents.
    pub fn write(&self, name: &str, content: &str) -> &Self {
        let path = self.directory.join(name);
        std::fs::create_dir_all(path.parent().expect("it lies in the repository")).expect("it can be made");
        std::fs::write(path, content).expect("it can be written");
        self
    }

    /// Commits everything, and returns the commit.
    pub fn commit(&self) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message=a commit"]);
        // What a server of plain files needs.
        self.git(&["update-server-info"]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs a command of git in it, and returns what it says.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let time = format!("{COMMITTED} +0000");
        let output = Command::new("git")
            .args(["-c", "protocol.file.allow=always"])
            .args(args)
            .current_dir(&self.directory)
            .envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")])
            .envs([("GIT_AUTHOR_DATE", &time), ("GIT_COMMITTER_DATE", &time)])
            .envs([
                ("GIT_AUTHOR_NAME", "Test"),
                ("GIT_AUTHOR_EMAIL", "test@example.com"),
            ])
            .envs([
                ("GIT_COMMITTER_NAME", "Test"),
                ("GIT_COMMITTER_EMAIL", "test@example.com"),
            ])
            .output()
            .expect("git is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {args:?}: {said}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}
