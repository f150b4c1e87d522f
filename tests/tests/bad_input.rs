//! What goes wrong, and what mica says of it: a clear error, a status that is not 0, and a store as it was.

use std::fs;

use mica_tests::{Outcome, Scene};

/// A build that must fail, and leave nothing.
fn failing(scene: &Scene, dockerfile: &str) -> Outcome {
    let before = scene.images();
    let outcome = scene.build(dockerfile, ["-t", "never"]).fails();
    assert_eq!(scene.images(), before);
    assert_eq!(scene.mounts(), Vec::<String>::new());
    outcome
}

#[test]
fn a_dockerfile_that_does_not_parse_is_shown() {
    let scene = Scene::new();
    let outcome = failing(&scene, "FROM scratch\n\nCOPPY a /b\n");
    let outcome = outcome
        .says("Dockerfile:3:1")
        .says("COPPY a /b")
        .says("^")
        .says("hint");
    // The nearest word.
    outcome.says("COPY");
}

#[test]
fn the_caret_stands_under_what_is_wrong() {
    let scene = Scene::new();
    let outcome = failing(&scene, "FROM scratch\nENV A=1 \\\n    B\n");
    outcome.says("Dockerfile:").says("^");
    let outcome = failing(&scene, "FROM scratch\nCOPY --form=x a b\n");
    let text = outcome
        .says("Dockerfile:2:6")
        .says("--form")
        .says("--from")
        .stderr();
    let lines: Vec<_> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.contains("COPY --form=x"))
        .expect("the line is shown");
    let column = lines[at].find("--form").expect("just found");
    assert_eq!(lines[at + 1].find('^'), Some(column), "{text}");
}

#[test]
fn mistakes_of_all_kinds_name_their_line() {
    let scene = Scene::new();
    for (dockerfile, place) in [
        ("", "Dockerfile"),
        ("RUN true\n", "Dockerfile:1"),
        ("FROM\n", "Dockerfile:1"),
        ("FROM scratch\nENV\n", "Dockerfile:2"),
        ("FROM scratch\nUSER\n", "Dockerfile:2"),
        ("FROM scratch\n# escape=`\nEXPOSE x\n", "Dockerfile:3"),
        ("FROM scratch\nCOPY <<EOF /f\nno end\n", "Dockerfile:2"),
        ("FROM scratch\nLABEL a=${x\n", "Dockerfile:2"),
        (
            "FROM scratch\nHEALTHCHECK --interval=1x CMD true\n",
            "Dockerfile:2",
        ),
        (
            "FROM scratch AS self\nCOPY --from=self / /\nFROM scratch AS later\n",
            "Dockerfile:2",
        ),
    ] {
        failing(&scene, dockerfile).says(place);
    }
}

#[test]
fn a_missing_source_is_named() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/present", "");
    failing(&scene, "FROM base\nCOPY absent /\n")
        .says("absent")
        .says("Dockerfile:2");
    scene.write("ctx/.dockerignore", "present\n");
    // It is there, but ignored: the message helps to find out.
    failing(&scene, "FROM base\nCOPY present /\n")
        .says("present")
        .says(".dockerignore");
    failing(&scene, "FROM base\nCOPY ../outside /\n").says("outside");
    failing(&scene, "FROM base\nCOPY --from=base /not/there /\n").says("/not/there");
}

#[test]
fn a_context_cannot_be_left_by_a_symlink() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("secret", "of the host\n");
    scene.mkdir("ctx");
    std::os::unix::fs::symlink("../secret", scene.path("ctx/link")).expect("the link is new");
    std::os::unix::fs::symlink("..", scene.path("ctx/up")).expect("the link is new");
    failing(&scene, "FROM base\nCOPY up/secret /s\n");
    let outcome = scene.build("FROM base\nCOPY link /s\n", ["-t", "perhaps"]).run();
    if outcome.status.success() {
        scene.mica(["cat", "perhaps", "/s"]).run().lacks("of the host");
    }
}

#[test]
fn a_failing_step_tells_its_status_and_its_output() {
    for scene in Scene::everyone() {
        let outcome = failing(
            &scene,
            "FROM base\nRUN echo before the end; exit 33\nRUN echo never\n",
        );
        outcome
            .says("before the end")
            .says("33")
            .says("Dockerfile:2")
            .lacks("never\n");
        failing(&scene, "FROM base\nRUN kill -SEGV $$\n").says("11");
        failing(&scene, "FROM base\nRUN [\"/no/such/program\"]\n").says("/no/such/program");
        scene.is_clean();
    }
}

#[test]
fn what_a_failure_stops_is_not_called_an_error() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base AS fails
RUN --mount=type=cache,target=/c,id=turn while ! [ -e /c/begun ]; do sleep 0.01; done; exit 7
FROM base AS long
RUN --mount=type=cache,target=/c,id=turn touch /c/begun; sleep 1000
FROM base
COPY --from=fails /f /
COPY --from=long /l /
RUN echo never
";
    let outcome = failing(&scene, dockerfile)
        .says("exit code: 7")
        .lacks("echo never");
    assert_eq!(outcome.count(" ERROR: "), 1, "{}", outcome.describe());
    // The other command. The copy that waited had not begun.
    assert_eq!(outcome.count(" CANCELED\n"), 1, "{}", outcome.describe());
}

#[test]
fn a_long_command_is_not_repeated_as_a_whole() {
    let Some(scene) = Scene::with_base() else { return };
    let steps = "\ttrue; \\\n".repeat(200);
    let outcome = failing(&scene, &format!("FROM base\nRUN set -e; \\\n{steps}\texit 3\n"));
    let text = outcome.says("\"/bin/sh -c set -e; true; true;").stderr();
    let line = text
        .lines()
        .find(|line| line.contains("exit code: 3"))
        .expect("it says how it ended");
    assert!(line.len() < 300, "{line}");
    // In the progress the whole command stands, on one line.
    let title = text
        .lines()
        .find(|line| line.contains("RUN set -e;"))
        .expect("the step is shown");
    assert!(
        title.ends_with("exit 3") && !title.contains(char::REPLACEMENT_CHARACTER),
        "{title}"
    );
}

#[test]
fn an_unknown_image_is_named() {
    let Some(scene) = Scene::with_base() else { return };
    failing(&scene, "FROM nosuch:image\n")
        .says("nosuch:image")
        .says("Dockerfile:1");
    for command in [
        vec!["inspect", "nosuch"],
        vec!["history", "nosuch"],
        vec!["rmi", "nosuch"],
        vec!["save", "-o", "f.tar", "nosuch"],
        vec!["tag", "nosuch", "other"],
        vec!["run", "nosuch", "true"],
        vec!["mount", "nosuch", "ctx"],
        vec!["ls", "nosuch", "/"],
        vec!["cat", "nosuch", "/f"],
    ] {
        scene.mica(command).fails().says("nosuch");
    }
    assert!(!scene.path("f.tar").exists(), "half an archive is left");
    scene.is_clean();
}

#[test]
fn a_missing_mount_point_is_named() {
    let Some(scene) = Scene::with_base() else { return };
    scene.mica(["mount", "base", "missing"]).fails().says("missing");
    scene.write("file", "");
    scene.mica(["mount", "base", "file"]).fails().says("file");
    scene.mica(["umount", "missing"]).fails().says("missing");
    scene.is_clean();
}

#[test]
fn a_missing_context_is_named() {
    let scene = Scene::new();
    scene.mica(["build", "nowhere"]).fails().says("nowhere");
    scene.mkdir("empty");
    scene.mica(["build", "empty"]).fails().says("Dockerfile");
    scene
        .mica(["build", "-f", "absent", "empty"])
        .fails()
        .says("absent");
}

#[test]
fn bad_arguments_exit_with_2() {
    let scene = Scene::new();
    scene
        .mica(["build", "--nonsense", "."])
        .exits(2)
        .says("--nonsense");
    scene.mica(["nonsense"]).exits(2).says("nonsense");
    scene
        .mica(["tag", "a", "Not//A:Name:"])
        .fails()
        .says("Not//A:Name:");
    scene
        .mica(["build", "--output", "type=nonsense", "."])
        .fails()
        .says("nonsense");
}

/// Another `/dev`, with what programs need.
const WITHOUT_FUSE: &str = "\
mkdir dev; mount -t tmpfs tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mount --rbind dev /dev
";

#[test]
fn without_dev_fuse_the_error_says_what_to_do() {
    let Some(scene) = Scene::changed_by(WITHOUT_FUSE) else {
        return;
    };
    mica_tests::base::load(&scene);
    scene.mkdir("m");
    scene
        .mica(["mount", "base", "m"])
        .fails()
        .says("/dev/fuse")
        .says("hint");
    scene
        .mica(["doctor"])
        .fails()
        .says("/dev/fuse")
        .says("copies of their root filesystems");
    // What needs no mount goes on working.
    assert!(scene.cat("base", "/etc/passwd").contains("user"));
    scene.write("ctx/f", "f\n");
    scene.build("FROM base\nCOPY f /f\n", ["-t", "copied"]).ok();
    assert_eq!(scene.cat("copied", "/f"), "f\n");
}

#[test]
fn a_full_disk_fails_and_breaks_nothing() {
    let small = "mount -t tmpfs -o size=12m,mode=755 tmpfs store";
    let Some(scene) = Scene::changed_by(small) else {
        return;
    };
    mica_tests::base::load(&scene);
    let outcome = scene
        .build(
            "FROM base\nRUN head -c 67108864 /dev/urandom > /big\n",
            ["-t", "never"],
        )
        .fails();
    outcome.says("o space left on device");
    scene
        .mica(["import", "-", "big"])
        .stdin(big_tar())
        .fails()
        .says("o space left on device");
    // Nothing of it stays, and what was there is as it was.
    scene
        .build("FROM base\nRUN echo small > /small\n", ["-t", "small"])
        .ok();
    assert_eq!(scene.cat("small", "/small"), "small\n");
    scene.is_clean();
}

fn big_tar() -> Vec<u8> {
    // Bytes that no hole or compression can save.
    let noise: Vec<u8> = (0u32..5_000_000)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    mica_tests::archive::Tar::new().file("big", noise).bytes()
}

#[test]
fn a_store_of_another_version_is_refused() {
    let scene = Scene::new();
    scene.mica(["images"]).ok();
    let before: Vec<_> = fs::read_dir(scene.store())
        .expect("the store is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    assert!(!before.is_empty());
    // A file in the store's place.
    let scene = Scene::new();
    scene.write("file", "");
    scene
        .mica(["--root", "file/store", "images"])
        .fails()
        .says("file/store");
}
