//! Dockerfiles that mean harm: what they try stays in their step, mica lives on, and the store is whole.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use mica_tests::command::wait_until;
use mica_tests::machine;
use mica_tests::scene::NO_SUBORDINATE_IDS;
use mica_tests::{Outcome, Scene, base};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// What lies outside, and must not be seen inside.
const CANARY: &str = "canary-of-the-host";

/// Builds with a file of the host lying about that has [`CANARY`] in it; nothing of it may come out.
fn build(scene: &Scene, dockerfile: &str, args: &[&str]) -> Outcome {
    scene.write("canary", CANARY);
    let built = scene
        .build(dockerfile, args)
        .run()
        .lacks(CANARY)
        .lacks("panicked at");
    let mut grep = std::process::Command::new("grep");
    let found = grep.args(["-rlaF", CANARY]).arg(scene.store()).output();
    assert_eq!(
        String::from_utf8_lossy(&found.expect("grep runs").stdout),
        "",
        "in the store"
    );
    built
}

/// Nothing is left, and the store has all that it should.
#[track_caller]
fn is_whole(scene: &Scene) {
    scene.is_clean();
    scene.mica(["fsck"]).ok();
}

#[test]
fn files_of_the_host_are_out_of_reach() {
    for scene in Scene::in_every_id_mode() {
        let outside = scene.directory().display().to_string();
        let store = scene.store().display().to_string();
        let up = "../".repeat(40);
        let dockerfile = format!(
            "\
FROM base AS links
RUN ln -s {outside}/canary /absolute && ln -s {up}{outside}/canary /relative && ln -s / /root-link
RUN ln -s /proc/1/root/{outside} /through-init && ln -s {outside} /directory && ln -s {store} /store
FROM links
RUN cat /absolute /relative /root-link{outside}/canary /through-init/canary /directory/canary; ls /store; true
RUN for p in /proc/[0-9]*; do cat $p/root{outside}/canary $p/cwd/canary $p/environ; ls -l $p/fd; done; true
RUN --mount=from=links,target=/directory,rw cat /directory/canary /directory/absolute; true
RUN --mount=from=links,source=/directory,target=/m cat /m/canary
"
        );
        let built = build(&scene, &dockerfile, &[]);
        assert!(built.has("/0/directory") || built.has("directory: not found") || !built.status.success());
        for instruction in [
            "COPY --from=links /absolute /got",
            "COPY --from=links /through-init/canary /got",
            "RUN --mount=from=links,source=/store,target=/m ls /m | grep mica.db",
            "ADD canary ../../../../../canary2\nRUN test -e /canary2 && false",
        ] {
            let links = dockerfile.split("FROM links\n").next().unwrap_or_default();
            let built = build(&scene, &format!("{links}FROM links\n{instruction}\n"), &[]);
            assert!(!built.status.success(), "{instruction}: {}", built.describe());
        }
        is_whole(&scene);
    }
}

#[test]
fn mounts_devices_and_roots_do_not_lead_out() {
    for scene in Scene::in_every_id_mode() {
        let outside = scene.directory().display();
        let dockerfile = format!(
            "\
FROM base
RUN ! mount -t tmpfs none /mnt && ! mount --bind / /tmp && ! mount -o remount,rw /sys && ! umount /proc/sys
RUN ! unshare -m true && ! unshare -U true && ! unshare -p true && ! nsenter -t 1 -m true
RUN mkdir -p /d && mknod /d/disk b 8 0 && ! cat /d/disk; mknod /d/mem c 1 1 && ! head -c 1 /d/mem; mknod /d/fuse c 10 229 && ! cat /d/fuse; true
RUN mknod /d/zero c 1 5 && ! head -c 1 /d/zero
RUN mkdir -p /cage && cp /bin/busybox /cage && ! chroot /cage /busybox ls {outside}
RUN v=$(cat /proc/sys/vm/swappiness) && ! echo $v > /proc/sys/vm/swappiness
RUN [ ! -e /proc/sysrq-trigger ] || ! echo h > /proc/sysrq-trigger
RUN for f in /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run; do [ ! -e $f ] || ! cat $f > $f || exit 1; done
RUN ! cat /proc/kcore && ! head -c 1 /dev/mem && ! ls /dev/fuse && ! ls /dev/kmsg
RUN ! pivot_root / /tmp && ! swapoff -a 2>/dev/null; ! reboot -f && ! insmod /bin/busybox && ! hostname other
"
        );
        let built = build(&scene, &dockerfile, &[]);
        assert!(built.status.success(), "{}", built.describe());
        is_whole(&scene);
    }
}

/// CVE-2019-5736: the program behind PID 1 is mica's own.
#[test]
fn mica_s_program_cannot_be_changed() {
    for scene in Scene::in_every_id_mode() {
        let before = fs::read(scene.program()).expect("the program can be read");
        let dockerfile = "\
FROM base
RUN ! echo broken > /proc/1/exe; ! cp /bin/busybox /proc/1/exe; ! truncate -s 0 /proc/1/exe; ! rm /proc/1/exe; true
RUN ln -sf /proc/1/exe /sh && ! /sh __mica-init < /dev/null; ! dd if=/dev/zero of=/proc/1/mem count=1; true
ENTRYPOINT [\"/proc/self/exe\"]
";
        build(&scene, dockerfile, &["-t", "self"]);
        scene.mica(["run", "--rm", "self"]).run().lacks(CANARY);
        assert!(fs::read(scene.program()).is_ok_and(|after| after == before));
        is_whole(&scene);
    }
}

#[test]
fn a_step_does_not_see_the_secrets_of_another() {
    for scene in Scene::in_every_id_mode() {
        scene.write("secret", "the-other-step-s-secret");
        let spy = "for i in $(seq 20); do cat /proc/*/environ /run/secrets/* /proc/*/root/run/secrets/* \
                   /proc/*/cmdline /dev/shm/* /tmp/* /dev/mqueue/*; ipcs 2>/dev/null; sleep 0.1; done 2>/dev/null";
        let dockerfile = format!(
            "\
FROM base AS holder
RUN --mount=type=secret,id=key,env=KEY --mount=type=secret,id=key cp /run/secrets/key /dev/shm/x && sleep 2
FROM base AS spy
RUN ({spy}; true) > /seen
FROM base
COPY --from=holder /etc/passwd /a
COPY --from=spy /seen /seen
RUN ({spy}; true) > /again
"
        );
        scene
            .build(&dockerfile, ["--secret=id=key,src=secret", "-t", "spied"])
            .ok()
            .lacks("the-other-step-s-secret");
        for path in ["/seen", "/again"] {
            assert!(
                !scene.cat("spied", path).contains("the-other-step"),
                "as {}",
                scene.who()
            );
        }
        is_whole(&scene);
    }
}

#[test]
fn signals_stay_inside() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = "\
FROM base
RUN kill -9 1; kill -STOP 1; kill -CHLD 1; true
RUN trap '' TERM HUP INT; kill -9 -1; true
";
        let built = build(&scene, dockerfile, &[]);
        assert!(built.status.success(), "{}", built.describe());
        // PID 1 passes signals on to the command, which can also kill itself.
        build(&scene, "FROM base\nRUN kill -SEGV 1; sleep 60\n", &[]).says("killed by signal 11");
        build(&scene, "FROM base\nRUN kill -9 0\n", &[]).says("killed by signal 9");
        is_whole(&scene);
        scene
            .mica(["run", "--rm", "base", "sh", "-c", "kill -9 -1; echo alive"])
            .ok()
            .says("alive");
    }
}

#[test]
fn what_outlives_its_step_does_not() {
    for scene in Scene::in_every_id_mode() {
        let daemon =
            "setsid sh -c 'trap \"\" TERM HUP; (sleep 71079; touch /late) > /dev/null 2>&1 < /dev/null &' &";
        let dockerfile =
            format!("FROM base\nRUN {daemon} sleep 0.2; echo done > /done\nRUN ! ps | grep 7107[9]\n");
        let built = build(&scene, &dockerfile, &["-t", "outlived"]);
        assert!(built.status.success(), "{}", built.describe());
        assert_eq!(processes("71079"), Vec::<Pid>::new());
        assert_eq!(scene.cat("outlived", "/done"), "done\n");
        is_whole(&scene);
    }
}

/// The limit of processes holds for a user of the step everywhere, and for its root where that is no real root.
#[test]
fn a_fork_bomb_is_bounded() {
    for scene in Scene::in_every_id_mode() {
        let bomb = "RUN bomb() { bomb | bomb & }; bomb; sleep 2; exit 7\n";
        let users: &[&str] = if scene.is_root() {
            &["1000"]
        } else {
            &["0", "1000"]
        };
        for user in users {
            build(
                &scene,
                &format!("FROM base\nUSER {user}\n{bomb}"),
                &["--ulimit=nproc=60"],
            )
            .says("fork");
            is_whole(&scene);
        }
    }
}

#[test]
fn a_full_disk_ends_the_step_alone() {
    let small = "mount -t tmpfs -o size=24m,mode=777 tmpfs store\n";
    let scenes = [
        Scene::changed_by(small),
        Scene::user_changed_by(small),
        Scene::user_changed_by(&format!("{NO_SUBORDINATE_IDS}{small}")),
    ];
    for scene in scenes.into_iter().flatten() {
        base::load(&scene);
        let fill = "\
FROM base
RUN dd if=/dev/urandom of=/big bs=1M count=100 || true; for i in $(seq 200); do echo $i > /f$i || true; done
";
        // Its changes have no room; that is said, and they are gone.
        assert!(
            !build(&scene, fill, &["-t", "full"])
                .says("o space left")
                .status
                .success()
        );
        let after =
            "FROM base\nRUN dd if=/dev/urandom of=/big bs=1M count=100; rm /big; echo here > /small\n";
        assert!(build(&scene, after, &["-t", "small"]).status.success());
        assert_eq!(scene.cat("small", "/small"), "here\n");
        is_whole(&scene);
    }
}

/// What a user may not read is not for the user's steps either, whoever they are inside.
#[test]
fn files_of_other_users_stay_closed() {
    for scene in Scene::in_every_id_mode() {
        if scene.is_root() {
            continue;
        }
        let file = scene.write("others/closed", CANARY);
        chown(&file, Some(0), Some(0)).expect("root may hand over a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("root may do so");
        let volume = format!("{}:/volume", scene.path("others").display());
        let dockerfile = "\
FROM base
RUN ! cat /volume/closed && ! echo x >> /volume/closed; chmod 666 /volume/closed; chown 0:0 /volume/closed; ! cat /volume/closed
RUN --mount=type=bind,source=closed,target=/c ! cat /c
";
        fs::hard_link(&file, scene.mkdir("ctx").join("closed")).expect("root may do so");
        build(&scene, dockerfile, &["-v", &volume]);
        let found = fs::metadata(&file).expect("it is there");
        assert_eq!(
            (found.uid(), found.mode() & 0o777, found.len()),
            (0, 0o600, CANARY.len() as u64)
        );
        is_whole(&scene);
    }
}

/// While mica looks at what a system call names, another process changes what the name stands for.
#[test]
fn names_that_change_under_the_supervisor_do_not_lead_out() {
    if machine::programs(&["perl"]).is_none() {
        return;
    }
    for scene in Scene::in_every_id_mode() {
        scene
            .mica(["import", "--host", "perl", "sh", "cat", "-t", "tools"])
            .ok();
        let file = scene.write("outside/file", "of the volume\n");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("its owner may do so");
        let before = fs::metadata(&file).expect("it is there");
        // Three processes have the name stand for a file, a link to the volume and a link to a root; three others use it.
        let script = r##"
$| = 1; my $name = "/name"; open(F, ">", "/own"); print F "#!/bin/sh
"; close F; chmod 0755, "/own";
my @workers = (
    sub { unlink "/t1"; symlink "/volume/file", "/t1"; rename "/t1", "/name" },
    sub { unlink "/t2"; link "/own", "/t2"; rename "/t2", "/name" },
    sub { symlink "/proc/1/root", "/t3"; rename "/t3", "/name"; unlink "/name" },
    sub { chown 5, 6, "/name"; lstat "/name"; stat "/name" },
    sub { syscall(133, $name, 0020666, 259); unlink "/name"; chmod 04755, "/name" },
    sub { my $pid = fork; unless ($pid) { exec { "/name" } "name"; exit } waitpid $pid, 0; stat "/name/etc/passwd" },
);
my @pids = map { my $work = $_; my $pid = fork; unless ($pid) { my $end = time + 3; $work->() while time < $end; exit } $pid } @workers;
waitpid $_, 0 for @pids;
print "done
";
"##;
        scene.write("ctx/race.pl", script);
        let volume = format!("{}:/volume:ro", scene.path("outside").display());
        let dockerfile = "FROM tools
COPY race.pl /
RUN perl /race.pl 2>&1
";
        let built = build(&scene, dockerfile, &["-t", "raced", "-v", &volume]).says("done");
        assert!(built.status.success(), "{}", built.describe());
        let after = fs::metadata(&file).expect("it is there");
        assert_eq!(
            (after.uid(), after.gid(), after.mode()),
            (before.uid(), before.gid(), before.mode()),
            "as {}",
            scene.who()
        );
        is_whole(&scene);
    }
}

#[test]
fn init_can_be_traced_and_gives_nothing_away() {
    if std::env::consts::ARCH != "x86_64" || machine::programs(&["perl"]).is_none() {
        return;
    }
    for scene in Scene::in_every_id_mode() {
        scene
            .mica(["import", "--host", "perl", "sh", "cat", "ls", "-t", "tools"])
            .ok();
        // PTRACE_ATTACH, then what is behind the descriptors of PID 1; chroot(2) twice, and up.
        let script = format!(
            "syscall(101, 16, 1, 0, 0); print \"attach: \", $! + 0, \"\\n\";\n\
             print `ls -l /proc/1/fd /proc/1/cwd /proc/1/root; cat /proc/1/environ /proc/1/maps`;\n\
             syscall(101, 17, 1, 0, 0);\n\
             my ($d, $up, $here) = (\"/cage\", \"..\", \".\"); mkdir $d; chroot $d; chdir $up for 1..40; chroot $here;\n\
             print `cat {}/canary; ls /`;\n",
            scene.directory().display()
        );
        scene.write("ctx/trace.pl", script);
        let built = build(
            &scene,
            "FROM tools\nCOPY trace.pl /\nRUN perl /trace.pl\n",
            &["-t", "traced"],
        );
        drop(built.lacks("mica.db").lacks("ctx"));
        is_whole(&scene);
    }
}

#[test]
fn an_init_that_is_held_is_let_go_or_ended() {
    if std::env::consts::ARCH != "x86_64" || machine::programs(&["perl"]).is_none() {
        return;
    }
    for scene in Scene::in_every_id_mode() {
        scene.mica(["import", "--host", "perl", "sh", "-t", "tools"]).ok();
        // A tracer that ends without a PTRACE_DETACH leaves PID 1 stopped.
        const ATTACH: &str = "syscall(101, 16, 1, 0, 0);";
        let dockerfile =
            format!("FROM tools\nRUN perl -e '{ATTACH}'\nRUN perl -e '{ATTACH}' && echo > /done\n");
        scene.build(&dockerfile, ["-t", "stopped"]).ok();
        // One that lives on keeps it, and is ended with it.
        let dockerfile = format!("FROM tools\nRUN perl -e '{ATTACH} sleep 1000'\n");
        scene.write("ctx/Dockerfile", &dockerfile);
        let building = scene
            .mica(["build", "--progress=plain", "-o", "type=cacheonly", "ctx"])
            .start();
        let status = |pid: &Pid| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is_traced =
            |pid: &Pid| status(pid).contains("TracerPid:") && !status(pid).contains("TracerPid:\t0\n");
        let mica = building.pid();
        let is_ours = |init: &Pid| parent(*init).and_then(parent) == Some(mica);
        wait_until("the step has its init", || {
            let inits = processes("__mica-init");
            inits.iter().any(|init| is_ours(init) && is_traced(init))
        });
        building.signal(Signal::SIGTERM);
        building.wait().says("mica");
        is_whole(&scene);
    }
}

/// Who started a process.
fn parent(process: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().map(Pid::from_raw)
}

/// The processes with this text in their command line.
fn processes(text: &str) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let has = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(has).map(Pid::from_raw).collect()
}
