//! Databases of a lower layer, rewritten in place by many processes: the shape in which a peer loses data.
//! `programs/database.py` is the load, and knows what must be there afterwards.
//! `scripts/test --long` does it 200 times in all.

use mica_tests::way::Ground;
use mica_tests::{Scene, Way, machine};

const PROGRAM: &str = include_str!("../programs/database.py");

/// An image with a database in it, of which there is a copy outside.
fn lay_out(scene: &Scene) -> Option<()> {
    machine::programs(&["python3"])?;
    scene.write("database.py", PROGRAM);
    scene.mkdir("ctx");
    let megabytes = machine::either("4", "90");
    scene
        .command("python3")
        .args(["database.py", "make", "ctx/db", megabytes])
        .ok();
    scene
        .build(
            "FROM base\nRUN mkdir -m 777 data\nCOPY --chmod=666 db /data/db\n",
            ["-t", "app"],
        )
        .ok();
    scene.mkdir("model");
    Some(())
}

/// One load on a fresh upper; half of them while the kernel has to drop the pages of the files again and again. What
/// was committed is there, also on the next mount.
fn run(ground: &Ground, seed: u32) {
    let journal = ["wal", "delete", "wal", "truncate", "wal", "persist"][seed as usize % 6];
    let transactions = machine::either(40, 100);
    let options = format!("--upper run{seed}");
    let load = format!(
        "MICA_TEST_LONG={} ORIGINAL=ctx/db python3 database.py load m/data/db model/{seed} {seed} {journal} {transactions}",
        machine::either("", "1"),
    );
    ground.ok("app", &options, &load);
    ground.ok(
        "app",
        &options,
        &format!("python3 database.py check m/data/db model/{seed}"),
    );
    ground.scene.command("rm").args(["-rf", "store/uppers"]).ok();
}

fn check(way: Way, runs: u32) {
    for ground in Way::grounds(&[way]) {
        if lay_out(&ground.scene).is_none() {
            return;
        }
        for seed in 0..runs {
            run(&ground, seed);
        }
        ground.scene.is_clean();
    }
}

#[test]
fn databases_survive_as_root() {
    check(Way::Root, machine::either(10, 120));
}

#[test]
fn databases_survive_in_a_user_namespace() {
    check(Way::Namespace, machine::either(2, 40));
}

#[test]
fn databases_survive_as_a_user() {
    check(Way::Helper, machine::either(2, 40));
}
