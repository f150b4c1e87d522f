//! `mica why`: why steps of a build were executed again.

use std::fmt::Write as _;
use std::process::ExitCode;

use mica_builder::ledger::sources::Change;
use mica_builder::ledger::{self, BuildId, BuildRecord, Ledger, StepOutcome, find};
use mica_builder::why::{self, By, Explained, Explanation, Fate, Reason};

use mica_fs::store::Store;

use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::progress::plain;
use crate::render::{Created, Table, printable};

/// Say why steps of a build were executed again
///
/// For every step: whether it was executed or taken from the cache, and the reason: which words of the instruction,
/// which variable, which base, which files that it copied or read changed since the build before, and who changed them;
/// and what changed but was not read.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica why                     the last build
  mica why app                 the last build of the image
  mica why app 4               its fourth step alone
  mica why build-12 --format json
  mica why --list              the builds that are known")]
pub struct Args {
    /// The build: an image, or build-N [default: the last one]
    #[arg(value_name = "BUILD|IMAGE", default_value = "", hide_default_value = true)]
    build: String,
    /// Only this step: its number, the name of a stage, or STAGE:N
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// List the builds that are known
    #[arg(long, conflicts_with_all = ["build", "step"])]
    list: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Explains a build.
///
/// # Errors
/// If no such build or step is known, or the store cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    if args.list {
        let fate = |(id, record)| (Fate::of(&store, id, &record), id, record);
        let builds: Vec<_> = ledger::newest_first(&store)?.map(fate).collect();
        context.print(&list(&builds, args.format))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (build, step) = match (find::split(&args.build), &args.step) {
        (Some(_), Some(_)) => return Err(usage_error("which step? Two are named")),
        (Some((build, step)), None) => (build, Some(step)),
        (None, step) => (args.build.as_str(), step.as_deref()),
    };
    let (id, record) = find::build(&store, build)?;
    let mut explanation = why::explain(&store, id, &record)?;
    if let Some(step) = step {
        let number = find::step(&store, &id.to_string(), step)?.step().number();
        explanation
            .steps
            .retain(|explained| Some(explained.number) == number);
    }
    let text = match args.format {
        Format::Table => render(&explanation),
        Format::Json => format!("{}\n", serde_json::to_string(&explanation)?),
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn list(builds: &[(Fate, BuildId, BuildRecord)], format: Format) -> String {
    let mut table = Table::new(["BUILD", "CREATED", "RESULT", "NAMES", "DOCKERFILE", "CONTEXT"]);
    let mut lines = String::new();
    for (fate, id, record) in builds {
        let result = word(*fate);
        let about = &record.about;
        match format {
            Format::Table => {
                let created = Created::parse(Some(&record.started)).ago();
                let names = about.names.join(", ");
                let texts = [names, about.dockerfile.clone(), about.context.clone()];
                let [names, dockerfile, context] = texts.map(|text| printable(&text));
                table.row([
                    id.to_string(),
                    created,
                    result.to_owned(),
                    names,
                    dockerfile,
                    context,
                ]);
            }
            Format::Json => {
                let object = serde_json::json!({
                    "Build": id.to_string(),
                    "CreatedAt": record.started,
                    "Result": result,
                    "Names": about.names,
                    "Dockerfile": about.dockerfile,
                    "Context": about.context,
                });
                lines.push_str(&format!("{object}\n"));
            }
        }
    }
    match format {
        Format::Table => table.to_string(),
        Format::Json => lines,
    }
}

fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Built => "built",
        Fate::Failed => "failed",
        Fate::Stopped => "stopped",
        Fate::Killed => "killed",
        Fate::AtWork => "at work",
    }
}

/// Explains the build that has just ended, on stderr.
///
/// # Errors
/// If the store cannot be read.
pub fn after_build(store: &Store, ledger: &Ledger<'_>) -> anyhow::Result<()> {
    if let (Some(id), record) = ledger.record() {
        plain::write(&render(&why::explain(store, id, &record)?));
    }
    Ok(())
}

/// An explanation for people.
fn render(explanation: &Explanation) -> String {
    let mut text = explanation.build.clone();
    match explanation.result {
        Fate::Killed => text.push_str(", which was killed"),
        Fate::AtWork => text.push_str(", which is at work still"),
        Fate::Built | Fate::Failed | Fate::Stopped => {}
    }
    match explanation.compared_with.as_slice() {
        [] => text.push_str(": there is none before it to compare with\n"),
        builds => text.push_str(&format!(" compared with {}\n", builds.join(", "))),
    }
    for step in &explanation.steps {
        text.push_str(&of_step(step, explanation.result));
    }
    text
}

/// How far the reasons stand to the right, under the instruction.
const INDENT: &str = "               ";

fn of_step(step: &Explained, fate: Fate) -> String {
    let outcome = match step.outcome {
        StepOutcome::Pending => "not begun",
        StepOutcome::Cached => "CACHED",
        StepOutcome::Unchanged => "UNCHANGED",
        StepOutcome::Ran => "RAN",
        StepOutcome::Failed => "FAILED",
        StepOutcome::Canceled => "CANCELED",
        StepOutcome::AtWork if fate == Fate::AtWork => "AT WORK",
        StepOutcome::AtWork => "KILLED",
    };
    let mut text = format!(
        "{:>3} {outcome:<10} {}\n",
        format!("#{}", step.number),
        printable(&step.title)
    );
    for reason in &step.reasons {
        // Writing to a text cannot fail.
        let _ = writeln!(text, "{INDENT}{}", printable(&self::reason(reason)));
    }
    if step.cut_off {
        let _ = writeln!(
            text,
            "{INDENT}it gave what it had given before: the steps after it find what they know"
        );
    }
    if step.verified {
        let _ = writeln!(text, "{INDENT}executed again for comparison: the cache is right");
    }
    if let Some(unread) = &step.unread {
        let files = match unread.count {
            1 => "1 other file changed below it and was not read",
            _ => "other files changed below it and were not read",
        };
        let count = if unread.count == 1 {
            String::new()
        } else {
            format!("{} ", unread.count)
        };
        let more = if unread.count > unread.examples.len() {
            "..."
        } else {
            ""
        };
        let line = format!("{count}{files}: {}{more}", unread.examples.join(", "));
        let _ = writeln!(text, "{INDENT}{}", printable(&line));
    }
    text
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::NotAsked => "the cache was not to be asked (--no-cache)".to_owned(),
        Reason::FirstBuild => "no earlier build of this Dockerfile with this context is known".to_owned(),
        Reason::NewStep => "the build before had no such step".to_owned(),
        Reason::Instruction { before, after } => match (before.as_str(), after.as_str()) {
            ("", after) => format!("the instruction has more words: {after:?}"),
            (before, "") => format!("the instruction lost words: {before:?}"),
            (before, after) => format!("the instruction changed: {before:?} is now {after:?}"),
        },
        Reason::Variable { name, before, after } => match (before, after) {
            (None, Some(after)) => format!("the variable {name} is new: {after:?}"),
            (Some(before), None) => format!("the variable {name} is gone; it was {before:?}"),
            (before, after) if before == after => format!("the variable {name} changed"),
            (before, after) => format!(
                "the variable {name} changed: {:?} is now {:?}",
                before.as_deref().unwrap_or_default(),
                after.as_deref().unwrap_or_default()
            ),
        },
        Reason::Setting { name, before, after } => format!("{name} changed: {before} is now {after}"),
        Reason::Source { place, path, change } => format!("{path} in {place}: {}", change_word(*change)),
        Reason::MoreSources { count } | Reason::MoreReads { count } => format!("... and {count} more"),
        Reason::Sources { place } => format!("what it takes from {place} changed"),
        Reason::Base { before, after } => match (before, after) {
            (Some(before), Some(after)) => {
                format!(
                    "the base image changed: {} is now {}",
                    before.short(),
                    after.short()
                )
            }
            _ => "the base changed".to_owned(),
        },
        Reason::Read {
            path,
            aspect,
            names,
            by,
        } => {
            let what = match *aspect {
                "appeared" => format!("it looked for {path}, which is there now"),
                "vanished" => format!("it read {path}, which is gone"),
                "listing" if names.is_empty() => format!("it listed {path}, which has other names in it"),
                "listing" => format!("it listed {path}, where names came or went: {}", names.join(", ")),
                aspect => format!("it read {path}, whose {aspect} changed"),
            };
            format!("{what}{}", by.as_ref().map(changed_by).unwrap_or_default())
        }
        Reason::Below { by } => {
            let by = by.as_ref().map(changed_by).unwrap_or_default();
            format!("the files below it changed{by}; what it reads of them is not known")
        }
        Reason::Meaning => "a user or group that it names is another one in the image".to_owned(),
        Reason::FailedBefore => "nothing changed, but it was not completed then".to_owned(),
        Reason::WrongHit { paths } => format!(
            "the cache has another result than the step gives when it is executed: {}",
            paths.join(", ")
        ),
        Reason::Gone => "nothing changed, but its result is no longer in the cache".to_owned(),
    }
}

fn change_word(change: Change) -> &'static str {
    match change {
        Change::Added => "new",
        Change::Removed => "gone",
        Change::Kind => "type changed",
        Change::Content => "content changed",
        Change::Mode => "mode changed",
        Change::Owner => "owner changed",
    }
}

fn changed_by(by: &By) -> String {
    match by {
        By::Base => ": by the base".to_owned(),
        By::Step {
            number,
            title,
            source,
        } => {
            let number = number.map(|number| format!("#{number} ")).unwrap_or_default();
            let source = source
                .as_ref()
                .map(|source| format!(" from {source}"))
                .unwrap_or_default();
            format!(": by {number}{title}{source}")
        }
    }
}
