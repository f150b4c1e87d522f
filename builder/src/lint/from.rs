//! The words of FROM.

use std::collections::BTreeSet;

use super::{Rule, Site};
use crate::dockerfile::{Expanded, Word, parse_platform, suggestion};

/// Arguments that FROM uses though nothing declares them; `known` are those that something does.
pub(crate) fn check_arguments(site: Site<'_>, word: &Word, expanded: &Expanded, known: &BTreeSet<&str>) {
    for name in expanded
        .unset
        .iter()
        .filter(|name| !known.contains(name.as_str()))
    {
        let hint = suggestion(name, known.iter().copied()).map(|known| format!("did you mean {known}?"));
        let detail = format!("FROM uses {name}, which no ARG before the first FROM declares");
        site.report_with(Rule::UndefinedArgInFrom, word.span, detail, hint);
    }
}

/// `base` names no image if no build argument is given.
pub(crate) fn report_invalid_default(site: Site<'_>, base: &Word) {
    let detail = format!("{} names no image unless a build argument is given", base.text);
    site.report(Rule::InvalidDefaultArgInFrom, base.span, detail);
}

/// `--platform`; `target` is the value of TARGETPLATFORM, `stage` the stage's name.
pub(crate) fn check_platform(site: Site<'_>, word: &Word, expanded: &Expanded, target: &str, stage: &str) {
    if !expanded.unset.is_empty() {
        return;
    }
    let found = Vec::from_iter(&expanded.found);
    if found == ["TARGETPLATFORM"] && expanded.text == target {
        let detail = format!("--platform={} is what FROM does anyway", word.text);
        site.report(Rule::RedundantTargetPlatform, word.span, detail);
    }
    if !found.is_empty() {
        return;
    }
    let Ok(platform) = parse_platform(&expanded.text) else {
        return;
    };
    // A stage that is named after its platform means it.
    if stage.contains(&platform.os) || stage.contains(&platform.architecture) {
        return;
    }
    let detail = format!("the platform is always {}", expanded.text);
    site.report_with(
        Rule::FromPlatformFlagConstDisallowed,
        word.span,
        detail,
        Some("leave it to --platform of the build, or use $BUILDPLATFORM".to_owned()),
    );
}
