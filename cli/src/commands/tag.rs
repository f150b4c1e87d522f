//! `mica tag`.

use std::process::ExitCode;

use mica_builder::image::Image;
use mica_builder::reference::Reference;

use crate::config::Context;
use crate::diagnostic::usage_error;

/// Give an image another name
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica tag busybox registry.example.com/tools/busybox:1.36
  mica tag 4a7b0c app:v1 app:latest")]
pub struct Args {
    /// The image: a name, or an ID or its first digits
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new names; a name that another image has moves to this one
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Adds the names.
///
/// # Errors
/// If there is no such image, or a name is none; no name was added then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let names: Vec<Reference> = args
        .names
        .iter()
        .map(|name| taggable(name))
        .collect::<Result<_, _>>()?;
    let store = context.store()?;
    let image = Image::find(&store, &args.image)?;
    for name in names {
        store.tag(&name.to_string(), &image.manifest_digest)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads a name that an image is to be given.
///
/// # Errors
/// If it is none, or has a digest: that says itself what it names.
pub fn taggable(name: &str) -> anyhow::Result<Reference> {
    let reference = Reference::parse(name)?;
    match reference.digest() {
        Some(_) => Err(usage_error(format!(
            "{name:?} has a digest, which cannot be chosen: give a tag"
        ))),
        None => Ok(reference),
    }
}
