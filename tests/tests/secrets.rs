//! Secrets stay where they were given: no layer, configuration, record, log or command line has them.

use std::fs;
use std::process::Command;

use mica_tests::Scene;
use mica_tests::command::wait_until;

const SECRET: &str = "n0b0dy/may+see this";
const GIVEN: [&str; 2] = ["--secret", "id=key,src=secret"];

/// What `ps` shows.
fn command_lines() -> impl Iterator<Item = String> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted");
    let lines = processes.filter_map(|process| fs::read(process.ok()?.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
}

/// The files beneath a directory that hold a text.
fn files_with(directory: &std::path::Path, text: &str) -> String {
    let mut grep = Command::new("grep");
    let found = grep.args(["-rlaF", text]).arg(directory).output();
    String::from_utf8_lossy(&found.expect("grep runs").stdout).into_owned()
}

#[test]
fn a_layer_with_a_secret_fails_the_build() {
    for scene in Scene::everyone() {
        scene.write("secret", format!("{SECRET}\n"));
        let run = "FROM base\nRUN true\nRUN --mount=type=secret,id=key,env=KEY ";
        for (command, place) in [
            ("mkdir /a && cp /proc/self/environ /a/f", "/a/f"),
            ("echo \"x$KEY\" | base64 > /b", "/b of the new layer, in base64"),
            (
                "echo n0b0dy%2f'may%2b'see%20this > /c",
                "/c of the new layer, URL-encoded",
            ),
            ("ln -s \"/$KEY\" /d", "the target of the symbolic link /d"),
            ("mkdir -p \"/e/$KEY\"", "a file name in /e"),
            (
                "head -c 3000000 /dev/zero > /f && echo \"$KEY\" >> /f",
                "the file /f",
            ),
        ] {
            scene
                .build(&format!("{run}{command}\n"), GIVEN)
                .args(["-t", "leaky"])
                .fails()
                .says("Dockerfile:3")
                .says("the secret key is in")
                .says(place)
                .says("search=no")
                .lacks(SECRET);
        }
        scene.mica(["inspect", "leaky"]).fails();
        assert_eq!(files_with(&scene.store(), SECRET), "", "as {}", scene.who());
        // What the context has counts as well, and what is public need not be searched for.
        scene.write("ctx/.env", format!("KEY={SECRET}\n"));
        let copy = "FROM base\nCOPY .env /app/\n";
        scene
            .build(copy, GIVEN)
            .fails()
            .says("Dockerfile:2")
            .says("/app/.env");
        let public = ["--secret", "id=key,src=secret,search=no"];
        scene.build(copy, public).ok();
        scene.is_clean();
    }
}

#[test]
fn a_configuration_or_history_with_a_secret_fails_the_build() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("secret", SECRET);
    let argument = format!("KEY={SECRET}");
    let label = format!("key={SECRET}");
    scene
        .build("FROM base\nARG KEY\nENV A=b K=$KEY\n", GIVEN)
        .args(["--build-arg", &argument])
        .fails()
        .says("Dockerfile:2")
        .says("history")
        .lacks(SECRET);
    scene
        .build("FROM base\nARG KEY\nRUN true\n", GIVEN)
        .args(["--build-arg", &argument])
        .fails()
        .says("Dockerfile:2");
    scene
        .build("FROM base\n", GIVEN)
        .args(["--label", &label])
        .fails()
        .says("Labels.key")
        .lacks(SECRET);
    assert_eq!(files_with(&scene.store(), SECRET), "");
}

#[test]
fn a_secret_is_in_no_record_history_log_or_command_line() {
    for scene in Scene::everyone() {
        scene.write("secret", SECRET);
        let dockerfile = "\
FROM base
RUN --mount=type=secret,id=key cat /run/secrets/key > /dev/null
RUN --mount=type=secret,id=key,env=KEY test -n \"$KEY\" && sleep 2.71828
";
        let running = scene
            .build(dockerfile, GIVEN)
            .args(["-t", "kept"])
            .args(["--log-level", "trace"])
            .start();
        wait_until("the step runs", || {
            command_lines().any(|line| line.contains("sleep 2.71828"))
        });
        for line in command_lines() {
            assert!(!line.contains(SECRET), "{line}");
        }
        let ended = running.wait();
        assert!(ended.status.success(), "{}", ended.describe());
        ended.lacks(SECRET);
        for command in [
            &["history", "--no-trunc", "kept"][..],
            &["inspect", "kept"],
            &["why", "kept"],
        ] {
            scene.mica(command).run().lacks(SECRET);
        }
        assert_eq!(files_with(&scene.store(), SECRET), "", "as {}", scene.who());
        assert_eq!(files_with(&scene.path("tmp"), SECRET), "");
        assert_eq!(files_with(&scene.path("run"), SECRET), "");
    }
}
