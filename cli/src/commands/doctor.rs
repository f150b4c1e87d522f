//! `mica doctor`.

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use mica_builder::sandbox::doctor::{Check, Way, ways};

use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::wants_color;

/// Say what this machine lacks for each way of working, and how to mend it
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 if something is missing, but for what only some options need.\n\nExamples:\n  mica doctor\n  mica doctor --format json"
)]
pub struct Args {
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Writes what was found, with the command that mends it beside each thing that is missing.
///
/// # Errors
/// If stdout cannot be written.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let ways = ways();
    let color = wants_color(io::stdout().is_terminal());
    let text: String = match args.format {
        Format::Table => ways
            .iter()
            .map(|way| table(way, color))
            .collect::<Vec<_>>()
            .join("\n"),
        Format::Json => ways
            .iter()
            .flat_map(|way| way.checks.iter().map(|check| json(way, check)))
            .collect(),
    };
    context.print(&text)?;
    match ways.iter().all(|way| way.is_open() || way.options.is_some()) {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

fn table(way: &Way, color: bool) -> String {
    let width = way.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let verdict = match (way.is_open(), way.options) {
        (true, _) => "works".to_owned(),
        (false, None) => "lacks something".to_owned(),
        (false, Some(options)) => format!("lacks something, which only {options} needs"),
    };
    let checks: String = way
        .checks
        .iter()
        .map(|check| describe(check, width, color))
        .collect();
    format!("{}: {verdict}\n{checks}", way.name)
}

fn describe(check: &Check, width: usize, color: bool) -> String {
    let (mark, on, off) = match (check.ok, color) {
        (true, true) => ("ok", "\x1b[32m", "\x1b[0m"),
        (false, true) => ("missing", "\x1b[31m", "\x1b[0m"),
        (true, false) => ("ok", "", ""),
        (false, false) => ("missing", "", ""),
    };
    let mut text = format!("  {on}{mark:8}{off}{:width$}   {}\n", check.name, check.detail);
    if let Some(remedy) = &check.remedy {
        text.push_str(&format!("  {:8}{:width$}   mend it with: {remedy}\n", "", ""));
    }
    text
}

fn json(way: &Way, check: &Check) -> String {
    let object = serde_json::json!({
        "Way": way.name,
        "Options": way.options,
        "Name": check.name,
        "Ok": check.ok,
        "Detail": check.detail,
        "Remedy": check.remedy,
    });
    format!("{object}\n")
}
