//! The conformance suite: builds compared with Docker's, case by case.
//!
//! The suite lies beside the project, in `$MICA_SHARED`. What is known to fail stands in
//! `conformance-expected-failures.txt`, which may only shrink: an unexpected failure fails the test, and so does
//! a listed case that passes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mica_tests::Scene;
use mica_tests::{base, machine};

#[test]
fn builds_equal_docker_s() {
    if let Some(scene) = Scene::as_root() {
        check(&scene, Scene::program);
    }
}

#[test]
fn builds_with_subordinate_ids_equal_docker_s() {
    if !machine::is_long() {
        return;
    }
    if let Some(scene) = Scene::as_user() {
        check(&scene, Scene::program);
    }
}

#[test]
fn builds_without_subordinate_ids_equal_docker_s() {
    if let Some(scene) = Scene::as_plain_user() {
        check(&scene, Scene::program);
    }
}

/// Each case is built twice, and all that the cache has of the first time is executed again and compared.
#[test]
fn the_cache_has_what_the_builds_give() {
    if !machine::is_long() {
        return;
    }
    let Some(scene) = Scene::as_root() else { return };
    check(&scene, |scene| {
        let script = format!(
            "#!/bin/sh\nmica={:?}\n[ \"$1\" = build ] || exec \"$mica\" \"$@\"\nshift\n\
             \"$mica\" build \"$@\" && exec \"$mica\" build --verify-cache=100% \"$@\"\n",
            scene.program().display().to_string()
        );
        let path = scene.write("twice", script);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    });
}

/// Runs the suite with a program that takes mica's arguments: it must pass as far as it is expected to.
fn check(scene: &Scene, program: impl FnOnce(&Scene) -> PathBuf) {
    let Some(shared) = machine::shared() else { return };
    if machine::programs(&["python3"]).is_none() {
        return;
    }
    let Some(bases) = base::archives(&shared, &["busybox", "debian"]) else {
        return;
    };
    let report = scene.path("report.json");
    scene
        .command("python3")
        .arg(shared.join("conformance/run.py"))
        .args(["--tool", "mica", "--load", "--jobs", "2", "--mica"])
        .arg(program(scene))
        .arg("--base-dir")
        .arg(&bases)
        .arg("--json")
        .arg(&report)
        // It fails when any case does; what that means is decided here.
        .run();
    let text = fs::read_to_string(&report).expect("the suite ran to its end");
    let report: serde_json::Value = serde_json::from_str(&text).expect("the report is JSON");
    let cases = report["cases"].as_array().expect("a list of cases");
    let names = |passed: bool| -> BTreeSet<String> {
        cases
            .iter()
            .filter(|case| case["passed"] == passed && case["skipped"] != true)
            .filter_map(|case| case["name"].as_str().map(str::to_owned))
            .collect()
    };
    let (passed, failed) = (names(true), names(false));
    let expected = expected_failures();
    let is_unexpected = |case: &&serde_json::Value| {
        let name = case["name"].as_str().unwrap_or_default();
        failed.contains(name) && !expected.contains(name)
    };
    let unexpected: Vec<_> = cases.iter().filter(is_unexpected).collect();
    let mended: Vec<_> = passed.intersection(&expected).collect();
    let unknown: Vec<_> = expected
        .iter()
        .filter(|name| !passed.contains(*name) && !failed.contains(*name))
        .collect();
    assert!(
        unexpected.is_empty() && mended.is_empty() && unknown.is_empty(),
        "{} passed, {} failed\nfail unexpectedly: {unexpected:#?}\npass, remove them from the list: {mended:#?}\n\
         no such case: {unknown:#?}",
        passed.len(),
        failed.len()
    );
    scene.is_clean();
}

fn expected_failures() -> BTreeSet<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance-expected-failures.txt");
    let text = fs::read_to_string(&file).expect("the list is part of the project");
    let entries = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim());
    entries
        .filter(|entry| !entry.is_empty())
        .map(str::to_owned)
        .collect()
}
