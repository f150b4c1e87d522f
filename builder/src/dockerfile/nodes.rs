//! The syntax tree: instructions with their flags and words, before anything has a meaning.

use std::fmt;

use super::directive::{DirectiveReader, Directives};
use super::heredoc::{self, Heredoc, HeredocMark};
use super::lines::{LogicalLine, PhysicalLine, Reader};
use super::source::{ParseError, Position, SourceMap, Span};
use super::words::{self, Fragment, Piece};

/// A piece of text and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The text; before expansion, unless it says otherwise.
    pub text: String,
    /// Where it stands. A word that continues over lines spans them.
    pub span: Span,
}

/// The syntax tree of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// The directives before the first instruction.
    pub directives: Directives,
    /// The instructions in order; at least one.
    pub nodes: Vec<Node>,
    /// Where blank lines lie inside of instructions.
    pub blank_continuations: Vec<BlankContinuation>,
}

/// A blank line inside of an instruction: Docker warns, since it may become an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlankContinuation {
    /// The first blank line.
    pub span: Span,
    /// The end of the instruction.
    pub end: Position,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The instruction's name as it is written.
    pub keyword: Word,
    /// The flags before the arguments, quotes and escapes taken away: `--name=value` or `--name`.
    pub flags: Vec<Word>,
    /// What follows.
    pub args: Args,
    /// The here-documents the arguments open, in order.
    pub heredocs: Vec<Heredoc>,
    /// The comments on the lines right before it, each without its `#` and the blanks around it; the
    /// comments before an empty one don't count.
    pub comments: Vec<String>,
    /// The instruction's text with its continuations joined.
    pub original: String,
    /// From the instruction's name to the end of its last line, here-documents included.
    pub span: Span,
}

/// The arguments of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Args {
    /// Words as the instruction splits them: one for the shell form of RUN and its like; name, value
    /// and `=` or nothing for each pair of ENV and LABEL.
    Words(Vec<Word>),
    /// A JSON array of strings (and before it the `CMD` of HEALTHCHECK). All have the array's span.
    Json(Vec<Word>),
    /// The instruction of ONBUILD.
    Instruction(Box<Node>),
}

impl Args {
    /// The words, of whichever form; none for ONBUILD's instruction.
    pub fn words(&self) -> &[Word] {
        match self {
            Self::Words(words) | Self::Json(words) => words,
            Self::Instruction(_) => &[],
        }
    }
}

impl Node {
    /// The instruction's name in lower case.
    pub fn name(&self) -> String {
        self.keyword.text.to_lowercase()
    }

    fn opens_heredocs(&self) -> bool {
        match &self.args {
            Args::Instruction(node) if !matches!(node.args, Args::Instruction(_)) => node.opens_heredocs(),
            Args::Instruction(_) | Args::Json(_) => false,
            Args::Words(_) => matches!(self.name().as_str(), "add" | "copy" | "run"),
        }
    }
}

/// The dump that BuildKit's parser prints, an instruction a line.
impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, node) in self.nodes.iter().enumerate() {
            write!(f, "{}({node})", if i > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

/// The dump of one instruction without its parentheses, strings quoted as Go quotes them.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if !self.flags.is_empty() {
            let flags: Vec<String> = self.flags.iter().map(|flag| go_quoted(&flag.text)).collect();
            write!(f, " [{}]", flags.join(" "))?;
        }
        match &self.args {
            Args::Words(words) | Args::Json(words) => words
                .iter()
                .try_for_each(|word| write!(f, " {}", go_quoted(&word.text))),
            Args::Instruction(node) => write!(f, " ({node})"),
        }
    }
}

/// `text` as a Go string literal (`strconv.Quote`).
pub(crate) fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if is_printable(c) => out.push(c),
            c if c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

fn is_printable(c: char) -> bool {
    // After another character Debug escapes only what can't be printed, combining marks not.
    let shown = format!("{:?}", String::from_iter(['a', c]));
    c == '\'' || !shown.contains('\\')
}

/// ONBUILD in ONBUILD is refused later; here a bound on the stack is enough.
const MAX_NESTING: usize = 16;

/// Reads a Dockerfile into its syntax tree.
///
/// # Errors
/// If there is no instruction, or if arguments can't be split: `ENV` without a value, a JSON array
/// with something else than strings, a here-document without its end, and the like.
pub fn parse_nodes(text: &[u8]) -> Result<Nodes, ParseError> {
    let map = SourceMap::new(text);
    let mut reader = Reader::new(&map);
    let mut directives = DirectiveReader::default();
    let mut nodes = Vec::new();
    let mut blank_continuations = Vec::new();
    let mut comments = Vec::new();
    while let Some(first) = reader.line() {
        let directive = directives.line(&first, &map)?;
        let escape = directives.directives.escape;
        let Some(line) = reader.logical_line(&first, escape)? else {
            if !directive {
                note_comment(&first, &mut comments);
            }
            continue;
        };
        if let Some(at) = line.blank_continuation {
            blank_continuations.push(BlankContinuation {
                span: map.span(at..at),
                end: map.position(line.end),
            });
        }
        let splitter = Splitter {
            map: &map,
            line: &line,
            escape: escape.as_char(),
        };
        let mut node = splitter.node(
            Fragment {
                text: &line.text,
                base: 0,
            },
            0,
        )?;
        node.comments = std::mem::take(&mut comments);
        if node.opens_heredocs() {
            let marks =
                heredoc::marks(&line.text).map_err(|e| ParseError::new(node.span, e.problem.to_string()))?;
            for mark in marks {
                read_heredoc(&mut node, mark, &mut reader, &map)?;
            }
        }
        nodes.push(node);
    }
    if nodes.is_empty() {
        return Err(
            ParseError::new(map.span(0..0), "the Dockerfile is empty: no instructions")
                .with_hint("a Dockerfile starts with FROM, e.g. FROM debian"),
        );
    }
    Ok(Nodes {
        directives: directives.directives,
        nodes,
        blank_continuations,
    })
}

/// Keeps the comment on a line that holds no instruction; an empty one ends those before it.
fn note_comment(line: &PhysicalLine<'_>, comments: &mut Vec<String>) {
    let Some(comment) = line.comment() else { return };
    match String::from_utf8_lossy(comment).trim() {
        "" => comments.clear(),
        text => comments.push(text.to_owned()),
    }
}

/// Reads the body of a here-document that `node` opens.
fn read_heredoc(
    node: &mut Node,
    mark: HeredocMark,
    reader: &mut Reader<'_>,
    map: &SourceMap<'_>,
) -> Result<(), ParseError> {
    let mut body = Vec::new();
    let mut range = None;
    while let Some(line) = reader.line() {
        let start = range.map_or(line.start, |(start, _)| start);
        if mark.ends_at(line.content()) {
            node.span.end = map.position(line.start + line.content().len());
            let body = reader.utf8(&body, start)?.to_owned();
            let HeredocMark {
                name,
                expand,
                strip_tabs,
                file_descriptor,
            } = mark;
            let span = map.span(start..line.start);
            node.heredocs.push(Heredoc {
                name,
                body,
                expand,
                strip_tabs,
                file_descriptor,
                span,
            });
            return Ok(());
        }
        body.extend_from_slice(line.bytes);
        range = Some((start, line.start));
    }
    Err(ParseError::new(
        node.span,
        format!("unterminated heredoc: <<{} has no end", mark.name),
    )
    .with_hint(format!("end it with a line that is just {}", mark.name)))
}

/// Splits a logical line into a node.
struct Splitter<'a> {
    map: &'a SourceMap<'a>,
    line: &'a LogicalLine,
    escape: char,
}

impl Splitter<'_> {
    fn word(&self, piece: Piece) -> Word {
        let Piece { text, range } = piece;
        Word {
            text,
            span: self.map.span(self.line.source_range(range)),
        }
    }

    fn words(&self, pieces: Vec<Piece>) -> Args {
        Args::Words(pieces.into_iter().map(|piece| self.word(piece)).collect())
    }

    fn error(&self, fragment: Fragment<'_>, message: impl Into<String>) -> ParseError {
        ParseError::new(self.word(fragment.piece()).span, message)
    }

    fn node(&self, fragment: Fragment<'_>, depth: usize) -> Result<Node, ParseError> {
        let (keyword, rest) = fragment.trim().split_first(words::is_blank);
        let (flags, args) = match rest {
            Some(rest) => words::flags(rest, self.escape),
            None => (
                Vec::new(),
                Fragment {
                    text: "",
                    base: keyword.base + keyword.text.len(),
                },
            ),
        };
        let args = self.args(keyword, args.trim(), depth)?;
        let keyword = self.word(keyword.piece());
        let end = self.map.position(self.line.end);
        Ok(Node {
            span: Span {
                start: keyword.span.start,
                end,
            },
            keyword,
            flags: flags.into_iter().map(|flag| self.word(flag)).collect(),
            args,
            heredocs: Vec::new(),
            comments: Vec::new(),
            original: fragment.text.to_owned(),
        })
    }

    fn args(&self, keyword: Fragment<'_>, args: Fragment<'_>, depth: usize) -> Result<Args, ParseError> {
        let name = keyword.text.to_lowercase();
        match name.as_str() {
            "run" | "cmd" | "entrypoint" | "shell" => self.json_or(args, words::whole),
            "add" | "copy" | "volume" => self.json_or(args, words::by_blanks),
            "from" | "expose" => Ok(self.words(words::by_blanks(args))),
            "maintainer" | "stopsignal" | "user" | "workdir" => Ok(self.words(words::whole(args))),
            "arg" => Ok(self.words(words::with_quotes(args, self.escape))),
            "env" | "label" => self.pairs(&name.to_uppercase(), args),
            "healthcheck" => self.healthcheck(args),
            "onbuild" if args.text.is_empty() => Ok(Args::Words(Vec::new())),
            "onbuild" if depth >= MAX_NESTING => Err(self.error(keyword, "ONBUILD in ONBUILD")),
            "onbuild" => Ok(Args::Instruction(Box::new(self.node(args, depth + 1)?))),
            // BuildKit's tree has one empty argument for a name it doesn't know.
            _ => Ok(Args::Words(vec![Word::default()])),
        }
    }

    /// A JSON array of strings, or, if the text is no JSON array at all, what `otherwise` makes of it.
    fn json_or(
        &self,
        args: Fragment<'_>,
        otherwise: fn(Fragment<'_>) -> Vec<Piece>,
    ) -> Result<Args, ParseError> {
        let array = args
            .text
            .starts_with('[')
            .then(|| serde_json::from_str(args.text));
        let Some(Ok(array)) = array else {
            return Ok(self.words(otherwise(args)));
        };
        let array: Vec<serde_json::Value> = array;
        let span = self.word(args.piece()).span;
        let strings = array.into_iter().map(|value| match value {
            serde_json::Value::String(text) => Ok(Word { text, span }),
            other => Err(ParseError::new(
                span,
                format!("a JSON array here must hold strings only, not {other}"),
            )
            .with_hint(format!(
                "put it in quotes: \"{}\"",
                other.to_string().replace('"', "'")
            ))),
        });
        Ok(Args::Json(strings.collect::<Result<_, _>>()?))
    }

    fn healthcheck(&self, args: Fragment<'_>) -> Result<Args, ParseError> {
        if args.text.is_empty() {
            return Ok(Args::Words(Vec::new()));
        }
        let (kind, rest) = args.split_first(char::is_whitespace);
        let kind = self.word(kind.piece());
        Ok(
            match rest.map(|rest| self.json_or(rest, words::whole)).transpose()? {
                Some(Args::Json(words)) => Args::Json([vec![kind], words].concat()),
                Some(args) => Args::Words([std::slice::from_ref(&kind), args.words()].concat()),
                None => Args::Words(vec![kind]),
            },
        )
    }

    /// `NAME=VALUE...`, or the old form `NAME VALUE`, whose value is all that follows.
    fn pairs(&self, instruction: &str, args: Fragment<'_>) -> Result<Args, ParseError> {
        let pieces = words::with_quotes(args, self.escape);
        let Some(first) = pieces.first() else {
            return Ok(Args::Words(Vec::new()));
        };
        if !first.text.contains('=') {
            let (name, Some(value)) = args.split_first(words::is_blank) else {
                let message = format!("{instruction} must have two arguments");
                let hint = format!("write {instruction} {}=VALUE", args.text);
                return Err(self.error(args, message).with_hint(hint));
            };
            let no_separator = Piece {
                text: String::new(),
                range: value.base..value.base,
            };
            return Ok(self.words(vec![name.piece(), value.piece(), no_separator]));
        }
        let mut words = Vec::new();
        for piece in pieces {
            let Some((name, value)) = piece.text.split_once('=') else {
                let message = format!(
                    "Syntax error - can't find = in {:?}. Must be of the form: name=value",
                    piece.text
                );
                let hint = "put a value that has blanks in quotes";
                return Err(ParseError::new(self.word(piece).span, message).with_hint(hint));
            };
            // A word's text is its part of the line but for an escape character at the line's end.
            let start = piece.range.start;
            let equals = (start + name.len()).min(piece.range.end);
            let after = (equals + 1).min(piece.range.end);
            words.push(Piece {
                text: name.to_owned(),
                range: start..equals,
            });
            words.push(Piece {
                text: value.to_owned(),
                range: after..piece.range.end,
            });
            words.push(Piece {
                text: "=".to_owned(),
                range: equals..after,
            });
        }
        Ok(self.words(words))
    }
}
