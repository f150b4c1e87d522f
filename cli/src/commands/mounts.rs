//! `mica mounts`: what is mounted.

use std::io::Write as _;
use std::process::ExitCode;

use super::mount::record::{self, Record};
use crate::args::Format;
use crate::config::Context;
use crate::render::{Created, Table};

/// List the mounted images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica mounts\n  mica mounts --format json")]
pub struct Args {
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Lists the mounts of this store, oldest first.
///
/// # Errors
/// If the store cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let records = record::mounted(context)?.into_iter().map(|found| found.record);
    let mut output = context.output();
    match args.format {
        Format::Table => {
            let mut table = Table::new(["IMAGE", "DIRECTORY", "MODE", "UPPER", "PID", "SINCE"]);
            for record in records {
                table.row(cells(&record));
            }
            write!(output, "{table}")?;
        }
        Format::Json => {
            for record in records {
                writeln!(output, "{}", json(&record))?;
            }
        }
    }
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn mode(record: &Record) -> &'static str {
    match record.writable {
        true => "rw",
        false => "ro",
    }
}

/// In RFC 3339.
fn since(record: &Record) -> String {
    jiff::Timestamp::from_second(record.since)
        .unwrap_or_default()
        .to_string()
}

fn cells(record: &Record) -> [String; 6] {
    [
        record.image.clone(),
        record.directory.display().to_string(),
        mode(record).to_owned(),
        record.upper.clone().unwrap_or_default(),
        record.pid.to_string(),
        Created::parse(Some(&since(record))).ago(),
    ]
}

fn json(record: &Record) -> serde_json::Value {
    serde_json::json!({
        "Image": record.image,
        "Digest": record.manifest,
        "Directory": record.directory.to_string_lossy(),
        "Mode": mode(record),
        "Upper": record.upper,
        "Pid": record.pid,
        "Since": since(record),
    })
}
