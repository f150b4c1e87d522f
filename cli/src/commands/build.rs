//! `mica build`: an image from a Dockerfile.

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use mica_builder::build::build;
use mica_builder::dockerfile::parse;
use mica_builder::export::Owners;
use mica_builder::image::Image;
use mica_builder::ledger::Ledger;
use mica_builder::lint::Linter;
use mica_builder::op::mount::SharedCaches;
use mica_builder::pull::{Images, JOBS, Pull};
use mica_builder::push::Push;
use mica_builder::reference::Reference;
use mica_builder::remote::Fetcher;
use mica_builder::sandbox::{self, IdMode};
use mica_builder::solver::inspect::Inspector;
use mica_builder::solver::{CachePolicy, Jobs, Solver, Stop};

use crate::commands::{push, why};
use crate::config::Context;
use crate::diagnostic::hint;
use crate::progress::transfer::{Shown, Transfers};
use crate::progress::{Progress, Style};
use crate::signals;

mod about;
mod agents;
mod annotation;
mod args;
mod caches;
mod call;
mod check;
mod context;
mod deliver;
mod docker;
mod dockerfile;
mod failure;
mod fields;
mod named;
mod output;
mod request;
mod shell;
mod sources;

pub use args::Args;
use caches::Caches;
use call::Call;
use context::{Opening, Place};
use dockerfile::DockerfileSource;
use output::Place as OutputPlace;
use shell::Shells;

/// Builds.
pub fn run(args: &Args, context: &Context) -> anyhow::Result<ExitCode> {
    args.debug.check()?;
    let named = named::parse(&args.build_context)?;
    let place = Place::of(&args.path)?;
    let secrets = sources::secrets(&args.steps.secret)?;
    let mut request = request::request(args)?;
    let outputs = output::outputs(&args.output, &args.image)?;
    docker::check(args)?;
    let caches = Caches::parse(&args.cache)?;
    let mut notes = Vec::new();
    let at_hand = DockerfileSource::at_hand(args.file.as_deref(), &place)?;
    let call = match args.check {
        true => Some(Call::CHECK),
        false => Call::parse(&args.call)?,
    };
    if let (Some(source), None) = (&at_hand, call) {
        // A mistake shows before anything is set up or fetched.
        parse(&source.text).map_err(|e| source.error(&e))?;
    }
    // The user namespace comes before the first thread, and so before the progress display.
    let mut owners = Owners::Own;
    if call.is_none() {
        deliver::check_stdout(&outputs)?;
        if enter_sandbox(context)? == IdMode::Root {
            owners = Owners::Image;
        }
        notes.extend(request::without_cgroup(&mut request));
    }
    let store = &*context.store()?;
    // Removed at the end, and by the next command if this one is killed.
    let work = store.work_dir()?;
    let stop = Arc::new(Stop::default());
    let stopped = || stop.is_stopped();
    let started = agents::open(&args.steps.ssh, &place, work.path())?;
    let agents = agents::sockets(&started);
    let fetcher = Fetcher::new(store, &secrets.all, &agents, &stopped);
    stop.when_stopped(fetcher.interrupter());
    let opening = Opening {
        store,
        fetcher: &fetcher,
        work: work.path(),
        file: args.file.as_deref(),
    };
    let ((source, build_context), (names, contexts)) = signals::stopping(&stop, || {
        anyhow::Ok((opening.open(&place, at_hand)?, named::open(named, &opening)?))
    })??;
    request.contexts = names;
    request.context_time = context::time(store, &place, &build_context)?;
    let dockerfile = match (parse(&source.text), call) {
        (Ok(dockerfile), _) => dockerfile,
        (Err(error), Some(call)) => return call.refuse(error, &source, context),
        (Err(error), None) => return Err(source.error(&error)),
    };
    if let Some(call) = call {
        return call.answer(&source, &dockerfile, &request, store, context, &build_context);
    }
    let linter = Linter::new(&dockerfile, &request.build_args, build_context.ignore());
    let linter = linter.map_err(|e| source.error(&e))?;
    let quiet = args.display.quiet == Some(true);
    let progress = Progress::start(if quiet {
        Style::Quiet
    } else {
        args.display.progress
    });
    let shells = Shells::new(&args.debug, &progress);
    let ledger = Ledger::new(store, about::about(&place, &source, &request, &outputs));
    let jobs = Jobs::new(NonZeroUsize::new(args.steps.jobs));
    let policy = match args.cache.no_cache {
        Some(true) => CachePolicy::Refresh,
        _ => CachePolicy::Use,
    };
    let client = args.registry.client(&stop)?;
    let transfers = Transfers::start(match args.display.progress {
        _ if quiet => Shown::Nothing,
        Style::Quiet | Style::RawJson => Shown::Nothing,
        Style::Plain => Shown::Lines,
        Style::Auto | Style::Tty => Shown::Bars,
    });
    let hears = |event| progress.pull(event);
    let images = Images::new(
        Pull {
            store,
            client: &client,
            platform: None,
            jobs: JOBS,
            listener: &hears,
        },
        args.pull.into(),
    );
    let inspector = Inspector {
        wants: &|step, moment| shells.wants(step, moment),
        look: &|paused, start| shells.look(paused, start),
    };
    let result = signals::stopping(&stop, || {
        let (imports, told) = caches.open(&client);
        told.iter().for_each(|note| progress.note(note));
        let solver = Solver {
            store,
            context: &build_context,
            contexts: &contexts,
            secrets: &secrets.all,
            leaks: &secrets.leaks,
            agents: &agents,
            shared_caches: &SharedCaches::default(),
            fetcher: &fetcher,
            policy,
            mode: args.cache.cache.into(),
            verify: args.cache.verify_cache.unwrap_or(0),
            imports: &imports,
            jobs: &jobs,
            listener: &|event| shells.show(event),
            ledger: &ledger,
            inspector: args.debug.is_wanted().then_some(inspector),
            stop: &stop,
        };
        build(&dockerfile, &request, &solver, &linter, &images)
    })?;
    let product = match result {
        Ok(product) if args.image.squash == Some(true) => product.squashed(store)?,
        Ok(product) if args.image.optimize == Some(args::Optimize::Fold) => product.folded(store)?,
        Ok(product) => product,
        Err(error) => {
            drop(progress);
            if args.display.explain {
                why::after_build(store, &ledger)?;
            }
            return Err(failure::failure(error, &source));
        }
    };
    notes.extend(shells.missed());
    let (_, record) = ledger.record();
    let product = caches.inline(store, &record, product)?;
    notes.extend(check::unknown_arguments(&dockerfile, &request));
    notes.extend(check::summary(&linter.warnings()));
    for note in notes {
        progress.note(&note);
    }
    let push = |image: &Image, name: &Reference, form| {
        let hears = |event| push::show(&transfers, event);
        let pushed = Push::new(store, &client, form, &hears).push(image, name);
        transfers.end();
        let pushed = pushed.map_err(|e| with_hint(e.hint(), e));
        Ok(pushed
            .with_context(|| format!("cannot push {}", name.familiar()))?
            .manifest)
    };
    let delivered = signals::stopping(&stop, || {
        let products = (&product, owners);
        let image = deliver::deliver(store, products, &outputs, &args.output, &progress, &push)?;
        ledger.delivered(&image);
        let told = caches.write(store, &client, (&record, &product.image), &transfers)?;
        told.iter().for_each(|note| progress.note(note));
        anyhow::Ok(image)
    });
    let image = delivered??;
    drop(progress);
    if args.display.explain {
        why::after_build(store, &ledger)?;
    }
    let stdout_is_taken = outputs
        .iter()
        .any(|output| output.place() == Some(&OutputPlace::Stdout));
    if quiet && !stdout_is_taken {
        context.print(&format!("{}\n", image.id()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Enters the namespaces in which steps are executed; returns how ids are mapped there. To be called while there is one thread only.
pub fn enter_sandbox(context: &Context) -> anyhow::Result<IdMode> {
    let entered = sandbox::enter(context.userns()).map_err(|e| with_hint(e.remedy(), e))?;
    Ok(entered.mode)
}

/// Adds a hint, where there is one.
pub fn with_hint(text: Option<String>, error: impl Into<anyhow::Error>) -> anyhow::Error {
    match text {
        Some(text) => hint(error, text),
        None => error.into(),
    }
}
