//! `HEALTHCHECK` and its flags.

use std::time::Duration;

use super::flags::{FlagKind, Flags, Known};
use super::instruction::{Command, Healthcheck, HealthcheckTiming};
use super::interpret::{args_error, form};
use super::nodes::{Node, Word};
use super::source::ParseError;
use super::values::parse_duration;

const FLAGS: Known = &[
    ("interval", FlagKind::Value),
    ("timeout", FlagKind::Value),
    ("start-period", FlagKind::Value),
    ("start-interval", FlagKind::Value),
    ("retries", FlagKind::Value),
];

pub(super) fn healthcheck(node: &Node) -> Result<Healthcheck, ParseError> {
    let Some((kind, words)) = node.args.words().split_first() else {
        return Err(args_error(node, "HEALTHCHECK requires at least one argument"));
    };
    let name = kind.text.to_uppercase();
    if name == "NONE" {
        return match words {
            [] => Ok(Healthcheck::None),
            _ => Err(args_error(node, "HEALTHCHECK NONE takes no arguments")),
        };
    }
    let flags = Flags::read(node, FLAGS)?;
    if name != "CMD" {
        let message = format!("Unknown type {name:?} in HEALTHCHECK (try CMD)");
        return Err(ParseError::new(kind.span, message)
            .with_hint("write HEALTHCHECK CMD COMMAND, or HEALTHCHECK NONE"));
    }
    let command = match form(&node.args, words, node) {
        Command::Exec(args) if args.is_empty() => None,
        Command::Shell(text) if text.text.is_empty() => None,
        command => Some(command),
    };
    let Some(command) = command else {
        return Err(args_error(node, "Missing command after HEALTHCHECK CMD"));
    };
    let timing = HealthcheckTiming {
        interval: duration(&flags, "interval")?,
        timeout: duration(&flags, "timeout")?,
        start_period: duration(&flags, "start-period")?,
        start_interval: duration(&flags, "start-interval")?,
        retries: flags.text("retries").map_or(Ok(0), |word| retries(&word))?,
    };
    Ok(Healthcheck::Cmd { command, timing })
}

/// The value of a flag as a duration; Docker takes 0 for "not given" and refuses the odd microsecond.
fn duration(flags: &Flags, name: &str) -> Result<Option<Duration>, ParseError> {
    let Some(word) = flags.text(name) else {
        return Ok(None);
    };
    let error = |message: String| ParseError::new(word.span, message);
    let duration = parse_duration(&word.text)
        .map_err(|e| error(format!("--{name}: {e}")).with_hint("e.g. 30s or 1m30s"))?;
    if duration.is_zero() {
        return Ok(None);
    }
    if duration < Duration::from_millis(1) {
        return Err(error(format!("Interval {name:?} cannot be less than 1ms")));
    }
    Ok(Some(duration))
}

fn retries(word: &Word) -> Result<u32, ParseError> {
    let error = |message: String| ParseError::new(word.span, message);
    match word.text.parse::<i32>() {
        Ok(retries) => {
            u32::try_from(retries).map_err(|_| error(format!("--retries cannot be negative ({retries})")))
        }
        Err(_) => Err(error(format!("--retries: invalid number {:?}", word.text))),
    }
}
