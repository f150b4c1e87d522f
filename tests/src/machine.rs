//! What this machine lets the tests do.

use std::env;
use std::path::{Path, PathBuf};

/// How a test that cannot run here is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// `scripts/test` can mend it when it runs as root: a failure under `CI=true`.
    Mendable,
    /// Nothing that a test machine can help: no network, no conformance suite beside the project.
    Unavoidable,
}

/// Says why a test is left out.
///
/// # Panics
/// Under `CI=true`, if the lack is mendable.
// A test's stderr is where its runner shows such things.
#[allow(clippy::print_stderr)]
pub fn skip(lack: Lack, reason: &str) {
    let strict = env::var("CI").is_ok_and(|value| value == "true");
    assert!(
        !(strict && lack == Lack::Mendable),
        "left out, though CI must not leave it out: {reason}"
    );
    eprintln!("skipped: {reason}");
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A program of this machine's `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        // Those of root are not in the PATH of everyone.
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
}

/// A test suite that `scripts/test` installs from its source, in `target/tools`; or one of `PATH`. `None`, with a
/// word on it, if it is not there.
pub fn suite(name: &str) -> Option<PathBuf> {
    // target/PROFILE/deps/TEST
    let test = env::current_exe().expect("the test knows its own path");
    let target = test
        .ancestors()
        .nth(3)
        .expect("a test lies in target/PROFILE/deps");
    let installed = target.join("tools/bin").join(name);
    let found = installed.is_file().then_some(installed).or_else(|| program(name));
    if found.is_none() {
        skip(Lack::Mendable, &format!("not installed: {name}"));
    }
    found
}

/// Whether the tests are to take the time they need (`scripts/test --long`) rather than a few minutes.
pub fn is_long() -> bool {
    env::var_os("MICA_TEST_LONG").is_some_and(|value| !value.is_empty() && value != "0")
}

/// One number for a run of reasonable length, the other for a long one.
pub fn either<T>(short: T, long: T) -> T {
    if is_long() { long } else { short }
}

/// All of these programs, or a word on which of them are missing.
pub fn programs(names: &[&str]) -> Option<()> {
    let missing: Vec<_> = names
        .iter()
        .filter(|name| program(name).is_none())
        .copied()
        .collect();
    if missing.is_empty() {
        return Some(());
    }
    skip(Lack::Mendable, &format!("not installed: {}", missing.join(", ")));
    None
}

/// The directory with the conformance suite and the makers of base images: `MICA_SHARED`, or `../shared` beside
/// the project. It is no part of the project.
pub fn shared() -> Option<PathBuf> {
    let directory = match env::var_os("MICA_SHARED") {
        Some(directory) => PathBuf::from(directory),
        None => crate::binary::workspace().join("../shared"),
    };
    let found = directory.join("conformance/run.py").is_file();
    if !found {
        let text = format!(
            "no conformance suite in {} (MICA_SHARED names it)",
            directory.display()
        );
        skip(Lack::Unavoidable, &text);
    }
    found.then_some(directory)
}

/// Whether a process of the current user can mount FUSE in namespaces of its own.
pub fn can_mount() -> Option<()> {
    if !Path::new("/dev/fuse").exists() {
        skip(Lack::Unavoidable, "this machine has no /dev/fuse");
        return None;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    if let Err(error) = file {
        skip(Lack::Mendable, &format!("/dev/fuse cannot be opened: {error}"));
        return None;
    }
    Some(())
}

/// Whether the kernel has as much of Landlock as mica uses: since Linux 5.19.
pub fn landlock() -> Option<()> {
    use landlock::{AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _};
    let files = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer);
    if let Err(error) = files {
        skip(Lack::Unavoidable, &format!("this kernel lacks Landlock: {error}"));
        return None;
    }
    Some(())
}
