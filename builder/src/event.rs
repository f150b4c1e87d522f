//! What happens during a build, as data: any front end can draw it.

use std::time::Duration;

/// The number of a step within its build, over all stages that are executed, those that only change the configuration
/// among them; 0 is the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepNumber(pub usize);

/// A step that will be executed or taken from the cache.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its number.
    pub number: StepNumber,
    /// The name of its stage; `None` in a build of one stage without a name.
    pub stage: Option<String>,
    /// Its place among the planned steps of the stage, from 1.
    pub position: usize,
    /// How many the stage has.
    pub total: usize,
    /// The instruction.
    pub text: String,
    /// The line of the Dockerfile that it begins on.
    pub line: u32,
}

/// Where a line of output came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// An earlier result was taken.
    Cached,
    /// An earlier result was taken: something below the step has changed, but nothing that it read.
    Unchanged(Inputs),
    /// It was executed.
    Done,
    /// It was executed and failed.
    Failed,
    /// It was given up: another one failed before it, or the build was stopped.
    Canceled,
}

/// How much a step has read of what lies below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inputs {
    /// The files that it looked at.
    pub read: usize,
    /// The files in the layers below it; one that several layers have counts for each.
    pub all: usize,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The build is planned: the steps that do work, a FROM of an image among them. Comes once, and first. The events
    /// of other steps, which only change the configuration, can be ignored.
    Plan(Vec<Planned>),
    /// A step begins.
    Started(StepNumber),
    /// A step's command wrote something: pieces of any size, not whole lines.
    Output(StepNumber, Stream, Vec<u8>),
    /// A step has failed, and why. Its end follows.
    Error(StepNumber, String),
    /// A step has ended.
    Finished(StepNumber, Outcome, Duration),
}

/// Takes events, from several threads at once.
pub type Listener<'a> = &'a (dyn Fn(Event) + Sync);
