//! Builds that are ended from outside leave nothing: no mount, no process, no half-made layer.

use std::fs;
use std::thread;

use mica_tests::command::{tool, wait_until};
use mica_tests::{Scene, machine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    let Some(scene) = Scene::as_user() else { return };
    // The signal must reach mica itself, which nsenter and setpriv became by exec.
    interrupt(&scene, Signal::SIGKILL, 71_104);
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

/// The process and all that it started, as long as they live.
fn family(root: Pid) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parents: Vec<_> = pids
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name before it may hold anything.
            let parent: i32 = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = vec![root.as_raw()];
    let mut at = 0;
    while let Some(&parent) = found.get(at) {
        found.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.into_iter().map(Pid::from_raw).collect()
}

/// Of each build one process is killed, whichever it is: mica, the launcher of a step, its PID 1, or one of the command's.
#[test]
fn any_process_killed_at_any_moment_of_a_step_leaves_nothing() {
    for scene in Scene::everyone() {
        let mut random: u32 = 12_345;
        let mut next = |below: u32| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) % below
        };
        for n in 0..machine::either(8, 200) {
            let dockerfile = format!(
                "FROM base\nRUN --mount=type=cache,target=/c (sleep 71106 &); seq 1 20000 > /f{n} && mkdir /d && \
                 seq 1 200 | (cd /d; xargs touch) && cp /f{n} /c && sleep 0.1\n"
            );
            let running = scene.build(&dockerfile, ["-t", "perhaps"]).start();
            thread::sleep(std::time::Duration::from_millis(u64::from(next(500))));
            if !running.has_ended() {
                let family = family(running.pid());
                let victim = family[next(family.len() as u32) as usize];
                // It may have ended meanwhile.
                let _ = kill(victim, Signal::SIGKILL);
            }
            drop(running.wait().lacks("panicked at"));
            wait_until("the step is gone", || !is_running(&scene, "sleep 71106"));
        }
        scene.is_clean();
        scene.mica(["fsck"]).ok();
        scene
            .build("FROM base\nRUN echo whole > /f\n", ["-t", "whole"])
            .ok();
        assert_eq!(scene.cat("whole", "/f"), "whole\n", "as {}", scene.who());
    }
}
