//! `COPY` and `ADD`.

use std::collections::HashMap;

use super::expand::{Escape, NoVariables, expand_word};
use super::flags::{FlagKind, Flags, Known};
use super::heredoc::{self, Heredoc};
use super::instruction::{Add, Copy, CopyOptions, Files};
use super::interpret::args_error;
use super::nodes::{Args, Node, Word};
use super::source::ParseError;

const ADD_FLAGS: Known = &[
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Switch),
    ("exclude", FlagKind::Values),
    ("checksum", FlagKind::Value),
    ("keep-git-dir", FlagKind::Switch),
    ("unpack", FlagKind::Switch),
];
const COPY_FLAGS: Known = &[
    ("from", FlagKind::Value),
    ("chown", FlagKind::Value),
    ("chmod", FlagKind::Value),
    ("link", FlagKind::Switch),
    ("parents", FlagKind::Switch),
    ("exclude", FlagKind::Values),
];
fn files(node: &Node, name: &str) -> Result<Files, ParseError> {
    let words = node.args.words();
    let (destination, words) = match words.split_last() {
        Some((destination, words)) if !words.is_empty() => (destination, words),
        _ => {
            let message = format!(
                "{name} requires at least two arguments, but {} was provided. Destination could \
                 not be determined",
                if words.is_empty() { "none" } else { "only one" }
            );
            return Err(args_error(node, message).with_hint(format!("write {name} SOURCE... DESTINATION")));
        }
    };
    let json = matches!(node.args, Args::Json(_));
    let mark = |word: &Word| heredoc::mark(&word.text).ok().flatten().filter(|_| !json);
    if mark(destination).is_some() {
        let message = format!("{name} cannot accept a heredoc as a destination");
        return Err(ParseError::new(destination.span, message));
    }
    // The last here-document of a name is the one that its file gets.
    let bodies: HashMap<&str, &Heredoc> = node
        .heredocs
        .iter()
        .map(|heredoc| (heredoc.name.as_str(), heredoc))
        .collect();
    let mut files = Files {
        sources: Vec::new(),
        heredocs: Vec::new(),
        destination: destination.clone(),
    };
    for word in words {
        let body = mark(word).and_then(|mark| bodies.get(mark.name.as_str()).copied());
        match body {
            Some(heredoc) => files.heredocs.push(heredoc.clone()),
            None => files.sources.push(word.clone()),
        }
    }
    Ok(files)
}

fn copy_options(flags: &Flags) -> CopyOptions {
    CopyOptions {
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.texts("exclude"),
    }
}

pub(super) fn add(node: &Node) -> Result<Add, ParseError> {
    let flags = Flags::read(node, ADD_FLAGS)?;
    Ok(Add {
        files: files(node, "ADD")?,
        options: copy_options(&flags),
        checksum: flags.text("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

pub(super) fn copy(node: &Node) -> Result<Copy, ParseError> {
    let flags = Flags::read(node, COPY_FLAGS)?;
    let from = flags.text("from");
    if let Some(from) = &from {
        let expanded = expand_word(&from.text, Escape::default(), &NoVariables);
        if expanded.is_ok_and(|expanded| expanded.text != from.text) {
            let message = "variable expansion is not supported for --from";
            return Err(ParseError::new(from.span, message)
                .with_hint("define a stage with FROM using an ARG from before the first FROM, and name it"));
        }
    }
    Ok(Copy {
        files: files(node, "COPY")?,
        options: copy_options(&flags),
        from,
        parents: flags.switch("parents").unwrap_or(false),
    })
}
