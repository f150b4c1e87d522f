//! `mica load`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use mica_builder::archive::{self, Input};

use crate::config::Context;
use crate::diagnostic::{hint, usage_error};

/// Load images from an archive
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Reads docker-archives, OCI archives and OCI image layouts (directories), plain or compressed\n\
by gzip, bzip2, xz or zstd.\n\n\
Examples:
  mica load -i busybox.tar
  docker save app | mica load
  curl -sL https://example.com/app.tar.zst | mica load"
)]
pub struct Args {
    /// The archive, or the directory of an OCI image layout; stdin without it
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Don't say what was loaded
    #[arg(long, short)]
    quiet: bool,
}

/// Loads the archive and says which images it had.
///
/// # Errors
/// If the archive is damaged or holds nothing for this machine; nothing was loaded then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let stdin = io::stdin();
    if args.input.is_none() && stdin.is_terminal() {
        return Err(hint(
            usage_error("there is no archive"),
            "give --input FILE, or redirect stdin",
        ));
    }
    let store = context.store()?;
    let loaded = match &args.input {
        Some(path) if path.as_os_str() != "-" => archive::load(&store, Input::Path(path)),
        _ => archive::load(&store, Input::Stream(&mut stdin.lock())),
    }?;
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for loaded in loaded {
        for name in &loaded.names {
            text.push_str(&format!("Loaded image: {}\n", name.familiar()));
        }
        if loaded.names.is_empty() {
            text.push_str(&format!("Loaded image ID: {}\n", loaded.image.id()));
        }
    }
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}
