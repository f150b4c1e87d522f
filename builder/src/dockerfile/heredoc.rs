//! Here-documents: `<<EOF` in RUN, COPY and ADD.

use std::borrow::Cow;

use super::expand::{ExpandError, split_raw, split_unexpanded};
use super::source::Span;

/// A here-document with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes: the line that ends the body, and the file's name in COPY.
    pub name: String,
    /// The lines between, with their line endings, as the file has them.
    pub body: String,
    /// Whether COPY and ADD replace variables in the body: no part of the delimiter is quoted. In
    /// RUN the shell decides.
    pub expand: bool,
    /// `<<-`: tabs at the start of lines don't count.
    pub strip_tabs: bool,
    /// The file descriptor before `<<`; 0 where there is none.
    pub file_descriptor: u32,
    /// Where the body is, without the line of the delimiter.
    pub span: Span,
}

impl Heredoc {
    /// The body as it is used: of `<<-` the tabs are taken off.
    pub fn content(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.body);
        }
        let lines = self.body.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// The head of a here-document, before its body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeredocMark {
    pub(super) name: String,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
    pub(super) file_descriptor: u32,
}

impl HeredocMark {
    /// Whether `line` (without its ending) ends the body.
    pub(super) fn ends_at(&self, line: &[u8]) -> bool {
        let tabs = match self.strip_tabs {
            true => line.iter().take_while(|b| **b == b'\t').count(),
            false => 0,
        };
        line.get(tabs..) == Some(self.name.as_bytes())
    }
}

/// The here-documents that a line opens, in order.
pub(super) fn marks(line: &str) -> Result<Vec<HeredocMark>, ExpandError> {
    if !line.contains("<<") {
        return Ok(Vec::new());
    }
    // A line of shell need not be one that these rules can split (`echo it's`): then it has none.
    let words = split_raw(line).unwrap_or_default();
    words.iter().filter_map(|word| mark(word).transpose()).collect()
}

/// The here-document that a word opens, if it does: `[N]<<[-]NAME`, quotes around the name or parts.
pub(super) fn mark(word: &str) -> Result<Option<HeredocMark>, ExpandError> {
    let Some((descriptor, rest)) = word.split_once("<<") else {
        return Ok(None);
    };
    if !descriptor.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let words = split_unexpanded(rest, false)?;
    let [name] = words.as_slice() else {
        return Ok(None);
    };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let kept: usize = split_unexpanded(rest, true)?
        .iter()
        .map(|word| quotes(word))
        .sum();
    Ok(Some(HeredocMark {
        expand: quotes(name) == kept,
        name: name.clone(),
        strip_tabs,
        file_descriptor: descriptor.parse().unwrap_or(0),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_open_a_heredoc() {
        for word in [
            "<<EOF",
            "<<'EOF'",
            "<<\"EOF\"",
            "<<-EOF",
            "<<EO\"F\"",
            "<< EOF",
            "<<- EOF",
        ] {
            assert_eq!(mark(word).expect("valid").expect(word).name, "EOF");
        }
        for word in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "a<<EOF"] {
            assert_eq!(mark(word), Ok(None), "{word}");
        }
        for word in ["<<'EOF", "<<\"EOF", "<<EOF'"] {
            assert!(mark(word).is_err(), "{word}");
        }
    }

    #[test]
    fn a_quote_in_the_name_stops_expansion() {
        let expands = |word| mark(word).expect("valid").map(|m| (m.name, m.expand));
        assert_eq!(expands("<<EOF"), Some(("EOF".to_owned(), true)));
        assert_eq!(expands("<<e'o'f"), Some(("eof".to_owned(), false)));
        assert_eq!(expands(r"<<eo\'f"), Some(("eo'f".to_owned(), true)));
        assert_eq!(expands(r"<<'e'o\'f"), Some(("eo'f".to_owned(), false)));
        assert_eq!(expands("<<'one two'"), Some(("one two".to_owned(), false)));
        assert_eq!(expands("<<$EOF"), Some(("$EOF".to_owned(), true)));
    }

    #[test]
    fn lines_with_several() {
        let names =
            |line| -> Vec<String> { marks(line).expect("valid").into_iter().map(|m| m.name).collect() };
        assert_eq!(names("RUN <<A cat > /a; 3<<-B cat"), ["A", "B"]);
        assert_eq!(names("RUN << -EOF"), ["-EOF"]);
        assert_eq!(names("RUN '<<EOF' \"<<EOF\""), [""; 0]);
        assert_eq!(names("RUN echo it's <<EOF"), [""; 0]);
        assert_eq!(names("RUN echo ${X:-$Y} <<EOF"), ["EOF"]);
        assert_eq!(names("RUN echo $((1<<2))"), [""; 0]);
    }

    #[test]
    fn tabs_are_stripped_of_every_line() {
        let mut heredoc = Heredoc {
            name: "E".to_owned(),
            body: "\t\ta\n\t b\n".to_owned(),
            expand: true,
            strip_tabs: true,
            file_descriptor: 0,
            span: Span::default(),
        };
        assert_eq!(heredoc.content(), "a\n b\n");
        heredoc.strip_tabs = false;
        assert_eq!(heredoc.content(), "\t\ta\n\t b\n");
    }
}
