//! `mica import` of directories: the upper directories of kernel overlayfs, whose own view of them is the oracle, and
//! what no layer can be made of.

use mica_tests::machine::{self, Lack};
use mica_tests::{Outcome, Scene};

/// Everything below the working directory, with the content of the files.
const LIST: &str = "{ find . -mindepth 1 -printf '%p %y %m %U %G %n %l\\n' | grep -v '^[^ ]* d' | sort; \
                    find . -mindepth 1 -type d -printf '%p d %m %U %G\\n' | sort; \
                    find . -type f | sort | xargs cat; }";

/// Mounts an overlayfs of `lower`, changes it, leaves its upper directory in `upper`, and tells what it showed. As a
/// user it does so in a user namespace, where overlayfs keeps its marks in `user.*`.
fn change_by_overlayfs(scene: &Scene, changes: &str) -> Option<Outcome> {
    let (namespace, option) = match scene.is_root() {
        true => ("-m", "redirect_dir=off"),
        false => ("-rm", "userxattr"),
    };
    let script = format!(
        "mkdir upper work merged && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work,{option} none merged \
         || exit 77; cd merged && {changes} && {LIST}"
    );
    let shown = scene
        .command("unshare")
        .args([namespace, "sh", "-c", &script])
        .run();
    if shown.status.code() == Some(77) {
        machine::skip(
            Lack::Unavoidable,
            "overlayfs cannot have its upper directory here",
        );
        return None;
    }
    Some(shown)
}

#[test]
fn an_upper_directory_of_overlayfs_is_a_layer() {
    for scene in Scene::everyone() {
        let made = "mkdir -p lower/opaque/old lower/kept lower/gone lower/replaced && cd lower && echo 1 > opaque/a && \
                    echo 2 > kept/b && echo 3 > kept/c && echo 4 > gone/d && ln -s b kept/link && echo 5 > replaced/e";
        scene.shell(made).ok();
        let changes = "rm kept/b && rm -r gone && rm -r opaque && mkdir opaque && echo new > opaque/n && \
                       echo more >> kept/c && rm -r replaced && echo file > replaced && ln kept/c kept/hard && \
                       chmod 640 kept/c && mkdir -p new/deep && ln -sf elsewhere kept/link";
        let Some(shown) = change_by_overlayfs(&scene, changes) else {
            return;
        };
        scene
            .mica(["import", "-c", "CMD [\"/x\"]", "lower", "below"])
            .ok();
        scene.mica(["import", "--base", "below", "upper", "above"]).ok();
        let look = format!("cd $MICA_MOUNT && {LIST}");
        let ours = scene.mica(["mount", "above", "--", "sh", "-c", &look]).ok();
        assert_eq!(ours.stdout(), shown.stdout(), "{}", scene.who());
        assert_eq!(scene.config("above")["Cmd"], serde_json::json!(["/x"]));
        let told = scene.mica(["diff", "--layer", "2", "above"]).ok();
        told.says("D /gone")
            .says("D /kept/b")
            .says("A /opaque/n")
            .says("D /opaque/a");
        // The same directory makes the same layer, and any tool reads its whiteouts.
        let again = scene.mica(["import", "--base", "below", "upper", "again"]).ok();
        let layers = |image: &str| scene.mica(["inspect", image]).ok().json()[0]["RootFS"]["Layers"].clone();
        assert_eq!(layers("again"), layers("above"), "{again:?}");
        let layer = layers("above")[1]
            .as_str()
            .expect("a second layer")
            .replace("sha256:", "");
        let members = scene.shell(&format!("tar tf store/layers/{layer}/tar")).ok();
        members.says(".wh.gone").says("opaque/.wh..wh..opq");
    }
}

#[test]
fn whiteouts_in_the_spelling_of_layers_are_read_from_directories() {
    for scene in Scene::everyone() {
        scene.shell("mkdir -p lower/d upper/d && touch lower/d/a lower/d/b lower/e && touch upper/.wh.e upper/d/new \
                     upper/d/.wh..wh..opq").ok();
        scene.mica(["import", "lower", "below"]).ok();
        scene.mica(["import", "--base", "below", "upper", "above"]).ok();
        assert_eq!(scene.mica(["ls", "above", "/"]).ok().answer(), "d");
        assert_eq!(scene.mica(["ls", "above", "/d"]).ok().answer(), "new");
    }
}

#[test]
fn a_directory_keeps_attributes_times_and_hard_links() {
    for scene in Scene::everyone() {
        let made = "mkdir -p root/sub && cd root && echo x > f && ln f sub/g && touch -d @1000.5 f && \
                    setfattr -n user.note -v kept f && mkfifo p && chmod 2750 sub";
        scene.shell(made).ok();
        scene.mica(["import", "root", "made"]).ok();
        let look = "cd $MICA_MOUNT && stat -c '%n %a %h %Y %u %g %F' f sub p && getfattr --only-values -n user.note sub/g";
        let seen = scene.mica(["mount", "made", "--", "sh", "-c", look]).ok();
        seen.says("f 644 2 1000 0 0 regular file")
            .says("sub 2750")
            .says("fifo")
            .says("kept");
    }
}

#[test]
fn what_is_no_layer_is_refused_by_name() {
    for scene in Scene::everyone() {
        for (made, named) in [
            ("touch bad/.wh.", "bad/.wh."),
            ("mkdir bad/sub && touch bad/sub/.wh...", "bad/sub/.wh..."),
            (
                "mkdir bad/o && setfattr -n user.overlay.opaque -v maybe bad/o",
                "bad/o",
            ),
            (
                "touch bad/m && setfattr -n user.overlay.metacopy -v x bad/m",
                "bad/m",
            ),
        ] {
            scene.shell(&format!("rm -rf bad && mkdir bad && {made}")).ok();
            let said = scene.mica(["import", "bad", "bad"]).fails();
            said.says(named);
            assert_eq!(scene.images().len(), 1, "{made}");
        }
        scene.mica(["import", "bad", "bad"]).fails().says("metacopy=off");
    }
}
