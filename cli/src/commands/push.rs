//! `mica push`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use mica_builder::archive::{Coding, Compression, Existing};
use mica_builder::image::{Image, MediaTypes};
use mica_builder::push::{Form, LayerState, Naming, Push, PushEvent, Pushed};
use mica_builder::reference::Reference;
use mica_builder::solver::Stop;
use mica_fs::store::Store;

use crate::commands::build::with_hint;
use crate::commands::copy::ManifestFormat;
use crate::commands::save::CompressionChoice;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::progress::transfer::{Shown, State, Transfers};
use crate::registries::Options;
use crate::signals;

/// Push an image to a registry
///
/// What the registry has already is not sent. Layers that came compressed leave as they came, so an image that was
/// pulled keeps its digest; layers that were made here are compressed while they are sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica push registry.example.com:5000/app:1.0\n  \
    mica push app quay.io/me/app:latest\n  \
    mica push --all-tags quay.io/me/app\n  \
    mica push --by-digest app quay.io/me/app\n  \
    mica push --compression zstd --force-compression quay.io/me/app")]
pub struct Args {
    /// Push all tags that the store has of the repository
    #[arg(long, short, conflicts_with = "destination")]
    all_tags: bool,

    /// Write only the image's name
    #[arg(long, short)]
    quiet: bool,

    /// How to compress layers that did not come compressed [default: gzip]
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionChoice>,

    /// How hard to compress: up to 9 for gzip, up to 22 for zstd [default: 5, 3]
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<u32>,

    /// Compress layers anew that came compressed
    #[arg(long)]
    force_compression: bool,

    /// The form of the manifest [default: as it is; OCI's for what was made here]
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<ManifestFormat>,

    /// Give the image no tag: it is there by its digest alone
    #[arg(long)]
    by_digest: bool,

    /// Write the digest of what was pushed to a file
    #[arg(long, value_name = "FILE", conflicts_with = "all_tags")]
    digestfile: Option<PathBuf>,

    #[command(flatten)]
    registry: Options,

    /// The image in the store: a name, an ID or its first digits
    #[arg(value_name = "IMAGE")]
    image: String,

    /// The name to push to [default: the image's own]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
}

/// Pushes the image, or all tags of a repository.
///
/// # Errors
/// If one cannot be pushed; its name in the registry stands for what it stood for before.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let stop = Arc::new(Stop::default());
    let client = args.registry.client(&stop)?;
    let store = context.store()?;
    let existing = match args.force_compression {
        true => Existing::Recode,
        false => Existing::Keep,
    };
    let form = Form {
        coding: coding(args.compression, args.compression_level, existing)?,
        media_types: args.format.map(MediaTypes::from),
        naming: match args.by_digest {
            true => Naming::Digest,
            false => Naming::Name,
        },
    };
    if form.media_types == Some(MediaTypes::Docker) && form.coding.compression == Compression::Zstd {
        return Err(usage_error(
            "--format v2s2 has no zstd: choose gzip, or --format oci",
        ));
    }
    let images = match args.all_tags {
        true => all_tags(&store, &args.image)?,
        false => vec![one(&store, &args.image, args.destination.as_deref())?],
    };
    let transfers = Transfers::start(match args.quiet {
        true => Shown::Nothing,
        false => Shown::Bars,
    });
    let listener = |event| show(&transfers, event);
    let push = Push::new(&store, &client, form, &listener);
    signals::stopping(&stop, || {
        for (image, reference) in &images {
            let pushed = push.push(image, reference);
            transfers.end();
            let pushed = pushed.map_err(|e| with_hint(e.hint(), e))?;
            context.print(&result(reference, &pushed, &args))?;
            if let Some(path) = &args.digestfile {
                let text = pushed.manifest.digest.to_string();
                fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

fn one(store: &Store, text: &str, destination: Option<&str>) -> anyhow::Result<(Image, Reference)> {
    let image = Image::find(store, text)?;
    let reference = match destination {
        Some(destination) => Reference::parse(destination)?,
        None => Reference::parse(text)?,
    };
    Ok((image, reference))
}

/// The images of a repository, with their names.
fn all_tags(store: &Store, text: &str) -> anyhow::Result<Vec<(Image, Reference)>> {
    if text.rsplit('/').next().unwrap_or_default().contains([':', '@']) {
        return Err(usage_error("--all-tags takes a name without a tag"));
    }
    let repository = Reference::parse(text)?.repository();
    let mut found = Vec::new();
    for record in store.images()? {
        for name in record.names.iter().filter_map(|name| Reference::parse(name).ok()) {
            if name.repository() == repository && name.tag().is_some() && name.digest().is_none() {
                found.push((Image::load(store, &record.manifest)?, name));
            }
        }
    }
    match found.is_empty() {
        true => Err(anyhow::anyhow!("the store has no image of {repository}")),
        false => Ok(found),
    }
}

/// How layers are compressed that leave for a registry.
///
/// # Errors
/// A level that there is not.
pub fn coding(
    choice: Option<CompressionChoice>,
    level: Option<u32>,
    existing: Existing,
) -> anyhow::Result<Coding> {
    let compression = choice.map_or(Compression::Gzip, Compression::from);
    let highest = compression.highest_level().unwrap_or(0);
    if level.is_some_and(|level| level > highest) {
        return Err(usage_error(format!(
            "--compression-level is a number from 0 to {highest}"
        )));
    }
    Ok(Coding {
        compression,
        level,
        existing,
    })
}

/// What is told at the end, as docker tells it.
fn result(reference: &Reference, pushed: &Pushed, args: &Args) -> String {
    let manifest = &pushed.manifest;
    match (args.quiet, args.by_digest) {
        (true, true) => return format!("{}@{}\n", reference.repository(), manifest.digest),
        (true, false) => return format!("{reference}\n"),
        (false, _) => {}
    }
    let tag = reference
        .tag()
        .filter(|_| !args.by_digest && reference.digest().is_none());
    let tag = tag.unwrap_or("no tag");
    format!("{tag}: digest: {} size: {}\n", manifest.digest, manifest.size)
}

/// Shows an event of a push.
pub fn show(transfers: &Transfers, event: PushEvent) {
    match event {
        PushEvent::Begun(repository, layers) => {
            transfers.note(&format!("The push refers to repository [{repository}]"));
            transfers.announce(&layers, State::Idle("Preparing"));
        }
        PushEvent::Layer(digest, state) => {
            let state = match state {
                LayerState::Exists => State::Ended("Layer already exists"),
                LayerState::Mounted(_) => State::Ended("Mounted from another repository"),
                LayerState::Sent(bytes) => State::Moved("Pushing", bytes),
                LayerState::Done => State::Ended("Pushed"),
            };
            transfers.set(&digest, state);
        }
    }
}
