//! Build contexts that are no directory: tars and Dockerfiles on stdin, URLs, repositories; and named ones.

use mica_tests::archive::{Tar, gzip};
use mica_tests::{Repository, Scene, Server, machine};

fn compressed(tar: &[u8], program: &str) -> Vec<u8> {
    let run = mica_tests::command::tool(program, std::path::Path::new("/"))
        .arg("-c")
        .stdin(tar);
    run.ok().stdout
}

#[test]
fn a_tar_on_stdin_is_the_context() {
    for scene in Scene::everyone() {
        let dockerfile = "FROM base\nCOPY . /ctx\nADD inner.tar.gz /inner/\nRUN --mount=target=/m cat /m/dir/f > /bound; \
                          cd /ctx && stat -c '%n %a %u:%g %Y' dir dir/f link > /stat && ls -A > /list\n";
        let inner = gzip(&Tar::new().file("in", "in").bytes());
        let tar = Tar::new()
            .file("Dockerfile", dockerfile)
            .file(".dockerignore", "dir\n")
            .directory("dir/", 0o710)
            .program("dir/f", "content\n")
            .symlink("link", "dir/f")
            .hard_link("hard", "dir/f")
            .file("inner.tar.gz", &inner)
            .bytes();
        scene
            .mica(["build", "--progress=plain", "-t", "i", "-"])
            .stdin(tar.clone())
            .ok();
        // As with Docker, the ignore file of a tar counts for nothing.
        assert_eq!(
            scene.cat("i", "/list"),
            ".dockerignore\nDockerfile\ndir\nhard\ninner.tar.gz\nlink\n"
        );
        let stat = scene.cat("i", "/stat");
        assert!(stat.starts_with("dir 710 0:0"), "as {}: {stat}", scene.who());
        assert_eq!(scene.cat("i", "/bound"), "content\n");
        assert_eq!(scene.cat("i", "/inner/in"), "in");
        let again = scene
            .mica(["build", "--progress=plain", "-t", "i", "-"])
            .stdin(gzip(&tar))
            .ok();
        again.says("#2 CACHED").says("#4 CACHED");
        scene.is_clean();
    }
}

#[test]
fn every_compression_is_told_by_its_bytes() {
    let Some(scene) = Scene::with_base() else { return };
    let tar = Tar::new()
        .file("sub/Containerfile", "FROM base\nCOPY sub/x /x\n")
        .file("sub/x", "x")
        .bytes();
    for program in ["cat", "gzip", "bzip2", "xz", "zstd"] {
        if program != "cat" && machine::program(program).is_none() {
            continue;
        }
        let bytes = match program {
            "cat" => tar.clone(),
            program => compressed(&tar, program),
        };
        let run = scene
            .mica(["build", "-t", "i", "-f", "sub/Containerfile", "-"])
            .stdin(bytes);
        run.ok();
        assert_eq!(scene.cat("i", "/x"), "x", "{program}");
    }
}

#[test]
fn stdin_may_be_a_dockerfile_for_any_context() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .mica(["build", "-t", "i", "-"])
        .stdin("FROM base\nRUN echo 1 > /one\n")
        .ok();
    assert_eq!(scene.cat("i", "/one"), "1\n");
    let nothing = scene.mica(["build", "-"]).stdin("FROM base\nCOPY x /\n");
    nothing
        .fails()
        .says("Dockerfile:2:1: x: not found in the build context");
    let server = Server::start();
    server.file("/c.tar", Tar::new().file("x", "from the tar").bytes());
    let url = server.url("/c.tar");
    scene
        .mica(["build", "-t", "i", "-f", "-", &url])
        .stdin("FROM base\nCOPY x /\n")
        .ok();
    assert_eq!(scene.cat("i", "/x"), "from the tar");
    scene
        .mica(["build", "-f", "-", "-"])
        .stdin("FROM base\n")
        .exits(2);
    scene
        .mica(["build", "-f", "x", "-"])
        .stdin("FROM base\n")
        .fails()
        .says("which of them is meant");
    scene
        .mica(["build", "-"])
        .stdin("FROM base\nNONSENSE\n")
        .fails()
        .says("Dockerfile:2");
}

#[test]
fn a_url_is_a_context_or_a_dockerfile() {
    for scene in Scene::everyone() {
        let server = Server::start();
        let tar = Tar::new()
            .file("Dockerfile", "FROM base\nCOPY x /\n")
            .file("x", "one")
            .bytes();
        server.file("/c.tar.gz", gzip(&tar));
        let url = server.url("/c.tar.gz");
        let build = |args: &[&str]| scene.mica(["build", "--progress=plain", "-t", "i"]).args(args);
        build(&[&url]).ok();
        assert_eq!(scene.cat("i", "/x"), "one", "as {}", scene.who());
        build(&[&url]).ok().says("#2 CACHED");
        assert_eq!(server.log(), ["GET /c.tar.gz 200", "GET /c.tar.gz 304"]);
        server.file("/Dockerfile", "FROM base\nRUN echo text > /text\n");
        build(&[&server.url("/Dockerfile")]).ok();
        assert_eq!(scene.cat("i", "/text"), "text\n");
        scene.write("ctx/y", "local");
        server.file("/other", "FROM base\nCOPY y /\n");
        build(&["-f", &server.url("/other"), "ctx"]).ok();
        assert_eq!(scene.cat("i", "/y"), "local");
        build(&[&server.url("/none.tar")])
            .fails()
            .says("cannot fetch the build context")
            .says("404");
        build(&["-f", "Other", &url])
            .fails()
            .says("there is no Other in the build context");
        server.file("/bad", "FROM base\nNONSENSE\n");
        build(&[&server.url("/bad")]).fails().says("Dockerfile:2:1");
        scene.is_clean();
    }
}

#[test]
fn a_repository_is_a_context() {
    for scene in Scene::everyone() {
        if machine::programs(&["git"]).is_none() {
            return;
        }
        let server = Server::start();
        server.git(scene.path("hub"));
        let repository = Repository::new(scene.path("hub/app.git"));
        repository
            .write("Dockerfile", "FROM base\nCOPY . /all\n")
            .write("top", "1");
        repository
            .write(
                "sub/dockerfile",
                "FROM base\nCOPY . /all\nRUN ls -A /all > /list\n",
            )
            .write("sub/inner", "2");
        repository.commit();
        let url = server.url("/git/app.git");
        let build = |args: &[&str]| scene.mica(["build", "--progress=plain", "-t", "i"]).args(args);
        build(&[&url, "--build-arg", "SOURCE_DATE_EPOCH=context"]).ok();
        let created = scene.mica(["inspect", "i"]).ok().json()[0]["Created"].clone();
        assert_eq!(created, "2020-09-13T12:26:40Z");
        build(&[&url]).ok();
        assert_eq!(scene.cat("i", "/all/top"), "1", "as {}", scene.who());
        scene.mica(["cat", "i", "/all/.git/HEAD"]).fails();
        build(&[&format!("{url}#main:sub")]).ok();
        assert_eq!(scene.cat("i", "/list"), "dockerfile\ninner\n");
        build(&[&format!("{url}#main:sub")]).ok().says("#3 CACHED");
        build(&["-f", "sub/dockerfile", &url]).ok();
        build(&[&format!("{url}#none")])
            .fails()
            .says("cannot fetch the build context")
            .says("ref none");
        scene.is_clean();
    }
}

#[test]
fn names_stand_for_places_of_every_kind() {
    let Some(scene) = Scene::with_base() else { return };
    if machine::programs(&["git"]).is_none() {
        return;
    }
    let server = Server::start();
    server.git(scene.path("hub"));
    let repository = Repository::new(scene.path("hub/app.git"));
    repository.write("f", "git").commit();
    server.file("/file", "http");
    scene
        .build("FROM base\nRUN echo layout > /f\n", ["-t", "made:v1"])
        .ok();
    let digest = scene.mica(["inspect", "made:v1"]).ok().json()[0]["RepoDigests"].clone();
    drop(digest);
    scene.shell("mica save made:v1 --format oci-dir -o layout 2>/dev/null || { mica save --format oci made:v1 -o l.tar; \
                 mkdir layout; tar -xf l.tar -C layout; }").ok();
    scene.mica(["rmi", "made:v1"]).ok();
    scene.write("dir/f", "dir");
    scene.write("dir/no", "no");
    scene.write("dir/.dockerignore", "no\n");
    let dockerfile = "FROM layout AS l\nFROM dir AS d\nFROM git AS g\nFROM base\n\
                      COPY --from=l /f /l\nCOPY --from=d / /d\nCOPY --from=g f /g\nCOPY --from=web context /w\n\
                      COPY --from=git . /whole\nRUN --mount=from=git,target=/m cat /m/f > /bound\n";
    let git = format!("git={}", server.url("/git/app.git"));
    let web = format!("web={}", server.url("/file"));
    let contexts = ["layout=oci-layout://layout:v1", "dir=dir", &git, &web];
    let args: Vec<&str> = contexts
        .into_iter()
        .flat_map(|context| ["--build-context", context])
        .collect();
    scene.build(dockerfile, ["-t", "i"].into_iter().chain(args)).ok();
    let read = |path: &str| scene.cat("i", path);
    assert_eq!(
        ["/l", "/d/f", "/g", "/w", "/whole/f", "/bound"].map(read),
        ["layout\n", "dir", "git", "http", "git", "git"]
    );
    scene.mica(["cat", "i", "/d/no"]).fails();
    assert!(
        !scene.images().iter().any(|image| image.contains("made")),
        "{:?}",
        scene.images()
    );
    let missing = ["--build-context", "layout=oci-layout://layout:v2"];
    scene
        .rebuild(missing)
        .fails()
        .says("it lists no image with the tag v2");
}

#[test]
fn hostile_archives_are_refused() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "FROM base\nCOPY . /ctx\n";
    let start = || Tar::new().file("Dockerfile", dockerfile);
    let before = scene.images();
    for (tar, message) in [
        (start().file("../escape", "x"), "leads out"),
        (start().file("a/../../escape", "x"), "leads out"),
        (start().hard_link("h", "../../etc/passwd"), "leads out"),
    ] {
        let run = scene.mica(["build", "-t", "never", "-"]).stdin(tar.bytes());
        run.fails().says(message);
    }
    let cut = start().file("big", vec![7; 4096]).bytes();
    scene
        .mica(["build", "-t", "never", "-"])
        .stdin(&cut[..2048])
        .fails()
        .says("cannot read the archive");
    // A link that leads out stays inside.
    let through = start()
        .symlink("out", "/../../etc")
        .file("out/mine", "inside")
        .bytes();
    scene.mica(["build", "-t", "inside", "-"]).stdin(through).ok();
    scene.mica(["rmi", "inside"]).ok();
    assert_eq!(scene.images(), before);
    assert!(!scene.path("escape").exists() && !scene.store().join("escape").exists());
    scene.is_clean();
}
