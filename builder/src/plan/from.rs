//! What FROM names: variables replaced, platforms read. Done for every stage, whether it is needed or not.

use super::arguments::Arguments;
use super::{Request, expand, platform};
use crate::dockerfile::{self, Dockerfile, Expanded, ParseError, Word, suggestion};
use crate::image::Platform;
use crate::lint::{Linter, from};
use crate::reference::Reference;

/// A FROM, evaluated.
#[derive(Clone, Debug)]
pub(crate) struct From {
    /// The image, stage or context.
    pub(crate) base: String,
    /// The platform, where one is named.
    pub(super) platform: Option<Platform>,
    /// The arguments that it uses.
    pub(crate) arguments: std::collections::BTreeSet<String>,
}

/// Evaluates every FROM, and asks the linter of each.
pub(super) fn evaluate(
    dockerfile: &Dockerfile,
    request: &Request,
    arguments: &Arguments,
    linter: &Linter<'_>,
) -> Result<Vec<From>, ParseError> {
    let defaults = Arguments::new(dockerfile, request, &Default::default()).ok();
    let mut froms = Vec::with_capacity(dockerfile.stages.len());
    for stage in &dockerfile.stages {
        if let Some(defaults) = &defaults {
            check_default(linter, dockerfile, stage, defaults);
        }
        froms.push(one(linter, dockerfile, stage, arguments)?);
    }
    Ok(froms)
}

fn one(
    linter: &Linter<'_>,
    dockerfile: &Dockerfile,
    stage: &dockerfile::Stage,
    arguments: &Arguments,
) -> Result<From, ParseError> {
    let site = linter.at(&stage.comments, stage.span);
    let known = arguments.names();
    let base = expand(&stage.base, &arguments.values, dockerfile.escape())?;
    from::check_arguments(site, &stage.base, &base, &known);
    if base.text.is_empty() {
        let message = format!("the base name ({}) should not be blank", stage.base.text);
        return Err(unset(&stage.base, message, &base, arguments));
    }
    let mut used = base.found;
    let mut on = None;
    if let Some(word) = &stage.platform {
        let expanded = expand(word, &arguments.values, dockerfile.escape())?;
        let target = arguments.values.get("TARGETPLATFORM").map_or("", String::as_str);
        let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
        from::check_arguments(site, word, &expanded, &known);
        from::check_platform(site, word, &expanded, target, name);
        if expanded.text.is_empty() {
            let message = format!("--platform={} gives an empty platform", word.text);
            return Err(unset(word, message, &expanded, arguments));
        }
        let parsed =
            platform(&expanded.text).map_err(|e| unset(word, e.to_string(), &expanded, arguments))?;
        on = Some(parsed);
        used.extend(expanded.found);
    }
    Ok(From {
        base: base.text,
        platform: on,
        arguments: used,
    })
}

/// An error that unset arguments may explain.
fn unset(word: &Word, message: String, expanded: &Expanded, arguments: &Arguments) -> ParseError {
    let error = ParseError::new(word.span, message);
    let Some(name) = expanded.unset.first() else {
        return error;
    };
    if let Some(known) = suggestion(name, arguments.names()) {
        return error.with_hint(format!("did you mean ${known}?"));
    }
    error.with_hint(format!(
        "{name} is not set: give its ARG a default, or use --build-arg {name}=VALUE"
    ))
}

/// FROM names an image also if no build argument is given.
fn check_default(
    linter: &Linter<'_>,
    dockerfile: &Dockerfile,
    stage: &dockerfile::Stage,
    defaults: &Arguments,
) {
    let Ok(base) = expand(&stage.base, &defaults.values, dockerfile.escape()) else {
        return;
    };
    if Reference::parse(&base.text).is_err() {
        from::report_invalid_default(linter.at(&stage.comments, stage.span), &stage.base);
    }
}
