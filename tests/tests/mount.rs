//! Images as directories: mounts that last, mounts for one command, and their end.

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use mica_tests::Scene;
use mica_tests::command::{tool, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A scene with the image `app` of three layers, and an empty directory `m`.
fn scene_with_app() -> Option<Scene> {
    let scene = Scene::with_base()?;
    scene.write("ctx/file", "from the context\n");
    scene
        .build(
            "FROM base\nCOPY file /app/\nRUN rm /etc/group && echo new > /app/new\n",
            ["-t", "app"],
        )
        .ok();
    scene.mkdir("m");
    Some(scene)
}

/// The server of the only mount.
fn server(scene: &Scene) -> Pid {
    let mounts = scene.mica(["mounts", "--format", "json"]).ok().json_lines();
    assert_eq!(mounts.len(), 1, "{mounts:?}");
    let pid = mounts[0]["pid"]
        .as_i64()
        .or(mounts[0]["Pid"].as_i64())
        .or(mounts[0]["PID"].as_i64());
    let pid = pid.unwrap_or_else(|| panic!("no pid in {mounts:?}"));
    Pid::from_raw(i32::try_from(pid).expect("a pid"))
}

#[test]
fn an_image_is_a_directory() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    assert_eq!(scene.read("m/app/file"), "from the context\n");
    assert_eq!(scene.read("m/app/new"), "new\n");
    assert!(!scene.path("m/etc/group").exists(), "the whiteout hides nothing");
    let refused = fs::write(scene.path("m/app/new"), "x").expect_err("the mount is read-only");
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    scene.mica(["mounts"]).ok().says("app").says("/m");
    scene.mica(["umount", "m"]).ok();
    assert_eq!(
        fs::read_dir(scene.path("m")).expect("it is a directory").count(),
        0
    );
    scene.is_clean();
}

#[test]
fn one_image_may_be_mounted_twice_and_all_are_unmounted_at_once() {
    let Some(scene) = scene_with_app() else { return };
    scene.mkdir("n");
    scene.mica(["mount", "app", "m"]).ok();
    scene.mica(["mount", "base", "n"]).ok();
    assert!(scene.path("n/etc/group").exists());
    assert_eq!(
        scene.mica(["mounts", "--format", "json"]).ok().json_lines().len(),
        2
    );
    scene.mica(["umount", "--all"]).ok();
    scene.is_clean();
}

#[test]
fn a_scratch_upper_is_thrown_away() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    fs::write(scene.path("m/app/new"), "changed\n").expect("the mount is writable");
    fs::rename(scene.path("m/app"), scene.path("m/moved")).expect("a lower directory can be renamed");
    assert_eq!(scene.read("m/moved/new"), "changed\n");
    scene.mica(["umount", "m"]).ok();
    assert_eq!(scene.cat("app", "/app/new"), "new\n");
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    assert_eq!(scene.read("m/app/new"), "new\n");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_named_upper_is_kept() {
    let Some(scene) = scene_with_app() else { return };
    let mount = || scene.mica(["mount", "--rw", "--upper", "trial", "app", "m"]).ok();
    mount();
    fs::write(scene.path("m/app/new"), "changed\n").expect("the mount is writable");
    fs::remove_file(scene.path("m/app/file")).expect("the mount is writable");
    scene.mica(["umount", "m"]).ok();
    mount();
    assert_eq!(scene.read("m/app/new"), "changed\n");
    assert!(!scene.path("m/app/file").exists());
    scene.mica(["umount", "m"]).ok();
    assert_eq!(scene.cat("app", "/app/new"), "new\n");
}

#[test]
fn a_named_upper_has_one_user() {
    let Some(scene) = scene_with_app() else { return };
    scene.mkdir("n");
    scene.mica(["mount", "--rw", "--upper", "trial", "app", "m"]).ok();
    scene
        .mica(["mount", "--rw", "--upper", "trial", "app", "n"])
        .fails()
        .says("trial");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_command_sees_a_mount_of_its_own() {
    for scene in Scene::everyone() {
        let seen = scene
            .mica([
                "mount",
                "base",
                "--",
                "sh",
                "-c",
                "cat $MICA_MOUNT/etc/passwd; exit 7",
            ])
            .exits(7);
        seen.says("user:x:1000:1000");
        scene.is_clean();
    }
}

#[test]
fn a_killed_server_leaves_nothing_mounted() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    kill(server(&scene), Signal::SIGKILL).expect("the server lives");
    wait_until("the mount goes with its server", || scene.mounts().is_empty());
    assert_eq!(scene.mica(["mounts", "--format", "json"]).ok().answer(), "");
    scene.mica(["mount", "app", "m"]).ok();
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_server_unmounts_when_it_is_told_to_end() {
    for scene in Scene::everyone() {
        scene.mkdir("m");
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            scene.mica(["mount", "--rw", "base", "m"]).ok();
            kill(server(&scene), signal).expect("the server lives");
            wait_until("the server unmounts", || scene.mounts().is_empty());
        }
        scene.is_clean();
    }
}

#[test]
fn a_server_that_is_told_to_end_lets_its_users_finish() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    let mut open = fs::File::open(scene.path("m/app/file")).expect("the file is there");
    let server = server(&scene);
    kill(server, Signal::SIGTERM).expect("the server lives");
    wait_until("the server detaches the mount", || scene.mounts().is_empty());
    let mut text = String::new();
    open.read_to_string(&mut text).expect("it is still served");
    assert_eq!(text, "from the context\n");
    assert!(kill(server, None).is_ok(), "the server ended before its user");
    drop(open);
    scene.is_clean();
}

#[test]
fn a_second_signal_ends_a_server_at_once() {
    let Some(scene) = scene_with_app() else { return };
    let foreground = scene.mica(["mount", "--foreground", "app", "m"]).start();
    wait_until("it is mounted and answers", || scene.path("m/app/file").exists());
    let open = fs::File::open(scene.path("m/app/file")).expect("the file is there");
    let server = server(&scene);
    kill(server, Signal::SIGTERM).expect("the server lives");
    wait_until("the server detaches the mount", || scene.mounts().is_empty());
    kill(server, Signal::SIGINT).expect("the server lives");
    let status = foreground.wait().status.code();
    assert_eq!(status, Some(128 + Signal::SIGINT as i32));
    drop(open);
    scene.is_clean();
}

/// What `/proc` shows as the children of a server: its watcher.
fn watcher(server: Pid) -> Pid {
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children"));
    let children = children.expect("the server lives");
    let pids: Vec<i32> = children.split_whitespace().flat_map(str::parse).collect();
    assert_eq!(pids.len(), 1, "{children:?}");
    Pid::from_raw(pids[0])
}

#[test]
fn all_processes_of_a_mount_may_be_told_to_end_at_once() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    let server = server(&scene);
    let watcher = watcher(server);
    let is_ready = || {
        let status = fs::read_to_string(format!("/proc/{watcher}/status")).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask, 16).ok());
        caught.is_some_and(|mask| mask & 1 << (Signal::SIGTERM as i32 - 1) != 0)
    };
    wait_until("the watcher expects signals", is_ready);
    for process in [watcher, server] {
        kill(process, Signal::SIGTERM).expect("it lives");
    }
    wait_until("the mount is gone", || scene.mounts().is_empty());
    scene.is_clean();
}

#[test]
fn a_slow_watcher_leaves_the_next_mount_alone() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "base", "m"]).ok();
    let watcher = watcher(server(&scene));
    kill(watcher, Signal::SIGSTOP).expect("the watcher lives");
    scene.mica(["umount", "m"]).ok();
    // It gets the number of the device that was freed, if no other test does.
    scene.mica(["mount", "app", "m"]).ok();
    kill(watcher, Signal::SIGCONT).expect("the watcher lives");
    wait_until("the watcher ends", || {
        let status = fs::read_to_string(format!("/proc/{watcher}/status"));
        status.map_or(true, |status| status.contains("State:\tZ"))
    });
    assert_eq!(scene.read("m/app/new"), "new\n");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

/// Of each thread of a process, whether programs can give it privileges no more; Landlock comes with that.
fn gains_no_privileges(process: Pid) -> Vec<bool> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    let status = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("status"));
    threads
        .map(|thread| thread.and_then(status).expect("it lives"))
        .map(|status| status.lines().any(|line| line == "NoNewPrivs:\t1"))
        .collect()
}

#[test]
fn every_thread_of_a_server_is_restricted() {
    for scene in Scene::everyone() {
        scene.mkdir("m");
        for options in [&["mount", "base", "m"][..], &["mount", "--rw", "base", "m"]] {
            scene.mica(options).ok();
            scene.command("cat").arg("m/etc/passwd").ok();
            let threads = gains_no_privileges(server(&scene));
            assert!(threads.len() > 3, "{threads:?}");
            assert_eq!(threads, vec![true; threads.len()]);
            scene.mica(["umount", "m"]).ok();
        }
        scene.is_clean();
    }
}

#[test]
fn a_server_cannot_unmount_by_itself() {
    let Some(scene) = Scene::as_root() else { return };
    if mica_tests::machine::landlock().is_none() {
        return;
    }
    scene.mkdir("m");
    scene.mica(["mount", "base", "m"]).ok();
    let server = server(&scene);
    kill(watcher(server), Signal::SIGKILL).expect("the watcher lives");
    kill(server, Signal::SIGTERM).expect("the server lives");
    let log = format!("store/mounts/{server}.log");
    wait_until("the server says that it cannot", || {
        scene.read(&log).contains("cannot unmount")
    });
    assert_eq!(scene.mounts().len(), 1);
    kill(server, Signal::SIGKILL).expect("the server lives");
    // The next command cleans up behind it.
    wait_until("the mount goes", || {
        scene.mica(["mounts"]).ok();
        scene.mounts().is_empty()
    });
    scene.is_clean();
}

#[test]
fn unmounting_from_outside_ends_the_server() {
    let Some(scene) = Scene::as_root() else { return };
    scene.mkdir("m");
    scene.mica(["mount", "base", "m"]).ok();
    tool("umount", scene.directory()).arg("m").ok();
    wait_until("the server ends", || {
        mica_tests::leftovers::processes_naming(scene.directory()).is_empty()
    });
    scene.is_clean();
}

#[test]
fn unmounting_tells_what_keeps_the_server() {
    let Some(scene) = Scene::as_root() else { return };
    scene.mkdir("m");
    scene.mica(["mount", "base", "m"]).ok();
    // A copy of the mount that nobody here can reach.
    let mut keeper = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", "echo; cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("util-linux is installed");
    let mut ready = [0];
    let mut stdout = keeper.stdout.take().expect("a pipe");
    stdout.read_exact(&mut ready).expect("it starts");
    let umount = scene.mica(["umount", "m"]).start();
    thread::sleep(Duration::from_secs(3));
    assert!(!umount.has_ended());
    drop(keeper.stdin.take());
    keeper.wait().expect("it ends");
    umount
        .wait()
        .says("is unmounted here")
        .says(&format!("the processes {} (", keeper.id()));
    scene.is_clean();
}

#[test]
fn a_busy_mount_is_not_torn_away() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    let open = fs::File::open(scene.path("m/app/file")).expect("the file is there");
    scene.mica(["umount", "m"]).fails().says("m");
    assert_eq!(scene.mounts().len(), 1);
    drop(open);
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_mounted_image_outlives_its_name() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    scene.mica(["rmi", "-f", "app"]).ok();
    scene.mica(["prune", "--all", "--force"]).ok();
    assert_eq!(scene.read("m/app/file"), "from the context\n");
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn twenty_thousand_files_need_no_unpacked_copy() {
    let Some(scene) = Scene::with_base() else { return };
    let mut dockerfile = "FROM base\n".to_owned();
    for layer in 0..8 {
        dockerfile += &format!("RUN mkdir /d{layer} && cd /d{layer} && seq 2500 | xargs touch\n");
    }
    scene.build(&dockerfile, ["-t", "many"]).ok();
    scene.mkdir("m");
    scene.mica(["mount", "many", "m"]).ok();
    let count = tool("find", scene.directory())
        .args(["m", "-name", "[0-9]*", "-type", "f"])
        .ok();
    assert_eq!(count.stdout().lines().count(), 20_000);
    scene.mica(["umount", "m"]).ok();
    let files = tool("find", scene.directory()).args(["store", "-type", "f"]).ok();
    let number = files.stdout().lines().count();
    assert!(number < 200, "the store has {number} files");
}

#[test]
fn a_database_survives_its_copy_up() {
    let Some(scene) = Scene::with_base() else { return };
    if mica_tests::machine::programs(&["python3"]).is_none() {
        return;
    }
    // A database in a lower layer, rewritten in place through several connections and a mapping.
    scene.write(
        "make.py",
        "import sqlite3\n\
         c = sqlite3.connect('ctx/db')\n\
         c.execute('create table t (k integer primary key, v blob)')\n\
         c.executemany('insert into t values (?, randomblob(1000))', ((k,) for k in range(20000)))\n\
         c.commit()\n",
    );
    scene.write(
        "change.py",
        "import mmap, sqlite3\n\
         a, b = (sqlite3.connect('m/db') for _ in range(2))\n\
         b.execute('pragma mmap_size=268435456')\n\
         for start in range(0, 1400, 7):\n    \
             c = (a, b)[start % 2]\n    \
             for k in range(start, 20000, 1400):\n        \
                 c.execute('update t set v = ? where k = ?', (bytes([k % 256]) * 1000, k))\n    \
             c.commit()\n\
         a.execute('delete from t where k % 5 = 1'); a.commit(); a.execute('vacuum')\n",
    );
    scene.write(
        "check.py",
        "import sqlite3\n\
         c = sqlite3.connect('m/db')\n\
         assert c.execute('pragma integrity_check').fetchall() == [('ok',)]\n\
         rows = dict(c.execute('select k, v from t'))\n\
         assert len(rows) == 16000, len(rows)\n\
         for k in range(0, 20000, 7):\n    \
             assert k % 5 == 1 or rows[k] == bytes([k % 256]) * 1000, k\n",
    );
    scene.mkdir("ctx");
    scene.command("python3").arg("make.py").ok();
    scene.build("FROM base\nCOPY db /db\n", ["-t", "data"]).ok();
    scene.mkdir("m");
    let mount = || {
        scene
            .mica(["mount", "--rw", "--upper", "changed", "data", "m"])
            .ok()
    };
    mount();
    scene.command("python3").arg("change.py").ok();
    scene.command("python3").arg("check.py").ok();
    scene.mica(["umount", "m"]).ok();
    mount();
    scene.command("python3").arg("check.py").ok();
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_taken_mount_point_is_refused() {
    let Some(scene) = scene_with_app() else { return };
    scene.mica(["mount", "app", "m"]).ok();
    let refused = scene.mica(["mount", "base", "m"]).fails();
    refused.says("mount point already").says("hint");
    assert_eq!(scene.read("m/app/new"), "new\n");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}
