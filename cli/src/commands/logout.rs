//! `mica logout`.

use std::process::ExitCode;

use crate::commands::build::with_hint;
use crate::commands::login::host;
use crate::config::Context;
use crate::registries::Options;

/// Log out of a registry
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica logout\n  mica logout registry.example.com:5000")]
pub struct Args {
    #[command(flatten)]
    registry: Options,

    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    server: String,
}

/// Forgets the credentials of a registry, wherever they are kept.
///
/// # Errors
/// If a file or a program that keeps them fails.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let registry = host(&args.server)?;
    let settings = args.registry.settings()?;
    let found = settings.credentials.forget(&registry);
    let text = match found.map_err(|e| with_hint(e.hint(), e))? {
        true => format!("Removing login credentials for {registry}\n"),
        false => format!("Not logged in to {registry}\n"),
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}
