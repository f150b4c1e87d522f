//! `mica inspect`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use mica_builder::reference::Reference;
use mica_fs::store::Store;
use serde_json::{Value, json};

use crate::args::ObjectFormat;
use crate::config::Context;
use crate::source::Elsewhere;
use crate::source::Source;

/// Show all that is known of images, as JSON
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica inspect app
  mica inspect --format json app busybox    one object a line
  mica inspect -f '{{json .Config.Env}}' app")]
pub struct Args {
    /// The images: names, or IDs or their first digits
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// How to write it: an array for people (table), json (an object a line), or a template as Docker has it
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: ObjectFormat,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Writes one JSON object for each image, with the fields of `docker image inspect`.
///
/// # Errors
/// If an image is not there; those before it were shown.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut objects = Vec::new();
    let mut failed = None;
    for text in &args.images {
        let source = args.elsewhere.image(&store, text);
        match source.and_then(|source| describe(&store, &source)) {
            Ok(object) => objects.push(object),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let pretty = serde_json::to_string_pretty(&objects)?;
    let text = args
        .format
        .write(&objects, str::to_owned, || format!("{pretty}\n"))?;
    context.print(&text)?;
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn describe(store: &Store, source: &Source) -> anyhow::Result<Value> {
    let image = source.image();
    let names = names(store, source)?;
    let digests: BTreeSet<String> = names
        .iter()
        .map(|name| format!("{}@{}", name.familiar_repository(), image.manifest_digest))
        .collect();
    let config = &image.config;
    let last = config.history.last();
    Ok(json!({
        "Id": image.id(),
        "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "RepoDigests": digests,
        "Comment": last.and_then(|entry| entry.comment.clone()).unwrap_or_default(),
        "Created": config.created,
        "Author": config.author.clone().unwrap_or_default(),
        "Config": config.config,
        "Architecture": config.architecture,
        "Variant": config.variant.clone().unwrap_or_default(),
        "Os": config.os,
        "Size": source.sizes(store)?.iter().sum::<u64>(),
        "RootFS": { "Type": config.rootfs.kind, "Layers": config.rootfs.diff_ids },
        "Descriptor": { "mediaType": image.manifest.media_type(), "digest": image.manifest_digest },
    }))
}

/// What the image is called: in the store, or there where it is read.
fn names(store: &Store, source: &Source) -> anyhow::Result<Vec<Reference>> {
    let image = match source {
        Source::Stored(image) => image,
        Source::Remote(remote) => return Ok(vec![remote.reference().clone()]),
    };
    let records = store.images()?;
    let own = records
        .iter()
        .filter(|record| record.manifest == image.manifest_digest);
    Ok(own
        .flat_map(|record| &record.names)
        .filter_map(|name| Reference::parse(name).ok())
        .collect())
}
