//! `mica log` and `mica blame` on an image that was built here, and on one that came from elsewhere.

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar};

const DOCKERFILE: &str = "\
# A comment, so that lines and steps differ.
FROM base

ENV A=1
RUN mkdir /app && echo one > /app/conf && echo x > /app/gone
RUN echo two >> /app/conf \\
 && rm /app/gone
RUN chmod 600 /app/conf && chown 7:8 /app/conf
RUN rm -r /app && mkdir /app && echo three > /app/conf
";

#[test]
fn the_log_tells_each_instruction_with_its_line() {
    let Some(scene) = Scene::with_base() else { return };
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    let log = scene.mica(["log", "app", "/app/conf"]).ok().stdout();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 8, "{log}");
    for (line, instruction, what) in [
        (
            0,
            "layer 5  ctx/Dockerfile:9  RUN rm -r /app",
            "changed content 8B → 6B, mode 0600 → 0644, owner 7:8 → 0:0",
        ),
        (
            2,
            "layer 4  ctx/Dockerfile:8  RUN chmod 600",
            "changed mode 0644 → 0600, owner 0:0 → 7:8",
        ),
        (
            4,
            "layer 3  ctx/Dockerfile:6  RUN echo two",
            "changed content 4B → 8B",
        ),
        (
            6,
            "layer 2  ctx/Dockerfile:5  RUN mkdir /app",
            "created file 0644 0:0 4B",
        ),
    ] {
        assert!(lines[line].starts_with(instruction), "{instruction}\n{log}");
        assert!(lines[line + 1].contains(what), "{what}\n{log}");
    }
    scene
        .mica(["log", "app", "/app/gone"])
        .ok()
        .says("deleted")
        .says("created");
    scene
        .mica(["log", "app:/app"])
        .ok()
        .says("in it 0 added, 1 changed, 1 deleted");
    scene
        .mica(["log", "app", "/nothing"])
        .fails()
        .says("/nothing never was in app");
}

#[test]
fn each_version_of_a_file_can_be_read() {
    let Some(scene) = Scene::with_base() else { return };
    scene.build(DOCKERFILE, ["-t", "app"]).ok();
    for (layer, text) in [("2", "one\n"), ("3", "one\ntwo\n"), ("5", "three\n")] {
        let shown = scene.mica(["log", "--show", layer, "app", "/app/conf"]).ok();
        assert_eq!(shown.stdout(), text);
        assert_eq!(scene.cat(&format!("app@layer:{layer}"), "/app/conf"), text);
    }
    scene
        .mica(["log", "--show", "1", "app", "/app/conf"])
        .fails()
        .says("was not there in layer 1");
    let patch = scene.mica(["log", "-p", "app", "/app/conf"]).ok();
    patch
        .says("-one\n-two\n+three\n")
        .says("+two\n")
        .says("new owner 7:8");
    let json = scene
        .mica(["log", "--format", "json", "app", "/app/conf"])
        .ok()
        .json_lines();
    assert_eq!(json.len(), 4);
    assert_eq!(
        (&json[1]["Kind"], &json[1]["Line"]),
        (&"changed".into(), &8.into())
    );
    assert_eq!(json[1]["Changes"], serde_json::json!(["mode", "owner"]));
    assert_eq!(
        (&json[1]["New"]["Uid"], &json[1]["New"]["Mode"]),
        (&7.into(), &"0600".into())
    );
}

#[test]
fn blame_names_the_instruction_of_each_path() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base
RUN mkdir /app && echo 1 > /app/old && echo 1 > /app/new
COPY file /app/copied
RUN echo 2 > /app/new
";
    scene.write("ctx/file", "copied\n");
    scene.build(dockerfile, ["-t", "first"]).ok();
    // What the image stands on was built here as well.
    scene
        .build("FROM first\nRUN echo 3 > /app/last\n", ["-t", "app"])
        .ok();
    let blamed = scene.mica(["blame", "app", "/app"]).ok().stdout();
    let layers: Vec<(char, bool)> = blamed
        .lines()
        .map(|line| {
            (
                line.chars().next().expect("a layer"),
                line.contains("  ctx/Dockerfile:"),
            )
        })
        .collect();
    assert_eq!(
        layers,
        [('3', true), ('5', true), ('4', true), ('2', true)],
        "{blamed}"
    );
    let line_of = |name: &str| {
        blamed
            .lines()
            .find(|line| line.ends_with(name))
            .expect("it is there")
            .to_owned()
    };
    assert!(
        line_of(" copied").contains("ctx/Dockerfile:3  COPY file"),
        "{blamed}"
    );
    assert!(
        line_of(" new").contains("ctx/Dockerfile:4  RUN echo 2"),
        "{blamed}"
    );
    assert!(
        line_of(" last").contains("ctx/Dockerfile:2  RUN echo 3"),
        "{blamed}"
    );
    let one = scene.mica(["blame", "app", "/app/old"]).ok().stdout();
    assert!(one.starts_with('2') && one.lines().count() == 1, "{one}");
    let all = scene
        .mica(["blame", "-R", "--format", "json", "app", "/app"])
        .ok()
        .json_lines();
    let old = all
        .iter()
        .find(|one| one["Path"] == "/app/old")
        .expect("it is there");
    assert_eq!(
        (&old["Layer"], &old["Line"], &old["Node"]["Size"]),
        (&2.into(), &2.into(), &2.into())
    );
    scene
        .mica(["blame", "app", "/nothing"])
        .fails()
        .says("there is no /nothing in app");
}

#[test]
fn an_image_from_elsewhere_tells_its_history() {
    let scene = Scene::new();
    let layers = [
        Tar::new().directory("d", 0o755).file("d/f", "1"),
        Tar::new()
            .directory("d", 0o755)
            .file("d/.wh..wh..opq", "")
            .file("d/g", "2"),
    ];
    let archive = Members::docker("made", &layers.map(Tar::bytes));
    scene.mica(["load", "--quiet"]).stdin(archive.pack()).ok();
    let log = scene.mica(["log", "made", "/d/f"]).ok();
    log.says("layer 2  by hand")
        .says("    deleted\n")
        .says("layer 1  by hand")
        .says("created file 0644 0:0 1B");
    scene
        .mica(["blame", "made", "/d"])
        .ok()
        .says("2  by hand")
        .lacks(" f");
}
