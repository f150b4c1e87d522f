//! A root filesystem to run things in, and short ways to run them.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;

use mica_builder::sandbox::{Entered, Exit, MOUNT_POINTS, SandboxError, Spec, Stdin, Stdio};
use tempfile::TempDir;

/// What a case works with.
pub struct World {
    pub entered: Option<Entered>,
    pub rootless: bool,
    directory: TempDir,
}

/// A finished command.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: String,
    pub stderr: String,
}

impl World {
    /// One whose root filesystem holds busybox and the mount points.
    pub fn new(entered: Entered, rootless: bool) -> Self {
        let directory = temporary();
        let world = Self {
            entered: Some(entered),
            rootless,
            directory,
        };
        fs::create_dir(world.rootfs()).expect("own directory");
        populate(&world.rootfs());
        world
    }

    /// One without a root filesystem.
    pub fn nowhere() -> Self {
        let directory = temporary();
        Self {
            entered: None,
            rootless: true,
            directory,
        }
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.path().join("rootfs")
    }

    /// A path beside the root filesystem.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A shell script as a specification.
    pub fn script(&self, script: &str) -> Spec {
        Spec::new(self.rootfs(), ["/bin/sh", "-c", script])
    }

    /// What a shell script prints; it must succeed.
    pub fn sh(&self, script: &str) -> String {
        succeed(&self.script(script))
    }
}

/// Makes `rootfs` usable: every program of busybox, and the sandbox's mount points.
pub fn populate(rootfs: &Path) {
    let bin = rootfs.join("bin");
    for name in ["bin", "etc", "tmp", "app"].iter().chain(MOUNT_POINTS) {
        fs::create_dir(rootfs.join(name.trim_start_matches('/'))).expect("a new directory");
    }
    fs::set_permissions(rootfs, PermissionsExt::from_mode(0o755)).expect("own directory");
    fs::set_permissions(rootfs.join("tmp"), PermissionsExt::from_mode(0o1777)).expect("own");
    fs::copy(busybox().expect("checked before"), bin.join("busybox")).expect("busybox copied");
    for applet in [
        "cat", "chmod", "chown", "echo", "env", "find", "grep", "id", "kill", "ls", "mount", "pwd",
        "readlink", "seq", "setsid", "sh", "sleep", "stat", "stty", "touch", "true", "tty", "umount", "wc",
        "hostname",
    ] {
        symlink("busybox", bin.join(applet)).expect("a new link");
    }
}

pub fn temporary() -> TempDir {
    tempfile::Builder::new()
        .prefix("mica-sandbox-")
        .tempdir()
        .expect("a temporary directory")
}

pub fn busybox() -> Option<&'static Path> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists())
}

/// Runs to the end, reading both outputs.
pub fn run(spec: &Spec) -> Result<Ran, SandboxError> {
    let mut running = spec.spawn(Stdio::Piped(Stdin::Null))?;
    let (mut out, err) = running.take_output().expect("pipes");
    let errors = thread::spawn(move || io::read_to_string(err));
    let mut stdout = String::new();
    out.read_to_string(&mut stdout).expect("UTF-8 from stdout");
    let stderr = errors.join().expect("no panic").expect("UTF-8 from stderr");
    Ok(Ran {
        exit: running.wait()?,
        stdout,
        stderr,
    })
}

/// Runs to the end, which must be a good one.
pub fn succeed(spec: &Spec) -> String {
    let ran = run(spec).unwrap_or_else(|error| panic!("{:?}: {error:?}", spec.args));
    assert!(ran.exit.success(), "{:?}: {ran:?}", spec.args);
    ran.stdout
}
