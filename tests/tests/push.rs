//! `mica push`, to a real registry, and by a way to it that breaks.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mica_tests::archive::{Members, Tar};
use mica_tests::command::{Run, tool, wait_until};
use mica_tests::proxy::{Fault, Kind};
use mica_tests::registry::{Access, PASSWORD, Transport, USER};
use mica_tests::{Proxy, Registry, Scene, machine};
use nix::sys::signal::Signal;

/// A layer with a file that hardly compresses.
fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(size as u32, |state, byte| state ^ u32::from(byte) << 8);
    let next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let noise: Vec<u8> = std::iter::repeat_with(next).take(size).collect();
    Tar::new().file(name, noise).file("f", name).bytes()
}

/// A scene with the image `made:1`, whose layers are plain tars, as those that are made here.
fn made(layers: &[Vec<u8>]) -> Scene {
    let scene = Scene::new();
    scene
        .mica(["load", "-q"])
        .stdin(Members::docker("made:1", layers).pack())
        .ok();
    scene
}

/// A scene with the image `came:1`, whose layers came compressed.
fn came(layers: &[Vec<u8>]) -> Scene {
    let scene = Scene::new();
    let archive = Members::oci("docker.io/library/came:1", layers).pack();
    scene.mica(["load", "-q"]).stdin(archive).ok();
    scene
}

fn push(scene: &Scene, image: &str, to: &str) -> Run {
    scene.mica(["push", image, to])
}

/// The image that a registry has is the one of the scene: another store pulls it.
fn is_pulled(scene: &Scene, image: &str, name: &str) {
    let other = Scene::new();
    other.mica(["pull", "-q", name]).ok();
    let id = |scene: &Scene, name: &str| scene.mica(["inspect", name]).ok().json()[0]["Id"].clone();
    assert_eq!(id(&other, name), id(scene, image));
    other.mica(["fsck"]).ok();
}

fn digests(registry: &Registry, repository: &str) -> Vec<String> {
    let manifest = registry.manifest(repository, "1");
    let layers = manifest["layers"].as_array().expect("a list").iter();
    let digest = |layer: &serde_json::Value| layer["digest"].as_str().expect("a digest").to_owned();
    layers.map(digest).collect()
}

#[test]
fn an_image_is_pushed_once() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let scene = made(&[layer("a", 300_000), layer("b", 200_000)]);
    let name = proxy.name("a/b:1");
    push(&scene, "made:1", &name)
        .ok()
        .says("1: digest: sha256:")
        .says("Pushed");
    let manifest = registry.manifest("a/b", "1");
    for layer in manifest["layers"].as_array().expect("a list") {
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
    }
    assert_eq!(proxy.count("PUT", Kind::Manifest), 1);
    is_pulled(&scene, "made:1", &name);
    // Again: one question, and nothing is sent.
    proxy.clear_log();
    push(&scene, "made:1", &name)
        .ok()
        .says("1: digest: sha256:")
        .says("Layer already exists");
    let log = proxy.log();
    assert!(
        log.iter().all(|e| e.method == "HEAD" || e.path == "/v2/"),
        "{log:?}"
    );
    assert_eq!(proxy.count("HEAD", Kind::Manifest), 1, "{log:?}");
    assert_eq!(proxy.sent(), 0);
    // Another tag needs the manifest alone.
    proxy.clear_log();
    push(&scene, "made:1", &proxy.name("a/b:2")).ok();
    assert_eq!(proxy.count("*", Kind::Upload), 0, "{:?}", proxy.log());
    assert_eq!(registry.tagged("a/b", "1"), registry.tagged("a/b", "2"));
    // Another repository mounts what this one has.
    proxy.clear_log();
    push(&scene, "made:1", &proxy.name("c/d:1")).ok().says("Mounted");
    assert_eq!(proxy.count("PATCH", Kind::Upload), 0, "{:?}", proxy.log());
    assert_eq!(registry.tagged("a/b", "1"), registry.tagged("c/d", "1"));
    scene.is_clean();
}

#[test]
fn an_image_that_was_pulled_keeps_its_digests() {
    let (Some(registry), Some(other)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let proxy = Proxy::before(&registry);
    // Plain layers as well as compressed ones.
    for (scene, image, options) in [
        (came(&[layer("a", 100_000), layer("b", 1)]), "came:1", vec![]),
        (made(&[layer("c", 100_000)]), "made:1", vec!["--compression=none"]),
        (
            made(&[layer("d", 100_000)]),
            "made:1",
            vec!["--compression=zstd", "--compression-level=9"],
        ),
    ] {
        push(&scene, image, &proxy.name("from:1")).args(&options).ok();
        let user = Scene::new();
        user.mica(["pull", "-q", &proxy.name("from:1")]).ok();
        proxy.clear_log();
        push(&user, &proxy.name("from:1"), &proxy.name("to:1")).ok();
        assert_eq!(proxy.count("PATCH", Kind::Upload), 0, "{:?}", proxy.log());
        assert_eq!(
            registry.tagged("from", "1"),
            registry.tagged("to", "1"),
            "{options:?}"
        );
        push(&user, &proxy.name("from:1"), &other.name("to:1")).ok();
        assert_eq!(
            registry.tagged("from", "1"),
            other.tagged("to", "1"),
            "{options:?}"
        );
        // Anew if that is wished.
        let force = [
            "--force-compression",
            "--compression=gzip",
            "--compression-level=1",
        ];
        push(&user, &proxy.name("from:1"), &other.name("forced:1"))
            .args(force)
            .ok();
        assert_ne!(
            digests(&registry, "from"),
            digests(&other, "forced"),
            "{options:?}"
        );
        is_pulled(&user, &proxy.name("from:1"), &other.name("forced:1"));
    }
}

#[test]
fn all_tags_of_a_repository_are_pushed() {
    let Some(registry) = Registry::start() else { return };
    let scene = made(&[layer("a", 1000)]);
    let name = registry.name("a/b");
    for tag in ["1", "2"] {
        scene.mica(["tag", "made:1", &format!("{name}:{tag}")]).ok();
    }
    scene
        .mica(["push", "--all-tags", "--quiet", &name])
        .ok()
        .says(&format!("{name}:1\n{name}:2\n"))
        .lacks("Pushed");
    assert!(registry.tagged("a/b", "1").is_some());
    assert_eq!(registry.tagged("a/b", "1"), registry.tagged("a/b", "2"));
    scene
        .mica(["push", "--all-tags", &format!("{name}:1")])
        .fails()
        .says("without a tag");
    scene
        .mica(["push", "--all-tags", "absent"])
        .fails()
        .says("no image of");
    scene.mica(["push", "absent"]).fails().says("no such image");
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    const SIZE: u64 = 11 << 20;
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    // One blob is known beforehand, the other is made while it is sent.
    let layer = layer("a", SIZE as usize);
    for (scene, image) in [
        (came(std::slice::from_ref(&layer)), "came:1"),
        (made(std::slice::from_ref(&layer)), "made:1"),
    ] {
        proxy.heal();
        proxy.clear_log();
        // As behind a proxy that takes a whole request before it passes it on: nothing arrives, then the first piece of
        // 5 MiB, then nothing again.
        proxy.fault("PATCH", "/a/", 1, Fault::CutRequest(0));
        proxy.fault("PATCH", "/a/", 1, Fault::Nothing);
        proxy.fault("PATCH", "/a/", 1, Fault::CutRequest(0));
        let name = proxy.name(&format!("a/{}", image));
        push(&scene, image, &name).ok();
        let sent = proxy.sent();
        assert!(
            sent < SIZE + (SIZE >> 3),
            "{image}: {sent} bytes\n{:?}",
            proxy.log()
        );
        assert!(proxy.count("GET", Kind::Upload) >= 2, "{:?}", proxy.log());
        is_pulled(&scene, image, &name);
    }
}

#[test]
fn an_upload_that_the_registry_gave_up_begins_anew() {
    const SIZE: usize = 3 << 20;
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let layer = layer("a", SIZE);
    for (scene, image) in [
        (came(std::slice::from_ref(&layer)), "came:1"),
        (made(std::slice::from_ref(&layer)), "made:1"),
    ] {
        proxy.heal();
        proxy.clear_log();
        // docker-registry forgets an upload whose bytes break off in the middle. Of every attempt a part arrives.
        proxy.fault("PATCH", "/a/", 4, Fault::CutRequest(1 << 20));
        let name = proxy.name(&format!("a/{image}"));
        push(&scene, image, &name).ok();
        is_pulled(&scene, image, &name);
    }
}

#[test]
fn every_repository_that_may_have_a_blob_is_asked_for_it() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let scene = came(&[layer("a", 200_000)]);
    for name in ["a:1", "b:1", "c:1"] {
        push(&scene, "came:1", &proxy.name(name)).ok();
    }
    // Two of three have nothing to give: one is not for everyone, the other has lost it.
    proxy.clear_log();
    proxy.fault("POST", "/d/", 1, Fault::Answer("403 Forbidden", vec![]));
    push(&scene, "came:1", &proxy.name("d:1")).ok().says("Mounted");
    assert_eq!(proxy.count("PATCH", Kind::Upload), 0, "{:?}", proxy.log());
    assert_eq!(registry.uploads("d"), Vec::<u64>::new());
    assert_eq!(registry.tagged("a", "1"), registry.tagged("d", "1"));
}

#[test]
fn the_media_types_are_those_asked_for() {
    let Some(registry) = Registry::start() else { return };
    let docker = "application/vnd.docker";
    let kinds = |repository: &str| {
        let manifest = registry.manifest(repository, "1");
        let text = |value: &serde_json::Value| value["mediaType"].as_str().unwrap_or_default().to_owned();
        [
            text(&manifest),
            text(&manifest["config"]),
            text(&manifest["layers"][0]),
        ]
    };
    let expected = [
        format!("{docker}.distribution.manifest.v2+json"),
        format!("{docker}.container.image.v1+json"),
        format!("{docker}.image.rootfs.diff.tar.gzip"),
    ];
    let scene = made(&[layer("a", 100_000), layer("b", 1000)]);
    push(&scene, "made:1", &registry.name("docker:1"))
        .arg("--format=v2s2")
        .ok();
    assert_eq!(kinds("docker"), expected);
    is_pulled(&scene, "made:1", &registry.name("docker:1"));
    push(&scene, "made:1", &registry.name("oci:1"))
        .args(["--format", "oci"])
        .ok();
    assert!(
        kinds("oci").iter().all(|kind| kind.contains(".oci.")),
        "{:?}",
        kinds("oci")
    );
    // What came in Docker's words leaves in them, unless OCI's are asked for.
    let user = Scene::new();
    user.mica(["pull", "-q", &registry.name("docker:1")]).ok();
    push(&user, &registry.name("docker:1"), &registry.name("again:1")).ok();
    assert_eq!(registry.tagged("docker", "1"), registry.tagged("again", "1"));
    push(&user, &registry.name("docker:1"), &registry.name("other:1"))
        .arg("--format=oci")
        .ok();
    assert!(
        kinds("other").iter().all(|kind| kind.contains(".oci.")),
        "{:?}",
        kinds("other")
    );
    // Docker has no word for zstd.
    push(&scene, "made:1", &registry.name("zstd:1"))
        .arg("--compression=zstd")
        .ok();
    user.mica(["pull", "-q", &registry.name("zstd:1")]).ok();
    push(&user, &registry.name("zstd:1"), &registry.name("recoded:1"))
        .arg("--format=v2s2")
        .ok();
    assert_eq!(kinds("recoded"), expected);
    is_pulled(&user, &registry.name("zstd:1"), &registry.name("recoded:1"));
    push(&scene, "made:1", "x")
        .args(["--format=v2s2", "--compression=zstd"])
        .exits(2);
}

#[test]
fn an_image_is_pushed_by_its_digest() {
    let Some(registry) = Registry::start() else { return };
    let scene = made(&[layer("a", 1000)]);
    let name = registry.name("a");
    let said = push(&scene, "made:1", &name)
        .args(["--by-digest", "-q", "--digestfile", "digest"])
        .ok()
        .answer();
    let digest = scene.read("digest");
    assert_eq!(said, format!("{name}@{digest}"));
    assert_eq!(registry.tagged("a", "latest"), None);
    is_pulled(&scene, "made:1", &said);
    push(&scene, "made:1", &said).ok().says("already exists");
    let wrong = format!("{name}@sha256:{}", "0".repeat(64));
    push(&scene, "made:1", &wrong).fails().says("cannot be pushed as");
}

#[test]
fn a_registry_may_crash_and_come_back_during_a_push() {
    let Some(registry) = Registry::start() else { return };
    let registry = Arc::new(registry);
    let proxy = Proxy::before(&registry);
    let scene = made(&[layer("a", 2_000_000), layer("b", 100_000), layer("c", 100_000)]);
    let (crashing, mut crash) = std::sync::mpsc::channel();
    let server = registry.clone();
    let call = move || {
        server.kill();
        crashing.send(()).expect("the test waits for it");
    };
    // The configuration, which is smaller, may be sent before.
    proxy.fault("PATCH", "/a/b/", 2, Fault::After(50_000, Arc::new(call)));
    let running = push(&scene, "made:1", &proxy.name("a/b:1")).start();
    crash
        .recv_timeout(Duration::from_secs(60))
        .expect("something is sent");
    thread::sleep(Duration::from_millis(700));
    registry.restart();
    let outcome = running.wait();
    assert!(outcome.status.success(), "{}", outcome.describe());
    is_pulled(&scene, "made:1", &registry.name("a/b:1"));
    // One that does not come back: a clear end, and no tag.
    let server = registry.clone();
    let (crashing, next) = std::sync::mpsc::channel();
    crash = next;
    let call = move || {
        server.kill();
        crashing.send(()).expect("the test waits for it");
    };
    let scene = made(&[layer("d", 1_000_000)]);
    proxy.fault("PATCH", "/e/f/", 2, Fault::After(50_000, Arc::new(call)));
    push(&scene, "made:1", &proxy.name("e/f:1"))
        .fails()
        .says("pushing ");
    crash.recv_timeout(Duration::from_secs(1)).expect("it crashed");
    assert_eq!(registry.tagged("e/f", "1"), None);
    scene.is_clean();
}

#[test]
fn a_push_that_was_killed_is_repeated() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let scene = came(&[layer("small", 10_000), layer("large", 1_000_000)]);
    let name = proxy.name("a/b:1");
    let large = scene
        .mica(["save", "--format=oci-dir", "-o", "layout", "came:1"])
        .ok();
    drop(large);
    // The large one is the fifth of the requests that begin an upload, or so: all are slow.
    proxy.fault("PATCH", "/a/b/", 99, Fault::Slow(200_000));
    let running = push(&scene, "came:1", &name).start();
    wait_until(
        "the small blobs are there and the large one is on its way",
        || registry.blobs().len() >= 2 && registry.uploads("a/b").iter().any(|size| *size > 50_000),
    );
    running.signal(Signal::SIGKILL);
    running.wait();
    assert_eq!(registry.tagged("a/b", "1"), None);
    proxy.heal();
    proxy.clear_log();
    push(&scene, "came:1", &name).ok().says("Layer already exists");
    assert_eq!(proxy.count("PATCH", Kind::Upload), 1, "{:?}", proxy.log());
    is_pulled(&scene, "came:1", &name);
    scene.is_clean();
}

#[test]
fn what_a_registry_answers_is_understood() {
    let Some(registry) = Registry::start() else { return };
    let proxy = Proxy::before(&registry);
    let scene = made(&[layer("a", 100_000)]);
    let to = |name: &str| push(&scene, "made:1", &proxy.name(name));
    let answer = |status: &'static str| Fault::Answer(status, vec![]);
    // For now.
    proxy.fault("POST", "/busy/", 2, answer("503 Service Unavailable"));
    proxy.fault(
        "PATCH",
        "/busy/",
        1,
        Fault::Answer("429 Too Many Requests", vec![("Retry-After", "1".to_owned())]),
    );
    proxy.fault("PATCH", "/busy/", 1, answer("500 Internal Server Error"));
    proxy.fault("PUT", "/busy/", 1, answer("502 Bad Gateway"));
    to("busy/a:1").ok();
    is_pulled(&scene, "made:1", &proxy.name("busy/a:1"));
    // For good.
    for (method, path, status, says) in [
        ("POST", "/uploads/", "401 Unauthorized", "log in first"),
        ("POST", "/uploads/", "403 Forbidden", "log in first"),
        ("POST", "/uploads/", "404 Not Found", "404"),
        ("PATCH", "/uploads/", "403 Forbidden", "403"),
        ("PUT", "/manifests/", "403 Forbidden", "403 Forbidden"),
        ("PUT", "/manifests/", "404 Not Found", "404"),
        ("PUT", "/manifests/", "500 Internal Server Error", "500"),
        ("*", "/blobs/", "429 Too Many Requests", "429"),
    ] {
        proxy.heal();
        let headers = vec![("Retry-After", "3600".to_owned())];
        proxy.fault(method, path, 99, Fault::Answer(status, headers));
        // The layers of the image are mounted else.
        let other = made(&[layer(says, 1000)]);
        push(&other, "made:1", &proxy.name("refused/a:1"))
            .fails()
            .says(says);
        assert_eq!(registry.tagged("refused/a", "1"), None, "{method} {status}");
    }
    // An upload that is too large at once goes in pieces.
    proxy.heal();
    proxy.fault("PATCH", "/large/", 1, answer("413 Content Too Large"));
    let other = made(&[layer("large", 100_000)]);
    push(&other, "made:1", &proxy.name("large/a:1")).ok();
    is_pulled(&other, "made:1", &proxy.name("large/a:1"));
    // A mount source that lost the blob is no harm.
    proxy.fault("POST", "/new/", 1, answer("202 Accepted"));
    to("new/a:1").fails().says("does not say where");
}

#[test]
fn who_pushes_is_asked() {
    for access in [Access::Basic, Access::Token] {
        let Some(registry) = Registry::with(access, Transport::Plain) else {
            return;
        };
        let scene = made(&[layer("a", 100_000), layer("b", 1)]);
        let name = registry.name("a/b:1");
        push(&scene, "made:1", &name).fails().says("mica login");
        push(&scene, "made:1", &name)
            .arg(format!("--creds={USER}:wrong"))
            .fails();
        let creds = format!("--creds={USER}:{PASSWORD}");
        push(&scene, "made:1", &name).arg(&creds).ok().lacks(PASSWORD);
        assert!(registry.tagged("a/b", "1").is_some(), "{access:?}");
        push(&scene, "made:1", &registry.name("c/d:1"))
            .arg(&creds)
            .ok()
            .says("Mounted");
        let login = ["login", "-u", USER, "--password-stdin", &registry.host()];
        scene.mica(login).stdin(PASSWORD).ok();
        push(&scene, "made:1", &registry.name("e/f:1")).ok();
        assert_eq!(registry.tagged("a/b", "1"), registry.tagged("e/f", "1"));
    }
}

#[test]
fn certificates_are_checked_on_the_way_out() {
    let Some(registry) = Registry::with(Access::Open, Transport::MutualTls) else {
        return;
    };
    let scene = made(&[layer("a", 100_000)]);
    let name = registry.name("a/b:1");
    push(&scene, "made:1", &name).fails().says("certs.d");
    registry.certificates().install(&scene.path("certs"), "");
    push(&scene, "made:1", &name).arg("--cert-dir=certs").ok();
    assert!(registry.tagged("a/b", "1").is_some());
}

#[test]
fn a_damaged_layer_is_not_pushed() {
    let Some(registry) = Registry::start() else { return };
    for (scene, image) in [
        (made(&[layer("a", 100_000)]), "made:1"),
        (came(&[layer("a", 100_000)]), "came:1"),
    ] {
        // The largest blob is the layer.
        let blobs = std::fs::read_dir(scene.path("store/blobs/sha256")).expect("blobs");
        let sized = blobs
            .map(|blob| blob.expect("a blob").path())
            .map(|path| (path.metadata().expect("a file").len(), path));
        for (_, path) in sized.filter(|(size, _)| *size > 50_000) {
            let mut bytes = std::fs::read(&path).expect("it can be read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&path, bytes).expect("it can be written");
        }
        push(&scene, image, &registry.name("a/b:1"))
            .fails()
            .says("mica fsck");
        assert_eq!(registry.tagged("a/b", "1"), None);
    }
}

#[test]
fn other_tools_run_what_mica_pushed() {
    if machine::programs(&["skopeo", "umoci", "buildah", "podman"]).is_none() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let Some(scene) = Scene::as_root() else { return };
    scene
        .build(
            "FROM base\nRUN echo pushed > /said && chown 5:6 /said\nCMD [\"cat\", \"/said\"]\n",
            ["-t", "app"],
        )
        .ok();
    for (compression, tag) in [("gzip", "1"), ("zstd", "2")] {
        let name = registry.name(&format!("a/app:{tag}"));
        push(&scene, "app", &name)
            .args(["--compression", compression])
            .ok();
        let run = |program: &str, args: &[&str]| tool(program, scene.directory()).args(args).ok();
        let docker = format!("docker://{name}");
        let layout = format!("oci:layout-{tag}:app");
        run(
            "skopeo",
            &[
                "--insecure-policy",
                "copy",
                "-q",
                "--src-tls-verify=false",
                &docker,
                &layout,
            ],
        );
        if compression == "gzip" {
            run(
                "umoci",
                &["unpack", "--image", &format!("layout-{tag}:app"), "bundle"],
            );
            assert_eq!(scene.read("bundle/rootfs/said"), "pushed\n");
        }
        let storage = ["--root=storage", "--runroot=runroot", "--storage-driver=vfs"];
        let buildah = |args: &[&str]| tool("buildah", scene.directory()).args(storage).args(args).ok();
        let container = buildah(&["from", "--quiet", "--tls-verify=false", &docker]).answer();
        buildah(&["run", "--isolation=chroot", &container, "--", "cat", "/said"]).says("pushed");
        buildah(&["rm", &container]);
    }
    // And what they push is run by mica.
    theirs_are_run();
    let other = registry.name("theirs:1");
    let copy = [
        "--insecure-policy",
        "copy",
        "-q",
        "--dest-tls-verify=false",
        "oci:layout-1:app",
    ];
    tool("skopeo", scene.directory())
        .args(copy)
        .arg(format!("docker://{other}"))
        .ok();
    let user = Scene::as_root().expect("it was there before");
    user.mica(["pull", "-q", &other]).ok();
    user.mica(["run", "--rm", &other]).ok().says("pushed");
}

/// Images that podman, buildah, skopeo and umoci push, in each form that they have, are pulled and run by mica.
fn theirs_are_run() {
    let scene = Scene::as_root().expect("it was there before");
    scene
        .mica(["save", "--format=oci-dir", "-o", "layout", "base"])
        .ok();
    let run = |program: &str, args: &[&str]| tool(program, scene.directory()).args(args).ok();
    let runs = |registry: &Registry, kind: &str, suffix: &str| {
        let name = registry.name("theirs:1");
        let manifest = registry.manifest("theirs", "1");
        let layer = manifest["layers"][0]["mediaType"].as_str().unwrap_or_default();
        assert!(layer.contains(kind) && layer.ends_with(suffix), "{manifest}");
        scene.mica(["pull", "-q", &name]).ok();
        let said = scene
            .mica(["run", "--rm", &name, "sh", "-c", "echo $((6 * 7))"])
            .ok();
        assert_eq!(said.answer(), "42", "{manifest}");
        scene.config(&name)["Env"].to_string()
    };
    // Each to a registry of its own: these tools remember what another has, in whatever form.
    let fresh = || Registry::start().expect("one was there before");
    // umoci writes layouts; skopeo carries them.
    run(
        "umoci",
        &["config", "--image", "layout:latest", "--config.env", "BY=umoci"],
    );
    let skopeo = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
    for (format, compression, kind) in [
        ("oci", "gzip", ".oci."),
        ("oci", "zstd", ".oci."),
        ("v2s2", "gzip", ".docker."),
    ] {
        let registry = fresh();
        let to = format!("docker://{}", registry.name("theirs:1"));
        let form = ["--format", format, "--dest-compress-format", compression];
        run(
            "skopeo",
            &[&skopeo[..], &form, &["oci:layout:latest", &to]].concat(),
        );
        assert!(runs(&registry, kind, compression).contains("BY=umoci"));
    }
    for (program, options, kind, suffix) in [
        ("buildah", &["--format=v2s2"][..], ".docker.", "gzip"),
        (
            "buildah",
            &["--format=oci", "--compression-format=zstd"],
            ".oci.",
            "zstd",
        ),
        ("podman", &["--format=oci"], ".oci.", "gzip"),
    ] {
        let registry = fresh();
        let storage = ["--root=storage", "--runroot=runroot", "--storage-driver=vfs"];
        let work = |args: &[&str]| run(program, &[&storage[..], args].concat());
        work(&["pull", "-q", "oci:layout:latest"]);
        let ids = work(&["images", "-q"]).answer();
        let id = ids.lines().next().expect("an image").to_owned();
        let to = format!("docker://{}", registry.name("theirs:1"));
        work(&[&["push", "-q", "--tls-verify=false"], options, &[&id, &to]].concat());
        runs(&registry, kind, suffix);
    }
}
