//! Builds where FUSE cannot be had: on copies, said once, and to the same layers.

use mica_tests::scene::NO_SUBORDINATE_IDS;
use mica_tests::{Scene, base};

/// /dev without the device.
const WITHOUT: &str = "\
mkdir -p nofuse; mount -t tmpfs tmpfs nofuse
for name in null zero full random urandom tty; do touch nofuse/$name; mount --bind /dev/$name nofuse/$name; done
mount --rbind nofuse /dev
";
/// A device that only root of the machine may open.
const CLOSED: &str = "mknod -m 600 dev/closed c 10 229; mount --bind dev/closed /dev/fuse\n";

/// Every kind of change, with times that come again.
const DOCKERFILE: &str = "\
FROM base
RUN mkdir -p /a/b/c && echo x > /a/f && ln /a/f /a/hard && ln -s f /a/sym && mkfifo /a/fifo && echo y > /a/b/c/y && \\
    chown 7:8 /a/f && chmod 4755 /a/f && mkdir /empty && echo stays > /a/stays && find /a /empty -exec touch -hd @1000000000 {} +
RUN echo more >> /a/hard && rm /a/sym && mv /a/b /a/moved && chmod 700 /home/user && chown -h 9:9 /a/fifo && \\
    find /a -exec touch -hd @1000000001 {} +
RUN rm -r /a && mkdir /a && echo new > /a/n && find /a -exec touch -hd @1000000002 {} +
RUN true
RUN echo changed > /etc/resolv.conf && rm -f /etc/hosts; rmdir /empty
RUN --mount=type=bind,from=base,source=/etc,target=/m,rw --mount=type=tmpfs,target=/t \\
    echo z > /m/z && cat /m/passwd | head -n 1 > /first && touch -d @1000000003 /first
RUN cp -a /etc/passwd /etc/copied && chown user /home/user && touch -d @1000000004 /etc/copied /home /etc
RUN touch /etc/brief /brief && rm /etc/brief /brief && chmod 600 /etc/group && touch -d @1000000005 /etc
USER user
RUN id -u > /home/user/who && touch -d @1000000006 /home/user/who /home/user
";

fn layers(scene: &Scene) -> serde_json::Value {
    let shown = scene.mica(["inspect", "made"]).ok().json();
    shown[0]["RootFS"]["Layers"].clone()
}

fn built(scene: &Scene, args: &[&str]) -> mica_tests::Outcome {
    scene
        .build(
            DOCKERFILE,
            ["--build-arg", "SOURCE_DATE_EPOCH=1000000000", "-t", "made"],
        )
        .args(args)
        .ok()
}

#[test]
fn without_fuse_the_layers_are_the_same() {
    let scenes = [
        (Scene::as_root(), Scene::changed_by(WITHOUT).inspect(base::load)),
        (
            Scene::as_user(),
            Scene::user_changed_by(CLOSED).inspect(base::load),
        ),
    ];
    for (with, without) in scenes {
        let (Some(with), Some(without)) = (with, without) else {
            continue;
        };
        drop(built(&with, &[]).lacks("copies of their root filesystems"));
        let told = built(&without, &[]);
        assert_eq!(
            told.count("copies of their root filesystems"),
            1,
            "{}",
            told.describe()
        );
        assert_eq!(layers(&with), layers(&without), "as {}", with.who());
        // What a step read is not known, what it was is.
        drop(built(&without, &[]).says("CACHED").lacks("copies of"));
        without.is_clean();
        without.mica(["fsck"]).ok();
    }
}

#[test]
fn without_fuse_run_works_and_a_failed_step_leaves_nothing() {
    for scene in [
        Scene::changed_by(WITHOUT).inspect(base::load),
        Scene::user_changed_by(CLOSED).inspect(base::load),
    ] {
        let Some(scene) = scene else { continue };
        let run = [
            "run",
            "--rm",
            "base",
            "sh",
            "-c",
            "echo x > /x && cat /x && ! cat /dev/fuse; rm -rf /etc",
        ];
        scene.mica(run).ok().says("x").says("copies of");
        scene
            .build("FROM base\nRUN mknod /d b 8 0; ! cat /d && false\n", ["-q"])
            .fails()
            .says("Dockerfile:2");
        scene.is_clean();
    }
}

/// With a single id the owners of files are known to our filesystem alone.
#[test]
fn without_fuse_a_single_id_is_refused_with_a_hint() {
    for change in [CLOSED, WITHOUT] {
        let Some(scene) = Scene::user_changed_by(&format!("{NO_SUBORDINATE_IDS}{change}")) else {
            return;
        };
        base::load(&scene);
        scene
            .build("FROM base\nRUN true\n", ["-q"])
            .fails()
            .says("Dockerfile:2")
            .says("/dev/fuse")
            .says("mica doctor")
            .lacks("copies of");
        scene
            .mica(["run", "--rm", "base", "true"])
            .exits(125)
            .says("/dev/fuse")
            .says("mica doctor");
        // What needs no mount works.
        scene.build("FROM base\nCOPY Dockerfile /\n", ["-q"]).ok();
        scene.is_clean();
    }
}
