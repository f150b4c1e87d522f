//! From the text of a template to its nodes.

use anyhow::{anyhow, bail};
use serde_json::Value;

use super::functions;

/// Blocks and brackets may lie this deep in each other.
const DEPTH: usize = 50;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Text(String),
    Print(Pipeline),
    /// `$name := pipeline`
    Set(String, Pipeline),
    If(Pipeline, Vec<Node>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    /// With up to two variables: key and value, or the value alone.
    Range(Vec<String>, Pipeline, Vec<Node>, Vec<Node>),
}

/// Commands, of which each gets the value of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline(pub Vec<Command>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Value(Operand),
    Function(String, Vec<Operand>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    Literal(Value),
    Path(Root, Vec<String>),
}

/// Where a path of fields begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    Dot,
    /// `$name`; without a name the object that the template is applied to.
    Variable(String),
    Pipeline(Pipeline),
}

/// Reads a template.
///
/// # Errors
/// What is wrong, and at which character.
pub fn parse(text: &str) -> anyhow::Result<Vec<Node>> {
    let mut reader = Reader {
        parts: split(text)?.into_iter(),
        depth: 0,
    };
    let (nodes, end) = reader.block()?;
    match end {
        None => Ok(nodes),
        Some(end) => bail!("{} at character {} has no beginning", end.word, end.at),
    }
}

enum Part {
    Text(String),
    /// What stands between `{{` and `}}`, and at which character it begins, from 1.
    Action(Vec<Token>, usize),
}

/// Cuts at `{{` and `}}`, and trims where it is asked for.
fn split(text: &str) -> anyhow::Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let at = text[..text.len() - after.len()].chars().count() - 1;
        let (inside, next) = close(after).ok_or_else(|| anyhow!("{{{{ at character {at} has no }}}}"))?;
        let mut before = if trim { before.trim_start() } else { before };
        let inside = match inside
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(char::is_whitespace))
        {
            Some(inside) => {
                before = before.trim_end();
                inside
            }
            None => inside,
        };
        let trimmed = inside
            .strip_suffix('-')
            .filter(|rest| rest.ends_with(char::is_whitespace));
        trim = trimmed.is_some();
        parts.push(Part::Text(before.to_owned()));
        let inside = trimmed.unwrap_or(inside).trim();
        if !(inside.starts_with("/*") && inside.ends_with("*/")) {
            parts.push(Part::Action(tokens(inside, at)?, at));
        }
        rest = next;
    }
    parts.push(Part::Text(
        (if trim { rest.trim_start() } else { rest }).to_owned(),
    ));
    Ok(parts)
}

/// What stands before the `}}` that is not inside of quotes, and what comes after it.
fn close(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(open), c) if c == open && !escaped => quote = None,
            (None, '"' | '`') => quote = Some(c),
            (None, '}') if text[at..].starts_with("}}") => return Some((&text[..at], &text[at + 2..])),
            _ => {}
        }
        escaped = false;
    }
    None
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Literal(Value),
    /// `$name`
    Variable(String),
    /// `.name`, or a lone dot. The second tells whether it follows its neighbour without a space.
    Field(String, bool),
    Open,
    Close,
    Pipe,
    Comma,
    Define,
}

fn tokens(text: &str, at: usize) -> anyhow::Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut joined = false;
    while let Some(c) = rest.chars().next() {
        let name = |text: &str| -> usize {
            let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
            end.unwrap_or(text.len())
        };
        let (token, length) = match c {
            c if c.is_whitespace() => {
                rest = &rest[c.len_utf8()..];
                joined = false;
                continue;
            }
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Define, 2),
            '.' => {
                let length = name(&rest[1..]);
                (Token::Field(rest[1..=length].to_owned(), joined), 1 + length)
            }
            '$' => {
                let length = name(&rest[1..]);
                (Token::Variable(rest[1..=length].to_owned()), 1 + length)
            }
            '"' => {
                let mut values = serde_json::Deserializer::from_str(rest).into_iter::<String>();
                match values.next() {
                    Some(Ok(text)) => (Token::Literal(text.into()), values.byte_offset()),
                    _ => bail!("a string in the action at character {at} is malformed"),
                }
            }
            '`' => match rest[1..].find('`') {
                Some(end) => (Token::Literal(rest[1..=end].into()), end + 2),
                None => bail!("a string in the action at character {at} has no end"),
            },
            '-' | '0'..='9' => {
                let length = 1 + name(&rest[1..]);
                match rest[..length].parse::<i64>() {
                    Ok(number) => (Token::Literal(number.into()), length),
                    Err(_) => bail!("{:?} at character {at} is no number", &rest[..length]),
                }
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = name(rest);
                let token = match &rest[..length] {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                };
                (token, length)
            }
            c => bail!("unexpected {c:?} in the action at character {at}"),
        };
        joined = matches!(token, Token::Field(..) | Token::Variable(_) | Token::Close);
        tokens.push(token);
        rest = &rest[length..];
    }
    Ok(tokens)
}

/// What ended a block: `end` or `else`, with what follows it.
struct End {
    word: String,
    at: usize,
    rest: Vec<Token>,
}

struct Reader {
    parts: std::vec::IntoIter<Part>,
    depth: usize,
}

impl Reader {
    /// Nodes up to the end of a block, or that of the template.
    fn block(&mut self) -> anyhow::Result<(Vec<Node>, Option<End>)> {
        let mut nodes = Vec::new();
        while let Some(part) = self.parts.next() {
            match part {
                Part::Text(text) if text.is_empty() => {}
                Part::Text(text) => nodes.push(Node::Text(text)),
                Part::Action(tokens, at) => match tokens.split_first() {
                    None => bail!("the action at character {at} is empty"),
                    Some((Token::Word(word), rest)) if word == "end" || word == "else" => {
                        let (word, rest) = (word.clone(), rest.to_vec());
                        return Ok((nodes, Some(End { word, at, rest })));
                    }
                    Some((Token::Word(word), rest)) if matches!(word.as_str(), "if" | "with" | "range") => {
                        nodes.push(self.branches(word, rest, at)?);
                    }
                    _ => nodes.push(action(&tokens, at)?),
                },
            }
        }
        Ok((nodes, None))
    }

    /// The rest of an `if`, `with` or `range` up to its `end`.
    fn branches(&mut self, word: &str, head: &[Token], at: usize) -> anyhow::Result<Node> {
        self.depth += 1;
        if self.depth > DEPTH {
            bail!("the block at character {at} lies too deep in others");
        }
        let (names, head) = match word {
            "range" => definition(head),
            _ => (Vec::new(), head),
        };
        let pipeline = pipeline(head, at)?;
        let open = || anyhow!("{word} at character {at} has no end");
        let (body, end) = self.block()?;
        let end = end.ok_or_else(open)?;
        let otherwise = match (end.word.as_str(), end.rest.split_first()) {
            ("end", None) => Vec::new(),
            // `else if` shares the `end` of the `if` before it.
            ("else", Some((Token::Word(next), rest))) if next == word && word != "range" => {
                vec![self.branches(word, rest, end.at)?]
            }
            ("else", None) => match self.block()? {
                (body, Some(End { word, rest, .. })) if word == "end" && rest.is_empty() => body,
                _ => return Err(open()),
            },
            _ => bail!(
                "{} at character {} is followed by what does not belong there",
                end.word,
                end.at
            ),
        };
        self.depth -= 1;
        Ok(match word {
            "if" => Node::If(pipeline, body, otherwise),
            "with" => Node::With(pipeline, body, otherwise),
            _ => Node::Range(names, pipeline, body, otherwise),
        })
    }
}

/// An action that is no block: a value to print, or a variable to set.
fn action(tokens: &[Token], at: usize) -> anyhow::Result<Node> {
    let (names, rest) = definition(tokens);
    match names.as_slice() {
        [] => Ok(Node::Print(pipeline(rest, at)?)),
        [name] => Ok(Node::Set(name.clone(), pipeline(rest, at)?)),
        _ => bail!("two variables are set at once at character {at}"),
    }
}

/// The variables before a `:=`, and what comes after it.
fn definition(tokens: &[Token]) -> (Vec<String>, &[Token]) {
    match tokens {
        [Token::Variable(one), Token::Define, rest @ ..] => (vec![one.clone()], rest),
        [
            Token::Variable(one),
            Token::Comma,
            Token::Variable(two),
            Token::Define,
            rest @ ..,
        ] => (vec![one.clone(), two.clone()], rest),
        rest => (Vec::new(), rest),
    }
}

fn pipeline(tokens: &[Token], at: usize) -> anyhow::Result<Pipeline> {
    let mut rest = tokens;
    let pipeline = piped(&mut rest, at, 0)?;
    match rest {
        [] => Ok(pipeline),
        _ => bail!("the action at character {at} goes on after its end"),
    }
}

/// Commands up to the end or a closing bracket.
fn piped(rest: &mut &[Token], at: usize, depth: usize) -> anyhow::Result<Pipeline> {
    if depth > DEPTH {
        bail!("the action at character {at} has too many brackets");
    }
    let mut commands = Vec::new();
    loop {
        commands.push(command(rest, at, depth)?);
        match rest {
            [Token::Pipe, after @ ..] => *rest = after,
            _ => return Ok(Pipeline(commands)),
        }
    }
}

fn command(rest: &mut &[Token], at: usize, depth: usize) -> anyhow::Result<Command> {
    let function = match rest {
        [Token::Word(word), after @ ..] if functions::NAMES.contains(&word.as_str()) => {
            *rest = after;
            Some(word.clone())
        }
        [Token::Word(word), ..] => bail!(
            "there is no function {word:?} (at character {at}); there are {}",
            functions::NAMES.join(", ")
        ),
        _ => None,
    };
    let mut operands = Vec::new();
    while !matches!(rest, [] | [Token::Pipe | Token::Close, ..]) {
        operands.push(operand(rest, at, depth)?);
    }
    match (function, operands.as_mut_slice()) {
        (Some(function), _) => Ok(Command::Function(function, operands)),
        (None, [one]) => Ok(Command::Value(std::mem::replace(
            one,
            Operand::Literal(Value::Null),
        ))),
        (None, []) => bail!("a value is missing in the action at character {at}"),
        (None, _) => bail!("the action at character {at} has two values, and no function for them"),
    }
}

fn operand(rest: &mut &[Token], at: usize, depth: usize) -> anyhow::Result<Operand> {
    let (root, mut path) = match rest {
        [Token::Literal(value), after @ ..] => {
            *rest = after;
            return Ok(Operand::Literal(value.clone()));
        }
        [Token::Field(name, _), after @ ..] => {
            *rest = after;
            let path = if name.is_empty() {
                Vec::new()
            } else {
                vec![name.clone()]
            };
            (Root::Dot, path)
        }
        [Token::Variable(name), after @ ..] => {
            *rest = after;
            (Root::Variable(name.clone()), Vec::new())
        }
        [Token::Open, after @ ..] => {
            *rest = after;
            let inside = piped(rest, at, depth + 1)?;
            match rest {
                [Token::Close, after @ ..] => *rest = after,
                _ => bail!("a bracket in the action at character {at} is not closed"),
            }
            (Root::Pipeline(inside), Vec::new())
        }
        _ => bail!("the action at character {at} is malformed"),
    };
    while let [Token::Field(name, true), after @ ..] = rest
        && !name.is_empty()
    {
        path.push(name.clone());
        *rest = after;
    }
    Ok(Operand::Path(root, path))
}
