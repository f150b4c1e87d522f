//! `mica diff`.

use std::io::Write as _;
use std::process::ExitCode;

use mica_builder::export::{self, Difference};
use mica_builder::image::Image;
use mica_fs::overlay::Overlay;
use mica_fs::store::Store;

use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::render::{Output, printable};

/// Show what each layer of an image changes, or how two images differ
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A is added, C is changed (type, mode, owner, content or attributes), D is deleted.\n\n\
Examples:
  mica diff app
  mica diff --layer 3 app
  mica diff app:v1 app:v2"
)]
pub struct Args {
    /// The image: a name, or an ID or its first digits
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The image to compare with: what it has more is added
    #[arg(value_name = "OTHER")]
    other: Option<String>,
    /// Only this layer; 1 is the lowest one
    #[arg(long, value_name = "N", conflicts_with = "other")]
    layer: Option<usize>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Writes one line for each difference.
///
/// # Errors
/// If there is no such image or layer.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let image = Image::find(&store, &args.image)?;
    let mut out = context.output();
    match &args.other {
        Some(other) => {
            let other = Image::find(&store, other)?;
            let (old, new) = (
                export::merged(&store, image.layers())?,
                export::merged(&store, other.layers())?,
            );
            compare(&old, &new, None, args.format, &mut out)?;
        }
        None => layers(&store, &image, &args, &mut out)?,
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn layers(store: &Store, image: &Image, args: &Args, out: &mut Output) -> anyhow::Result<()> {
    let count = image.layers().len();
    let wanted = match args.layer {
        Some(n) if (1..=count).contains(&n) => n..=n,
        Some(n) => {
            return Err(usage_error(format!(
                "there is no layer {n}: the image has {count}"
            )));
        }
        None => 1..=count,
    };
    for number in wanted {
        let (below, with) = (&image.layers()[..number - 1], &image.layers()[..number]);
        if args.layer.is_none() && args.format == Format::Table {
            writeln!(out, "layer {number} {}", image.layers()[number - 1])?;
        }
        let (old, new) = (export::merged(store, below)?, export::merged(store, with)?);
        compare(&old, &new, Some(number), args.format, out)?;
    }
    Ok(())
}

fn compare(
    old: &Overlay,
    new: &Overlay,
    layer: Option<usize>,
    format: Format,
    out: &mut Output,
) -> anyhow::Result<()> {
    let mut failed = None;
    export::compare(old, new, &mut |difference, path| {
        let letter = match difference {
            Difference::Added => 'A',
            Difference::Changed => 'C',
            Difference::Deleted => 'D',
        };
        let line = match format {
            Format::Table => format!("{letter} {}", printable(&path.to_string())),
            Format::Json => {
                serde_json::json!({"Layer": layer, "Kind": letter, "Path": path.to_string()}).to_string()
            }
        };
        if failed.is_none() {
            failed = writeln!(out, "{line}").err();
        }
        Ok(())
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}
