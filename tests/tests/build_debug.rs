//! A shell in a step of a build: `--on-error=shell`, `--break`, `--break-after`.

use mica_tests::command::Outcome;
use mica_tests::{Scene, machine};

const DOCKERFILE: &str = "\
FROM base
ENV COLOUR=blue
RUN --mount=type=secret,id=word echo kept > /kept
WORKDIR /made
USER 1000:1000
RUN --mount=type=secret,id=word,mode=444 echo half > /tmp/half; cat /nothing
";

/// Builds on a terminal of its own, by script(1), with `typed` typed into the shells; what the terminal showed.
fn build(scene: &Scene, dockerfile: &str, options: &str, typed: &str) -> Option<Outcome> {
    machine::programs(&["script"])?;
    scene.write("ctx/Dockerfile", dockerfile);
    scene.write("word", "sesame");
    let mica = scene.program();
    let command = format!(
        "{} build --progress=plain --secret id=word,src=word -t app {options} ctx",
        mica.display()
    );
    let run = scene.command("script").args(["-qec", &command, "/dev/null"]);
    Some(run.stdin(typed).run())
}

#[test]
fn a_shell_is_opened_where_a_step_failed() {
    for scene in Scene::everyone() {
        let typed = "\
            echo colour=$COLOUR uid=$(id -u) in=$(pwd)\n\
            echo secret=$(cat /run/secrets/word) half=$(cat /tmp/half) kept=$(cat /kept)\n\
            echo gone > /tmp/gone; /dev/mica/step; echo again=$?\n\
            exit 9\n";
        let Some(shown) = build(&scene, DOCKERFILE, "--on-error=shell", typed) else {
            return;
        };
        let shown = shown
            .says("failed with exit code 1: RUN")
            .says("colour=blue uid=1000 in=/made")
            .says("secret=sesame half=half kept=kept")
            .says("again=1")
            .says("exit code: 1");
        assert_eq!(shown.status.code(), Some(1), "{}", shown.describe());
        // What the shell changed is gone; what the step left is not.
        scene.mkdir("m");
        let left = scene.mica(["mount", "@stage-0", "m", "--", "ls", "m/tmp"]).ok();
        assert_eq!(left.stdout(), "half\n");
        assert!(
            !scene
                .store()
                .join("work")
                .read_dir()
                .is_ok_and(|mut left| left.next().is_some())
        );
    }
}

#[test]
fn a_build_stops_before_and_after_a_step() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "FROM base\nRUN echo one > /one\nRUN echo two > /two\n";
    // What is typed ahead belongs to one shell: so there is one in each build.
    let typed = "ls /one /two; echo by-hand > /one\nexit\n";
    let Some(shown) = build(&scene, dockerfile, "--break 3 --break 9", typed) else {
        return;
    };
    let shown = shown
        .says("#3 has not begun: RUN echo two > /two")
        .says("/two: No such file or directory")
        .says("--break: no RUN, COPY or ADD #9 was reached");
    assert!(shown.status.success(), "{}", shown.describe());
    // Nothing that was done by hand is in the image.
    assert_eq!(scene.cat("app", "/one"), "one\n");
    assert_eq!(scene.cat("app", "/two"), "two\n");
    // A step of the cache is looked into as well.
    let again = build(
        &scene,
        dockerfile,
        "--break-after 3",
        "cat /one /two; rm /two\nexit\n",
    )
    .expect("as before");
    again.says("#3 is done: RUN echo two > /two").says("#3 CACHED");
    assert_eq!(scene.cat("app", "/two"), "two\n");
}

#[test]
fn a_copy_is_looked_into_before_and_after() {
    for scene in Scene::everyone() {
        scene.write("ctx/file", "copied");
        let dockerfile = "FROM base\nENV COLOUR=red\nWORKDIR /made\nCOPY file .\nADD --link file /other\n";
        let typed = "ls; echo colour=$COLOUR in=$(pwd); ls /dev/mica; echo by-hand > file\nexit\n";
        let Some(shown) = build(&scene, dockerfile, "--break 3", typed) else {
            return;
        };
        let shown = shown
            .says("#3 has not begun: COPY file .")
            .says("colour=red in=/made")
            .says("/dev/mica: No such file")
            .lacks("executes its command");
        assert!(shown.status.success(), "{}", shown.describe());
        assert_eq!(scene.cat("app", "/made/file"), "copied");
        let after = build(
            &scene,
            dockerfile,
            "--break-after 4",
            "ls /other\ncat file\nexit\n",
        )
        .expect("as before");
        after
            .says("#4 is done: ADD --link")
            .says("copied")
            .says("#4 CACHED");
    }
}

#[test]
fn a_step_that_failed_is_executed_once_more() {
    for scene in Scene::everyone() {
        let dir = scene.mkdir("outside");
        let volume = format!("--on-error=shell --volume={}:/outside", dir.display());
        let dockerfile = "FROM base\nRUN echo x >> /tries; cat /outside/file && cp /tries /made\n";
        // What was missing comes while the build waits.
        let typed = "echo right > /outside/file\nexit 75\n";
        let Some(shown) = build(&scene, dockerfile, &volume, typed) else {
            return;
        };
        let shown = shown
            .says("`exit 75` executes the step once more")
            .says("#2 once more");
        assert!(shown.status.success(), "{}", shown.describe());
        // It began where it began the first time.
        assert_eq!(scene.cat("app", "/made"), "x\n");
        scene.mica(["why"]).ok().says("#2 RAN");
        scene.is_clean();
    }
}

#[test]
fn without_a_terminal_there_is_no_shell() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build(DOCKERFILE, ["--on-error=shell"])
        .exits(2)
        .says("need a terminal on stdin")
        .says("mica mount @STEP DIR");
    assert!(!scene.store().join("builds").exists());
}
