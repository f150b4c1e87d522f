//! Where the program under test is.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    // The harness lies in a directory of the workspace's root.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package has a parent directory")
}

/// The binary `mica` of the profile that the tests were built with; `MICA_BIN` names another. It is built first,
/// since cargo knows nothing of a test that runs another package's program.
///
/// # Panics
/// If it cannot be built.
pub fn mica() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("MICA_BIN") {
        Some(path) => std::path::absolute(path).expect("MICA_BIN is a path"),
        None => build(),
    })
}

fn build() -> PathBuf {
    // target/PROFILE/deps/TEST
    let test = env::current_exe().expect("the test knows its own path");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("a test lies in target/PROFILE/deps")
        .to_owned();
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--package", "mica"])
        .current_dir(workspace());
    if profile.file_name().is_some_and(|name| name == "release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "mica cannot be built");
    profile.join("mica")
}
