//! The image does not depend on who builds it: root, a user with subordinate ids, or a user with none. The Dockerfiles of
//! `real.rs` and the suite of `conformance.rs` are built by all three as well: `scripts/matrix` runs all of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mica_tests::image::Random;
use mica_tests::{Image, Scene, base, machine, registries};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";
const REWRITE: &str = "type=image,rewrite-timestamp=true";

/// Root, a user with subordinate ids, one without.
fn modes() -> Option<[(&'static str, Scene); 3]> {
    Some([
        ("root", Scene::as_root()?),
        ("subuid", Scene::as_user()?),
        ("single", Scene::as_plain_user()?),
    ])
}

const DEVICES: &str = "\
FROM base AS made
RUN mknod /c c 1 3 && mknod -m 640 /b b 8 17 && mknod /zero c 0 0 && mknod /big c 300 70000 && mkfifo -m 600 /p && touch /f
RUN chown 7:8 /b && stat -c '%n %t:%T %F %a %u:%g' /c /b /zero /big > /told && ls /c && [ -c /c ] && [ -b /b ]
RUN cd /home && (umask 027; mknod here c 1 5) && mkdir -m 2775 /group && chown 0:50 /group && mknod /group/in b 7 0
RUN ! mknod /c c 1 3 && ! mknod /none/x c 1 3 && ! mknod /f/x c 1 3 && ! cat /c && rm /zero && mv /big /moved
RUN ln -s /home /link && mknod /link/by b 1 1 && ln /link/by /again && cp -a /c /copied && tar -cf - b c | tar -xf - -C /home
USER user
RUN ! mknod /tmp/c c 1 3 && ! mknod /root/c c 1 3 && mkfifo /tmp/p
USER root
FROM base
COPY --from=made / /all
RUN --mount=from=made,target=/m ls -l /m/c && ! mknod /m/x c 1 3 && chmod 600 /all/c && mknod /all/x b 9 9
";

#[test]
fn devices_are_made_in_every_mode() {
    let Some(modes) = modes() else { return };
    let build = |scene: &Scene| {
        scene
            .build(
                DEVICES,
                ["--output", REWRITE, "--build-arg", EPOCH, "-t", "built"],
            )
            .ok();
        Image::read(scene, "built")
    };
    let images = modes.iter().map(|(who, scene)| (who, build(scene)));
    let images: Vec<_> = images.collect();
    for (who, image) in &images[1..] {
        images[0].1.must_equal(image, who, &[]);
    }
    for (_, scene) in &modes {
        assert_eq!(
            scene.cat("built", "/all/told"),
            "/c 1:3 character special file 644 0:0\n/b 8:11 block special file 640 7:8\n\
             /zero 0:0 character special file 644 0:0\n/big 12c:11170 character special file 644 0:0\n"
        );
        scene.is_clean();
    }
    let [(_, root), (_, user), _] = &modes;
    // Root of a container without the capability, and root of a user namespace.
    for (scene, wrapper) in [
        (root, ["setpriv", "--bounding-set=-mknod", "--inh-caps=-mknod"]),
        (user, ["unshare", "--map-root-user", "--map-auto"]),
    ] {
        scene
            .command("env")
            .args(wrapper)
            .arg(scene.program())
            .args(["build", "--no-cache", "--userns=root", "--output", REWRITE])
            .args(["--build-arg", EPOCH, "-t", "less", "ctx"])
            .ok();
        let less = Image::read(scene, "less");
        images[0].1.must_equal(&less, &wrapper.join(" "), &[]);
    }
}

/// What no two builds make alike, by nature.
const RANDOM: &[Random] = &[
    ("etc/ssh/ssh_host_", "keys"),
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", "a certificate"),
    ("etc/ssl/private/ssl-cert-snakeoil.key", "its key"),
    (
        "var/lib/postgresql/15/main/",
        "a cluster has a random number, and times",
    ),
];

#[test]
fn servers_of_debian_are_installed_alike_in_every_mode() {
    if machine::is_long() {
        is_alike("services", &BTreeMap::new(), RANDOM);
    }
}

#[test]
fn programs_give_and_take_owners_alike_in_every_mode() {
    if !machine::is_long() {
        return;
    }
    let Some(settings) = registries::settings() else {
        return;
    };
    for (_, scene) in is_alike("owners", &settings, &[]).into_iter().flatten() {
        let told = scene.cat("owners", "/served");
        assert_eq!(
            told,
            "(33, 33, 33) (33, 33, 33) [5, 33] refused refused refused refused 33\n(33, 33)\n"
        );
    }
}

/// A project of `tests/real` is built in every mode, to the same image.
fn is_alike(
    name: &str,
    secrets: &BTreeMap<&str, Vec<u8>>,
    random: &[Random],
) -> Option<[(&'static str, Scene); 3]> {
    let shared = machine::shared()?;
    let bases = base::archives(&shared, &["debian"])?;
    let modes = modes()?;
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("real").join(name);
    let archive = fs::read(bases.join("debian.tar")).expect("the archive was made");
    let mut images = Vec::new();
    for (who, scene) in &modes {
        scene.mica(["load"]).stdin(archive.clone()).ok();
        scene.copy(&project, "ctx");
        let mut options = Vec::new();
        for (id, content) in secrets {
            scene.write(&format!("secrets/{id}"), content);
            options.extend(["--secret".to_owned(), format!("id={id},src=secrets/{id}")]);
        }
        scene
            .rebuild(["--output", REWRITE, "--build-arg", EPOCH, "-t", name])
            .args(options)
            .ok();
        images.push((who, Image::read(scene, name)));
        scene.is_clean();
    }
    for (who, image) in &images[1..] {
        images[0].1.must_equal(image, who, random);
    }
    Some(modes)
}
