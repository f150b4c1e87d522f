//! Building images: the instructions on real files, and what `mica build` puts out.

use mica_tests::Scene;
use mica_tests::archive::Tar;
use mica_tests::command::tool;

/// The Dockerfile of the tutorials, in little.
const WEB: &str = "\
FROM base
WORKDIR /app
ADD app.sh pages ./
ARG NAME=world
ENV PORT=80 GREETING=\"hello $NAME\"
RUN mkdir data && echo \"$GREETING on $PORT\" > data/greeting
EXPOSE $PORT
LABEL com.example.kind=web
VOLUME /app/data
USER user
HEALTHCHECK --interval=5s CMD true
STOPSIGNAL SIGINT
ENTRYPOINT [\"sh\"]
CMD [\"app.sh\"]
";

fn web(scene: &Scene) {
    scene.write("ctx/app.sh", "cat data/greeting\n");
    scene.write("ctx/pages/index.html", "<h1>hello</h1>\n");
    scene.build(WEB, ["-t", "web", "-t", "web:1"]).ok();
}

#[test]
fn a_dockerfile_becomes_an_image() {
    for scene in Scene::everyone() {
        web(&scene);
        assert_eq!(
            scene.cat("web", "/app/data/greeting"),
            "hello world on 80\n",
            "as {}",
            scene.who()
        );
        assert_eq!(scene.cat("web:1", "/app/index.html"), "<h1>hello</h1>\n");
        let config = scene.config("web");
        assert_eq!(config["WorkingDir"], "/app");
        assert_eq!(config["User"], "user");
        assert_eq!(config["StopSignal"], "SIGINT");
        assert_eq!(config["Entrypoint"], serde_json::json!(["sh"]));
        assert_eq!(config["Cmd"], serde_json::json!(["app.sh"]));
        assert_eq!(config["ExposedPorts"], serde_json::json!({ "80/tcp": {} }));
        assert_eq!(config["Volumes"], serde_json::json!({ "/app/data": {} }));
        assert_eq!(config["Labels"]["com.example.kind"], "web");
        assert_eq!(
            config["Healthcheck"]["Test"],
            serde_json::json!(["CMD-SHELL", "true"])
        );
        let env = config["Env"].as_array().expect("a list");
        assert!(env.contains(&"GREETING=hello world".into()), "{env:?}");
        scene.mica(["run", "--rm", "web"]).ok().says("hello world on 80");
        scene.is_clean();
    }
}

#[test]
fn build_arguments_change_what_is_built() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build(
            "FROM base\nARG A=1\nARG B\nRUN echo $A-${B:-none}-${A:+set} > /args\n",
            ["-t", "defaults"],
        )
        .ok();
    assert_eq!(scene.cat("defaults", "/args"), "1-none-set\n");
    scene
        .rebuild(["--build-arg", "A=2", "--build-arg", "B=x y", "-t", "given"])
        .ok();
    assert_eq!(scene.cat("given", "/args"), "2-x y-set\n");
}

#[test]
fn stages_give_files_to_each_other() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base AS make
RUN echo made > /made && echo junk > /junk
FROM make AS unused
RUN exit 9
FROM scratch
COPY --from=make --chown=7:8 --chmod=640 /made /
COPY --from=0 /made /again
COPY --from=base /etc/group /group
";
    scene.build(dockerfile, ["-t", "staged"]).ok();
    scene
        .mica(["ls", "staged", "/"])
        .ok()
        .says("made")
        .says("again")
        .says("group")
        .lacks("junk");
    scene.mica(["ls", "-l", "staged", "/"]).ok().says("-rw-r-----");
    scene.build(dockerfile, ["--target", "make", "-t", "first"]).ok();
    assert_eq!(scene.cat("first", "/junk"), "junk\n");
    scene
        .build(dockerfile, ["--target", "nothing"])
        .fails()
        .says("nothing");
}

#[test]
fn owners_modes_and_links_are_exact() {
    for scene in Scene::everyone() {
        let dockerfile = "\
FROM base
RUN echo x > /f && ln /f /g && ln -s f /s && mkfifo /p && chown 1000:2000 /f && chmod 4750 /f && \\
    mkdir -m 1777 /d && touch -d @1000000000 /d/old
RUN stat -c '%n %u:%g %a %h' /f /g > /said && stat -c %Y /d/old >> /said && echo more >> /g && cat /f >> /said
";
        scene.build(dockerfile, ["-t", "exact"]).ok();
        let said = "/f 1000:2000 4750 2\n/g 1000:2000 4750 2\n1000000000\nx\nmore\n";
        assert_eq!(scene.cat("exact", "/said"), said, "as {}", scene.who());
    }
}

#[test]
fn dockerignore_keeps_files_out() {
    let Some(scene) = Scene::with_base() else { return };
    for name in ["keep.txt", "drop.log", "deep/drop.log", "deep/keep.log"] {
        scene.write(&format!("ctx/{name}"), name);
    }
    scene.write("ctx/.dockerignore", "**/*.log\n!deep/keep.log\nDockerfile\n");
    scene
        .build(
            "FROM base\nCOPY . /c/\nRUN find /c -type f | sort > /list\n",
            ["-t", "ignored"],
        )
        .ok();
    assert_eq!(
        scene.cat("ignored", "/list"),
        "/c/.dockerignore\n/c/deep/keep.log\n/c/keep.txt\n"
    );
}

#[test]
fn add_unpacks_archives_and_copy_does_not() {
    let Some(scene) = Scene::with_base() else { return };
    let tar = mica_tests::archive::Tar::new()
        .file("inside", "unpacked\n")
        .bytes();
    scene.write("ctx/a.tar.gz", mica_tests::archive::gzip(&tar));
    scene
        .build(
            "FROM base\nADD a.tar.gz /added/\nCOPY a.tar.gz /copied/\n",
            ["-t", "unpacked"],
        )
        .ok();
    assert_eq!(scene.cat("unpacked", "/added/inside"), "unpacked\n");
    scene.mica(["ls", "unpacked", "/copied"]).ok().says("a.tar.gz");
}

#[test]
fn an_onbuild_trigger_runs_in_the_child() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build("FROM base\nONBUILD RUN echo triggered > /t\n", ["-t", "parent"])
        .ok();
    scene.mica(["cat", "parent", "/t"]).fails();
    scene.build("FROM parent\n", ["-t", "child"]).ok();
    assert_eq!(scene.cat("child", "/t"), "triggered\n");
}

#[test]
fn the_dockerfile_may_come_from_stdin_or_elsewhere() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/f", "from the context\n");
    scene
        .mica(["build", "-t", "piped", "-f", "-", "ctx"])
        .stdin("FROM base\nCOPY f /f\n")
        .ok();
    assert_eq!(scene.cat("piped", "/f"), "from the context\n");
    // No context at all.
    scene
        .mica(["build", "-t", "bare", "-"])
        .stdin("FROM base\nRUN echo bare > /f\n")
        .ok();
    assert_eq!(scene.cat("bare", "/f"), "bare\n");
    scene.write("other/Anyfile", "FROM base\nCOPY f /elsewhere\n");
    scene
        .mica(["build", "-t", "else", "-f", "other/Anyfile", "ctx"])
        .ok();
    assert_eq!(scene.cat("else", "/elsewhere"), "from the context\n");
}

#[test]
fn quiet_says_the_id_and_iidfile_keeps_it() {
    let Some(scene) = Scene::with_base() else { return };
    let quiet = scene
        .build(
            "FROM base\nRUN echo noise\n",
            ["-q", "--iidfile", "id", "-t", "q"],
        )
        .ok();
    assert_eq!(quiet.stderr(), "");
    let id = quiet.answer();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id:?}");
    assert_eq!(scene.read("id").trim_end(), id);
    assert_eq!(scene.mica(["inspect", &id]).ok().json()[0]["Id"], id);
}

#[test]
fn progress_shows_each_step_with_its_output_and_time() {
    let Some(scene) = Scene::with_base() else { return };
    let log = scene
        .build(
            "FROM base\nWORKDIR /w\nRUN echo to-stdout; echo to-stderr >&2\n",
            ["-t", "p"],
        )
        .ok();
    let log = log
        .says("WORKDIR /w")
        .says("to-stdout")
        .says("to-stderr")
        .stderr();
    let has_seconds = log.split_whitespace().any(|word| {
        word.strip_suffix('s')
            .is_some_and(|number| number.parse::<f64>().is_ok())
    });
    assert!(has_seconds, "no step tells its time:\n{log}");
}

#[test]
fn output_goes_where_it_is_sent() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "FROM scratch\nCOPY f /dir/f\n";
    scene.write("ctx/f", "content\n");
    for kind in ["oci", "docker", "tar"] {
        let output = format!("type={kind},dest={kind}.tar");
        scene.build(dockerfile, ["--output", &output]).ok();
    }
    let members = |file: &str| tool("tar", scene.directory()).args(["-tf", file]).ok();
    members("oci.tar")
        .says("oci-layout")
        .says("index.json")
        .says("blobs/sha256/");
    members("docker.tar").says("manifest.json");
    members("tar.tar").says("dir/f").lacks("manifest.json");
    scene.build(dockerfile, ["--output", "type=local,dest=out"]).ok();
    assert_eq!(scene.read("out/dir/f"), "content\n");
    // `-` is stdout, as in `docker build -o - . | tar x`.
    let piped = scene.build(dockerfile, ["--output", "type=tar,dest=-"]).ok();
    assert!(
        piped.stdout.windows(5).any(|part| part == b"dir/f"),
        "no tar on stdout"
    );
}

#[test]
fn a_step_sees_dockers_surroundings() {
    for scene in Scene::everyone() {
        let dockerfile = "\
FROM base
RUN for f in null zero full random urandom tty ptmx pts shm stdin stdout stderr fd; do [ -e /dev/$f ] || echo no $f; done > /lacks
RUN echo $$ > /pid && id -u > /id && umask > /umask && pwd > /pwd && env | sort > /env && cat /proc/self/status > /status
RUN [ -s /etc/resolv.conf ] && grep -q localhost /etc/hosts
RUN touch /sys/x 2>/dev/null && echo writable > /sys-is || echo read-only > /sys-is
";
        scene.build(dockerfile, ["-t", "around"]).ok();
        let cat = |path| scene.cat("around", path);
        assert_eq!(cat("/lacks"), "");
        assert_eq!(cat("/id"), "0\n");
        assert_eq!(cat("/umask"), "0022\n");
        assert_eq!(cat("/pwd"), "/\n");
        assert_eq!(cat("/sys-is"), "read-only\n");
        assert!(cat("/env").contains("PATH=/"), "{}", cat("/env"));
        assert!(
            !cat("/env").contains("MICA_"),
            "mica's own variables are in the step"
        );
        // Docker's 14 capabilities and nothing more.
        assert!(
            cat("/status").contains("CapEff:\t00000000a80425fb"),
            "{}",
            cat("/status")
        );
        // The files that were shown to the step are not in its layers.
        for path in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"] {
            scene.mica(["cat", "around", path]).fails();
        }
        scene.mica(["ls", "around", "/dev"]).ok().lacks("null");
    }
}

#[test]
fn a_background_process_does_not_outlive_its_step() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build(
            "FROM base\nRUN (sleep 71077; echo late > /late) & echo done > /done\n",
            ["-t", "bg"],
        )
        .ok();
    assert_eq!(scene.cat("bg", "/done"), "done\n");
    let processes = tool("ps", scene.directory()).args(["-eo", "args"]).ok();
    processes.lacks("sleep 71077");
    scene.is_clean();
}

#[test]
fn an_archive_s_own_directory_says_nothing_of_the_destination() {
    let Some(scene) = Scene::with_base() else { return };
    let tar = Tar::new()
        .directory("./", 0o700)
        .file("./f", "f")
        .symlink("./l", "f");
    scene.write("ctx/root.tar", tar.bytes());
    let dockerfile = "\
FROM scratch AS rootfs
ADD root.tar /
FROM base
RUN mkdir -m 0750 /there && chown 5:6 /there
ADD root.tar /there
ADD root.tar /new
RUN --mount=from=rootfs,target=/m stat -c '%a %u:%g' /m /there /new > /said && stat -c %a /new/l >> /said
";
    scene.build(dockerfile, ["-t", "i"]).ok();
    assert_eq!(scene.cat("i", "/said"), "755 0:0\n750 5:6\n755 0:0\n777\n");
}

/// As in Docker: <https://github.com/moby/buildkit/issues/1941>, and how BuildKit reads owners.
#[test]
fn owners_and_modes_of_copies_are_dockers() {
    for scene in Scene::everyone() {
        scene.write("ctx/f", "f");
        let dockerfile = "\
FROM base AS made
RUN mkdir -p /app/sub && touch /app/f && chown -R 1000:1001 /app && chmod 0710 /app /app/sub
FROM scratch AS nobody
COPY --chown=root f /root
COPY --chown=ghost:ghosts f /ghost
USER 12
WORKDIR /work
FROM base
COPY --from=made /app /new
COPY --from=made /app /given/
COPY --from=nobody / /nobody/
RUN mkdir -m 0750 /there && chown 5:6 /there
COPY --from=made /app /there
COPY --chown=9: f /group
RUN stat -c '%n %a %u:%g' /new /new/sub /new/f /given /there /there/sub /group /nobody/* > /stat
";
        scene.build(dockerfile, ["-t", "i"]).ok();
        let expected = "\
/new 755 0:0
/new/sub 710 1000:1001
/new/f 644 1000:1001
/given 755 0:0
/there 750 5:6
/there/sub 710 1000:1001
/group 644 9:0
/nobody/ghost 644 0:0
/nobody/root 644 0:0
/nobody/work 755 12:12
";
        assert_eq!(scene.cat("i", "/stat"), expected, "as {}", scene.who());
        scene
            .build("FROM scratch\nCOPY --chown=ghost f /\n", ["-q"])
            .fails()
            .says("unable to find ghost");
        scene.is_clean();
    }
}
