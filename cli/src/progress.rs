//! The progress of a build on stderr: for a log line by line, for a terminal as a picture that is redrawn.

use std::io::IsTerminal as _;

use clap::ValueEnum;
use mica_builder::event::Event;
use mica_builder::pull::PullEvent;

use crate::diagnostic::warn;

pub mod plain;
mod pulling;
mod rawjson;
pub mod transfer;
mod tty;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// As a picture on a terminal, else line by line
    Auto,
    /// Line by line, with all output of the steps
    Plain,
    /// A picture that is redrawn, if stderr is a terminal
    Tty,
    /// Nothing but errors
    Quiet,
    /// A line of JSON for each event, as BuildKit has it
    #[value(name = "rawjson")]
    RawJson,
}

/// Draws a build's events. Ended by dropping it.
pub enum Progress {
    /// Line by line.
    Plain(plain::Plain),
    /// Redrawn.
    Tty(tty::Tty),
    /// As lines of JSON.
    RawJson(rawjson::RawJson),
    /// Not at all, but for what a step that fails has written.
    Quiet(plain::Tail),
}

impl Progress {
    /// Begins to show progress on stderr.
    pub fn start(style: Style) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        match style {
            Style::Tty | Style::Auto if is_terminal => Self::Tty(tty::Tty::start()),
            Style::RawJson => Self::RawJson(rawjson::RawJson::default()),
            Style::Tty | Style::Auto | Style::Plain => Self::Plain(plain::Plain::default()),
            Style::Quiet => Self::Quiet(plain::Tail::default()),
        }
    }

    /// Shows an event.
    pub fn show(&self, event: Event) {
        match self {
            Self::Plain(plain) => plain.show(event),
            Self::Tty(tty) => tty.show(event),
            Self::RawJson(json) => json.show(event),
            Self::Quiet(tail) => tail.show(event),
        }
    }

    /// Shows what happens to an image that the build needs.
    pub fn pull(&self, event: PullEvent) {
        match (self, event) {
            (Self::Quiet(_), PullEvent::Warning(text)) => warn(&text),
            (_, PullEvent::Warning(text)) => self.note(&format!("warning: {text}")),
            (Self::Plain(plain), event) => plain.pull(event),
            (Self::Tty(tty), event) => tty.pull(event),
            (Self::RawJson(json), event) => json.pull(event),
            (Self::Quiet(_), _) => {}
        }
    }

    /// Leaves the terminal to somebody else, or takes it again. Nothing must be shown meanwhile.
    pub fn pause(&self, pause: bool) {
        if let Self::Tty(tty) = self {
            tty.pause(pause);
        }
    }

    /// Shows a line about the build as a whole, at its end.
    pub fn note(&self, text: &str) {
        match self {
            Self::Plain(_) => plain::write(&format!("{text}\n")),
            Self::Tty(tty) => tty.note(text),
            Self::RawJson(json) => json.note(text),
            Self::Quiet(_) => {}
        }
    }
}
