//! `mica analyze`, and `mica build --optimize=fold`, which mends what it finds.

use mica_tests::Scene;

const DOCKERFILE: &str = "\
FROM base
RUN mkdir /app && head -c 50000 /dev/zero > /app/big && head -c 30000 /dev/zero > /tmp/cache
RUN chmod 700 /app/big
RUN echo config > /app/conf && ln /app/conf /app/link
RUN rm /tmp/cache && echo other > /app/conf
RUN chown -R 5:5 /app
CMD [\"sh\"]
";

#[test]
fn what_is_wasted_is_told_by_layer_and_path() {
    let Some(scene) = Scene::with_base() else { return };
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    let told = scene.mica(["analyze", "app"]).ok();
    told.says("duplicated  100kB")
        .says("deleted     30kB")
        .says("3 duplicated, 6 duplicated    /app/big")
        .says("Dockerfile:3  RUN chmod 700 /app/big")
        .says("--optimize=fold");
    let json = scene.mica(["analyze", "--format", "json", "app"]).ok().json();
    assert_eq!(
        (&json["Deleted"], &json["Paths"][0]["Bytes"]),
        (&30_000.into(), &100_000.into())
    );
    assert_eq!(
        (&json["Layers"][1]["Stored"], &json["Layers"][1]["Hidden"]),
        (&80_000.into(), &80_000.into())
    );
    let efficiency = json["Efficiency"].as_f64().expect("a number");
    assert!(efficiency > 0.0 && efficiency < 1.0, "{efficiency}");
}

#[test]
fn the_layers_of_a_base_can_be_left_out() {
    let Some(scene) = Scene::with_base() else { return };
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    let on_it = "FROM app\nRUN head -c 700 /dev/zero > /own && echo > /app/conf\nRUN rm /own\n";
    scene.build(on_it, ["-t", "upper"]).ok();
    let json = |args: &[&str]| scene.mica(["analyze", "--format=json"]).args(args).ok().json();
    let own = json(&["--base=app", "upper"]);
    assert_eq!((&own["Stored"], &own["Wasted"]), (&701.into(), &700.into()));
    assert_eq!(own["Layers"].as_array().map(Vec::len), Some(2));
    assert_eq!(own["Paths"][0]["Path"], "/own");
    assert!(json(&["upper"])["Wasted"].as_u64() > Some(100_000));
    scene
        .mica(["analyze", "--base=app", "--max-wasted-bytes=699", "upper"])
        .exits(1)
        .says("FAILED");
    scene
        .mica(["analyze", "--base=upper", "app"])
        .exits(2)
        .says("app does not stand on upper");
}

#[test]
fn limits_decide_the_exit_status() {
    let Some(scene) = Scene::with_base() else { return };
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    let limit = |option: &str, value: &str| scene.mica(["analyze", option, value, "app"]);
    limit("--max-wasted-bytes", "1MB").ok();
    limit("--max-wasted-bytes", "100kB")
        .exits(1)
        .says("FAILED: 130kB are wasted, more than 100kB");
    limit("--max-wasted-percent", "100").ok();
    limit("--max-wasted-percent", "0").exits(1).says("FAILED");
    limit("--min-efficiency", "0").ok();
    limit("--min-efficiency", "1")
        .exits(1)
        .says("FAILED: the efficiency is 0.");
    limit("--max-wasted-bytes", "many").exits(2).says("no size");
    scene.mica(["analyze", "nothing"]).exits(2);
}

#[test]
fn folding_gives_the_same_root_filesystem_and_wastes_nothing() {
    for scene in Scene::everyone() {
        scene.build(DOCKERFILE, ["-t", "plain"]).ok();
        scene
            .rebuild(["-t", "folded", "--optimize=fold"])
            .ok()
            .says("CACHED");
        scene.mica(["diff", "--times", "plain", "folded"]).ok();
        let listed = |image: &str| scene.mica(["ls", "-lR", image]).ok().stdout();
        assert_eq!(listed("plain"), listed("folded"));
        // What the base wastes is not the build's.
        let wasted =
            |image: &str| scene.mica(["analyze", "--format", "json", image]).ok().json()["Wasted"].clone();
        assert_eq!(wasted("folded"), wasted("base"));
        assert!(wasted("plain").as_u64() > wasted("base").as_u64());
        assert_eq!(scene.config("plain"), scene.config("folded"));
        let history = |image: &str| {
            scene
                .mica(["history", "--format", "json", image])
                .ok()
                .json_lines()
                .len()
        };
        assert_eq!(history("plain"), history("folded"));
        // Again it is the same image, and nothing is written for it.
        let id = |image: &str| scene.mica(["inspect", image]).ok().json()[0]["Id"].clone();
        scene.rebuild(["-t", "again", "--optimize=fold"]).ok();
        assert_eq!(id("folded"), id("again"), "as {}", scene.who());
        // The lines are still known.
        scene
            .mica(["log", "folded", "/app/conf"])
            .ok()
            .says("Dockerfile:");
    }
}
