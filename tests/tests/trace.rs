//! The cache by trace: a step whose inputs are the same is not executed again, whatever else has changed.
//!
//! Whether a step ran is told by what it made: it writes random bytes beside what it is about.

use mica_tests::Scene;

/// Builds `dockerfile` and returns what its step wrote to `/ran`.
fn ran(scene: &Scene, dockerfile: &str) -> String {
    scene.build(dockerfile, ["-t", "traced"]).ok();
    scene.cat("traced", "/ran")
}

const RAN: &str = "cat /proc/sys/kernel/random/uuid > /ran";

#[test]
fn a_step_that_did_not_read_what_changed_stays() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/lock", "one");
    scene.write("ctx/code", "one");
    let text = format!(
        "FROM base\nWORKDIR /app\nCOPY . .\nRUN wc -c lock && {RAN}\nRUN cat code > /copy\nENV A=b\n"
    );
    let first = ran(&scene, &text);
    scene.write("ctx/code", "two, and longer");
    let again = scene.build(&text, ["-t", "traced"]).ok();
    again.says(" CACHED (unchanged inputs: ");
    assert_eq!(
        scene.cat("traced", "/ran"),
        first,
        "nothing that it read has changed"
    );
    assert_eq!(scene.cat("traced", "/copy"), "two, and longer");
    scene.write("ctx/lock", "two");
    assert_ne!(ran(&scene, &text), first, "a file that it read has changed");
}

#[test]
fn docker_s_semantics_can_be_had() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "one");
    let text = format!("FROM base\nCOPY code /code\nRUN {RAN}\n");
    let first = ran(&scene, &text);
    scene.write("ctx/code", "two");
    let build = || scene.rebuild(["--cache=content", "-t", "traced"]).ok();
    build();
    let second = scene.cat("traced", "/ran");
    assert_ne!(second, first, "the layer below it is another one");
    build().says("CACHED");
    assert_eq!(scene.cat("traced", "/ran"), second);
    scene.write("ctx/code", "one");
    build();
    assert_ne!(
        scene.cat("traced", "/ran"),
        first,
        "no result of the other way is taken"
    );
}
