//! The client against servers of the test's own, one answer after the other.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use mica_fs::digest::Digest;

use super::{read as read_manifest, *};
use crate::image::OCI_MANIFEST;

/// A server: gives each request, its first line and headers, to `answer`, and sends what that returns. The probe for the
/// scheme is answered without asking.
struct Server {
    host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                while reader.read_line(&mut head).unwrap() > 2 {}
                let text = match head.starts_with("GET /v2/ ") {
                    true => ok("", ""),
                    false => {
                        log.lock().unwrap().push(head.clone());
                        answer(&head)
                    }
                };
                // The client may have seen enough.
                let _ = stream.write_all(text.as_bytes());
            }
        });
        Self { host, seen }
    }

    fn repository(&self, settings: Settings) -> Repository {
        let client = Client::new(settings, Arc::new(|| false));
        let name = format!("{}/a/b", self.host);
        client.repository(&Reference::parse(&name).unwrap()).unwrap()
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn ok(headers: &str, body: &str) -> String {
    answer("200 OK", headers, body)
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

/// An answer that ends before its body does.
fn cut(status: &str, headers: &str, body: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}")
}

fn read(blob: &mut Blob) -> Result<String, RegistryError> {
    let mut text = String::new();
    match blob.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(error.downcast::<RegistryError>().unwrap()),
    }
}

const BODY: &str = "0123456789";

fn range_of(head: &str) -> Option<usize> {
    let line = head.lines().find_map(|line| {
        line.to_lowercase()
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
    })?;
    line.split('-').next()?.parse().ok()
}

#[test]
fn a_blob_goes_on_where_it_broke_off() {
    let server = Server::start(|head| match range_of(head) {
        None => cut("200 OK", "", &BODY[..3], 10),
        Some(at) if at < 6 => {
            let range = format!("Content-Range: bytes {at}-9/10\r\n");
            cut("206 Partial Content", &range, &BODY[at..at + 2], 10 - at)
        }
        Some(at) => {
            let range = format!("Content-Range: bytes {at}-9/10\r\n");
            answer("206 Partial Content", &range, &BODY[at..])
        }
    });
    let repository = server.repository(Settings::default());
    assert_eq!(read(&mut repository.blob(Digest::of(b""), 10, 0)).unwrap(), BODY);
    let from = server
        .seen()
        .iter()
        .map(|head| range_of(head))
        .collect::<Vec<_>>();
    assert_eq!(from, [None, Some(3), Some(5), Some(7)]);
}

#[test]
fn a_server_without_ranges_is_read_from_the_start() {
    let server = Server::start(|_| ok("", BODY));
    let repository = server.repository(Settings::default());
    assert_eq!(read(&mut repository.blob(Digest::of(b""), 10, 7)).unwrap(), "789");
    let error = read(&mut repository.blob_range(Digest::of(b""), 7..9)).unwrap_err();
    assert!(matches!(error, RegistryError::NoRanges { .. }), "{error}");
}

#[test]
fn another_size_than_announced_is_an_error_before_a_byte_is_read() {
    let server = Server::start(|_| ok("", BODY));
    let repository = server.repository(Settings::default());
    let error = read(&mut repository.blob(Digest::of(b""), 9, 0)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has 10 bytes, where the manifest says 9"),
        "{error}"
    );
}

#[test]
fn a_blob_that_never_comes_is_given_up() {
    let server = Server::start(|_| cut("200 OK", "", "", 10));
    let repository = server.repository(Settings::default());
    let error = read(&mut repository.blob(Digest::of(b""), 10, 0)).unwrap_err();
    assert!(error.to_string().contains("broke off after 0 bytes"), "{error}");
    assert_eq!(server.seen().len(), 5);
}

#[test]
fn credentials_stay_with_their_host() {
    let store = Server::start(|_| ok("", BODY));
    let place = format!("Location: http://{}/x?key=1\r\n", store.host);
    let server = Server::start(
        move |head| match head.to_lowercase().contains("\r\nauthorization: basic ") {
            false => answer("401 Unauthorized", "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
            true => answer("307 Temporary Redirect", &place, ""),
        },
    );
    let settings = Settings {
        credentials: Credentials::given(Login::User("me".to_owned(), Password::new("s3cret"))),
        ..Settings::default()
    };
    let repository = server.repository(settings);
    assert_eq!(read(&mut repository.blob(Digest::of(b""), 10, 0)).unwrap(), BODY);
    let seen = store.seen().concat().to_lowercase();
    assert!(
        seen.contains("get /x?key=1") && !seen.contains("authorization"),
        "{seen}"
    );
}

#[test]
fn refusals_say_what_the_registry_said() {
    let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest\u001b unknown"}]}"#;
    let server = Server::start(move |_| answer("404 Not Found", "", body));
    let repository = server.repository(Settings::default());
    let error = repository.manifest(ManifestName::Tag("t")).unwrap_err();
    let name = repository.name();
    let expected = format!(
        "the manifest of {name}:t: {} answered 404 Not Found: manifest unknown",
        server.host
    );
    assert_eq!(error.to_string(), expected);
    assert!(error.is_unknown());
    assert_eq!(repository.manifest_digest(ManifestName::Tag("t")).unwrap(), None);
    assert_eq!(repository.blob_size(&Digest::of(b"")).unwrap(), None);
}

#[test]
fn another_manifest_than_asked_for_is_refused() {
    let server = Server::start(|_| ok("", "{}"));
    let repository = server.repository(Settings::default());
    let error = repository
        .manifest(ManifestName::Digest(Digest::of(b"x")))
        .unwrap_err();
    assert!(matches!(error, RegistryError::Digest { .. }), "{error}");
    let stated = format!("Docker-Content-Digest: {}\r\n", Digest::of(b"x"));
    let server = Server::start(move |_| ok(&stated, "{}"));
    let error = server
        .repository(Settings::default())
        .manifest(ManifestName::Tag("t"));
    assert!(matches!(error, Err(RegistryError::Digest { .. })));
}

#[test]
fn tags_come_page_by_page() {
    let server = Server::start(|head| match head.contains("last=b") {
        false => ok(
            "Link: </v2/a/b/tags/list?last=b&n=2>; rel=\"next\"\r\n",
            r#"{"tags":["a","b"]}"#,
        ),
        true => ok("", r#"{"tags":["c"]}"#),
    });
    assert_eq!(
        server.repository(Settings::default()).tags().unwrap(),
        ["a", "b", "c"]
    );
    let empty = Server::start(|_| ok("", r#"{"tags":null}"#));
    assert!(empty.repository(Settings::default()).tags().unwrap().is_empty());
}

#[test]
fn a_mirror_that_fails_is_passed_over() {
    let mirror = Server::start(|_| answer("503 Service Unavailable", "", ""));
    let origin = Server::start(|_| ok("", r#"{"schemaVersion":2}"#));
    let text = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}/m\"\n",
        origin.host, mirror.host
    );
    let settings = Settings {
        config: Config::parse(&text, std::path::Path::new("f")).unwrap(),
        ..Settings::default()
    };
    let found = origin
        .repository(settings)
        .manifest(ManifestName::Tag("t"))
        .unwrap();
    assert_eq!(found.bytes, br#"{"schemaVersion":2}"#);
    assert!(mirror.seen()[0].starts_with("GET /v2/m/a/b/manifests/t "));
    assert_eq!(mirror.seen().len(), 1);
}

#[test]
fn an_index_gives_the_image_of_the_very_variant() {
    let entry = |architecture: &str, variant: Option<&str>, number: u8| {
        let mut platform = serde_json::json!({ "os": "linux", "architecture": architecture });
        if let Some(variant) = variant {
            platform["variant"] = variant.into();
        }
        serde_json::json!({
            "mediaType": OCI_MANIFEST, "digest": Digest::of(&[number]), "size": 1, "platform": platform,
        })
    };
    let mut attestation = entry("unknown", None, 9);
    attestation["annotations"] = serde_json::json!({ "vnd.docker.reference.type": "attestation-manifest" });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        attestation,
        entry("arm", Some("v6"), 1),
        entry("arm", Some("v7"), 2),
        entry("arm64", Some("v8"), 3),
        entry("amd64", None, 4),
    ] });
    let fetched = FetchedManifest::of(index.to_string().into_bytes(), "").unwrap();
    let chosen = |text: &str| read_manifest("x", &fetched, &crate::plan::platform(text).unwrap());
    let number = |n: u8| Reading::Index(Digest::of(&[n]));
    assert_eq!(chosen("linux/arm/v7").unwrap(), number(2));
    assert_eq!(chosen("linux/arm/v6").unwrap(), number(1));
    assert_eq!(chosen("linux/arm64").unwrap(), number(3));
    assert_eq!(chosen("linux/amd64").unwrap(), number(4));
    let error = chosen("linux/s390x").unwrap_err().to_string();
    assert_eq!(
        error,
        "x has no image for linux/s390x, only for linux/amd64, linux/arm/v6, linux/arm/v7, linux/arm64/v8"
    );
}
