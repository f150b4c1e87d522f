//! `mica pull`.

use std::process::ExitCode;
use std::sync::Arc;

use mica_builder::copy::{Place, Tool};
use mica_builder::image::{Image, ImageError, Platform};
use mica_builder::plan;
use mica_builder::pull::{JOBS, LayerState, Naming, Pull, PullEvent, Pulled, When};
use mica_builder::reference::Reference;
use mica_builder::registry::Client;
use mica_builder::solver::Stop;
use mica_fs::store::Store;

use crate::commands::build::with_hint;
use crate::config::Context;
use crate::diagnostic::{usage_error, warn};
use crate::progress::transfer::{Shown, State, Transfers};
use crate::registries::Options;
use crate::signals;

/// Pull an image from a registry
///
/// What is in the store already is not fetched. If the pull is interrupted, the next one goes on where it stopped.
/// An image of Docker's daemon, or of podman and buildah, is taken over by their own export.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica pull busybox\n  \
    mica pull --platform linux/arm64 quay.io/prometheus/busybox:latest\n  \
    mica pull registry.example.com:5000/app@sha256:…\n  \
    mica pull docker-daemon:app:1.0\n  \
    mica pull containers-storage:localhost/app")]
pub struct Args {
    /// Pull all tags of the repository
    #[arg(long, short)]
    all_tags: bool,

    /// The platform, if the image is there for several: OS[/ARCH[/VARIANT]] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// Write only the image's name
    #[arg(long, short)]
    quiet: bool,

    /// How many layers are fetched at once
    #[arg(long, value_name = "N", default_value_t = JOBS, value_parser = positive)]
    jobs: usize,

    #[command(flatten)]
    registry: Options,

    /// The image: [HOST[:PORT]/]NAME[:TAG][@DIGEST], docker-daemon:NAME or containers-storage:NAME
    #[arg(value_name = "NAME")]
    name: String,
}

fn positive(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    number.ok_or_else(|| "it has to be a number from 1 to 64".to_owned())
}

/// Pulls the image, or all of a repository.
///
/// # Errors
/// If one cannot be pulled; it is not in the store then, and what has arrived is kept for the next pull.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let platform = args.platform.as_deref().map(plan::platform).transpose();
    let platform = platform.map_err(|e| usage_error(e.to_string()))?;
    if let Ok(Place::Tool(tool, text)) = Place::parse(&args.name) {
        return take_over(&args, context, tool, &text, platform.as_ref());
    }
    let reference = Reference::parse(&args.name)?;
    let stop = Arc::new(Stop::default());
    let client = args.registry.client(&stop)?;
    let store = context.store()?;
    let puller = Puller {
        store: &store,
        client: &client,
        platform,
        jobs: args.jobs,
        transfers: Transfers::start(match args.quiet {
            true => Shown::Nothing,
            false => Shown::Bars,
        }),
    };
    let names = || match args.all_tags {
        true => all_tags(&client, &reference, &args.name),
        false => Ok(vec![reference.clone()]),
    };
    signals::stopping_soon(&stop, || {
        for reference in names()? {
            let pulled = puller.pull(&reference, Naming::Named)?;
            context.print(&result(&reference, &pulled, args.quiet))?;
        }
        Ok(ExitCode::SUCCESS)
    })?
}

/// Brings in an image of another tool's store.
fn take_over(
    args: &Args,
    context: &Context,
    tool: Tool,
    text: &str,
    platform: Option<&Platform>,
) -> anyhow::Result<ExitCode> {
    if args.all_tags {
        return Err(usage_error(format!(
            "--all-tags is for registries, not for {tool}"
        )));
    }
    let reference = Reference::parse(tool.name(text))?;
    let (store, stop) = (context.store()?, Stop::default());
    let pulled = signals::stopping_soon(&stop, || {
        let image = tool
            .load(&store, text, platform)
            .map_err(|e| with_hint(e.hint(), e))?;
        let (name, named) = (reference.stored(), image.manifest_digest);
        let is_new = store.resolve(&name)? != Some(named);
        store.tag(&name, &named)?;
        anyhow::Ok(Pulled { image, named, is_new })
    })??;
    context.print(&result(&reference, &pulled, args.quiet))?;
    Ok(ExitCode::SUCCESS)
}

fn all_tags(client: &Client, reference: &Reference, text: &str) -> anyhow::Result<Vec<Reference>> {
    let has_tag = text.rsplit('/').next().unwrap_or_default().contains([':', '@']);
    if has_tag {
        return Err(usage_error("--all-tags takes a name without a tag"));
    }
    let failed = |e: mica_builder::registry::RegistryError| with_hint(e.hint(), e);
    let tags = client
        .repository(reference)
        .and_then(|repository| repository.tags());
    let name = reference.repository();
    let names = tags.map_err(failed)?.into_iter();
    names
        .map(|tag| Ok(Reference::parse(&format!("{name}:{tag}"))?))
        .collect()
}

/// What is told at the end, as docker tells it.
fn result(reference: &Reference, pulled: &Pulled, quiet: bool) -> String {
    let name = reference.familiar();
    let status = match pulled.is_new {
        true => format!("Downloaded newer image for {name}"),
        false => format!("Image is up to date for {name}"),
    };
    match quiet {
        true => format!("{reference}\n"),
        false => format!("Digest: {}\nStatus: {status}\n{reference}\n", pulled.named),
    }
}

/// Pulls, and shows how it goes.
pub struct Puller<'a> {
    /// Where to.
    pub store: &'a Store,
    /// Where from.
    pub client: &'a Client,
    /// The platform that was asked for.
    pub platform: Option<Platform>,
    /// How many layers are fetched at once.
    pub jobs: usize,
    /// Where it is shown.
    pub transfers: Transfers,
}

impl Puller<'_> {
    /// Pulls an image.
    ///
    /// # Errors
    /// With a hint.
    pub fn pull(&self, reference: &Reference, naming: Naming) -> anyhow::Result<Pulled> {
        let pull = Pull {
            store: self.store,
            client: self.client,
            platform: self.platform.clone(),
            jobs: self.jobs,
            listener: &|event| show(&self.transfers, event),
        };
        let pulled = pull.pull(reference, naming);
        self.transfers.end();
        pulled.map_err(|e| with_hint(e.hint(), e))
    }

    /// The image of that name, of the store or of its registry.
    ///
    /// # Errors
    /// With a hint.
    pub fn image(&self, name: &str, when: When) -> anyhow::Result<Image> {
        let stored = || Image::find(self.store, name).map_err(|e| with_hint(e.hint(), e));
        let Ok(reference) = Reference::parse(name) else {
            return stored();
        };
        let is_missing = || matches!(Image::find(self.store, name), Err(ImageError::Unknown { .. }));
        match when {
            When::Always => {}
            When::Missing if is_missing() => {}
            When::Missing | When::Never => return stored(),
        }
        Ok(self.pull(&reference, Naming::Named)?.image)
    }
}

/// Shows an event of a pull.
pub fn show(transfers: &Transfers, event: PullEvent) {
    match event {
        PullEvent::Found(name, layers) => {
            transfers.note(&format!("Pulling {name}"));
            transfers.announce(&layers, State::Idle("Waiting"));
        }
        PullEvent::Layer(digest, state) => {
            let state = match state {
                LayerState::Queued => State::Idle("Waiting"),
                LayerState::Exists => State::Ended("Already exists"),
                LayerState::Waiting => State::Idle("Waiting for another process"),
                LayerState::Arrived(bytes) => State::Moved("Pulling", bytes),
                LayerState::Done => State::Ended("Pull complete"),
            };
            transfers.set(&digest, state);
        }
        // What is drawn is ended by who began it.
        PullEvent::Ended(_) => {}
        PullEvent::Warning(text) => warn(&text),
    }
}
