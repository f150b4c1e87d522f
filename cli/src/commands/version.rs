//! `mica version`.

use std::process::ExitCode;

use crate::args::Format;
use crate::config::Context;

/// Show mica's version
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica version\n  mica version --format json")]
pub struct Args {
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Writes the version, the target and the store's root.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let version = env!("CARGO_PKG_VERSION");
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let text = match args.format {
        Format::Table => format!(
            "mica {version}\nplatform  {os}/{arch}\nroot      {}\n",
            context.root().display()
        ),
        Format::Json => {
            let value = serde_json::json!({
                "Version": version,
                "Os": os,
                "Arch": arch,
                "Root": context.root().to_string_lossy(),
            });
            format!("{value}\n")
        }
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}
