//! Parser directives: `# syntax=`, `# escape=` and `# check=` before anything else in a file.

use super::expand::Escape;
use super::lines::{PhysicalLine, trim_start};
use super::nodes::Word;
use super::source::{ParseError, SourceMap};

/// The directives a file starts with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=IMAGE`: the front end the file was written for.
    pub syntax: Option<Word>,
    /// `# escape=`: the character that escapes and continues lines.
    pub escape: Escape,
    /// `# check=OPTIONS`: for the linter; see [`crate::lint::Options`].
    pub check: Option<Word>,
}

/// The front ends that this one serves in the place of.
const OFFICIAL: [&str; 3] = ["docker/dockerfile", "docker/dockerfile-upstream", "dockerfile"];

/// Whether `syntax` names one of Docker's front ends for Dockerfiles, of whatever version.
pub fn is_official_syntax(syntax: &str) -> bool {
    let image = syntax.split(' ').next().unwrap_or_default();
    let name = image.split('@').next().unwrap_or_default();
    let name = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"]
        .iter()
        .find_map(|registry| name.strip_prefix(registry))
        .unwrap_or(name);
    let repository = name.split(':').next().unwrap_or_default();
    OFFICIAL.contains(&repository.to_ascii_lowercase().as_str())
}

/// Reads directives as long as they come.
#[derive(Default)]
pub(super) struct DirectiveReader {
    pub(super) directives: Directives,
    escape_seen: bool,
    lines: usize,
    done: bool,
}

impl DirectiveReader {
    /// Takes the next line of the file, which ends the directives if it is none: then the answer is
    /// false. A `#!` on the first line does not end them.
    pub(super) fn line(&mut self, line: &PhysicalLine<'_>, map: &SourceMap<'_>) -> Result<bool, ParseError> {
        self.lines += 1;
        if self.done || self.lines == 1 && line.content().starts_with(b"#!") {
            return Ok(false);
        }
        let Some((key, word)) = parse(line, map) else {
            self.done = true;
            return Ok(false);
        };
        let seen = match key.as_str() {
            "syntax" => self.directives.syntax.replace(word.clone()).is_some(),
            "check" => self.directives.check.replace(word.clone()).is_some(),
            "escape" => std::mem::replace(&mut self.escape_seen, true),
            _ => {
                self.done = true;
                return Ok(false);
            }
        };
        if seen {
            let message = format!("only one {key} parser directive can be used");
            return Err(ParseError::new(word.span, message));
        }
        if key == "escape" {
            self.directives.escape = match word.text.as_str() {
                "\\" => Escape::Backslash,
                "`" => Escape::Backquote,
                other => {
                    let message = format!("invalid escape token '{other}' does not match ` or \\");
                    return Err(ParseError::new(word.span, message));
                }
            };
        }
        Ok(true)
    }
}

/// The lower-cased key and the value of a line of the form `# key = value`.
fn parse(line: &PhysicalLine<'_>, map: &SourceMap<'_>) -> Option<(String, Word)> {
    let blank = |c: char| matches!(c, '\t' | '\n' | '\x0c' | '\r' | ' ');
    let comment = trim_start(line.content()).strip_prefix(b"#")?;
    let text = std::str::from_utf8(comment).ok()?;
    let (key, value) = text.split_once('=')?;
    let key = key.trim_start().trim_end_matches(blank);
    let value = value.trim_matches(blank);
    let letters =
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    if !letters || value.is_empty() {
        return None;
    }
    let end = line.start + line.content().trim_ascii_end().len();
    let span = map.span(end.saturating_sub(value.len())..end);
    Some((
        key.to_ascii_lowercase(),
        Word {
            text: value.to_owned(),
            span,
        },
    ))
}
