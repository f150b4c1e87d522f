//! What comes from registries: manifests, indexes, configurations, challenges, and the files that say how to reach them.

use std::fs;
use std::path::Path;

use mica_builder::image::{Image, ImageConfig, Platform};
use mica_builder::reference::Reference;
use mica_builder::registry::{Client, Config, Credentials, FetchedManifest, Settings, challenge, read};
use mica_fs::store::Store;

use super::fuzz;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const MANIFESTS: [&str; 4] = [
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"DIGEST","size":10},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"DIGEST","size":20,"annotations":{"a":"b"},"urls":["x"]}],"annotations":{"c":"d"},"artifactType":"e/f"}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"DIGEST","size":10,"platform":{"architecture":"amd64","os":"linux","variant":"v2","os.version":"1"}},{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"DIGEST","size":1,"annotations":{"vnd.docker.reference.type":"attestation-manifest"}}]}"#,
    r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":7023,"digest":"DIGEST"},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":32654,"digest":"DIGEST"}]}"#,
    r#"{"schemaVersion":1,"name":"a/b","tag":"c","architecture":"amd64","fsLayers":[{"blobSum":"DIGEST"}],"history":[{"v1Compatibility":"{}"}],"signatures":[]}"#,
];

const CONFIG: &str = r#"{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","config":{"Env":["PATH=/bin"],"Cmd":["sh"],"Entrypoint":null,"ExposedPorts":{"80/tcp":{}},"Volumes":{"/v":{}},"Labels":{"a":"b"},"User":"1:2","WorkingDir":"/w","StopSignal":"SIGTERM","Healthcheck":{"Test":["CMD","x"],"Interval":1000000000},"Shell":["sh"],"OnBuild":["RUN x"]},"rootfs":{"type":"layers","diff_ids":["DIGEST"]},"history":[{"created":"2024-01-01T00:00:00.123456789Z","created_by":"x","comment":"y","empty_layer":true}]}"#;

const JSON: [&str; 34] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "18446744073709551616",
    "\"digest\":",
    "\"size\":",
    "\"mediaType\":",
    "\"layers\":",
    "\"manifests\":",
    "\"config\":",
    "\"platform\":",
    "\"os\":",
    "\"schemaVersion\":",
    "\"rootfs\":",
    "\"diff_ids\":[]",
    "\"history\":",
    "\"urls\":[]",
    "\"annotations\":{}",
    "[[[[",
    "{\"a\":",
    "\\u0000",
    "\\ud800",
    DIGEST,
    "\u{fffd}",
];

fn with_digests(texts: &[&str]) -> Vec<Vec<u8>> {
    texts
        .iter()
        .map(|text| text.replace("DIGEST", DIGEST).into_bytes())
        .collect()
}

#[test]
fn manifests() {
    let corpus = with_digests(&MANIFESTS);
    let platform = Platform::host();
    fuzz(
        |mutator| mutator.document(&corpus, &JSON),
        |text: &Vec<u8>| {
            for content_type in ["", "application/vnd.oci.image.manifest.v1+json"] {
                let fetched = match FetchedManifest::of(text.clone(), content_type) {
                    Ok(fetched) => fetched,
                    Err(reason) => return assert!(!reason.is_empty()),
                };
                if let Err(error) = read("name", &fetched, &platform) {
                    assert!(error.to_string().starts_with("name"), "{error}");
                    error.hint();
                }
            }
        },
    );
}

#[test]
fn configurations() {
    let corpus = with_digests(&[CONFIG]);
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&directory.path().join("store")).expect("opened");
    fuzz(
        |mutator| mutator.document(&corpus, &JSON),
        |text: &Vec<u8>| {
            let Ok(config) = serde_json::from_slice::<ImageConfig>(text) else {
                return;
            };
            config.platform();
            let again = serde_json::to_vec(&config).expect("it was JSON");
            let read: ImageConfig = serde_json::from_slice(&again).expect("it is still");
            assert_eq!(read, config);
            // Without layers it becomes an image.
            if config.rootfs.diff_ids.is_empty() {
                let image = Image::write(&store, config, None).expect("written");
                assert!(Image::load(&store, &image.manifest_digest).is_ok());
            }
        },
    );
}

const CHALLENGES: [&str; 3] = [
    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#,
    r#"Basic realm="a b", charset="UTF-8", bearer REALM = "x\"y" , error=invalid_token"#,
    r#"Negotiate abc==, Digest qop="auth", nonce=1"#,
];

#[test]
fn challenges() {
    let corpus: Vec<Vec<u8>> = CHALLENGES.map(|text| text.as_bytes().to_vec()).into();
    let words = [
        "Bearer ", "Basic ", "realm=", "scope=", "\"", "\\", ",", "=", " ", "é", "\u{0}",
    ];
    fuzz(
        |mutator| mutator.document(&corpus, &words),
        |text: &Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            challenge::choose(text.lines());
        },
    );
}

const REGISTRIES: &str = r#"
[[registry]]
prefix = "docker.io/library"
location = "mirror.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "a.example/b"
pull-from-mirror = "digest-only"
[[registry]]
prefix = "*.example.org"
blocked = false
"#;

#[test]
fn files_of_registries() {
    let corpus = vec![REGISTRIES.as_bytes().to_vec()];
    let words = [
        "[[registry]]\n",
        "[[registry.mirror]]\n",
        "prefix = ",
        "location = ",
        "\"\"",
        "\"*\"",
        "\"docker.io\"",
        "\"/\"",
        "\"é\"",
        "\n",
        "=",
        "true",
        "\"docker.io/library/busybox\"",
        "'''",
    ];
    let names = ["busybox", "a.example.org/x", "localhost:5000/a/b"];
    let references = names.map(|name| Reference::parse(name).expect("a name"));
    fuzz(
        |mutator| mutator.document(&corpus, &words),
        |text: &Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            let Ok(config) = Config::parse(&text, Path::new("registries.conf")) else {
                return;
            };
            let settings = Settings {
                config,
                ..Settings::default()
            };
            let client = Client::new(settings, std::sync::Arc::new(|| true));
            for reference in &references {
                if let Ok(repository) = client.repository(reference) {
                    assert!(!repository.origin().is_mirror());
                }
            }
        },
    );
}

const AUTH: &str = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"bWU6aHVi"},"quay.io/team":{"identitytoken":"a"},"b":{"username":"c","password":"d"},"e":{}},"HttpHeaders":{"f":"g"}}"#;

#[test]
fn files_of_credentials() {
    let corpus = vec![AUTH.as_bytes().to_vec()];
    let own = ["\"auths\":", "\"auth\":", "\"bWU6aHVi\"", "\"quay.io\":", "\"=\""];
    let words = [&JSON[..], &own].concat();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("config.json");
    fuzz(
        |mutator| mutator.document(&corpus, &words),
        |text: &Vec<u8>| {
            fs::write(&path, text).expect("written");
            let credentials = Credentials::of_user(Some(path.clone()), &|_| None);
            for name in ["docker.io/library/busybox", "quay.io/team/x", "b", "e"] {
                if let Err(error) = credentials.find(name) {
                    assert!(error.to_string().contains("config.json"));
                }
            }
        },
    );
}
