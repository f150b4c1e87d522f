//! Steps of builds as filesystems: mounted alone, and all of a build at once.

use mica_tests::Scene;

const DOCKERFILE: &str = "\
FROM base AS build
ENV KEPT=yes
RUN mkdir /made && echo one > /made/first && ln /made/first /made/linked
RUN echo two > /made/second && rm /made/first
FROM base
COPY --from=build /made /result
RUN echo three > /result/third
";

/// What `script` writes, with what `what` names mounted on `m`, which it finds there.
fn mounted(scene: &Scene, what: &str, script: &str) -> String {
    scene.mkdir("m");
    scene
        .mica(["mount", what, "m", "--", "sh", "-euc", &format!("cd m; {script}")])
        .ok()
        .stdout()
}

#[test]
fn a_step_is_mounted_by_its_number_and_by_its_stage() {
    for scene in Scene::everyone() {
        scene
            .build(DOCKERFILE, ["-t", "app"])
            .ok()
            .says("#5 [stage-1 2/3] COPY");
        for (step, files) in [
            ("app@2", "first linked"),
            ("app@3", "linked second"),
            ("app@build", "linked second"),
            ("app@BUILD:2", "first linked"),
            ("build-1@build:2", "first linked"),
            ("@2", "first linked"),
        ] {
            let listed = mounted(&scene, step, "ls made");
            assert_eq!(
                listed.split_whitespace().collect::<Vec<_>>().join(" "),
                files,
                "{step}"
            );
        }
        assert_eq!(
            mounted(&scene, "app@5", "cat result/second; ls result")
                .lines()
                .count(),
            3
        );
        // Changes can be made, and are gone with the mount.
        let script = "cd m && echo x > made/new && ls made";
        let changed = scene.mica(["mount", "--rw", "@2", "m", "--", "sh", "-euc", script]);
        changed.ok().says("new");
        assert!(!mounted(&scene, "@2", "ls made").contains("new"));
    }
}

#[test]
fn a_failed_step_is_mounted_as_it_was_left() {
    for scene in Scene::everyone() {
        let failing = DOCKERFILE.replace(
            "echo three > /result/third",
            "echo half > /result/half; rm /result/linked; false",
        );
        scene.build(DOCKERFILE, ["-t", "app"]).ok();
        scene.build(&failing, ["-t", "app"]).fails();
        for step in ["app@6", "@stage-1", "build-2@6"] {
            assert_eq!(mounted(&scene, step, "ls result"), "half\nsecond\n", "{step}");
        }
        // The image is still the one before, and so are the steps of its build.
        assert_eq!(mounted(&scene, "app", "ls result"), "linked\nsecond\nthird\n");
        assert_eq!(
            mounted(&scene, "build-1@6", "ls result"),
            "linked\nsecond\nthird\n"
        );
        scene.mkdir("all");
        let script = "ls all all/steps/06-*/result; cat all/diff/06-*/changes";
        let all = scene
            .mica(["mount", "--all", "app", "all", "--", "sh", "-euc", script])
            .ok();
        let all = all
            .lacks("image")
            .says("half")
            .says("D /result/linked")
            .says("A /result/half");
        assert_eq!(all.count("Dockerfile"), 1);
    }
}

#[test]
fn what_a_new_directory_hides_is_among_the_changes() {
    let Some(scene) = Scene::with_base() else { return };
    let text = "FROM base\nRUN mkdir -p /d/sub && touch /d/sub/old /d/kept\n\
                RUN rm -r /d && mkdir /d && touch /d/new /d/kept\n";
    scene.build(text, ["-t", "app"]).ok();
    scene.mkdir("m");
    let list = [
        "mount",
        "--all",
        "app",
        "m",
        "--",
        "sh",
        "-c",
        "cat m/diff/03-*/changes",
    ];
    let changes = scene.mica(list).ok().stdout();
    let of_d: Vec<_> = changes.lines().filter(|line| line.contains("/d/")).collect();
    assert_eq!(of_d, ["C /d/kept", "A /d/new", "D /d/sub", "D /d/sub/old"]);
}

#[test]
fn all_of_a_build_is_one_tree() {
    for scene in Scene::everyone() {
        scene.build(DOCKERFILE, ["-t", "app"]).ok();
        scene.mkdir("m");
        scene.mica(["mount", "--all", "app", "m"]).ok();
        let script = "\
            cd m; ls
            ls steps diff
            cat steps/02-*/made/first diff/03-*/files/made/second
            diff -r image/result steps/06-*/result && echo same
            cat diff/03-*/changes
            stat -c %h steps/02-*/made/first
            test \"$(cat Dockerfile)\" = \"$(cat ../ctx/Dockerfile)\" && echo text
            for layer in layers/*; do find $layer | wc -l; done | sort -n | tail -n 1
            find . -printf '%i\\n' | sort | uniq -d | wc -l
            ! touch image/new 2>/dev/null
            ";
        let shown = scene.shell(script).ok();
        let lines: Vec<_> = shown.stdout().lines().map(str::to_owned).collect();
        assert_eq!(lines[..5], ["Dockerfile", "diff", "image", "layers", "steps"]);
        for text in [
            "03-RUN-echo-two-made-second-rm-made",
            "same",
            "text",
            "A /made/second",
            "D /made/first",
        ] {
            assert!(
                lines.iter().any(|line| line == text),
                "{text}\n{}",
                shown.describe()
            );
        }
        // Two names of one file.
        assert!(lines.contains(&"2".to_owned()), "{}", shown.describe());
        scene.mica(["umount", "m"]).ok();
        assert_eq!(scene.mica(["mounts", "--format", "json"]).ok().stdout(), "");
        let ids = scene.mica(["inspect", "app"]).ok();
        assert!(ids.status.success());
    }
}

#[test]
fn what_is_not_there_is_said() {
    let Some(scene) = Scene::with_base() else { return };
    scene.mkdir("m");
    let mount = |what: &str| scene.mica(["mount", what, "m"]);
    mount("@1").fails().says("no build is known");
    mount("base@1")
        .fails()
        .says("nothing is known of the build of base");
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    mount("app@9")
        .fails()
        .says("build-1 has no step \"9\"")
        .says("  3 [build 3/3] RUN echo two > /made/second && rm /made/first");
    mount("app@build:9").fails().says("has no step");
    mount("build-7@1").fails().says("build-7 is not known");
    mount("none@1").fails().says("no such image");
    scene
        .mica(["mount", "--rw", "--upper", "u", "app@2", "m"])
        .fails()
        .says("not for steps");
    scene.mica(["mount", "--all", "--rw", "app", "m"]).exits(2);
    // A layer that was pruned: the record is younger than the cache's.
    scene.mica(["rmi", "app"]).ok();
    let record = scene.store().join("builds/1/record.json");
    let kept = std::fs::read(&record).expect("it is there");
    scene.mica(["prune", "-af"]).ok();
    std::fs::create_dir_all(record.parent().expect("it has one")).expect("it can be made");
    std::fs::write(&record, kept).expect("it can be written");
    mount("@3")
        .fails()
        .says("the layer that [build 2/3] RUN mkdir")
        .says("no longer in the store")
        .says("build again");
    scene
        .mica(["mount", "--all", "build-1", "m", "--", "ls", "m/steps"])
        .ok()
        .says("01-FROM-base");
    assert!(!scene.path("m/steps").exists());
}
