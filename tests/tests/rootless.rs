//! What an unprivileged user can do, and what is missing when helpers are.

use mica_tests::Scene;

#[test]
fn many_owners_fit_into_the_user_s_ids() {
    let Some(scene) = Scene::as_user() else { return };
    let dockerfile = "\
FROM base
RUN for id in 0 1 1000 65534; do touch /f$id && chown $id:$id /f$id; done
RUN stat -c '%u:%g' /f0 /f1 /f1000 /f65534 > /owners
USER 1000
RUN id -u > /tmp/who && ! touch /root/no && ! cat /etc/shadow 2>/dev/null
";
    scene.build(dockerfile, ["-t", "owners"]).ok();
    assert_eq!(
        scene.cat("owners", "/owners"),
        "0:0\n1:1\n1000:1000\n65534:65534\n"
    );
    assert_eq!(scene.cat("owners", "/tmp/who"), "1000\n");
    scene.is_clean();
}

#[test]
fn nothing_of_the_store_belongs_to_another_user() {
    let Some(scene) = Scene::as_user() else { return };
    scene
        .build(
            "FROM base\nRUN mkdir -m 0 /secret && chown 7:7 /secret\n",
            ["-t", "s"],
        )
        .ok();
    let foreign = "find \"$MICA_ROOT\" ! -user \"$(id -u)\"";
    assert_eq!(scene.shell(foreign).ok().stdout(), "");
    // So plain `rm` can remove it.
    scene.shell("rm -r \"$MICA_ROOT\"").ok();
}

#[test]
fn a_lasting_mount_goes_through_fusermount() {
    let Some(scene) = Scene::as_user() else { return };
    if mica_tests::machine::programs(&["fusermount3"]).is_none() {
        return;
    }
    scene.mkdir("m");
    scene.mica(["mount", "--rw", "base", "m"]).ok();
    scene
        .shell("cat m/etc/passwd; echo new > m/new; cat m/new")
        .ok()
        .says("user:x:1000")
        .says("new");
    assert_eq!(scene.mounts().len(), 1);
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn without_fusermount_a_command_sees_the_mount() {
    let Some(scene) = Scene::as_user() else { return };
    scene.write("ctx/Dockerfile", "FROM base\nRUN true\n");
    scene.mkdir("m");
    // A PATH with everything but fusermount3.
    scene
        .shell("mkdir bin && for p in sh cat newuidmap newgidmap; do ln -s \"$(command -v $p)\" bin; done")
        .ok();
    let run = |command: &str| scene.shell(&format!("PATH=$PWD/bin; {command}"));
    run("mica mount base m").fails().says("fusermount3").says("hint");
    run("mica mount base m -- cat m/etc/passwd")
        .ok()
        .says("user:x:1000");
    run("mica build ctx").ok();
    scene.is_clean();
}

#[test]
fn a_step_reaches_nothing_of_the_machine() {
    for scene in Scene::everyone() {
        scene.write("secret", "of the host\n");
        let outside = scene.directory().display();
        let dockerfile = format!(
            "FROM base\n\
             RUN ! [ -e {outside} ] && ! ls /proc/1/root/{outside} 2>/dev/null\n\
             RUN ps | wc -l > /processes\n\
             RUN ! mount -t tmpfs none /tmp 2>/dev/null && ! mknod /dev/mem c 1 1 2>/dev/null || true\n\
             RUN ! echo 1 > /proc/sys/kernel/panic 2>/dev/null\n"
        );
        scene.build(&dockerfile, ["-t", "within"]).ok();
        let processes: usize = scene
            .cat("within", "/processes")
            .trim()
            .parse()
            .expect("a number");
        assert!(
            processes < 8,
            "the step sees {processes} processes as {}",
            scene.who()
        );
    }
}
