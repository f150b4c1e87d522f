//! The Dockerfile language: text to typed instructions with the place of everything.
//!
//! Files are read as BuildKit's front end reads them. [`parse`] gives stages of instructions whose
//! words are as the file has them; the build replaces variables with [`expand_word`] and its like as
//! it goes, and then reads what must be a port, a platform or a mode with the functions for each
//! ([`parse_expose`], [`parse_platform`], [`Chmod`]...). [`parse_nodes`] stops at the syntax tree.
//!
//! No input makes these functions panic, and the time they take grows with the length of the input
//! (times the depth of nested substitutions, which is bounded, and the length of patterns, likewise).

mod chmod;
mod copy;
mod directive;
mod expand;
mod flags;
mod healthcheck;
mod heredoc;
mod instruction;
mod interpret;
mod lines;
pub mod mount;
mod nodes;
mod source;
mod suggest;
mod values;
mod words;

pub use self::chmod::{Chmod, Clause};
pub use self::directive::{Directives, is_official_syntax};
pub use self::expand::{
    Environment, Escape, ExpandError, ExpandProblem, Expanded, NoVariables, expand_heredoc, expand_word,
    expand_words,
};
pub use self::heredoc::Heredoc;
pub use self::instruction::{
    Add, Arg, Assignment, Command, Copy, CopyOptions, Dockerfile, Files, GlobalArg, Healthcheck,
    HealthcheckTiming, Instruction, InstructionKind, Onbuild, Run, RunCommand, RunFlag, RunFlagName, Stage,
};
pub(crate) use self::nodes::go_quoted;
pub use self::nodes::{Args, BlankContinuation, Node, Nodes, Word, parse_nodes};
pub use self::source::{ParseError, Position, Span};
pub use self::suggest::suggestion;
pub use self::values::{
    Owner, Platform, Port, Principal, Protocol, ValueError, is_stage_name, parse_duration, parse_expose,
    parse_platform, parse_stop_signal,
};

/// Reads a Dockerfile.
///
/// # Errors
/// At the first thing that is not as the language wants it. Values in which variables are replaced
/// are not looked at.
pub fn parse(text: &[u8]) -> Result<Dockerfile, ParseError> {
    interpret::dockerfile(parse_nodes(text)?)
}

/// Reads one instruction: a trigger of `ONBUILD` from an image's configuration.
///
/// # Errors
/// If `text` is not exactly one instruction, or is `FROM`.
pub fn parse_trigger(text: &[u8]) -> Result<Instruction, ParseError> {
    let nodes = parse_nodes(text)?;
    match nodes.nodes.as_slice() {
        [node] if node.name() == "from" => {
            let message = "FROM isn't allowed as an ONBUILD trigger";
            Err(ParseError::new(node.keyword.span, message))
        }
        [node] => interpret::instruction(node),
        [_, node, ..] => {
            let message = "an ONBUILD trigger must be a single instruction";
            Err(ParseError::new(node.keyword.span, message))
        }
        [] => Err(ParseError::new(Span::default(), "an ONBUILD trigger is empty")),
    }
}

#[cfg(test)]
mod tests;
