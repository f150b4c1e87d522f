//! What needs to know what came before in a stage: variables, the shell, the working directory.

use std::collections::BTreeSet;

use super::{Rule, Site};
use crate::dockerfile::{Assignment, Span, Word, suggestion};

/// What the rules remember of a stage.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    /// Whether a WORKDIR came before, in this stage or one below it.
    pub(crate) workdir: bool,
    cmd: Option<(Span, Span)>,
    entrypoint: Option<(Span, Span)>,
    healthcheck: Option<(Span, Span)>,
}

impl Memory {
    /// What a stage on top of this one remembers.
    pub(crate) fn inherited(self) -> Self {
        Self {
            workdir: self.workdir,
            ..Self::default()
        }
    }

    /// CMD, ENTRYPOINT or HEALTHCHECK: of two the first one is reported, for it does nothing.
    pub(crate) fn once(&mut self, site: Site<'_>, keyword: &Word, name: &str) {
        let slot = match name {
            "CMD" => &mut self.cmd,
            "ENTRYPOINT" => &mut self.entrypoint,
            _ => &mut self.healthcheck,
        };
        if let Some((span, instruction)) = slot.replace((keyword.span, site.instruction)) {
            let earlier = Site { instruction, ..site };
            let detail = format!("this {name} does nothing: another one follows in the stage");
            earlier.report(Rule::MultipleInstructionsDisallowed, span, detail);
        }
    }

    /// WORKDIR with its path expanded.
    pub(crate) fn workdir(&mut self, site: Site<'_>, word: &Word, path: &str) {
        if !std::mem::replace(&mut self.workdir, true) && !path.starts_with('/') {
            let detail = format!("{path:?} is relative to whatever directory the base image has");
            site.report(Rule::WorkdirRelativePath, word.span, detail);
        }
    }
}

/// Variables in a word that are not set; `known` are the names that are.
pub(crate) fn check_unset<'a>(
    site: Site<'_>,
    span: Span,
    unset: &BTreeSet<String>,
    known: impl Iterator<Item = &'a str> + Clone,
) {
    for name in unset {
        let hint = suggestion(name, known.clone()).map(|known| format!("did you mean ${known}?"));
        site.report_with(Rule::UndefinedVar, span, format!("${name} is not defined"), hint);
    }
}

/// A command in shell form, for the image's default shell.
pub(crate) fn check_shell_form(site: Site<'_>, keyword: &Word, name: &str) {
    let detail = format!("{name} runs in a shell, which does not hand on signals");
    let hint = format!("write {name} [\"PROGRAM\", \"ARGUMENT\"], or name a SHELL to say that it is meant");
    site.report_with(Rule::JsonArgsRecommended, keyword.span, detail, Some(hint));
}

/// ENV and LABEL in the old form.
pub(crate) fn check_legacy(site: Site<'_>, name: &str, pairs: &[Assignment]) {
    for pair in pairs.iter().filter(|pair| pair.legacy) {
        let detail = format!("{name} {} is in the old form, without =", pair.name.text);
        let hint = format!("write {name} {}=VALUE", pair.name.text);
        site.report_with(Rule::LegacyKeyValueFormat, pair.name.span, detail, Some(hint));
    }
}

/// Words that make a name one of a secret, and words that make it none.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Whether a variable is named as a secret is.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

/// The name of an ENV or ARG.
pub(crate) fn check_secret(site: Site<'_>, instruction: &str, name: &str, span: Span) {
    if is_secret_name(name) {
        let detail = format!("{instruction} {name} looks like a secret, and stays readable in the image");
        let hint = "give it to the steps that need it by RUN --mount=type=secret";
        site.report_with(Rule::SecretsUsedInArgOrEnv, span, detail, Some(hint.to_owned()));
    }
}

/// A port of EXPOSE, expanded.
pub(crate) fn check_port(site: Site<'_>, span: Span, port: &str) {
    let (host, container) = port.rsplit_once(':').unwrap_or(("", port));
    let protocol = container.split_once('/').map_or("", |(_, protocol)| protocol);
    if protocol != protocol.to_lowercase() {
        let detail = format!("the protocol of {port} is not in small letters");
        site.report(Rule::ExposeProtoCasing, span, detail);
    }
    if host.chars().any(|c| c != ':') {
        let detail = format!("{port} has an address or a port of the host, which mean nothing here");
        site.report(Rule::ExposeInvalidFormat, span, detail);
    }
}

/// A source of COPY or ADD in the build context, expanded.
pub(crate) fn check_source(site: Site<'_>, instruction: &str, word: &Word, source: &str) {
    let Some(ignore) = site.linter.ignore else { return };
    // What an exception takes in again can't be told by the name alone.
    if ignore.has_exceptions() {
        return;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in source.split('/').filter(|part| !part.is_empty() && *part != ".") {
        match part {
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let ignored = match parts.is_empty() {
        // The context itself is taken unless everything in it is left out: this stands for a name like no other.
        true => ignore.matches("\u{1}"),
        false => ignore.matches(parts.join("/")),
    };
    if ignored {
        let detail = format!("{instruction} takes {source:?}, which .dockerignore leaves out");
        site.report(Rule::CopyIgnoredFile, word.span, detail);
    }
}
