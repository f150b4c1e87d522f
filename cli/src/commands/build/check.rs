//! What the linter found, as it is shown: by `--check`, and at the end of a build.

use mica_builder::dockerfile::{Dockerfile, ParseError};
use mica_builder::lint::Warning;
use mica_builder::plan::{self, Request};
use serde_json::{Value, json};

use super::call::{base64, location};
use super::dockerfile::DockerfileSource;

/// What a check found.
pub(super) struct Report {
    pub warnings: Vec<Warning>,
    /// What would make a build fail.
    pub error: Option<ParseError>,
}

/// The text of `--check`: each warning with its line. The error is shown as every error is.
pub(super) fn text(report: &Report, source: &DockerfileSource) -> String {
    let mut text = match report.warnings.len() {
        0 if report.error.is_some() => String::new(),
        0 => "Check complete, no warnings found.\n".to_owned(),
        1 => "Check complete, 1 warning has been found!\n".to_owned(),
        n => format!("Check complete, {n} warnings have been found!\n"),
    };
    for warning in &report.warnings {
        let name = warning.rule.name();
        let mut shown = warning.as_error();
        shown.message.clone_from(&warning.detail);
        text.push_str(&format!(
            "\nWARNING: {name}\n{}\n",
            shown.render(&source.name, &source.text)
        ));
    }
    text
}

/// The same in the form that buildx has, with the place of the words besides.
pub(super) fn json(report: &Report, source: &DockerfileSource) -> Value {
    let warning = |warning: &Warning| {
        let start = warning.span.start;
        let mut shown = json!({
            "ruleName": warning.rule.name(),
            "description": warning.rule.description(),
            "detail": warning.detail,
            "location": location(warning.instruction),
            "position": { "line": start.line, "column": start.column },
        });
        if let Some(hint) = &warning.hint {
            shown["hint"] = json!(hint);
        }
        shown
    };
    let mut value = json!({
        "warnings": report.warnings.iter().map(warning).collect::<Vec<_>>(),
        "sources": [{ "filename": source.name, "language": "Dockerfile", "data": base64(&source.text) }],
    });
    if let Some(error) = &report.error {
        value["buildError"] = json!({ "message": error.message, "location": location(error.span) });
    }
    value
}

/// A line for each build argument that does nothing.
pub(super) fn unknown_arguments(dockerfile: &Dockerfile, request: &Request) -> Vec<String> {
    let line = |(name, meant): (&str, Option<&str>)| {
        let meant = meant.map(|meant| format!(" (did you mean {meant}?)"));
        format!(
            "--build-arg {name}: no ARG declares it{}",
            meant.unwrap_or_default()
        )
    };
    plan::unknown_arguments(dockerfile, request)
        .into_iter()
        .map(line)
        .collect()
}

/// The lines at the end of a build, if there is something to say.
pub(super) fn summary(warnings: &[Warning]) -> Option<String> {
    let mut text = match warnings.len() {
        0 => return None,
        1 => "1 warning found:".to_owned(),
        n => format!("{n} warnings found:"),
    };
    for warning in warnings {
        let start = warning.span.start;
        text.push_str(&format!(
            "\n - {}: {} (line {}, column {})",
            warning.rule.name(),
            warning.detail,
            start.line,
            start.column
        ));
    }
    Some(text)
}
