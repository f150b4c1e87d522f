//! What a program may do to a filesystem beyond what the suites ask, each in a function of `programs/posix.py`: on
//! new files and on those of a lower layer, in each uid mode.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use mica_tests::{Scene, Way, machine};

const PROGRAM: &str = include_str!("../programs/posix.py");

const TOGETHER: &str = include_str!("../programs/together.py");

/// The tree `lower` that the program expects.
fn lay_out(scene: &Scene) {
    let pattern: Vec<u8> = (0..300_001_u32)
        .map(|n| ((n * 7 + n / 256) % 251) as u8)
        .collect();
    for name in [
        "allocated",
        "appended",
        "direct",
        "mapped",
        "numbered",
        "owned",
        "plain",
        "truncated",
        "unlinked",
    ] {
        scene.write(&format!("ctx/lower/{name}"), &pattern);
    }
    for name in ["exchanged/x", "exchanged/y", "exchanged-dir/x", "exchanged-dir/y"] {
        scene.write(&format!("ctx/lower/{name}"), "");
    }
    for name in ["tree/deep/file", "again/deep/file"] {
        scene.write(&format!("ctx/lower/{name}"), "deep\n");
    }
    scene.write("ctx/lower/with-xattr", "data\n");
    let dockerfile = "\
FROM base
COPY lower /lower
RUN cd lower && echo linked > linked-a && ln linked-a linked-b && ln -s plain symlink && cp /bin/busybox . && \
    truncate -s 10M sparse && echo data | dd of=sparse bs=1 seek=5000000 conv=notrunc 2>/dev/null
RUN chmod -R a+rwX lower && chmod 777 /
";
    scene.build(dockerfile, ["-t", "app"]).ok();
    scene.write("posix.py", PROGRAM);
}

fn check(way: Way) {
    if machine::programs(&["python3"]).is_none() {
        return;
    }
    let (many, links) = machine::either((30_000, 2_000), (1_000_000, 65_000));
    for ground in Way::grounds(&[way]) {
        lay_out(&ground.scene);
        let script = format!("exec python3 posix.py m {many} {links}");
        let outcome = ground.ok("app", "--dev --suid", &script).lacks("FAILED");
        let functions = PROGRAM
            .lines()
            .filter(|line| line.starts_with("def ") && line.ends_with("():"));
        assert_eq!(outcome.stdout().matches("ok ").count(), functions.count());
        ground.scene.is_clean();
    }
}

#[test]
fn as_root() {
    check(Way::Root);
}

#[test]
fn in_a_user_namespace() {
    check(Way::Namespace);
}

#[test]
fn as_a_user() {
    check(Way::Helper);
}

#[test]
fn processes_at_once_lose_nothing() {
    if machine::programs(&["python3"]).is_none() {
        return;
    }
    for ground in Way::grounds(&[Way::Root, Way::Namespace, Way::Helper]) {
        let scene = &ground.scene;
        scene.write("together.py", TOGETHER);
        scene
            .build("FROM base\nRUN mkdir -m 777 work\n", ["-t", "app"])
            .ok();
        let (processes, operations, seeds) = machine::either((4, 500, 1), (8, 5000, 20));
        for seed in 0..seeds {
            let script = format!("python3 together.py $PWD/m/work {processes} {operations} {seed}");
            ground.ok("app", "", &script);
        }
        scene.is_clean();
    }
}

#[test]
fn a_user_may_do_everything_on_a_mount_of_the_user_s_own() {
    for ground in Way::grounds(&[Way::Helper]) {
        let image = "FROM base\nRUN echo hidden > /secret && chmod 0 /secret && chown 7 /secret\n";
        ground.scene.build(image, ["-t", "app"]).ok();
        let script = "cat m/secret; echo new > m/secret; chmod 600 m/secret; cat m/secret";
        ground.ok("app", "", script).says("hidden").says("new");
        ground.scene.is_clean();
    }
}

#[test]
fn inode_numbers_stay_over_a_remount() {
    let Some(scene) = Scene::with_base() else { return };
    lay_out(&scene);
    scene.mkdir("m");
    let mount = || scene.mica(["mount", "--rw", "--upper", "u", "app", "m"]).ok();
    let number = |name: &str| fs::symlink_metadata(scene.path(name)).expect("it is there").ino();
    let names = [
        "m/lower/numbered",
        "m/lower/moved",
        "m/lower/plain",
        "m/new",
        "m/lower",
    ];
    mount();
    fs::write(scene.path("m/lower/numbered"), "changed").expect("written");
    fs::rename(scene.path("m/lower/tree"), scene.path("m/lower/moved")).expect("moved");
    fs::write(scene.path("m/new"), "new").expect("written");
    let before = names.map(number);
    for _ in 0..2 {
        scene.mica(["umount", "m"]).ok();
        mount();
        assert_eq!(names.map(number), before);
    }
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}
