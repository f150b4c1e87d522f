//! The server of a mount is killed at random moments while its named upper is written to: what was synced is there,
//! the store is sound, nothing stays mounted, and no process waits for ever. `programs/crash.py` is the load.

use std::thread;
use std::time::Duration;

use mica_tests::command::wait_until;
use mica_tests::leftovers::processes_naming;
use mica_tests::{Scene, Way, machine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PROGRAM: &str = include_str!("../programs/crash.py");

/// Waits that look random but come again.
struct Waits(u64);

impl Waits {
    fn next(&mut self, most: u64) -> Duration {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        Duration::from_millis((self.0 >> 33) % most)
    }
}

/// The server of the only mount.
fn server(scene: &Scene) -> Pid {
    let mounts = scene.mica(["mounts", "--format", "json"]).ok().json();
    let pid = mounts["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
    Pid::from_raw(pid.unwrap_or_else(|| panic!("no process in {mounts}")))
}

fn check(way: Way, rounds: u32) {
    if machine::programs(&["python3"]).is_none() {
        return;
    }
    for ground in Way::grounds(&[way]) {
        let scene = &ground.scene;
        scene.write("crash.py", PROGRAM);
        scene.write("ctx/lower/file", "of the image\n");
        let blocks = (0..200_u64).flat_map(|number| {
            let words = [*b"inherite", number.to_le_bytes(), 0_u64.to_le_bytes()].concat();
            let mut block = words.repeat(170);
            block.resize(4096, 0);
            block
        });
        scene.write("ctx/inherited", blocks.collect::<Vec<_>>());
        scene
            .build(
                "FROM base\nCOPY --chmod=777 . /work\nRUN chmod -R a+rwX /work\n",
                ["-t", "app"],
            )
            .ok();
        let log = scene.write("log", "");
        let mut waits = Waits(7);
        for round in 1..=rounds {
            scene.mica(["mount", "--rw", "--upper", "u", "app", "m"]).ok();
            let server = server(scene);
            scene
                .command("python3")
                .args(["crash.py", "check", "m/work"])
                .arg(&log)
                .ok();
            let writer = scene
                .command("python3")
                .args(["crash.py", "write", "m/work"])
                .arg(&log);
            let writer = writer.arg(round.to_string()).start();
            thread::sleep(waits.next(700));
            // Now and then while it unmounts, and so saves.
            let umount = (round % 5 == 0).then(|| scene.mica(["umount", "--lazy", "m"]).start());
            if umount.is_some() {
                thread::sleep(waits.next(30));
            }
            // The writer's working directory keeps the mount, and so the server.
            kill(server, Signal::SIGKILL).expect("the server lives");
            if let Some(umount) = umount {
                umount.wait();
            }
            writer.wait().says("ended by");
            wait_until("the mount goes with its server", || scene.mounts().is_empty());
            wait_until("no process is left", || {
                processes_naming(scene.directory()).is_empty()
            });
        }
        scene.mica(["fsck"]).ok();
        scene.mica(["mount", "--rw", "--upper", "u", "app", "m"]).ok();
        scene
            .command("python3")
            .args(["crash.py", "check", "m/work"])
            .arg(&log)
            .ok();
        assert!(
            scene.read("log").lines().count() > rounds as usize,
            "hardly anything was synced"
        );
        scene.mica(["umount", "m"]).ok();
        scene.is_clean();
    }
}

#[test]
fn what_was_synced_survives_as_root() {
    check(Way::Root, machine::either(12, 200));
}

#[test]
fn what_was_synced_survives_as_a_user() {
    check(Way::Helper, machine::either(3, 50));
}
