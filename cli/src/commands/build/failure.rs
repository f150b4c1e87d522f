//! Why a build failed, as a person is told.

use mica_builder::build::Error;
use mica_builder::dockerfile::ParseError;
use mica_builder::op::copy::CopyError;
use mica_builder::op::mount::MountError;
use mica_builder::op::run::RunError;
use mica_builder::rootfs::RootfsError;
use mica_builder::solver::{BuildError, StepError};

use super::dockerfile::DockerfileSource;
use super::with_hint;

/// What a person is told of a build that failed: the place in the Dockerfile, the line, the reason.
pub(super) fn failure(error: Error, source: &DockerfileSource) -> anyhow::Error {
    match error {
        Error::Dockerfile(error) => source.error(&error),
        Error::Step(BuildError {
            span, source: step, ..
        }) => {
            let advice = step_hint(&step);
            let shown = ParseError::new(span, step.in_full());
            source.error(&match advice {
                Some(advice) => shown.with_hint(advice),
                None => shown,
            })
        }
        Error::Leak(leak) => with_hint(Some(leak.hint()), leak),
        Error::Image(error) => with_hint(error.hint(), error),
    }
}

fn step_hint(error: &StepError) -> Option<String> {
    match error {
        StepError::Mount(MountError::NoSecret { id }) => {
            Some(format!("give it by --secret id={id},src=FILE"))
        }
        StepError::Mount(MountError::NoAgent { id }) => Some(format!("give it by --ssh {id}")),
        StepError::Copy(CopyError::Missing { .. })
        | StepError::Mount(MountError::Files(CopyError::Missing { .. })) => {
            Some("check the spelling, and whether .dockerignore leaves it out".to_owned())
        }
        StepError::Copy(CopyError::Changed { .. }) => {
            Some("build again when nothing writes there, or leave such files out by .dockerignore".to_owned())
        }
        StepError::Leak(leak) | StepError::Rootfs(RootfsError::Leak(leak)) => Some(leak.hint()),
        StepError::Rootfs(error) | StepError::Run(RunError::Rootfs(error)) => error.remedy(),
        StepError::Remote(error) => error.hint(),
        StepError::Run(RunError::Sandbox(error)) => error.remedy(),
        StepError::Command { .. } => {
            Some("the steps before it are in the cache: a new build begins here".to_owned())
        }
        _ => None,
    }
}
