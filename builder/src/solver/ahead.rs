//! What is done before its turn: steps that do not depend on those before them, and the reading of files that later steps
//! take.

use std::collections::BTreeMap;
use std::thread::{Scope, ScopedJoinHandle};

use super::{At, BuildError, Built, Progress, Solver, StepError};
use crate::cache::Record;
use crate::event::StepNumber;
use crate::graph::{Op, Stage, Step};

/// Steps at work before their turn, by their place in the stage.
pub(super) struct Ahead<'scope>(BTreeMap<usize, ScopedJoinHandle<'scope, Result<Record, BuildError>>>);

impl<'scope> Ahead<'scope> {
    /// Begins the steps of `stage` that stand on nothing.
    pub fn begin<'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        solver: &'env Solver<'env>,
        stage: &'env Stage,
        first: usize,
        progress: &'env Progress,
    ) -> Self {
        // Who looks into a step wants to see it where it stands.
        let is_free = |step| solver.inspector.is_none() && is_free(step);
        let free = stage.steps.iter().enumerate().filter(|(_, step)| is_free(step));
        let begin = |(offset, step): (usize, &'env Step)| {
            let number = StepNumber(first + 1 + offset);
            let work = move || {
                let at = At {
                    number,
                    built: &Built::default(),
                    policy: solver.policy_of(stage),
                    stage,
                    text: &step.text,
                    following: &[],
                    probing: false,
                    progress,
                };
                let result = solver.turn(number, step, at);
                if result.is_err() {
                    solver.stop.stop();
                }
                result
            };
            (offset, scope.spawn(work))
        };
        Self(free.map(begin).collect())
    }

    /// What the step at `offset` gives, if it was begun.
    pub fn take(&mut self, offset: usize) -> Option<Result<Record, BuildError>> {
        Some(joined(self.0.remove(&offset)?))
    }

    /// Why the build failed, if `error` is only that it was stopped.
    pub fn reason(self, error: BuildError) -> BuildError {
        let is_reason = |error: &BuildError| !matches!(*error.source, StepError::Stopped);
        if is_reason(&error) {
            return error;
        }
        let failed = self.0.into_values().filter_map(|step| joined(step).err());
        failed.into_iter().find(is_reason).unwrap_or(error)
    }
}

fn joined(step: ScopedJoinHandle<'_, Result<Record, BuildError>>) -> Result<Record, BuildError> {
    step.join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Whether a step depends on nothing before it: a COPY --link whose owner needs no look into the image.
fn is_free(step: &Step) -> bool {
    let Op::Copy(copy) = &step.op else { return false };
    let is_number = |owner: &String| owner.split(':').all(|part| part.parse::<u32>().is_ok());
    copy.link && copy.chown.as_ref().is_none_or(is_number)
}

impl Solver<'_> {
    /// Reads the files that the following steps copy from the context. What goes wrong goes wrong again when their turn
    /// comes.
    pub(super) fn read_for_later(&self, at: At<'_>) {
        for step in at.following {
            if let Op::Copy(copy) = &step.op
                && !self.stop.is_stopped()
                && let Err(error) = self.read_ahead(copy, at.progress)
            {
                tracing::debug!(step = step.text, %error, "cannot read ahead");
            }
        }
    }
}
