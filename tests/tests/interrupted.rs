//! Builds that are ended from outside leave nothing: no mount, no process, no half-made layer.

use std::thread;
use std::time::Duration;

use mica_tests::command::{tool, wait_until};
use mica_tests::{Scene, machine};
use nix::sys::signal::Signal;

/// Ends a build with this signal while its second step runs.
fn interrupt(scene: &Scene, signal: Signal, seconds: u32) {
    let text = format!("FROM base\nRUN echo made > /made\nRUN echo half > /half && sleep {seconds}\n");
    let sleeping = format!("sleep {seconds}");
    let running = scene.build(&text, ["-t", "never"]).start();
    wait_until("the step runs", || is_running(scene, &sleeping));
    running.signal(signal);
    let outcome = running.wait();
    assert!(!outcome.status.success(), "{}", outcome.describe());
    wait_until("the step's processes end", || !is_running(scene, &sleeping));
    wait_until("the build's mount goes", || scene.mounts().is_empty());
    scene.mica(["inspect", "never"]).fails();
    scene.is_clean();
    // What was done is kept, and the store is whole.
    scene
        .build("FROM base\nRUN echo made > /made\nRUN true\n", ["-t", "now"])
        .ok()
        .says("CACHED");
    assert_eq!(scene.cat("now", "/made"), "made\n");
    scene.mica(["cat", "now", "/half"]).fails();
}

fn is_running(scene: &Scene, command: &str) -> bool {
    let processes = tool("ps", scene.directory()).args(["-eo", "args"]).ok().stdout();
    processes.lines().any(|line| line == command)
}

#[test]
fn an_interrupted_build_leaves_nothing() {
    let Some(scene) = Scene::with_base() else { return };
    interrupt(&scene, Signal::SIGINT, 71_101);
}

#[test]
fn a_terminated_build_leaves_nothing() {
    let Some(scene) = Scene::with_base() else { return };
    interrupt(&scene, Signal::SIGTERM, 71_102);
}

#[test]
fn a_killed_build_leaves_nothing() {
    let Some(scene) = Scene::with_base() else { return };
    interrupt(&scene, Signal::SIGKILL, 71_103);
}

#[test]
fn an_unprivileged_user_s_killed_build_leaves_nothing() {
    for (scene, seconds) in [(Scene::as_user(), 71_104), (Scene::as_plain_user(), 71_105)] {
        let Some(scene) = scene else { continue };
        // The signal must reach mica itself, which nsenter and setpriv became by exec.
        interrupt(&scene, Signal::SIGKILL, seconds);
    }
}

/// There is no moment at which the signal is lost.
#[test]
fn a_build_that_is_told_to_end_at_any_moment_ends() {
    let (times, most) = if machine::is_long() { (150, 800) } else { (25, 250) };
    for scene in Scene::in_every_id_mode() {
        scene.write("ctx/Dockerfile", "FROM base\nRUN sleep 1000\n");
        for time in 0..times {
            let command = scene.mica(["build", "--progress=plain", "-o", "type=cacheonly", "ctx"]);
            let running = command.start();
            thread::sleep(Duration::from_millis(most * time / times));
            running.signal(Signal::SIGTERM);
            // Patience with it is bounded.
            let outcome = running.wait();
            assert!(!outcome.status.success(), "{}", outcome.describe());
        }
        wait_until("the builds' mounts go", || scene.mounts().is_empty());
        scene.is_clean();
    }
}

#[test]
fn a_build_killed_at_any_moment_leaves_a_whole_store() {
    let Some(scene) = Scene::with_base() else { return };
    let text = |n: u32| {
        format!("FROM base\nRUN seq 1 20000 > /f{n} && mkdir /d && seq 1 200 | (cd /d; xargs touch)\n")
    };
    for n in 0..12 {
        let running = scene.build(&text(n), ["-t", "perhaps"]).start();
        thread::sleep(std::time::Duration::from_millis(u64::from(n) * 25));
        running.signal(Signal::SIGKILL);
        // It may have been done already.
        running.wait();
    }
    scene.is_clean();
    scene.build(&text(99), ["-t", "whole"]).ok();
    assert_eq!(scene.cat("whole", "/f99").lines().count(), 20_000);
}
