//! The options of `mica build`: they are docker's, and do what docker's do.

use mica_tests::Scene;
use mica_tests::command::tool;
use serde_json::Value;

const SMALL: &str = "FROM scratch\nCOPY f /dir/f\nLABEL a=b\n";

fn small() -> Scene {
    let scene = Scene::new();
    scene.write("ctx/f", "content\n");
    scene.write("ctx/Dockerfile", SMALL);
    scene
}

fn json(scene: &Scene, file: &str) -> Value {
    serde_json::from_str(&scene.read(file)).expect("it is JSON")
}

/// The manifest in an OCI image layout.
fn manifest(scene: &Scene, layout: &str) -> (Value, Value) {
    let descriptor = json(scene, &format!("{layout}/index.json"))["manifests"][0].clone();
    let digest = descriptor["digest"].as_str().expect("a digest").replace(':', "/");
    (json(scene, &format!("{layout}/blobs/{digest}")), descriptor)
}

#[test]
fn outputs_go_to_several_places_at_once() {
    let Some(_) = Scene::with_base() else { return };
    let scene = small();
    scene
        .rebuild([
            "-o",
            "type=oci,dest=o.tar,compression=zstd",
            "-o",
            "type=docker,dest=d.tar",
        ])
        .args([
            "-o",
            "type=tar,dest=t.tar",
            "-o",
            "type=local,dest=out",
            "-o",
            "type=cacheonly",
        ])
        .args(["-o", "type=local,dest=split,platform-split=true"])
        .ok();
    tool("tar", scene.directory())
        .args(["-tf", "o.tar"])
        .ok()
        .says("index.json");
    tool("tar", scene.directory())
        .args(["-tf", "d.tar"])
        .ok()
        .says("manifest.json");
    tool("tar", scene.directory())
        .args(["-tf", "t.tar"])
        .ok()
        .says("dir/f");
    assert_eq!(scene.read("out/dir/f"), "content\n");
    let split = std::fs::read_dir(scene.path("split"))
        .expect("a directory")
        .count();
    assert_eq!(split, 1, "a directory for the platform");
    assert_eq!(
        scene.images(),
        Vec::<String>::new(),
        "the store was not asked for"
    );
    scene.rebuild(["-o", "again", "--load", "-t", "named"]).ok();
    assert_eq!(scene.images().len(), 1);
    scene.rebuild(["-o", "type=image,name=other:1"]).ok();
    scene.mica(["inspect", "other:1"]).ok();
    scene
        .rebuild(["-o", "type=tar", "-o", "type=oci"])
        .exits(2)
        .says("two outputs cannot both go to stdout");
}

#[test]
fn archives_have_the_form_that_is_asked_for() {
    let Some(_) = Scene::with_base() else { return };
    let scene = small();
    scene
        .rebuild(["-t", "x:1", "--annotation", "manifest,manifest-descriptor:k=v"])
        .args([
            "-o",
            "type=oci,dest=zstd,tar=false,compression=zstd,compression-level=1,annotation.Own=1",
        ])
        .args(["--metadata-file", "meta.json", "--iidfile", "id"])
        .ok();
    let (image, descriptor) = manifest(&scene, "zstd");
    assert_eq!(image["annotations"], serde_json::json!({"k": "v", "Own": "1"}));
    assert_eq!(descriptor["annotations"]["k"], "v");
    assert_eq!(
        image["layers"][0]["mediaType"],
        "application/vnd.oci.image.layer.v1.tar+zstd"
    );
    let metadata = json(&scene, "meta.json");
    assert_eq!(metadata["containerimage.digest"], descriptor["digest"]);
    assert_eq!(
        metadata["containerimage.descriptor"]["digest"],
        descriptor["digest"]
    );
    assert_eq!(
        metadata["containerimage.config.digest"],
        image["config"]["digest"]
    );
    assert_eq!(metadata["image.name"], "docker.io/library/x:1");
    assert_eq!(
        scene.read("id"),
        image["config"]["digest"].as_str().expect("a digest")
    );

    scene
        .rebuild([
            "-o",
            "type=oci,dest=old,tar=false,compression=gzip,oci-mediatypes=false",
        ])
        .ok();
    let (image, _) = manifest(&scene, "old");
    assert_eq!(
        image["mediaType"],
        "application/vnd.docker.distribution.manifest.v2+json"
    );
    assert_eq!(
        image["layers"][0]["mediaType"],
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    );
}

#[test]
fn limits_and_privileges_reach_the_steps() {
    for scene in Scene::everyone() {
        let dockerfile = "\
FROM base
RUN ulimit -n > /files && ulimit -Hn >> /files && df -k /dev/shm | tail -n 1 | awk '{print $2}' > /shm
";
        scene
            .build(
                dockerfile,
                ["--ulimit", "nofile=100:200", "--shm-size", "3m", "-t", "limited"],
            )
            .ok();
        assert_eq!(scene.cat("limited", "/files"), "100\n200\n", "as {}", scene.who());
        assert_eq!(scene.cat("limited", "/shm"), "3072\n");
        // A limit is part of what a step's result depends on.
        scene
            .build(
                dockerfile,
                ["--ulimit", "nofile=50:60", "--shm-size", "3m", "-t", "limited"],
            )
            .ok();
        assert_eq!(scene.cat("limited", "/files"), "50\n60\n");
        // Its control group is not; where there can be none, the build says so.
        scene
            .build(dockerfile, ["--ulimit", "nofile=50:60", "--shm-size", "3m"])
            .args(["--cgroup-parent", "mica-test/group"])
            .ok()
            .says("CACHED");

        let dockerfile = "FROM base\nRUN --security=insecure grep CapEff /proc/self/status > /caps\n";
        scene
            .build(dockerfile, ["-t", "insecure"])
            .exits(1)
            .says("RUN --security=insecure is not allowed")
            .says("--allow security.insecure")
            .says("Dockerfile:2");
        scene
            .rebuild(["--allow", "security.insecure", "-t", "insecure"])
            .ok();
        assert!(!scene.cat("insecure", "/caps").contains("00000000a80425fb"));
        scene.is_clean();
    }
}

#[test]
fn what_is_misspelt_is_mended_and_what_is_not_there_is_named() {
    let scene = small();
    for (option, says) in [
        ("--output=type=oic,dest=x", "did you mean oci?"),
        ("--output=type=oci,dset=x", "did you mean dest?"),
        ("--output=type=oci,dest=x,compression=gzp", "did you mean gzip?"),
        ("--output=type=local", "needs dest=DIRECTORY"),
        ("--ulimit=nofiles=1", "did you mean nofile?"),
        ("--ulimit=nofile=2:1", "above the hard limit"),
        ("--shm-size=big", "as in 64m"),
        ("--allow=security.insecur", "did you mean security.insecure?"),
        ("--annotation=nothing", "NAME=VALUE"),
        ("--progress=plian", "plain"),
        ("--builder=remote", "no builder of that name"),
        ("--lable=x=y", "--label"),
        ("--push", "--push needs a name"),
        ("--output=type=registry", "needs name=NAME"),
        ("--cache-to=type=gha", "only type=registry, local and inline"),
        ("--cache-from=type=local,src=d,tga=x", "did you mean tag?"),
    ] {
        scene.rebuild([option]).exits(2).says(says);
    }
    for (option, says) in [
        ("--provenance=mode=max", "attestations are not supported yet"),
        ("--sbom=true", "attestations are not supported yet"),
        ("--attest=type=sbom", "attestations are not supported yet"),
        ("--annotation=index:a=b", "has no index"),
        ("--allow=device", "--allow device is not supported"),
    ] {
        scene.rebuild([option]).exits(1).says(says);
    }
    assert_eq!(scene.images(), Vec::<String>::new());
}

#[test]
fn what_changes_nothing_is_accepted() {
    let Some(_) = Scene::with_base() else { return };
    let scene = small();
    scene
        .rebuild([
            "--provenance=false",
            "--sbom=false",
            "--attest=type=provenance,disabled=true",
        ])
        .args([
            "--builder=default",
            "--rm",
            "--force-rm",
            "--push=false",
            "--pull=false",
            "--no-cache=false",
        ])
        .args([
            "--cache-to=type=inline",
            "--cache-from=type=local,src=absent",
            "--allow=network.host",
        ])
        .ok()
        .says("not used: cannot read absent/index.json");
    scene
        .rebuild(["-q"])
        .env("BUILDKIT_PROGRESS", "tty")
        .ok()
        .says("sha256:");
}

#[test]
fn squash_makes_one_layer_of_the_same_files() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base
RUN echo 1 > /kept && echo 1 > /changed && mkdir /dir && echo 1 > /dir/a && ln /dir/a /dir/b
RUN echo 2 > /changed && rm /etc/group && rm -r /dir && mkdir /dir && echo 3 > /dir/c && ln /dir/c /link
RUN rm /kept && chmod 700 /home && echo user.x > /etc/passwd
CMD [\"sh\"]
";
    scene.build(dockerfile, ["-t", "plain"]).ok();
    scene.rebuild(["-t", "squashed", "--squash"]).ok().says("CACHED");
    let layers = |name: &str| {
        let shown = scene.mica(["inspect", name]).ok().json();
        shown[0]["RootFS"]["Layers"].as_array().expect("a list").len()
    };
    assert_eq!((layers("base"), layers("plain"), layers("squashed")), (1, 4, 2));
    let copied = |image: &str, to: &str| {
        scene.shell(&format!("mica cp {image}:/ {to} && cd {to} && find . | sort | xargs ls -ldin --time-style=+ | sed 's/^ *[0-9]* //' && cat changed dir/c")).ok().stdout()
    };
    assert_eq!(copied("plain", "p"), copied("squashed", "s"));
    scene
        .mica(["diff", "squashed"])
        .ok()
        .says("/etc/group")
        .lacks("/kept")
        .lacks("/dir/a");
    assert_eq!(scene.config("squashed"), scene.config("plain"));
}

#[test]
fn volumes_are_seen_by_every_step_and_stay_on_the_machine() {
    for scene in Scene::everyone() {
        scene.write("host/in", "from the host\n");
        let volume = |options: &str| format!("{}:/mnt/host{options}", scene.path("host").display());
        scene
            .build(
                "FROM base\nRUN cp /mnt/host/in /got && echo out > /mnt/host/out\n",
                ["-t", "v"],
            )
            .args(["-v", &volume(""), "--jobs", "1"])
            .ok();
        assert_eq!(scene.cat("v", "/got"), "from the host\n", "as {}", scene.who());
        assert_eq!(scene.read("host/out"), "out\n");
        scene.mica(["ls", "v", "/"]).ok().lacks("mnt");
        scene
            .build("FROM base\nRUN echo > /mnt/host/x\n", ["-v", &volume(":ro")])
            .exits(1);
        scene.rebuild(["-v", "/no/such:/x"]).exits(1).says("/no/such");
        scene.rebuild(["-v", "nonsense"]).exits(2).says("HOST:PATH[:ro]");
        scene.is_clean();
    }
}

#[test]
fn a_local_export_is_whole_or_not_there() {
    let Some(_) = Scene::with_base() else { return };
    let scene = small();
    scene.write("out/mine", "stays\n");
    scene.write("out/dir/f", "goes\n");
    scene.rebuild(["-o", "out"]).ok();
    assert_eq!(
        (scene.read("out/mine"), scene.read("out/dir/f")),
        ("stays\n".into(), "content\n".into())
    );
    scene.write("other/dir", "in the way\n");
    scene.rebuild(["-o", "other"]).exits(1).says("other/dir");
    let left: Vec<_> = std::fs::read_dir(scene.path("other"))
        .expect("a directory")
        .collect();
    assert_eq!(left.len(), 1, "{left:?}");
    scene
        .rebuild(["-o", "dated", "--build-arg", "SOURCE_DATE_EPOCH=77"])
        .ok();
    let time = std::fs::metadata(scene.path("dated/dir/f"))
        .expect("a file")
        .modified()
        .expect("a time");
    assert_eq!(
        time.duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs(),
        77
    );
}
