//! The build cache: what runs again and what does not.
//!
//! Whether a step ran is told by what it made: each RUN of these tests writes random bytes.

use std::fs::File;
use std::time::{Duration, SystemTime};

use mica_tests::Scene;

const DOCKERFILE: &str = "\
FROM base
ARG WHAT=nothing
RUN cat /proc/sys/kernel/random/uuid > /first
COPY src /src
RUN cat /proc/sys/kernel/random/uuid > /second
RUN echo $WHAT && cat /proc/sys/kernel/random/uuid > /third
";

/// The random lines that the three steps wrote.
fn made(scene: &Scene) -> [String; 3] {
    ["/first", "/second", "/third"].map(|path| scene.cat("cached", path))
}

fn start() -> Option<(Scene, [String; 3])> {
    start_with(&["-t", "cached"])
}

/// Docker's semantics: what follows a change is executed, whatever it reads.
const BY_CONTENT: [&str; 3] = ["--cache=content", "-t", "cached"];

fn start_with(args: &[&str]) -> Option<(Scene, [String; 3])> {
    let scene = Scene::with_base()?;
    scene.write("ctx/src/a", "a");
    scene.write("ctx/src/b", "b");
    scene.build(DOCKERFILE, args).ok();
    let made = made(&scene);
    Some((scene, made))
}

#[test]
fn nothing_changed_runs_nothing() {
    let Some((scene, before)) = start() else { return };
    let id = scene.config("cached");
    let again = scene.build(DOCKERFILE, ["-t", "cached"]).ok();
    assert_eq!(again.count(" CACHED"), 5, "{}", again.describe());
    assert_eq!(again.count(" DONE "), 0, "{}", again.describe());
    assert_eq!(made(&scene), before);
    assert_eq!(scene.config("cached"), id);
}

#[test]
fn the_image_of_a_cached_build_is_the_same_image() {
    let Some((scene, _)) = start() else { return };
    let ids: Vec<_> = (0..2).map(|_| scene.rebuild(["-q"]).ok().answer()).collect();
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn times_do_not_count() {
    let Some((scene, before)) = start() else { return };
    let later = SystemTime::now() + Duration::from_secs(1000);
    for name in ["ctx/src/a", "ctx/src"] {
        let file = File::open(scene.path(name)).expect("the file is there");
        file.set_modified(later).expect("the file is ours");
    }
    scene.rebuild(["-t", "cached"]).ok();
    assert_eq!(made(&scene), before);
}

#[test]
fn a_changed_file_runs_what_follows() {
    let Some((scene, before)) = start_with(&BY_CONTENT) else {
        return;
    };
    scene.write("ctx/src/b", "c");
    scene.rebuild(BY_CONTENT).ok();
    let after = made(&scene);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_ne!(after[2], before[2]);
    assert_eq!(scene.cat("cached", "/src/b"), "c");
    // And back: what was built before is known still.
    scene.write("ctx/src/b", "b");
    scene.rebuild(BY_CONTENT).ok();
    assert_eq!(made(&scene), before);
}

#[test]
fn a_file_that_no_instruction_takes_does_not_count() {
    let Some((scene, before)) = start() else { return };
    scene.write("ctx/other", "new");
    scene.rebuild(["-t", "cached"]).ok();
    assert_eq!(made(&scene), before);
}

#[test]
fn a_changed_mode_runs_what_follows() {
    let Some((scene, before)) = start_with(&BY_CONTENT) else {
        return;
    };
    scene.shell("chmod 755 ctx/src/a").ok();
    scene.rebuild(BY_CONTENT).ok();
    let after = made(&scene);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
}

#[test]
fn a_changed_command_runs_what_follows() {
    let Some((scene, before)) = start_with(&BY_CONTENT) else {
        return;
    };
    let changed = DOCKERFILE.replace("> /second", "> /second; true");
    scene.build(&changed, BY_CONTENT).ok();
    let after = made(&scene);
    assert_eq!(after[0], before[0]);
    assert_ne!(after[1], before[1]);
    assert_ne!(after[2], before[2]);
}

#[test]
fn a_changed_build_argument_runs_each_run_after_it() {
    let Some((scene, before)) = start() else { return };
    scene.rebuild(["--build-arg", "WHAT=other", "-t", "cached"]).ok();
    let after = made(&scene);
    // As in Docker, an argument is part of the environment of every RUN that follows its ARG.
    assert_ne!(after[0], before[0]);
    assert_ne!(after[2], before[2]);
}

#[test]
fn a_changed_base_runs_everything() {
    let Some((scene, before)) = start_with(&BY_CONTENT) else {
        return;
    };
    scene.mica(["tag", "base", "older"]).ok();
    scene
        .mica(["build", "-t", "base", "-"])
        .stdin("FROM older\nRUN echo changed > /changed\n")
        .ok();
    scene.rebuild(BY_CONTENT).ok();
    let after = made(&scene);
    assert_ne!(after[0], before[0]);
    assert_eq!(scene.cat("cached", "/changed"), "changed\n");
}

#[test]
fn a_failed_build_keeps_what_it_made() {
    let Some(scene) = Scene::with_base() else { return };
    let failing = "FROM base\nRUN cat /proc/sys/kernel/random/uuid | tee /first\nRUN exit 3\n";
    let first = scene.build(failing, ["-t", "kept"]).fails();
    let second = scene.build(failing, ["-t", "kept"]).fails().says("CACHED");
    assert!(first.count("-") > second.count("-"), "the first step ran again");
    scene
        .build(&failing.replace("exit 3", "true"), ["-t", "kept"])
        .ok()
        .says("CACHED");
    let uuid = scene.cat("kept", "/first");
    assert!(first.has(uuid.trim_end()), "the first step ran again");
}

#[test]
fn no_cache_runs_everything() {
    let Some((scene, before)) = start() else { return };
    let again = scene.rebuild(["--no-cache", "-t", "cached"]).ok();
    // The base itself is at hand.
    assert_eq!(again.count(" CACHED"), 1, "{}", again.describe());
    let after = made(&scene);
    for step in 0..3 {
        assert_ne!(after[step], before[step], "step {step}");
    }
}

#[test]
fn another_context_with_the_same_content_is_the_same() {
    let Some((scene, before)) = start() else { return };
    scene.write("elsewhere/src/b", "b");
    scene.write("elsewhere/src/a", "a");
    scene.write("elsewhere/Dockerfile", DOCKERFILE);
    scene.mica(["build", "-t", "cached", "elsewhere"]).ok();
    assert_eq!(made(&scene), before);
}

#[test]
fn equal_steps_of_two_stages_run_once() {
    let Some(scene) = Scene::with_base() else { return };
    let text = "\
FROM base AS one
RUN sleep 0.3 && cat /proc/sys/kernel/random/uuid > /id
RUN cp /id /one
FROM base AS two
RUN sleep 0.3 && cat /proc/sys/kernel/random/uuid > /id
RUN cp /id /two
FROM base
COPY --from=one /one /
COPY --from=two /two /
";
    for cache in [&["-t", "equal"][..], &["--no-cache", "-t", "equal"]] {
        scene.build(text, cache).ok();
        assert_eq!(scene.cat("equal", "/one"), scene.cat("equal", "/two"));
    }
}

#[test]
fn a_linked_copy_does_not_wait_for_what_is_before_it() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/a", "a");
    let text = "FROM base\nRUN sleep 1; exit 3\nCOPY --link --chown=1:2 a /dir/\n";
    // The copy is made while the command runs, and so is there although that fails.
    scene.build(text, ["-t", "linked"]).fails().says("exit 3");
    let again = text.replace("sleep 1; exit 3", "true");
    let built = scene.build(&again, ["-t", "linked"]).ok();
    // FROM and COPY.
    assert_eq!(built.count(" CACHED"), 2, "{}", built.describe());
    assert_eq!(scene.cat("linked", "/dir/a"), "a");
}

#[test]
fn a_linked_copy_that_fails_stops_the_build() {
    let Some(scene) = Scene::with_base() else { return };
    let text = "FROM base\nRUN sleep 60\nCOPY --link missing /\n";
    let failed = scene.build(text, ["-t", "linked"]).fails().says("missing");
    assert!(!failed.has("stopped"), "{}", failed.describe());
}

#[test]
fn what_is_known_of_the_context_can_be_damaged() {
    let Some((scene, before)) = start() else { return };
    // What was just written is not believed, so nothing may have been known yet.
    std::thread::sleep(Duration::from_millis(50));
    scene.rebuild(["-t", "cached"]).ok();
    let contexts = scene.store().join("contexts");
    let file = std::fs::read_dir(&contexts).expect("listed").next();
    let file = file.expect("a build has written it").expect("read").path();
    std::fs::write(&file, "damaged").expect("written");
    scene.rebuild(["-t", "cached"]).ok();
    assert_eq!(made(&scene), before);
    std::fs::remove_dir_all(&contexts).expect("removed");
    scene.rebuild(["-t", "cached"]).ok();
    assert_eq!(made(&scene), before);
}

#[test]
fn two_builds_at_once_share_a_store() {
    let Some(scene) = Scene::with_base() else { return };
    for name in ["one", "two"] {
        let text = format!("FROM base\nRUN echo shared > /shared && sleep 1\nRUN echo {name} > /name\n");
        scene.write(&format!("{name}/Dockerfile"), text);
    }
    let start = |name: &str| scene.mica(["build", "-t", name, name]).start();
    let running = [start("one"), start("two")];
    for build in running {
        let outcome = build.wait();
        assert!(outcome.status.success(), "{}", outcome.describe());
    }
    assert_eq!(scene.cat("one", "/name"), "one\n");
    assert_eq!(scene.cat("two", "/name"), "two\n");
    scene.is_clean();
}

#[test]
fn a_prune_takes_nothing_from_a_build_at_work() {
    let Some(scene) = Scene::with_base() else { return };
    let text = "FROM base\nRUN echo one > /one\nRUN sleep 1\nRUN echo two > /two\n";
    let running = scene.build(text, ["-t", "built"]).start();
    for _ in 0..8 {
        scene.mica(["prune", "--all", "--force"]).ok();
        std::thread::sleep(Duration::from_millis(150));
    }
    let outcome = running.wait();
    assert!(outcome.status.success(), "{}", outcome.describe());
    assert_eq!(scene.cat("built", "/one"), "one\n");
    assert_eq!(scene.cat("built", "/two"), "two\n");
}

#[test]
fn many_builds_at_once_make_one_image() {
    let Some(scene) = Scene::with_base() else { return };
    let text = "FROM base\nRUN seq 1000 > /numbers\nRUN sort -r /numbers > /turned\n";
    scene.write("ctx/Dockerfile", text);
    let running: Vec<_> = (0..6)
        .map(|n| scene.rebuild(["-t", &format!("n{n}")]).start())
        .collect();
    for build in running {
        let outcome = build.wait();
        assert!(outcome.status.success(), "{}", outcome.describe());
    }
    for n in 0..6 {
        assert_eq!(scene.cat(&format!("n{n}"), "/turned").lines().next(), Some("999"));
    }
    scene.is_clean();
}
