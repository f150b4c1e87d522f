//! `RUN --mount`, secrets, named contexts and `COPY --parents`: what a step sees, and that nothing of it stays.

use std::process::Command;

use mica_tests::Scene;

#[test]
fn binds_show_files_and_keep_nothing() {
    for scene in Scene::in_every_id_mode() {
        scene.write("ctx/a.txt", "a\n");
        scene.write("ctx/dir/b.txt", "b\n");
        scene.write("ctx/ignored.log", "no\n");
        scene.write("ctx/.dockerignore", "*.log\n");
        let dockerfile = "\
FROM base AS made
RUN mkdir /made && echo made > /made/f && ln -s f /made/link
FROM base
WORKDIR /w
RUN --mount=target=. ls -A > /context && cat dir/b.txt >> /context
RUN --mount=target=/ro,source=dir if echo x > /ro/b.txt; then exit 9; fi; ls -ln /ro/b.txt > /owner
RUN --mount=target=/rw,rw echo changed > /rw/a.txt && touch /rw/new && cat /rw/a.txt > /changed
RUN --mount=target=/again,source=a.txt,dst=/again cat /again >> /changed
RUN --mount=from=made,source=/made,target=/m cat /m/link > /stage
RUN --mount=from=made,source=/made/link,target=/one cat /one >> /stage
RUN --mount=from=base,source=/etc,target=/e,rw echo x > /e/group && cat /e/group >> /stage
RUN ls -d /ro /rw /again /m /one /e > /left 2>/dev/null; test -s /left && exit 9; ls -A /w > /left
";
        scene.build(dockerfile, ["-t", "bound"]).ok();
        let read = |path: &str| scene.cat("bound", path);
        assert_eq!(read("/context"), ".dockerignore\nDockerfile\na.txt\ndir\nb\n");
        assert!(
            read("/owner").contains(" 0 "),
            "as {}: {}",
            scene.who(),
            read("/owner")
        );
        assert_eq!(read("/changed"), "changed\na\n");
        assert_eq!(read("/stage"), "made\nmade\nx\n");
        assert_eq!(read("/left"), "");
        assert_eq!(scene.read("ctx/a.txt"), "a\n");
        scene.is_clean();
    }
}

#[test]
fn a_step_runs_again_when_what_it_binds_changes_and_only_then() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/dir/seen", "1");
    scene.write("ctx/other", "1");
    let dockerfile = "FROM base\nRUN --mount=target=/d,source=dir cat /d/seen > /out\n";
    scene.build(dockerfile, ["-t", "first"]).ok();
    scene.write("ctx/other", "2");
    scene.rebuild(["-t", "same"]).ok().says("#2 CACHED");
    scene.write("ctx/dir/seen", "2");
    scene.rebuild(["-t", "changed"]).ok().lacks("#2 CACHED");
    assert_eq!(scene.cat("changed", "/out"), "2");
}

#[test]
fn caches_stay_from_build_to_build() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = |n: u32| {
            format!(
                "\
FROM base AS seed
RUN mkdir /s && echo seed > /s/f && chown 7:8 /s
FROM base
RUN --mount=type=cache,target=/c,sharing=locked echo {n} >> /c/log && cat /c/log > /log
RUN --mount=type=cache,target=/c,id=own,uid=1000,gid=33,mode=0750 stat -c '%u %g %a' /c > /stat && echo {n}
RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s stat -c '%u %g' /c >> /stat && cat /c/f >> /stat
RUN --mount=type=cache,target=/c,ro if touch /c/x; then exit 9; fi; cat /c/log >> /log
RUN --mount=type=cache,target=/a,id=two --mount=type=cache,target=/b,id=two,sharing=locked echo x > /a/x && cat /b/x
RUN --mount=type=cache,target=/p,sharing=private touch /p/x
RUN --mount=type=cache,target=/c mkdir -p /c/deep/er && echo {n} > /c/deep/er/in && ln -sfn /deep /c/link
RUN --mount=type=cache,target=/d,source=/link/er,id=/c cat /d/in >> /log
RUN ls -d /c /p /a > /left 2>/dev/null; true
"
            )
        };
        scene.build(&dockerfile(1), ["-t", "one"]).ok();
        assert_eq!(scene.cat("one", "/log"), "1\n1\n1\n", "as {}", scene.who());
        assert_eq!(scene.cat("one", "/stat"), "1000 33 750\n7 8\nseed\n");
        scene.build(&dockerfile(2), ["-t", "two"]).ok();
        assert_eq!(scene.cat("two", "/log"), "1\n2\n1\n2\n2\n");
        scene
            .build(
                "FROM base\nRUN --mount=type=cache,target=/c,source=none true\n",
                ["-q"],
            )
            .fails()
            .says("/none\n");
        assert_eq!(scene.cat("two", "/left"), "");
        scene.is_clean();
        // What the image's users left in a cache goes as well.
        let held = |scene: &Scene| std::fs::read_dir(scene.store().join("cache-mounts")).map(Iterator::count);
        assert!(held(&scene).is_ok_and(|n| n > 0));
        scene.mica(["prune", "--all", "--force"]).ok();
        assert!(held(&scene).is_ok_and(|n| n == 0), "as {}", scene.who());
        scene.is_clean();
    }
}

#[test]
fn caches_keep_owners() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = |n: u32| {
            format!(
                "\
FROM base AS seed
RUN mkdir -m 2750 /s && echo seed > /s/f && chown 3:4 /s/f && chown 7:8 /s
FROM base
RUN --mount=type=cache,target=/c echo {n} && mkdir -p /c/d && echo closed > /c/d/f && chmod 640 /c/d/f && chown -R 33:44 /c/d && \
    chmod 2750 /c/d && ln -sfn d /c/l && chown -h 5:6 /c/l && rm -f /c/p && mkfifo /c/p && chown 9 /c/p
RUN --mount=type=cache,target=/c,id=seeded,from=seed,source=/s stat -c '%u:%g %a' /c /c/f > /seeded && chown 11 /c/f && echo {n}
USER 1000:50
RUN --mount=type=cache,target=/c ! ls /c/d && ! cat /c/d/f && ! touch /c/new && ! chmod 777 /c && ! rm -f /c/l && echo {n}
RUN --mount=type=cache,target=/own,id=own,uid=1000,gid=50,mode=0700 touch /own/f && chmod 600 /own/f && echo {n}
USER 33
RUN --mount=type=cache,target=/c cat /c/d/f && ! stat /own && echo x >> /c/d/f && touch /c/d/of33 && echo {n}
USER root
RUN --mount=type=cache,target=/c --mount=type=cache,target=/own,id=own,uid=1000,gid=50,mode=0700 \
    cd / && stat -c '%u:%g %a %n' c c/d c/d/f c/d/of33 c/l c/p own own/f > /stat && echo {n}
"
            )
        };
        scene.build(&dockerfile(1), ["-t", "one"]).ok();
        let stat = "\
0:0 755 c
33:44 2750 c/d
33:44 640 c/d/f
33:44 644 c/d/of33
5:6 777 c/l
9:0 644 c/p
1000:50 700 own
1000:50 600 own/f
";
        assert_eq!(scene.cat("one", "/stat"), stat, "as {}", scene.who());
        assert_eq!(scene.cat("one", "/seeded"), "7:8 2750\n3:4 644\n");
        scene.build(&dockerfile(2), ["-t", "two"]).ok();
        assert_eq!(scene.cat("two", "/stat"), stat, "as {}", scene.who());
        assert_eq!(scene.cat("two", "/seeded"), "7:8 2750\n11:4 644\n");
        scene.mica(["fsck"]).ok();
        scene.is_clean();
    }
}

#[test]
fn steps_and_builds_share_a_cache() {
    for scene in Scene::in_every_id_mode() {
        // Each step of a build waits for what the other puts there.
        let step = |own: &str, other: &str| {
            format!(
                "FROM base AS {own}\nRUN --mount=type=cache,target=/c touch /c/{own}; n=0; \
                 until [ -e /c/{other} ]; do n=$((n + 1)); [ $n -lt 600 ] || exit 1; sleep 0.05; done; touch /{own}\n"
            )
        };
        let both = "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n";
        let dockerfile = format!("{}{}{both}", step("a", "b"), step("b", "a"));
        scene.build(&dockerfile, [""; 0]).ok();
        // Builds at once: none fails, and what each writes stays.
        for name in ["1", "2", "3"] {
            let step = "RUN --mount=type=cache,target=/c mkdir /c/$N && sleep 0.2 && touch /c/$N/f";
            scene.write(
                &format!("many/{name}"),
                format!("FROM base\nENV N={name}\n{step}\n"),
            );
        }
        scene
            .shell("pids=; for n in 1 2 3; do mica build -q -f many/$n many & pids=\"$pids $!\"; done; for p in $pids; do wait $p; done")
            .ok();
        let seen = "FROM base\nRUN --mount=type=cache,target=/c cd /c && ls -d */f > /list\n";
        scene.build(seen, ["-t", "seen"]).ok();
        assert_eq!(
            scene.cat("seen", "/list"),
            "1/f\n2/f\n3/f\n",
            "as {}",
            scene.who()
        );
        scene.is_clean();
    }
}

#[test]
fn a_cache_outlives_a_killed_build() {
    for scene in Scene::in_every_id_mode() {
        let first = "FROM base\nRUN --mount=type=cache,target=/c echo first > /c/f && chown 5:6 /c/f\n";
        scene.build(first, [""; 0]).ok();
        scene.write(
            "killed/Dockerfile",
            "FROM base\nRUN --mount=type=cache,target=/c echo second > /c/g && rm /c/f && touch /c/begun && echo begun && sleep 600\n",
        );
        let program = scene.program();
        let script = format!(
            "{} build --progress=plain killed > out 2>&1 & pid=$!; \
             until grep -q ' begun$' out; do sleep 0.05; done; kill -9 $pid; wait $pid || true",
            program.display()
        );
        scene.shell(&script).ok();
        let then = "\
FROM base
RUN --mount=type=cache,target=/c if [ -e /c/f ]; then stat -c %u:%g /c/f && cat /c/f; else cat /c/g; fi > /seen
RUN --mount=type=cache,target=/c,sharing=locked rm -f /c/* && ls -A /c > /left
";
        scene.build(then, ["-t", "then"]).ok();
        let seen = scene.cat("then", "/seen");
        // What the killed step did is there whole, or not at all.
        assert!(
            ["5:6\nfirst\n", "second\n"].contains(&seen.as_str()),
            "as {}: {seen}",
            scene.who()
        );
        assert_eq!(scene.cat("then", "/left"), "");
        scene.mica(["fsck"]).ok();
        scene.is_clean();
    }
}

#[test]
fn memory_keeps_owners() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = "\
FROM base
USER 1000:50
RUN --mount=type=tmpfs,target=/t touch /t/own && mkdir -m 700 /t/d && stat -c '%u:%g %a' /t /t/own > /tmp/stat && grep -c ' /t tmpfs' /proc/mounts >> /tmp/stat
USER root
RUN --mount=type=tmpfs,target=/t,size=1m cd /t && mkdir -m 700 r && echo x > r/f && chown 5:6 r/f && stat -c '%u:%g' r/f >> /tmp/stat && \
    ls -A / > /tmp/ls && ! head -c 2000000 /dev/zero > big && rm big && echo y > f && cat f >> /tmp/stat
RUN --mount=type=tmpfs,target=/t ls -A /t > /tmp/left
";
        scene.build(dockerfile, ["-t", "memory"]).ok();
        let stat = "0:0 1777\n1000:50 644\n1\n5:6\ny\n";
        assert_eq!(scene.cat("memory", "/tmp/stat"), stat, "as {}", scene.who());
        assert_eq!(scene.cat("memory", "/tmp/left"), "");
        scene.is_clean();
    }
}

#[test]
fn steps_that_lock_each_others_caches_do_not_wait_for_ever() {
    let Some(scene) = Scene::with_base() else { return };
    let step = |first: &str, second: &str| {
        format!(
            "RUN --mount=type=cache,sharing=locked,id={first},target=/1 \\\n\
             --mount=type=cache,sharing=locked,id={second},target=/2 \\\n\
             mkdir /1/held /2/held && sleep 0.2 && rmdir /1/held /2/held && echo {first} > /{first}\n"
        )
    };
    let dockerfile = format!(
        "FROM base AS one\n{}FROM base AS two\n{}FROM scratch\nCOPY --from=one /a /\nCOPY --from=two /b /\n",
        step("a", "b"),
        step("b", "a"),
    );
    scene.build(&dockerfile, ["-t", "locked"]).ok();
    assert_eq!(scene.cat("locked", "/b"), "b\n");
}

#[test]
fn mounts_lie_in_mounts() {
    for scene in Scene::in_every_id_mode() {
        scene.write("ctx/src/main", "main\n");
        scene.write("secret", "s3cr3t");
        let dockerfile = "\
FROM base
RUN --mount=type=cache,target=/src/deps/cache --mount=target=/src,source=src --mount=type=tmpfs,target=/src/tmp \\
    --mount=type=secret,id=s,target=/src/tmp/deep/key --mount=type=secret,id=s,target=/src/key \\
    ls -A /src > /list && echo x > /src/deps/cache/x && cat /src/tmp/deep/key /src/key > /keys && touch /src/tmp/f
RUN --mount=type=cache,target=/outer --mount=target=/outer/in/f,source=src/main cat /outer/in/f >> /list
RUN --mount=type=tmpfs,target=/t,ro --mount=source=src,target=/t/src if touch /t/f; then exit 9; fi; ls /t /t/src >> /list
RUN --mount=type=tmpfs,target=/t,size=64k if head -c 100000 /dev/zero > /t/f; then exit 9; fi
";
        scene
            .build(dockerfile, ["--secret", "id=s,src=secret", "-t", "nested"])
            .ok();
        assert_eq!(
            scene.cat("nested", "/list"),
            "deps\nkey\nmain\ntmp\nmain\n/t:\nsrc\n\n/t/src:\nmain\n",
            "as {}",
            scene.who()
        );
        assert_eq!(scene.cat("nested", "/keys"), "s3cr3ts3cr3t");
        scene.is_clean();
    }
}

#[test]
fn a_secret_is_seen_by_its_step_alone() {
    for scene in Scene::in_every_id_mode() {
        let secret = "n0b0dy-may-see-this";
        scene.write("secret", secret);
        let dockerfile = "\
FROM base
RUN --mount=type=secret,id=key stat -c '%a %u:%g' /run/secrets/key > /stat && test -s /run/secrets/key
RUN --mount=type=secret,id=key,target=own,mode=0440,uid=5,gid=6 stat -c '%a %u:%g' /own >> /stat
RUN --mount=type=secret,id=key,env=KEY test -n \"$KEY\" && test ! -e /run/secrets/key && echo ${#KEY} > /length
RUN --mount=type=secret,id=none test ! -e /run/secrets/none
RUN test -z \"$KEY\" && test ! -e /run/secrets && test ! -e /own
";
        let output = scene
            .build(dockerfile, ["--secret", "id=key,src=secret", "-t", "kept"])
            .ok()
            .lacks(secret);
        drop(output);
        assert_eq!(scene.cat("kept", "/stat"), "400 0:0\n440 5:6\n");
        assert_eq!(scene.cat("kept", "/length"), format!("{}\n", secret.len()));
        scene.mica(["history", "--no-trunc", "kept"]).ok().lacks(secret);
        let mut grep = Command::new("grep");
        let found = grep
            .args(["-rlaF", secret])
            .arg(scene.store())
            .output()
            .expect("grep runs");
        assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in the store");
        // Another value of a secret is no other step.
        scene.write("secret", "another");
        scene
            .rebuild(["--secret", "id=key,src=secret"])
            .ok()
            .says("#2 CACHED");
        scene.is_clean();
    }
}

#[test]
fn a_required_secret_must_be_given() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build(
            "FROM base\nRUN --mount=type=secret,id=key,required true\n",
            [""; 0],
        )
        .fails()
        .says("Dockerfile:2")
        .says("secret key: not given")
        .says("--secret id=key");
    scene
        .rebuild(["--secret", "id=key,src=/none/such"])
        .fails()
        .says("/none/such");
    scene
        .build("FROM base\nRUN --mount=source=none,target=/x true\n", [""; 0])
        .fails()
        .says("Dockerfile:2")
        .says("none: not found in the build context");
}

#[test]
fn contexts_have_names() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("more/f", "more\n");
    scene.write("more/.dockerignore", "secret\n");
    scene.write("more/secret", "x");
    let dockerfile = "\
FROM other AS copy
COPY --from=alpine /f /f
RUN --mount=from=docker.io/library/alpine:latest,target=/a ls -A /a > /list
FROM more
COPY --from=copy /f /list /
";
    scene
        .build(
            dockerfile,
            [
                "--build-context",
                "alpine=more",
                "--build-context",
                "more=more",
                "--build-context",
                "other=docker-image://base",
                "-t",
                "named",
            ],
        )
        .ok();
    assert_eq!(scene.cat("named", "/f"), "more\n");
    assert_eq!(scene.cat("named", "/list"), ".dockerignore\nf\n");
    scene.mica(["ls", "named", "/"]).ok().lacks("secret");
    scene
        .rebuild(["--build-context", "x=ftp://example.com/x.tar"])
        .fails()
        .says("this kind of place is not known");
}

#[test]
fn copies_keep_their_parents() {
    let Some(scene) = Scene::with_base() else { return };
    for name in ["x/y/a.txt", "x/y/b.md", "x/y/z/c.txt", "x/top.txt", "w/d.txt"] {
        scene.write(&format!("ctx/{name}"), name);
    }
    let dockerfile = "\
FROM base AS copies
COPY --parents x/y/a.txt w /plain/
COPY --parents ./x/./y/*.txt /pivot/
COPY --parents x/**/*.txt /deep/
COPY --parents --exclude=**/c.txt x/./y /less/
COPY --parents --from=base /etc/./group /image/
RUN cd / && find plain pivot deep less image -type f | sort > /list
";
    scene.build(dockerfile, ["-t", "parents"]).ok();
    assert_eq!(
        scene.cat("parents", "/list"),
        "deep/x/top.txt\ndeep/x/y/a.txt\ndeep/x/y/z/c.txt\nimage/group\nless/y/a.txt\nless/y/b.md\npivot/y/a.txt\n\
         plain/w/d.txt\nplain/x/y/a.txt\n"
    );
    scene
        .build("FROM base\nCOPY --parents x/none /x/\n", [""; 0])
        .fails()
        .says("x/none");
}

#[test]
fn options_of_docker_are_known() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "FROM base AS one\nRUN cat /etc/hosts > /hosts\nFROM one AS two\nRUN echo two\n";
    scene
        .build(
            dockerfile,
            [
                "--add-host",
                "db:10.1.2.3",
                "--pull=missing",
                "--label",
                "a=b",
                "-t",
                "options",
            ],
        )
        .ok();
    assert!(scene.cat("options", "/hosts").contains("10.1.2.3\tdb\n"));
    assert_eq!(scene.config("options")["Labels"]["a"], "b");
    let args = ["--add-host", "db:10.1.2.3"];
    scene.rebuild(args).ok().says("#2 CACHED").says("#3 CACHED");
    let again = ["--add-host", "db:10.1.2.3", "--no-cache-filter", "one,two"];
    scene.rebuild(again).ok().lacks("#2 CACHED").lacks("#3 CACHED");
    scene
        .rebuild(["--platform", "plan9/sparc"])
        .fails()
        .says("plan9/sparc");
}
