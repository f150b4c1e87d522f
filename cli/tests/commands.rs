//! The commands on images, by the real program on a store of its own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// A store of its own, and an image in it.
struct World {
    directory: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let world = Self { directory };
        let root = world.path("rootfs");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("srv/deep")).unwrap();
        std::fs::write(root.join("etc/motd"), "hello\n").unwrap();
        std::fs::write(root.join("srv/deep/data"), "data").unwrap();
        std::os::unix::fs::symlink("../etc/motd", root.join("srv/link")).unwrap();
        let tar = Command::new("tar")
            .args(["-C", text(&root), "-cf", text(&world.path("rootfs.tar")), "."])
            .status();
        assert!(tar.unwrap().success());
        world.ok(&[
            "import",
            "-c",
            "CMD [\"sh\"]",
            "-c",
            "LABEL a=b",
            &world.name("rootfs.tar"),
            "app:v1",
        ]);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        text(&self.path(name)).to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mica"));
        command
            .env("MICA_ROOT", self.path("store"))
            .env_remove("MICA_LOG")
            .args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs what must succeed: its stdout.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {error}");
        assert_eq!(error, "", "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must fail: its exit status and its stderr.
    fn fails(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        assert!(!output.status.success(), "{args:?}");
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    fn json(&self, args: &[&str]) -> Vec<Value> {
        self.ok(args)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn images_are_listed_tagged_and_removed() {
    let world = World::new();
    let listed = world.json(&["images", "--format", "json", "--no-trunc"]);
    assert_eq!(
        (&listed[0]["Repository"], &listed[0]["Tag"]),
        (&"app".into(), &"v1".into())
    );
    let id = listed[0]["ID"].as_str().unwrap();
    let short = &id["sha256:".len()..][..12];
    let table = world.ok(&["images"]);
    assert!(
        table.starts_with("REPOSITORY   TAG   IMAGE ID") && table.contains(short),
        "{table}"
    );
    assert_eq!(world.ok(&["images", "-q"]), format!("{short}\n"));
    assert_eq!(world.ok(&["images", "-q", "other"]), "");

    world.ok(&["tag", short, "app:v2", "other/app"]);
    assert_eq!(world.ok(&["images", "-q", "app"]).lines().count(), 1);
    assert_eq!(world.json(&["images", "--format", "json", "app"]).len(), 2);
    let (code, error) = world.fails(&["rmi", short]);
    assert!(
        code == 1 && error.contains("several repositories") && error.contains("hint: "),
        "{error}"
    );
    assert_eq!(world.ok(&["rmi", "app:v2"]), "Untagged: app:v2\n");
    assert_eq!(world.ok(&["rmi", "other/app"]), "Untagged: other/app:latest\n");
    assert_eq!(
        world.ok(&["rmi", "app:v1"]),
        format!("Untagged: app:v1\nDeleted: {id}\n")
    );
    assert_eq!(world.ok(&["images", "-q"]), "");

    assert_eq!(world.json(&["df", "--format", "json"])[0]["TotalCount"], 1);
    let pruned = &world.json(&["prune", "-f", "--format", "json"])[0];
    assert_eq!(pruned["Layers"].as_array().unwrap().len(), 1);
    assert_eq!(world.json(&["df", "--format", "json"])[0]["TotalCount"], 0);
}

#[test]
fn what_is_known_of_an_image_is_shown() {
    let world = World::new();
    let inspected: Value = serde_json::from_str(&world.ok(&["inspect", "app:v1"])).unwrap();
    assert_eq!(inspected[0]["RepoTags"], serde_json::json!(["app:v1"]));
    assert_eq!(inspected[0]["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(inspected[0]["Config"]["Labels"]["a"], "b");
    let history = world.json(&["history", "--format", "json", "app:v1"]);
    assert_eq!(
        (history.len(), &history[0]["Comment"]),
        (1, &"Imported by mica".into())
    );
    assert!(world.ok(&["history", "app:v1"]).contains("CREATED BY"));
    assert!(world.ok(&["version"]).starts_with("mica "));
    assert!(world.ok(&["--version"]).starts_with("mica "));
}

#[test]
fn files_are_seen_without_a_mount() {
    let world = World::new();
    assert_eq!(world.ok(&["ls", "app:v1"]), "etc\nsrv\n");
    assert_eq!(
        world.ok(&["ls", "-R", "app:v1", "/srv"]),
        "deep\ndeep/data\nlink\n"
    );
    let long = world.ok(&["ls", "-l", "app:v1:/srv"]);
    assert!(
        long.contains("link -> ../etc/motd") && long.starts_with('d'),
        "{long}"
    );
    assert_eq!(
        world.json(&["ls", "--format", "json", "app:v1", "/etc"])[0]["Size"],
        6
    );
    assert_eq!(
        world.ok(&["cat", "app:v1", "/srv/link", "etc/motd"]),
        "hello\nhello\n"
    );
    assert!(
        world
            .fails(&["cat", "app:v1", "/etc"])
            .1
            .contains("no regular file")
    );
    let (code, error) = world.fails(&["ls", "app:v1", "/nothing"]);
    assert!(code == 1 && error.contains("/nothing"), "{error}");
    let diff = world.ok(&["diff", "--layer", "1", "app:v1"]);
    assert_eq!(
        diff,
        "A /etc\nA /etc/motd\nA /srv\nA /srv/deep\nA /srv/deep/data\nA /srv/link\n"
    );
    assert_eq!(world.ok(&["diff", "app:v1", "app:v1"]), "");
}

#[test]
fn files_are_copied_out() {
    let world = World::new();
    let out = world.name("out");
    world.ok(&["cp", "app:v1:/srv", &out]);
    assert_eq!(
        std::fs::read_to_string(world.path("out/deep/data")).unwrap(),
        "data"
    );
    world.ok(&["cp", "app:v1:/srv", &out]);
    assert!(world.path("out/srv/deep/data").is_file());
    world.ok(&["cp", "-L", "app:v1:/srv/link", &out]);
    assert_eq!(
        std::fs::read_to_string(world.path("out/link")).unwrap(),
        "hello\n"
    );
    assert!(
        world
            .fails(&["cp", "app:v1:/etc/motd", &format!("{out}/no/")])
            .1
            .contains("no directory")
    );
    let tar = world.run(&["cp", "app:v1:/srv", "-"]).stdout;
    std::fs::write(world.path("srv.tar"), tar).unwrap();
    let listed = Command::new("tar")
        .args(["-tf", &world.name("srv.tar")])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed, "srv/\nsrv/deep/\nsrv/deep/data\nsrv/link\n");
}

#[test]
fn archives_go_out_and_come_in() {
    let world = World::new();
    let id = world.ok(&["images", "-q", "--no-trunc"]);
    for (format, name) in [
        ("docker-archive", "d.tar"),
        ("oci-archive", "o.tar"),
        ("oci-dir", "layout"),
    ] {
        let path = world.name(name);
        world.ok(&[
            "save",
            "--format",
            format,
            "--compression",
            "gzip",
            "-o",
            &path,
            "app:v1",
        ]);
        let other = World::new();
        other.ok(&["rmi", "app:v1"]);
        assert_eq!(other.ok(&["load", "-i", &path]), "Loaded image: app:v1\n");
        assert_eq!(other.ok(&["images", "-q", "--no-trunc"]), id);
    }
    let archive = world.run(&["save", "app:v1"]).stdout;
    let mut load = world
        .command(&["load"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    load.stdin.take().unwrap().write_all(&archive).unwrap();
    assert!(load.wait_with_output().unwrap().status.success());

    let (code, error) = world.fails(&["load", "-i", &world.name("rootfs.tar")]);
    assert!(
        code == 1 && error.contains("neither index.json nor manifest.json"),
        "{error}"
    );
    assert!(error.contains("hint: to make an image"), "{error}");
    assert!(world.fails(&["load"]).1.contains("it is empty"));
}

#[test]
fn programs_of_this_machine_make_an_image() {
    let world = World::new();
    let include = world.name("rootfs");
    world.ok(&[
        "import",
        "--host",
        "sh",
        "cat",
        "--include",
        &include,
        "-t",
        "host",
    ]);
    let files = world.ok(&["ls", "-R", "host"]);
    for wanted in ["etc/passwd", "tmp", "/cat", "rootfs/srv/deep/data"] {
        assert!(
            files.lines().any(|line| line.ends_with(wanted)),
            "{wanted} in {files}"
        );
    }
    let (_, error) = world.fails(&["import", "--host", "no-such-program"]);
    assert!(
        error.contains("there is no program \"no-such-program\""),
        "{error}"
    );
}

#[test]
fn mistakes_are_explained() {
    let world = World::new();
    let (code, error) = world.fails(&["history", "ap:v1"]);
    assert_eq!(code, 1);
    assert_eq!(
        error,
        "mica: error: no such image: ap:v1\n  hint: did you mean app:v1?\n"
    );
    let (_, error) = world.fails(&["tag", "app:v1", "MyApp"]);
    assert!(
        error.contains("must be lower case") && error.contains("hint: write myapp"),
        "{error}"
    );
    assert_eq!(world.fails(&["no-such-command"]).0, 2);
    assert_eq!(world.fails(&["images", "--filter", "nonsense"]).0, 2);
    assert!(
        world
            .fails(&["import", &world.name("no.tar")])
            .1
            .contains("No such file")
    );
    assert!(
        world
            .fails(&["import", "-c", "RUN x", &world.name("rootfs.tar")])
            .1
            .contains("RUN")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    let mut child = world
        .command(&["ls", "-R", "app:v1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
