//! Looking into a step while the build waits: a shell, or any command, with all that the step has.
//!
//! What it changes is thrown away. It works on layers that are made already, never on those of a step at work: so nothing
//! that was done by hand gets into the cache.

use std::sync::{Arc, Mutex};

use mica_fs::digest::DiffId;
use mica_fs::layer::Layer;
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::StoreError;

use super::{At, Solver, StepError, lock};
use crate::event::StepNumber;
use crate::graph::Run;
use crate::op::identity::Accounts;
use crate::op::mount::{Ready, Resolved};
use crate::op::run::{self, RunError};
use crate::rootfs::Rootfs;
use crate::sandbox::{DeviceFile, Exit, Running, Stdio};

/// When a step is looked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// Before it is executed.
    Before,
    /// After it was, or after its result was taken from the cache.
    After,
    /// It failed, and this is what it left.
    Failed(Exit),
}

/// What the build does when a step was looked into.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Then {
    /// It goes on, or fails with the step.
    #[default]
    GoesOn,
    /// It executes the step that failed once more.
    Again,
}

/// A step at which the build waits.
#[derive(Clone, Copy, Debug)]
pub struct Paused<'p> {
    /// Its number as the build shows it.
    pub number: usize,
    /// The instruction.
    pub text: &'p str,
    /// When.
    pub moment: Moment,
    /// Whether its command lies at [`STEP`]: that of a RUN.
    pub has_command: bool,
    /// A shell that the filesystem has; `None` if it has none.
    pub shell: Option<&'static str>,
}

/// Where in the step's `/dev` its command lies as a script.
pub const STEP: &str = "/dev/mica/step";
const SHELLS: [&str; 3] = ["/bin/bash", "/bin/sh", "/busybox/sh"];

/// Starts a program, with arguments, in the step's surroundings.
pub type Start<'s> = &'s mut dyn FnMut(&[&str], Stdio) -> Result<Running, RunError>;

/// Who looks into steps.
#[derive(Clone, Copy)]
pub struct Inspector<'a> {
    /// Whether the step that the build shows with this number is looked into at that moment.
    pub wants: &'a (dyn Fn(usize, Moment) -> bool + Sync),
    /// Looks into it; the build goes on when this returns. Several may be called at once.
    pub look: &'a (dyn Fn(&Paused<'_>, Start<'_>) -> Then + Sync),
}

impl Solver<'_> {
    /// Keeps what a command left that failed, and has it looked into. What goes wrong with that does not hide the failure.
    pub(super) fn failed(
        &self,
        at: At<'_>,
        exit: Exit,
        step: (&Run, &Ready<'_>),
        rootfs: Rootfs<'_>,
    ) -> Then {
        let keep = || -> Result<Then, StepError> {
            let (written, directory) = rootfs.pack()?;
            let left = Layer::open(directory.path()).map_err(|source| StoreError::Layer {
                diff_id: written.diff_id,
                source,
            })?;
            self.ledger.left(at.number, written.diff_id, directory);
            self.inspect(at, Moment::Failed(exit), step, || {
                let mut layers = self.store.layers(&at.built.layers)?;
                layers.push(Arc::new(left));
                Ok(layers)
            })
        };
        keep().unwrap_or_else(|error| {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "what the failed command left cannot be shown"
            );
            Then::GoesOn
        })
    }

    /// Has a step looked into that is not at work, if anybody wants it.
    pub(super) fn inspect_idle(
        &self,
        at: At<'_>,
        moment: Moment,
        (run, mounts): (&Run, &[Resolved<'_>]),
        layers: &[DiffId],
    ) -> Result<(), StepError> {
        if at.probing || !self.is_wanted(at.number, moment) {
            return Ok(());
        }
        let stopped = || self.stop.is_stopped();
        let mounts = self.mounts(mounts, &stopped)?;
        self.inspect(at, moment, (run, &mounts), || Ok(self.store.layers(layers)?))
            .map(drop)
    }

    fn is_wanted(&self, number: StepNumber, moment: Moment) -> bool {
        let inspected = self.inspector.zip(self.ledger.shown(number));
        inspected.is_some_and(|(inspector, number)| (inspector.wants)(number, moment))
            && !self.stop.is_stopped()
    }

    /// Has a step looked into, if anybody wants it. `layers` is what it stands on, or what it gave.
    fn inspect(
        &self,
        At { number, text, .. }: At<'_>,
        moment: Moment,
        (run, mounts): (&Run, &Ready<'_>),
        layers: impl FnOnce() -> Result<Vec<Arc<Layer>>, StepError>,
    ) -> Result<Then, StepError> {
        let (Some(inspector), true) = (self.inspector, self.is_wanted(number, moment)) else {
            return Ok(Then::GoesOn);
        };
        let mut rootfs = Rootfs::over(self.store, layers()?, self.virtuals(run, mounts))?;
        run::make_mount_points(&rootfs)?;
        let identity = Accounts::of(rootfs.overlay()).identity(&run.user)?;
        let paused = Paused {
            number: self.ledger.shown(number).unwrap_or_default(),
            text,
            moment,
            has_command: !run.args.is_empty(),
            shell: SHELLS.into_iter().find(|shell| is_there(rootfs.overlay(), shell)),
        };
        let mut spec = run::spec(run, &identity, mounts, &mut rootfs)?;
        if paused.has_command {
            spec.device_files.push(script(&run.args));
        }
        if !spec.env.iter().any(|(name, _)| name == "TERM") {
            spec.env.push(("TERM".into(), "xterm".into()));
        }
        let registered = Mutex::new(Vec::new());
        let then = (inspector.look)(&paused, &mut |args, stdio| {
            spec.args = args.iter().map(Into::into).collect();
            let running = spec.spawn(stdio)?;
            if let Ok(signaller) = running.signaller() {
                lock(&registered).push(self.stop.register(signaller));
            }
            Ok(running)
        });
        for number in lock(&registered).drain(..) {
            self.stop.unregister(number);
        }
        rootfs.unmount()?;
        Ok(then)
    }
}

fn is_there(overlay: &Overlay, path: &str) -> bool {
    ImagePath::clean(path.as_bytes()).is_ok_and(|path| overlay.resolve(&path, Follow::Yes).is_ok())
}

/// The command of the step as a script.
fn script(args: &[String]) -> DeviceFile {
    let quoted = args.iter().map(|arg| format!("'{}'", arg.replace('\'', r"'\''")));
    let command: Vec<_> = quoted.collect();
    DeviceFile {
        directory: "mica".to_owned(),
        name: "step".to_owned(),
        content: format!("#!/bin/sh\nexec {}\n", command.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_runs_the_command_word_for_word() {
        let file = script(&["/bin/sh".to_owned(), "-c".to_owned(), "echo 'a b' $X".to_owned()]);
        assert_eq!(
            file.content,
            "#!/bin/sh\nexec '/bin/sh' '-c' 'echo '\\''a b'\\'' $X'\n"
        );
        assert_eq!(format!("/dev/{}/{}", file.directory, file.name), STEP);
    }
}
