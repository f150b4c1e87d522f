//! Archives of images through pipes, compressed and not, with layers that are too large to be held in memory.

use std::io::Write as _;

use mica_tests::archive::{Members, Tar, gzip};
use mica_tests::command::tool;
use mica_tests::{Scene, machine};

const LAYER: usize = 1 << 20;

/// Two layers of a megabyte each that hardly compress.
fn layers() -> Vec<Vec<u8>> {
    let noise = |seed: u32| {
        let mut state = seed;
        let next = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        std::iter::repeat_with(next).take(LAYER).collect::<Vec<u8>>()
    };
    let layer = |seed: u32| {
        Tar::new()
            .file(&format!("noise{seed}"), noise(seed))
            .file("f", "x")
            .bytes()
    };
    vec![layer(1), layer(2)]
}

fn both(layers: &[Vec<u8>]) -> [Members; 2] {
    [
        Members::docker("made:1", layers),
        Members::oci("docker.io/library/made:1", layers),
    ]
}

/// How many bytes a script has written, in all its processes but those of `cat`.
fn written(scene: &Scene, script: &str) -> u64 {
    let outcome = scene.shell(&format!("{script}\ncat /proc/$$/io >&2")).ok();
    let stderr = outcome.stderr();
    let line = stderr
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))
        .expect("the kernel counts");
    line.parse().expect("a number")
}

#[test]
fn a_layer_from_a_pipe_is_written_once() {
    let layers = layers();
    let size: usize = layers.iter().map(Vec::len).sum();
    for members in both(&layers) {
        let archive = members.pack();
        let scene = Scene::new();
        scene.write("app.tar", &archive);
        scene.write("app.tar.gz", gzip(&archive));
        // The blobs of an OCI archive are kept beside the layers.
        let kept = archive.len()
            - members
                .0
                .iter()
                .filter(|(name, _)| name.ends_with("layer.tar"))
                .map(|(_, bytes)| bytes.len())
                .sum::<usize>();
        let limit = (size + kept + (256 << 10)) as u64;
        let bytes = written(&scene, "mica load -q < app.tar.gz");
        assert!(bytes < limit, "{bytes} bytes for {size}");
        assert_eq!(scene.cat("made:1", "/f"), "x");
        // What is there is not written again, wherever the archive comes from.
        for again in [
            "mica load -q < app.tar",
            "mica load -q -i app.tar",
            "mica load -q -i app.tar.gz",
        ] {
            let bytes = written(&scene, again);
            assert!(bytes < 256 << 10, "{again}: {bytes} bytes");
        }
        scene.mica(["fsck"]).ok();
        scene.is_clean();
    }
}

#[test]
fn an_image_goes_through_a_pipe_from_store_to_store() {
    let layers = layers();
    let size: usize = layers.iter().map(Vec::len).sum();
    for members in both(&layers) {
        let scene = Scene::new();
        scene.mica(["load", "-q"]).stdin(members.pack()).ok();
        let other = scene.mkdir("other").display().to_string();
        for options in [
            "",
            "--format oci-archive",
            "--format oci-archive --compression gzip",
        ] {
            let bytes = written(
                &scene,
                &format!("mica save {options} made:1 | MICA_ROOT={other} mica load"),
            );
            // Through the pipe, into the store, and, compressed, once more each.
            assert!(
                bytes < (4 * size + (512 << 10)) as u64,
                "{options}: {bytes} bytes for {size}"
            );
            let ids = scene
                .shell(&format!("mica images -q; MICA_ROOT={other} mica images -q"))
                .ok()
                .stdout();
            let ids: Vec<_> = ids.lines().collect();
            assert!(ids.iter().all(|id| *id == ids[0]), "{options}: {ids:?}");
            scene
                .shell(&format!(
                    "MICA_ROOT={other} mica rmi -f made:1; MICA_ROOT={other} mica prune -f"
                ))
                .ok();
        }
    }
}

#[test]
fn an_archive_comes_and_goes_in_any_compression() {
    if machine::programs(&["bzip2", "xz", "zstd", "gzip"]).is_none() {
        return;
    }
    let scene = Scene::new();
    scene.write("app.tar", Members::docker("made:1", &layers()).pack());
    let id = {
        scene.mica(["load", "-i", "app.tar"]).ok();
        scene.mica(["images", "-q", "--no-trunc"]).ok().answer()
    };
    for (program, extension) in [("gzip", "gz"), ("bzip2", "bz2"), ("xz", "xz"), ("zstd", "zst")] {
        let other = Scene::new();
        let args = ["-q", "-1", "-k", "-f", "app.tar"];
        tool(program, scene.directory()).args(args).ok();
        let packed = scene.path(&format!("app.tar.{extension}"));
        other.mica(["load", "-i"]).arg(&packed).ok().says("made:1");
        assert_eq!(
            other.mica(["images", "-q", "--no-trunc"]).ok().answer(),
            id,
            "{program}"
        );
        let out = format!("out.tar.{extension}");
        let save = scene.mica(["save", "-o", &out, "made:1"]);
        if matches!(program, "bzip2" | "xz") {
            save.fails().says("gzip or zstd");
            assert!(!scene.path(&out).exists());
            continue;
        }
        save.ok();
        tool(program, scene.directory()).args(["-q", "-t", &out]).ok();
        let third = Scene::new();
        third.mica(["load", "-i"]).arg(scene.path(&out)).ok();
        assert_eq!(
            third.mica(["images", "-q", "--no-trunc"]).ok().answer(),
            id,
            "{program}"
        );
    }
}

#[test]
fn several_images_come_and_go_in_one_archive() {
    let layers = layers();
    let scene = Scene::new();
    scene
        .mica(["load", "-q"])
        .stdin(Members::docker("one:1", &layers[..1]).pack())
        .ok();
    scene
        .mica(["load", "-q"])
        .stdin(Members::docker("two:2", &layers).pack())
        .ok();
    scene.mica(["tag", "two:2", "two:again"]).ok();
    let images = scene.images();
    assert_eq!(images.len(), 3);
    for format in ["docker-archive", "oci-archive"] {
        let saved = scene
            .mica(["save", "--format", format, "one:1", "two:2", "two:again"])
            .ok()
            .stdout;
        // The layer that they share is there once.
        assert!(
            saved.len() < 2 * LAYER + (256 << 10),
            "{format}: {} bytes",
            saved.len()
        );
        let other = Scene::new();
        other.mica(["load"]).stdin(saved).ok();
        let mut loaded = other.images();
        loaded.sort();
        let mut wanted = images.clone();
        wanted.sort();
        assert_eq!(loaded, wanted, "{format}");
    }
    scene
        .mica(["save", "--format", "oci-dir", "-o", "layout", "one:1", "two:2"])
        .ok();
    let other = Scene::new();
    other.mica(["load", "-i"]).arg(scene.path("layout")).ok();
    assert_eq!(other.images().len(), 2);
}

#[test]
fn a_large_layer_that_is_cut_or_damaged_is_refused() {
    let layers = layers();
    let scene = Scene::new();
    for members in both(&layers) {
        let archive = members.pack();
        for part in [1, 3, 5, 7] {
            scene
                .mica(["load"])
                .stdin(&archive[..archive.len() * part / 8])
                .fails();
        }
        let packed = gzip(&archive);
        scene.mica(["load"]).stdin(&packed[..packed.len() / 2]).fails();
        // The checksum at the very end is looked at as well.
        let mut wrong = packed.clone();
        let end = wrong.len() - 6;
        wrong[end] ^= 1;
        scene.mica(["load"]).stdin(wrong).fails();
        let mut spoiled = archive.clone();
        let middle = spoiled.len() / 2;
        spoiled[middle] ^= 1;
        scene.mica(["load"]).stdin(spoiled).fails();
    }
    // What is no layer is refused where it is used as one, and by its name.
    let mut garbage = Vec::new();
    garbage.write_all(&[7; 100_000]).expect("memory takes all");
    scene
        .mica(["load"])
        .stdin(Members::docker("bad", &[garbage.clone()]).pack())
        .fails()
        .says("layer.tar");
    // Beside the images it does no harm.
    let mut members = Members::docker("good:1", &layers[..1]);
    members.0.insert(0, ("readme".to_owned(), garbage));
    assert_eq!(scene.images(), Vec::<String>::new());
    scene.mica(["load"]).stdin(members.pack()).ok();
    scene.is_clean();
}
