//! Dockerfiles as popular projects have them (`tests/real`), built by root and by an unprivileged user. What their
//! images hold must work, and both must have made the same.
//!
//! Three of them are in every run, all by `scripts/test --long`. They install packages of Debian, PyPI, npm and
//! crates.io, from where this machine's own tools get them: the steps see its settings as secrets.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use mica_tests::{Scene, base, machine, registries};
use serde_json::Value;

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
    let mut made: Option<Made> = None;
    for scene in Scene::everyone() {
        scene.mica(["load"]).stdin(archive.clone()).ok();
        build(&scene, name, build_args, &secrets);
        let script = scene.read("ctx/test.sh");
        let tested = scene.shell(&script).env("IMAGE", name).run();
        assert!(
            tested.status.success(),
            "as {}\n{}",
            scene.who(),
            tested.describe()
        );
        let this = Made::read(&scene, name);
        scene.is_clean();
        match &made {
            None => made = Some(this),
            Some(other) => other.equals(&this),
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
        scene.rebuild(["-t", name]).args(secrets).args(arguments)
    };
    let built = command().run();
    assert!(built.status.success(), "as {}\n{}", scene.who(), built.describe());
    let first = scene.images();
    command().ok().lacks(" DONE ");
    assert_eq!(scene.images(), first, "as {}", scene.who());
}

/// What an image is made of, but for the content and the times of its files.
struct Made {
    config: Value,
    layers: Vec<BTreeMap<String, String>>,
}

impl Made {
    fn read(scene: &Scene, name: &str) -> Self {
        let shown = scene.mica(["inspect", name]).ok().json();
        let layers = shown[0]["RootFS"]["Layers"].as_array().expect("a list of layers");
        let layers = layers.iter().map(|diff_id| {
            let diff_id = diff_id.as_str().expect("a digest");
            let hex = diff_id.strip_prefix("sha256:").expect("a digest of SHA-256");
            entries(&scene.store().join("layers").join(hex).join("tar"))
        });
        Self {
            config: shown[0]["Config"].clone(),
            layers: layers.collect(),
        }
    }

    #[track_caller]
    fn equals(&self, other: &Self) {
        assert_eq!(self.config, other.config);
        assert_eq!(self.layers.len(), other.layers.len());
        for (number, (one, another)) in self.layers.iter().zip(&other.layers).enumerate() {
            let differ = |(path, entry): &(&String, &String)| another.get(*path) != Some(*entry);
            let here: Vec<_> = one.iter().filter(differ).collect();
            let there: Vec<_> = another
                .iter()
                .filter(|(path, entry)| one.get(*path) != Some(*entry))
                .collect();
            assert!(
                here.is_empty() && there.is_empty(),
                "layer {number} differs\nroot's: {here:#?}\nthe user's: {there:#?}"
            );
        }
    }
}

/// Each entry of a layer: type, mode, owner and link.
fn entries(tar: &Path) -> BTreeMap<String, String> {
    let file = File::open(tar).unwrap_or_else(|error| panic!("{}: {error}", tar.display()));
    let mut archive = tar::Archive::new(BufReader::new(file));
    let entries = archive.entries().expect("a tar");
    let describe = |entry: tar::Entry<'_, _>| {
        let header = entry.header();
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        let text = format!(
            "{:?} {:o} {}:{} {}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            String::from_utf8_lossy(&link)
        );
        (String::from_utf8_lossy(&entry.path_bytes()).into_owned(), text)
    };
    entries.map(|entry| describe(entry.expect("a tar"))).collect()
}
