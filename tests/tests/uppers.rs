//! Named uppers: what outlives a session, a killed server too, and images made of changes.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};

use mica_tests::Scene;
use mica_tests::command::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn scene() -> Option<Scene> {
    let scene = Scene::with_base()?;
    scene.write("ctx/file", "from the context\n");
    scene
        .build(
            "FROM base\nLABEL keep=me\nONBUILD RUN false\nCOPY file /app/\nRUN mkdir /app/d && echo new > /app/new\n",
            ["-t", "app"],
        )
        .ok();
    scene.mkdir("m");
    Some(scene)
}

fn mount(scene: &Scene) {
    scene.mica(["mount", "--rw", "--upper", "trial", "app", "m"]).ok();
}

/// Ends the server without a word, and waits until nothing of it is left.
fn kill_server(scene: &Scene) {
    let mounts = scene.mica(["mounts", "--format", "json"]).ok().json_lines();
    let pid = i32::try_from(mounts[0]["Pid"].as_i64().expect("a number")).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("killed");
    wait_until("the mount is gone", || scene.mounts().is_empty());
    wait_until("the upper is free", || {
        let uppers = scene.mica(["upper", "ls", "--format", "json"]).ok().json_lines();
        uppers[0]["InUse"] == false
    });
}

fn layers(scene: &Scene, image: &str) -> Vec<serde_json::Value> {
    let inspected = scene.mica(["inspect", image]).ok().json();
    let layers = inspected[0]["RootFS"]["Layers"].as_array();
    layers.expect("a list of layers").clone()
}

fn last_of_history(scene: &Scene, image: &str) -> serde_json::Value {
    let history = scene
        .mica(["history", "--format", "json", image])
        .ok()
        .json_lines();
    history.into_iter().next().expect("an entry")
}

/// fsync(2) of a file or directory.
fn sync(scene: &Scene, name: &str) {
    let opened = File::open(scene.path(name)).expect("opened");
    opened.sync_all().expect("synced");
}

#[test]
fn what_was_synced_survives_a_killed_server() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    let at = |name: &str| scene.path(&format!("m/{name}"));
    fs::write(at("small"), "small\n").expect("written");
    fs::write(at("app/file"), "changed\n").expect("written");
    let big = File::create(at("big")).expect("created");
    big.write_all_at(b"far", 5 << 30).expect("written");
    fs::rename(at("app/d"), at("moved")).expect("renamed");
    fs::remove_file(at("app/new")).expect("removed");
    fs::hard_link(at("small"), at("moved/link")).expect("linked");
    symlink("small", at("symlink")).expect("linked");
    fs::set_permissions(at("small"), fs::Permissions::from_mode(0o2751)).expect("changed");
    let set = scene.shell("setfattr -n user.x -v value m/small");
    let has_xattr = mica_tests::machine::program("setfattr").is_some();
    if has_xattr {
        set.ok();
    }
    let inode = fs::metadata(at("small")).expect("metadata").ino();
    let lower = fs::metadata(at("app/file")).expect("metadata").ino();
    big.sync_all().expect("synced");
    drop(big);
    sync(&scene, "m/small");
    sync(&scene, "m/app/file");
    sync(&scene, "m");
    fs::write(at("later"), "never synced\n").expect("written");
    kill_server(&scene);

    mount(&scene);
    assert_eq!(scene.read("m/small"), "small\n");
    assert_eq!(scene.read("m/app/file"), "changed\n");
    assert!(!at("app/new").exists());
    assert!(at("moved").is_dir() && !at("app/d").exists());
    let small = fs::metadata(at("small")).expect("metadata");
    assert_eq!(
        (small.nlink(), small.mode() & 0o7777, small.ino()),
        (2, 0o2751, inode)
    );
    assert_eq!(fs::metadata(at("moved/link")).expect("metadata").ino(), inode);
    assert_eq!(fs::metadata(at("app/file")).expect("metadata").ino(), lower);
    assert_eq!(
        fs::read_link(at("symlink")).expect("a link").to_str(),
        Some("small")
    );
    if has_xattr {
        scene
            .shell("getfattr -n user.x --only-values m/small")
            .ok()
            .says("value");
    }
    let big = File::open(at("big")).expect("opened");
    let mut far = [0; 3];
    big.read_exact_at(&mut far, 5 << 30).expect("read");
    assert_eq!(
        (big.metadata().expect("metadata").len(), &far),
        ((5 << 30) + 3, b"far")
    );
    assert!(big.metadata().expect("metadata").blocks() < 100, "it is sparse");
    drop(big);
    assert!(!at("later").exists(), "what was not synced is not half there");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_sync_of_a_directory_keeps_its_names() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    for n in 0..20 {
        fs::write(scene.path("m/app/temporary"), format!("{n}\n")).expect("written");
        sync(&scene, "m/app/temporary");
        fs::rename(scene.path("m/app/temporary"), scene.path("m/app/file")).expect("renamed");
        sync(&scene, "m/app");
    }
    kill_server(&scene);
    mount(&scene);
    assert_eq!(scene.read("m/app/file"), "19\n");
    assert!(!scene.path("m/app/temporary").exists());
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn where_changes_are_thrown_away_a_sync_has_nothing_to_do() {
    let Some(scene) = scene() else { return };
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    let mut file = File::create(scene.path("m/file")).expect("created");
    file.write_all(&vec![1; 100_000]).expect("written");
    file.sync_all().expect("synced");
    file.sync_data().expect("synced");
    sync(&scene, "m/app");
    drop(file);
    assert_eq!(fs::read(scene.path("m/file")).expect("read").len(), 100_000);
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn uppers_are_listed_and_thrown_away() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    fs::write(scene.path("m/app/new"), "changed\n").expect("written");
    scene
        .mica(["upper", "ls"])
        .ok()
        .says("trial")
        .says("app")
        .says("yes");
    scene
        .mica(["upper", "rm", "trial"])
        .fails()
        .says("in use")
        .says("unmount");
    scene.mica(["umount", "m"]).ok();
    let uppers = scene.mica(["upper", "ls", "--format", "json"]).ok().json_lines();
    assert_eq!(
        (&uppers[0]["Name"], &uppers[0]["InUse"]),
        (&"trial".into(), &false.into())
    );
    scene.mica(["upper", "rm", "trial"]).ok().says("trial");
    scene
        .mica(["upper", "rm", "trial"])
        .fails()
        .says("no upper")
        .says("mica upper ls");
    scene.mica(["mount", "--rw", "--upper", "trial", "app", "m"]).ok();
    assert_eq!(scene.read("m/app/new"), "new\n");
    scene.mica(["umount", "m"]).ok();
    scene
        .mica(["mount", "--rw", "--upper", "../x", "app", "m"])
        .fails()
        .says("cannot name an upper");
    scene.is_clean();
}

#[test]
fn an_upper_keeps_its_image_and_belongs_to_it_alone() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    fs::write(scene.path("m/app/new"), "changed\n").expect("written");
    scene.mica(["umount", "m"]).ok();
    scene
        .mica(["mount", "--rw", "--upper", "trial", "base", "m"])
        .fails()
        .says("belongs to another image")
        .says("mica commit trial");
    scene.mica(["rmi", "app"]).ok();
    scene.mica(["prune", "-af"]).ok();
    scene.mica(["commit", "trial", "again"]).ok();
    assert_eq!(scene.cat("again", "/app/new"), "changed\n");
    assert_eq!(scene.cat("again", "/app/file"), "from the context\n");
    scene.mica(["fsck"]).ok();
    scene.mica(["upper", "rm", "trial"]).ok();
    scene.mica(["rmi", "again"]).ok();
    let pruned = scene.mica(["prune", "-af", "--format", "json"]).ok().json();
    assert!(!pruned["Layers"].as_array().expect("a list").is_empty());
}

#[test]
fn a_commit_is_the_image_and_a_layer_of_the_changes() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    fs::write(scene.path("m/app/new"), "changed\n").expect("written");
    fs::remove_file(scene.path("m/app/file")).expect("removed");
    scene.mica(["umount", "m"]).ok();
    let id = scene
        .mica([
            "commit",
            "-m",
            "a remark",
            "-a",
            "Somebody <a@b>",
            "-c",
            "CMD [\"/bin/true\"]",
        ])
        .args([
            "-c",
            "ENV A=1 B=$A",
            "-c",
            "WORKDIR /app",
            "-c",
            "EXPOSE 80/tcp",
            "-c",
            "LABEL x=y",
        ])
        .args(["trial", "done:1", "done:2"])
        .ok()
        .answer();
    let images = scene.mica(["images", "--format", "json"]).ok().stdout();
    assert!(
        images.contains("done") && id.starts_with("sha256:"),
        "{images} {id}"
    );
    assert_eq!(scene.cat("done:2", "/app/new"), "changed\n");
    scene.mica(["cat", "done:1", "/app/file"]).fails();
    let (before, after) = (layers(&scene, "app"), layers(&scene, "done:1"));
    assert_eq!(
        (&after[..before.len()], after.len()),
        (&before[..], before.len() + 1)
    );
    let config = scene.config("done:1");
    assert_eq!(config["Cmd"], serde_json::json!(["/bin/true"]));
    assert_eq!(config["WorkingDir"], "/app");
    assert_eq!(config["Labels"], serde_json::json!({"keep": "me", "x": "y"}));
    assert!(config["ExposedPorts"]["80/tcp"].is_object());
    assert!(config["OnBuild"].is_null(), "triggers end with a commit");
    let inspected = scene.mica(["inspect", "done:1"]).ok().json();
    assert_eq!(inspected[0]["Author"], "Somebody <a@b>");
    let last = last_of_history(&scene, "done:1");
    assert_eq!(
        (&last["Comment"], &last["CreatedBy"]),
        (&"a remark".into(), &"mica commit".into())
    );
    assert_ne!(last["SizeBytes"], 0);
    // The upper stays, and nothing more of it is in another image.
    scene.mica(["mount", "--rw", "--upper", "trial", "app", "m"]).ok();
    assert_eq!(scene.read("m/app/new"), "changed\n");
    scene.mica(["umount", "m"]).ok();
    scene
        .mica(["commit", "-c", "RUN true", "trial"])
        .fails()
        .says("RUN does not concern the configuration");
    scene.build("FROM done:1\nRUN cat new\n", ["-t", "upon"]).ok();
    scene.is_clean();
}

#[test]
fn a_mount_in_use_is_committed() {
    for scene in Scene::everyone() {
        scene.mkdir("m");
        scene.mica(["mount", "--rw", "base", "m"]).ok();
        let mica = scene.program();
        let script = "exec 3>m/open; head -c 3000000 /dev/zero >&3; $MICA commit m snapshot:1; \
                      printf more >&3; mkdir m/later; $MICA commit m snapshot:2";
        scene.shell(script).env("MICA", &mica).ok();
        scene.mica(["umount", "m"]).ok();
        assert_eq!(scene.cat("snapshot:1", "/open").len(), 3_000_000);
        assert_eq!(scene.cat("snapshot:2", "/open").len(), 3_000_004);
        scene.mica(["ls", "snapshot:1", "/later"]).fails();
        scene.mica(["ls", "snapshot:2", "/later"]).ok();
        scene.is_clean();
    }
}

#[test]
fn an_upper_that_is_mounted_is_committed_by_its_server() {
    let Some(scene) = scene() else { return };
    mount(&scene);
    fs::write(scene.path("m/app/new"), "changed\n").expect("written");
    scene.mica(["commit", "trial", "done"]).ok();
    scene.mica(["umount", "m"]).ok();
    assert_eq!(scene.cat("done", "/app/new"), "changed\n");
}

#[test]
fn a_commit_without_changes_has_no_layer() {
    let Some(scene) = scene() else { return };
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    scene.mica(["commit", "-c", "USER nobody", "m", "same"]).ok();
    scene.mica(["umount", "m"]).ok();
    assert_eq!(layers(&scene, "same"), layers(&scene, "app"));
    let config = scene.config("same");
    assert_eq!(config["User"], "nobody");
    assert_eq!(last_of_history(&scene, "same")["SizeBytes"], 0);
}

#[test]
fn what_cannot_be_committed_is_told() {
    let Some(scene) = scene() else { return };
    scene
        .mica(["commit", "nothing", "x"])
        .fails()
        .says("neither a mount nor an upper")
        .says("mica upper ls");
    scene.mica(["mount", "app", "m"]).ok();
    scene
        .mica(["commit", "m", "x"])
        .fails()
        .says("read-only")
        .says("--rw");
    scene.mica(["umount", "m"]).ok();
    scene.mica(["mount", "--rw", "--layers", "1", "app", "m"]).ok();
    fs::write(scene.path("m/new"), "x").expect("written");
    scene
        .mica(["commit", "m", "x"])
        .fails()
        .says("layers were mounted");
    scene.mica(["umount", "m"]).ok();
    scene
        .mica(["commit", "-c", "nonsense", "m", "x@sha256:00"])
        .fails();
    assert!(
        !scene.images().iter().any(|name| name.contains('x')),
        "{:?}",
        scene.images()
    );
}

#[test]
fn an_upper_in_a_session_of_one_command_is_not_committed() {
    let Some(scene) = scene() else { return };
    let mica = scene.program();
    let script = format!(
        "echo changed > $MICA_MOUNT/app/new; {} commit trial x",
        mica.display()
    );
    scene
        .mica([
            "mount", "--rw", "--upper", "trial", "app", "--", "sh", "-c", &script,
        ])
        .fails()
        .says("another session is using it");
    scene.mica(["commit", "trial", "after"]).ok();
    assert_eq!(scene.cat("after", "/app/new"), "changed\n");
}

#[test]
fn a_commit_while_files_change_is_sound() {
    let Some(scene) = scene() else { return };
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let name = scene.path(&format!("m/app/file{}", n % 50));
                fs::write(&name, vec![b'a' + (n % 26) as u8; 30_000]).expect("written");
                if n.is_multiple_of(3) {
                    fs::remove_file(name).expect("removed");
                }
            }
        });
        for n in 0..4 {
            scene.mica(["commit", "m", &format!("live:{n}")]).ok();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    scene.mica(["umount", "m"]).ok();
    for n in 0..4 {
        scene.mica(["mount", &format!("live:{n}"), "m"]).ok();
        for entry in fs::read_dir(scene.path("m/app")).expect("listed") {
            let mut bytes = Vec::new();
            let path = entry.expect("an entry").path();
            if path.to_string_lossy().contains("file") {
                File::open(&path)
                    .expect("opened")
                    .read_to_end(&mut bytes)
                    .expect("read");
                let whole = bytes.iter().all(|byte| *byte == bytes[0]);
                assert!(whole || bytes == b"from the context\n", "{}", path.display());
            }
        }
        scene.mica(["umount", "m"]).ok();
    }
    scene.mica(["fsck"]).ok();
    scene.is_clean();
}
