//! `mica build`: an image from a Dockerfile.

use std::process::ExitCode;

use anyhow::Context as _;
use mica_builder::build::build;
use mica_builder::dockerfile::parse;
use mica_builder::image::Image;
use mica_builder::lint::Linter;
use mica_builder::reference::Reference;
use mica_builder::sandbox::{self, UserNs};
use mica_builder::solver::{CachePolicy, Solver, Stop};

use crate::config::Context;
use crate::diagnostic::hint;
use crate::output::Output;
use crate::progress::{Progress, Style};
use crate::signals;

mod args;
mod call;
mod check;
mod context;
mod dockerfile;
mod failure;
mod sources;

pub use args::Args;
use call::Call;
use dockerfile::DockerfileSource;

/// Builds.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (contexts, directories) = sources::contexts(&args.build_context)?;
    let secrets = sources::secrets(&args.secret)?;
    let request = args::request(&args, contexts)?;
    let outputs = args
        .output
        .iter()
        .map(|text| Output::parse(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let names = args
        .tag
        .iter()
        .map(|tag| Reference::parse(tag).map_err(|e| with_hint(e.hint(), e)))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let source = DockerfileSource::read(&args)?;
    let call = match args.check {
        true => Some(Call::CHECK),
        false => Call::parse(&args.call)?,
    };
    let dockerfile = match (parse(&source.text), call) {
        (Ok(dockerfile), _) => dockerfile,
        (Err(error), Some(call)) => return call.refuse(error, &source, context),
        (Err(error), None) => return Err(source.error(&error)),
    };
    // The user namespace comes before the first thread, and so before the progress display.
    if call.is_none() {
        enter_sandbox()?;
    }
    let store = &*context.store()?;
    // Removed at the end, and by the next command if this one is killed.
    let work = store.work_dir()?;
    let build_context = context::open_context(&args, &source, work.path())?;
    if let Some(call) = call {
        return call.answer(&source, &dockerfile, &request, store, context, &build_context);
    }
    let linter = Linter::new(&dockerfile, &request.build_args, Some(build_context.ignore()));
    let linter = linter.map_err(|e| source.error(&e))?;
    let style = if args.quiet { Style::Quiet } else { args.progress };
    let progress = Progress::start(style);
    let stop = Stop::default();
    let policy = match args.no_cache {
        true => CachePolicy::Refresh,
        false => CachePolicy::Use,
    };
    let result = signals::stopping(&stop, || {
        let solver = Solver {
            store,
            context: &build_context,
            contexts: &directories,
            secrets: &secrets,
            policy,
            listener: &|event| progress.show(event),
            stop: &stop,
        };
        build(&dockerfile, &request, &solver, &linter)
    })?;
    let image = match result {
        Ok(product) => product.image,
        Err(error) => {
            drop(progress);
            return Err(failure::failure(error, &source));
        }
    };
    if args.pull {
        progress.note("--pull: no image was pulled: they come from the store");
    }
    if let Some(summary) = check::summary(&linter.warnings()) {
        progress.note(&summary);
    }
    deliver(&image, &args, &names, &outputs, context, &progress)?;
    drop(progress);
    if args.quiet && !outputs.iter().any(Output::is_stdout) {
        context.print(&format!("{}\n", image.id()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Names the image, and writes it and its ID where the command line wants them.
fn deliver(
    image: &Image,
    args: &Args,
    names: &[Reference],
    outputs: &[Output],
    context: &Context,
    progress: &Progress,
) -> anyhow::Result<()> {
    let store = &*context.store()?;
    let id = image.id();
    store.add_image(&image.manifest_digest)?;
    progress.note(&format!("image {id}"));
    for name in names {
        store.tag(&name.to_string(), &image.manifest_digest)?;
        progress.note(&format!("named {}", name.familiar()));
    }
    for output in outputs {
        output.write(store, image, names)?;
    }
    if let Some(path) = &args.iidfile {
        std::fs::write(path, id.to_string())
            .with_context(|| format!("cannot write the image's ID to {}", path.display()))?;
    }
    Ok(())
}

/// Enters the namespaces in which steps are executed. To be called while there is one thread only.
pub fn enter_sandbox() -> anyhow::Result<()> {
    sandbox::enter(UserNs::Auto).map_err(|e| with_hint(e.remedy(), e))?;
    Ok(())
}

/// Adds a hint, where there is one.
pub fn with_hint(text: Option<String>, error: impl Into<anyhow::Error>) -> anyhow::Error {
    match text {
        Some(text) => hint(error, text),
        None => error.into(),
    }
}
