//! ADD of URLs: what arrives, what is fetched again, and what is refused.

use std::sync::atomic::{AtomicUsize, Ordering};

use mica_tests::archive::{Tar, gzip, sha256};
use mica_tests::server::Answer;
use mica_tests::{Scene, Server};

#[test]
fn files_come_from_urls() {
    for scene in Scene::everyone() {
        let server = Server::start();
        server.file("/dir/tool.txt", "tool\n");
        server.file("/a%20b", "spaced\n");
        let dockerfile = format!(
            "FROM base\n\
             ARG NAME=tool.txt\n\
             WORKDIR /w\n\
             ADD {server}/dir/$NAME?v=1 /into/\n\
             ADD {server}/dir/tool.txt renamed\n\
             ADD {server}/dir/tool.txt /etc\n\
             ADD --chown=1:2 --chmod=755 --link {server}/dir/tool.txt {server}/a%20b /two/\n\
             RUN stat -c '%n %a %u:%g %Y' /into/tool.txt /w/renamed /etc/tool.txt /two/* > /stat\n",
            server = server.url("")
        );
        scene.build(&dockerfile, ["-t", "added"]).ok();
        assert_eq!(
            scene.cat("added", "/stat"),
            "/into/tool.txt 600 0:0 784111777\n\
             /w/renamed 600 0:0 784111777\n\
             /etc/tool.txt 600 0:0 784111777\n\
             /two/a b 755 1:2 784111777\n\
             /two/tool.txt 755 1:2 784111777\n",
            "as {}",
            scene.who()
        );
        assert_eq!(scene.cat("added", "/two/a b"), "spaced\n");
        scene.is_clean();
    }
}

#[test]
fn an_unchanged_url_is_not_fetched_again() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.file("/x", "one");
    let dockerfile = format!("FROM base\nADD {} /x\n", server.url("/x"));
    scene.build(&dockerfile, ["-t", "i"]).ok();
    assert_eq!(server.log(), ["GET /x 200"]);
    server.clear_log();
    scene.rebuild(["-t", "i"]).ok().says("#2 CACHED");
    assert_eq!(server.log(), ["GET /x 304"]);
    // A build that runs its steps anew needs no transfer either.
    scene.rebuild(["-t", "i", "--no-cache"]).ok();
    assert_eq!(server.log(), ["GET /x 304", "GET /x 304"]);
    server.file("/x", "two");
    scene.rebuild(["-t", "i"]).ok().lacks("#2 CACHED");
    assert_eq!(scene.cat("i", "/x"), "two");
    // Back to what it was: the step is in the cache, by what it holds.
    server.file("/x", "one");
    scene.rebuild(["-t", "i"]).ok().says("#2 CACHED");
    assert_eq!(scene.cat("i", "/x"), "one");
}

#[test]
fn a_server_without_tags_is_asked_by_time_or_in_full() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.on("/timed", |request| match request.header("if-modified-since") {
        Some(_) => Answer::new("304 Not Modified", ""),
        None => Answer::new("200 OK", "x").header("Last-Modified", mica_tests::server::MODIFIED),
    });
    server.on("/tagged", |_| {
        Answer::new("200 OK", "y").header("ETag", "\"always\"")
    });
    server.on("/plain", |_| Answer::new("200 OK", "z"));
    let [timed, tagged, plain] = ["/timed", "/tagged", "/plain"].map(|path| server.url(path));
    let dockerfile = format!("FROM base\nADD {timed} {tagged} {plain} /\nRUN stat -c %Y /plain > /time\n");
    scene.build(&dockerfile, ["-t", "i"]).ok();
    scene.rebuild(["-t", "i"]).ok().says("#2 CACHED");
    let asked = server.log();
    assert_eq!(
        asked[3..],
        ["GET /timed 304", "GET /tagged 200", "GET /plain 200"]
    );
    assert_eq!(scene.cat("i", "/time"), "0\n");
}

#[test]
fn downloads_are_pruned_with_the_cache() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.file("/x", vec![7; 3 << 20]);
    let dockerfile = format!("FROM base\nADD {} /d/x\n", server.url("/x"));
    scene.build(&dockerfile, ["-t", "i"]).ok();
    let layers = || std::fs::read_dir(scene.store().join("layers")).unwrap().count();
    let before = layers();
    scene.mica(["rmi", "i"]).ok();
    scene.mica(["prune", "--force", "--all"]).ok();
    // The layer of the image, and the one of the download.
    assert_eq!(layers(), before - 2);
    scene.mica(["fsck"]).ok();
    server.clear_log();
    scene.rebuild(["-t", "i"]).ok();
    assert_eq!(server.log(), ["GET /x 200"]);
}

#[test]
fn a_checksum_is_verified_and_saves_the_question() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.file("/x", "content");
    let sum = sha256(b"content");
    let with = |checksum: &str| format!("FROM base\nADD --checksum={checksum} {} /x\n", server.url("/x"));
    scene.build(&with(&format!("sha256:{sum}")), ["-t", "i"]).ok();
    scene.rebuild(["-t", "i", "--no-cache"]).ok();
    assert_eq!(server.log(), ["GET /x 200"]);
    // printf content | sha512sum
    let long = "b2d1d285b5199c85f988d03649c37e44fd3dde01e5d69c50fef90651962f48110e9340b60d49a479c4c0b53f5f07d690686dd87d2481937a512e8b85ee7c617f";
    scene.build(&with(&format!("sha512:{long}")), ["-t", "i"]).ok();
    let wrong = "0".repeat(64);
    let url = server.url("/x");
    scene
        .build(&with(&format!("sha256:{wrong}")), ["-t", "never"])
        .fails()
        .says("Dockerfile:2:1")
        .says(&format!(
            "{url}: digest mismatch: expected sha256:{wrong}, got sha256:{sum}"
        ));
    for (checksum, message) in [
        ("sha256:00", "a sha256 checksum has 64 digits"),
        ("md5:00", "unsupported digest algorithm \"md5\""),
        ("abc", "a checksum is ALGORITHM:HEX"),
    ] {
        scene
            .build(&with(checksum), [""; 0])
            .fails()
            .says(message)
            .says("Dockerfile:2:5");
    }
    let two = format!("FROM base\nADD --checksum=sha256:{sum} {url} {url} /x/\n");
    scene
        .build(&two, [""; 0])
        .fails()
        .says("checksum can't be specified for multiple sources");
    let local = format!("FROM base\nADD --checksum=sha256:{sum} Dockerfile /x/\n");
    scene
        .build(&local, [""; 0])
        .fails()
        .says("checksum requires HTTP(S) or Git sources");
}

#[test]
fn remote_archives_are_unpacked_if_asked() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    let tar = Tar::new()
        .directory("d/", 0o750)
        .program("d/f", "unpacked")
        .symlink("d/l", "f")
        .bytes();
    server.file("/a.tar.gz", gzip(&tar));
    scene.write("ctx/local.tar.gz", gzip(&tar));
    let url = server.url("/a.tar.gz");
    let dockerfile = format!(
        "FROM base\n\
         ADD {url} /packed/\n\
         ADD --unpack {url} /unpacked/\n\
         ADD --unpack=false {url} local.tar.gz /kept/\n\
         ADD --unpack=true --chown=5 {url} local.tar.gz /both/\n\
         RUN find /packed /unpacked /kept /both | sort > /list; stat -c '%u %a' /both/d /both/d/f >> /list\n"
    );
    scene.build(&dockerfile, ["-t", "i"]).ok();
    assert_eq!(
        scene.cat("i", "/list"),
        "/both\n/both/d\n/both/d/f\n/both/d/l\n\
         /kept\n/kept/a.tar.gz\n/kept/local.tar.gz\n\
         /packed\n/packed/a.tar.gz\n\
         /unpacked\n/unpacked/d\n/unpacked/d/f\n/unpacked/d/l\n\
         5 750\n5 755\n"
    );
}

#[test]
fn a_failed_fetch_names_the_url_and_the_line() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    let tries = std::sync::Arc::new(AtomicUsize::new(0));
    let count = tries.clone();
    server.on("/busy", move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Answer::new("503 Service Unavailable", "").header("Retry-After", "0")
    });
    server.on("/short", |_| {
        Answer::new("200 OK", "abc").header("Content-Length", "1000")
    });
    server.on("/away", |_| {
        Answer::new("302 Found", "").header("Location", "file:///etc/passwd")
    });
    server.on("/private", |_| Answer::new("401 Unauthorized", ""));
    for (path, message) in [
        ("/none", "the server answered 404 Not Found"),
        ("/busy", "the server answered 503 Service Unavailable"),
        ("/short", "the transfer broke off after 3 bytes"),
        ("/away", "file:///etc/passwd"),
        ("/private", "HTTP_AUTH_TOKEN_<host>"),
    ] {
        let url = server.url(path);
        let dockerfile = format!("FROM base\n\nADD {url} /x\n");
        let outcome = scene.build(&dockerfile, ["-t", "never"]).fails();
        outcome.says("Dockerfile:3:1").says(message);
    }
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    let closed = "FROM base\nADD http://127.0.0.1:1/x /x\n";
    scene
        .build(closed, [""; 0])
        .fails()
        .says("http://127.0.0.1:1/x: ")
        .says("refused");
    scene
        .build("FROM base\nCOPY http://h/x /x\n", [""; 0])
        .fails()
        .says("source can't be a URL for COPY");
    assert!(
        scene.images().iter().all(|image| !image.contains("never")),
        "{:?}",
        scene.images()
    );
    scene.is_clean();
}

#[test]
fn credentials_are_sent_and_not_kept() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.on("/token", |request| match request.header("authorization") {
        Some("Bearer t0ps3cret") => Answer::new("200 OK", "by token"),
        other => Answer::new("401 Unauthorized", format!("{other:?}")),
    });
    server.on("/basic", |request| match request.header("authorization") {
        Some("Basic bWU6dDBwczNjcmV0") => Answer::new("200 OK", "by password"),
        other => Answer::new("401 Unauthorized", format!("{other:?}")),
    });
    let basic = server
        .url("/basic")
        .replace("http://127.0.0.1", "http://me:t0ps3cret@localhost");
    let dockerfile = format!(
        "FROM base\nADD {} /token\nADD {basic} /basic\n",
        server.url("/token")
    );
    scene
        .build(
            &dockerfile,
            ["-t", "i", "--secret", "id=HTTP_AUTH_TOKEN_127.0.0.1,env=TOKEN"],
        )
        .env("TOKEN", "t0ps3cret")
        .ok();
    assert_eq!(scene.cat("i", "/token"), "by token");
    let history = scene.mica(["history", "--no-trunc", "i"]).ok();
    history.says("me:xxxxx@").lacks("t0ps3cret");
}

#[test]
fn redirects_are_followed() {
    let Some(scene) = Scene::with_base() else { return };
    let server = Server::start();
    server.file("/real/file", "found");
    server.on("/moved", |_| {
        Answer::new("301 Moved Permanently", "").header("Location", "/real/file")
    });
    let dockerfile = format!("FROM base\nADD {} /into/\n", server.url("/moved"));
    scene.build(&dockerfile, ["-t", "i"]).ok();
    assert_eq!(scene.cat("i", "/into/moved"), "found");
}
