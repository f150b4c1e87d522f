//! A store that something damaged: mica says what is wrong and does not make it worse.

use std::fs;
use std::path::PathBuf;

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar};

/// A scene with the image `made:1` of one layer, and the directory of that layer.
fn loaded() -> (Scene, PathBuf) {
    let scene = Scene::new();
    let layer = Tar::new().directory("d", 0o755).file("d/f", "content\n").bytes();
    let archive = Members::docker("made:1", &[layer]);
    scene.mica(["load", "--quiet"]).stdin(archive.pack()).ok();
    let layers = fs::read_dir(scene.path("store/layers")).expect("the layers");
    let layers: Vec<_> = layers.map(|entry| entry.expect("a layer").path()).collect();
    assert_eq!(layers.len(), 1);
    (scene, layers[0].clone())
}

#[test]
fn an_index_that_is_cut_short_is_an_error() {
    let (scene, layer) = loaded();
    let index = layer.join("index");
    let whole = fs::read(&index).expect("the index");
    for part in 0..20 {
        fs::write(&index, &whole[..whole.len() * part / 20]).expect("the index is ours");
        scene.mica(["cat", "made:1", "/d/f"]).fails().says("index");
    }
    fs::write(&index, &whole).expect("the index is ours");
    assert_eq!(scene.cat("made:1", "/d/f"), "content\n");
}

#[test]
fn an_index_with_other_bytes_never_panics() {
    let (scene, layer) = loaded();
    let index = layer.join("index");
    let whole = fs::read(&index).expect("the index");
    let step = (whole.len() / 40).max(1);
    for at in (0..whole.len()).step_by(step) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0xff;
        fs::write(&index, &damaged).expect("the index is ours");
        // It may say what is wrong, or not be concerned at all.
        for command in [vec!["cat", "made:1", "/d/f"], vec!["ls", "-lR", "made:1"]] {
            let outcome = scene.mica(command).run().lacks("panicked");
            assert!(outcome.status.code().is_some(), "{}", outcome.describe());
        }
    }
}

#[test]
fn a_tar_that_is_cut_short_is_an_error() {
    let (scene, layer) = loaded();
    fs::write(layer.join("tar"), "short").expect("the tar is ours");
    scene.mica(["cat", "made:1", "/d/f"]).fails();
    scene.mica(["save", "-o", "saved.tar", "made:1"]).fails();
    assert!(!scene.path("saved.tar").exists(), "half an archive is left");
}

#[test]
fn a_layer_that_is_gone_is_named() {
    let (scene, layer) = loaded();
    fs::remove_dir_all(&layer).expect("the layer is ours");
    let name = layer
        .file_name()
        .expect("its digest")
        .to_string_lossy()
        .into_owned();
    scene.mica(["cat", "made:1", "/d/f"]).fails().says(&name[..12]);
    // Loading it again mends it.
    let tar = Tar::new().directory("d", 0o755).file("d/f", "content\n").bytes();
    scene
        .mica(["load", "--quiet"])
        .stdin(Members::docker("made:1", &[tar]).pack())
        .ok();
    assert_eq!(scene.cat("made:1", "/d/f"), "content\n");
}

#[test]
fn a_catalog_that_is_none_is_named() {
    let (scene, _) = loaded();
    for name in ["mica.db-wal", "mica.db-shm"] {
        // They may not be there.
        let _ = fs::remove_file(scene.path("store").join(name));
    }
    fs::write(
        scene.path("store/mica.db"),
        "this is no database, whatever its name says",
    )
    .expect("it is ours");
    scene.mica(["images"]).fails().says("mica.db");
}

#[test]
fn a_store_of_a_later_version_is_refused() {
    let (scene, _) = loaded();
    fs::write(scene.path("store/store.json"), r#"{"version":99}"#).expect("it is ours");
    scene.mica(["images"]).fails().says("99");
}

#[test]
fn a_work_directory_of_the_dead_is_swept() {
    let (scene, _) = loaded();
    let left = scene.store().join("work/1-left");
    fs::create_dir_all(left.join("deep/er")).expect("it is new");
    fs::write(left.join("deep/er/f"), "x").expect("it is new");
    scene.mica(["images"]).ok();
    assert!(!left.exists(), "nobody swept {}", left.display());
}

#[test]
fn fsck_finds_the_damage_and_mends_what_can_be_made_anew() {
    let (scene, layer) = loaded();
    scene.mica(["fsck"]).ok().says("0 problems");
    let index = layer.join("index");
    fs::remove_file(&index).expect("the index is ours");
    scene.mica(["fsck"]).fails().says("mica fsck --repair");
    scene.mica(["fsck", "--repair"]).ok().says("mended");
    assert_eq!(scene.cat("made:1", "/d/f"), "content\n");
    fs::write(layer.join("tar"), "other bytes").expect("the tar is ours");
    scene.mica(["fsck", "--repair"]).fails().says("damaged");
}

#[test]
fn a_lost_catalog_is_made_anew() {
    let (scene, _) = loaded();
    for name in ["mica.db", "mica.db-wal", "mica.db-shm"] {
        // Which of the three there are is SQLite's affair.
        let _ = fs::remove_file(scene.path("store").join(name));
    }
    scene.mica(["fsck", "--rebuild"]).ok();
    assert_eq!(scene.cat("made:1", "/d/f"), "content\n");
}
