//! `mica pull`: from a real registry, over a network that breaks, of what other tools pushed.

use std::fs;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mica_tests::archive::{Members, Tar, sha256};
use mica_tests::command::{tool, wait_until};
use mica_tests::proxy::{Exchange, Fault, Kind};
use mica_tests::server::Answer;
use mica_tests::{Proxy, Registry, Scene, Server, machine};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// Bytes that compress badly; another `seed` gives others.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    (0..length.div_ceil(4))
        .flat_map(|_| next().to_le_bytes())
        .take(length)
        .collect()
}

fn layer(name: &str, seed: u32, length: usize) -> Vec<u8> {
    Tar::new().file(name, noise(seed, length)).bytes()
}

/// skopeo pushes an image of these layers.
fn push(scene: &Scene, registry: &Registry, name: &str, layers: &[Vec<u8>]) {
    scene.write("app.tar", Members::oci("app", layers).pack());
    copy(scene, registry, "oci-archive:app.tar", name, &[]);
}

fn copy(scene: &Scene, registry: &Registry, from: &str, name: &str, options: &[&str]) {
    let to = format!("docker://{}", registry.name(name));
    tool("skopeo", scene.directory())
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
        .args(options)
        .args([from, &to])
        .ok();
}

/// A registry, a proxy before it, and a scene; `None`, with a word on it, where there is no such server.
fn world() -> Option<(Scene, Registry, Proxy)> {
    machine::programs(&["skopeo"])?;
    let registry = Registry::start()?;
    let proxy = Proxy::before(&registry);
    Some((Scene::new(), registry, proxy))
}

/// What the store has of a file of an image: its digest.
fn digest_of(scene: &Scene, image: &str, path: &str) -> String {
    let output = scene.shell(&format!("mica cat {image} {path} | sha256sum")).ok();
    output.answer().split(' ').next().unwrap_or_default().to_owned()
}

fn downloads(scene: &Scene) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(scene.store().join("downloads")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| Some(entry.metadata().ok()?.len()))
        .collect()
}

#[test]
fn an_image_comes_as_it_is_and_only_once() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    let layers = [layer("a", 1, 50_000), layer("b", 2, 300_000)];
    push(&scene, &registry, "a/b:1", &layers);
    let name = proxy.name("a/b:1");
    let digest = registry.tagged("a/b", "1").unwrap();
    let pulled = scene.mica(["pull", &name]).ok();
    assert_eq!(
        pulled.stdout(),
        format!("Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}\n")
    );
    assert_eq!(pulled.stderr().matches("Pull complete").count(), 2);
    assert_eq!(digest_of(&scene, &name, "/b"), sha256(&noise(2, 300_000)));
    let manifest = scene.store().join("blobs/sha256").join(&digest[7..]);
    assert_eq!(
        fs::read(manifest).unwrap(),
        fs::read(registry.blob(&digest)).unwrap()
    );
    assert!(downloads(&scene).is_empty());
    proxy.clear_log();
    let again = scene.mica(["pull", &name]).ok();
    again.says("Status: Image is up to date").says("Already exists");
    assert_eq!(proxy.count("GET", Kind::Blob), 1, "the configuration");
    assert_eq!(
        scene.mica(["pull", "-q", &name]).ok().stdout(),
        format!("{name}\n")
    );
    // Another image with one more layer.
    push(
        &scene,
        &registry,
        "a/b:2",
        &[layers[0].clone(), layers[1].clone(), layer("c", 3, 1000)],
    );
    proxy.clear_log();
    scene.mica(["pull", &proxy.name("a/b:2")]).ok();
    assert_eq!(proxy.count("GET", Kind::Blob), 2, "{:?}", proxy.log());
    scene.mica(["fsck"]).ok();
}

#[test]
fn a_digest_names_an_image_also_in_the_store() {
    let Some((scene, registry, _)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 1000)]);
    let digest = registry.tagged("a/b", "1").unwrap();
    let name = registry.name(&format!("a/b@{digest}"));
    let pulled = scene.mica(["pull", &name]).ok();
    pulled.says(&format!("Downloaded newer image for {name}"));
    assert_eq!(scene.mica(["ls", &name]).ok().answer(), "a");
    let both = registry.name(&format!("a/b:whatever@{digest}"));
    assert_eq!(scene.mica(["ls", &both]).ok().answer(), "a");
    scene.mica(["rmi", &name]).ok();
    scene.mica(["tag", &name, "other"]).fails();
}

#[test]
fn a_killed_pull_goes_on_where_it_stopped() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    let size = 3_000_000;
    push(&scene, &registry, "a/b:1", &[layer("a", 1, size)]);
    let name = proxy.name("a/b:1");
    let layer = registry.manifest("a/b", "1")["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    proxy.fault("GET", &layer, 1, Fault::Slow(1_500_000));
    let running = scene.mica(["pull", &name]).start();
    wait_until("a part of the blob is there", || {
        downloads(&scene).iter().any(|&length| length > 500_000)
    });
    running.signal(Signal::SIGKILL);
    running.wait();
    let part = downloads(&scene)[0];
    assert!(part < size as u64, "{part}");
    proxy.clear_log();
    scene.mica(["pull", &name]).ok();
    let log = proxy.log();
    let range = Some(format!("bytes={part}-"));
    let fits = |exchange: &Exchange| exchange.path.contains(&layer) && exchange.range == range;
    assert!(log.iter().any(fits), "{log:?}");
    assert_eq!(digest_of(&scene, &name, "/a"), sha256(&noise(1, size)));
    assert!(downloads(&scene).is_empty());
    scene.mica(["fsck"]).ok();
}

#[test]
fn an_interrupted_pull_says_so_and_keeps_what_came() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 3_000_000)]);
    proxy.fault("GET", "/blobs/", 9, Fault::Slow(1_000_000));
    let running = scene.mica(["pull", &proxy.name("a/b:1")]).start();
    wait_until("a part of the blob is there", || {
        downloads(&scene).iter().any(|&length| length > 500_000)
    });
    running.signal(Signal::SIGINT);
    let outcome = running.wait();
    outcome.says("the pull was stopped; what has arrived is kept");
    assert!(downloads(&scene)[0] > 500_000);
    assert_eq!(scene.images(), Vec::<String>::new());
}

#[test]
fn a_silent_registry_is_not_waited_for_after_a_signal() {
    let scene = Scene::new();
    // It takes connections, and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a", silent.local_addr().unwrap());
    let running = scene.mica(["pull", &name]).start();
    let _connection = silent.accept().unwrap();
    let begin = Instant::now();
    running.signal(Signal::SIGTERM);
    running.wait();
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "a request may take a minute"
    );
}

#[test]
fn a_build_does_not_wait_for_a_silent_server_after_a_signal() {
    let Some(scene) = Scene::with_base() else { return };
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    for line in [
        format!("FROM {address}/a"),
        format!("FROM base\nCOPY --from={address}/a / /"),
        format!("FROM base\nADD http://{address}/file /"),
    ] {
        let running = scene.build(&line, ["--no-cache"]).start();
        let _connection = silent.accept().unwrap();
        let begin = Instant::now();
        running.signal(Signal::SIGINT);
        let outcome = running.wait();
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{line}: a request may take a minute"
        );
        assert_eq!(outcome.status.code(), Some(130), "{line}: {}", outcome.describe());
        scene.is_clean();
    }
}

#[test]
fn a_registry_that_is_not_there_is_given_up_soon() {
    let scene = Scene::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/a", free.local_addr().unwrap());
    drop(free);
    let begin = Instant::now();
    let failed = scene.mica(["pull", &name]).fails();
    failed.says("check the registry's name and port");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn a_small_blob_does_not_fill_the_disk() {
    let Some(scene) = Scene::changed_by("mkdir -p small; mount -t tmpfs -o size=200m none small") else {
        return;
    };
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let zeros = Tar::new().file("zeros", vec![0; 300 << 20]).bytes();
    push(&scene, &registry, "a/b:1", &[zeros]);
    let name = registry.name("a/b:1");
    let small = scene.path("small/store").display().to_string();
    let pull = || scene.mica(["--root", &small, "pull", &name]);
    pull().fails().says("has room for").says("mica prune");
    assert_eq!(scene.shell("ls small/store/work").ok().stdout(), "");
    scene.shell("mount -o remount,size=600m none small").ok();
    pull().ok();
}

#[test]
fn a_pull_survives_its_registry() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 2_000_000)]);
    let registry = Arc::new(registry);
    let name = proxy.name("a/b:1");
    let digest = registry.manifest("a/b", "1")["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    let (died, shared) = (Arc::new(AtomicBool::new(false)), registry.clone());
    let seen = died.clone();
    let restart = move || {
        shared.kill();
        seen.store(true, Ordering::SeqCst);
        shared.restart();
    };
    proxy.fault("GET", &digest, 1, Fault::After(1_000_000, Arc::new(restart)));
    scene.mica(["pull", &name]).ok();
    assert!(died.load(Ordering::SeqCst));
    assert_eq!(digest_of(&scene, &name, "/a"), sha256(&noise(1, 2_000_000)));
}

#[test]
fn broken_transfers_are_mended() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 1_000_000)]);
    let name = proxy.name("a/b:1");
    for _ in 0..3 {
        proxy.fault("GET", "/blobs/", 1, Fault::CutAnswer(200_000));
    }
    proxy.fault(
        "GET",
        "/manifests/",
        1,
        Fault::Answer("429 Too Many Requests", vec![("Retry-After", "0".into())]),
    );
    proxy.fault(
        "GET",
        "/manifests/",
        1,
        Fault::Answer("503 Service Unavailable", vec![]),
    );
    proxy.fault("GET", "/manifests/", 2, Fault::CutAnswer(100));
    scene.mica(["pull", &name]).ok();
    scene.mica(["rmi", &name]).ok();
    scene.mica(["prune", "-f", "--all"]).ok();
    // A server that knows no ranges is read from the start.
    proxy.heal();
    proxy.fault("GET", "/blobs/", 1, Fault::IgnoreRange);
    let layer = registry.manifest("a/b", "1")["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    proxy.fault("GET", &layer, 1, Fault::CutAnswer(200_000));
    proxy.fault("GET", &layer, 1, Fault::IgnoreRange);
    scene.mica(["pull", &name]).ok();
    assert_eq!(digest_of(&scene, &name, "/a"), sha256(&noise(1, 1_000_000)));
}

#[test]
fn wrong_bytes_never_become_an_image() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 100_000)]);
    let name = proxy.name("a/b:1");
    let manifest = registry.manifest("a/b", "1");
    let layer = manifest["layers"][0]["digest"].as_str().unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    for (path, at, told) in [
        (layer, 50_000, "cannot be used"),
        (config, 5, "image configuration"),
        ("/manifests/", 50, "instead of"),
    ] {
        proxy.fault("GET", path, 1, Fault::Corrupt(at));
        scene.mica(["pull", &name]).fails().says(told);
        assert_eq!(scene.images(), Vec::<String>::new());
        assert!(downloads(&scene).is_empty(), "what is wrong is not gone on with");
    }
    // A part from before that a crash spoiled is fetched again.
    fs::create_dir_all(scene.store().join("downloads")).unwrap();
    fs::write(scene.store().join("downloads").join(&layer[7..]), vec![0; 5000]).unwrap();
    scene.mica(["pull", &name]).ok();
    scene.mica(["fsck"]).ok();
}

#[test]
fn a_damaged_registry_is_told_apart_from_a_missing_image() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 100_000)]);
    let name = proxy.name("a/b:1");
    let file = registry.blob(
        registry.manifest("a/b", "1")["layers"][0]["digest"]
            .as_str()
            .unwrap(),
    );
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..60_000]).unwrap();
    scene
        .mica(["pull", &name])
        .fails()
        .says("60000 bytes, where the manifest says");
    fs::remove_file(&file).unwrap();
    scene
        .mica(["pull", &name])
        .fails()
        .says("404 Not Found")
        .says("hint:");
    scene
        .mica(["pull", &proxy.name("a/b:2")])
        .fails()
        .says("the manifest of")
        .says("check the name and the tag");
    scene
        .mica(["pull", &proxy.name("no/such")])
        .fails()
        .says("404 Not Found");
    for (status, told) in [
        ("401 Unauthorized", "mica login"),
        ("403 Forbidden", "mica login"),
        ("429 Too Many Requests", "limits how much is asked"),
        ("500 Internal Server Error", "try again later"),
    ] {
        let headers = vec![("Retry-After", "3600".to_owned())];
        proxy.fault("GET", "/manifests/", 9, Fault::Answer(status, headers));
        scene.mica(["pull", &name]).fails().says(status).says(told);
        proxy.heal();
    }
    registry.kill();
    assert_eq!(scene.images(), Vec::<String>::new());
}

#[test]
fn two_processes_fetch_a_layer_once() {
    let Some((scene, registry, proxy)) = world() else {
        return;
    };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 1_000_000)]);
    let name = proxy.name("a/b:1");
    let layer = registry.manifest("a/b", "1")["layers"][0]["digest"]
        .as_str()
        .unwrap()
        .to_owned();
    proxy.fault("GET", &layer, 1, Fault::Slow(1_000_000));
    let first = scene.mica(["pull", &name]).start();
    wait_until("the first one fetches", || {
        downloads(&scene).iter().any(|&length| length > 0)
    });
    let second = scene.mica(["pull", &name]).ok();
    assert!(first.wait().has("Status: Downloaded"));
    second.says("Waiting for another process").says("Already exists");
    let fetched = proxy
        .log()
        .iter()
        .filter(|exchange| exchange.path.contains(&layer))
        .count();
    assert_eq!(fetched, 1);
}

/// Puts a manifest or an index into a registry, under a tag; its digest.
fn put(scene: &Scene, registry: &Registry, repository: &str, tag: &str, manifest: &Value) -> String {
    let text = manifest.to_string();
    scene.write("manifest.json", &text);
    let kind = manifest["mediaType"].as_str().unwrap_or_default();
    let url = format!("http://{}/v2/{repository}/manifests/{tag}", registry.host());
    tool("curl", scene.directory())
        .args(["-sSf", "-X", "PUT", "--data-binary", "@manifest.json", "-H"])
        .args([format!("Content-Type: {kind}"), url])
        .ok();
    format!("sha256:{}", sha256(text.as_bytes()))
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The descriptor of a manifest that the registry has.
fn descriptor(registry: &Registry, digest: &str, kind: &str) -> Value {
    let size = fs::metadata(registry.blob(digest)).unwrap().len();
    json!({ "mediaType": kind, "digest": digest, "size": size })
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let Some((scene, registry, _)) = world() else {
        return;
    };
    if machine::programs(&["curl"]).is_none() {
        return;
    }
    let mut entries = Vec::new();
    for (number, architecture) in ["s390x", "amd64", "arm64"].into_iter().enumerate() {
        let members = Members::oci("app", &[layer(architecture, 7 + number as u32, 1000)]);
        let config = members
            .0
            .iter()
            .position(|(_, bytes)| bytes.starts_with(b"{\"architecture\""))
            .unwrap();
        let old = sha256(&members.0[config].1);
        let text = String::from_utf8(members.0[config].1.clone()).unwrap();
        let text = text.replace("\"amd64\"", &format!("{architecture:?}"));
        // The archive as a whole with the other configuration in place.
        let mut all: Vec<(String, Vec<u8>)> = members.0.clone();
        all[config] = (
            format!("blobs/sha256/{}", sha256(text.as_bytes())),
            text.clone().into_bytes(),
        );
        let manifest = all
            .iter()
            .position(|(_, bytes)| {
                bytes.windows(7).any(|w| w == b"\"layers") && !bytes.starts_with(b"{\"architecture\"")
            })
            .unwrap();
        let before = sha256(&all[manifest].1);
        let fixed = String::from_utf8(all[manifest].1.clone())
            .unwrap()
            .replace(&old, &sha256(text.as_bytes()));
        all[manifest] = (
            format!("blobs/sha256/{}", sha256(fixed.as_bytes())),
            fixed.clone().into_bytes(),
        );
        let index = all.iter().position(|(name, _)| name == "index.json").unwrap();
        let listed = String::from_utf8(all[index].1.clone()).unwrap();
        all[index].1 = listed.replace(&before, &sha256(fixed.as_bytes())).into_bytes();
        scene.write("app.tar", Members(all).pack());
        let tag = format!("a/b:{architecture}");
        copy(&scene, &registry, "oci-archive:app.tar", &tag, &[]);
        let digest = registry.tagged("a/b", architecture).unwrap();
        let mut entry = descriptor(&registry, &digest, MANIFEST);
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entries.push(entry);
    }
    let inner = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
    let digest = put(&scene, &registry, "a/b", "all", &inner);
    let outer = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [descriptor(&registry, &digest, INDEX)],
    });
    put(&scene, &registry, "a/b", "nested", &outer);

    let (all, nested) = (registry.name("a/b:all"), registry.name("a/b:nested"));
    let host = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    };
    for name in [&all, &nested] {
        scene.mica(["pull", name]).ok();
        assert_eq!(scene.mica(["ls", name]).ok().answer(), host);
        // Another one is read where it is.
        let other = scene.mica(["ls", "--platform", "linux/s390x", name]).ok();
        assert_eq!(other.answer(), "s390x");
        assert_eq!(scene.mica(["ls", name]).ok().answer(), host);
    }
    scene.mica(["pull", &all]).ok().says(&format!("Digest: {digest}"));
    scene.mica(["pull", "--platform", "linux/s390x", &all]).ok();
    assert_eq!(scene.mica(["ls", &all]).ok().answer(), "s390x");
    scene
        .mica(["pull", "--platform", "linux/riscv64", &all])
        .fails()
        .says("has no image for linux/riscv64, only for linux/amd64, linux/arm64, linux/s390x");
    // An image that is no index is taken as it is, unless something else was asked for.
    let one = registry.name("a/b:s390x");
    scene
        .mica(["pull", &one])
        .ok()
        .says("warning:")
        .says("linux/s390x");
    scene
        .mica(["pull", "--platform", "linux/amd64", &one])
        .fails()
        .says("not for linux/amd64");
    // By the digest of the index.
    let pinned = registry.name(&format!("a/b@{digest}"));
    scene.mica(["pull", &pinned]).ok();
    assert_eq!(scene.mica(["ls", &pinned]).ok().answer(), host);
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let (scene, server) = (Scene::new(), Server::start());
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(b""))] },
    })
    .to_string();
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = format!("sha256:{}", sha256(bytes));
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    };
    let good = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob("application/vnd.oci.image.config.v1+json", config.as_bytes()),
        "layers": [blob("application/vnd.oci.image.layer.v1.tar", b"")],
    });
    let digest = good["config"]["digest"].as_str().unwrap().to_owned();
    server.on(&format!("/v2/a/b/blobs/{digest}"), move |_| {
        Answer::new("200 OK", config.clone())
    });
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest
    };
    let chart = "application/vnd.cncf.helm.config.v1+json";
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let elsewhere = json!(["https://example.com/layer"]);
    let cases = [
        (
            changed(&|m| m["config"]["mediaType"] = chart.into()),
            "is no image, but application/vnd.cncf.helm",
        ),
        (
            changed(&|m| m["layers"][0]["mediaType"] = "x/y".into()),
            "a kind that mica does not know: x/y",
        ),
        (
            changed(&|m| m["layers"][0]["mediaType"] = foreign.into()),
            "that its registry does not hold",
        ),
        (
            changed(&|m| m["layers"][0]["urls"] = elsewhere.clone()),
            "that its registry does not hold",
        ),
        (
            changed(&|m| m["layers"] = json!([])),
            "it has 1 diff IDs, the manifest 0 layers",
        ),
        (
            changed(&|m| m["manifests"] = json!([])),
            "a manifest and an index at once",
        ),
        (changed(&|m| m["layers"] = 3.into()), "is not valid"),
        (json!({ "schemaVersion": 1 }), "schema 1"),
        (json!("x"), "it is no manifest"),
    ];
    for (number, (manifest, told)) in cases.into_iter().enumerate() {
        let text = manifest.to_string();
        server.on(&format!("/v2/a/b/manifests/{number}"), move |_| {
            Answer::new("200 OK", text.clone()).header("Content-Type", MANIFEST)
        });
        let name = format!("{}/a/b:{number}", server.host());
        scene.mica(["pull", &name]).fails().says(told);
    }
    assert_eq!(scene.images(), Vec::<String>::new());
}

#[test]
fn every_tag_of_a_repository_is_pulled() {
    let Some((scene, registry, _)) = world() else {
        return;
    };
    for tag in ["1", "2", "3"] {
        push(&scene, &registry, &format!("a/b:{tag}"), &[layer(tag, 1, 1000)]);
    }
    let name = registry.name("a/b");
    scene.mica(["pull", "--all-tags", &name]).ok();
    let images = scene.images();
    let mut names: Vec<&str> = images.iter().filter_map(|line| line.split(' ').next()).collect();
    names.sort_unstable();
    assert_eq!(names, ["1", "2", "3"].map(|tag| format!("{name}:{tag}")));
    scene
        .mica(["pull", "-a", &registry.name("a/b:1")])
        .exits(2)
        .says("without a tag");
}

#[test]
fn layers_of_every_kind_are_pulled() {
    let Some((scene, registry, _)) = world() else {
        return;
    };
    let kinds: [(&str, &[&str]); 4] = [
        ("gzip", &[]),
        ("zstd", &["--format=oci", "--dest-compress-format=zstd"]),
        (
            "chunked",
            &["--format=oci", "--dest-compress-format=zstd:chunked"],
        ),
        ("docker", &["--format=v2s2"]),
    ];
    for (seed, (tag, options)) in (1..).zip(kinds) {
        // Of layers that it pushed before skopeo would take those.
        scene.write(
            "plain.tar",
            Members::docker("app:1", &[layer("b", seed, 100_000)]).pack(),
        );
        copy(
            &scene,
            &registry,
            "docker-archive:plain.tar",
            &format!("a/b:{tag}"),
            options,
        );
        let name = registry.name(&format!("a/b:{tag}"));
        scene.mica(["pull", &name]).ok();
        assert_eq!(
            digest_of(&scene, &name, "/b"),
            sha256(&noise(seed, 100_000)),
            "{tag}"
        );
        scene.mica(["rmi", &name]).ok();
        scene.mica(["prune", "-f", "--all"]).ok();
    }
    let kind = registry.manifest("a/b", "zstd")["layers"][0]["mediaType"].clone();
    assert_eq!(kind, "application/vnd.oci.image.layer.v1.tar+zstd");
}

#[test]
fn a_layer_that_is_not_compressed_is_kept_once() {
    let (scene, server) = (Scene::new(), Server::start());
    let tar = layer("a", 1, 100_000);
    let mut members = Members::oci("app", std::slice::from_ref(&tar));
    let manifest = members.get_mut("index.json").clone();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let digest = manifest["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let mut manifest: Value = serde_json::from_slice(members.get_mut(&digest)).unwrap();
    manifest["layers"][0] = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": format!("sha256:{}", sha256(&tar)),
        "size": tar.len(),
    });
    let config = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let config_bytes = members.get_mut(&config[7..]).clone();
    server.on(&format!("/v2/a/blobs/{config}"), move |_| {
        Answer::new("200 OK", config_bytes.clone())
    });
    let place = format!("/v2/a/blobs/sha256:{}", sha256(&tar));
    server.on(&place, move |_| Answer::new("200 OK", tar.clone()));
    server.on("/v2/a/manifests/latest", move |_| {
        Answer::new("200 OK", manifest.to_string()).header("Content-Type", MANIFEST)
    });
    let name = format!("{}/a", server.host());
    scene.mica(["pull", &name]).ok();
    assert_eq!(digest_of(&scene, &name, "/a"), sha256(&noise(1, 100_000)));
    assert!(downloads(&scene).is_empty());
    scene.mica(["fsck"]).ok();
}

#[test]
fn a_full_disk_is_named_and_the_pull_goes_on_later() {
    let Some(scene) = Scene::changed_by("mkdir -p small; mount -t tmpfs -o size=3m none small") else {
        return;
    };
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    push(&scene, &registry, "a/b:1", &[layer("a", 1, 2_500_000)]);
    let name = registry.name("a/b:1");
    let small = scene.path("small/store").display().to_string();
    let pull = || scene.mica(["--root", &small, "pull", &name]);
    pull().fails().says("is full");
    scene.shell("mount -o remount,size=30m none small").ok();
    pull().ok();
}
