//! Places in a Dockerfile, and the errors that point at them.

use std::fmt::Write as _;
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One point of a Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Offset in bytes from the start of the file, a byte order mark included.
    pub offset: usize,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters (Unicode scalar values), from 1. A byte order mark takes no column.
    pub column: u32,
}

/// A stretch of a Dockerfile; `end` is the first position after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first position.
    pub start: Position,
    /// The position after the last.
    pub end: Position,
}

/// A Dockerfile, or a word of it, that breaks the language's rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}:{}: {message}", span.start.line, span.start.column)]
pub struct ParseError {
    /// What the error is about.
    pub span: Span,
    /// What is wrong, in one line and without the place.
    pub message: String,
    /// What to do about it, where that is known.
    pub hint: Option<String>,
}

impl ParseError {
    /// An error about `span`.
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self {
            span,
            message: message.into(),
            hint: None,
        }
    }

    /// The same error with a hint that says what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The error as plain text, for `text` read from `file`:
    ///
    /// ```text
    /// Dockerfile:3:1: unknown instruction: RNU
    ///   |
    /// 3 | RNU make
    ///   | ^^^
    ///   = hint: did you mean RUN?
    /// ```
    ///
    /// Of a long line only the part around the error is shown. An error about no place in the file has the file's
    /// name alone. The text ends without a newline.
    pub fn render(&self, file: &str, text: &[u8]) -> String {
        let Position { line, column, .. } = self.span.start;
        let mut out = match line {
            0 => format!("{file}: {}", self.message),
            _ => format!("{file}:{line}:{column}: {}", self.message),
        };
        let margin = " ".repeat(line.to_string().len());
        if let Some(source) = SourceMap::new(text).line(line) {
            let (excerpt, caret) = self.excerpt(source);
            let _ = write!(out, "\n{margin} |\n{line} | {excerpt}\n{margin} | {caret}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(out, "\n{margin} = hint: {hint}");
        }
        out
    }

    /// The part of the line to show and the carets that go under it.
    fn excerpt(&self, line: &[u8]) -> (String, String) {
        const WIDTH: usize = 100;
        let line = String::from_utf8_lossy(line);
        let length = line.chars().count();
        let start = (self.span.start.column as usize).saturating_sub(1).min(length);
        let end = match self.span.end.line == self.span.start.line {
            true => (self.span.end.column as usize)
                .saturating_sub(1)
                .clamp(start, length),
            false => line.trim_end().chars().count().max(start),
        };
        let skip = if start + 20 > WIDTH { start - 20 } else { 0 };
        // A tab keeps its width under the caret; other controls would move the cursor.
        let shown = |c: char| {
            if c.is_control() && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        };
        let mut excerpt: String = line.chars().skip(skip).take(WIDTH).map(shown).collect();
        let lead = line.chars().skip(skip).take(start - skip);
        let mut caret: String = lead.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        if skip > 0 {
            excerpt.insert_str(0, "...");
            caret.insert_str(0, "   ");
        }
        if skip + WIDTH < length {
            excerpt.push_str("...");
        }
        let width = (end - start).clamp(1, (skip + WIDTH).saturating_sub(start).max(1));
        caret.push_str(&"^".repeat(width));
        (excerpt, caret)
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// How many bytes lie between two counts of characters: a position costs at most this much to find.
const STRIDE: usize = 256;

/// Turns byte offsets into lines and columns, each in logarithmic time.
pub(super) struct SourceMap<'a> {
    text: &'a [u8],
    /// Where each line starts; the first one after a byte order mark.
    line_starts: Vec<usize>,
    /// Characters before each multiple of `STRIDE` bytes.
    characters: Vec<usize>,
}

impl<'a> SourceMap<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        let first = if text.starts_with(BOM) { BOM.len() } else { 0 };
        let mut line_starts = vec![first];
        line_starts.extend(
            text.iter()
                .enumerate()
                .filter(|(_, b)| **b == b'\n')
                .map(|(at, _)| at + 1),
        );
        let mut characters = vec![0];
        let mut count = 0;
        for block in text.chunks(STRIDE) {
            count += character_count(block);
            characters.push(count);
        }
        Self {
            text,
            line_starts,
            characters,
        }
    }

    pub(super) fn text(&self) -> &'a [u8] {
        self.text
    }

    /// Where the text begins, after a byte order mark.
    pub(super) fn start(&self) -> usize {
        self.line_starts.first().copied().unwrap_or(0)
    }

    pub(super) fn position(&self, offset: usize) -> Position {
        let offset = offset.clamp(self.start(), self.text.len());
        let line = self.line_starts.partition_point(|start| *start <= offset).max(1);
        let line_start = self.line_starts.get(line - 1).copied().unwrap_or(0);
        let column = self.characters_before(offset) - self.characters_before(line_start) + 1;
        Position {
            offset,
            line: narrow(line),
            column: narrow(column),
        }
    }

    pub(super) fn span(&self, range: Range<usize>) -> Span {
        Span {
            start: self.position(range.start),
            end: self.position(range.end),
        }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let block = offset / STRIDE;
        let counted = self.characters.get(block).copied().unwrap_or(0);
        counted + self.text.get(block * STRIDE..offset).map_or(0, character_count)
    }

    /// Line number `line` (from 1) without its line ending.
    fn line(&self, line: u32) -> Option<&'a [u8]> {
        let at = (line as usize).checked_sub(1)?;
        let start = *self.line_starts.get(at)?;
        let end = self.line_starts.get(at + 1).copied().unwrap_or(self.text.len());
        let line = self.text.get(start..end)?;
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

fn character_count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b & 0xc0 != 0x80).count()
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_not_bytes() {
        let text = "\u{feff}FROM x\r\nRÜN ÿ".as_bytes();
        let map = SourceMap::new(text);
        assert_eq!(
            map.position(3),
            Position {
                offset: 3,
                line: 1,
                column: 1
            }
        );
        let at = text.len() - "ÿ".len();
        assert_eq!(
            map.position(at),
            Position {
                offset: at,
                line: 2,
                column: 5
            }
        );
        assert_eq!(map.line(2), Some("RÜN ÿ".as_bytes()));
        assert_eq!(map.line(3), None);
    }

    #[test]
    fn columns_are_right_across_strides() {
        let text = "é".repeat(STRIDE * 3);
        let map = SourceMap::new(text.as_bytes());
        assert_eq!(map.position(STRIDE * 4).column as usize, STRIDE * 2 + 1);
    }

    #[test]
    fn renders_the_line_the_caret_and_the_hint() {
        let text = b"FROM x\n\tRNU make\n";
        let error = ParseError::new(SourceMap::new(text).span(8..11), "unknown instruction: RNU")
            .with_hint("did you mean RUN?");
        assert_eq!(
            error.render("Dockerfile", text),
            "Dockerfile:2:2: unknown instruction: RNU\n  |\n2 | \tRNU make\n  | \t^^^\n  = hint: \
             did you mean RUN?"
        );
    }

    #[test]
    fn renders_a_part_of_a_long_line() {
        let text = format!("FROM x\nRUN {}!{}", "a".repeat(5000), "b".repeat(5000));
        let span = SourceMap::new(text.as_bytes()).span(5011..5012);
        let rendered = ParseError::new(span, "bang").render("f", text.as_bytes());
        let lines: Vec<&str> = rendered.lines().collect();
        assert_eq!(
            lines[2],
            format!("2 | ...{}!{}...", "a".repeat(20), "b".repeat(79))
        );
        assert_eq!(lines[3].find('^'), lines[2].find('!'));
    }
}
