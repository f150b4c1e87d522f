//! POSIX access control lists: they decide, agree with the mode, are inherited, and go into layers.

use mica_tests::{Scene, machine};

fn scene() -> Option<Scene> {
    machine::programs(&["setfacl", "getfacl", "setpriv"])?;
    let scene = Scene::as_root()?;
    scene.mkdir("m");
    // Who is let in by a list has to get to the mount.
    scene.shell("chmod 755 .").ok();
    scene.mica(["mount", "--rw", "base", "m"]).ok();
    scene
        .shell("mkdir m/d && echo secret > m/d/file && chmod 640 m/d/file")
        .ok();
    Some(scene)
}

const AS_USER: &str = "setpriv --reuid=4242 --regid=4242 --clear-groups";

#[test]
fn a_list_lets_in_whom_the_mode_keeps_out() {
    let Some(scene) = scene() else { return };
    let read = format!("{AS_USER} cat m/d/file");
    scene.shell(&read).fails();
    scene.shell("setfacl -m u:4242:r m/d/file").ok();
    scene.shell(&read).ok().says("secret");
    scene
        .shell(&format!("{AS_USER} sh -c 'echo x >> m/d/file'"))
        .fails();
    scene
        .shell("setfacl -m u:4242:0 m/d/file && chmod 644 m/d/file")
        .ok();
    scene.shell(&read).fails();
    scene.shell("setfacl -b m/d/file").ok();
    scene.shell(&read).ok();
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}

#[test]
fn a_list_and_the_mode_agree() {
    let Some(scene) = scene() else { return };
    scene.shell("setfacl -m u:4242:rwx m/d/file").ok();
    assert_eq!(scene.shell("stat -c %a m/d/file").ok().answer(), "670");
    scene.shell("chmod 604 m/d/file").ok();
    scene
        .shell("getfacl -cn m/d/file")
        .ok()
        .says("user:4242:rwx")
        .says("#effective:---")
        .says("mask::---")
        .says("other::r--");
    scene.shell("setfacl -m m:rw m/d/file").ok();
    assert_eq!(scene.shell("stat -c %a m/d/file").ok().answer(), "664");
    scene.shell("cp -p m/d/file m/d/copy").ok();
    scene.shell("getfacl -cn m/d/copy").ok().says("user:4242:rwx");
    // A list of three entries is the mode.
    scene.shell("setfacl --set u::rw,g::r,o::- m/d/copy").ok();
    assert_eq!(scene.shell("stat -c %a m/d/copy").ok().answer(), "640");
    scene.shell("getfattr -d -m - m/d/copy").ok().lacks("posix_acl");
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn what_is_created_gets_the_default_list_and_else_the_umask_counts() {
    let Some(scene) = scene() else { return };
    scene
        .shell("umask 027; mkdir m/plain; echo x > m/plain/file")
        .ok();
    assert_eq!(
        scene.shell("stat -c %a m/plain m/plain/file").ok().answer(),
        "750\n640"
    );
    scene.shell("setfacl -d -m u:4242:rwx m/d").ok();
    scene
        .shell("umask 077; mkdir m/d/sub; echo x > m/d/sub/file; ln -s x m/d/link")
        .ok();
    scene
        .shell("getfacl -cn m/d/sub")
        .ok()
        .says("default:user:4242:rwx")
        .says("\nuser:4242:rwx");
    scene
        .shell("getfacl -cn m/d/sub/file")
        .ok()
        .says("user:4242:rwx")
        .says("mask::rw-");
    assert_eq!(
        scene.shell("stat -c %a m/d/sub m/d/sub/file").ok().answer(),
        "775\n664"
    );
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn lists_are_in_layers() {
    let Some(scene) = scene() else { return };
    scene
        .shell("setfacl -m u:4242:r m/d/file; setfacl -d -m g:7:rx m/d")
        .ok();
    scene.mica(["commit", "m", "listed"]).ok();
    scene.mica(["umount", "m"]).ok();
    scene.mica(["save", "-o", "image.tar", "listed"]).ok();
    scene.mica(["rmi", "listed"]).ok();
    scene.mica(["load", "-i", "image.tar"]).ok();
    scene.mica(["mount", "listed", "m"]).ok();
    scene.shell("getfacl -cn m/d/file").ok().says("user:4242:r--");
    scene.shell("getfacl -cn m/d").ok().says("default:group:7:r-x");
    scene
        .shell(&format!("{AS_USER} cat m/d/file"))
        .ok()
        .says("secret");
    scene.mica(["umount", "m"]).ok();
    scene.is_clean();
}
