//! `mica build`: an image from a Dockerfile.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mica_builder::build::{Error, build};
use mica_builder::context;
use mica_builder::dockerfile::{self, ParseError};
use mica_builder::graph::Network;
use mica_builder::ignore::Ignore;
use mica_builder::image::Image;
use mica_builder::plan::{NamedContext, Request};
use mica_builder::reference::Reference;
use mica_builder::sandbox::{self, UserNs};
use mica_builder::solver::{BuildError, CachePolicy, Solver, StepError, Stop};

use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::output::Output;
use crate::progress::{Progress, Style};
use crate::signals;

mod sources;

/// Build an image from a Dockerfile
///
/// Each RUN is executed in namespaces of its own on a copy-on-write mount of the layers so far. Steps whose
/// command, base and copied files are the same as in an earlier build are taken from the cache.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica build -t hello .\n  \
    mica build -t hello:1.0 -f docker/Dockerfile --build-arg VERSION=1.0 --target release .\n  \
    mica build --output type=oci,dest=hello.tar .\n  \
    echo 'FROM busybox' | mica build -t copy -")]
pub struct Args {
    /// The build context: a directory; or `-` to read a Dockerfile from stdin, with no context
    #[arg(value_name = "PATH|-")]
    path: PathBuf,

    /// Name of the Dockerfile [default: PATH/Dockerfile]; `-` reads it from stdin
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Name the image, as NAME or NAME:TAG; may be given again
    #[arg(long, short, value_name = "NAME")]
    tag: Vec<String>,

    /// Set a build argument; without =VALUE it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    build_arg: Vec<String>,

    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,

    /// Set a label on the image
    #[arg(long, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Give a directory or an image (docker-image://NAME) a name for FROM and --from
    #[arg(long, value_name = "NAME=PATH")]
    build_context: Vec<String>,

    /// Give a secret to steps that ask for it by RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR]")]
    secret: Vec<String>,

    /// Execute every step, whatever the cache holds
    #[arg(long)]
    no_cache: bool,

    /// Execute every step of these stages, whatever the cache holds
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,

    /// Accepted as docker has it: images come from the store, and there is nothing to pull
    #[arg(long)]
    pull: bool,

    /// The platform to build for: this machine's
    #[arg(long, value_name = "OS/ARCH")]
    platform: Vec<String>,

    /// Add a name to /etc/hosts of every step
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,

    /// What RUN can reach, where it does not say so itself
    #[arg(long, value_name = "MODE", default_value = "default")]
    network: NetworkMode,

    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,

    /// Write the result: type=oci|docker|tar|local,dest=PATH; or a directory; or `-` for a tar to stdout
    #[arg(long, short, value_name = "SPEC")]
    output: Vec<String>,

    /// How to show progress
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    progress: Style,

    /// Show nothing but errors, and print the image's ID
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NetworkMode {
    /// The host's network
    Default,
    /// The host's network
    Host,
    /// No network
    None,
}

/// Builds.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (contexts, directories) = sources::contexts(&args.build_context)?;
    let secrets = sources::secrets(&args.secret)?;
    let request = request(&args, contexts)?;
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
    let dockerfile = dockerfile::parse(&source.text).map_err(|e| source.error(&e))?;
    // The user namespace comes before the first thread, and so before the progress display.
    enter_sandbox()?;
    let store = &*context.store()?;
    // Removed at the end, and by the next command if this one is killed.
    let work = store.work_dir()?;
    let build_context = open_context(&args, &source, work.path())?;
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
        build(&dockerfile, &request, &solver)
    })?;
    let image = match result {
        Ok(image) => image,
        Err(error) => {
            drop(progress);
            return Err(failure(error, &source));
        }
    };
    if args.pull {
        progress.note("--pull: no image was pulled: they come from the store");
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

fn request(args: &Args, contexts: BTreeMap<String, NamedContext>) -> anyhow::Result<Request> {
    let mut build_args = BTreeMap::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => {
                build_args.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    build_args.insert(text.clone(), value);
                }
            }
        }
    }
    let label = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    Ok(Request {
        build_args,
        target: args.target.clone().filter(|target| !target.is_empty()),
        labels: args.label.iter().map(label).collect(),
        network: match args.network {
            NetworkMode::None => Some(Network::None),
            NetworkMode::Default | NetworkMode::Host => None,
        },
        hosts: sources::hosts(&args.add_host)?,
        platform: sources::platform(&args.platform)?,
        refresh: args.no_cache_filter.iter().cloned().collect(),
        contexts,
    })
}

/// A Dockerfile's text and what to call it in messages.
struct DockerfileSource {
    name: String,
    text: Vec<u8>,
    /// Where it lies; `None` for stdin.
    path: Option<PathBuf>,
}

/// The largest Dockerfile that is read: a larger file is another one, given by mistake.
const MAX_DOCKERFILE: u64 = 16 << 20;

impl DockerfileSource {
    fn read(args: &Args) -> anyhow::Result<Self> {
        let from_stdin = |path: &Path| path.as_os_str() == "-";
        let path = match &args.file {
            Some(file) if from_stdin(file) && from_stdin(&args.path) => {
                return Err(usage_error(
                    "the Dockerfile and the context cannot both come from stdin",
                ));
            }
            Some(file) => file.clone(),
            None if from_stdin(&args.path) => args.path.clone(),
            None => args.path.join("Dockerfile"),
        };
        if from_stdin(&path) {
            let text =
                read_limited(std::io::stdin().lock()).context("cannot read the Dockerfile from stdin")?;
            return Ok(Self {
                name: "Dockerfile".to_owned(),
                text,
                path: None,
            });
        }
        if args.file.is_none() && !args.path.is_dir() {
            return Err(hint(
                anyhow::anyhow!("the build context {} is not a directory", args.path.display()),
                "name a directory, or `-` to read a Dockerfile from stdin",
            ));
        }
        let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()));
        let file = file.map_err(|e| hint(e, "the Dockerfile is named by -f FILE, or lies in the context"))?;
        let text = read_limited(file).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            name: path.display().to_string(),
            text,
            path: Some(path),
        })
    }

    /// An error with the line it is about.
    fn error(&self, error: &ParseError) -> anyhow::Error {
        anyhow::anyhow!("{}", error.render(&self.name, &self.text))
    }
}

fn read_limited(from: impl std::io::Read) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_DOCKERFILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_DOCKERFILE {
        bail!("it is larger than 16 MiB");
    }
    Ok(text)
}

fn open_context(args: &Args, source: &DockerfileSource, empty: &Path) -> anyhow::Result<context::Context> {
    if args.path.as_os_str() == "-" {
        return Ok(context::Context::new(empty, Ignore::default())?);
    }
    let ignore = read_ignore(&args.path, source)?;
    context::Context::new(&args.path, ignore)
        .with_context(|| format!("cannot read the build context {}", args.path.display()))
}

/// `DOCKERFILE.dockerignore` goes before the context's `.dockerignore`.
fn read_ignore(root: &Path, source: &DockerfileSource) -> anyhow::Result<Ignore> {
    let own = source.path.as_ref().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([root.join(".dockerignore")]) {
        if let Some(ignore) = ignore_file(&path)? {
            return Ok(ignore);
        }
    }
    Ok(Ignore::default())
}

/// The ignore file `path`; `None` if there is none.
fn ignore_file(path: &Path) -> anyhow::Result<Option<Ignore>> {
    match std::fs::read(path) {
        Ok(text) => {
            let parsed = Ignore::parse(&text);
            Ok(Some(
                parsed.with_context(|| format!("cannot use {}", path.display()))?,
            ))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// What a person is told of a build that failed: the place in the Dockerfile, the line, the reason.
fn failure(error: Error, source: &DockerfileSource) -> anyhow::Error {
    match error {
        Error::Dockerfile(error) => source.error(&error),
        Error::Step(BuildError {
            span, source: step, ..
        }) => {
            let advice = step_hint(&step);
            let mut message = step.to_string();
            let mut cause = std::error::Error::source(&step);
            while let Some(inner) = cause {
                let text = inner.to_string();
                if !message.ends_with(&text) {
                    message.push_str(": ");
                    message.push_str(&text);
                }
                cause = inner.source();
            }
            let shown = ParseError::new(span, message);
            source.error(&match advice {
                Some(advice) => shown.with_hint(advice),
                None => shown,
            })
        }
        Error::Image(error) => with_hint(error.hint(), error),
    }
}

fn step_hint(error: &StepError) -> Option<String> {
    use mica_builder::op::copy::CopyError;
    use mica_builder::op::mount::MountError;
    use mica_builder::op::run::RunError;
    match error {
        StepError::Mount(MountError::NoSecret { id }) => {
            Some(format!("give it by --secret id={id},src=FILE"))
        }
        StepError::Copy(CopyError::Missing { .. })
        | StepError::Mount(MountError::Files(CopyError::Missing { .. })) => {
            Some("check the spelling, and whether .dockerignore leaves it out".to_owned())
        }
        StepError::Copy(CopyError::Changed { .. }) => {
            Some("build again when nothing writes there, or leave such files out by .dockerignore".to_owned())
        }
        StepError::Run(RunError::Sandbox(error)) => error.remedy(),
        StepError::Command { .. } => {
            Some("the steps before it are in the cache: a new build begins here".to_owned())
        }
        _ => None,
    }
}
