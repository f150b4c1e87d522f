//! Images of mica in the hands of other tools.

use mica_tests::Scene;
use mica_tests::command::tool;
use mica_tests::{base, machine};

/// An OCI archive `app.tar` of a small image.
fn saved() -> Option<Scene> {
    let scene = Scene::as_root()?;
    save(&scene);
    Some(scene)
}

fn save(scene: &Scene) {
    scene.write("ctx/f", "copied\n");
    let dockerfile = "\
FROM base
ENV PATH=/bin
COPY --chown=1000:1000 f /app/f
RUN rm /etc/group && ln /app/f /app/g && ln -s f /app/s && chmod 4755 /app/f && touch '/app/a name'
WORKDIR /app
CMD [\"cat\", \"f\"]
";
    scene.build(dockerfile, ["-t", "app"]).ok();
    scene
        .mica(["save", "--format", "oci-archive", "-o", "app.tar", "app"])
        .ok();
}

#[test]
fn skopeo_inspects_the_archive() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let Some(scene) = saved() else { return };
    let shown = tool("skopeo", scene.directory())
        .args(["inspect", "oci-archive:app.tar"])
        .ok()
        .json();
    assert_eq!(shown["Layers"].as_array().expect("a list").len(), 4);
    let config = tool("skopeo", scene.directory())
        .args(["inspect", "--config", "oci-archive:app.tar"])
        .ok()
        .json();
    assert_eq!(config["config"]["WorkingDir"], "/app");
    // The docker-archive too, copied blob by blob.
    scene.mica(["save", "-o", "docker.tar", "app"]).ok();
    tool("skopeo", scene.directory())
        .args(["copy", "docker-archive:docker.tar", "oci:layout:app"])
        .ok();
    // And back.
    scene.mica(["rmi", "-f", "app"]).ok();
    scene.mica(["load", "-i", "layout"]).ok();
}

#[test]
fn umoci_unpacks_it_as_mica_shows_it() {
    if machine::programs(&["umoci", "skopeo"]).is_none() {
        return;
    }
    let Some(scene) = saved() else { return };
    tool("skopeo", scene.directory())
        .args(["copy", "oci-archive:app.tar", "oci:layout:app"])
        .ok();
    tool("umoci", scene.directory())
        .args(["unpack", "--image", "layout:app", "bundle"])
        .ok();
    scene.mkdir("m");
    scene.mica(["mount", "app", "m"]).ok();
    let list = |root: &str| {
        tool("find", &scene.path(root))
            .args([".", "-mindepth", "1", "-printf", "%P %y %m %U:%G %n %l %s\\n"])
            .ok()
            .stdout()
    };
    // A directory's size is the filesystem's own affair.
    let lines = |text: String| {
        let mut lines: Vec<_> = text
            .lines()
            .map(|line| match line.contains(" d ") {
                true => line.rsplitn(5, ' ').last().unwrap_or_default().to_owned(),
                false => line.to_owned(),
            })
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(list("m")), lines(list("bundle/rootfs")));
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn buildah_runs_it() {
    if machine::programs(&["buildah"]).is_none() {
        return;
    }
    let Some(scene) = saved() else { return };
    let storage = [
        "--root",
        "storage",
        "--runroot",
        "runroot",
        "--storage-driver",
        "vfs",
    ];
    let buildah = |args: &[&str]| tool("buildah", scene.directory()).args(storage).args(args);
    let container = buildah(&["from", "oci-archive:app.tar"]).ok().answer();
    let container = container.lines().last().expect("the container's name").to_owned();
    buildah(&["run", "--isolation=chroot", &container, "--", "cat", "/app/g"])
        .ok()
        .says("copied");
    buildah(&["rm", &container]).ok();
}

/// Some machines mix the two versions of control groups, which crun refuses, and limit what root may raise.
const PLAIN_CONTROL_GROUPS: &str = "mount -t cgroup2 none /sys/fs/cgroup";

#[test]
fn podman_runs_it() {
    if machine::programs(&["podman"]).is_none() {
        return;
    }
    let Some(scene) = Scene::changed_by(PLAIN_CONTROL_GROUPS) else {
        return;
    };
    base::load(&scene);
    save(&scene);
    let podman = |args: &[&str]| {
        let storage = [
            "--root=storage",
            "--runroot=runroot",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
        ];
        scene.command("podman").args(storage).args(args)
    };
    podman(&["load", "-i", "app.tar"]).ok();
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];
    podman(&["run", "--rm", "--network=host", "--cgroups=disabled"])
        .args(limits)
        .arg("app")
        .ok()
        .says("copied");
}

/// Debian with a web server and Python packages: what people build.
#[test]
fn debian_installs_a_web_server_and_pip_packages() {
    let Some(shared) = machine::shared() else { return };
    let Some(bases) = base::archives(&shared, &["debian"]) else {
        return;
    };
    let archive = std::fs::read(bases.join("debian.tar")).expect("the archive was made");
    for scene in Scene::everyone() {
        scene.mica(["load"]).stdin(archive.clone()).ok();
        // A package of the context itself: what pip does, without an index.
        scene.write(
            "ctx/hello/setup.py",
            "from setuptools import setup\nsetup(name='hello', version='1', py_modules=['hello'])\n",
        );
        scene.write("ctx/hello/hello.py", "print('hello from pip')\n");
        scene.write("ctx/requirements.txt", "./hello\n");
        let dockerfile = "\
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends nginx python3-pip python3-setuptools python3-wheel
COPY . /app
WORKDIR /app
RUN pip install --break-system-packages --no-build-isolation --no-index -r requirements.txt
RUN nginx -v && python3 -m hello > /said
";
        let built = scene.build(dockerfile, ["-t", "web"]).run();
        assert!(built.status.success(), "as {}\n{}", scene.who(), built.describe());
        assert_eq!(scene.cat("web", "/said"), "hello from pip\n");
        scene
            .mica(["run", "--rm", "web", "nginx", "-v"])
            .ok()
            .says("nginx version");
        scene
            .mica(["save", "--format", "oci-archive", "-o", "web.tar", "web"])
            .ok();
        if scene.is_root() {
            others_take(&scene);
        }
        scene.is_clean();
    }
}

/// `web.tar` in the hands of skopeo, umoci and buildah.
fn others_take(scene: &Scene) {
    if machine::programs(&["skopeo", "umoci", "buildah"]).is_none() {
        return;
    }
    let other = |program: &str, args: &[&str]| tool(program, scene.directory()).args(args).ok();
    other("skopeo", &["inspect", "oci-archive:web.tar"]);
    other("skopeo", &["copy", "oci-archive:web.tar", "oci:layout:web"]);
    other("umoci", &["unpack", "--image", "layout:web", "bundle"]);
    assert!(scene.path("bundle/rootfs/usr/sbin/nginx").is_file());
    let storage = ["--root=storage", "--runroot=runroot", "--storage-driver=overlay"];
    let buildah = |args: &[&str]| tool("buildah", scene.directory()).args(storage).args(args);
    let container = buildah(&["from", "--quiet", "oci-archive:web.tar"]).ok().answer();
    buildah(&["run", "--isolation=chroot", &container, "--", "nginx", "-v"])
        .ok()
        .says("nginx version");
    buildah(&["rm", &container]).ok();
}
