//! The same image from two checkouts, whoever builds it, and wherever.

use mica_tests::Scene;
use serde_json::Value;

const EPOCH: &str = "SOURCE_DATE_EPOCH=1700000000";

const DOCKERFILE: &str = "\
FROM base
WORKDIR /srv/app
COPY . .
COPY --chmod=u=rw,go=r --chown=7:8 src/deep/file /other
COPY --link <<END /text
some text
END
RUN touch -d @1600000000 /made && mkdir /dir && touch -d @1600000000 /dir /
";

/// Checks out the same tree in the directory `name` under a umask.
fn check_out(scene: &Scene, name: &str, umask: &str) {
    let dockerfile = scene.write("Dockerfile", DOCKERFILE);
    let script = format!(
        "umask {umask} && mkdir -p {name}/src/deep && cd {name} \
         && echo one > src/deep/file && echo '#!/bin/sh' > src/run && chmod +x src/run \
         && ln src/deep/file src/linked && ln -s deep/file src/link && cat {} > Dockerfile \
         && find . -type f -exec touch -d @1600000000.5 {{}} + && touch -h -d @1600000000 src/link",
        dockerfile.display()
    );
    scene.shell(&script).ok();
}

#[test]
fn the_checkout_s_umask_and_place_and_the_builder_do_not_count() {
    let mut images: Vec<(String, Value)> = Vec::new();
    for scene in Scene::in_every_id_mode() {
        for (name, umask) in [("one", "022"), ("a/longer/place/two", "077")] {
            check_out(&scene, name, umask);
            let build = ["build", "--no-cache", "--build-arg", EPOCH, "-t", "built", name];
            scene.mica(build).ok();
            images.push((format!("{} {name}", scene.who()), scene.config("built")));
        }
    }
    for pair in images.windows(2) {
        assert_eq!(pair[0].1, pair[1].1, "{} and {}", pair[0].0, pair[1].0);
    }
}

#[test]
fn another_checkout_comes_from_the_cache() {
    let Some(scene) = Scene::with_base() else { return };
    check_out(&scene, "one", "022");
    check_out(&scene, "two", "077");
    let build = |name| scene.mica(["build", "--build-arg", EPOCH, name]);
    build("one").ok().says(" DONE ");
    build("two").ok().says(" CACHED").lacks(" DONE ");
}
