//! Images to build on: `base`, a small Unix made from this machine without any network, and those that the
//! conformance suite makes of Debian's packages.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::archive::Tar;
use crate::binary::workspace;
use crate::command::tool;
use crate::machine::{self, Lack};
use crate::scene::Scene;

/// Puts the image `base` into the scene's store.
///
/// # Panics
/// If it cannot be imported.
pub fn load(scene: &Scene) {
    let tree = tree()
        .unwrap_or_else(|| panic!("scripts/test installs busybox-static, which the base image is made of"));
    scene.mica(["import", "-", "base"]).stdin(tree).ok();
}

/// The root filesystem as a tar: busybox, its applets as hard links in /bin, and a few users.
pub fn tree() -> Option<&'static [u8]> {
    static TREE: OnceLock<Option<Vec<u8>>> = OnceLock::new();
    TREE.get_or_init(|| static_busybox().map(|path| pack(&path)))
        .as_deref()
}

/// A busybox that needs no library: the ordinary one would not run in an image of its own.
fn static_busybox() -> Option<PathBuf> {
    let path = machine::program("busybox")?;
    let head = fs::read(&path).ok()?;
    let head = &head[..head.len().min(4096)];
    // The program interpreter is named near the head of an ELF file.
    let is_dynamic = head.windows(4).any(|part| part == b"/ld-");
    (!is_dynamic).then_some(path)
}

fn pack(busybox: &Path) -> Vec<u8> {
    let applets = tool(busybox, Path::new("/")).arg("--list").ok().stdout();
    let binary = fs::read(busybox).expect("a program can be read");
    let mut tar = Tar::new().directory("bin", 0o755).program("bin/busybox", binary);
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        tar = tar.hard_link(&format!("bin/{applet}"), "bin/busybox");
    }
    for (name, mode) in [
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("home/user", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr", 0o755),
    ] {
        tar = tar.directory(name, mode);
    }
    tar.file(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    )
    .file("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    .symlink("usr/bin", "../bin")
    .bytes()
}

/// The directory with the archives `NAME.tar` of these base images, which the makers in `shared` make once:
/// `$MICA_BASE_DIR`, or one in `target/`. `None`, with a word on it, where the packages cannot be had.
pub fn archives(shared: &Path, names: &[&str]) -> Option<PathBuf> {
    let directory = match env::var_os("MICA_BASE_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => workspace().join("target/conformance-bases"),
    };
    if names
        .iter()
        .all(|name| directory.join(name).with_extension("tar").is_file())
    {
        return Some(directory);
    }
    machine::programs(&["mmdebstrap", "dpkg-deb", "python3"])?;
    let made = tool("bash", workspace())
        .arg(shared.join("images/make-base.sh"))
        .arg(&directory)
        .args(names)
        .run();
    if !made.status.success() {
        let text = format!("the base images cannot be made\n{}", made.describe());
        machine::skip(Lack::Unavoidable, &text);
        return None;
    }
    Some(directory)
}

/// The archive of the image `tools`: a stage of `tests/real/tools`, which is built once. `None`, with a word on it, where
/// that cannot be.
///
/// # Panics
/// If it cannot be built although its base can.
pub fn tools(stage: &str) -> Option<PathBuf> {
    let text = include_str!("../real/tools/Dockerfile");
    let name = format!("tools-{stage}-{:016x}.tar", hash(text));
    let directory = workspace().join("target/conformance-bases");
    let path = directory.join(&name);
    fs::create_dir_all(&directory).expect("target/ is ours");
    // One process makes it, the others wait.
    let lock = File::create(directory.join(format!("{name}.lock"))).expect("target/ is ours");
    lock.lock().expect("it can be locked");
    if path.is_file() {
        return Some(path);
    }
    let bases = archives(&machine::shared()?, &["debian"])?;
    let scene = Scene::as_root()?;
    scene.mica(["load", "-i"]).arg(bases.join("debian.tar")).ok();
    scene.build(text, ["--target", stage, "-t", "tools"]).ok();
    scene.mica(["save", "tools", "-o", "tools.tar"]).ok();
    let unfinished = path.with_extension("new");
    fs::copy(scene.path("tools.tar"), &unfinished).expect("target/ is ours");
    fs::rename(&unfinished, &path).expect("target/ is ours");
    Some(path)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
