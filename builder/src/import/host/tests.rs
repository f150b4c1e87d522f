use super::*;
use std::os::unix::fs::{PermissionsExt as _, symlink};

fn paths(host: &Host) -> Vec<String> {
    host.nodes.keys().map(ToString::to_string).collect()
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_program_comes_with_its_libraries() {
    let mut host = Host::new();
    host.program(OsStr::new("sh"), OsStr::new("/nowhere:/usr/bin:/bin"))
        .unwrap();
    let paths = paths(&host);
    assert!(paths.iter().any(|path| path.contains("/ld-")), "{paths:?}");
    assert!(paths.iter().any(|path| path.contains("/libc.")), "{paths:?}");
    assert!(paths.iter().any(|path| path.ends_with("/sh")), "{paths:?}");
}

#[test]
fn a_script_comes_with_its_interpreter() {
    let directory = tempfile::tempdir().unwrap();
    let hello = directory.path().join("hello");
    script(&hello, "#!/usr/bin/env -S sh\necho hello\n");
    let mut host = Host::new();
    host.program(hello.as_os_str(), OsStr::new("/usr/bin:/bin"))
        .unwrap();
    let paths = paths(&host);
    for name in ["/hello", "/env", "/sh"] {
        assert!(
            paths.iter().any(|path| path.ends_with(name)),
            "{name} in {paths:?}"
        );
    }
}

#[test]
fn links_on_the_way_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path();
    fs::create_dir_all(top.join("real/deep")).unwrap();
    fs::write(top.join("real/deep/data"), "x").unwrap();
    symlink("real/deep", top.join("short")).unwrap();
    symlink("../deep/data", top.join("real/deep/again")).unwrap();
    let mut host = Host::new();
    host.include(&top.join("short/again")).unwrap();
    let paths = paths(&host);
    for name in [
        "/short",
        "/real",
        "/real/deep",
        "/real/deep/again",
        "/real/deep/data",
    ] {
        let path = format!("{}{name}", top.display());
        assert!(paths.contains(&path), "{path} in {paths:?}");
    }
}

#[test]
fn what_is_no_program_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    let program = |path: &Path| Host::new().program(path.as_os_str(), OsStr::new("/usr/bin:/bin"));
    assert!(matches!(program(&path), Err(HostError::Read { .. })));
    script(&path, "just text");
    assert!(matches!(program(&path), Err(HostError::NotAProgram { .. })));
    symlink("loop", directory.path().join("loop")).unwrap();
    assert!(matches!(
        program(&directory.path().join("loop")),
        Err(HostError::Loop { .. })
    ));

    fs::create_dir(directory.path().join("shims")).unwrap();
    let shim = directory.path().join("shims/python3");
    script(
        &shim,
        "#!/bin/sh\nset -e\nexec \"/x/pyenv\" exec \"$program\" \"$@\"\n",
    );
    assert!(matches!(program(&shim), Err(HostError::Shim { .. })));
    assert!(matches!(
        Host::new().program(OsStr::new("no-such-program"), OsStr::new("/bin")),
        Err(HostError::NotFound { .. })
    ));
}
