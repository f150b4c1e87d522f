//! ADD of Git repositories.

use std::os::unix::fs::{PermissionsExt as _, symlink};

use mica_tests::server::Answer;
use mica_tests::{Repository, Scene, Server, machine};

/// A repository `app.git` on a server, with a tag, a branch and a directory.
struct Hub {
    server: Server,
    repository: Repository,
    first: String,
    second: String,
}

fn hub(scene: &Scene) -> Option<Hub> {
    machine::programs(&["git"])?;
    let server = Server::start();
    server.git(scene.path("hub"));
    let repository = Repository::new(scene.path("hub/app.git"));
    repository
        .write("readme", "one\n")
        .write("src/main.c", "int main;\n")
        .write("src/run.sh", "#!/bin/sh\n");
    let script = repository.path().join("src/run.sh");
    std::fs::set_permissions(script, std::fs::Permissions::from_mode(0o700)).unwrap();
    symlink("readme", repository.path().join("link")).unwrap();
    let first = repository.commit();
    repository.git(&["tag", "--annotate", "--message=first", "v1"]);
    let second = repository.write("readme", "two\n").commit();
    repository.git(&["branch", "topic", "v1"]);
    repository.git(&["update-server-info"]);
    Some(Hub {
        server,
        repository,
        first,
        second,
    })
}

impl Hub {
    fn url(&self, rest: &str) -> String {
        self.server.url(&format!("/git/app.git{rest}"))
    }
}

#[test]
fn repositories_are_added() {
    for scene in Scene::everyone() {
        let Some(hub) = hub(&scene) else { return };
        let dockerfile = format!(
            "FROM base\n\
             ADD {main} /main\n\
             ADD {tag} /tag/\n\
             ADD --chown=3:4 {directory} /dir\n\
             ADD {commit} /commit\n\
             ADD --link --exclude=src {query} /query\n\
             RUN cd /main && find . | sort > /list && stat -c '%n %a %u %Y' readme src src/run.sh >> /list\n\
             RUN ls -lnd /dir /dir/* | awk '{{print $3, $4, $9}}' > /owners\n",
            main = hub.url(""),
            tag = hub.url("#v1"),
            directory = hub.url("#main:src"),
            commit = hub.url(&format!("#{}", hub.first)),
            query = hub.url("?branch=topic&subdir=."),
        );
        scene.build(&dockerfile, ["-t", "i"]).ok();
        assert_eq!(
            scene.cat("i", "/list"),
            ".\n./link\n./readme\n./src\n./src/main.c\n./src/run.sh\n\
             readme 644 0 1600000000\nsrc 755 0 315532800\nsrc/run.sh 755 0 1600000000\n",
            "as {}",
            scene.who()
        );
        let readme = |directory: &str| scene.cat("i", &format!("/{directory}/readme"));
        assert_eq!(
            ["main", "tag", "commit", "query"].map(readme),
            ["two\n", "one\n", "one\n", "one\n"]
        );
        assert!(
            scene.cat("i", "/owners").contains("3 4 /dir/main.c"),
            "{}",
            scene.cat("i", "/owners")
        );
        scene.mica(["cat", "i", "/query/src/main.c"]).fails();
        scene.is_clean();
    }
}

#[test]
fn a_commit_is_fetched_once() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let fetches = || {
        hub.server
            .log()
            .iter()
            .filter(|line| line.contains("POST"))
            .count()
    };
    scene
        .build(&format!("FROM base\nADD {} /x\n", hub.url("#main")), ["-t", "i"])
        .ok();
    assert!(fetches() > 0, "{:?}", hub.server.log());
    hub.server.clear_log();
    // The same commit by another name is asked for, not fetched.
    let dockerfile = format!("FROM base\nADD {} /x\n", hub.url(""));
    let listed = |text: &str| text.contains("info/refs");
    scene.build(&dockerfile, ["-t", "i"]).ok().says("#2 CACHED");
    assert!(
        hub.server.log().iter().any(|line| listed(line)),
        "{:?}",
        hub.server.log()
    );
    hub.server.clear_log();
    let dockerfile = format!("FROM base\nADD {} /x\n", hub.url(&format!("#{}", hub.second)));
    scene.build(&dockerfile, ["-t", "i", "--no-cache"]).ok();
    assert_eq!(hub.server.log(), [""; 0]);
    hub.repository.write("readme", "three\n").commit();
    scene
        .build(&format!("FROM base\nADD {} /x\n", hub.url("")), ["-t", "i"])
        .ok()
        .lacks("#2 CACHED");
    assert_eq!(scene.cat("i", "/x/readme"), "three\n");
}

#[test]
fn a_git_directory_is_kept_if_asked() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let dockerfile = format!(
        "FROM base\nADD --keep-git-dir {flag} /flag\nADD {query} /query\nADD --keep-git-dir=false {flag} /no\n",
        flag = hub.url("#v1"),
        query = hub.url("?ref=main&keep-git-dir=true"),
    );
    scene.build(&dockerfile, ["-t", "i"]).ok();
    assert_eq!(scene.cat("i", "/flag/.git/HEAD").trim(), hub.first);
    assert_eq!(scene.cat("i", "/query/.git/HEAD").trim(), hub.second);
    let config = scene.cat("i", "/query/.git/config");
    assert!(config.contains(&format!("url = {}", hub.url(""))), "{config}");
    scene.mica(["cat", "i", "/no/.git/HEAD"]).fails();
    scene
        .mica(["cat", "i", "/query/.git/hooks/pre-commit.sample"])
        .fails();
    let conflict = format!(
        "FROM base\nADD --keep-git-dir=false {} /x\n",
        hub.url("?keep-git-dir=true")
    );
    scene
        .build(&conflict, [""; 0])
        .fails()
        .says("inconsistent keep-git-dir")
        .says("Dockerfile:2:");
}

#[test]
fn a_commit_must_be_the_expected_one() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let build = |checksum: &str, url: &str| {
        let dockerfile = format!("FROM base\nADD --checksum={checksum} {url} /x\n");
        scene.build(&dockerfile, ["-t", "i"])
    };
    build(&hub.second, &hub.url("#main")).ok();
    build(&hub.first[..12], &hub.url("#v1")).ok();
    let wrong = format!("digest mismatch: expected {}, got {}", hub.first, hub.second);
    build(&hub.first, &hub.url("#main"))
        .fails()
        .says(&wrong)
        .says("Dockerfile:2:1");
    build("main", &hub.url("#main"))
        .fails()
        .says("expected a commit in hexadecimal");
    let both = hub.url(&format!("?ref=main&checksum={}", hub.first));
    build(&hub.second, &both).fails().says("checksum mismatch");
    let direct = hub.url(&format!("?commit={}&fetch-by-commit=1", hub.first));
    scene
        .build(&format!("FROM base\nADD {direct} /x\n"), ["-t", "i"])
        .ok();
    assert_eq!(scene.cat("i", "/x/readme"), "one\n");
}

#[test]
fn submodules_come_along() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let inner = Repository::new(scene.path("hub/inner.git"));
    inner.write("inside", "inner\n").commit();
    hub.repository.git(&[
        "submodule",
        "--quiet",
        "add",
        &scene.path("hub/inner.git").display().to_string(),
        "sub",
    ]);
    hub.repository.git(&[
        "config",
        "--file=.gitmodules",
        "submodule.sub.url",
        "../inner.git",
    ]);
    hub.repository.commit();
    let with = format!(
        "FROM base\nADD {} /with\nADD {} /without\n",
        hub.url(""),
        hub.url("?submodules=false")
    );
    scene.build(&with, ["-t", "i"]).ok();
    assert_eq!(scene.cat("i", "/with/sub/inside"), "inner\n");
    scene.mica(["cat", "i", "/without/sub/inside"]).fails();
    scene.mica(["cat", "i", "/with/sub/.git"]).fails();
    // A repository cannot name files of this machine.
    hub.repository.git(&[
        "config",
        "--file=.gitmodules",
        "submodule.sub.url",
        &scene.path("hub/inner.git").display().to_string(),
    ]);
    hub.repository.commit();
    scene.build(&with, [""; 0]).fails().says("'file' not allowed");
}

#[test]
fn a_server_of_plain_files_will_do() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let root = scene.path("hub");
    hub.server.on("/plain/", move |request| {
        let file = request.path.replacen("/plain/app.git", "app.git/.git", 1);
        match std::fs::read(root.join(file)) {
            Ok(bytes) => Answer::new("200 OK", bytes),
            Err(_) => Answer::new("404 Not Found", ""),
        }
    });
    let url = hub.server.url("/plain/app.git#main");
    scene
        .build(&format!("FROM base\nADD {url} /x\n"), ["-t", "i"])
        .ok();
    assert_eq!(scene.cat("i", "/x/readme"), "two\n");
}

#[test]
fn tokens_are_sent_and_not_kept() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    let root = scene.path("hub");
    // printf x-access-token:t0ken | base64, and printf me:t0ken | base64
    hub.server.on("/private/", move |request| {
        let header = request.header("authorization").unwrap_or_default().to_lowercase();
        let known = ["basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=", "basic bWU6dDBrZW4="];
        if !known.iter().any(|known| header == known.to_lowercase()) {
            return Answer::new("401 Unauthorized", "").header("WWW-Authenticate", "Basic realm=x");
        }
        let file = request.path.replacen("/private/app.git", "app.git/.git", 1);
        match std::fs::read(root.join(file)) {
            Ok(bytes) => Answer::new("200 OK", bytes),
            Err(_) => Answer::new("404 Not Found", ""),
        }
    });
    let url = hub.server.url("/private/app.git");
    let dockerfile = format!("FROM base\nADD --keep-git-dir {url} /x\n");
    scene
        .build(&dockerfile, [""; 0])
        .fails()
        .says("Dockerfile:2:1")
        .says("GIT_AUTH_TOKEN");
    for name in [
        "GIT_AUTH_TOKEN".to_owned(),
        format!("GIT_AUTH_TOKEN.{}", hub.server.host()),
    ] {
        let secret = format!("id={name},env=TOKEN");
        let run = scene.build(&dockerfile, ["-t", "i", "--no-cache", "--secret", &secret]);
        run.env("TOKEN", "t0ken").ok().lacks("t0ken").lacks("dDBrZW4");
        scene.mica(["rmi", "i"]).ok();
        scene.mica(["prune", "--force", "--all"]).ok();
    }
    let own = url.replace("http://", "http://me:t0ken@");
    scene
        .build(&format!("FROM base\nADD --keep-git-dir {own} /x\n"), ["-t", "i"])
        .ok();
    assert!(!scene.cat("i", "/x/.git/config").contains("t0ken"));
    scene.mica(["history", "--no-trunc", "i"]).ok().lacks("t0ken");
    let grep = format!("grep -rl -e t0ken -e dDBrZW4 {} || true", scene.store().display());
    assert_eq!(scene.shell(&grep).ok().stdout(), "");
}

#[test]
fn what_cannot_be_fetched_is_explained() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(hub) = hub(&scene) else { return };
    for (url, message) in [
        (hub.url("#nothing"), "the repository does not contain ref nothing"),
        (hub.url("#main:none"), "there is no directory none in commit"),
        (hub.url("#main:readme"), "there is no directory readme in commit"),
        (hub.url("#--upload-pack=x"), "invalid ref"),
        (hub.url("?nonsense=1"), "unexpected query \"nonsense\""),
        (hub.server.url("/git/absent.git"), "git ls-remote failed"),
    ] {
        scene
            .build(&format!("FROM base\nADD {url} /x\n"), [""; 0])
            .fails()
            .says(message)
            .says("Dockerfile:2:");
    }
    let copy = format!("FROM base\nCOPY {} /x\n", hub.url(""));
    scene
        .build(&copy, [""; 0])
        .fails()
        .says("source can't be a git ref for COPY");
    let add = format!("FROM base\nADD {} /x\n", hub.url("#topic"));
    symlink("/usr/bin/env", scene.mkdir("few").join("env")).unwrap();
    let path = scene.path("few").display().to_string();
    scene
        .build(&add, [""; 0])
        .env("PATH", path)
        .fails()
        .says("the program git")
        .says("install");
    scene.is_clean();
}

#[test]
fn ssh_is_used_without_the_users_configuration() {
    for scene in Scene::everyone() {
        let Some(hub) = hub(&scene) else { return };
        // In place of a server: says what it was called with, and does what the server was to do.
        let log = scene.mkdir("log").join("ssh");
        let fake = format!(
            "#!/bin/sh\necho \"$@\" >> {log}\nfor last; do :; done\n\
             export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'\n\
             cd {hub} && exec sh -c \"$last\"\n",
            log = log.display(),
            hub = scene.path("hub").display()
        );
        let program = scene.write("bin/ssh", fake);
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", scene.path("bin").display());
        let root = scene.path("hub/app.git").display().to_string();
        let dockerfile = format!(
            "FROM base\nADD git@host.example:app.git#v1 /scp\nADD ssh://git@host.example{root} /ssh\n"
        );
        let run = scene.build(&dockerfile, ["-t", "i"]).env("PATH", path);
        run.ok();
        assert_eq!(scene.cat("i", "/scp/readme"), "one\n");
        assert_eq!(scene.cat("i", "/ssh/readme"), "two\n");
        let called = scene.read("log/ssh");
        assert!(
            called.lines().all(|line| line.contains("-F /dev/null")),
            "{called}"
        );
        assert!(
            called.contains("BatchMode=yes") && called.contains("IdentityFile=none"),
            "{called}"
        );
        assert!(hub.server.log().is_empty());
    }
}
