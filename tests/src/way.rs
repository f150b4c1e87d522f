//! The ways to a writable filesystem: each uid mode in which mica mounts, and who works there.

use std::path::Path;

use crate::command::{Outcome, Run};
use crate::machine;
use crate::scene::Scene;

/// A way to mount, and who works on the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Root of the machine, on a mount by mount(2).
    Root,
    /// Root of a user namespace with the subordinate ids of an unprivileged user, on a mount within it.
    Namespace,
    /// An unprivileged user, on a mount by `fusermount3`.
    Helper,
}

/// A scene, and the way in which it mounts.
pub struct Ground {
    /// The way.
    pub way: Way,
    /// Where `m` is the mount point.
    pub scene: Scene,
}

impl Way {
    /// What the machine lets us try of these ways; each scene has the image `base`.
    pub fn grounds(ways: &[Self]) -> Vec<Ground> {
        ways.iter().filter_map(|way| way.ground()).collect()
    }

    fn ground(self) -> Option<Ground> {
        let scene = match self {
            Self::Root => Scene::as_root(),
            Self::Namespace => Scene::as_user(),
            Self::Helper => {
                machine::programs(&["fusermount3"])?;
                Scene::as_user()
            }
        }?;
        scene.mkdir("m");
        Some(Ground { way: self, scene })
    }
}

impl Ground {
    /// Mounts `image` on `m` with `options` besides `--rw`, runs a shell script there with the scene's directory as
    /// its own, and unmounts. The script's end is the outcome's.
    pub fn run(&self, image: &str, options: &str, script: &str) -> Outcome {
        self.command(image, options, script).run()
    }

    /// The same, and the script must succeed.
    #[track_caller]
    pub fn ok(&self, image: &str, options: &str, script: &str) -> Outcome {
        self.command(image, options, script).ok()
    }

    fn command(&self, image: &str, options: &str, script: &str) -> Run {
        self.scene.write("script", script);
        let script = match self.way {
            Way::Root | Way::Helper => format!(
                "mica mount --rw {options} {image} m\n\
                 status=0; sh -eu script || status=$?\n\
                 mica umount m; exit $status"
            ),
            Way::Namespace => format!("mica mount --rw {options} {image} m -- sh -eu script"),
        };
        self.scene.shell(&script)
    }

    /// Copies a program to where everyone can run it, as the suites of a build directory may not be; answers the
    /// command to call it by in a script.
    pub fn install(&self, program: &Path) -> String {
        let name = program.file_name().expect("a program has a name");
        let copy = self.scene.path("programs").join(name);
        self.scene.mkdir("programs");
        if !copy.exists() {
            std::fs::copy(program, &copy).expect("a program can be copied");
        }
        copy.display().to_string()
    }
}
