//! Executes a build graph: asks the cache for each step, executes the rest. Stages that do not need each other
//! go side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use mica_fs::digest::DiffId;
use mica_fs::overlay::{ReadSet, Virtual};
use mica_fs::path::{ImagePath, InvalidPath};
use mica_fs::store::{Store, StoreError};
use serde_json::{Value, json};

use crate::cache;
use crate::context::{Context, Modes};
use crate::dockerfile::Span;
use crate::event::{Event, Listener, Outcome, Planned, StepNumber};
use crate::graph::{self, Base, Graph, Op, Run, Stage, StageId, Step};
use crate::image::History;
use crate::leak::{Leak, Leaks};
use crate::ledger::Ledger;
use crate::op::copy::{CopyError, make_directory};
use crate::op::identity::IdentityError;
use crate::op::mount::{self, Means, MountError, Ready, Resolved, SharedCaches};
use crate::op::run;
use crate::op::run::RunError;
use crate::origin::{BuildContext, Part};
use crate::remote::{Fetcher, RemoteError};
use crate::rootfs::RootfsError;
use crate::sandbox::{BUILD_HOSTNAME, Exit, Secret, Signaller};

mod ahead;
mod cached;
mod copy;
mod cutoff;
pub mod inspect;
mod jobs;
mod once;
mod origins;
mod verify;

use ahead::Ahead;
use cached::{Given, Subject, identity_value};
use inspect::{Inspector, Moment, Then};
pub use jobs::Jobs;
use once::{Once, Turn};
pub use verify::WrongHit;

/// Whether earlier results may be taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CachePolicy {
    /// Take them.
    #[default]
    Use,
    /// Execute every step, and record the results (`--no-cache`).
    Refresh,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The command ran and failed.
    #[error("{}", failure(command, *exit))]
    Command {
        /// The command as the history shows it.
        command: String,
        /// How it ended.
        exit: Exit,
    },
    /// The command could not be run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What the command was to see could not be made.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A directory that the command line does not name.
    #[error("there is no build context {0:?}")]
    NoContext(String),
    /// Something from elsewhere could not be fetched.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Files could not be copied.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// An owner that the image does not know.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A bad `--exclude` pattern.
    #[error("--exclude: {0}")]
    Exclude(String),
    /// The root filesystem.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A path that Linux does not have.
    #[error("{path:?}: {source}")]
    Path {
        /// As written.
        path: String,
        /// What is wrong.
        source: InvalidPath,
    },
    /// A secret that the image's history would tell.
    #[error(transparent)]
    Leak(#[from] Leak),
    /// A result of the cache that is wrong (`--verify-cache`).
    #[error(transparent)]
    WrongHit(#[from] WrongHit),
    /// The cache does not have a step that was only looked up.
    #[error("the cache does not have it")]
    NotKnown,
    /// The build was stopped.
    #[error("the build was stopped")]
    Stopped,
}

impl StepError {
    /// The error with its causes, on one line.
    pub fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(inner) = cause {
            let more = inner.to_string();
            // Some repeat their cause in their own text.
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = inner.source();
        }
        text
    }
}

fn failure(command: &str, exit: Exit) -> String {
    let command = beginning(command);
    match exit {
        Exit::Code(code) => {
            format!("process {command:?} did not complete successfully: exit code: {code}")
        }
        Exit::Signal(signal) => format!("process {command:?} was killed by signal {signal}"),
    }
}

/// The beginning of a command on one line: some are longer than a screen, and its place in the Dockerfile is shown.
fn beginning(command: &str) -> String {
    const SHOWN: usize = 100;
    let words: Vec<_> = command.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// A failed build: which step, and why.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct BuildError {
    /// The instruction.
    pub text: String,
    /// Its place in the Dockerfile.
    pub span: Span,
    /// Why.
    #[source]
    pub source: Box<StepError>,
}

impl BuildError {
    fn new(step: &Step, source: StepError) -> Self {
        Self {
            text: step.text.clone(),
            span: step.span,
            source: Box::new(source),
        }
    }
}

/// The means to stop a build from another thread.
#[derive(Default)]
pub struct Stop {
    state: Mutex<StopState>,
}

#[derive(Default)]
struct StopState {
    stopped: bool,
    running: BTreeMap<usize, Signaller>,
    next: usize,
    actions: Vec<Arc<dyn Fn() + Send + Sync>>,
}

impl Stop {
    /// Stops the build: kills the commands that run, and begins no more steps.
    pub fn stop(&self) {
        let actions = {
            let mut state = lock(&self.state);
            state.stopped = true;
            state.running.values().for_each(Signaller::kill);
            state.actions.clone()
        };
        actions.iter().for_each(|action| action());
    }

    /// Does something more when it is stopped: what ends a wait for something that does not look here.
    pub fn when_stopped(&self, action: impl Fn() + Send + Sync + 'static) {
        let action: Arc<dyn Fn() + Send + Sync> = Arc::new(action);
        let is_late = {
            let mut state = lock(&self.state);
            state.actions.push(action.clone());
            state.stopped
        };
        if is_late {
            action();
        }
    }

    /// Whether it was stopped.
    pub fn is_stopped(&self) -> bool {
        lock(&self.state).stopped
    }

    /// Registers a running command; it is killed at once if the build has been stopped.
    fn register(&self, signaller: Signaller) -> usize {
        let mut state = lock(&self.state);
        if state.stopped {
            signaller.kill();
        }
        let number = state.next;
        state.next += 1;
        state.running.insert(number, signaller);
        number
    }

    fn unregister(&self, number: usize) {
        lock(&self.state).running.remove(&number);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a stage gave.
#[derive(Clone, Debug, Default)]
pub struct Built {
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
    /// The history, base image included.
    pub history: Vec<History>,
    /// When its latest step was executed (RFC 3339).
    pub created: Option<String>,
}

/// Where in a build a step is: on top of what, and whether the cache is asked.
#[derive(Clone, Copy)]
struct At<'b> {
    number: StepNumber,
    built: &'b Built,
    policy: CachePolicy,
    stage: &'b Stage,
    /// The instruction.
    text: &'b str,
    /// The steps after it in its stage.
    following: &'b [Step],
    /// It is only looked up, not executed.
    probing: bool,
    progress: &'b Progress,
}

/// Everything a build is executed with.
pub struct Solver<'a> {
    /// Where layers and cache records lie.
    pub store: &'a Store,
    /// The build context.
    pub context: &'a BuildContext,
    /// The files that the command line gave names (`--build-context`).
    pub contexts: &'a BTreeMap<String, BuildContext>,
    /// The secrets that it gave (`--secret`).
    pub secrets: &'a BTreeMap<String, Secret>,
    /// What no layer may hold of them.
    pub leaks: &'a Leaks,
    /// The sockets of the SSH agents that it gave (`--ssh`).
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// The caches that steps have at the moment (`--mount=type=cache`).
    pub shared_caches: &'a SharedCaches,
    /// Fetches what is elsewhere.
    pub fetcher: &'a Fetcher<'a>,
    /// Whether the cache is asked.
    pub policy: CachePolicy,
    /// How it is asked.
    pub mode: cache::Mode,
    /// Which part of what it has is verified by executing the step, in percent.
    pub verify: u8,
    /// What is asked when the store has nothing.
    pub imports: &'a cache::Imports,
    /// How many steps are executed at once.
    pub jobs: &'a Jobs,
    /// Hears of everything.
    pub listener: Listener<'a>,
    /// Takes everything down.
    pub ledger: &'a Ledger<'a>,
    /// Looks into steps while the build waits, if anybody wants to.
    pub inspector: Option<Inspector<'a>>,
    /// Stops the build.
    pub stop: &'a Stop,
}

impl Solver<'_> {
    /// Executes what the target of `graph` needs.
    ///
    /// # Errors
    /// The first step that failed. The results of the steps before it stay in the cache.
    pub fn solve(&self, graph: &Graph) -> Result<Built, BuildError> {
        let contexts = || std::iter::once(self.context).chain(self.contexts.values());
        let directories = || contexts().filter_map(BuildContext::directory);
        // The image must not depend on the umask under which the context was checked out.
        let modes = match graph.epoch {
            Some(_) => Modes::OfOwner,
            None => Modes::OfFiles,
        };
        directories().for_each(|context| context.prepare(self.store, modes));
        let numbers = self.announce(graph);
        let progress = Progress {
            is_dated: graph.epoch.is_some(),
            bases: graph.bases(),
            ..Progress::default()
        };
        thread::scope(|scope| {
            for &id in graph.stages.keys() {
                let (progress, numbers) = (&progress, &numbers);
                scope.spawn(move || {
                    let first = numbers.get(&id).copied().unwrap_or_default();
                    let result = self.stage(graph, id, first, progress);
                    if result.is_err() {
                        self.stop.stop();
                    }
                    progress.finish(id, result);
                });
            }
        });
        directories().for_each(Context::remember);
        progress.result(graph.target)
    }

    /// Refuses what would tell a secret in the history of the image.
    ///
    /// # Errors
    /// The first such step.
    pub fn refuse_leaks(&self, graph: &Graph) -> Result<(), BuildError> {
        let mut at = Some(graph.target);
        while let Some(stage) = at.map(|id| graph.stage(id)) {
            for step in &stage.steps {
                if let Some(leak) = step
                    .history
                    .as_deref()
                    .and_then(|text| self.leaks.in_history(text))
                {
                    return Err(BuildError::new(step, leak.into()));
                }
            }
            at = match stage.base {
                Base::Stage(base) => Some(base),
                _ => None,
            };
        }
        Ok(())
    }

    /// Tells the listener what is to come; returns the number of each stage's first step.
    fn announce(&self, graph: &Graph) -> BTreeMap<StageId, usize> {
        let mut plan = Vec::new();
        let mut first = BTreeMap::new();
        let mut count = 0;
        for (&id, stage) in &graph.stages {
            first.insert(id, count);
            let from = (&stage.text, stage.span, stage.base.is_elsewhere());
            let steps = stage.steps.iter();
            let steps = steps.map(|step| (&step.text, step.span, step.op.makes_a_layer()));
            let all = std::iter::once(from).chain(steps).zip(count..);
            let shown = Vec::from_iter(all.filter(|((.., is_shown), _)| *is_shown));
            let total = shown.len();
            for (position, ((text, span, _), number)) in shown.into_iter().enumerate() {
                plan.push(Planned {
                    number: StepNumber(number),
                    stage: (graph.stages.len() > 1).then(|| stage.name.clone()),
                    position: position + 1,
                    total,
                    text: text.clone(),
                    line: span.start.line,
                });
            }
            count += stage.steps.len() + 1;
        }
        self.ledger.plan(graph, &plan);
        (self.listener)(Event::Plan(plan));
        first
    }

    fn stage(
        &self,
        graph: &Graph,
        id: StageId,
        first: usize,
        progress: &Progress,
    ) -> Result<Built, BuildError> {
        let stage = graph.stage(id);
        thread::scope(|scope| {
            let mut ahead = Ahead::begin(scope, self, stage, first, progress);
            let built = self.steps(stage, first, progress, &mut ahead);
            built.map_err(|error| ahead.reason(error))
        })
    }

    /// What a stage gives, step by step, `first` being the number of its FROM.
    fn steps(
        &self,
        stage: &Stage,
        first: usize,
        progress: &Progress,
        ahead: &mut Ahead<'_>,
    ) -> Result<Built, BuildError> {
        let from = Step {
            text: stage.text.clone(),
            span: stage.span,
            history: None,
            op: Op::Configure,
        };
        let mut built = self.observed(StepNumber(first), &from, || {
            let base = match &stage.base {
                Base::Scratch => Built::default(),
                Base::Image(image) => Built {
                    layers: image.layers().to_vec(),
                    history: image.config.history.clone(),
                    created: image.config.created.clone(),
                },
                Base::Stage(base) => progress.wait(*base)?,
                Base::Named(name) => return self.named_base(StepNumber(first), name, stage, progress),
            };
            // Like Docker of a base that is at hand: nothing was done for it.
            Ok((base, Outcome::Cached))
        })?;
        self.ledger.stands_on(StepNumber(first), &built.layers);
        for (offset, step) in stage.steps.iter().enumerate() {
            let number = StepNumber(first + 1 + offset);
            let at = At {
                number,
                built: &built,
                policy: self.policy_of(stage),
                stage,
                text: &step.text,
                following: &stage.steps[offset + 1..],
                probing: false,
                progress,
            };
            let record = match ahead.take(offset) {
                Some(result) => result?,
                None => self.turn(number, step, at)?,
            };
            built.layers.extend(record.layer);
            if let Some(text) = &step.history {
                built.history.push(History {
                    created: Some(record.created.clone()),
                    created_by: Some(text.clone()),
                    comment: Some("buildkit.dockerfile.v0".to_owned()),
                    empty_layer: record.layer.is_none(),
                    ..History::default()
                });
            }
            built.created = built.created.max(Some(record.created));
        }
        Ok(built)
    }

    fn policy_of(&self, stage: &Stage) -> CachePolicy {
        match stage.refresh {
            true => CachePolicy::Refresh,
            false => self.policy,
        }
    }

    /// Executes a step, once the stages are built that it takes files from: the wait is no part of its time.
    fn turn(&self, number: StepNumber, step: &Step, at: At<'_>) -> Result<cache::Record, BuildError> {
        let mut sources = step.op.stages();
        let waited = sources.try_for_each(|id| at.progress.wait(id).map(drop));
        waited.map_err(|source| BuildError::new(step, source))?;
        self.observed(number, step, || self.step(step, at))
    }

    /// Does a step's work between its two events. A step that never begins has none.
    fn observed<T>(
        &self,
        number: StepNumber,
        step: &Step,
        work: impl FnOnce() -> Result<(T, Outcome), StepError>,
    ) -> Result<T, BuildError> {
        let failed = |source| BuildError::new(step, source);
        if self.stop.is_stopped() {
            return Err(failed(StepError::Stopped));
        }
        let begin = Instant::now();
        (self.listener)(Event::Started(number));
        let result = work();
        let outcome = match &result {
            Ok((_, outcome)) => *outcome,
            Err(_) if self.stop.is_stopped() => Outcome::Canceled,
            Err(error) => {
                (self.listener)(Event::Error(number, error.in_full()));
                Outcome::Failed
            }
        };
        let elapsed = begin.elapsed();
        self.ledger.ended(number, outcome, elapsed);
        (self.listener)(Event::Finished(number, outcome, elapsed));
        result.map(|(value, _)| value).map_err(failed)
    }

    fn step(&self, step: &Step, at: At<'_>) -> Result<(cache::Record, Outcome), StepError> {
        let built = at.built;
        match &step.op {
            Op::Configure => {
                let subject = Subject {
                    kind: "configure",
                    inputs: json!([step.text, step.history]),
                    resolve: &|| Ok(Value::Null),
                };
                let given = Given {
                    layer: None,
                    reads: Some(ReadSet::new()),
                };
                self.cached(at, &subject, || Ok(given.clone()))
            }
            Op::WorkingDirectory { path, user } => self.working_directory(path, user, at),
            Op::Run(run) => {
                let mounts = self.resolve_mounts(run, at.progress)?;
                let subject = Subject {
                    kind: "run",
                    inputs: run::inputs(run, mount::inputs(&mounts)),
                    resolve: &|| Ok(identity_value(&self.identity(&built.layers, &run.user)?)),
                };
                let run = (run.as_ref(), mounts.as_slice());
                self.inspect_idle(at, Moment::Before, run, &built.layers)?;
                let (record, outcome) = self.cached(at, &subject, || {
                    thread::scope(|scope| {
                        scope.spawn(|| self.read_for_later(at));
                        self.run(at, run)
                    })
                })?;
                self.inspect_idle(at, Moment::After, run, &after(built, &record))?;
                Ok((record, outcome))
            }
            Op::Copy(copy) => {
                let surroundings = (&copy.surroundings, &[][..]);
                self.inspect_idle(at, Moment::Before, surroundings, &built.layers)?;
                let (record, outcome) = self.copy(copy, at)?;
                self.inspect_idle(at, Moment::After, surroundings, &after(built, &record))?;
                Ok((record, outcome))
            }
        }
    }

    fn working_directory(
        &self,
        path: &str,
        user: &str,
        at: At<'_>,
    ) -> Result<(cache::Record, Outcome), StepError> {
        let layers = &at.built.layers;
        let owner = || -> Result<_, StepError> { Ok(self.accounts(layers)?.owner(user)?) };
        let subject = Subject {
            kind: "workdir",
            inputs: json!([path, user]),
            resolve: &|| owner().map(|owner| json!([owner.uid, owner.gid])),
        };
        self.cached(at, &subject, || {
            let rootfs = self.rootfs(layers, Vec::new())?;
            make_directory(rootfs.overlay(), &image_path(path)?.to_string(), owner()?)?;
            self.commit(rootfs)
        })
    }

    /// Finds the files that the mounts of a step show.
    fn resolve_mounts<'r>(
        &'r self,
        run: &'r Run,
        progress: &Progress,
    ) -> Result<Vec<Resolved<'r>>, StepError> {
        let find = |origin: &graph::Origin| -> Result<Part<'r>, StepError> {
            Ok(Part::find(self.origin(&origin.from, progress)?, &origin.source)?)
        };
        let resolve = |mount| Resolved::new(mount, find);
        run.mounts.iter().map(resolve).collect()
    }

    /// Makes the mounts of a step, unless the build is `stopped` meanwhile.
    fn mounts<'s>(
        &'s self,
        mounts: &[Resolved<'_>],
        stopped: &'s dyn Fn() -> bool,
    ) -> Result<Ready<'s>, StepError> {
        let means = Means {
            store: self.store,
            shared: self.shared_caches,
            secrets: self.secrets,
            agents: self.agents,
            stopped,
        };
        match Ready::make(mounts, &means) {
            // It may have waited for a cache that a stopped step held.
            Err(_) if self.stop.is_stopped() => Err(StepError::Stopped),
            made => Ok(made?),
        }
    }

    /// What a step sees in its root filesystem that no layer gets.
    fn virtuals(&self, run: &Run, mounts: &Ready<'_>) -> Vec<Virtual> {
        let hostname = run.hostname.as_deref().unwrap_or(BUILD_HOSTNAME);
        let mut virtuals = run::virtuals(run::sandbox_network(run.network), hostname, &run.hosts);
        virtuals.extend(mounts.virtuals.iter().cloned());
        virtuals
    }

    fn run(&self, at: At<'_>, run: (&Run, &[Resolved<'_>])) -> Result<Given, StepError> {
        loop {
            match self.attempt(at, run)? {
                Some(given) => return Ok(given),
                None => self.ledger.retried(at.number),
            }
        }
    }

    /// Runs the command; `None` if it failed, and who looked into it wants it run once more.
    fn attempt(
        &self,
        at: At<'_>,
        (run, mounts): (&Run, &[Resolved<'_>]),
    ) -> Result<Option<Given>, StepError> {
        let (number, layers) = (at.number, &at.built.layers);
        let stopped = || self.stop.is_stopped();
        let mounts = self.mounts(mounts, &stopped)?;
        let virtuals = self.virtuals(run, &mounts);
        let identity = self.identity(layers, &run.user)?;
        let mut rootfs = self.rootfs(layers, virtuals)?;
        run::make_mount_points(&rootfs)?;
        let registered = Mutex::new(None);
        let result = run::execute(
            run,
            &identity,
            &mounts,
            &mut rootfs,
            &|signaller| *lock(&registered) = Some(self.stop.register(signaller)),
            &|stream, piece| (self.listener)(Event::Output(number, stream, piece.to_vec())),
        );
        if let Some(number) = *lock(&registered) {
            self.stop.unregister(number);
        }
        let exit = result?;
        if self.stop.is_stopped() {
            return Err(StepError::Stopped);
        }
        if !exit.success() {
            return match self.failed(at, exit, (run, &mounts), rootfs) {
                Then::Again if !self.stop.is_stopped() => Ok(None),
                _ => Err(StepError::Command {
                    command: run.args.join(" "),
                    exit,
                }),
            };
        }
        self.commit(rootfs).map(Some)
    }
}

/// The layers after a step that stood on `built`.
fn after(built: &Built, record: &cache::Record) -> Vec<DiffId> {
    built.layers.iter().copied().chain(record.layer).collect()
}

fn image_path(path: &str) -> Result<ImagePath, StepError> {
    ImagePath::clean(path.as_bytes()).map_err(|source| StepError::Path {
        path: path.to_owned(),
        source,
    })
}

/// Which stages have ended, and how.
#[derive(Default)]
struct Progress {
    ended: Mutex<BTreeMap<StageId, Option<Built>>>,
    failure: Mutex<Option<BuildError>>,
    changed: Condvar,
    once: Once,
    /// The image is to be of a given time.
    is_dated: bool,
    /// The names of the stages that others stand on.
    bases: BTreeSet<String>,
}

impl Progress {
    fn finish(&self, id: StageId, result: Result<Built, BuildError>) {
        let built = match result {
            Ok(built) => Some(built),
            Err(error) => {
                let mut failure = lock(&self.failure);
                // A stage that was only stopped is not what went wrong.
                let stopped = |e: &BuildError| matches!(*e.source, StepError::Stopped);
                if failure.as_ref().is_none_or(stopped) {
                    *failure = Some(error);
                }
                None
            }
        };
        lock(&self.ended).insert(id, built);
        self.changed.notify_all();
    }

    /// Waits for a stage that another thread executes.
    fn wait(&self, id: StageId) -> Result<Built, StepError> {
        let mut ended = lock(&self.ended);
        loop {
            if let Some(result) = ended.get(&id) {
                return result.clone().ok_or(StepError::Stopped);
            }
            ended = self.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn result(self, target: StageId) -> Result<Built, BuildError> {
        if let Some(error) = self.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(error);
        }
        let mut ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Without a failure every needed stage has ended well, the target among them.
        Ok(ended.remove(&target).flatten().unwrap_or_default())
    }
}
