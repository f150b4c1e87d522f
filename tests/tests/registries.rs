//! Registries that ask who one is, that have certificates of their own, and that stand for others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use mica_tests::archive::{Members, Tar};
use mica_tests::command::tool;
use mica_tests::registry::{Access, PASSWORD, Transport, USER};
use mica_tests::{Proxy, Registry, Scene, machine};
use serde_json::{Value, json};

/// skopeo pushes an image with a file `hello`.
fn push(scene: &Scene, name: &str, options: &[&str]) {
    let layer = Tar::new().file("hello", "world").bytes();
    scene.write("app.tar", Members::oci("app", &[layer]).pack());
    tool("skopeo", scene.directory())
        .args(["--insecure-policy", "copy", "-q"])
        .args(options)
        .args(["oci-archive:app.tar", &format!("docker://{name}")])
        .ok();
}

/// A registry that asks for a login, with an image `a/b`.
fn private(access: Access) -> Option<(Scene, Registry, String)> {
    machine::programs(&["skopeo"])?;
    let registry = Registry::with(access, Transport::Plain)?;
    let scene = Scene::new();
    let name = registry.name("a/b");
    let creds = format!("--dest-creds={USER}:{PASSWORD}");
    push(&scene, &name, &["--dest-tls-verify=false", &creds]);
    Some((scene, registry, name))
}

fn config(scene: &Scene) -> Value {
    serde_json::from_str(&scene.read("home/.docker/config.json")).unwrap()
}

#[test]
fn a_login_lets_in_and_a_logout_out() {
    for access in [Access::Basic, Access::Token] {
        let Some((scene, registry, name)) = private(access) else {
            return;
        };
        let host = registry.host();
        scene.mica(["pull", &name]).fails().says("mica login");
        let login = || scene.mica(["login", "-u", USER, "--password-stdin", &host]);
        login()
            .stdin("wrong\n")
            .fails()
            .says("401 Unauthorized")
            .lacks("wrong\n");
        assert!(
            !scene.path("home/.docker/config.json").exists(),
            "nothing was kept"
        );
        scene.write("home/.docker/config.json", r#"{"psFormat": "x"}"#);
        let outcome = login().stdin(format!("{PASSWORD}\n")).ok();
        assert_eq!(outcome.stdout(), "Login Succeeded\n");
        outcome.lacks(PASSWORD);
        let file = scene.path("home/.docker/config.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(config(&scene)["psFormat"], "x", "the rest stays");
        scene.mica(["pull", &name]).ok();
        assert_eq!(scene.mica(["cat", &name, "/hello"]).ok().stdout(), "world");
        // Docker's own form: others can use it.
        tool("skopeo", scene.directory())
            .args(["inspect", "--tls-verify=false", "--authfile"])
            .arg(&file)
            .arg(format!("docker://{name}"))
            .ok();
        scene
            .mica(["logout", &host])
            .ok()
            .says("Removing login credentials");
        scene.mica(["logout", &host]).ok().says("Not logged in");
        assert_eq!(config(&scene), json!({ "auths": {}, "psFormat": "x" }));
        scene.mica(["pull", &name]).fails();
    }
}

#[test]
fn a_token_server_gives_what_is_asked_for() {
    let Some((scene, registry, name)) = private(Access::Token) else {
        return;
    };
    // Everyone may read what is public.
    let public = registry.name("public/x");
    let creds = format!("--dest-creds={USER}:{PASSWORD}");
    push(&scene, &public, &["--dest-tls-verify=false", &creds]);
    scene.mica(["pull", &public]).ok();
    // The server gave a token for further tokens, which is kept in place of the password.
    let host = registry.host();
    let password = scene.write("password", PASSWORD);
    scene
        .shell(&format!(
            "mica login -u {USER} --password-stdin {host} <'{}'",
            password.display()
        ))
        .ok();
    let entry = config(&scene)["auths"][&host].clone();
    assert_eq!(entry["identitytoken"], registry.tokens().identity());
    let asked = registry.tokens().log().len();
    scene.mica(["pull", &name]).ok();
    let log = registry.tokens().log();
    assert_eq!(
        log[asked..],
        ["POST /token 200"],
        "one token serves the whole pull"
    );
    assert!(!scene.read("home/.docker/config.json").contains(PASSWORD));
}

#[test]
fn credentials_are_found_where_podman_and_docker_keep_them() {
    let Some((scene, registry, name)) = private(Access::Basic) else {
        return;
    };
    let pull = || {
        scene.mica(["rmi", &name]).run();
        scene.mica(["pull", "-q", &name])
    };
    let auth = tool("base64", scene.directory())
        .arg("-w0")
        .stdin(format!("{USER}:{PASSWORD}"));
    let auth = auth.ok().answer();
    let entry = |key: String| json!({ "auths": { key: { "auth": auth } } }).to_string();
    let host = registry.host();
    for place in [
        "run/containers/auth.json",
        "home/.config/containers/auth.json",
        "home/.docker/config.json",
    ] {
        let file = scene.write(place, entry(host.clone()));
        pull().ok();
        fs::remove_file(file).unwrap();
        pull().fails();
    }
    // For a part of a registry.
    let file = scene.write("auth.json", entry(format!("{host}/a")));
    pull().arg("--authfile").arg(&file).ok();
    pull().env("REGISTRY_AUTH_FILE", &file).ok();
    scene.write("auth.json", entry(format!("{host}/c")));
    pull().arg("--authfile").arg(&file).fails();
    let creds = format!("{USER}:{PASSWORD}");
    pull()
        .args(["--creds", &creds])
        .ok()
        .says("can be seen by others");
    pull()
        .args(["--creds", &format!("{USER}:wrong")])
        .fails()
        .says("do not allow it")
        .lacks("wrong\n");
    scene.write("auth.json", "{");
    pull()
        .arg("--authfile")
        .arg(&file)
        .fails()
        .says("auth.json")
        .says("no JSON");
}

#[test]
fn programs_keep_credentials() {
    let Some((scene, registry, name)) = private(Access::Basic) else {
        return;
    };
    let host = registry.host();
    let helper = scene.write(
        "bin/docker-credential-test",
        "#!/bin/sh\n\
         kept=${0%/*}/kept\n\
         case $1 in\n\
         get) if [ -e $kept ]; then cat $kept; else echo 'credentials not found in native keychain'; exit 1; fi;;\n\
         store) cat > $kept;;\n\
         erase) rm $kept;;\n\
         esac\n",
    );
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", scene.path("bin").display());
    let mica = |args: &[&str]| scene.mica(args).env("PATH", &path);
    scene.write(
        "home/.docker/config.json",
        json!({ "credHelpers": { &host: "test" } }).to_string(),
    );
    mica(&["pull", &name]).fails().says("mica login");
    mica(&["login", "-u", USER, "--password-stdin", &host])
        .stdin(PASSWORD)
        .ok();
    assert_eq!(config(&scene)["auths"][&host], json!({}));
    assert!(scene.read("bin/kept").contains(PASSWORD));
    mica(&["pull", &name]).ok();
    mica(&["logout", &host]).ok().says("Removing");
    assert!(!scene.path("bin/kept").exists());
    // One that is missing does not keep anybody from what is public.
    scene.write(
        "home/.docker/config.json",
        json!({ "credsStore": "absent" }).to_string(),
    );
    mica(&["pull", &name])
        .fails()
        .says("docker-credential-absent")
        .says("401 Unauthorized");
}

#[test]
fn certificates_of_ones_own_are_trusted_where_they_are_named() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    for transport in [Transport::Tls, Transport::MutualTls] {
        let Some(registry) = Registry::with(Access::Open, transport) else {
            return;
        };
        let scene = Scene::new();
        let name = registry.name("a/b");
        registry.certificates().install(&scene.path("certs"), "");
        let certificates = format!("--dest-cert-dir={}", scene.path("certs").display());
        push(&scene, &name, &[&certificates]);
        let pull = || scene.mica(["pull", &name]);
        pull().fails().says("certs.d/HOST/ca.crt");
        pull().arg("--cert-dir").arg(scene.path("certs")).ok();
        registry
            .certificates()
            .install(&scene.path("home/.docker/certs.d"), &registry.host());
        pull().ok();
        if transport == Transport::MutualTls {
            fs::remove_file(
                scene
                    .path("home/.docker/certs.d")
                    .join(registry.host())
                    .join("client.cert"),
            )
            .unwrap();
            pull().fails().says("NAME.cert and NAME.key");
        } else {
            fs::remove_dir_all(scene.path("home/.docker/certs.d")).unwrap();
            pull().arg("--tls-verify=false").ok();
            let text = format!(
                "[[registry]]\nlocation = \"{}\"\ninsecure = true\n",
                registry.host()
            );
            scene.write("home/.config/mica/registries.conf", text);
            pull().ok();
            pull().arg("--tls-verify").fails();
        }
    }
}

#[test]
fn mirrors_are_asked_first() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let (Some(mirror), Some(origin)) = (Registry::start(), Registry::start()) else {
        return;
    };
    let scene = Scene::new();
    let (before_mirror, before_origin) = (Proxy::before(&mirror), Proxy::before(&origin));
    push(&scene, &mirror.name("hub/a/b:1"), &["--dest-tls-verify=false"]);
    push(&scene, &origin.name("a/b:1"), &["--dest-tls-verify=false"]);
    push(&scene, &origin.name("a/b:2"), &["--dest-tls-verify=false"]);
    // Names that no network knows: only the file leads to the registries.
    let text = format!(
        "[[registry]]\nprefix = \"registry.invalid\"\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"{}/hub\"\n\
         [[registry]]\nprefix = \"registry.invalid/secret\"\nblocked = true\n",
        before_origin.host(),
        before_mirror.host()
    );
    scene.write("home/.config/mica/registries.conf", text);
    scene
        .mica(["pull", "registry.invalid/a/b:1"])
        .ok()
        .says("registry.invalid/a/b:1\n");
    assert_eq!(
        scene
            .mica(["cat", "registry.invalid/a/b:1", "/hello"])
            .ok()
            .stdout(),
        "world"
    );
    assert!(before_origin.log().is_empty(), "{:?}", before_origin.log());
    scene.mica(["pull", "registry.invalid/a/b:2"]).ok();
    assert!(
        before_origin
            .log()
            .iter()
            .any(|e| e.path == "/v2/a/b/manifests/2")
    );
    mirror.kill();
    scene.mica(["rmi", "registry.invalid/a/b:1"]).ok();
    scene.mica(["pull", "registry.invalid/a/b:1"]).ok();
    scene
        .mica(["pull", "registry.invalid/secret/x"])
        .fails()
        .says("blocked by registries.conf");
    scene
        .mica(["pull", "elsewhere.invalid/x"])
        .fails()
        .says("check the registry's name and your network");
    scene.write("home/.config/mica/registries.conf", "[[registry]]\nprefx = 3\n");
    scene
        .mica(["pull", "x"])
        .fails()
        .says("registries.conf")
        .says("prefx");
}

#[test]
fn builds_and_runs_pull_what_is_missing() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    for scene in Scene::everyone() {
        let Some(registry) = Registry::start() else { return };
        builds_and_runs(&scene, &registry);
        scene.is_clean();
    }
}

fn builds_and_runs(scene: &Scene, registry: &Registry) {
    let proxy = Proxy::before(registry);
    scene.mica(["save", "-o", "base.tar", "base"]).ok();
    let put = |name: &str| {
        tool("skopeo", scene.directory())
            .args([
                "--insecure-policy",
                "copy",
                "-q",
                "--dest-tls-verify=false",
                "docker-archive:base.tar",
            ])
            .arg(format!("docker://{}", registry.name(name)))
            .ok();
    };
    put("base:1");
    push(scene, &registry.name("files"), &["--dest-tls-verify=false"]);
    let (base, files) = (proxy.name("base:1"), proxy.name("files"));
    let dockerfile = format!(
        "FROM {base}\nCOPY --from={files} /hello /copied\n\
         RUN --mount=from={files},target=/m cat /m/hello /copied > /both\n"
    );
    let built = scene.build(&dockerfile, ["-t", "app"]).ok();
    assert_eq!(scene.cat("app", "/both"), "worldworld");
    let shown = built.stderr();
    for name in [base.clone(), format!("{files}:latest")] {
        assert!(shown.contains(&format!("#0 [internal] pull {name}\n")), "{shown}");
    }
    assert_eq!(
        shown.matches(" done\n").count(),
        2,
        "an image with a layer each: {shown}"
    );
    let planned = shown.find("#1 [").expect("the first step");
    assert!(
        shown.rfind("#0 DONE ").is_some_and(|end| end < planned),
        "{shown}"
    );
    proxy.clear_log();
    scene.rebuild(["-t", "app"]).ok();
    assert!(proxy.log().is_empty(), "what is there is not asked for");
    scene.rebuild(["-t", "app", "--pull"]).ok();
    assert_eq!(proxy.count("GET", mica_tests::proxy::Kind::Manifest), 2);
    let rawjson = scene.mica(["build", "--progress=rawjson", "--pull", "ctx"]).ok();
    let told: Vec<Value> = rawjson
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    let title = format!("[internal] pull {base}");
    let of_pull = |told: &&Value| told["vertexes"][0]["name"] == title.as_str();
    let vertexes: Vec<&Value> = told
        .iter()
        .filter(of_pull)
        .map(|told| &told["vertexes"][0])
        .collect();
    assert_eq!(vertexes.len(), 2, "{told:?}");
    assert!(vertexes[1]["completed"].is_string() && vertexes[1]["error"].is_null());
    let status = |told: &Value| told["statuses"][0]["vertex"] == vertexes[0]["digest"];
    assert!(told.iter().any(status), "{told:?}");
    // What was built goes out as it came in.
    let pushed = registry.name("built/app:1");
    scene.mica(["tag", "app", &pushed]).ok();
    scene.mica(["push", &pushed]).ok();
    scene.mica(["rmi", &pushed]).ok();
    scene.mica(["pull", &pushed]).ok();
    assert_eq!(scene.cat(&pushed, "/both"), "worldworld");
    // A mistake is shown where it stands.
    let wrong = proxy.name("no/such:1");
    let failed = scene
        .build(&format!("FROM {base}\nCOPY --from={wrong} / /\n"), ["-t", "x"])
        .fails();
    failed
        .says("Dockerfile:2:")
        .says("cannot pull")
        .says("404 Not Found");
    scene
        .build(&format!("FROM {wrong}\n"), ["--pull=never"])
        .fails()
        .says("no such image")
        .lacks("cannot pull");

    put("base:2");
    let name = proxy.name("base:2");
    scene
        .mica(["run", "--pull", "never", &name, "true"])
        .exits(125)
        .says("no such image");
    let ran = scene.mica(["run", &name, "echo", "it runs"]).ok();
    assert_eq!(ran.stdout(), "it runs\n");
    ran.says("Already exists");
    registry.kill();
    scene.mica(["run", &name, "true"]).ok();
    scene.mica(["run", "--pull=always", &name, "true"]).exits(125);
}
