//! Flags of instructions: which there are, and their values.

use super::nodes::{Node, Word};
use super::source::ParseError;
use super::suggest::suggestion;

/// What a flag takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FlagKind {
    /// `--x` or `--x=true|false`, once.
    Switch,
    /// `--x=VALUE`, once.
    Value,
    /// `--x=VALUE` any number of times.
    Values,
}

/// The flags an instruction knows.
pub(super) type Known = &'static [(&'static str, FlagKind)];

/// The flags an instruction has, checked against those it knows.
pub(super) struct Flags {
    known: Known,
    given: Vec<(&'static str, Word)>,
}

impl Flags {
    /// Checks the flags of `node`.
    pub(super) fn read(node: &Node, known: Known) -> Result<Self, ParseError> {
        let mut flags = Self {
            known,
            given: Vec::new(),
        };
        for flag in &node.flags {
            flags.add(flag)?;
        }
        Ok(flags)
    }

    fn add(&mut self, flag: &Word) -> Result<(), ParseError> {
        let (name, value) = match flag.text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag.text.as_str(), None),
        };
        let bare = name.strip_prefix("--").unwrap_or(name);
        let error = |message: String| ParseError::new(flag.span, message);
        let Some((known, kind)) = self.known.iter().find(|(known, _)| *known == bare) else {
            let names = self.known.iter().map(|(known, _)| *known);
            let error = error(format!("unknown flag: {name}"));
            return Err(match suggestion(bare, names) {
                Some(known) => error.with_hint(format!("did you mean --{known}?")),
                None => error.with_hint(self.all()),
            });
        };
        if *kind != FlagKind::Values && self.value(known).is_some() {
            return Err(error(format!("duplicate flag specified: {name}")));
        }
        let text = match (kind, value) {
            (FlagKind::Switch, None) => "true".to_owned(),
            (FlagKind::Switch, Some(value)) => match value.to_ascii_lowercase().as_str() {
                "" => return Err(error(format!("missing a value on flag: {name}"))),
                value @ ("true" | "false") => value.to_owned(),
                _ => {
                    let message = format!("expecting boolean value for flag {name}, not: {value}");
                    return Err(error(message));
                }
            },
            (_, Some(value)) => value.to_owned(),
            (_, None) => {
                return Err(error(format!("missing a value on flag: {name}"))
                    .with_hint(format!("write {name}=VALUE, without a blank")));
            }
        };
        self.given.push((
            known,
            Word {
                text,
                span: flag.span,
            },
        ));
        Ok(())
    }

    fn all(&self) -> String {
        if self.known.is_empty() {
            return "this instruction has no flags".to_owned();
        }
        let names: Vec<String> = self.known.iter().map(|(name, _)| format!("--{name}")).collect();
        format!("it has {}", names.join(", "))
    }

    /// The value of a flag, where it is given.
    fn value(&self, name: &str) -> Option<&Word> {
        self.given
            .iter()
            .find(|(given, _)| *given == name)
            .map(|(_, value)| value)
    }

    /// The value of a flag, where it is given and not empty.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.value(name).filter(|value| !value.text.is_empty()).cloned()
    }

    /// A switch, where it is given.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value.text == "true")
    }

    /// All values of a flag in order.
    pub(super) fn texts(&self, name: &str) -> Vec<Word> {
        self.given
            .iter()
            .filter(|(given, _)| *given == name)
            .map(|(_, v)| v.clone())
            .collect()
    }

    /// All flags in order.
    pub(super) fn into_given(self) -> Vec<(&'static str, Word)> {
        self.given
    }
}
