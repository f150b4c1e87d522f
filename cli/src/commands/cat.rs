//! `mica cat`.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mica_builder::export;
use mica_fs::layer::Kind;
use mica_fs::overlay::Follow;

use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::location;
use crate::source::Elsewhere;

/// Write files of an image to stdout, without a mount
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica cat busybox /etc/passwd\n  mica cat busybox:/etc/passwd")]
pub struct Args {
    /// The image: a name, or an ID or its first digits; IMAGE:/PATH is understood as well
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The files
    #[arg(value_name = "PATH")]
    paths: Vec<String>,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Writes the files one after the other; symbolic links are followed inside the image.
///
/// # Errors
/// If there is no such image, or a path is no file.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (image, first) = match location::split(&args.image) {
        Some((image, path)) if args.paths.is_empty() => (image, Some(path)),
        _ => (args.image.as_str(), None),
    };
    if args.paths.is_empty() && first.is_none() {
        return Err(usage_error("which file? Give a PATH behind the image"));
    }
    let store = context.store()?;
    let texts = first.into_iter().chain(args.paths.iter().map(String::as_str));
    let paths = texts.map(|text| Ok((location::path(text)?, Follow::Yes)));
    let paths = paths.collect::<anyhow::Result<Vec<_>>>()?;
    let overlay = location::open(&store, (image, &args.elsewhere), &paths)?;
    let mut out = context.output();
    for (path, _) in &paths {
        let attr = location::resolve(&overlay, path, Follow::Yes)?;
        if attr.kind != Kind::File {
            bail!("{path} in the image is no regular file");
        }
        io::copy(&mut export::content(&overlay, &attr), &mut out)
            .with_context(|| format!("cannot write {path}"))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
