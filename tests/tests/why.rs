//! What is written down of builds, and what `mica why` says by it.

use mica_tests::Scene;
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
