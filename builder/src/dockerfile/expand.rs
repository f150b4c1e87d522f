//! Variables and quotes in the words of an instruction, by the rules of the Dockerfile reference's
//! "Environment replacement" and of BuildKit, which follows the POSIX shell in most of them.

mod pattern;
mod substitute;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher;

/// The character that escapes another one and continues a line: the `escape` directive's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Escape {
    /// `\`, unless the file says otherwise.
    #[default]
    Backslash,
    /// `` ` ``, by `# escape=` and a backquote.
    Backquote,
}

impl Escape {
    /// The character itself.
    pub fn as_char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backquote => '`',
        }
    }
}

/// Where the values of variables come from.
pub trait Environment {
    /// The value of `name`; `None` where it is unset, which differs from set and empty.
    fn get(&self, name: &str) -> Option<&str>;
}

impl Environment for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl<S: BuildHasher> Environment for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }
}

/// Pairs in order; the last of a name counts, as in an image's `Env`.
impl Environment for [(String, String)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// An environment in which nothing is set.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoVariables;

impl Environment for NoVariables {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// A word after expansion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text, without quotes and escapes.
    pub text: String,
    /// The variables it asked for that are set.
    pub found: BTreeSet<String>,
    /// The variables it asked for that are unset: what a warning on an undeclared `ARG` needs.
    pub unset: BTreeSet<String>,
}

/// A word that can't be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to process {word:?}: {problem}")]
pub struct ExpandError {
    /// The word as the Dockerfile has it, cut if it is very long.
    pub word: String,
    /// What is wrong with it.
    pub problem: ExpandProblem,
}

/// What keeps a word from being expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandProblem {
    /// A quote is opened and not closed.
    #[error("unexpected end of statement while looking for matching {0}")]
    UnterminatedQuote(char),
    /// `${` without its `}`.
    #[error("syntax error: missing '}}'")]
    MissingBrace,
    /// `${x/pattern` without the `/` before the replacement.
    #[error("syntax error: missing '/' in ${{}}")]
    MissingSlash,
    /// `${` is followed by what can't start a name.
    #[error("syntax error: bad substitution")]
    BadSubstitution,
    /// A name is followed by what is no modifier, as in `${x=y}`.
    #[error("unsupported modifier ({0}) in substitution")]
    UnsupportedModifier(String),
    /// `${x?message}` or `${x:?message}`, and `x` is unset or empty.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// What the Dockerfile says about it, cut if it is very long, or that it must not be unset or empty.
        message: String,
    },
    /// The pattern of `#`, `%` or `/` escapes a character that needs no escape, or is too long.
    #[error("invalid pattern ({pattern}) in substitution: {reason}")]
    InvalidPattern {
        /// The pattern, cut if it is very long.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Substitutions lie in one another deeper than any real file's.
    #[error("substitutions are nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// The values make the text longer than any real file's.
    #[error("the text would grow beyond {MAX_LENGTH} bytes")]
    TooLong,
}

/// Nested `${a:-${b:-...}}` beyond this is refused, which bounds the stack.
const MAX_DEPTH: usize = 100;

/// A text that variables make longer than this is refused: values that hold one another can grow
/// exponentially.
const MAX_LENGTH: usize = 16 << 20;

/// Expands one word: variables replaced, quotes and escapes taken away, blanks kept.
///
/// # Errors
/// If the word has a syntax error, or demands a variable (`${x?}`) that is not set.
pub fn expand_word(
    word: &str,
    escape: Escape,
    env: &(impl Environment + ?Sized),
) -> Result<Expanded, ExpandError> {
    Lexer::new(word, escape, env).run().map(|lexed| lexed.expanded)
}

/// Expands a word that may become several, as `EXPOSE` does: blanks outside of quotes split, in the
/// values of variables too.
///
/// # Errors
/// As [`expand_word`].
pub fn expand_words(
    word: &str,
    escape: Escape,
    env: &(impl Environment + ?Sized),
) -> Result<Vec<String>, ExpandError> {
    Lexer::new(word, escape, env).run().map(|lexed| lexed.words)
}

/// Expands the body of a heredoc of COPY or ADD: quotes are ordinary text there, and the escape
/// character is `\` whatever the `escape` directive says.
///
/// # Errors
/// As [`expand_word`].
pub fn expand_heredoc(body: &str, env: &(impl Environment + ?Sized)) -> Result<Expanded, ExpandError> {
    let mut lexer = Lexer::new(body, Escape::Backslash, env);
    lexer.quotes = Quotes::Ordinary;
    lexer.run().map(|lexed| lexed.expanded)
}

/// Splits a line into its words with quotes and escapes kept and no variable replaced: how heredocs
/// are looked for.
pub(super) fn split_raw(line: &str) -> Result<Vec<String>, ExpandError> {
    let mut lexer = Lexer::new(line, Escape::Backslash, &NoVariables);
    lexer.quotes = Quotes::Kept;
    lexer.raw_escapes = true;
    lexer.keep_unset = true;
    lexer.run().map(|lexed| lexed.words)
}

/// Splits into words without replacing variables; quotes are `kept` or taken away.
pub(super) fn split_unexpanded(text: &str, kept: bool) -> Result<Vec<String>, ExpandError> {
    let mut lexer = Lexer::new(text, Escape::Backslash, &NoVariables);
    lexer.quotes = if kept { Quotes::Kept } else { Quotes::Removed };
    lexer.keep_unset = true;
    lexer.run().map(|lexed| lexed.words)
}

/// What becomes of quotes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    /// They quote, and are taken away.
    Removed,
    /// They quote, and stay.
    Kept,
    /// They are characters like others.
    Ordinary,
}

struct Lexed {
    expanded: Expanded,
    words: Vec<String>,
}

/// The words of a text as they are found.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    /// Text whose blanks end a word.
    fn split(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.end();
            } else {
                self.current.push(c);
            }
        }
    }

    fn end(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }
}

/// Walks a word once, left to right; the contents of `${...}` are walked by recursion.
struct Lexer<'a, E: Environment + ?Sized> {
    source: &'a str,
    rest: std::str::Chars<'a>,
    escape: char,
    quotes: Quotes,
    raw_escapes: bool,
    keep_unset: bool,
    depth: usize,
    env: &'a E,
    found: BTreeSet<String>,
    unset: BTreeSet<String>,
}

type Step<T> = Result<T, ExpandProblem>;

impl<'a, E: Environment + ?Sized> Lexer<'a, E> {
    fn new(source: &'a str, escape: Escape, env: &'a E) -> Self {
        Self {
            source,
            rest: source.chars(),
            escape: escape.as_char(),
            quotes: Quotes::Removed,
            raw_escapes: false,
            keep_unset: false,
            depth: 0,
            env,
            found: BTreeSet::new(),
            unset: BTreeSet::new(),
        }
    }

    fn run(mut self) -> Result<Lexed, ExpandError> {
        let mut words = Words::default();
        let text = self.until(None, &mut words).map_err(|problem| ExpandError {
            word: cut(self.source),
            problem,
        })?;
        words.end();
        Ok(Lexed {
            expanded: Expanded {
                text,
                found: self.found,
                unset: self.unset,
            },
            words: words.done,
        })
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    /// Reads up to `stop`, which is taken but not returned, or to the end where there is none.
    fn until(&mut self, stop: Option<char>, words: &mut Words) -> Step<String> {
        let mut out = String::new();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.rest.next();
                return Ok(out);
            }
            let quotes = self.quotes != Quotes::Ordinary;
            match c {
                '\'' if quotes => self.single_quoted(&mut out, words)?,
                '"' if quotes => self.double_quoted(&mut out, words)?,
                '$' => {
                    let value = self.dollar()?;
                    words.split(&value);
                    append(&mut out, &value)?;
                }
                '<' => self.maybe_heredoc(&mut out, words),
                _ if c == self.escape => self.escaped(&mut out, words),
                _ => {
                    self.rest.next();
                    out.push(c);
                    if c.is_whitespace() {
                        words.end();
                    } else {
                        words.current.push(c);
                    }
                }
            }
        }
        match stop {
            None => Ok(out),
            Some('/') => Err(ExpandProblem::MissingSlash),
            Some(_) => Err(ExpandProblem::MissingBrace),
        }
    }

    /// An escape character and what it escapes; at the end of the text it vanishes.
    fn escaped(&mut self, out: &mut String, words: &mut Words) {
        let escape = self.rest.next().filter(|_| self.raw_escapes);
        for c in escape.into_iter().chain(self.rest.next()) {
            out.push(c);
            words.current.push(c);
        }
    }

    /// `<<` keeps the blanks after it, so that `<< EOF` is one word.
    fn maybe_heredoc(&mut self, out: &mut String, words: &mut Words) {
        let mut text = String::new();
        text.extend(self.rest.next());
        if self.peek() == Some('<') {
            text.extend(self.rest.next());
            while let Some(blank @ ('\t' | '\r' | ' ')) = self.peek() {
                text.push(blank);
                self.rest.next();
            }
        }
        out.push_str(&text);
        words.current.push_str(&text);
    }

    fn single_quoted(&mut self, out: &mut String, words: &mut Words) -> Step<()> {
        let from = out.len();
        let quote = self.rest.next();
        if self.quotes == Quotes::Kept {
            out.extend(quote);
        }
        loop {
            match self.rest.next() {
                None => return Err(ExpandProblem::UnterminatedQuote('\'')),
                Some('\'') => break,
                Some(c) => out.push(c),
            }
        }
        if self.quotes == Quotes::Kept {
            out.push('\'');
        }
        words.current.push_str(&out[from..]);
        Ok(())
    }

    fn double_quoted(&mut self, out: &mut String, words: &mut Words) -> Step<()> {
        let from = out.len();
        let quote = self.rest.next();
        if self.quotes == Quotes::Kept {
            out.extend(quote);
        }
        loop {
            match self.peek() {
                None => return Err(ExpandProblem::UnterminatedQuote('"')),
                Some('$') => append(out, &self.dollar()?)?,
                Some('"') => {
                    self.rest.next();
                    break;
                }
                Some(c) if c == self.escape => self.escaped_in_quotes(out),
                Some(c) => {
                    self.rest.next();
                    out.push(c);
                }
            }
        }
        if self.quotes == Quotes::Kept {
            out.push('"');
        }
        words.current.push_str(&out[from..]);
        Ok(())
    }

    /// In double quotes only `"`, `$` and the escape character itself can be escaped; before others
    /// it stays. At the end of the text it vanishes, and the missing quote is reported.
    fn escaped_in_quotes(&mut self, out: &mut String) {
        self.rest.next();
        if self.raw_escapes {
            out.push(self.escape);
        }
        match self.peek() {
            None => {}
            Some(c) if c == '"' || c == '$' || c == self.escape => {
                self.rest.next();
                out.push(c);
            }
            Some(_) => out.push(self.escape),
        }
    }

    fn dollar(&mut self) -> Step<String> {
        self.rest.next();
        if self.peek() == Some('{') {
            self.rest.next();
            if self.depth >= MAX_DEPTH {
                return Err(ExpandProblem::TooDeep);
            }
            self.depth += 1;
            let value = self.braces()?;
            self.depth -= 1;
            return Ok(value);
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        match self.lookup(&name) {
            None if self.keep_unset => Ok(format!("${name}")),
            value => Ok(value.unwrap_or_default()),
        }
    }

    /// A variable's name: digits, or one of the shell's special parameters, or a word. Empty where
    /// none starts here.
    fn name(&mut self) -> String {
        let rest = self.rest.as_str();
        let word = |c: char| c == '_' || c.is_alphanumeric();
        let length = match rest.chars().next() {
            Some(c) if c.is_numeric() => rest.find(|c: char| !c.is_numeric()).unwrap_or(rest.len()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => rest.find(|c| !word(c)).unwrap_or(rest.len()),
        };
        let (name, rest) = rest.split_at(length);
        self.rest = rest.chars();
        name.to_owned()
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name).map(str::to_owned);
        let names = if value.is_some() {
            &mut self.found
        } else {
            &mut self.unset
        };
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        value
    }
}

fn append(out: &mut String, value: &str) -> Step<()> {
    if out.len() + value.len() > MAX_LENGTH {
        return Err(ExpandProblem::TooLong);
    }
    out.push_str(value);
    Ok(())
}

/// The start of a text, short enough for a message.
fn cut(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((at, _)) => format!("{}...", &text[..at]),
    }
}

#[cfg(test)]
mod tests;
