//! What the text alone shows.

use super::{Linter, Rule, Site};
use crate::dockerfile::{Arg, Dockerfile, InstructionKind, Span};

pub(super) fn check(linter: &Linter<'_>, dockerfile: &Dockerfile) {
    for blank in &dockerfile.blank_continuations {
        // As Docker has it: the last line of the instruction.
        let end = Span {
            start: blank.end,
            end: blank.end,
        };
        linter.at(&[], end).report(
            Rule::NoEmptyContinuation,
            blank.span,
            "a blank line inside of an instruction",
        );
    }
    for line in &dockerfile.global_args {
        let site = linter.at(&line.comments, line.span);
        check_description(site, "ARG", &line.comments, line.span, &names(&line.args));
    }
    for stage in &dockerfile.stages {
        if let Some(name) = &stage.name {
            let site = linter.at(&stage.comments, stage.span);
            check_description(site, "FROM", &stage.comments, stage.keyword.span, &[&name.text]);
        }
        for instruction in &stage.instructions {
            let site = linter.at(&instruction.comments, instruction.span);
            let span = instruction.keyword.span;
            match &instruction.kind {
                InstructionKind::Maintainer(_) => site.report_with(
                    Rule::MaintainerDeprecated,
                    span,
                    "MAINTAINER is deprecated",
                    Some("write LABEL org.opencontainers.image.authors=\"…\"".to_owned()),
                ),
                InstructionKind::Arg(args) => {
                    check_description(site, "ARG", &instruction.comments, span, &names(args));
                }
                _ => {}
            }
        }
    }
}

fn names(args: &[Arg]) -> Vec<&str> {
    args.iter().map(|arg| arg.name.text.as_str()).collect()
}

/// The comment right before a definition begins with its name.
fn check_description(site: Site<'_>, instruction: &str, comments: &[String], span: Span, names: &[&str]) {
    let Some(comment) = comments.last() else { return };
    let first = comment.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return;
    }
    let name = match names {
        [name] => name,
        _ => "NAME",
    };
    let detail = format!("the comment before {instruction} does not describe it");
    let hint = format!("write `# {name} DESCRIPTION`, or put a line with # alone after another comment");
    site.report_with(Rule::InvalidDefinitionDescription, span, detail, Some(hint));
}
