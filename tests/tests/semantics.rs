//! Where mica differs from Docker and from kernel overlayfs on purpose: docs/semantics.md names these tests.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use mica_tests::Scene;

/// Builds `image` and answers what the file `/said` holds.
fn said(scene: &Scene, dockerfile: &str) -> String {
    scene.build(dockerfile, ["-t", "said"]).ok();
    scene.cat("said", "/said")
}

#[test]
fn hard_links_survive_a_change_in_a_later_step() {
    for scene in Scene::everyone() {
        let dockerfile = "\
FROM base
RUN echo one > /a && ln /a /b
RUN echo two >> /a && chmod 600 /b
RUN stat -c '%h %a' /a /b > /said && cat /b >> /said && [ /a -ef /b ]
";
        assert_eq!(said(&scene, dockerfile), "2 600\n2 600\none\ntwo\n");
    }
}

#[test]
fn a_listing_has_the_same_order_everywhere() {
    let dockerfile = "\
FROM base
RUN mkdir /d && cd /d && touch c z a && rm c && touch c m && find . > /said
RUN find /d >> /said && touch /d/n /d/b && find /d >> /said
";
    let said: Vec<_> = Scene::everyone()
        .iter()
        .map(|scene| said(scene, dockerfile))
        .collect();
    assert!(said.iter().all(|one| *one == said[0]), "{said:?}");
    assert_eq!(said[0].lines().count(), 5 + 5 + 7);
}

#[test]
fn an_inode_number_stays_over_a_change_and_a_rename() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base
RUN echo one > /a
RUN before=$(stat -c %i /a); echo two >> /a; mv /a /b; [ $before = $(stat -c %i /b) ] && echo same > /said
";
    assert_eq!(said(&scene, dockerfile), "same\n");
}

#[test]
fn a_lower_directory_is_renamed_in_one_step() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build("FROM base\nRUN mkdir -p /d/e && echo x > /d/e/f\n", ["-t", "app"])
        .ok();
    scene.mkdir("m");
    scene.mica(["mount", "--rw", "app", "m"]).ok();
    let before = fs::metadata(scene.path("m/d/e/f"))
        .expect("the file is there")
        .ino();
    // overlayfs answers EXDEV, and programs copy.
    fs::rename(scene.path("m/d"), scene.path("m/moved")).expect("a rename is a rename");
    let after = fs::metadata(scene.path("m/moved/e/f"))
        .expect("the file moved along")
        .ino();
    assert_eq!(before, after);
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn a_device_0_0_is_a_device() {
    let Some(scene) = Scene::as_root() else { return };
    let dockerfile = "\
FROM base
RUN mknod /zero c 0 0
RUN stat -c '%F' /zero > /said
";
    assert_eq!(said(&scene, dockerfile), "character special file\n");
    scene.mica(["ls", "said", "/"]).ok().says("zero");
}

#[test]
fn directories_that_copy_makes_have_a_fixed_time() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/tree/f", "f");
    let dockerfile = "\
FROM base
COPY tree /new/tree
RUN stat -c %Y /new /new/tree > /said
";
    assert_eq!(said(&scene, dockerfile), "315532800\n315532800\n");
}

#[test]
fn network_files_can_be_replaced_and_leave_nothing() {
    for scene in Scene::everyone() {
        let dockerfile = "\
FROM base
RUN echo mine > /new && mv /new /etc/resolv.conf && cat /etc/resolv.conf > /said
RUN rm /etc/hosts && echo again >> /said
RUN grep -q localhost /etc/hosts && ! grep -q mine /etc/resolv.conf && echo fresh >> /said
";
        assert_eq!(
            said(&scene, dockerfile),
            "mine\nagain\nfresh\n",
            "as {}",
            scene.who()
        );
        scene
            .mica(["ls", "said", "/etc"])
            .ok()
            .lacks("resolv.conf")
            .lacks("hosts");
    }
}

#[test]
fn what_is_as_it_was_is_not_in_the_layer() {
    let Some(scene) = Scene::with_base() else { return };
    // overlayfs copies the whole file up, and it becomes part of the layer.
    let dockerfile = "\
FROM base
RUN echo x > /x && touch -d @1000000000 /x
RUN chmod 600 /x && chmod 644 /x && chown 5 /x && chown 0 /x
";
    scene.build(dockerfile, ["-t", "app"]).ok();
    scene.mica(["diff", "--layer", "3", "app"]).ok().lacks("/x");
}

#[test]
fn reading_changes_no_time() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base
RUN echo x > /x && touch -a -d @1000000000 /x
RUN cat /x > /dev/null && stat -c %X /x > /said
";
    let said = said(&scene, dockerfile);
    scene
        .build(&dockerfile.replace("cat /x", "true"), ["-t", "said"])
        .ok();
    assert_eq!(scene.cat("said", "/said"), said);
}

#[test]
fn a_mount_obeys_no_devices_and_no_set_user_id_unless_asked() {
    let Some(scene) = Scene::as_root() else { return };
    scene
        .build(
            "FROM base\nRUN mknod /null c 1 3 && chmod 666 /null\n",
            ["-t", "app"],
        )
        .ok();
    scene.mkdir("m");
    scene.mica(["mount", "app", "m"]).ok();
    fs::read(scene.path("m/null")).expect_err("the device does not work");
    scene.mica(["umount", "m"]).ok();
    scene.mica(["mount", "--dev", "app", "m"]).ok();
    assert_eq!(fs::read(scene.path("m/null")).expect("the device works"), b"");
    scene.mica(["umount", "m"]).ok();
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    let Some(scene) = Scene::with_base() else { return };
    scene
        .build("FROM base\nRUN --device=x true\n", ["-t", "never"])
        .fails()
        .says("Dockerfile:2")
        .says("hint");
}
