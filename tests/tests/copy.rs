//! `mica copy`: between registries, archives, layouts and the store.

use std::fs;
use std::path::Path;

use mica_tests::archive::{Members, Tar};
use mica_tests::command::{Run, tool};
use mica_tests::proxy::{Fault, Kind};
use mica_tests::registry::{Access, PASSWORD, Transport, USER};
use mica_tests::{Proxy, Registry, Scene, machine};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A layer with a file that hardly compresses.
fn layer(name: &str, size: usize) -> Vec<u8> {
    let mut state = name
        .bytes()
        .fold(7u32, |state, byte| state * 31 + u32::from(byte));
    let next = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let noise: Vec<u8> = std::iter::repeat_with(next).take(size).collect();
    Tar::new().file(name, noise).file("f", name).bytes()
}

/// A scene with `app.tar`, an OCI archive of two compressed layers with the name `app:1`.
fn scene() -> Scene {
    let scene = Scene::new();
    let layers = [layer("a", 300_000), layer("b", 200_000)];
    scene.write("app.tar", Members::oci("docker.io/library/app:1", &layers).pack());
    scene
}

fn copy(scene: &Scene, from: &str, to: &str) -> Run {
    scene.mica(["copy", from, to])
}

/// The digest that skopeo finds at a place.
fn skopeo_digest(scene: &Scene, place: &str) -> String {
    let inspect = ["inspect", "--tls-verify=false", "--format", "{{.Digest}}", place];
    tool("skopeo", scene.directory()).args(inspect).ok().answer()
}

/// A store without an image.
fn is_empty(scene: &Scene) {
    assert_eq!(scene.images(), Vec::<String>::new());
    let blobs = fs::read_dir(scene.store().join("blobs/sha256"));
    assert_eq!(blobs.map_or(0, Iterator::count), 0);
}

#[test]
fn what_a_registry_has_is_not_sent_to_it() {
    let (Some(one), Some(other)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let (from, to) = (Proxy::before(&one), Proxy::before(&other));
    let scene = scene();
    let first = format!("docker://{}", from.name("a/b:1"));
    let digest = copy(&scene, "oci-archive:app.tar", &first).ok().answer();
    assert_eq!(one.tagged("a/b", "1").as_ref(), Some(&digest));
    // From one registry to another, digest and all.
    let second = format!("docker://{}", to.name("c/d:2"));
    let copied = copy(&scene, &first, &second)
        .args(["--digestfile", "digest"])
        .ok();
    assert_eq!(copied.answer(), digest);
    assert_eq!(scene.read("digest"), digest);
    assert_eq!(other.tagged("c/d", "2").as_ref(), Some(&digest));
    // Again: one question each, and nothing passes.
    for proxy in [&from, &to] {
        proxy.clear_log();
    }
    assert_eq!(copy(&scene, &first, &second).ok().answer(), digest);
    assert_eq!((to.sent(), from.received(Kind::Blob)), (0, 0));
    assert_eq!(to.count("HEAD", Kind::Manifest), 1, "{:?}", to.log());
    // Another tag needs the manifest alone.
    let third = format!("docker://{}", to.name("c/d:3"));
    copy(&scene, &first, &third).ok().says("Already exists");
    assert_eq!(to.count("*", Kind::Upload), 0, "{:?}", to.log());
    // Another repository of the same registry mounts the blobs.
    to.clear_log();
    let fourth = format!("docker://{}", to.name("e/f:1"));
    copy(&scene, &third, &fourth).ok().says("Mounted");
    assert_eq!(to.count("PATCH", Kind::Upload), 0, "{:?}", to.log());
    assert_eq!(other.tagged("e/f", "1").as_ref(), Some(&digest));
    is_empty(&scene);
}

#[test]
fn archives_and_layouts_hold_what_was_copied() {
    let Some(registry) = Registry::start() else { return };
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let scene = scene();
    let remote = format!("docker://{}", registry.name("app:1"));
    let digest = copy(&scene, "oci-archive:app.tar", &remote).ok().answer();
    for place in ["oci:layout:app:1", "oci-archive:out.tar:app:1"] {
        assert_eq!(copy(&scene, &remote, place).ok().answer(), digest);
        assert_eq!(skopeo_digest(&scene, place), digest);
        let back = format!("docker://{}", registry.name("back:1"));
        let preserve = ["--preserve-digests"];
        assert_eq!(copy(&scene, place, &back).args(preserve).ok().answer(), digest);
    }
    // A second image beside the first, the first once more, another instead of it.
    copy(&scene, &remote, "oci:layout:second").ok();
    copy(&scene, &remote, "oci:layout:app:1")
        .ok()
        .says("Already exists");
    let index: serde_json::Value =
        serde_json::from_str(&scene.read("layout/index.json")).expect("it is JSON");
    assert_eq!(index["manifests"].as_array().map(Vec::len), Some(2), "{index}");
    // What several images are in, is told.
    scene.write("two.tar", Members::oci("app:2", &[layer("c", 10)]).pack());
    copy(&scene, "oci-archive:two.tar", "oci:layout:app:2").ok();
    copy(&scene, "oci:layout", "oci:other")
        .fails()
        .says("several images: second, docker.io/library/app:1");
    copy(&scene, "oci:layout:absent", "oci:other")
        .fails()
        .says("has no image absent");
    // Docker's form has plain layers: another manifest.
    copy(&scene, &remote, "docker-archive:docker.tar:app:1").ok();
    copy(&scene, &remote, "docker-archive:never.tar")
        .arg("--preserve-digests")
        .fails()
        .says("--preserve-digests");
    assert!(!scene.path("never.tar").exists());
    let inspect = ["inspect", "--config", "docker-archive:docker.tar"];
    let shown = tool("skopeo", scene.directory()).args(inspect).ok().json();
    assert_eq!(shown["rootfs"]["diff_ids"].as_array().map(Vec::len), Some(2));
    let members = tool("tar", scene.directory())
        .args(["-tf", "docker.tar"])
        .ok()
        .stdout();
    assert!(members.contains("manifest.json"), "{members}");
    is_empty(&scene);
    // All of them can be loaded.
    for archive in ["layout", "out.tar", "docker.tar"] {
        scene.mica(["load", "-i", archive]).ok().says("app:1");
        assert_eq!(scene.cat("app:1", "/f"), "b");
        scene.mica(["rmi", "app:1"]).ok();
    }
    scene.mica(["fsck"]).ok();
}

#[test]
fn archives_come_and_leave_through_pipes() {
    let Some(registry) = Registry::start() else { return };
    let scene = scene();
    let remote = registry.name("app:1");
    // Plain layers are compressed on the way into a registry, once.
    let layers = [layer("a", 100_000), layer("b", 1000)];
    let docker = Members::docker("app:1", &layers).pack();
    let send = || {
        let args = ["docker-archive:-".to_owned(), format!("docker://{remote}")];
        scene
            .mica(["copy"])
            .args(args)
            .stdin(docker.clone())
            .ok()
            .answer()
    };
    let digest = send();
    let manifest = registry.manifest("app", "1");
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    let blobs = registry.blobs();
    assert_eq!(send(), digest);
    assert_eq!(registry.blobs(), blobs);
    // Compressed as a whole, and out again.
    scene.write("docker.tar", &docker);
    tool("gzip", scene.directory()).arg("docker.tar").ok();
    let args = format!("docker://{remote}");
    copy(&scene, "docker-archive:docker.tar.gz:app:1", &args).ok();
    let script = format!("mica copy -q docker://{remote} oci-archive:-:app:1 | mica load");
    scene.shell(&script).ok().says("app:1");
    assert_eq!(scene.cat("app:1", "/f"), "b");
    // What is half there leaves nothing.
    let half = docker[..docker.len() / 2].to_vec();
    scene
        .mica(["copy", "docker-archive:-", "oci:half:1"])
        .stdin(half)
        .fails()
        .says("truncated");
    assert!(!scene.path("half/index.json").exists());
    assert_eq!(fs::read_dir(scene.path("tmp")).map_or(0, Iterator::count), 0);
}

#[test]
fn an_index_is_copied_whole_or_for_one_platform() {
    let (Some(registry), Some(other)) = (Registry::start(), Registry::start()) else {
        return;
    };
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let scene = Scene::new();
    let images = ["amd64", "arm64", "s390x"].map(|name| (name, layer(name, 1000)));
    scene.write("all.tar", Members::index("all", &images).pack());
    let all = format!("docker://{}", registry.name("all:1"));
    let to = Proxy::before(&other);
    let digest = copy(&scene, "oci-archive:all.tar", &all)
        .arg("--all")
        .ok()
        .answer();
    let manifest = registry.manifest("all", "1");
    assert_eq!(manifest["manifests"].as_array().map(Vec::len), Some(3));
    // skopeo agrees on what all of it is, and brings it back the same.
    let raw = tool("skopeo", scene.directory())
        .args([
            "copy",
            "--all",
            "--src-tls-verify=false",
            "--preserve-digests",
            &all,
            "oci:by-skopeo:1",
        ])
        .ok();
    drop(raw);
    let again = format!("docker://{}", to.name("again:1"));
    assert_eq!(
        copy(&scene, "oci:by-skopeo:1", &again)
            .args(["--all", "--preserve-digests"])
            .ok()
            .answer(),
        digest
    );
    to.clear_log();
    assert_eq!(copy(&scene, &all, &again).arg("--all").ok().answer(), digest);
    assert_eq!(to.sent(), 0);
    assert_eq!(
        copy(&scene, &all, "oci:layout:1").arg("--all").ok().answer(),
        digest
    );
    assert_eq!(
        copy(&scene, "oci:layout:1", "oci-archive:o.tar")
            .arg("--all")
            .ok()
            .answer(),
        digest
    );
    // One of them.
    let one = format!("docker://{}", other.name("one:1"));
    let arm = copy(&scene, &all, &one)
        .args(["--platform", "linux/arm64"])
        .ok()
        .answer();
    assert_eq!(manifest["manifests"][1]["digest"].as_str(), Some(&*arm));
    copy(&scene, &all, &one).ok();
    copy(&scene, &all, &one)
        .args(["--platform", "linux/riscv64"])
        .fails()
        .says("only for linux/amd64");
    copy(&scene, &one, "oci:x")
        .args(["--platform", "linux/s390x"])
        .fails()
        .says("not for linux/s390x");
    copy(&scene, &all, "app")
        .arg("--all")
        .fails()
        .says("takes the image of one platform");
    copy(&scene, &all, "docker-archive:a.tar")
        .arg("--all")
        .fails()
        .says("takes the image of one platform");
    copy(&scene, &all, "store:arm:1")
        .args(["--platform", "linux/arm64"])
        .ok();
    assert_eq!(scene.cat("arm:1", "/f"), "arm64");
}

#[test]
fn the_store_is_a_place_as_any_other() {
    let Some(registry) = Registry::start() else { return };
    let scene = scene();
    let remote = format!("docker://{}", registry.name("app:1"));
    let digest = copy(&scene, "oci-archive:app.tar:app:1", "mine:1").ok().answer();
    assert_eq!(scene.cat("mine:1", "/f"), "b");
    assert_eq!(copy(&scene, "mine:1", &remote).ok().answer(), digest);
    assert_eq!(copy(&scene, &remote, "store:back:1").ok().answer(), digest);
    assert_eq!(copy(&scene, "store:back:1", "oci:layout:1").ok().answer(), digest);
    copy(&scene, "back:1", "third").ok();
    copy(&scene, "back:1", "docker-archive:docker.tar:app:1").ok();
    // A layer that was made here is plain in the store, and compressed in a registry.
    let fresh = Scene::new();
    let made = Members::docker("made:1", &[layer("c", 1000)]).pack();
    fresh.mica(["load", "-q"]).stdin(made).ok();
    copy(&fresh, "made:1", &remote).ok();
    assert_eq!(
        registry.manifest("app", "1")["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    copy(&fresh, "made:1", "oci:layout:made").ok();
    fresh.mica(["load", "-i", "layout"]).ok();
    copy(&fresh, "absent", &remote).fails().says("docker://absent");
    fresh.mica(["fsck"]).ok();
    scene.mica(["fsck"]).ok();
}

#[test]
fn the_form_of_a_manifest_is_the_one_asked_for() {
    let Some(registry) = Registry::start() else { return };
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let scene = scene();
    let remote = format!("docker://{}", registry.name("app:1"));
    copy(&scene, "oci-archive:app.tar", &remote)
        .args(["--format", "v2s2"])
        .ok();
    let manifest = registry.manifest("app", "1");
    assert_eq!(manifest["mediaType"], DOCKER_MANIFEST);
    assert_eq!(
        manifest["layers"][0]["mediaType"],
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
    let docker = skopeo_digest(&scene, &remote);
    copy(&scene, &remote, "oci:layout:1")
        .args(["--format", "oci"])
        .ok();
    copy(&scene, &remote, "oci:layout:1")
        .args(["--format", "oci", "--preserve-digests"])
        .fails()
        .says("--format");
    assert_eq!(copy(&scene, &remote, "oci:layout:same").ok().answer(), docker);
    let images = ["amd64", "arm64"].map(|name| (name, layer(name, 1000)));
    scene.write("all.tar", Members::index("all", &images).pack());
    copy(&scene, "oci-archive:all.tar", &remote)
        .args(["--all", "--format=v2s2"])
        .ok();
    let list = registry.manifest("app", "1");
    assert_eq!(
        list["mediaType"],
        "application/vnd.docker.distribution.manifest.list.v2+json"
    );
    assert_eq!(list["manifests"][0]["mediaType"], DOCKER_MANIFEST);
    skopeo_digest(&scene, &remote);
}

#[test]
fn damage_is_found_on_the_way() {
    let (Some(registry), Some(other)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let from = Proxy::before(&registry);
    let scene = scene();
    let name = format!("docker://{}", from.name("app:1"));
    copy(&scene, "oci-archive:app.tar", &name).ok();
    let to = format!("docker://{}", other.name("app:1"));
    // A transfer that breaks goes on; a byte that is another ends it.
    from.fault("GET", "/blobs/", 1, Fault::CutAnswer(100_000));
    copy(&scene, &name, &to).ok();
    let spoil = || {
        from.heal();
        from.fault("GET", "/blobs/", 9, Fault::Corrupt(100));
    };
    spoil();
    let again = format!("docker://{}", other.name("spoiled:1"));
    copy(&scene, &name, &again).fails().says("is damaged");
    assert_eq!(other.tagged("spoiled", "1"), None);
    for (place, file) in [
        ("oci-archive:o.tar", "o.tar"),
        ("docker-archive:d.tar", "d.tar"),
        ("oci:l", "l/index.json"),
    ] {
        spoil();
        copy(&scene, &name, place).fails();
        assert!(!scene.path(file).exists(), "{place}");
    }
    from.heal();
    copy(&scene, &name, "oci:l").ok();
    let left = |directory: &Path| {
        let names = fs::read_dir(directory).expect("it is there").flatten();
        names
            .filter(|name| name.file_name().to_string_lossy().starts_with('.'))
            .count()
    };
    assert_eq!(left(scene.directory()) + left(&scene.path("l")), 0);
    // A directory of something else is left alone.
    scene.write("mine/file", "x");
    copy(&scene, &name, "oci:mine")
        .fails()
        .says("neither empty nor an OCI image layout");
}

#[test]
fn each_side_has_its_own_credentials() {
    let (Some(open), Some(guarded)) = (Registry::start(), Registry::with(Access::Basic, Transport::Tls))
    else {
        return;
    };
    let scene = scene();
    let (from, to) = (open.name("app:1"), guarded.name("app:1"));
    let (from, to) = (format!("docker://{from}"), format!("docker://{to}"));
    copy(&scene, "oci-archive:app.tar", &from).ok();
    let creds = format!("{USER}:{PASSWORD}");
    copy(&scene, &from, &to).fails().says("certificate");
    copy(&scene, &from, &to)
        .arg("--dest-tls-verify=false")
        .fails()
        .says("401");
    let digest = copy(&scene, &from, &to)
        .args(["--dest-tls-verify=false", "--dest-creds", &creds])
        .ok()
        .answer();
    assert_eq!(guarded.tagged("app", "1").as_ref(), Some(&digest));
    let login = scene.mica([
        "login",
        "--tls-verify=false",
        "--authfile",
        "auth.json",
        "-u",
        USER,
        "--password-stdin",
    ]);
    login.arg(guarded.host()).stdin(PASSWORD).ok();
    let back = ["--src-tls-verify=false", "--src-authfile", "auth.json"];
    copy(&scene, &to, "oci:layout:1").args(back).ok();
    copy(&scene, &to, "oci:layout:1")
        .args(["--src-tls-verify=false", "--authfile", "auth.json"])
        .ok();
}

/// What `docker save` of version 20 writes to stdout, or an error as the daemon's.
const DOCKER: &str = r#"#!/bin/sh
case "$*" in
  "save app:1") cat docker.tar ;;
  "save half:1") head -c 100000 docker.tar; echo "the daemon is gone" >&2; exit 1 ;;
  *) echo "Error response from daemon: reference does not exist" >&2; exit 1 ;;
esac
"#;

#[test]
fn an_image_of_docker_is_exported_by_docker() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(registry) = Registry::start() else { return };
    let scene = Scene::new();
    let layers = [layer("a", 200_000), layer("b", 1000)];
    scene.write("docker.tar", Members::docker("app:1", &layers).pack());
    let docker = scene.write("bin/docker", DOCKER);
    fs::set_permissions(docker, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let path = format!("{}:/usr/bin:/bin", scene.path("bin").display());
    let mica = |args: &[&str]| scene.mica(args).env("PATH", &path);
    mica(&["pull", "docker-daemon:app:1"])
        .ok()
        .says("docker.io/library/app:1");
    assert_eq!(scene.cat("app:1", "/f"), "b");
    mica(&["pull", "docker-daemon:app:1"]).ok().says("up to date");
    let remote = format!("docker://{}", registry.name("app:1"));
    mica(&["copy", "docker-daemon:app:1", &remote]).ok();
    mica(&["copy", "docker-daemon:app:1", "oci:layout:1"]).ok();
    let before = scene.images();
    for command in ["copy", "pull"] {
        for (name, said) in [
            ("absent", "reference does not exist"),
            ("half:1", "the daemon is gone"),
        ] {
            let place = format!("docker-daemon:{name}");
            let mut args = vec![command, &place];
            args.extend((command == "copy").then_some("oci:never"));
            mica(&args).fails().says(said).says("docker save");
        }
    }
    assert!(!scene.path("never").exists());
    assert_eq!(scene.images(), before);
    // What is not installed.
    scene
        .shell("mkdir nothing; ln -s $(command -v env) nothing/")
        .ok();
    let nothing = |args: &[&str]| scene.mica(args).env("PATH", scene.path("nothing"));
    nothing(&["copy", "docker-daemon:app:1", "x"])
        .fails()
        .says("there is no docker");
    nothing(&["pull", "containers-storage:app:1"])
        .fails()
        .says("there is no podman or buildah");
    mica(&["copy", "app:1", "docker-daemon:app:1"])
        .fails()
        .says("mica save");
    scene.is_clean();
}

#[test]
fn an_image_of_podman_and_buildah_is_exported_by_them() {
    if machine::programs(&["podman", "buildah"]).is_none() || !machine::is_root() {
        return;
    }
    let Some(registry) = Registry::start() else { return };
    let scene = Scene::new();
    scene.write("f", "made by buildah\n");
    let [root, run] = ["storage", "runroot"].map(|name| scene.path(name).display().to_string());
    let script = format!(
        "b() {{ buildah --root={root} --runroot={run} --storage-driver=vfs \"$@\"; }}\n\
         c=$(b from scratch); b copy $c f /f; b commit -q $c localhost/app:1; b rm $c"
    );
    scene.shell(&script).ok();
    let place = format!("containers-storage:[vfs@{root}+{run}]localhost/app:1");
    scene.mica(["pull", &place]).ok().says("localhost/app:1");
    assert_eq!(scene.cat("localhost/app:1", "/f"), "made by buildah\n");
    let remote = format!("docker://{}", registry.name("app:1"));
    copy(&scene, &place, &remote).ok();
    scene.mica(["pull", &registry.name("app:1")]).ok();
    copy(
        &scene,
        &format!("containers-storage:[vfs@{root}+{run}]absent:1"),
        "oci:never",
    )
    .fails()
    .says("podman")
    .says("absent:1");
    // Where there is no podman, buildah does it.
    scene
        .shell("mkdir only; for p in buildah env; do ln -s $(command -v $p) only/; done")
        .ok();
    scene
        .mica(["copy", &place, "oci:layout:1"])
        .env("PATH", scene.path("only"))
        .ok();
    scene.mica(["load", "-i", "layout"]).ok();
    scene
        .mica(["copy", &place.replace("localhost/app", "absent"), "x:1"])
        .env("PATH", scene.path("only"))
        .fails()
        .says("buildah");
    assert!(!scene.path("never").exists());
    scene.mica(["fsck"]).ok();
}
