//! What went wrong, told on stderr: the error, its causes, and a hint at what to do next.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::CommandFactory as _;
use mica_builder::archive::{LoadError, SaveError};
use mica_builder::image::ImageError;
use mica_builder::import::{HostError, ImportError};
use mica_builder::ledger::find::FindError;
use mica_builder::look::place::PlaceError;
use mica_builder::reference::InvalidReference;
use mica_builder::rootfs::RootfsError;

use crate::args::{Cli, ColorChoice};

/// The exit status after the reader of our stdout went away: what a shell reports of a program that SIGPIPE ended.
pub const BROKEN_PIPE: u8 = 128 + 13;

/// The exit status of `run` when mica itself fails: what the command exits with goes up to 124 and from 126 on.
pub const RUN_FAILED: u8 = 125;

/// The exit status after arguments that make no sense.
const USAGE: u8 = 2;

static COLOR: OnceLock<ColorChoice> = OnceLock::new();

/// Settles whether colours are used, for the whole run of the program.
pub fn choose_color(choice: ColorChoice) {
    // A second call has nothing to change: there is one command line.
    let _ = COLOR.set(choice);
}

/// Whether colours are wanted on a stream that is, or is not, a terminal.
pub fn wants_color(is_terminal: bool) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    match COLOR.get().copied().unwrap_or(ColorChoice::Auto) {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => is_terminal && !no_color,
    }
}

/// Sends the log of the libraries to stderr.
///
/// # Errors
/// If a log was started before.
pub fn start_log(filter: tracing_subscriber::EnvFilter) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(wants_color(io::stderr().is_terminal()))
        .without_time()
        .try_init()
        .map_err(anyhow::Error::from_boxed)
}

/// Shows what clap has to say: help, the version, or what is wrong with the arguments.
pub fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be told to someone who closed stdout or stderr.
    let _ = error.print();
    match error.use_stderr() {
        true => usage_code().into(),
        false => ExitCode::SUCCESS,
    }
}

/// The exit status after wrong arguments: `run` leaves the small ones to the command that it runs, as docker-run(1)
/// does.
fn usage_code() -> u8 {
    let lenient = Cli::command().ignore_errors(true);
    let found = lenient.try_get_matches();
    match found.is_ok_and(|matches| matches.subcommand_name() == Some("run")) {
        true => RUN_FAILED,
        false => USAGE,
    }
}

/// Arguments that make no sense together: reported as usual, with exit status 2.
pub fn usage_error(message: impl Into<String>) -> anyhow::Error {
    UsageError(message.into()).into()
}

#[derive(Debug)]
struct UsageError(String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for UsageError {}

/// The exit status that an error asks for itself.
pub fn exit_code(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<Hinted>() {
        Some(hinted) => exit_code(&hinted.error),
        None => error.is::<UsageError>().then_some(USAGE),
    }
}

/// Adds to an error what its reader can do about it.
pub fn hint(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> anyhow::Error {
    Hinted {
        error: error.into(),
        hint: hint.into(),
    }
    .into()
}

/// An error with a hint; reads as the error itself.
#[derive(Debug)]
struct Hinted {
    error: anyhow::Error,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl Error for Hinted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

/// The reader of our stdout has gone away, as in `mica images | head -1`.
#[derive(Debug)]
pub struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads stdout any more")
    }
}

impl Error for StdoutClosed {}

/// Whether the program failed only because nobody reads its stdout any more.
pub fn is_stdout_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .is_some_and(|inner| inner.is::<StdoutClosed>())
    })
}

/// Writes a warning to stderr.
pub fn warn(text: &str) {
    let (yellow, reset) = match wants_color(io::stderr().is_terminal()) {
        true => ("\x1b[1;33m", "\x1b[0m"),
        false => ("", ""),
    };
    let line = format!("mica: {yellow}warning:{reset} {text}\n");
    // If stderr is closed there is nobody to tell.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Writes an error to stderr.
pub fn report(error: &anyhow::Error) {
    let color = wants_color(io::stderr().is_terminal());
    // If stderr is closed there is nobody to tell.
    let _ = io::stderr().lock().write_all(describe(error, color).as_bytes());
}

/// An error, its causes and the hint, as they are shown.
pub(crate) fn describe(error: &anyhow::Error, color: bool) -> String {
    let (red, cyan, reset) = match color {
        true => ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m"),
        false => ("", "", ""),
    };
    let mut text = format!("mica: {red}error:{reset} {error}\n");
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own text.
        if !last.ends_with(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
        }
        last = cause;
    }
    for line in find_hint(error).unwrap_or_default().lines() {
        text.push_str(&format!("  {cyan}hint:{reset} {line}\n"));
    }
    text
}

/// The hint of the first error in the chain that has one.
fn find_hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        if let Some(hinted) = cause.downcast_ref::<Hinted>() {
            return Some(hinted.hint.clone());
        }
        None.or_else(|| cause.downcast_ref::<ImageError>()?.hint())
            .or_else(|| cause.downcast_ref::<FindError>()?.hint())
            .or_else(|| cause.downcast_ref::<PlaceError>()?.hint())
            .or_else(|| cause.downcast_ref::<LoadError>()?.hint())
            .or_else(|| cause.downcast_ref::<SaveError>()?.hint())
            .or_else(|| cause.downcast_ref::<HostError>()?.hint())
            .or_else(|| cause.downcast_ref::<ImportError>()?.hint())
            .or_else(|| cause.downcast_ref::<InvalidReference>()?.hint())
            .or_else(|| cause.downcast_ref::<RootfsError>()?.remedy())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context as _, anyhow};

    #[test]
    fn causes_and_hint_follow_the_error() {
        let error = hint(anyhow!("it is gone").context("cannot read it"), "look elsewhere");
        let error = Err::<(), _>(error).context("cannot load").unwrap_err();
        assert_eq!(
            describe(&error, false),
            "mica: error: cannot load\n  caused by: cannot read it\n  caused by: it is gone\n  hint: look elsewhere\n"
        );
    }

    #[test]
    fn a_hint_does_not_change_the_exit_status() {
        assert_eq!(exit_code(&hint(usage_error("wrong"), "try another")), Some(USAGE));
        assert_eq!(exit_code(&hint(anyhow!("gone"), "look elsewhere")), None);
    }

    #[test]
    fn a_cause_that_was_told_is_not_told_again() {
        let error = anyhow!("no space").context("cannot write: no space");
        assert_eq!(describe(&error, false), "mica: error: cannot write: no space\n");
    }

    #[test]
    fn a_closed_stdout_is_no_failure_of_ours() {
        let closed = io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed);
        let error = Err::<(), _>(closed).context("cannot list").unwrap_err();
        assert!(is_stdout_closed(&error));
        assert!(!is_stdout_closed(
            &io::Error::from(io::ErrorKind::BrokenPipe).into()
        ));
    }
}
