//! The harness of the registry's tests: a test that leans on it must be able to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use mica_tests::archive::{Members, Tar};
use mica_tests::command::{Run, tool, wait_until};
use mica_tests::proxy::{Fault, Kind};
use mica_tests::registry::{Access, PASSWORD, Transport, USER};
use mica_tests::{Proxy, Registry, Scene, machine};

/// skopeo copies `app.tar`, an OCI archive with a layer of 100 kB, to this name.
fn push(scene: &Scene, to: &str, options: &[&str]) -> Run {
    let noise: Vec<u8> = (0..100_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layer = Tar::new().file("noise", noise).bytes();
    scene.write("app.tar", Members::oci("app", &[layer]).pack());
    let to = format!("docker://{to}");
    let args = ["--insecure-policy", "copy", "-q"];
    tool("skopeo", scene.directory())
        .args(args)
        .args(options)
        .args(["oci-archive:app.tar", &to])
}

#[test]
fn a_registry_takes_images_and_survives_a_crash() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let scene = Scene::new();
    push(&scene, &registry.name("a/b:1"), &["--dest-tls-verify=false"]).ok();
    assert_eq!(registry.blobs().len(), 3);
    assert_eq!(
        registry.manifest("a/b", "1")["layers"].as_array().map(Vec::len),
        Some(1)
    );
    registry.kill();
    push(&scene, &registry.name("a/b:1"), &["--dest-tls-verify=false"]).fails();
    registry.restart();
    let name = format!("docker://{}", registry.name("a/b:1"));
    tool("skopeo", scene.directory())
        .args(["inspect", "--tls-verify=false", &name])
        .ok();
}

#[test]
fn passwords_and_tokens_are_asked_for() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let scene = Scene::new();
    for access in [Access::Basic, Access::Token] {
        let Some(registry) = Registry::with(access, Transport::Plain) else {
            return;
        };
        let to = registry.name("a/b:1");
        push(&scene, &to, &["--dest-tls-verify=false"]).fails();
        let wrong = format!("--dest-creds={USER}:wrong");
        push(&scene, &to, &["--dest-tls-verify=false", &wrong]).fails();
        let right = format!("--dest-creds={USER}:{PASSWORD}");
        push(&scene, &to, &["--dest-tls-verify=false", &right]).ok();
        assert!(registry.tagged("a/b", "1").is_some(), "{access:?}");
    }
}

#[test]
fn certificates_are_asked_for() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let scene = Scene::new();
    for transport in [Transport::Tls, Transport::MutualTls] {
        let Some(registry) = Registry::with(Access::Open, transport) else {
            return;
        };
        let to = registry.name("a/b:1");
        push(&scene, &to, &[]).fails();
        let directory = format!("certs-{transport:?}");
        registry.certificates().install(&scene.path(&directory), "");
        let certificates = format!("--dest-cert-dir={}", scene.path(&directory).display());
        push(&scene, &to, &[&certificates]).ok();
    }
}

#[test]
fn the_proxy_counts_and_breaks_what_it_is_told_to() {
    if machine::programs(&["skopeo", "curl"]).is_none() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let scene = Scene::new();
    let proxy = Proxy::before(&registry);
    let plain = ["--dest-tls-verify=false"];
    // A part of an upload stays in the registry. (Later skopeo would mount what it pushed elsewhere.)
    proxy.fault("PATCH", "/c/d/", 99, Fault::CutRequest(1000));
    push(&scene, &proxy.name("c/d:1"), &plain).fails();
    proxy.heal();
    // The registry writes what it has when it finds the connection broken.
    wait_until("a part of the upload is there", || {
        registry.uploads("c/d").contains(&1000)
    });
    proxy.clear_log();
    push(&scene, &proxy.name("a/b:1"), &plain).ok();
    assert!(proxy.sent() > 100_000, "{:?}", proxy.log());
    assert_eq!(proxy.count("PUT", Kind::Manifest), 1);
    proxy.clear_log();
    push(&scene, &proxy.name("a/b:1"), &plain).ok();
    assert_eq!(proxy.count("PATCH", Kind::Upload), 0, "{:?}", proxy.log());

    proxy.fault("PUT", "/manifests/", 99, Fault::Answer("403 Forbidden", vec![]));
    push(&scene, &proxy.name("a/b:1"), &plain).fails();
    proxy.heal();

    let layer = registry.manifest("a/b", "1")["layers"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned();
    let get = |path: &str, range: &[&str]| {
        let url = format!("http://{}{path}", proxy.host());
        tool("curl", scene.directory())
            .args(["-sS", "--max-time", "20"])
            .args(range)
            .arg(url)
    };
    let path = format!("/v2/a/b/blobs/{layer}");
    let whole = get(&path, &[]).ok().stdout;
    proxy.fault("GET", "/blobs/", 1, Fault::Corrupt(7));
    let spoiled = get(&path, &[]).ok().stdout;
    assert_eq!(spoiled.len(), whole.len());
    assert!(spoiled[7] != whole[7] && spoiled[8..] == whole[8..]);
    assert_eq!(get(&path, &["-r", "5-9"]).ok().stdout, whole[5..10]);
    proxy.fault("GET", "/blobs/", 1, Fault::IgnoreRange);
    assert_eq!(get(&path, &["-r", "5-9"]).ok().stdout, whole);
    proxy.fault("GET", "/blobs/", 1, Fault::CutAnswer(77));
    assert_eq!(get(&path, &[]).exits(18).stdout, whole[..77]);
    proxy.fault("GET", "/blobs/", 1, Fault::Slow(20_000_000));
    assert_eq!(get(&path, &[]).ok().stdout, whole);
    let called = Arc::new(AtomicU32::new(0));
    let count = called.clone();
    let call = move || {
        count.fetch_add(1, Ordering::SeqCst);
    };
    proxy.fault("GET", "/blobs/", 1, Fault::After(5000, Arc::new(call)));
    assert_eq!(get(&path, &[]).ok().stdout, whole);
    assert_eq!(called.load(Ordering::SeqCst), 1);
}
