//! Lines: physical ones, and the logical ones that continuations make of them.

use std::ops::Range;

use super::expand::Escape;
use super::source::{ParseError, SourceMap};

/// A line of the file.
pub(super) struct PhysicalLine<'a> {
    /// Where it starts, in bytes.
    pub(super) start: usize,
    /// Its bytes, line ending included.
    pub(super) bytes: &'a [u8],
}

impl<'a> PhysicalLine<'a> {
    /// The line without its ending: any run of CR and LF, as BuildKit has it.
    pub(super) fn content(&self) -> &'a [u8] {
        let end = self.bytes.iter().rposition(|b| !matches!(b, b'\r' | b'\n'));
        self.bytes.get(..end.map_or(0, |at| at + 1)).unwrap_or_default()
    }

    /// What follows the `#` of a comment: of a line on which that is the first thing.
    pub(super) fn comment(&self) -> Option<&'a [u8]> {
        trim_start(self.content()).strip_prefix(b"#")
    }

    fn is_comment(&self) -> bool {
        self.comment().is_some()
    }

    fn is_blank(&self) -> bool {
        trim_start(self.content()).is_empty()
    }
}

/// The bytes without the white space (of Unicode) they start with.
pub(super) fn trim_start(bytes: &[u8]) -> &[u8] {
    let blank = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.len() - text.trim_start().len(),
        Err(e) => {
            let valid = bytes.get(..e.valid_up_to()).unwrap_or_default();
            let valid = std::str::from_utf8(valid).unwrap_or_default();
            valid.len() - valid.trim_start().len()
        }
    };
    bytes.get(blank(bytes)..).unwrap_or_default()
}

/// An instruction's text with its continuations joined, and where each part of it comes from.
pub(super) struct LogicalLine {
    /// The escape characters and newlines that continue lines are gone, comments and blank lines
    /// between them too; white space at the start of each line but the first is kept.
    pub(super) text: String,
    /// For each joined piece its offset in `text` and in the file, ascending.
    pieces: Vec<(usize, usize)>,
    /// Where the instruction starts in the file.
    pub(super) start: usize,
    /// The end in the file of what was read, comments and blank lines after it included.
    pub(super) end: usize,
    /// A blank line inside of it: Docker warns, since it may become an error.
    pub(super) blank_continuation: Option<usize>,
}

impl LogicalLine {
    /// The offsets in the file of a range of `text`.
    pub(super) fn source_range(&self, range: Range<usize>) -> Range<usize> {
        let start = self.source_offset(range.start);
        match range.end > range.start {
            // From the last byte, so that a range up to a continuation doesn't reach over it.
            true => start..self.source_offset(range.end - 1) + 1,
            false => start..start,
        }
    }

    fn source_offset(&self, offset: usize) -> usize {
        let at = self.pieces.partition_point(|(logical, _)| *logical <= offset);
        match self.pieces.get(at.saturating_sub(1)) {
            Some((logical, source)) => source + offset.saturating_sub(*logical),
            None => self.start,
        }
    }
}

/// Reads a file line by line.
pub(super) struct Reader<'a> {
    map: &'a SourceMap<'a>,
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(map: &'a SourceMap<'a>) -> Self {
        Self { map, at: map.start() }
    }

    /// The next line, or `None` at the end of the file.
    pub(super) fn line(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = self.map.text().get(self.at..).filter(|rest| !rest.is_empty())?;
        let length = rest
            .iter()
            .position(|b| *b == b'\n')
            .map_or(rest.len(), |at| at + 1);
        let start = self.at;
        self.at += length;
        Some(PhysicalLine {
            start,
            bytes: rest.get(..length)?,
        })
    }

    /// The instruction that starts on `first` with the lines that continue it; `None` if there is
    /// only a comment or nothing.
    pub(super) fn logical_line(
        &mut self,
        first: &PhysicalLine<'a>,
        escape: Escape,
    ) -> Result<Option<LogicalLine>, ParseError> {
        let content = first.content();
        let indent = content.len() - trim_start(content).len();
        let start = first.start + indent;
        let mut line = LogicalLine {
            text: String::new(),
            pieces: Vec::new(),
            start,
            end: first.start + content.len(),
            blank_continuation: None,
        };
        if first.is_comment() {
            return Ok(None);
        }
        let mut more = self.append(&mut line, content, first.start, indent, escape)?;
        if !more && line.text.is_empty() {
            return Ok(None);
        }
        while more {
            let Some(next) = self.line() else { break };
            line.end = next.start + next.content().len();
            if next.is_comment() {
                continue;
            }
            if next.is_blank() {
                line.blank_continuation.get_or_insert(next.start);
                continue;
            }
            more = self.append(&mut line, next.content(), next.start, 0, escape)?;
        }
        Ok(Some(line))
    }

    /// Adds a physical line from its byte `from` on; true if the next line continues it.
    fn append(
        &self,
        line: &mut LogicalLine,
        content: &[u8],
        start: usize,
        from: usize,
        escape: Escape,
    ) -> Result<bool, ParseError> {
        let bytes = content.get(from..).unwrap_or_default();
        let text = self.utf8(bytes, start + from)?;
        let (text, more) = without_continuation(text, escape.as_char());
        if !text.is_empty() {
            line.pieces.push((line.text.len(), start + from));
            line.text.push_str(text);
        }
        Ok(more)
    }

    /// `bytes`, found at `offset` of the file, as text.
    pub(super) fn utf8<'b>(&self, bytes: &'b [u8], offset: usize) -> Result<&'b str, ParseError> {
        std::str::from_utf8(bytes).map_err(|e| {
            let at = offset + e.valid_up_to();
            ParseError::new(self.map.span(at..at + 1), "invalid UTF-8")
                .with_hint("save the Dockerfile with the encoding UTF-8")
        })
    }
}

/// Takes the escape character off that ends a line (blanks may follow it) and tells if it was there.
/// After another escape character it is no continuation.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(head) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else {
        return (line, false);
    };
    if head.ends_with(escape) {
        (line, false)
    } else {
        (head, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<(String, Vec<usize>)> {
        let map = SourceMap::new(text.as_bytes());
        let mut reader = Reader::new(&map);
        let mut lines = Vec::new();
        while let Some(first) = reader.line() {
            if let Some(line) = reader.logical_line(&first, Escape::Backslash).expect("UTF-8") {
                let at = (0..line.text.len())
                    .map(|i| line.source_range(i..i + 1).start)
                    .collect();
                lines.push((line.text, at));
            }
        }
        lines
    }

    #[test]
    fn every_byte_knows_where_it_comes_from() {
        let text = "\u{feff} # c\n\n  RUN a\\\n# c\n b \\ \r\n\n\tc\nRUN d\\\\\nX\\";
        let lines = read(text);
        let texts: Vec<&str> = lines.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["RUN a b \tc", "RUN d\\\\", "X"]);
        for (line, offsets) in lines {
            for (byte, at) in line.bytes().zip(offsets) {
                assert_eq!(byte, text.as_bytes()[at]);
            }
        }
    }

    #[test]
    fn a_range_ends_before_the_continuation() {
        let map = SourceMap::new(b"RUN ab\\\ncd");
        let mut reader = Reader::new(&map);
        let first = reader.line().expect("a line");
        let line = reader
            .logical_line(&first, Escape::Backslash)
            .expect("UTF-8")
            .expect("text");
        assert_eq!(line.source_range(4..6), 4..6);
        assert_eq!(line.source_range(6..8), 8..10);
        assert_eq!(line.source_range(4..8), 4..10);
    }

    #[test]
    fn bad_bytes_matter_outside_of_comments_only() {
        let map = SourceMap::new(b"# \xff\nRUN \xff");
        let mut reader = Reader::new(&map);
        let first = reader.line().expect("a line");
        assert!(
            reader
                .logical_line(&first, Escape::Backslash)
                .expect("a comment")
                .is_none()
        );
        let second = reader.line().expect("a line");
        let error = reader
            .logical_line(&second, Escape::Backslash)
            .err()
            .expect("an error");
        assert_eq!((error.span.start.line, error.span.start.column), (2, 5));
    }
}
