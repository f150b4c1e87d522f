//! What stands in the braces of `${...}`.

use super::pattern::Pattern;
use super::{Environment, ExpandProblem, Lexer, MAX_LENGTH, Step, Words, cut};

impl<E: Environment + ?Sized> Lexer<'_, E> {
    /// What follows `${`, the closing brace included.
    pub(super) fn braces(&mut self) -> Step<String> {
        match self.peek() {
            None => return Err(ExpandProblem::MissingBrace),
            Some('{' | '}' | ':') => return Err(ExpandProblem::BadSubstitution),
            Some(_) => {}
        }
        let name = self.name();
        match self.rest.next() {
            None => Err(ExpandProblem::MissingBrace),
            Some('}') => match self.lookup(&name) {
                None if self.keep_unset => Ok(format!("${{{name}}}")),
                value => Ok(value.unwrap_or_default()),
            },
            Some(':') => match self.rest.next() {
                None => Err(ExpandProblem::MissingBrace),
                Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, true),
                Some(c) => Err(ExpandProblem::UnsupportedModifier(format!(":{c}"))),
            },
            Some(operator @ ('-' | '+' | '?')) => self.conditional(&name, operator, false),
            Some('#') => self.trim(&name, End::Prefix),
            Some('%') => self.trim(&name, End::Suffix),
            Some('/') => self.replace(&name),
            Some(c) => Err(ExpandProblem::UnsupportedModifier(c.to_string())),
        }
    }

    /// The text up to `stop` inside of braces. Its own words split nothing.
    fn operand(&mut self, stop: char, raw_escapes: bool) -> Step<String> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let text = self.until(Some(stop), &mut Words::default());
        self.raw_escapes = outer;
        text
    }

    /// `-`, `+` and `?`; with a colon an empty value counts as unset.
    fn conditional(&mut self, name: &str, operator: char, colon: bool) -> Step<String> {
        let word = self.operand('}', false)?;
        let value = self.lookup(name);
        if self.keep_unset && value.is_none() {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let set = value.is_some();
        match (operator, value.filter(|value| !colon || !value.is_empty())) {
            ('+', value) => Ok(if value.is_some() { word } else { String::new() }),
            (_, Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            (_, None) => {
                let state = if set { "empty" } else { "unset" };
                let default = || format!("is not allowed to be {state}");
                let message = if word.is_empty() { default() } else { word };
                Err(ExpandProblem::Required {
                    name: cut(name),
                    message: cut(&message),
                })
            }
        }
    }

    /// `#`, `##`, `%`, `%%`.
    fn trim(&mut self, name: &str, end: End) -> Step<String> {
        let operator = end.operator();
        let word = self.operand('}', true)?;
        let Some(value) = self.lookup(name) else {
            let kept = || format!("${{{name}{operator}{word}}}");
            return Ok(if self.keep_unset { kept() } else { String::new() });
        };
        let (longest, pattern) = match word.strip_prefix(operator) {
            Some(pattern) => (true, pattern),
            None => (false, word.as_str()),
        };
        let pattern = compile(pattern)?;
        Ok(match end {
            End::Prefix => pattern.trim_prefix(&value, longest),
            End::Suffix => pattern.trim_suffix(&value, longest),
        })
    }

    /// `/pattern/replacement` and `//pattern/replacement`.
    fn replace(&mut self, name: &str) -> Step<String> {
        let all = self.peek() == Some('/');
        if all {
            self.rest.next();
        }
        let source = self.operand('/', true)?;
        let replacement = self.operand('}', true)?;
        let value = self.lookup(name);
        if value.is_none() && self.keep_unset {
            let slash = if all { "//" } else { "/" };
            return Ok(format!("${{{name}{slash}{source}/{replacement}}}"));
        }
        let pattern = compile(&source)?;
        match value {
            None => Ok(String::new()),
            Some(value) => pattern
                .replace(&value, &replacement, all, MAX_LENGTH)
                .ok_or(ExpandProblem::TooLong),
        }
    }
}

/// The end of a value that a pattern is cut from.
#[derive(Clone, Copy)]
enum End {
    Prefix,
    Suffix,
}

impl End {
    fn operator(self) -> char {
        match self {
            Self::Prefix => '#',
            Self::Suffix => '%',
        }
    }
}

fn compile(pattern: &str) -> Step<Pattern> {
    Pattern::parse(pattern).map_err(|reason| ExpandProblem::InvalidPattern {
        pattern: cut(pattern),
        reason,
    })
}
