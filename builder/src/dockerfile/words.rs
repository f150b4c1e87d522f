//! The ways in which instructions split their arguments. Nothing is expanded here.

use std::ops::Range;

/// A word and its place in the logical line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) range: Range<usize>,
}

/// Part of a logical line, with its place there.
#[derive(Clone, Copy)]
pub(super) struct Fragment<'a> {
    pub(super) text: &'a str,
    pub(super) base: usize,
}

impl<'a> Fragment<'a> {
    /// The part of it from byte `start` to `end`, which are bounds of characters.
    fn slice(self, start: usize, end: usize) -> Fragment<'a> {
        Fragment {
            text: self.text.get(start..end).unwrap_or_default(),
            base: self.base + start,
        }
    }

    /// Without white space around it.
    pub(super) fn trim(self) -> Fragment<'a> {
        let start = self.text.len() - self.text.trim_start().len();
        self.slice(start, (start + self.text.trim().len()).max(start))
    }

    /// The whole of it as one word.
    pub(super) fn piece(self) -> Piece {
        Piece {
            text: self.text.to_owned(),
            range: self.base..self.base + self.text.len(),
        }
    }

    /// The first word and the rest, between which there is white space that `blank` knows.
    pub(super) fn split_first(self, blank: fn(char) -> bool) -> (Fragment<'a>, Option<Fragment<'a>>) {
        let Some(end) = self.text.find(blank) else {
            return (self, None);
        };
        let rest = self.text.get(end..).unwrap_or_default();
        let next = end + rest.len() - rest.trim_start_matches(blank).len();
        (self.slice(0, end), Some(self.slice(next, self.text.len())))
    }
}

/// The white space between the words of COPY, EXPOSE and their like: not all that Unicode has.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\x0b' | '\x0c' | '\r' | ' ')
}

/// One word of all, or none if there is nothing.
pub(super) fn whole(fragment: Fragment<'_>) -> Vec<Piece> {
    if fragment.text.is_empty() {
        Vec::new()
    } else {
        vec![fragment.piece()]
    }
}

/// Words between blanks, without a thought for quotes.
pub(super) fn by_blanks(fragment: Fragment<'_>) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut rest = (!fragment.text.is_empty()).then_some(fragment);
    while let Some(fragment) = rest {
        let (word, next) = fragment.split_first(is_blank);
        words.push(word.piece());
        rest = next;
    }
    words
}

/// The words of ENV, LABEL and ARG: white space splits outside of quotes; quotes and escapes stay
/// for expansion to deal with. A word ends with the text even inside of quotes.
pub(super) fn with_quotes(fragment: Fragment<'_>, escape: char) -> Vec<Piece> {
    let mut words = Vec::new();
    let mut quote: Option<char> = None;
    let mut word: Option<Piece> = None;
    let mut rest = fragment.text.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(word.take().filter(|w| !w.text.is_empty()));
            continue;
        }
        let start = fragment.base + at;
        let piece = word.get_or_insert_with(|| Piece {
            text: String::new(),
            range: start..start,
        });
        let escapes = c == escape && quote != Some('\'');
        match quote {
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        piece.range.end = start + c.len_utf8();
        if !escapes {
            piece.text.push(c);
        } else if let Some((_, escaped)) = rest.next() {
            piece.text.extend([c, escaped]);
            piece.range.end += escaped.len_utf8();
        }
    }
    words.extend(word.filter(|w| !w.text.is_empty()));
    words
}

/// The flags at the start of an instruction's arguments (`--name=value`, quotes and escapes taken
/// away) and what follows them. A lone `--` ends the flags and vanishes.
pub(super) fn flags(fragment: Fragment<'_>, escape: char) -> (Vec<Piece>, Fragment<'_>) {
    let mut flags = Vec::new();
    let mut rest = fragment;
    loop {
        let start = rest.text.len() - rest.text.trim_start().len();
        rest = rest.slice(start, rest.text.len());
        if !rest.text.starts_with("--") {
            return (flags, rest);
        }
        let (flag, length) = flag(rest, escape);
        rest = rest.slice(length, rest.text.len());
        if flag.text == "--" {
            return (flags, rest);
        }
        flags.push(flag);
    }
}

/// The flag at the start of the fragment and how many bytes it takes.
fn flag(fragment: Fragment<'_>, escape: char) -> (Piece, usize) {
    let mut text = String::new();
    let mut quote: Option<char> = None;
    let mut rest = fragment.text.char_indices();
    let mut end = fragment.text.len();
    while let Some((at, c)) = rest.next() {
        match quote {
            None if c.is_whitespace() => {
                end = at;
                break;
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape => text.extend(rest.next().map(|(_, escaped)| escaped)),
            _ => text.push(c),
        }
    }
    (
        Piece {
            text,
            range: fragment.base..fragment.base + end,
        },
        end,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(text: &str) -> Fragment<'_> {
        Fragment { text, base: 0 }
    }

    fn texts(pieces: &[Piece]) -> Vec<&str> {
        pieces.iter().map(|piece| piece.text.as_str()).collect()
    }

    #[test]
    fn quotes_and_escapes_keep_words_together() {
        let split = |text| with_quotes(fragment(text), '\\');
        assert_eq!(texts(&split("foo bar 'abc xyz'")), ["foo", "bar", "'abc xyz'"]);
        assert_eq!(texts(&split(r#"a\ b "c\" d" e"#)), [r"a\ b", r#""c\" d""#, "e"]);
        assert_eq!(texts(&split(r"'a\' b")), [r"'a\'", "b"]);
        assert_eq!(texts(&split("a=\"x y")), ["a=\"x y"]);
        assert_eq!(texts(&split(r"a \")), ["a"]);
        assert_eq!(texts(&split("föo\u{a0}\"âbc xÿz\"")), ["föo", "\"âbc xÿz\""]);
        assert_eq!(texts(&with_quotes(fragment(r"C:\d` e"), '`')), [r"C:\d` e"]);
    }

    #[test]
    fn words_know_their_place() {
        let text = " é='a b'  c\\ d ";
        for piece in with_quotes(fragment(text), '\\') {
            assert_eq!(&text[piece.range], piece.text);
        }
        for piece in by_blanks(fragment("a  é\tc")) {
            assert_eq!(&"a  é\tc"[piece.range], piece.text);
        }
    }

    #[test]
    fn flags_lose_their_quotes() {
        let line = r#"--a="b c"d --e\ f --x='\'' -- --g h"#;
        let (found, rest) = flags(fragment(line), '\\');
        assert_eq!(texts(&found), ["--a=b cd", "--e f", "--x='"]);
        assert_eq!(rest.text, " --g h");
        assert_eq!(&line[found[1].range.clone()], r"--e\ f");
        let (found, rest) = flags(fragment("-a --b"), '\\');
        assert_eq!((texts(&found), rest.text), (vec![], "-a --b"));
    }
}
