//! `mica mount`, `umount` and `mounts` as processes: what is left when one of them ends, however it does.
//!
//! They need root (for mount(2)) and /dev/fuse, and say so where they are skipped.
#![allow(clippy::print_stderr)]

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mica_builder::image::Image;
use mica_fs::layer::Metadata;
use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn can_mount() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else {
        return true;
    };
    eprintln!("skipped: {reason}");
    false
}

/// A store with the image `t` of one file, and a directory to mount on.
struct Scene {
    base: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let base = tempfile::tempdir()?;
        fs::create_dir(base.path().join("mnt"))?;
        let store = Store::open(&base.path().join("root"))?;
        let work = store.work_dir()?;
        let mut writer = LayerWriter::new(work.path())?;
        let metadata = Metadata {
            mode: 0o644,
            ..Metadata::default()
        };
        let node = NewNode::File {
            size: 5,
            content: &mut &b"hello"[..],
        };
        writer.add(&ImagePath::clean(b"file")?, &metadata, node)?;
        let written = writer.finish()?;
        store.publish_layer(work, &written)?;
        let config = serde_json::json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [written.diff_id]},
        });
        let image = Image::store(&store, serde_json::from_value(config)?)?;
        store.tag("docker.io/library/t:latest", &image.manifest_digest)?;
        Ok(Self { base })
    }

    fn mnt(&self) -> PathBuf {
        self.base.path().join("mnt")
    }

    fn mica(&self, args: &[&str]) -> Result<Output> {
        Command::new(env!("CARGO_BIN_EXE_mica"))
            .arg("--root")
            .arg(self.base.path().join("root"))
            .args(args)
            .output()
            .context("cannot run mica")
    }

    /// Runs it and expects success; returns stdout.
    fn succeed(&self, args: &[&str]) -> Result<String> {
        let output = self.mica(args)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mica {args:?} failed: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Runs it and expects failure; returns stderr.
    fn fail(&self, args: &[&str]) -> Result<String> {
        let output = self.mica(args)?;
        ensure!(!output.status.success(), "mica {args:?} succeeded");
        Ok(String::from_utf8(output.stderr)?)
    }

    fn mount(&self, options: &[&str]) -> Result<()> {
        let directory = self.mnt();
        let directory = directory.to_str().context("path")?;
        self.succeed(&[&["mount"], options, &["t", directory]].concat())
            .map(drop)
    }

    fn umount(&self) -> Result<()> {
        self.succeed(&["umount", "--all"]).map(drop)
    }

    fn is_mounted(&self) -> Result<bool> {
        let table = fs::read_to_string("/proc/self/mounts")?;
        let directory = self.mnt();
        let directory = directory.to_str().context("path")?;
        Ok(table
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(directory)))
    }

    /// The process that serves the one mount.
    fn server(&self) -> Result<Pid> {
        let listed: serde_json::Value =
            serde_json::from_str(&self.succeed(&["mounts", "--format", "json"])?)?;
        let pid = listed
            .get("Pid")
            .and_then(serde_json::Value::as_i64)
            .context("no mount is listed")?;
        Ok(Pid::from_raw(i32::try_from(pid)?))
    }

    fn wait_until_unmounted(&self) -> Result<()> {
        let start = Instant::now();
        while self.is_mounted()? {
            ensure!(start.elapsed() < Duration::from_secs(10), "it stays mounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A failed test leaves no mount behind.
        let _ = self.mica(&["umount", "--all", "--lazy"]);
    }
}

#[test]
fn a_mount_is_listed_until_it_is_unmounted() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    scene.mount(&[])?;
    assert_eq!(fs::read(scene.mnt().join("file"))?, b"hello");
    assert!(scene.succeed(&["mounts"])?.contains("mnt"));
    scene.umount()?;
    assert!(!scene.is_mounted()?);
    assert_eq!(scene.succeed(&["mounts", "--format", "json"])?, "");
    let left: Vec<_> = fs::read_dir(scene.base.path().join("root/mounts"))?.collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn changes_are_kept_under_a_name_and_thrown_away_without() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    for (options, kept) in [(&["--rw"][..], false), (&["--rw", "--upper", "u"], true)] {
        scene.mount(options)?;
        fs::write(scene.mnt().join("new"), "new")?;
        scene.umount()?;
        scene.mount(options)?;
        assert_eq!(scene.mnt().join("new").exists(), kept, "{options:?}");
        scene.umount()?;
    }
    Ok(())
}

#[test]
fn a_killed_server_leaves_no_mount() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        scene.mount(&["--rw"])?;
        kill(scene.server()?, signal)?;
        scene.wait_until_unmounted()?;
        assert_eq!(scene.succeed(&["mounts", "--format", "json"])?, "", "{signal}");
    }
    Ok(())
}

#[test]
fn a_mount_in_use_is_told_and_detached_only_on_demand() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    scene.mount(&[])?;
    let open = fs::File::open(scene.mnt().join("file"))?;
    let error = scene.fail(&["umount", "--all"])?;
    assert!(error.contains("is in use") && error.contains("--lazy"), "{error}");
    assert!(scene.is_mounted()?);
    let directory = scene.mnt();
    let again = scene.fail(&["mount", "t", directory.to_str().context("path")?])?;
    assert!(again.contains("mount point already"), "{again}");
    scene.succeed(&["umount", "--all", "--lazy"])?;
    assert!(!scene.is_mounted()?);
    drop(open);
    Ok(())
}

#[test]
fn a_command_sees_the_mount_and_nobody_else_does() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let directory = scene.mnt();
    let directory = directory.to_str().context("path")?;
    let script = format!("cat $MICA_MOUNT/file {directory}/file; exit 7");
    let output = scene.mica(&["mount", "t", directory, "--", "sh", "-c", &script])?;
    assert_eq!(output.stdout, b"hellohello");
    assert_eq!(output.status.code(), Some(7));
    assert!(fs::read_dir(directory)?.next().is_none());
    let output = scene.mica(&["mount", "t", "--", "sh", "-c", "kill -TERM $$"])?;
    assert_eq!(output.status.code(), Some(128 + 15));
    assert_eq!(output.status.signal(), None);
    Ok(())
}

#[test]
fn bad_input_is_named_and_mounts_nothing() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let directory = scene.mnt();
    let directory = directory.to_str().context("path")?;
    let missing = format!("{directory}/missing");
    for (args, message) in [
        (&["mount", "nosuch", directory][..], "nosuch"),
        (&["mount", "t", &missing], "mkdir -p"),
        (&["mount", "t", "/etc/passwd"], "not a directory"),
        (&["mount", "t", "/proc"], "mount point already"),
        (&["mount", "--layers", "2", "t", directory], "only 1 layers"),
        (
            &["mount", "--rw", "--upper", "../x", "t", directory],
            "cannot name an upper",
        ),
        (&["umount", directory], "no mount of this store"),
    ] {
        let error = scene.fail(args)?;
        assert!(error.contains(message), "{args:?}: {error}");
        assert!(!scene.is_mounted()?);
    }
    Ok(())
}
