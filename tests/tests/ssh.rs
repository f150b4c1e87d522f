//! `RUN --mount=type=ssh`: the agent of the user, in a step alone.

use std::os::unix::fs::PermissionsExt as _;

use mica_tests::{Scene, machine};

/// A new key whose comment is `NAME-comment`, and an image `tools` with what can ask an agent for its keys.
fn key(scene: &Scene, name: &str) -> Option<String> {
    machine::programs(&["ssh-agent", "ssh-add", "ssh-keygen"])?;
    let tools = [
        "import", "--host", "sh", "test", "stat", "grep", "ssh-add", "-t", "tools",
    ];
    scene.mica(tools).ok();
    scene.mkdir("keys");
    let path = scene.path("keys").join(name);
    let generate = format!(
        "ssh-keygen -q -t ed25519 -N '' -C {name}-comment -f {}",
        path.display()
    );
    scene.shell(&generate).ok();
    Some(path.display().to_string())
}

#[test]
fn a_step_reaches_the_agent_and_nothing_stays() {
    for scene in Scene::everyone() {
        let Some(key) = key(&scene, "one") else { return };
        let dockerfile = "FROM tools\n\
             RUN --mount=type=ssh test -S /run/buildkit/ssh_agent.0 && \
                 test $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 && ssh-add -l | grep -c one-comment > /seen\n\
             RUN --mount=type=ssh,id=other,target=/s,uid=5,gid=6,mode=640 stat -c '%a %u %g' /s > /stat; echo $SSH_AUTH_SOCK >> /stat\n\
             RUN --mount=type=ssh,id=absent test -z \"$SSH_AUTH_SOCK\" && test ! -e /run/buildkit/ssh_agent.0\n\
             RUN test -z \"$SSH_AUTH_SOCK\" && ! test -e /run/buildkit && ! test -e /s\n";
        let ssh = format!("default={key}");
        let other = format!("other={key}");
        let run = scene.build(dockerfile, ["-t", "i", "--ssh", &ssh, "--ssh", &other]);
        run.ok();
        assert_eq!(scene.cat("i", "/seen"), "1\n", "as {}", scene.who());
        assert_eq!(scene.cat("i", "/stat"), "640 5 6\n/s\n");
        let history = scene.mica(["history", "--no-trunc", "i"]).ok();
        history.lacks("--mount").lacks(&key).lacks("SSH_AUTH_SOCK=");
        assert!(
            !scene.config("i").to_string().contains("SSH_AUTH_SOCK="),
            "{}",
            scene.config("i")
        );
        scene.is_clean();
    }
}

#[test]
fn the_agent_of_the_environment_is_the_default() {
    let Some(scene) = Scene::with_base() else { return };
    let Some(key) = key(&scene, "two") else { return };
    scene.write(
        "ctx/Dockerfile",
        "FROM tools\nRUN --mount=type=ssh,required ssh-add -l | grep -c two-comment > /seen\n",
    );
    let script = format!(
        "ssh-agent sh -euc 'ssh-add -q {key}; {} build -t i --ssh default ctx'",
        scene.program().display()
    );
    scene.shell(&script).ok();
    assert_eq!(scene.cat("i", "/seen"), "1\n");
    scene.is_clean();
}

#[test]
fn a_missing_agent_is_explained() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "FROM base\n\nRUN --mount=type=ssh,required true\n";
    scene
        .build(dockerfile, [""; 0])
        .fails()
        .says("Dockerfile:3:1")
        .says("SSH agent default: not given")
        .says("--ssh default");
    scene
        .build(dockerfile, ["--ssh", "default"])
        .fails()
        .says("SSH_AUTH_SOCK is not set");
    scene
        .build(dockerfile, ["--ssh", "default=/none/such"])
        .fails()
        .says("cannot read /none/such");
    if machine::programs(&["ssh-agent", "ssh-add"]).is_some() {
        let file = scene.write("nokey", "x");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let option = format!("default={}", file.display());
        scene
            .build(dockerfile, ["--ssh", &option])
            .fails()
            .says("ssh-add: ")
            .says("passphrase");
    }
    scene
        .build("FROM base\nRUN --mount=type=ssh,source=x true\n", [""; 0])
        .fails()
        .says("Dockerfile:2");
    scene.is_clean();
}

#[test]
fn secrets_are_complete() {
    for scene in Scene::everyone() {
        scene.write("s", "value");
        let dockerfile = "FROM base\n\
             RUN --mount=type=secret,id=s stat -c '%n %a %u %g' /run/secrets/s > /out\n\
             RUN --mount=type=secret,id=s,uid=7,gid=8,mode=0440,target=/x/y stat -c '%n %a %u %g' /x/y >> /out\n\
             RUN --mount=type=secret,id=s,env=S test ! -e /run/secrets/s && echo $S >> /out\n\
             RUN --mount=type=secret,id=s,env=S,target=/t cmp /t /t && echo $S $(cat /t) >> /out\n\
             RUN --mount=type=secret,id=none test ! -e /run/secrets/none\n\
             RUN --mount=type=secret,target=rel/s cat rel/s >> /out\n";
        scene
            .build(dockerfile, ["-t", "i", "--secret", "id=s,src=s"])
            .ok();
        assert_eq!(
            scene.cat("i", "/out"),
            "/run/secrets/s 400 0 0\n/x/y 440 7 8\nvalue\nvalue value\nvalue",
            "as {}",
            scene.who()
        );
        scene
            .build("FROM base\nRUN --mount=type=secret,id=z,required true\n", [""; 0])
            .fails()
            .says("secret z: not given");
        scene.is_clean();
    }
}
