//! `--call`: what is asked of a Dockerfile instead of a build.

use std::collections::BTreeMap;
use std::process::ExitCode;

use mica_builder::build::StoreImages;
use mica_builder::dockerfile::{Dockerfile, ParseError, Span};
use mica_builder::lint::Linter;
use mica_builder::origin::BuildContext;
use mica_builder::outline::{self, Outline, Target};
use mica_builder::plan::{self, Request};
use mica_fs::store::Store;
use serde_json::{Value, json};

use super::check::{self, Report};
use super::dockerfile::DockerfileSource;
use crate::config::Context;
use crate::diagnostic::usage_error;

/// What is asked, and how the answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    method: Method,
    json: bool,
    ignore_status: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
}

impl Call {
    /// `--check`.
    pub(super) const CHECK: Self = Self {
        method: Method::Check,
        json: false,
        ignore_status: false,
    };

    /// Reads `METHOD[,format=text|json][,ignorestatus=true]`; `None` for the method `build`.
    ///
    /// # Errors
    /// If it is not of that form.
    pub(super) fn parse(text: &str) -> anyhow::Result<Option<Self>> {
        let mut call = Self::CHECK;
        let mut method = None;
        for field in text.split(',') {
            match field.split_once('=') {
                None if method.is_none() => method = Some(field),
                Some(("format", "json")) => call.json = true,
                Some(("format", "text")) => call.json = false,
                Some(("ignorestatus", "true")) => call.ignore_status = true,
                Some(("ignorestatus", "false")) => call.ignore_status = false,
                _ => {
                    let message = format!(
                        "--call: {field:?} is no option: there are format=text, format=json, ignorestatus=true"
                    );
                    return Err(usage_error(message));
                }
            }
        }
        call.method = match method.unwrap_or_default() {
            "" | "build" => return Ok(None),
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => {
                let message =
                    format!("--call: {other:?} is unknown: there are build, check, outline, targets");
                return Err(usage_error(message));
            }
        };
        Ok(Some(call))
    }

    /// Answers on stdout.
    ///
    /// # Errors
    /// What would make a build fail before its first step.
    pub(super) fn answer(
        self,
        source: &DockerfileSource,
        dockerfile: &Dockerfile,
        request: &Request,
        store: &Store,
        context: &Context,
        build_context: &BuildContext,
    ) -> anyhow::Result<ExitCode> {
        let images = StoreImages(store);
        let text = match self.method {
            Method::Targets => {
                let targets = outline::targets(dockerfile);
                match self.json {
                    true => pretty(&targets_json(&targets, source)),
                    false => targets_text(&targets),
                }
            }
            Method::Outline => {
                let outline = outline::outline(dockerfile, request, &images).map_err(|e| source.error(&e))?;
                match self.json {
                    true => pretty(&outline_json(&outline, source)),
                    false => outline_text(&outline),
                }
            }
            Method::Check => {
                let ignore = build_context.ignore();
                let linter = Linter::new(dockerfile, &request.build_args, ignore);
                let linter = linter.map_err(|e| source.error(&e))?;
                let checked = plan::check(dockerfile, request, &images, &linter);
                let report = Report {
                    warnings: linter.warnings(),
                    error: checked.and_then(|()| linter.verdict()).err(),
                };
                return self.report(&report, source, context);
            }
        };
        context.print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Answers for a Dockerfile that is none.
    ///
    /// # Errors
    /// What is wrong with it, unless the answer tells.
    pub(super) fn refuse(
        self,
        error: ParseError,
        source: &DockerfileSource,
        context: &Context,
    ) -> anyhow::Result<ExitCode> {
        let report = Report {
            warnings: Vec::new(),
            error: Some(error),
        };
        match (self.method, &report.error) {
            (Method::Outline | Method::Targets, Some(error)) => Err(source.error(error)),
            _ => self.report(&report, source, context),
        }
    }

    /// Shows what `--check` found. As with docker, warnings make it fail.
    fn report(
        self,
        report: &Report,
        source: &DockerfileSource,
        context: &Context,
    ) -> anyhow::Result<ExitCode> {
        match self.json {
            true => context.print(&pretty(&check::json(report, source)))?,
            false => context.print(&check::text(report, source))?,
        }
        match &report.error {
            Some(error) if !self.json => Err(source.error(error)),
            None if self.ignore_status || report.warnings.is_empty() => Ok(ExitCode::SUCCESS),
            _ => Ok(ExitCode::FAILURE),
        }
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Where something is, as buildx writes it: the lines of an instruction, from 1.
pub(super) fn location(span: Span) -> Value {
    json!({ "ranges": [{ "start": { "line": span.start.line }, "end": { "line": span.end.line } }] })
}

/// An object without the members that are empty or false.
fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let given =
        |(_, value): &(_, Value)| !matches!(value, Value::Null | Value::Bool(false)) && *value != json!([]);
    members
        .into_iter()
        .filter(given)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn targets_json(targets: &[Target], source: &DockerfileSource) -> Value {
    let target = |target: &Target| {
        object([
            ("name", json!(target.name)),
            ("default", json!(target.is_default)),
            ("description", json!(target.description)),
            ("base", json!(target.base)),
            ("platform", json!(target.platform)),
            ("location", location(target.span)),
        ])
    };
    let targets: Vec<_> = targets.iter().map(target).collect();
    json!({ "targets": targets, "sources": [base64(&source.text)] })
}

fn targets_text(targets: &[Target]) -> String {
    let mut rows = vec![["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    rows.extend(targets.iter().map(|target| {
        let name = match (&target.name, target.is_default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        [name, target.description.clone().unwrap_or_default()]
    }));
    table(&rows)
}

fn outline_json(outline: &Outline, source: &DockerfileSource) -> Value {
    let argument = |argument: &outline::Argument| {
        object([
            ("name", json!(argument.name)),
            ("description", json!(argument.description)),
            (
                "value",
                json!(argument.value.as_ref().filter(|value| !value.is_empty())),
            ),
            ("location", location(argument.span)),
        ])
    };
    let secret = |secret: &outline::Secret| {
        object([
            ("name", json!(secret.name)),
            ("required", json!(secret.required)),
            ("location", location(secret.span)),
        ])
    };
    object([
        ("name", json!(outline.name)),
        ("description", json!(outline.description)),
        ("args", outline.arguments.iter().map(argument).collect()),
        ("secrets", outline.secrets.iter().map(secret).collect()),
        ("ssh", outline.agents.iter().map(secret).collect()),
        ("sources", json!([base64(&source.text)])),
    ])
}

fn outline_text(outline: &Outline) -> String {
    let mut parts = Vec::new();
    if outline.name.is_some() || outline.description.is_some() {
        let name = outline.name.as_deref().unwrap_or("(default)");
        let mut rows = vec![["TARGET:".to_owned(), name.to_owned()]];
        rows.extend(
            outline
                .description
                .iter()
                .map(|text| ["DESCRIPTION:".to_owned(), text.clone()]),
        );
        parts.push(table(&rows));
    }
    if !outline.arguments.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned)];
        rows.extend(outline.arguments.iter().map(|argument| {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            [
                argument.name.clone(),
                text(&argument.value),
                text(&argument.description),
            ]
        }));
        parts.push(table(&rows));
    }
    for (title, asked_for) in [("SECRET", &outline.secrets), ("SSH", &outline.agents)] {
        if asked_for.is_empty() {
            continue;
        }
        let mut rows = vec![[title, "REQUIRED"].map(str::to_owned)];
        rows.extend(asked_for.iter().map(|secret| {
            let required = if secret.required { "true" } else { "" };
            [secret.name.clone(), required.to_owned()]
        }));
        parts.push(table(&rows));
    }
    parts.join("\n")
}

/// Rows in columns, three blanks apart.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: BTreeMap<usize, usize> = (0..N).map(|column| (column, width(column))).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            line.push_str(&format!("{cell:<width$}   ", width = widths[&column]));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The bytes in the usual alphabet, padded (RFC 4648, section 4).
pub(super) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= group.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_as_buildx_reads_them() {
        let call = |text| Call::parse(text).expect(text);
        assert_eq!(call("build"), None);
        assert_eq!(call("check"), Some(Call::CHECK));
        let json = Call {
            method: Method::Targets,
            json: true,
            ignore_status: false,
        };
        assert_eq!(call("targets,format=json"), Some(json));
        assert_eq!(
            call("check,ignorestatus=true").map(|call| call.ignore_status),
            Some(true)
        );
        for bad in ["nosuch", "check,format=xml", "check,outline"] {
            assert!(Call::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_is_padded() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["A", "LONG", ""], ["name", "x", "what"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A      LONG\nname   x      what\n");
    }
}
