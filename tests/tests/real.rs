//! Dockerfiles as popular projects have them (`tests/real`), built by root and by unprivileged users. What their
//! images hold must work, and all must have made the same.
//!
//! Three of them are in every run, by root and a user with subordinate ids; all by `scripts/test --long`, by a user without
//! such ids as well. They install packages of Debian, PyPI, npm and
//! crates.io, from where this machine's own tools get them: the steps see its settings as secrets.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mica_tests::image::Random;
use mica_tests::{Image, Scene, base, machine, registries};

/// What installing packages makes another one each time; these Dockerfiles do not mind.
const RANDOM: &[Random] = &[
    ("var/log/", "times"),
    ("var/cache/apt/", "times"),
    ("var/cache/ldconfig/aux-cache", "times and inode numbers"),
    ("var/cache/debconf/", "the order of hashes in Perl"),
    ("*.pyc", "when the source was written"),
    ("tmp/node-compile-cache/", "code as it was in memory"),
    ("etc/ssl/certs/ssl-cert-snakeoil.pem", "a certificate"),
    ("etc/ssl/private/ssl-cert-snakeoil.key", "its key"),
    // Of single projects.
    ("usr/share/layerd/test-report.txt", "how long tests took"),
    ("usr/share/catalog/report.xml", "how long tests took"),
    (
        "venv/lib/python3.11/site-packages/catalog-2.1.0.dist-info/",
        "when uv saw the project",
    ),
    (
        "opt/java/lib/server/classes.jsa",
        "classes as they were in memory",
    ),
    ("application/ledger.jsa", "classes as they were in memory"),
    (
        "opt/venv/lib/python3.11/site-packages/psycopg_c",
        "where it was compiled",
    ),
    ("usr/local/bin/redis-", "the program knows when it was compiled"),
];

#[test]
fn nginx_with_templates_and_a_site() {
    check("nginx", &["REVISION=r1"]);
}

#[test]
fn redis_compiled_from_source() {
    if machine::is_long() {
        check("redis", &[]);
    }
}

#[test]
fn postgres_with_its_entrypoint() {
    check("postgres", &[]);
}

#[test]
fn node_workspace_with_vite_and_an_api() {
    if machine::is_long() {
        check("node", &["BUILD_DATE=2026-01-01T00:00:00Z"]);
    }
}

#[test]
fn django_on_a_platform_with_triggers() {
    if machine::is_long() {
        check("django", &[]);
    }
}

#[test]
fn fastapi_installed_by_uv() {
    check("fastapi", &[]);
}

#[test]
fn go_service_from_scratch() {
    if machine::is_long() {
        check("go", &["VERSION=v1.4.2", "COMMIT=abc123"]);
    }
}

#[test]
fn rust_workspace_with_cached_dependencies() {
    if machine::is_long() {
        check("rust", &["GIT_SHA=0123abc"]);
    }
}

#[test]
fn php_with_apache_and_an_extension() {
    if machine::is_long() {
        check("php", &[]);
    }
}

#[test]
fn java_on_a_runtime_of_its_own() {
    if machine::is_long() {
        check("java", &["VERSION=2.0"]);
    }
}

/// The project is built and tested by everyone, and all images are alike.
fn check(name: &str, build_args: &[&str]) {
    let Some(shared) = machine::shared() else { return };
    let Some(secrets) = registries::settings() else {
        return;
    };
    let Some(bases) = base::archives(&shared, &["debian"]) else {
        return;
    };
    let archive = fs::read(bases.join("debian.tar")).expect("the archive was made");
    let scenes = match machine::is_long() {
        true => Scene::in_every_id_mode(),
        false => Scene::everyone(),
    };
    let mut images: Vec<Image> = Vec::new();
    for scene in &scenes {
        scene.mica(["load"]).stdin(archive.clone()).ok();
        build(scene, name, build_args, &secrets);
        let script = scene.read("ctx/test.sh");
        let tested = scene.shell(&script).env("IMAGE", name).run();
        assert!(
            tested.status.success(),
            "as {}\n{}",
            scene.who(),
            tested.describe()
        );
        images.push(Image::read(scene, name));
        scene.is_clean();
    }
    if let [first, others @ ..] = images.as_slice() {
        for (number, other) in others.iter().enumerate() {
            first.must_equal(other, &format!("unprivileged user {}", number + 1), RANDOM);
        }
    }
}

/// Builds a project's image, and once more, which must execute nothing.
fn build(scene: &Scene, name: &str, build_args: &[&str], secrets: &BTreeMap<&str, Vec<u8>>) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("real").join(name);
    scene.copy(&project, "ctx");
    for (id, content) in secrets {
        scene.write(&format!("secrets/{id}"), content);
    }
    let command = || {
        let secrets = secrets.keys().map(|id| format!("id={id},src=secrets/{id}"));
        let secrets = secrets.flat_map(|secret| ["--secret".to_owned(), secret]);
        let arguments = build_args.iter().flat_map(|argument| ["--build-arg", argument]);
        let times = ["--output", "type=image,rewrite-timestamp=true"];
        scene
            .rebuild(["-t", name, "--build-arg", "SOURCE_DATE_EPOCH=1700000000"])
            .args(times)
            .args(secrets)
            .args(arguments)
    };
    let built = command().run();
    assert!(built.status.success(), "as {}\n{}", scene.who(), built.describe());
    let first = scene.images();
    command().ok().lacks(" DONE ");
    assert_eq!(scene.images(), first, "as {}", scene.who());
}
