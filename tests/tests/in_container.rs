//! mica inside of an unprivileged container: podman's default settings and /dev/fuse.

use mica_tests::command::{Run, wait_until};
use mica_tests::leftovers::processes_naming;
use mica_tests::{Scene, base, machine};

/// Some machines mix the two versions of control groups, which crun refuses; and a /dev/fuse for everyone, as
/// distributions set it up.
const MACHINE: &str = "\
mount -t cgroup2 none /sys/fs/cgroup
mkdir fuse; mount -t tmpfs -o mode=755 tmpfs fuse; mknod -m 666 fuse/fuse c 10 229; mount --bind fuse/fuse /dev/fuse
";

const DOCKERFILE: &str = "\
FROM base
RUN echo web:x:33:33::/:/bin/sh >> /etc/passwd && touch /f && chown 33:44 /f && mknod /c c 1 3 && stat -c '%u:%g %F' /f /c
RUN ! ls -l /proc/*/root/base.tar && ! stat /proc/./self/root/base.tar && ! chown 5 /proc/*/root/base.tar && ! grep -q MICA_ROOT /proc/*/environ && ! echo b > /proc/sysrq-trigger
RUN (sleep 60 & echo $! > /pid) && ! su web -c \"kill $(cat /pid)\" && kill $(cat /pid) && rm /pid
RUN su web -c 'sleep 60 & kill $!'
";

/// A root filesystem with mica, and the base image for it as an archive.
struct Container {
    scene: Scene,
    /// podman by whom it is run.
    podman: [&'static str; 4],
}

const STORAGE: [&str; 4] = [
    "--root=storage",
    "--runroot=runroot",
    "--storage-driver=vfs",
    "--cgroup-manager=cgroupfs",
];

impl Container {
    fn of(scene: Scene) -> Self {
        base::load(&scene);
        let program = scene.program();
        scene
            .mica(["import", "--host", "sh", "cat", "ls", "mkdir", "grep"])
            .arg(&program)
            .args(["-t", "tools"])
            .ok();
        scene.mica(["save", "-o", "tools.tar", "tools"]).ok();
        scene.mica(["save", "-o", "base.tar", "base"]).ok();
        scene.write("ctx/Dockerfile", DOCKERFILE);
        let podman = STORAGE;
        scene
            .command("podman")
            .args(podman)
            .args(["load", "-i", "tools.tar"])
            .ok();
        Self { scene, podman }
    }

    /// A shell script in a container with these options; `mica` and `build` are there.
    fn run(&self, options: &[&str], script: &str) -> Run {
        let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];
        let script = format!(
            "mica() {{ {} \"$@\"; }}\nexport HOME=/home/h MICA_ROOT=/home/h/root; mkdir -p $HOME\n\
             build() {{ mica load -i /base.tar >/dev/null; mica build --progress=plain --build-arg SOURCE_DATE_EPOCH=1700000000 \
             --output type=image,rewrite-timestamp=true -t built /ctx; }}\n{script}",
            self.scene.program().display()
        );
        let volumes = ["base.tar:/base.tar:ro", "ctx:/ctx:ro"];
        let volumes = volumes.map(|volume| format!("--volume={}/{volume}", self.scene.directory().display()));
        self.scene
            .command("podman")
            .args(self.podman)
            .args([
                "run",
                "--rm",
                "--network=host",
                "--cgroups=disabled",
                "--tmpfs=/home:exec",
            ])
            .args(limits)
            .args(volumes)
            .args(options)
            .args(["tools", "sh", "-euc", &script])
    }
}

#[test]
fn a_container_of_podman_builds_what_root_builds() {
    if machine::programs(&["podman"]).is_none() {
        return;
    }
    let Some(scene) = Scene::changed_by(MACHINE) else {
        return;
    };
    let container = Container::of(scene);
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    container
        .scene
        .rebuild(["--output", "type=image,rewrite-timestamp=true", "-t", "built"])
        .args(epoch)
        .ok();
    let id = |scene: &Scene| {
        let shown = scene.mica(["inspect", "built"]).ok().json();
        shown[0]["Id"].as_str().expect("a digest").to_owned()
    };
    let ids = id(&container.scene);
    for user in ["--user=0", "--user=1000:1000"] {
        let usual = container.run(&[user, "--device=/dev/fuse"], "build; mica doctor || true");
        let usual = usual.ok().says(&ids).says("33:44 regular").says("0:0 character");
        let has_ids = usual.count("those that root has here") > 0;
        assert_eq!(has_ids, user == "--user=0", "{}", usual.describe());
        // What it goes without is said once, and what mends it.
        assert_eq!(
            usual.count("steps see the host name outside"),
            1,
            "{}",
            usual.describe()
        );
        assert_eq!(usual.count("/proc of steps shows the processes outside"), 1);
        usual.says("unmask=ALL").says("seccomp=unconfined");
    }
    let open = [
        "--user=1000:1000",
        "--device=/dev/fuse",
        "--security-opt=seccomp=unconfined",
    ];
    container
        .run(
            &[&open[..], &["--security-opt=unmask=ALL"]].concat(),
            "build; mica doctor || true",
        )
        .ok()
        .says(&ids)
        .lacks("outside")
        .lacks("unmask=ALL");
}

/// Its root has other ids there, and so needs no filesystem that keeps them.
#[test]
fn root_of_a_container_builds_without_fuse() {
    if machine::programs(&["podman"]).is_none() {
        return;
    }
    let Some(scene) = Scene::changed_by(MACHINE) else {
        return;
    };
    let container = Container::of(scene);
    let dockerfile = "\
FROM base
RUN echo web:x:33:33::/:/bin/sh >> /etc/passwd && touch /f && chown 33:44 /f && stat -c '%u:%g %F' /f
USER web
RUN touch /tmp/own && ! chown 0 /tmp/own && ! touch /new && id -u
";
    container.scene.write("ctx/Dockerfile", dockerfile);
    let options = ["--output", "type=image,rewrite-timestamp=true", "-t", "built"];
    let epoch = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    container.scene.rebuild(options).args(epoch).ok();
    let shown = container.scene.mica(["inspect", "built"]).ok().json();
    let id = shown[0]["Id"].as_str().expect("a digest");
    for device in [&["--device=/dev/fuse"][..], &[]] {
        let built = container.run(&[&["--user=0"], device].concat(), "build").ok();
        let built = built.says("33:44 regular").says(id);
        assert_eq!(
            built.count("steps run on copies") > 0,
            device.is_empty(),
            "{}",
            built.describe()
        );
    }
}

#[test]
fn a_container_that_lacks_something_is_told_what() {
    if machine::programs(&["podman"]).is_none() {
        return;
    }
    let Some(scene) = Scene::changed_by(MACHINE) else {
        return;
    };
    let container = Container::of(scene);
    let user = "--user=1000:1000";
    container
        .run(&[user], "mica doctor || build")
        .fails()
        .says("cannot be used")
        .says("mica doctor")
        .says("mend it with: docker run --device /dev/fuse");
    // As Docker's profile does it.
    container.scene.write(
        "profile.json",
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["unshare"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let profile = format!(
        "--security-opt=seccomp={}",
        container.scene.path("profile.json").display()
    );
    container
        .run(&[user, "--device=/dev/fuse", &profile], "mica doctor || build")
        .fails()
        .says("cannot create a user namespace")
        .says("hint: docker run --security-opt seccomp=unconfined");
    container.scene.shell("chmod 600 fuse/fuse").ok();
    container
        .run(&[user, "--device=/dev/fuse"], "mica doctor || build")
        .fails()
        .says("cannot open /dev/fuse")
        .says("mend it with: on the machine, before the container is started: chmod 666 /dev/fuse");
}

/// podman of a user, whose container's root is that user.
#[test]
fn a_container_of_rootless_podman_builds() {
    if machine::programs(&["podman", "newuidmap"]).is_none() {
        return;
    }
    let Some(scene) = Scene::user_changed_by(MACHINE) else {
        return;
    };
    let container = Container::of(scene);
    for user in ["--user=0", "--user=1000:1000"] {
        container
            .run(&[user, "--device=/dev/fuse"], "build")
            .ok()
            .says("33:44 regular")
            .says("0:0 character");
    }
    // podman keeps a process that holds the user's namespaces.
    let scene = &container.scene;
    scene
        .command("podman")
        .args(STORAGE)
        .args(["system", "migrate"])
        .ok();
    wait_until("no process is left", || {
        processes_naming(scene.directory()).is_empty()
    });
}
