//! What is written down of builds, and what `mica why` says by it.

use mica_tests::Scene;
use mica_tests::command::wait_until;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The records of a scene's builds, the newest first.
fn records(scene: &Scene) -> Vec<Value> {
    let builds = scene.store().join("builds");
    let directories = std::fs::read_dir(&builds).expect("there were builds");
    let mut numbers: Vec<u64> = directories
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    let read = |number: &u64| {
        let text = std::fs::read(builds.join(number.to_string()).join("record.json"));
        serde_json::from_slice(&text.expect("it is there")).expect("it is JSON")
    };
    numbers.iter().rev().map(read).collect()
}

/// A field of each step.
fn of_steps(record: &Value, field: &str) -> Vec<Value> {
    let steps = record["steps"].as_array().expect("there are steps");
    steps.iter().map(|step| step[field].clone()).collect()
}

const DOCKERFILE: &str = "FROM base AS first\nCOPY src /src\nFROM first\nRUN echo done > /done\n";

#[test]
fn every_build_leaves_a_record() {
    for scene in Scene::everyone() {
        scene.write("ctx/src/a", "a");
        scene
            .build(DOCKERFILE, ["-t", "app", "--build-arg", "http_proxy=secret"])
            .ok();
        scene.rebuild(["-t", "app"]).ok();
        scene
            .build(
                &DOCKERFILE.replace("echo done > /done", "echo x > /left; exit 3"),
                ["-t", "app"],
            )
            .fails();
        let records = records(&scene);
        let [failed, again, first] = &records[..] else {
            panic!("three builds")
        };
        assert_eq!(of_steps(first, "outcome"), ["cached", "ran", "cached", "ran"]);
        assert_eq!(of_steps(again, "outcome"), ["cached"; 4]);
        assert_eq!(
            of_steps(failed, "outcome"),
            ["cached", "cached", "cached", "failed"]
        );
        assert_eq!(of_steps(first, "layer"), of_steps(again, "layer"));
        assert_eq!(of_steps(first, "stage"), ["first", "first", "stage-1", "stage-1"]);
        assert_eq!(first["about"]["names"][0], "docker.io/library/app:latest");
        assert_eq!(first["about"]["build_args"][0], "http_proxy");
        assert_eq!(first["result"], "built");
        assert_eq!(failed["result"], "failed");
        assert_eq!(failed["manifest"], Value::Null);
        assert!(!first.to_string().contains("secret"));
        assert!(scene.store().join("builds/3/failed/tar").is_file());
        let list = first["steps"][1]["sources"][0]["digest"]
            .as_str()
            .expect("a digest");
        let list = list.trim_start_matches("sha256:");
        assert!(scene.store().join("builds/sources").join(list).is_file());
    }
}

#[test]
fn records_are_pruned_and_limited() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/Dockerfile", "FROM base\nRUN exit 3\n");
    for _ in 0..5 {
        scene.mica(["build", "-t", "app", "ctx"]).fails();
    }
    let kept = |number: u32| scene.store().join(format!("builds/{number}/failed")).exists();
    assert_eq!([1, 2, 3, 4, 5].map(kept), [false, false, true, true, true]);
    scene.mica(["prune", "-f"]).ok();
    assert_eq!(records(&scene).len(), 5);
    assert_eq!([3, 4, 5].map(kept), [false; 3]);
    scene.mica(["prune", "-af"]).ok();
    assert_eq!(records(&scene).len(), 0);
}

const PROJECT: &str = "\
FROM base
ARG MODE=fast
ENV TOKEN=one
COPY . /app
RUN cat /app/deps > /installed
RUN echo $MODE && cat /app/main /installed > /built
";

/// A project that was built once.
fn project() -> Option<Scene> {
    let scene = Scene::with_base()?;
    for name in ["deps", "main", "notes/a", "notes/b"] {
        scene.write(&format!("ctx/{name}"), name);
    }
    scene.build(PROJECT, ["-t", "app"]).ok();
    Some(scene)
}

/// The explanation of the step with this number in the last build.
fn explained(scene: &Scene, number: usize) -> Value {
    let all = scene.mica(["why", "--format", "json"]).ok().json();
    let steps = all["steps"].as_array().expect("there are steps").clone();
    steps
        .into_iter()
        .find(|step| step["number"] == number)
        .expect("the build has the step")
}

/// The first reason of a step.
fn reason(scene: &Scene, number: usize) -> Value {
    explained(scene, number)["reasons"][0].clone()
}

#[test]
fn the_first_build_and_the_unchanged_one() {
    let Some(scene) = project() else { return };
    for number in 2..=4 {
        assert_eq!(reason(&scene, number)["reason"], "first-build");
    }
    scene.rebuild(["-t", "app"]).ok();
    for number in 1..=4 {
        assert_eq!(explained(&scene, number)["outcome"], "cached");
        assert_eq!(explained(&scene, number)["reasons"], serde_json::json!([]));
    }
    scene
        .mica(["why", "--list"])
        .ok()
        .says("build-2")
        .says("docker.io/library/app:latest");
    let all = scene.mica(["why", "app", "--format", "json"]).ok().json();
    assert_eq!(all["build"], "build-2");
    assert_eq!(all["comparedWith"], serde_json::json!(["build-1"]));
    scene
        .mica(["why", "build-1", "3"])
        .ok()
        .says("#3 RAN")
        .lacks("#4");
    scene.mica(["why", "app@3"]).ok().says("#3 CACHED").lacks("#4");
    scene.mica(["why", "none"]).fails().says("no such image");
    scene
        .mica(["why", "app", "17"])
        .fails()
        .says("build-2 has no step \"17\"");
}

#[test]
fn a_file_that_a_step_read_is_named_with_who_changed_it() {
    let Some(scene) = project() else { return };
    scene.write("ctx/main", "changed");
    scene.write("ctx/notes/a", "changed");
    let shown = scene.rebuild(["-t", "app", "--explain"]).ok();
    let shown = shown
        .says("main in the build context: content changed")
        .says("it read /app/main, whose content changed: by #2 [2/4] COPY . /app from main")
        .says("1 other file changed below it and was not read: /app/notes/a");
    assert!(shown.has("#3 UNCHANGED"), "{}", shown.describe());
    let copied = explained(&scene, 2)["reasons"].clone();
    let source = |number: usize| copied[number]["path"].as_str().unwrap_or_default().to_owned();
    assert_eq!([source(0), source(1)], ["main", "notes/a"]);
    assert_eq!(copied[0]["change"], "content");
    assert_eq!(explained(&scene, 3)["outcome"], "unchanged");
    assert_eq!(explained(&scene, 3)["unread"]["count"], 2);
    let read = reason(&scene, 4);
    assert_eq!(
        [&read["reason"], &read["path"], &read["aspect"]],
        ["read", "/app/main", "content"]
    );
    assert_eq!(read["by"]["number"], 2);
    assert_eq!(read["by"]["source"], "main");
}

#[test]
fn added_removed_and_changed_sources_are_told_apart() {
    let Some(scene) = project() else { return };
    scene.write("ctx/new", "");
    scene
        .shell("rm ctx/notes/b; chmod 700 ctx/main; rm ctx/notes/a; ln -s x ctx/notes/a")
        .ok();
    scene.rebuild(["-t", "app"]).ok();
    let copied = explained(&scene, 2)["reasons"].clone();
    let told: Vec<_> = copied
        .as_array()
        .expect("a list")
        .iter()
        .map(|reason| format!("{} {}", reason["path"], reason["change"]).replace('"', ""))
        .collect();
    assert_eq!(
        told,
        ["main mode", "new added", "notes/a kind", "notes/b removed"]
    );
}

#[test]
fn words_and_variables_are_named() {
    let Some(scene) = project() else { return };
    scene
        .build(&PROJECT.replace("> /built", "> /made"), ["-t", "app"])
        .ok();
    let changed = reason(&scene, 4);
    assert_eq!(
        [&changed["reason"], &changed["before"], &changed["after"]],
        ["instruction", "/built", "/made"]
    );
    scene.rebuild(["-t", "app", "--build-arg", "MODE=slow"]).ok();
    let changed = reason(&scene, 4);
    assert_eq!(
        [
            &changed["reason"],
            &changed["name"],
            &changed["before"],
            &changed["after"]
        ],
        ["variable", "MODE", "fast", "slow"]
    );
    // What is named like a secret is not shown.
    scene
        .build(&PROJECT.replace("TOKEN=one", "TOKEN=two"), ["-t", "app"])
        .ok();
    let shown = scene.mica(["why"]).ok().says("the variable TOKEN changed");
    shown.lacks("two\"").lacks("\"one");
    // A step between the others moves none of their counterparts.
    let more = PROJECT.replace("COPY", "RUN true\nCOPY");
    scene.build(&more, ["-t", "app"]).ok();
    assert_eq!(reason(&scene, 2)["reason"], "new-step");
    let counterpart = explained(&scene, 4);
    assert_eq!(counterpart["title"], "[4/5] RUN cat /app/deps > /installed");
    assert!(!counterpart.to_string().contains("new-step"), "{counterpart}");
}

#[test]
fn a_changed_base_is_named() {
    let Some(scene) = project() else { return };
    scene.mica(["tag", "base", "older"]).ok();
    let other = "FROM older\nRUN echo x > /bin/new; echo changed > /etc/motd\n";
    scene.mica(["build", "-t", "base", "-"]).stdin(other).ok();
    scene.rebuild(["-t", "app", "--cache=content"]).ok();
    // What the step had read of the old base is known from the first build.
    let read = explained(&scene, 3)["reasons"].to_string();
    assert!(read.contains("\"by\":\"base\""), "{read}");
    scene.mica(["tag", "older", "base"]).ok();
    scene.rebuild(["-t", "app", "--cache=content"]).ok();
    let changed = reason(&scene, 3);
    assert_eq!(changed["reason"], "base");
    assert_ne!(changed["before"], changed["after"]);
    scene.mica(["why"]).ok().says("the base image changed: ");
}

#[test]
fn not_asked_failed_and_pruned_are_reasons() {
    let Some(scene) = project() else { return };
    scene.rebuild(["-t", "app", "--no-cache"]).ok();
    assert_eq!(reason(&scene, 3)["reason"], "not-asked");
    let failing = PROJECT.replace("cat /app/deps >", "false >");
    scene.build(&failing, ["-t", "app"]).fails();
    assert_eq!(explained(&scene, 3)["outcome"], "failed");
    assert_eq!(explained(&scene, 4)["outcome"], "pending");
    scene.rebuild(["-t", "app"]).fails();
    assert_eq!(reason(&scene, 3)["reason"], "failed-before");
    // The records go with the cache: a record that is younger is one of a build whose results are gone.
    let record = scene.store().join("builds/1/record.json");
    scene.build(PROJECT, ["-t", "app"]).ok();
    let kept = std::fs::read(&record).expect("it is there");
    scene.mica(["rmi", "app"]).ok();
    scene.mica(["prune", "-af"]).ok();
    std::fs::create_dir_all(record.parent().expect("it has one")).expect("it can be made");
    std::fs::write(&record, kept).expect("it can be written");
    scene.rebuild(["-t", "app"]).ok();
    assert_eq!(reason(&scene, 2)["reason"], "gone");
}

#[test]
fn a_killed_build_tells_what_it_had_done() {
    for scene in Scene::everyone() {
        let text = "FROM base\nRUN echo one > /one\nRUN echo begun; sleep 71105\n";
        let running = scene.build(text, ["-t", "app"]).start();
        let works = || {
            let listed = scene.mica(["why", "--format", "json"]).run();
            listed.status.success() && listed.json()["steps"][2]["outcome"] == "at-work"
        };
        wait_until("the second RUN is at work", works);
        scene
            .mica(["why"])
            .ok()
            .says("build-1, which is at work still")
            .says("#3 AT WORK");
        scene.mica(["why", "--list"]).ok().says("at work");
        running.signal(Signal::SIGKILL);
        running.wait();
        wait_until("nothing of the build lives", || {
            scene.mica(["why", "--list"]).ok().has("killed")
        });
        scene
            .mica(["why"])
            .ok()
            .says("build-1, which was killed")
            .says("#2 RAN")
            .says("#3 KILLED");
        // What it had done is there to look into.
        scene.mkdir("m");
        let seen = scene.mica(["mount", "app@2", "m", "--", "cat", "m/one"]).ok();
        assert_eq!(seen.stdout(), "one\n");
        scene.mica(["mount", "app@3", "m", "--", "true"]).fails();
        scene.build(&text.replace("71105", "0"), ["-t", "app"]).ok();
        assert_eq!(records(&scene).len(), 2);
        scene.mica(["why"]).ok().says("#2 CACHED").says("#3 RAN");
        scene.rebuild(["-t", "app"]).ok();
    }
}

#[test]
fn cut_off_and_verified_steps_say_so() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "x # one\n");
    let text = "FROM base\nCOPY code /code\nRUN sed 's/ *#.*//' /code > /made\nRUN cat /made\n";
    scene.build(text, ["-t", "app"]).ok();
    scene.write("ctx/code", "x # another remark\n");
    scene.rebuild(["-t", "app"]).ok();
    scene
        .mica(["why", "app@3"])
        .ok()
        .says("it gave what it had given before");
    assert_eq!(explained(&scene, 3)["cutOff"], true);
    assert_eq!(explained(&scene, 3)["reasons"][0]["path"], "/code");
    assert_eq!(explained(&scene, 4)["cutOff"], false);
    scene.rebuild(["-t", "app", "--verify-cache=100%"]).ok();
    for number in 2..=4 {
        assert_eq!(explained(&scene, number)["verified"], true);
    }
    scene
        .mica(["why", "app@3"])
        .ok()
        .says("#3 CACHED")
        .says("the cache is right");
    // What a command takes from outside is no input: here it makes the cache wrong.
    let dir = scene.mkdir("outside");
    scene.write("outside/file", "one");
    let volume = format!("--volume={}:/outside:ro", dir.display());
    scene
        .build("FROM base\nRUN cat /outside/file > /copy\n", [volume.as_str()])
        .ok();
    scene.write("outside/file", "two");
    scene.rebuild([volume.as_str(), "--verify-cache=100%"]).fails();
    assert_eq!(explained(&scene, 2)["outcome"], "failed");
    assert_eq!(
        reason(&scene, 2),
        serde_json::json!({"reason": "wrong-hit", "paths": ["/copy"]})
    );
    scene
        .mica(["why"])
        .ok()
        .says("the cache has another result")
        .says("/copy");
}

#[test]
fn names_that_came_into_a_listed_directory_are_named() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/one", "");
    scene
        .build("FROM base\nCOPY . /src\nRUN ls /src > /list\n", ["-t", "app"])
        .ok();
    scene.write("ctx/two", "");
    scene.rebuild(["-t", "app"]).ok();
    assert_eq!(reason(&scene, 3)["aspect"], "listing");
    assert_eq!(reason(&scene, 3)["names"], serde_json::json!(["two"]));
    scene
        .mica(["why"])
        .ok()
        .says("it listed /src, where names came or went: two: by #2 [2/3] COPY . /src from two");
}

#[test]
fn without_traces_the_step_below_is_named() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/a", "a");
    let text = "FROM base\nCOPY a /a\nRUN true\n";
    scene.build(text, ["--cache=content"]).ok();
    scene.write("ctx/a", "b");
    scene.build(text, ["--cache=content"]).ok();
    let below = reason(&scene, 3);
    assert_eq!(below["reason"], "below");
    assert_eq!(below["by"]["number"], 2);
    scene
        .mica(["why"])
        .ok()
        .says("the files below it changed: by #2 [2/3] COPY a /a");
}

#[test]
fn what_a_step_read_is_told_with_what_would_help() {
    let Some(scene) = Scene::with_base() else { return };
    for name in ["deps", "docs/a", "docs/b"] {
        scene.write(&format!("ctx/{name}"), name);
    }
    let text = "\
        FROM base\n\
        COPY . /app\n\
        RUN cat /app/deps; cat /app/none; mkdir -p /root/.npm; echo packed > /root/.npm/cache\n\
        RUN echo nothing > /made\n";
    scene.build(text, ["-t", "app"]).ok();
    let report = scene.mica(["trace", "--format", "json", "app", "3"]).ok().json();
    let has = |field: &str, path: &str| {
        let paths = report[field].as_array().expect("a list");
        paths.iter().any(|found| found == path)
    };
    assert!(
        has("files", "/app/deps") && !has("files", "/app/docs/a"),
        "{report}"
    );
    assert!(has("absent", "/app/none"), "{report}");
    assert_eq!(report["wrote"]["files"], 1);
    assert!(report["below"]["files"].as_u64() > report["read"]["files"].as_u64());
    let needed = report["needs"].to_string();
    assert!(needed.contains("[2/4] COPY . /app"), "{needed}");
    scene
        .mica(["trace", "app@3"])
        .ok()
        .says("RUN --mount=type=cache,target=/root/.npm")
        .says("no RUN read docs of the build context (2 files)");
    let after = scene.mica(["trace", "app", "4"]).ok();
    after.lacks("/app/deps\n");
    scene
        .mica(["trace", "app", "1"])
        .fails()
        .says("it is not known what [1/4] FROM base");
    scene.mica(["trace", "app"]).exits(2);
    // Of a COPY directly before it nothing is looked at.
    let order = "FROM base\nCOPY . /app\nRUN echo nothing > /made\n";
    scene.build(order, ["-t", "app"]).ok();
    scene
        .mica(["trace", "app", "3"])
        .ok()
        .says("it looked at nothing that [2/3] COPY . /app gave");
}
