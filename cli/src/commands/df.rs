//! `mica df`.

use std::process::ExitCode;

use mica_fs::store::{Space, Usage};

use crate::args::Format;
use crate::config::Context;
use crate::render::{self, Table};

/// Show what takes room on disk
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica df\n  mica df --format json")]
pub struct Args {
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Writes the sizes of the parts of the store.
///
/// # Errors
/// If the store cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let usage = context.store()?.usage()?;
    let text = match args.format {
        Format::Table => table(&usage),
        Format::Json => parts(&usage)
            .iter()
            .map(|(name, space)| json(name, space))
            .collect(),
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn parts(usage: &Usage) -> [(&'static str, Space); 8] {
    [
        ("Layers", usage.layers),
        ("Blobs", usage.blobs),
        ("Cache records", usage.cache),
        ("Cache mounts", usage.cache_mounts),
        ("Uppers", usage.uppers),
        ("Records of builds", usage.builds),
        ("Read from registries", usage.remote),
        ("Work in progress", usage.work),
    ]
}

fn table(usage: &Usage) -> String {
    let mut table = Table::new(["TYPE", "TOTAL", "SIZE"]);
    table.row(["Images".to_owned(), usage.images.to_string(), "-".to_owned()]);
    for (name, space) in parts(usage) {
        table.row([
            name.to_owned(),
            space.count.to_string(),
            render::size(space.bytes),
        ]);
    }
    table.to_string()
}

fn json(name: &str, space: &Space) -> String {
    let object = serde_json::json!({
        "Type": name,
        "TotalCount": space.count,
        "Size": render::size(space.bytes),
        "SizeBytes": space.bytes,
    });
    format!("{object}\n")
}
