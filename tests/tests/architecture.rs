//! The shape of the code: dependencies run one way, libraries do not print or exit, `unsafe` lies in `sys` modules.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mica_tests::binary::workspace;
use mica_tests::command::tool;

/// Which packages of the workspace each package may use.
const MAY_USE: [(&str, &[&str]); 4] = [
    ("mica-fs", &[]),
    ("mica-builder", &["mica-fs"]),
    ("mica", &["mica-builder", "mica-fs"]),
    ("mica-tests", &[]),
];

#[test]
fn dependencies_run_one_way() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let metadata = tool(cargo, workspace())
        .args(["metadata", "--no-deps", "--format-version=1"])
        .ok()
        .json();
    let packages = metadata["packages"].as_array().expect("cargo lists the packages");
    let mut uses: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in packages {
        let dependencies = package["dependencies"].as_array().expect("a list");
        let names = dependencies
            .iter()
            .filter_map(|dependency| dependency["name"].as_str());
        let ours = names.filter(|name| name.starts_with("mica")).collect();
        uses.insert(package["name"].as_str().expect("a name"), ours);
    }
    assert_eq!(
        uses.len(),
        MAY_USE.len(),
        "a package that MAY_USE does not know: {uses:?}"
    );
    for (package, allowed) in MAY_USE {
        for used in &uses[package] {
            assert!(allowed.contains(used), "{package} may not depend on {used}");
        }
    }
}

#[test]
fn libraries_neither_print_nor_exit() {
    for (file, number, line) in lines_of(&["fs/src", "builder/src"]) {
        if relative(&file).contains("tests") {
            continue;
        }
        for word in ["println!(", "print!(", "eprintln!(", "eprint!(", "process::exit("] {
            assert!(
                !line.contains(word),
                "{}:{number}: {word} is the front end's to call",
                file.display()
            );
        }
    }
}

#[test]
fn each_dependency_has_its_reason() {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("the manifest is there");
    let reasons = fs::read_to_string(workspace().join("docs/dependencies.md")).expect("the list is there");
    let table = manifest
        .split("[workspace.dependencies]")
        .nth(1)
        .expect("the table is there");
    let table = table.split("\n[").next().expect("a text has a first part");
    let names = table
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name);
    for name in names.filter(|name| !name.starts_with("mica-")) {
        assert!(
            reasons.contains(&format!("`{name}`")),
            "docs/dependencies.md has no line for {name}"
        );
    }
}

#[test]
fn each_difference_has_its_test() {
    let differences = fs::read_to_string(workspace().join("docs/semantics.md")).expect("the list is there");
    let tests: String = lines_of(&["tests/tests", "fs/src", "fs/tests", "builder/src"])
        .into_iter()
        .map(|(_, _, line)| line + "\n")
        .collect();
    // Rows of tables: what differs, and the test's name in backquotes at the end.
    let rows = differences
        .lines()
        .filter(|line| line.starts_with("| ") && line.ends_with("` |"));
    let names: Vec<_> = rows.filter_map(|row| row.rsplit('`').nth(1)).collect();
    assert!(names.len() > 10, "the tables are not understood: {names:?}");
    for name in names {
        assert!(
            tests.contains(&format!("fn {name}(")),
            "docs/semantics.md names {name}, which is no test"
        );
    }
}

#[test]
fn fuse_types_stay_in_the_adapter() {
    for (file, number, line) in lines_of(&["fs/src", "builder/src", "cli/src"]) {
        let is_adapter = ["fs/src/fuse", "fs/src/mount", "fs/src/sys"]
            .iter()
            .any(|place| relative(&file).starts_with(place));
        assert!(
            is_adapter || !line.contains("fuser::"),
            "{}:{number}: only fs/src/fuse and fs/src/mount speak of fuser",
            file.display()
        );
    }
}

#[test]
fn unsafe_code_lies_in_sys_modules() {
    for (file, number, line) in lines_of(&["fs/src", "builder/src", "cli/src", "tests/src"]) {
        let is_sys = relative(&file)
            .split('/')
            .any(|part| part == "sys" || part == "sys.rs");
        assert!(
            is_sys || !line.contains("allow(unsafe_code)"),
            "{}:{number}: unsafe code belongs into a `sys` module",
            file.display()
        );
    }
}

fn relative(file: &Path) -> String {
    let relative = file.strip_prefix(workspace()).expect("a file of the workspace");
    relative.display().to_string()
}

/// The lines of code of these directories, without comments.
fn lines_of(directories: &[&str]) -> Vec<(PathBuf, usize, String)> {
    let mut found = Vec::new();
    let mut left: Vec<_> = directories.iter().map(|name| workspace().join(name)).collect();
    while let Some(path) = left.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("the directory can be read");
            left.extend(entries.map(|entry| entry.expect("the directory can be read").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            let lines = text.lines().enumerate();
            let code = lines.filter(|(_, line)| !line.trim_start().starts_with("//"));
            found.extend(code.map(|(index, line)| (path.clone(), index + 1, line.to_owned())));
        }
    }
    assert!(!found.is_empty(), "no source in {directories:?}");
    found
}
