//! Patterns of file names: those of Go's `filepath.Match`, which `COPY` and `ADD` use for their
//! sources, and the same with `**`, as `.dockerignore` has them.
//!
//! - `*` is any run of characters but `/`
//! - `?` is any character but `/`
//! - `[a-z]` is one of a class, `[^a-z]` one that is not
//! - `\` takes away the meaning of the character after it
//!
//! Names are bytes: a byte that is no UTF-8 is a character by itself. A match takes at most the
//! length of the pattern times the length of the name.

/// A pattern that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern {pattern:?}: {reason}")]
pub struct GlobError {
    /// The pattern, invalid UTF-8 replaced.
    pub pattern: String,
    /// What is wrong.
    pub reason: &'static str,
}

/// Whether all of `name` matches `pattern`. `*` and `?` don't match `/`, so they stay in one
/// component of a path.
///
/// # Errors
/// If the pattern ends in `\` or within a class, or has an empty or a reversed range.
pub fn matches(pattern: impl AsRef<[u8]>, name: impl AsRef<[u8]>) -> Result<bool, GlobError> {
    Ok(Glob::parse(pattern.as_ref(), DoubleStar::IsStar)?.matches(name.as_ref()))
}

/// Whether `pattern` has a character with a meaning, so that it must be matched against names.
pub fn is_pattern(pattern: impl AsRef<[u8]>) -> bool {
    pattern
        .as_ref()
        .iter()
        .any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

/// Whether `pattern` can match several names: it has a wildcard that is not escaped.
pub fn has_wildcard(pattern: impl AsRef<[u8]>) -> bool {
    let mut bytes = pattern.as_ref().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// What `**` means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum DoubleStar {
    /// The same as `*`.
    IsStar,
    /// Any number of directories.
    CrossesDirectories,
}

/// A character, or a byte that is part of none.
type Symbol = u32;

const SLASH: Symbol = b'/' as Symbol;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(Symbol),
    /// `?`
    One,
    /// `*`
    Star,
    /// `[...]`
    Class {
        negated: bool,
        ranges: Vec<(Symbol, Symbol)>,
    },
    /// `**` within a pattern: nothing, or anything up to and with a `/`.
    Directories,
    /// `**` at the end: anything. At the start of a pattern without other wildcards, likewise.
    Anything,
}

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    /// The only name that matches, if there are no wildcards.
    literal: Option<Vec<u8>>,
}

impl Glob {
    pub(crate) fn parse(pattern: &[u8], double_star: DoubleStar) -> Result<Self, GlobError> {
        let error = |reason| GlobError {
            pattern: String::from_utf8_lossy(pattern).into_owned(),
            reason,
        };
        let symbols = symbols(pattern);
        let mut rest = symbols.as_slice();
        let mut tokens = Vec::new();
        while let Some((&symbol, tail)) = rest.split_first() {
            rest = tail;
            tokens.push(match u8::try_from(symbol) {
                Ok(b'*') if double_star == DoubleStar::CrossesDirectories && starts(rest, b'*') => {
                    rest = rest.get(1..).unwrap_or_default();
                    // `**/` is one thing, whatever number of directories it stands for.
                    let slash = starts(rest, b'/');
                    rest = rest.get(usize::from(slash)..).unwrap_or_default();
                    let suffix = tokens.is_empty() && !slash && all_literal(rest);
                    if rest.is_empty() || suffix {
                        Token::Anything
                    } else {
                        Token::Directories
                    }
                }
                Ok(b'*') => Token::Star,
                Ok(b'?') => Token::One,
                Ok(b'[') => class(&mut rest).map_err(error)?,
                Ok(b'\\') => {
                    let (&escaped, tail) = rest.split_first().ok_or_else(|| error("'\\' at its end"))?;
                    rest = tail;
                    Token::Literal(escaped)
                }
                _ => Token::Literal(symbol),
            });
        }
        let literal = tokens.iter().map(Token::literal).collect::<Option<Vec<Symbol>>>();
        Ok(Self {
            tokens,
            literal: literal.map(|symbols| bytes(&symbols)),
        })
    }

    /// Whether all of `name` matches.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        match &self.literal {
            Some(literal) => literal == name,
            None => self.run(&symbols(name)),
        }
    }

    /// Whether something below the directory `path` could match.
    pub(crate) fn may_match_below(&self, path: &[u8]) -> bool {
        let mut path = symbols(path);
        path.push(SLASH);
        // Up to the first wildcard the two must agree; what follows a wildcard is anyone's guess.
        for (i, symbol) in path.iter().enumerate() {
            match self.tokens.get(i) {
                Some(Token::Literal(literal)) if literal == symbol => {}
                Some(Token::Literal(_)) | None => return false,
                Some(_) => return true,
            }
        }
        self.tokens.len() > path.len()
    }

    /// Runs the tokens as an automaton: state `i` is "before token `i`"; a second row holds those
    /// that are within the characters of a `Directories`.
    fn run(&self, name: &[Symbol]) -> bool {
        let length = self.tokens.len();
        let mut before = vec![false; length + 1];
        let mut within = vec![false; length];
        before[0] = true;
        self.skip_empty(&mut before);
        let mut next = vec![false; length + 1];
        for symbol in name {
            next.fill(false);
            for (i, token) in self.tokens.iter().enumerate() {
                let here = before[i];
                match token {
                    Token::Directories => {
                        within[i] |= here;
                        next[i + 1] |= within[i] && *symbol == SLASH;
                    }
                    Token::Anything => next[i] |= here,
                    Token::Star => next[i] |= here && *symbol != SLASH,
                    _ => next[i + 1] |= here && token.takes(*symbol),
                }
            }
            std::mem::swap(&mut before, &mut next);
            self.skip_empty(&mut before);
        }
        before[length]
    }

    /// Passes the tokens that may match nothing.
    fn skip_empty(&self, states: &mut [bool]) {
        for (i, token) in self.tokens.iter().enumerate() {
            if matches!(token, Token::Star | Token::Directories | Token::Anything) {
                states[i + 1] |= states[i];
            }
        }
    }
}

impl Token {
    fn literal(&self) -> Option<Symbol> {
        match self {
            Self::Literal(symbol) => Some(*symbol),
            _ => None,
        }
    }

    /// Whether a token for one character takes this one.
    fn takes(&self, symbol: Symbol) -> bool {
        match self {
            Self::Literal(literal) => *literal == symbol,
            Self::One => symbol != SLASH,
            Self::Class { negated, ranges } => {
                let within = ranges.iter().any(|(low, high)| (*low..=*high).contains(&symbol));
                within != *negated
            }
            Self::Star | Self::Directories | Self::Anything => false,
        }
    }
}

fn starts(symbols: &[Symbol], with: u8) -> bool {
    symbols.first() == Some(&Symbol::from(with))
}

fn all_literal(symbols: &[Symbol]) -> bool {
    !symbols
        .iter()
        .any(|s| matches!(u8::try_from(*s), Ok(b'*' | b'?' | b'[' | b']' | b'\\')))
}

/// Reads a class, after its `[`: at least one character or range up to `]`.
fn class(rest: &mut &[Symbol]) -> Result<Token, &'static str> {
    let negated = starts(rest, b'^');
    *rest = rest.get(usize::from(negated)..).unwrap_or_default();
    let mut ranges = Vec::new();
    while ranges.is_empty() || !starts(rest, b']') {
        let low = bound(rest)?;
        let mut high = low;
        if starts(rest, b'-') {
            *rest = rest.get(1..).unwrap_or_default();
            high = bound(rest)?;
        }
        if low > high {
            return Err("a class with a reversed range");
        }
        ranges.push((low, high));
    }
    *rest = rest.get(1..).unwrap_or_default();
    Ok(Token::Class { negated, ranges })
}

/// One end of a range in a class.
fn bound(rest: &mut &[Symbol]) -> Result<Symbol, &'static str> {
    const OPEN: &str = "a class '[' without its ']'";
    let mut next = || -> Result<Symbol, &'static str> {
        let (&symbol, tail) = rest.split_first().ok_or(OPEN)?;
        *rest = tail;
        Ok(symbol)
    };
    match next()? {
        symbol if symbol == Symbol::from(b'\\') => next(),
        symbol if [b'-', b']'].map(Symbol::from).contains(&symbol) => Err("a class with an empty range"),
        symbol => Ok(symbol),
    }
}

/// Bytes that are no UTF-8 get values of their own, from here, above all characters.
const BEYOND: Symbol = char::MAX as Symbol + 1;

/// The characters of a name.
fn symbols(bytes: &[u8]) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        symbols.extend(chunk.valid().chars().map(Symbol::from));
        symbols.extend(chunk.invalid().iter().map(|byte| BEYOND + Symbol::from(*byte)));
    }
    symbols
}

/// The name that has these characters.
fn bytes(symbols: &[Symbol]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(symbols.len());
    for symbol in symbols {
        match char::from_u32(*symbol) {
            Some(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            None => bytes.extend(u8::try_from(symbol.wrapping_sub(BEYOND))),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_escaped_wildcard_is_none() {
        assert!(has_wildcard("a*") && has_wildcard(r"\\?") && has_wildcard("[a]"));
        assert!(!has_wildcard(r"a\*\[b]\?") && !has_wildcard(r"a\"));
    }

    #[test]
    fn wildcards_stay_in_a_component() {
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("[[]br].txt", "[br].txt", true),
            (r"[\]a]", "]", true),
            (r"[\-x]", "-", true),
            (r"[x\-]", "z", false),
            ("[!a]", "!", true),
            ("", "", true),
            ("**", "a/b", false),
            ("**", "ab", true),
            ("*", "\u{fffd}x", true),
        ] {
            assert_eq!(matches(pattern, name), Ok(expected), "{pattern} {name}");
        }
        assert_eq!(matches(b"a\xff?", b"a\xff\xfe"), Ok(true));
    }

    #[test]
    fn broken_patterns_are_errors() {
        for pattern in [
            "[]a]", "[-]", "[x-]", "[-x]", r"[a-b-c]", "[", "[^", "[^bc", "a[", r"a\",
        ] {
            assert!(matches(pattern, "a").is_err(), "{pattern}");
        }
        assert!(matches("[z-a]", "b").is_err());
    }

    #[test]
    fn a_hostile_pattern_is_fast() {
        let pattern = "*a".repeat(500);
        assert_eq!(matches(pattern, "a".repeat(499) + "b"), Ok(false));
    }

    /// `**` between components stands for any number of them, told by trying each number.
    fn components_match(pattern: &[&str], name: &[&str]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ["**"] => !name.is_empty(),
            ["**", rest @ ..] => (0..=name.len()).any(|n| components_match(rest, &name[n..])),
            [first, rest @ ..] => name.split_first().is_some_and(|(component, name)| {
                matches(first, component).expect("a pattern") && components_match(rest, name)
            }),
        }
    }

    proptest! {
        #[test]
        fn double_stars_are_components(
            pattern in prop::collection::vec(
                prop::sample::select(vec!["**", "*", "a", "b*", "?a", "[ab]", "*a*"]),
                1..5,
            ),
            name in prop::collection::vec("[ab]{1,3}", 1..6),
        ) {
            let glob = Glob::parse(pattern.join("/").as_bytes(), DoubleStar::CrossesDirectories)
                .expect("a pattern");
            let name: Vec<&str> = name.iter().map(String::as_str).collect();
            let expected = components_match(&pattern, &name);
            prop_assert_eq!(glob.matches(name.join("/").as_bytes()), expected);
        }

        #[test]
        fn no_pattern_panics(pattern in "[a*?\\[\\]^\\\\/.-]{0,12}", name in "[a/.-]{0,12}") {
            let _ = matches(&pattern, &name);
            if let Ok(glob) = Glob::parse(pattern.as_bytes(), DoubleStar::CrossesDirectories)
                && glob.matches(format!("d/{name}").as_bytes())
            {
                prop_assert!(glob.may_match_below(b"d"));
            }
        }

        #[test]
        fn an_escaped_name_matches_itself_only(name in any::<Vec<u8>>(), other in any::<Vec<u8>>()) {
            let name = String::from_utf8_lossy(&name).into_owned();
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            prop_assert_eq!(matches(&escaped, &name), Ok(true));
            prop_assert_eq!(matches(&escaped, &other), Ok(name.as_bytes() == other));
        }
    }
}
