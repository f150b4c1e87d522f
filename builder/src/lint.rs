//! The linter: what a Dockerfile may do but better should not, under the rules and names of Docker's build checks.
//!
//! Some rules ask only for the text (`text`, `names`); others for variables, base images and what came before in a
//! stage (`from`, `stage`), so the planner calls them as it goes. What it finds is kept in a [`Linter`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::{Dockerfile, ParseError, Span};
use crate::ignore::Ignore;

pub(crate) mod from;
mod names;
mod rule;
pub(crate) mod stage;
#[cfg(test)]
mod tests;
mod text;

pub use rule::Rule;

/// Something that a rule is against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What is found, in one line.
    pub detail: String,
    /// What to do, where more can be said than the rule does.
    pub hint: Option<String>,
    /// The words it is about.
    pub span: Span,
    /// The instruction it is about.
    pub instruction: Span,
}

impl Warning {
    /// The warning in the form of an error, to be shown with its line.
    pub fn as_error(&self) -> ParseError {
        let error = ParseError::new(self.span, format!("{}: {}", self.rule.name(), self.detail));
        match &self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// Which rules are asked, and whether a warning is an error: `skip=RULE,...;experimental=RULE,...;error=true`, each
/// part once, and `all` for every rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    skip: Rules,
    experimental: Rules,
    error: bool,
}

/// Some rules by name, or all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rules {
    All,
    Named(BTreeSet<String>),
}

impl Default for Rules {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Rules {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            names => Self::Named(names.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, rule: Rule) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(rule.name()),
        }
    }
}

impl Options {
    /// Reads the value of the `check` directive; what follows a blank does not count.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.split_whitespace().next().unwrap_or_default();
        let mut options = Self::default();
        for part in text.split(';').filter(|part| !part.trim().is_empty()) {
            let Some((name, value)) = part.split_once('=') else {
                return Err(format!("invalid check option {part:?}: it has no value"));
            };
            match name.trim() {
                "skip" => options.skip = Rules::parse(value),
                "experimental" => options.experimental = Rules::parse(value),
                "error" => {
                    options.error = match value.trim() {
                        "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
                        "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
                        other => return Err(format!("error={other:?}: it may be true or false")),
                    }
                }
                other => {
                    return Err(format!(
                        "invalid check option {other:?}: there are skip, experimental and error"
                    ));
                }
            }
        }
        Ok(options)
    }

    fn asks(&self, rule: Rule) -> bool {
        match rule.is_experimental() {
            true => self.experimental.has(rule),
            false => !self.skip.has(rule),
        }
    }
}

/// The build argument that goes before the `check` directive.
const OPTIONS_ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// Asks the rules, and keeps what they find.
#[derive(Debug, Default)]
pub struct Linter<'a> {
    options: Options,
    ignore: Option<&'a Ignore>,
    warnings: RefCell<Vec<Warning>>,
}

impl<'a> Linter<'a> {
    /// A linter with the options that the Dockerfile has, or the build argument `BUILDKIT_DOCKERFILE_CHECK`. `ignore`
    /// is what the context's `.dockerignore` says.
    ///
    /// # Errors
    /// If the options can't be read.
    pub fn new(
        dockerfile: &Dockerfile,
        build_args: &BTreeMap<String, String>,
        ignore: Option<&'a Ignore>,
    ) -> Result<Self, ParseError> {
        let (text, span) = match (build_args.get(OPTIONS_ARGUMENT), &dockerfile.directives.check) {
            (Some(text), _) => (text.as_str(), Span::default()),
            (None, Some(word)) => (word.text.as_str(), word.span),
            (None, None) => ("", Span::default()),
        };
        Ok(Self {
            options: Options::parse(text).map_err(|message| ParseError::new(span, message))?,
            ignore,
            warnings: RefCell::default(),
        })
    }

    /// A linter that is asked nothing.
    pub fn silent() -> Self {
        let options = Options {
            skip: Rules::All,
            ..Options::default()
        };
        Self {
            options,
            ..Self::default()
        }
    }

    /// What was found so far, in the order of the file.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.warnings.borrow().clone();
        warnings.sort_by_key(|warning| (warning.instruction.start, warning.span.start, warning.rule));
        warnings.dedup();
        warnings
    }

    /// Whether the build may go on: not if there are warnings and the options say that they are errors.
    ///
    /// # Errors
    /// The rules that were broken, at the first place.
    pub fn verdict(&self) -> Result<(), ParseError> {
        let warnings = self.warnings();
        let Some(first) = warnings.first().filter(|_| self.options.error) else {
            return Ok(());
        };
        let rules: BTreeSet<_> = warnings.iter().map(|warning| warning.rule.name()).collect();
        let rules = Vec::from_iter(rules).join(", ");
        Err(
            ParseError::new(first.span, format!("lint violation found for rules: {rules}"))
                .with_hint("check=error=true makes an error of each warning; --check shows them all"),
        )
    }

    /// Asks the rules that need nothing but the text.
    pub(crate) fn text(&self, dockerfile: &Dockerfile) {
        names::check(self, dockerfile);
        text::check(self, dockerfile);
    }

    /// For what is found in an instruction: `comments` are those before it, which may have options of their own.
    pub(crate) fn at<'s>(&'s self, comments: &'s [String], instruction: Span) -> Site<'s> {
        Site {
            linter: self,
            comments,
            instruction,
        }
    }

    /// How much was found so far.
    pub(crate) fn mark(&self) -> usize {
        self.warnings.borrow().len()
    }

    /// Forgets what was found after a [`Linter::mark`].
    pub(crate) fn forget(&self, mark: usize) {
        self.warnings.borrow_mut().truncate(mark);
    }
}

/// An instruction that the rules look at.
#[derive(Clone, Copy)]
pub(crate) struct Site<'s> {
    linter: &'s Linter<'s>,
    comments: &'s [String],
    instruction: Span,
}

impl Site<'_> {
    fn report(self, rule: Rule, span: Span, detail: impl Into<String>) {
        self.report_with(rule, span, detail, None);
    }

    fn report_with(self, rule: Rule, span: Span, detail: impl Into<String>, hint: Option<String>) {
        if !self.linter.options.asks(rule) || self.is_skipped(rule) {
            return;
        }
        self.linter.warnings.borrow_mut().push(Warning {
            rule,
            detail: detail.into(),
            hint,
            span,
            instruction: self.instruction,
        });
    }

    /// Whether a comment before the instruction says `check=skip=` of the rule.
    fn is_skipped(self, rule: Rule) -> bool {
        let options = self.comments.iter().filter_map(|comment| {
            let (name, value) = comment.split_once('=')?;
            let is_check = name.trim().eq_ignore_ascii_case("check");
            is_check.then(|| Options::parse(value.trim()).ok())?
        });
        options.into_iter().any(|options| options.skip.has(rule))
    }
}
