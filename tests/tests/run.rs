//! `mica run`: a command in an image.

use mica_tests::Scene;
use mica_tests::command::wait_until;
use mica_tests::machine;
use nix::sys::signal::Signal;

#[test]
fn the_command_s_exit_status_is_mica_s() {
    for scene in Scene::everyone() {
        scene.mica(["run", "--rm", "base", "true"]).exits(0);
        scene
            .mica(["run", "--rm", "base", "sh", "-c", "exit 42"])
            .exits(42);
        // As in Docker and in a shell: 128 and the signal's number.
        scene
            .mica(["run", "--rm", "base", "sh", "-c", "kill -TERM $$"])
            .exits(143);
        scene
            .mica(["run", "--rm", "base", "/no/such"])
            .exits(127)
            .says("/no/such");
        scene
            .mica(["run", "--rm", "base", "/etc/passwd"])
            .exits(126)
            .says("/etc/passwd");
        scene.is_clean();
    }
}

#[test]
fn options_change_what_the_image_says() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base
ENV A=image B=image
WORKDIR /home/user
USER user
ENTRYPOINT [\"sh\", \"-c\", \"echo $A $B $(id -u):$(id -g) $PWD $0\"]
CMD [\"cmd\"]
";
    scene.build(dockerfile, ["-t", "app"]).ok();
    let run = |args: &[&str]| scene.mica(["run", "--rm"]).args(args).ok().answer();
    assert_eq!(run(&["app"]), "image image 1000:1000 /home/user cmd");
    assert_eq!(
        run(&["-e", "A=given", "-w", "/tmp", "-u", "7:8", "app", "argument"]),
        "given image 7:8 /tmp argument"
    );
    assert_eq!(run(&["-u", "root", "--entrypoint", "id", "app", "-u"]), "0");
}

#[test]
fn stdin_reaches_the_command_and_its_output_comes_apart() {
    let Some(scene) = Scene::with_base() else { return };
    let outcome = scene
        .mica(["run", "--rm", "-i", "base", "sh", "-c", "cat; echo err >&2"])
        .stdin("through\n")
        .ok();
    assert_eq!(outcome.stdout(), "through\n");
    assert_eq!(outcome.stderr(), "err\n");
}

/// Whatever mica's own are: here pipes that root made, and files.
#[test]
fn any_user_opens_the_streams_by_name() {
    for scene in Scene::everyone() {
        let script = "echo out > /dev/stdout; echo err > /dev/stderr";
        let run = ["run", "--rm", "-u", "1000:1000", "base", "sh", "-c", script];
        let outcome = scene.mica(run).ok();
        assert_eq!(
            (outcome.stdout(), outcome.stderr()),
            ("out\n".into(), "err\n".into())
        );
        let run = format!("mica run --rm -u 1000:1000 base sh -c '{script}'");
        scene.shell(&format!("{run} > out 2> err")).ok();
        assert_eq!(
            (scene.read("out"), scene.read("err")),
            ("out\n".into(), "err\n".into())
        );
    }
}

#[test]
fn stdout_and_stderr_may_be_one_file() {
    let Some(scene) = Scene::with_base() else { return };
    let command = "for n in $(seq 3000); do echo out; echo err >&2; done";
    scene
        .shell(&format!("mica run --rm base sh -c '{command}' > both 2>&1"))
        .ok();
    let both = scene.read("both");
    assert_eq!(both.matches("out\n").count(), 3000);
    assert_eq!(both.matches("err\n").count(), 3000);
}

#[test]
fn a_command_whose_reader_has_gone_ends() {
    let Some(scene) = Scene::with_base() else { return };
    scene.shell("mica run --rm base yes | head -n 1").ok().says("y");
    scene.is_clean();
}

#[test]
fn a_terminal_is_a_terminal() {
    let Some(scene) = Scene::with_base() else { return };
    scene.mica(["run", "--rm", "base", "tty"]).exits(1);
    if machine::programs(&["script"]).is_none() {
        return;
    }
    // script(1) gives mica a terminal of its own.
    let inner = format!(
        "{} run --rm -it base sh -c 'tty; stty size; exit 3'",
        scene.program().display()
    );
    scene
        .command("script")
        .args(["-q", "-e", "-c", &inner, "/dev/null"])
        .exits(3)
        .says("/dev/");
    scene.is_clean();
}

#[test]
fn volumes_show_the_host() {
    for scene in Scene::everyone() {
        scene.write("shared/in", "from outside\n");
        let volume = format!("{}:/v", scene.path("shared").display());
        scene
            .mica([
                "run",
                "--rm",
                "-v",
                &volume,
                "base",
                "sh",
                "-c",
                "cat /v/in; echo inside > /v/out",
            ])
            .ok()
            .says("from outside");
        assert_eq!(scene.read("shared/out"), "inside\n");
        scene
            .mica(["run", "--rm", "-v", &(volume + ":ro"), "base", "touch", "/v/no"])
            .exits(1);
        assert!(!scene.path("shared/no").exists());
        scene.is_clean();
    }
}

#[test]
fn changes_are_thrown_away() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .mica(["run", "--rm", "base", "sh", "-c", "rm -r /etc; echo x > /x"])
        .ok();
    scene
        .mica([
            "run",
            "--rm",
            "base",
            "sh",
            "-c",
            "cat /etc/passwd && ! [ -e /x ]",
        ])
        .ok();
    scene.is_clean();
}

#[test]
fn a_wrong_argument_of_run_is_no_status_of_the_command() {
    let Some(scene) = Scene::with_base() else { return };
    let outcome = scene.mica(["run", "--rm", "base", "sh", "-c", "exit 2"]).run();
    assert_eq!(outcome.status.code(), Some(2));
    for args in [
        &["--nonsense"][..],
        &["-v", "x", "base"],
        &["--memory", "x", "base"],
    ] {
        scene.mica(["--color", "never", "run"]).args(args).exits(125);
    }
    scene.mica(["images", "--nonsense", "run"]).exits(2);
}

#[test]
fn a_signal_reaches_the_command() {
    let Some(scene) = Scene::with_base() else { return };
    scene.mkdir("v");
    let volume = format!("{}:/v", scene.path("v").display());
    let script = "trap 'echo got it; exit 5' TERM; touch /v/ready; while :; do sleep 0.1; done";
    let running = scene
        .mica(["run", "--rm", "-v", &volume, "base", "sh", "-c", script])
        .start();
    wait_until("the command is ready", || scene.path("v/ready").exists());
    running.signal(Signal::SIGTERM);
    let outcome = running.wait();
    assert_eq!(outcome.status.code(), Some(5), "{}", outcome.describe());
    assert_eq!(outcome.stdout(), "got it\n");
    scene.is_clean();
}
