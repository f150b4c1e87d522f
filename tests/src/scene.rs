//! A test's own place: a directory with a store, and someone who runs commands there.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;

use crate::command::{Run, wait_until};
use crate::machine::{self, Lack};
use crate::namespace::Namespace;
use crate::{base, binary, leftovers};

/// The unprivileged user of [`Scene::as_user`], who exists in the test's mount namespace only.
const USER: &str = "mica-test";
/// The user's and the group's id; nothing else may have it on a machine that runs the tests as root.
const USER_ID: u32 = 50_321;
/// The first of the user's 65,536 subordinate ids.
const FIRST_SUBORDINATE_ID: u32 = 1_300_000;

/// A change of the machine for [`Scene::user_changed_by`]: the user has no subordinate ids.
pub const NO_SUBORDINATE_IDS: &str = ": > etc-subuid; : > etc-subgid\n";

/// A change of the machine for [`Scene::user_changed_by`]: everybody may use the device that pasta needs.
pub const TUN: &str = "mkdir -p /dev/net; [ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200\n\
                       mknod -m 666 dev/tun c 10 200; mount --bind dev/tun /dev/net/tun\n";

/// A directory, a store in it, and the user who works with it.
pub struct Scene {
    // Ends before the directory goes.
    namespace: Option<Namespace>,
    directory: TempDir,
    user: Option<u32>,
    /// A further group of the user.
    group: Option<u32>,
}

impl Scene {
    /// A scene of the user that runs the tests, for what needs no mount.
    pub fn new() -> Self {
        let scene = Self::bare(None);
        scene.lay_out();
        scene
    }

    /// A scene of the user that runs the tests, where images can be mounted and built: as root, if it is root.
    /// The store holds the base image `base`. `None`, with a word on it, where this machine cannot do it.
    pub fn with_base() -> Option<Self> {
        machine::can_mount()?;
        if !machine::is_root() {
            machine::programs(&["newuidmap", "newgidmap"])?;
        }
        let scene = Self::new();
        base::load(&scene);
        Some(scene)
    }

    /// A scene of root.
    pub fn as_root() -> Option<Self> {
        if !machine::is_root() {
            machine::skip(Lack::Mendable, "this needs root");
            return None;
        }
        Self::with_base()
    }

    /// A scene of an unprivileged user who has subordinate ids: when root runs the tests, one made for the scene.
    pub fn as_user() -> Option<Self> {
        if !machine::is_root() {
            return Self::with_base();
        }
        machine::programs(&["newuidmap", "newgidmap", "nsenter", "unshare", "setpriv"])?;
        if !Path::new("/dev/fuse").exists() {
            machine::skip(Lack::Unavoidable, "this machine has no /dev/fuse");
            return None;
        }
        let scene = Self::user_changed_by("")?;
        base::load(&scene);
        Some(scene)
    }

    /// A scene of an unprivileged user who has nothing: no subordinate ids. Only root can make one.
    pub fn as_plain_user() -> Option<Self> {
        machine::programs(&["nsenter", "unshare", "setpriv"])?;
        if !Path::new("/dev/fuse").exists() {
            machine::skip(Lack::Unavoidable, "this machine has no /dev/fuse");
            return None;
        }
        let scene = Self::user_changed_by(NO_SUBORDINATE_IDS)?;
        base::load(&scene);
        Some(scene)
    }

    /// Everyone that this machine lets work: root and the unprivileged user.
    pub fn everyone() -> Vec<Self> {
        let root = machine::is_root().then(Self::as_root).flatten();
        root.into_iter().chain(Self::as_user()).collect()
    }

    /// One for each way in which steps get the ids of an image: root, and users with and without subordinate ids.
    pub fn in_every_id_mode() -> Vec<Self> {
        let mut scenes = Self::everyone();
        scenes.extend(machine::is_root().then(Self::as_plain_user).flatten());
        scenes
    }

    /// A scene of root on a machine changed by a shell script that runs in the scene's directory, in a mount
    /// namespace of its own.
    pub fn changed_by(script: &str) -> Option<Self> {
        if !machine::is_root() {
            machine::skip(Lack::Mendable, "only root can change the machine for a test");
            return None;
        }
        let mut scene = Self::bare(None);
        scene.lay_out();
        scene.namespace = Some(Namespace::new(scene.directory(), script));
        Some(scene)
    }

    /// A scene of the unprivileged user on a machine that a shell script changes further; the store is empty.
    pub fn user_changed_by(script: &str) -> Option<Self> {
        if !machine::is_root() {
            machine::skip(Lack::Mendable, "only root can change the machine for a test");
            return None;
        }
        let mut scene = Self::bare(Some(USER_ID));
        scene.lay_out();
        scene.namespace = Some(Namespace::new(
            scene.directory(),
            &(scene.become_someone() + script),
        ));
        Some(scene)
    }

    fn bare(user: Option<u32>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("mica-test-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .expect("a temporary directory can be made");
        Self {
            namespace: None,
            directory,
            user,
            group: None,
        }
    }

    fn lay_out(&self) {
        for name in ["store", "home", "tmp", "run"] {
            let directory = self.path(name);
            fs::create_dir(&directory).expect("the directory is new");
            self.give(&directory);
        }
        self.give(self.directory());
    }

    /// Hands a file to the scene's user.
    fn give(&self, path: &Path) {
        if let Some(user) = self.user {
            chown(path, Some(user), Some(user)).expect("root may hand over a file");
        }
    }

    /// The script that makes the user exist: entries in `/etc`, a `/dev/fuse` for everyone as distributions set
    /// it up, and the program where the user can reach it.
    fn become_someone(&self) -> String {
        let home = self.path("home");
        let home = home.display();
        let lines = [
            ("passwd", format!("{USER}:x:{USER_ID}:{USER_ID}::{home}:/bin/sh")),
            ("group", format!("{USER}:x:{USER_ID}:")),
            ("subuid", format!("{USER}:{FIRST_SUBORDINATE_ID}:65536")),
            ("subgid", format!("{USER}:{FIRST_SUBORDINATE_ID}:65536")),
        ];
        let mut script = String::new();
        for (name, line) in lines {
            // A machine that never had a subordinate id may lack the file, which then cannot be mounted over.
            let there = fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            fs::write(self.path(&format!("etc-{name}")), there + &line + "\n").expect("the file is new");
            script += &format!("mount --bind etc-{name} /etc/{name}\n");
        }
        fs::write(self.path("mica"), "").expect("the file is new");
        let binary = shell_word(binary::mica());
        script
            + &format!(
                "mount --bind {binary} mica\n\
             mkdir dev; mount -t tmpfs -o mode=755 tmpfs dev; mknod -m 666 dev/fuse c 10 229\n\
             mount --bind dev/fuse /dev/fuse\n"
            )
    }

    /// Makes the user a member of a further group, by its id.
    pub fn join(&mut self, group: u32) {
        self.group = Some(group);
    }

    /// Who runs the commands, for messages.
    pub fn who(&self) -> &'static str {
        match (self.user, machine::is_root()) {
            (None, true) => "root",
            _ if self.has_single_id() => "a user without subordinate ids",
            _ => "an unprivileged user",
        }
    }

    /// Whether the user has no subordinate ids.
    pub fn has_single_id(&self) -> bool {
        fs::read(self.path("etc-subuid")).is_ok_and(|lines| lines.is_empty())
    }

    /// Whether the commands run as root.
    pub fn is_root(&self) -> bool {
        self.user.is_none() && machine::is_root()
    }

    /// The scene's directory: where commands run.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the scene's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// Writes a file in the scene's directory, and makes its parents.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        self.mkdir(Path::new(name).parent().and_then(Path::to_str).unwrap_or(""));
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.give(&path);
        path
    }

    /// Makes a directory, and its parents.
    pub fn mkdir(&self, name: &str) -> PathBuf {
        let mut path = self.directory().to_owned();
        for part in Path::new(name) {
            path.push(part);
            if !path.exists() {
                fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                self.give(&path);
            }
        }
        path
    }

    /// Copies a directory of the project to a new one of the scene's directory, modes and all.
    pub fn copy(&self, from: &Path, to: &str) {
        self.mkdir(to);
        for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
            let entry = entry.expect("the directory can be read");
            let name = entry
                .file_name()
                .into_string()
                .expect("the project's names are text");
            let (from, to) = (entry.path(), format!("{to}/{name}"));
            if from.is_dir() {
                self.copy(&from, &to);
            } else {
                fs::copy(&from, self.path(&to)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
                self.give(&self.path(&to));
            }
        }
    }

    /// Reads a text file of the scene's directory.
    pub fn read(&self, name: &str) -> String {
        let path = self.path(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program under test, where the scene's user can run it.
    pub fn program(&self) -> PathBuf {
        match self.user {
            Some(_) => self.path("mica"),
            None => binary::mica().to_owned(),
        }
    }

    /// A `mica` command.
    pub fn mica<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.command(self.program()).args(args)
    }

    /// A shell script, run where and by whom `mica` runs, which it can call as `mica`.
    pub fn shell(&self, script: &str) -> Run {
        let script = format!("mica() {{ {} \"$@\"; }}\n{script}", shell_word(&self.program()));
        self.command("sh").args(["-euc", &script])
    }

    /// Any command, run where and by whom `mica` runs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Run {
        let mut command = match &self.namespace {
            Some(namespace) => namespace.command(self.directory()),
            None => Command::new("env"),
        };
        if let Some(user) = self.user {
            let ids = [format!("--reuid={user}"), format!("--regid={user}")];
            command
                .arg("setpriv")
                .args(ids)
                .arg(match self.group {
                    Some(group) => format!("--groups={group}"),
                    None => "--clear-groups".to_owned(),
                })
                .arg("--inh-caps=-all");
        }
        command.arg(program).current_dir(self.directory());
        self.set_environment(&mut command);
        Run::new(command)
    }

    /// Nothing of the environment that the tests run in but what programs are found by.
    fn set_environment(&self, command: &mut Command) {
        command
            .env_clear()
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("MICA_ROOT", self.store())
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            );
        for name in ["RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
    }

    /// Writes a Dockerfile as `ctx/Dockerfile` and makes the command that builds the context `ctx`.
    pub fn build<A: AsRef<OsStr>>(&self, dockerfile: &str, args: impl IntoIterator<Item = A>) -> Run {
        self.write("ctx/Dockerfile", dockerfile);
        self.rebuild(args)
    }

    /// The command that builds `ctx` as it is.
    pub fn rebuild<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.mica(["build", "--progress=plain"]).args(args).arg("ctx")
    }

    /// The content of a file of an image.
    pub fn cat(&self, image: &str, path: &str) -> String {
        self.mica(["cat", image, path]).ok().stdout()
    }

    /// The configuration that `mica inspect` shows of an image.
    pub fn config(&self, image: &str) -> serde_json::Value {
        let shown = self.mica(["inspect", image]).ok().json();
        shown[0]["Config"].clone()
    }

    /// What is mounted beneath the scene's directory, as its commands see it.
    pub fn mounts(&self) -> Vec<String> {
        let mountinfo = match &self.namespace {
            Some(namespace) => namespace.mountinfo(),
            None => fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted"),
        };
        leftovers::mounted_beneath(&mountinfo, self.directory())
            .into_iter()
            // What the scene itself was set up with.
            .filter(|mount| mount.kind.starts_with("fuse"))
            .map(|mount| mount.point)
            .collect()
    }

    /// Nothing may be left of any command: no mount, no process, no working directory once another command ran.
    #[track_caller]
    pub fn is_clean(&self) {
        assert_eq!(self.mounts(), Vec::<String>::new(), "still mounted");
        // What watches over a mount ends after it.
        wait_until("no process is left", || {
            leftovers::processes_naming(self.directory()).is_empty()
        });
        self.mica(["images"]).ok();
        self.mica(["prune"]).arg("--force").ok();
        let work = self.store().join("work");
        let left: Vec<_> = fs::read_dir(&work)
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("the directory can be read").file_name())
            .collect();
        assert!(left.is_empty(), "left in {}: {left:?}", work.display());
    }

    /// The images, each as `NAME:TAG ID`: what a failed command must leave as it was.
    pub fn images(&self) -> Vec<String> {
        let listed = self.mica(["images", "--no-trunc", "--format", "json"]).ok();
        let text =
            |image: &serde_json::Value, field: &str| image[field].as_str().unwrap_or_default().to_owned();
        let line = |image: &serde_json::Value| {
            format!(
                "{}:{} {}",
                text(image, "Repository"),
                text(image, "Tag"),
                text(image, "ID")
            )
        };
        listed.json_lines().iter().map(line).collect()
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // A failed test may have left a mount, and then its directory could not be removed.
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for mount in leftovers::mounted_beneath(&mountinfo, self.directory.path()) {
            // Nothing more can be done here, and the test has its own verdict.
            let _ = umount2(Path::new(&mount.point), MntFlags::MNT_DETACH);
        }
    }
}

/// A path as a word of a shell script.
fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
