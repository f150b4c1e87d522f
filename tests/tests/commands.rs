//! The commands that look at images and keep house, with their options.

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar};

/// A scene that needs no mount, with the image `made:1` of two layers.
fn loaded() -> Scene {
    let scene = Scene::new();
    let lower = Tar::new()
        .directory("d", 0o755)
        .file("d/changed", "one\n")
        .file("d/gone", "gone\n")
        .symlink("d/link", "changed")
        .program("d/tool", "#!/bin/sh\n");
    let upper = Tar::new()
        .file("d/changed", "two\n")
        .file("d/.wh.gone", "")
        .file("d/new", "new\n");
    let archive = Members::docker("made:1", &[lower.bytes(), upper.bytes()]);
    scene.mica(["load", "--quiet"]).stdin(archive.pack()).ok();
    scene
}

fn id(scene: &Scene, image: &str) -> String {
    let shown = scene.mica(["inspect", image]).ok().json();
    shown[0]["Id"].as_str().expect("an ID").to_owned()
}

const COMMANDS: [&str; 26] = [
    "build", "images", "tag", "rmi", "history", "inspect", "save", "load", "import", "mount", "umount",
    "mounts", "ls", "cat", "cp", "diff", "log", "blame", "analyze", "explore", "run", "prune", "df", "fsck",
    "doctor", "version",
];

#[test]
fn every_command_has_help() {
    let scene = Scene::new();
    let all = scene.mica(["--help"]).ok().stdout();
    for command in COMMANDS {
        assert!(all.contains(command), "{command} is not in the list");
        let help = scene.mica([command, "--help"]).ok();
        help.says("Usage: mica ").says("--help");
    }
}

#[test]
fn what_lists_something_can_say_it_as_json() {
    let scene = loaded();
    for command in [
        vec!["images"],
        vec!["history", "made:1"],
        vec!["inspect", "made:1"],
        vec!["mounts"],
        vec!["ls", "made:1"],
        vec!["diff", "made:1"],
        vec!["log", "made:1", "/d"],
        vec!["blame", "made:1"],
        vec!["analyze", "made:1"],
        vec!["df"],
        vec!["version"],
    ] {
        scene.mica(&command).args(["--format", "json"]).ok().json_lines();
    }
    // Its status says whether something is missing here.
    scene.mica(["doctor", "--format", "json"]).run().json_lines();
}

#[test]
fn output_into_a_closed_pipe_is_no_failure_to_tell() {
    let scene = loaded();
    scene
        .shell("mica history made:1 | true")
        .ok()
        .lacks("panicked")
        .lacks("error");
}

#[test]
fn images_are_listed_tagged_and_removed() {
    let scene = loaded();
    let first = id(&scene, "made:1");
    scene.mica(["images"]).ok().says("REPOSITORY").says("made");
    scene
        .mica(["tag", "made:1", "other", "registry.example.com:5000/a/b:v2"])
        .ok();
    let listed = scene.images();
    assert_eq!(listed.len(), 3, "{listed:?}");
    assert_eq!(id(&scene, "other"), first);
    assert_eq!(id(&scene, "docker.io/library/other:latest"), first);
    // By the first digits of the ID.
    assert_eq!(id(&scene, &first["sha256:".len()..][..12]), first);
    scene.mica(["rmi", "made:1"]).ok();
    assert_eq!(id(&scene, "other"), first);
    scene.mica(["rmi", &first]).fails();
    scene.mica(["rmi", "-f", &first]).ok();
    assert_eq!(scene.images(), Vec::<String>::new());
    scene.mica(["inspect", "other"]).fails();
}

#[test]
fn templates_pick_fields_as_in_docker() {
    let scene = loaded();
    let written = |arguments: &[&str]| scene.mica(arguments).ok().stdout();
    let name = "{{.Repository}}:{{.Tag}}";
    assert_eq!(written(&["images", "--format", name]), "made:1\n");
    let columns = written(&["images", "--format", r"table {{.ID}}\t{{.Tag}}"]);
    let lines = format!("IMAGE ID       TAG\n{}   1\n", &id(&scene, "made:1")[7..19]);
    assert_eq!(columns, lines);
    assert_eq!(
        written(&["inspect", "-f", "{{json .RepoTags}} {{.Os}}", "made:1"]),
        "[\"made:1\"] linux\n"
    );
    let layers = written(&["history", "--format", "{{.CreatedBy}}", "made:1"]);
    assert_eq!(layers, "by hand\nby hand\n");
    scene
        .mica(["inspect", "-f", "{{.Confg}}", "made:1"])
        .fails()
        .says("no field .Confg")
        .says(".Config");
    scene
        .mica(["images", "--format", "{{.ID"])
        .fails()
        .says("has no }}");
}

#[test]
fn an_image_whose_name_moved_on_is_dangling() {
    let scene = loaded();
    scene
        .mica(["import", "-", "made:1"])
        .stdin(Tar::new().file("f", "f").bytes())
        .ok();
    let dangling = |scene: &Scene| {
        scene
            .mica(["images", "-q", "--filter", "dangling=true"])
            .ok()
            .stdout()
    };
    assert_eq!(dangling(&scene).lines().count(), 1);
    scene.mica(["prune", "--force"]).ok();
    assert_eq!(dangling(&scene), "");
    assert_eq!(scene.cat("made:1", "/f"), "f");
}

#[test]
fn history_tells_the_instructions() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build("FROM base\nENV A=1\nRUN echo x > /x\n", ["-t", "h"])
        .ok();
    let history = scene.mica(["history", "--no-trunc", "h"]).ok();
    let history = history
        .says("ENV A=1")
        .says("RUN /bin/sh -c echo x > /x")
        .stdout();
    let position = |text: &str| history.find(text).expect("just found");
    assert!(position("RUN") < position("ENV"), "the newest comes first");
}

#[test]
fn inspect_shows_docker_s_fields() {
    let scene = loaded();
    let shown = scene.mica(["inspect", "made:1"]).ok().json();
    assert_eq!(shown[0]["RepoTags"], serde_json::json!(["made:1"]));
    assert_eq!(shown[0]["Os"], "linux");
    assert_eq!(shown[0]["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!(shown[0]["RootFS"]["Layers"].as_array().expect("a list").len(), 2);
}

#[test]
fn files_are_listed_read_and_copied_without_a_mount() {
    let scene = loaded();
    scene
        .mica(["ls", "made:1", "/d"])
        .ok()
        .says("changed")
        .says("new")
        .lacks("gone");
    let long = scene.mica(["ls", "-l", "made:1", "/d"]).ok();
    long.says("-rwxr-xr-x").says("link -> changed");
    scene.mica(["ls", "made:1", "/nothing"]).fails().says("/nothing");
    assert_eq!(scene.cat("made:1", "/d/changed"), "two\n");
    assert_eq!(scene.cat("made:1", "/d/link"), "two\n");
    scene.mica(["cat", "made:1", "/d"]).fails().says("/d");
    scene.mica(["cp", "made:1:/d/new", "copied"]).ok();
    assert_eq!(scene.read("copied"), "new\n");
    scene.mica(["cp", "made:1:/d", "tree"]).ok();
    assert_eq!(scene.read("tree/changed"), "two\n");
    assert!(!scene.path("tree/gone").exists());
    assert_eq!(
        std::fs::read_link(scene.path("tree/link")).expect("it is a symlink"),
        std::path::Path::new("changed")
    );
}

#[test]
fn diff_tells_what_a_layer_or_an_image_changes() {
    let scene = loaded();
    scene
        .mica(["diff", "made:1"])
        .ok()
        .says("A /d/tool")
        .says("A /d/new");
    let of_a_layer = scene.mica(["diff", "--layer", "2", "made:1"]).ok();
    of_a_layer
        .says("C /d/changed")
        .says("D /d/gone")
        .says("A /d/new")
        .lacks("tool");
    scene
        .mica(["import", "-", "other"])
        .stdin(
            Tar::new()
                .file("d/changed", "two\n")
                .file("d/third", "3\n")
                .bytes(),
        )
        .ok();
    let of_two = scene.mica(["diff", "made:1", "other"]).exits(1);
    of_two.says("A /d/third").says("D /d/new").says("D /d/tool");
    assert_eq!(scene.mica(["diff", "other", "other"]).ok().answer(), "");
}

#[test]
fn a_tarball_is_imported_with_a_configuration() {
    let scene = Scene::new();
    let tar = Tar::new().file("f", "imported\n").bytes();
    scene.write("root.tar.gz", mica_tests::archive::gzip(&tar));
    scene
        .mica([
            "import",
            "-c",
            "CMD [\"/f\"]",
            "-c",
            "ENV A=1",
            "-m",
            "a remark",
            "root.tar.gz",
            "imported:v1",
        ])
        .ok();
    assert_eq!(scene.cat("imported:v1", "/f"), "imported\n");
    assert_eq!(scene.config("imported:v1")["Cmd"], serde_json::json!(["/f"]));
    scene.mica(["history", "imported:v1"]).ok().says("a remark");
    scene.mica(["import", "-", "bad"]).stdin("no tar").fails();
}

#[test]
fn programs_of_this_machine_become_an_image() {
    for scene in Scene::everyone() {
        scene
            .mica(["import", "--host", "sh", "ls", "cat", "--tag", "host"])
            .ok();
        scene
            .build(
                "FROM host\nRUN ls / > /listed && cat /listed\n",
                ["-t", "on-host"],
            )
            .ok();
        assert!(
            scene.cat("on-host", "/listed").contains("usr"),
            "as {}",
            scene.who()
        );
        scene
            .mica(["import", "--host", "no-such-program", "-t", "x"])
            .fails()
            .says("no-such-program");
    }
}

#[test]
fn prune_frees_what_nothing_needs() {
    let scene = loaded();
    let layers = || {
        std::fs::read_dir(scene.path("store/layers"))
            .expect("the layers")
            .count()
    };
    assert_eq!(layers(), 2);
    scene.mica(["prune", "--force"]).ok();
    assert_eq!(layers(), 2);
    scene.mica(["rmi", "made:1"]).ok();
    scene.mica(["prune", "--all", "--dry-run"]).ok();
    assert_eq!(layers(), 2);
    scene.mica(["prune", "--all", "--force"]).ok();
    assert_eq!(layers(), 0);
    scene.mica(["df"]).ok();
}

#[test]
fn the_version_is_told() {
    let scene = Scene::new();
    scene.mica(["version"]).ok().says(env!("CARGO_PKG_VERSION"));
    scene.mica(["--version"]).ok().says(env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_doctor_knows_each_way_of_working() {
    for scene in Scene::everyone() {
        scene.mica(["doctor"]).run().says("/dev/fuse");
    }
}

/// The kernel allows one listener: mica cannot answer system calls within a step whose calls it answers.
#[test]
fn the_doctor_knows_that_another_program_answers_system_calls() {
    let Some(scene) = Scene::as_plain_user() else {
        return;
    };
    let listener = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("seccomp listener"));
        lines.map(str::to_owned).collect::<String>()
    };
    let outside = listener(&scene.mica(["doctor"]).run().stdout());
    assert!(outside.contains("can be had"), "{outside}");
    let program = scene.program();
    scene
        .mica(["import", "--host"])
        .arg(&program)
        .args(["-t", "inner"])
        .ok();
    let inside = scene
        .mica(["run", "--rm", "--user=1", "inner"])
        .arg(&program)
        .arg("doctor")
        .run();
    let text = listener(&inside.stdout());
    assert!(text.contains("missing"), "{}", inside.describe());
}
