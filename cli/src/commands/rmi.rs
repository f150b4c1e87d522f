//! `mica rmi`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::bail;
use mica_builder::image::{Image, Selected};
use mica_builder::reference::Reference;
use mica_fs::digest::Digest;
use mica_fs::store::Store;

use crate::config::Context;
use crate::diagnostic;

/// Remove images, or names of images
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Given a name, the name is removed, and with its last name the image.\n\
Layers stay on disk for the build cache until `mica prune`.\n\n\
Examples:
  mica rmi app:v1
  mica rmi -f 4a7b0c
  mica rmi $(mica images -q --filter dangling=true)"
)]
pub struct Args {
    /// The images: names, or IDs or their first digits
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove an image by its ID although it has several names; don't mind images that are not there
    #[arg(long, short)]
    force: bool,
}

/// Removes the images one by one.
///
/// # Errors
/// The first one's that could not be removed; the others were removed all the same.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut failed = None;
    for text in &args.images {
        match remove(&store, text, args.force) {
            Ok(report) => context.print(&report)?,
            Err(error) => match failed {
                None => failed = Some(error),
                Some(_) => diagnostic::report(&error),
            },
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn remove(store: &Store, text: &str, force: bool) -> anyhow::Result<String> {
    let (image, selected) = match Image::select(store, text) {
        Err(mica_builder::image::ImageError::Unknown { .. }) if force => return Ok(String::new()),
        found => found?,
    };
    let names = names_of(store, &image.manifest_digest)?;
    let (untag, delete) = match selected {
        Selected::Name(name) => {
            let is_last = names.iter().all(|other| *other == name);
            (vec![name], is_last)
        }
        Selected::Id => {
            let repositories: BTreeSet<String> = names
                .iter()
                .filter_map(|name| Reference::parse(name).ok())
                .map(|name| name.repository())
                .collect();
            if repositories.len() > 1 && !force {
                let error = format!(
                    "cannot remove {}: the image has names in several repositories: {}",
                    image.id().short(),
                    names
                        .iter()
                        .map(|name| familiar(name))
                        .collect::<Vec<_>>()
                        .join(", ")
                );
                return Err(diagnostic::hint(
                    anyhow::anyhow!(error),
                    "remove it with -f, or remove its names one by one",
                ));
            }
            (names, true)
        }
    };
    let mut report = String::new();
    for name in untag {
        if store.untag(&name)? {
            report.push_str(&format!("Untagged: {}\n", familiar(&name)));
        }
    }
    if delete {
        store.remove_image(&image.manifest_digest)?;
        report.push_str(&format!("Deleted: {}\n", image.id()));
    }
    if report.is_empty() {
        bail!("{text} was removed by another process");
    }
    Ok(report)
}

fn names_of(store: &Store, manifest: &Digest) -> anyhow::Result<Vec<String>> {
    let records = store.images()?;
    Ok(records
        .into_iter()
        .find(|record| record.manifest == *manifest)
        .map(|record| record.names)
        .unwrap_or_default())
}

fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}
