//! Image archives, good and bad: what is loaded, what is refused, and what is written.

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar, gzip};
use tar::EntryType;

/// Two layers; the second changes the first.
fn layers() -> Vec<Vec<u8>> {
    let lower = Tar::new()
        .directory("d", 0o755)
        .file("d/gone", "gone\n")
        .file("d/kept", "kept\n")
        .hard_link("d/linked", "d/kept");
    let upper = Tar::new().file("d/.wh.gone", "").file("d/new", "new\n");
    vec![lower.bytes(), upper.bytes()]
}

fn check(scene: &Scene) {
    scene.mica(["cat", "made:1", "/d/gone"]).fails().says("/d/gone");
    assert_eq!(scene.cat("made:1", "/d/kept"), "kept\n");
    assert_eq!(scene.cat("made:1", "/d/linked"), "kept\n");
    assert_eq!(scene.cat("made:1", "/d/new"), "new\n");
}

#[test]
fn archives_of_both_kinds_are_loaded_from_a_file_or_from_stdin() {
    for members in [
        Members::docker("made:1", &layers()),
        Members::oci("docker.io/library/made:1", &layers()),
    ] {
        let archive = members.pack();
        for bytes in [archive.clone(), gzip(&archive)] {
            let scene = Scene::new();
            scene.mica(["load"]).stdin(bytes.clone()).ok().says("made:1");
            check(&scene);
            let scene = Scene::new();
            scene.write("made.tar", bytes);
            scene.mica(["load", "-i", "made.tar"]).ok().says("made:1");
            check(&scene);
        }
    }
}

#[test]
fn a_saved_image_is_the_same_when_it_is_loaded() {
    for format in ["docker-archive", "oci-archive", "oci-dir"] {
        let scene = Scene::new();
        scene
            .mica(["load"])
            .stdin(Members::docker("made:1", &layers()).pack())
            .ok();
        let id = scene.mica(["images", "-q", "--no-trunc"]).ok().answer();
        scene
            .mica(["save", "--format", format, "-o", "saved", "made:1"])
            .ok();
        let other = Scene::new();
        let saved = scene.path("saved");
        other.mica(["load", "-i"]).arg(saved).ok().says("made:1");
        check(&other);
        assert_eq!(
            other.mica(["images", "-q", "--no-trunc"]).ok().answer(),
            id,
            "{format}"
        );
    }
}

#[test]
fn saving_twice_gives_the_same_bytes() {
    let scene = Scene::new();
    scene
        .mica(["load"])
        .stdin(Members::docker("made:1", &layers()).pack())
        .ok();
    for format in ["docker-archive", "oci-archive"] {
        let save = || scene.mica(["save", "--format", format, "made:1"]).ok().stdout;
        assert_eq!(save(), save(), "{format}");
    }
}

#[test]
fn a_truncated_archive_is_refused_wherever_it_ends() {
    for members in [
        Members::docker("made:1", &layers()),
        Members::oci("docker.io/library/made:1", &layers()),
    ] {
        let archive = members.pack();
        // The two empty blocks at the end, and what fills the last block before them, may be missing.
        let last = members.0.last().expect("an archive has members").1.len();
        let content = archive.len() - 1024 - (last.next_multiple_of(512) - last);
        let scene = Scene::new();
        for part in 0..40 {
            let end = content * part / 40;
            scene.mica(["load"]).stdin(&archive[..end]).fails();
        }
        let compressed = gzip(&archive);
        for part in 1..10 {
            scene
                .mica(["load"])
                .stdin(&compressed[..compressed.len() * part / 10])
                .fails();
        }
        assert_eq!(scene.images(), Vec::<String>::new());
        // And the whole one is taken afterwards.
        scene.mica(["load"]).stdin(archive).ok();
        check(&scene);
        scene.is_clean();
    }
}

#[test]
fn a_wrong_digest_is_refused() {
    let spoiled = |members: Members, part: &str| {
        let mut members = members;
        let content = members.get_mut(part);
        let middle = content.len() / 2;
        content[middle] ^= 1;
        members.pack()
    };
    let layer = layers();
    let scene = Scene::new();
    let mut before = Members::oci("made:1", &layer);
    let names: Vec<_> = before.0.iter().map(|(name, _)| name.clone()).collect();
    for name in names.iter().filter(|name| name.starts_with("blobs/")) {
        scene
            .mica(["load"])
            .stdin(spoiled(Members::oci("made:1", &layer), name))
            .fails();
    }
    scene
        .mica(["load"])
        .stdin(spoiled(Members::docker("made:1", &layer), "layer.tar"))
        .fails();
    // A digest that is no digest.
    let index = before.get_mut("index.json");
    *index = String::from_utf8(index.clone())
        .expect("JSON")
        .replace("sha256:", "sha256:../../")
        .into_bytes();
    scene.mica(["load"]).stdin(before.pack()).fails();
    assert_eq!(scene.images(), Vec::<String>::new());
    scene.is_clean();
}

#[test]
fn what_is_no_archive_is_refused() {
    let scene = Scene::new();
    for bytes in [&b""[..], b"hello", &[0; 4096], b"\x1f\x8b\x08\x00garbage", b"{}"] {
        scene.mica(["load"]).stdin(bytes).fails();
    }
    let mut manifest = Members::docker("made:1", &layers());
    for text in [
        "",
        "[]]",
        "{}",
        "[{\"Config\":\"../../etc/passwd\",\"Layers\":[]}]",
        "[{\"Config\":null}]",
    ] {
        *manifest.get_mut("manifest.json") = text.into();
        scene.mica(["load"]).stdin(manifest.pack()).fails();
    }
    scene
        .mica(["load", "-i", "absent.tar"])
        .fails()
        .says("absent.tar");
    assert_eq!(scene.images(), Vec::<String>::new());
}

/// A layer made of one bad member, and the good one that comes before it.
fn with(kind: EntryType, name: &str, link: &str) -> Vec<u8> {
    Tar::new()
        .directory("d", 0o755)
        .member(kind, name, 0o644, link, b"")
        .bytes()
}

#[test]
fn a_layer_cannot_leave_the_image() {
    let scene = Scene::new();
    scene.write("victim", "as it was\n");
    let absolute = scene.path("victim").display().to_string();
    let absolute = &absolute[..absolute.len().min(99)];
    for layer in [
        with(EntryType::Regular, "../victim", ""),
        with(EntryType::Regular, "d/../../victim", ""),
        with(EntryType::Regular, absolute, ""),
        with(EntryType::Regular, "/etc/absolute", ""),
        with(EntryType::Link, "d/link", "../victim"),
        with(EntryType::Link, "d/link", "d/../../victim"),
        with(EntryType::Link, "d/link", absolute),
        with(EntryType::Directory, "..", ""),
        with(EntryType::Regular, "d/.wh...", ""),
    ] {
        for archive in [
            Members::docker("bad", std::slice::from_ref(&layer)).pack(),
            Members::oci("bad", std::slice::from_ref(&layer)).pack(),
        ] {
            scene.mica(["load"]).stdin(archive).fails();
        }
        scene.mica(["import", "-", "bad"]).stdin(layer).fails();
    }
    assert_eq!(scene.read("victim"), "as it was\n");
    assert_eq!(scene.images(), Vec::<String>::new());
    scene.is_clean();
}

#[test]
fn a_symlink_leads_nowhere_but_into_the_image() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("victim", "as it was\n");
    let outside = scene.directory().display().to_string();
    // A layer whose symlink leads out, and one above that writes through it.
    let lower = Tar::new()
        .symlink("escape", &outside)
        .symlink("up", "../../../../../../..")
        .bytes();
    let upper = Tar::new().file("through", "x").bytes();
    scene
        .mica(["load"])
        .stdin(Members::docker("linked", &[lower, upper]).pack())
        .ok();
    scene.mica(["cat", "linked", "/escape/victim"]).fails();
    scene
        .mica(["cat", "linked", &format!("/up{outside}/victim")])
        .fails();
    scene.write("ctx/victim", "overwritten\n");
    scene
        .build("FROM linked\nCOPY victim /escape/\n", ["-t", "written"])
        .ok();
    assert_eq!(scene.read("victim"), "as it was\n");
    // It went to that place inside of the image.
    assert_eq!(
        scene.cat("written", &format!("{outside}/victim")),
        "overwritten\n"
    );
    scene.mica(["cp", "linked:/escape/victim", "copied"]).fails();
}

#[test]
fn a_member_through_another_layer_s_symlink_stays_in_the_image() {
    let scene = Scene::new();
    scene.write("victim", "as it was\n");
    let outside = scene.directory().display().to_string();
    let layer = Tar::new()
        .symlink("s", &outside)
        .file("s/victim", "overwritten\n")
        .bytes();
    // Refused or kept inside, but never followed.
    scene
        .mica(["load"])
        .stdin(Members::docker("linked", &[layer]).pack())
        .run();
    assert_eq!(scene.read("victim"), "as it was\n");
}

#[test]
fn other_tools_find_an_image_layout_in_the_store() {
    let scene = Scene::new();
    scene
        .mica(["load"])
        .stdin(Members::docker("made:1", &layers()).pack())
        .ok();
    let layout: serde_json::Value = serde_json::from_str(&scene.read("store/oci-layout")).expect("JSON");
    assert_eq!(layout["imageLayoutVersion"], "1.0.0");
    let index: serde_json::Value = serde_json::from_str(&scene.read("store/index.json")).expect("JSON");
    let digest = index["manifests"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let hex = digest.strip_prefix("sha256:").expect("a SHA-256");
    let manifest = scene.read(&format!("store/blobs/sha256/{hex}"));
    assert_eq!(mica_tests::archive::sha256(manifest.as_bytes()), hex);
}
