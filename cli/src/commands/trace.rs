//! `mica trace`: what a step read, wrote, and looked for in vain.

use std::fmt::Write as _;
use std::process::ExitCode;

use mica_builder::ledger::find;
use mica_builder::why::report::{self, Amount, Report, Suggestion};

use crate::args::Format;
use crate::commands::build::with_hint;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::render::{self, printable};

/// How many paths of a kind are shown without --paths.
const SHOWN: usize = 10;

/// Show what a step of a build read, wrote, and looked for in vain
///
/// Says how much of the base and of the steps before it the step needs, which directories made it depend on much, and
/// what would help: a cache mount, another order, lines for .dockerignore.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica trace app 4                  the fourth step of the last build of app
  mica trace app@build:3
  mica trace --paths app 4          with all paths
  mica trace --format json app 4")]
pub struct Args {
    /// The build: an image, or build-N; BUILD@STEP is understood as well
    #[arg(value_name = "BUILD|IMAGE")]
    build: String,
    /// The step: its number as the build shows it, the name of a stage, or STAGE:N
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// Show all paths
    #[arg(long)]
    paths: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Reports on the step.
///
/// # Errors
/// If there is no such step, or it was not recorded what it read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (build, step) = match (find::split(&args.build), &args.step) {
        (Some(parts), None) => parts,
        (None, Some(step)) => (args.build.as_str(), step.as_str()),
        (Some(_), Some(_)) => return Err(usage_error("which step? Two are named")),
        (None, None) => return Err(usage_error("which step? Give a STEP behind the image")),
    };
    let store = context.store()?;
    let found = find::step(&store, build, step)?;
    let report = report::report(&store, (found.id, &found.record), found.step())
        .map_err(|error| with_hint(error.hint(), error))?;
    let text = match args.format {
        Format::Table => render(&report, if args.paths { usize::MAX } else { SHOWN }),
        Format::Json => format!("{}\n", serde_json::to_string(&report)?),
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn render(report: &Report, shown: usize) -> String {
    let mut text = format!("{} of {}\n", printable(&report.title), report.build);
    // Writing to a text cannot fail.
    let _ = writeln!(
        text,
        "  read {} of {} below it; looked at {} paths",
        amount(report.read),
        amount(report.below),
        report.looked_at
    );
    for need in &report.needs {
        let from = need.step.as_deref().unwrap_or("the base");
        let _ = writeln!(text, "    {} of {}", amount(need.read), printable(from));
    }
    let _ = writeln!(
        text,
        "  wrote {}, removed {} names",
        amount(report.wrote),
        report.removed
    );
    for (what, paths) in [
        ("read", &report.files),
        ("listed", &report.listed),
        ("looked in vain for", &report.absent),
    ] {
        text.push_str(&list(what, paths, shown));
    }
    for broad in &report.broad {
        let _ = writeln!(
            text,
            "  {} paths that it looked at lie below {}, which it listed",
            broad.paths,
            printable(&broad.directory)
        );
    }
    for suggestion in &report.suggestions {
        let _ = writeln!(text, "  suggestion: {}", printable(&self::suggestion(suggestion)));
    }
    text
}

fn list(what: &str, paths: &[String], shown: usize) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let mut text = format!("  {what} {}:\n", paths.len());
    for path in paths.iter().take(shown) {
        text.push_str(&format!("    {}\n", printable(path)));
    }
    if paths.len() > shown {
        text.push_str(&format!("    ... and {} more (--paths)\n", paths.len() - shown));
    }
    text
}

fn amount(amount: Amount) -> String {
    let files = if amount.files == 1 { "file" } else { "files" };
    format!("{} {files} ({})", amount.files, render::size(amount.bytes))
}

fn suggestion(suggestion: &Suggestion) -> String {
    match suggestion {
        Suggestion::CacheMount { directory, bytes } => format!(
            "it left {} in {directory}: RUN --mount=type=cache,target={directory} keeps that out of the image",
            render::size(*bytes)
        ),
        Suggestion::Order { before } => {
            format!(
                "it looked at nothing that {before} gave: before that, it would stay cached in any builder"
            )
        }
        Suggestion::Ignore {
            pattern,
            files,
            in_image,
        } => {
            let unless = if *in_image {
                ", if the image does not need it when it runs"
            } else {
                ""
            };
            format!(
                "no RUN read {pattern} of the build context ({files} files): a line of .dockerignore{unless}"
            )
        }
    }
}
