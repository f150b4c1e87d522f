//! `mica diff` between images, their layers, and layers alone.

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar};

/// Images that share their lowest layer: `app:1` of three layers and `app:2` of two.
fn two_images() -> Scene {
    let scene = Scene::new();
    let base = Tar::new()
        .directory("etc", 0o755)
        .file("etc/passwd", "root:x:0:0\n")
        .file("etc/motd", "one\ntwo\nthree\n")
        .directory("old", 0o755)
        .file("old/file", "x")
        .symlink("link", "etc");
    let second = Tar::new()
        .directory("etc", 0o755)
        .file("etc/motd", "one\n2\nthree\n")
        .file(".wh.old", "");
    let third = Tar::new().program("etc/passwd", "root:x:0:0\n");
    let other = Tar::new().symlink("link", "old").file("binary", "\0\x01");
    let layers = [base, second, third, other].map(Tar::bytes);
    let [base, second, third, other] = layers;
    for (name, layers) in [
        ("app:1", vec![base.clone(), second, third]),
        ("app:2", vec![base, other]),
    ] {
        let archive = Members::docker(name, &layers);
        scene.mica(["load", "--quiet"]).stdin(archive.pack()).ok();
    }
    scene
}

#[test]
fn what_differs_is_told_with_the_status_of_diff() {
    let scene = two_images();
    let listed = scene.mica(["diff", "app:1", "app:2"]).exits(1).stdout();
    let expected = "\
A /binary
C /etc/motd  content 12B → 14B
C /etc/passwd  mode 0755 → 0644
C /link  target etc → old
A /old
A /old/file
";
    assert_eq!(listed, expected);
    assert_eq!(scene.mica(["diff", "app:1", "app:1"]).ok().stdout(), "");
    scene
        .mica(["diff", "app:1", "nothing"])
        .exits(2)
        .says("no such image");
    scene.mica(["diff", "app:1@layer:9", "app:1"]).exits(2);
    let beneath = scene.mica(["diff", "--path", "/etc", "app:1", "app:2"]).exits(1);
    beneath.says("/etc/motd").lacks("/link");
}

#[test]
fn states_and_layers_are_compared_like_images() {
    let scene = two_images();
    let step = scene.mica(["diff", "app:1@layer:1", "app:1@layer:2"]).exits(1);
    assert_eq!(
        step.stdout(),
        "C /etc/motd  content 14B → 12B\nD /old\nD /old/file\n"
    );
    // The base is the same; layer 0 is before it.
    scene.mica(["diff", "app:1@layer:1", "app:2@layer:1"]).ok();
    scene
        .mica(["diff", "app:1@layer:0", "app:1@layer:1"])
        .exits(1)
        .says("A /etc/passwd");
    let shown = scene.mica(["inspect", "app:1"]).ok().json();
    let third = shown[0]["RootFS"]["Layers"][2]
        .as_str()
        .expect("a digest")
        .to_owned();
    let alone = scene.mica(["diff", "app:1", &third]).exits(1);
    alone.says("D /link").lacks("/etc/passwd");
    scene
        .mica(["diff", "app:1@layer:4", "app:1"])
        .exits(2)
        .says("app:1 has no layer 4: it has 3")
        .says("hint:");
    assert_eq!(
        scene.mica(["cat", "app:1@layer:1:/etc/motd"]).ok().stdout(),
        "one\ntwo\nthree\n"
    );
}

#[test]
fn a_patch_a_tree_and_json_tell_the_same() {
    let scene = two_images();
    let patch = scene.mica(["diff", "-u", "app:2", "app:1"]).exits(1).stdout();
    scene.mica(["cp", "app:2:/", "work"]).ok();
    scene.write("patch", &patch);
    // What the patch says is what another program makes of it.
    scene
        .shell("sed '/^diff --git a.link/,/^diff/d; /^diff --git a.binary/,/^Binary/d' patch > text && cd work && patch -p1 < ../text && cat etc/motd")
        .ok()
        .says("one\n2\nthree\n");
    assert!(
        patch.contains("Binary files a/binary and /dev/null differ"),
        "{patch}"
    );
    assert!(patch.contains("old mode 100644\nnew mode 100755"), "{patch}");
    assert!(
        patch.contains("-old\n\\ No newline at end of file\n+etc\n"),
        "{patch}"
    );

    let tree = scene.mica(["diff", "--tree", "app:1", "app:2"]).exits(1).stdout();
    let expected = "\
/
├── A binary  2B
├── etc/
│   ├── C motd  content 12B → 14B
│   └── C passwd  mode 0755 → 0644
├── C link  target etc → old
└── A old/
    └── A file  1B
";
    assert_eq!(tree, expected);

    let json = scene
        .mica(["diff", "--format", "json", "app:1", "app:2"])
        .exits(1);
    let lines = json.json_lines();
    let passwd = lines
        .iter()
        .find(|line| line["Path"] == "/etc/passwd")
        .expect("it differs");
    assert_eq!(passwd["Kind"], "C");
    assert_eq!(passwd["Changes"], serde_json::json!(["mode"]));
    assert_eq!(
        (&passwd["Old"]["Mode"], &passwd["New"]["Mode"]),
        (&"0755".into(), &"0644".into())
    );
    assert_eq!(lines.len(), 6);
}
