//! From the syntax tree to instructions with a meaning: arities, flags, and what each one demands.

use super::copy;
use super::flags::{FlagKind, Flags, Known};
use super::healthcheck;
use super::heredoc;
use super::instruction::{
    Arg, Assignment, Command, Dockerfile, GlobalArg, Instruction, InstructionKind, Onbuild, Run, RunCommand,
    RunFlag, RunFlagName, Stage, append_heredocs,
};
use super::nodes::{Args, Node, Nodes, Word};
use super::source::ParseError;
use super::suggest::suggestion;
use super::values::is_stage_name;

type Parsed<T> = Result<T, ParseError>;

const INSTRUCTIONS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const NO_FLAGS: Known = &[];
const FROM_FLAGS: Known = &[("platform", FlagKind::Value)];
const RUN_FLAGS: Known = &[
    ("mount", FlagKind::Values),
    ("network", FlagKind::Value),
    ("security", FlagKind::Value),
    ("device", FlagKind::Values),
];

/// Makes stages of the syntax tree.
pub(super) fn dockerfile(nodes: Nodes) -> Parsed<Dockerfile> {
    let mut file = Dockerfile {
        directives: nodes.directives,
        global_args: Vec::new(),
        stages: Vec::new(),
        blank_continuations: nodes.blank_continuations,
    };
    for node in &nodes.nodes {
        if node.name() == "from" {
            file.stages.push(stage(node)?);
            continue;
        }
        let instruction = instruction(node)?;
        match (file.stages.last_mut(), instruction.kind) {
            (Some(stage), kind) => stage.instructions.push(Instruction { kind, ..instruction }),
            (None, InstructionKind::Arg(args)) => {
                file.global_args.push(GlobalArg {
                    args,
                    span: instruction.span,
                    source: instruction.source,
                    comments: instruction.comments,
                });
            }
            (None, kind) => {
                let message = format!(
                    "no build stage in current context: {} comes before FROM",
                    kind.name()
                );
                return Err(ParseError::new(node.keyword.span, message)
                    .with_hint("start the Dockerfile with FROM; only ARG may come before"));
            }
        }
    }
    if file.stages.is_empty() {
        let span = nodes.nodes.last().map(|node| node.span).unwrap_or_default();
        return Err(
            ParseError::new(span, "the Dockerfile has no build stage: there is no FROM")
                .with_hint("add FROM, e.g. FROM debian"),
        );
    }
    Ok(file)
}

/// Makes an instruction of a node other than FROM.
pub(super) fn instruction(node: &Node) -> Parsed<Instruction> {
    Ok(Instruction {
        kind: kind(node)?,
        keyword: node.keyword.clone(),
        span: node.span,
        source: node.original.trim().to_owned(),
        comments: node.comments.clone(),
    })
}

fn kind(node: &Node) -> Parsed<InstructionKind> {
    use InstructionKind as Kind;
    Ok(match node.name().as_str() {
        "add" => Kind::Add(copy::add(node)?),
        "arg" => Kind::Arg(args(node)?),
        "cmd" => Kind::Cmd(command(node)?),
        "copy" => Kind::Copy(copy::copy(node)?),
        "entrypoint" => Kind::Entrypoint(command(node)?),
        "env" => Kind::Env(assignments(node, "ENV")?),
        "expose" => {
            let mut ports = at_least_one(node, "EXPOSE")?;
            ports.sort_by(|a, b| a.text.cmp(&b.text));
            Kind::Expose(ports)
        }
        "healthcheck" => Kind::Healthcheck(healthcheck::healthcheck(node)?),
        "label" => Kind::Label(assignments(node, "LABEL")?),
        "maintainer" => {
            let maintainer = one(node, "MAINTAINER")?;
            Flags::read(node, NO_FLAGS)?;
            Kind::Maintainer(maintainer)
        }
        "onbuild" => Kind::Onbuild(onbuild(node)?),
        "run" => Kind::Run(run(node)?),
        "shell" => Kind::Shell(shell(node)?),
        "stopsignal" => Kind::StopSignal(one(node, "STOPSIGNAL")?),
        "user" => Kind::User(one_without_flags(node, "USER")?),
        "volume" => Kind::Volume(volumes(node)?),
        "workdir" => Kind::Workdir(one_without_flags(node, "WORKDIR")?),
        _ => return Err(unknown(node)),
    })
}

fn unknown(node: &Node) -> ParseError {
    let name = &node.keyword.text;
    let error = ParseError::new(node.keyword.span, format!("unknown instruction: {name}"));
    match suggestion(name, INSTRUCTIONS) {
        Some(known) => error.with_hint(format!("did you mean {known}?")),
        None => error,
    }
}

/// An error about an instruction's arguments, or about all of it where there are none.
pub(super) fn args_error(node: &Node, message: impl Into<String>) -> ParseError {
    let words = node.args.words();
    let span = match (words.first(), words.last()) {
        (Some(first), Some(last)) => super::Span {
            start: first.span.start,
            end: last.span.end,
        },
        _ => node.keyword.span,
    };
    ParseError::new(span, message)
}

fn one(node: &Node, name: &str) -> Parsed<Word> {
    match node.args.words() {
        [word] => Ok(word.clone()),
        _ => Err(args_error(node, format!("{name} requires exactly one argument"))),
    }
}

fn one_without_flags(node: &Node, name: &str) -> Parsed<Word> {
    let word = one(node, name)?;
    Flags::read(node, NO_FLAGS)?;
    Ok(word)
}

fn at_least_one(node: &Node, name: &str) -> Parsed<Vec<Word>> {
    Flags::read(node, NO_FLAGS)?;
    match node.args.words() {
        [] => Err(args_error(node, format!("{name} requires at least one argument"))),
        words => Ok(words.to_vec()),
    }
}

fn stage(node: &Node) -> Parsed<Stage> {
    let (base, name) = match node.args.words() {
        [base] => (base, None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => (base, Some(name)),
        [_, _, ..] => {
            let message = "FROM requires either one or three arguments";
            return Err(args_error(node, message).with_hint("write FROM IMAGE or FROM IMAGE AS NAME"));
        }
        [] => {
            let message = "FROM requires either one or three arguments, and has none";
            return Err(args_error(node, message).with_hint("name an image, or scratch for none"));
        }
    };
    let name = name.map(|name| {
        let lower = Word {
            text: name.text.to_lowercase(),
            span: name.span,
        };
        if is_stage_name(&lower.text) {
            return Ok(lower);
        }
        let message = format!(
            "invalid name for build stage: {:?}, name can't start with a number or contain symbols",
            name.text
        );
        Err(ParseError::new(name.span, message)
            .with_hint("a letter first, then letters, digits, '-', '_' and '.'"))
    });
    let name = name.transpose()?;
    Ok(Stage {
        base: base.clone(),
        platform: Flags::read(node, FROM_FLAGS)?.text("platform"),
        name,
        keyword: node.keyword.clone(),
        words: node.args.words().to_vec(),
        instructions: Vec::new(),
        span: node.span,
        source: node.original.trim().to_owned(),
        comments: node.comments.clone(),
    })
}

fn assignments(node: &Node, name: &str) -> Parsed<Vec<Assignment>> {
    let words = at_least_one(node, name)?;
    let mut pairs = Vec::new();
    for pair in words.chunks(3) {
        let [key, value, separator] = pair else {
            continue;
        };
        if key.text.is_empty() {
            return Err(
                ParseError::new(key.span, format!("{name} names can not be blank"))
                    .with_hint(format!("write {name} NAME=VALUE")),
            );
        }
        pairs.push(Assignment {
            name: key.clone(),
            value: value.clone(),
            legacy: separator.text.is_empty(),
        });
    }
    Ok(pairs)
}

fn args(node: &Node) -> Parsed<Vec<Arg>> {
    let words = node.args.words();
    if words.is_empty() {
        return Err(args_error(node, "ARG requires at least one argument"));
    }
    let args = words.iter().map(|word| match word.text.split_once('=') {
        None => Ok(Arg {
            name: word.clone(),
            default: None,
        }),
        Some(("", _)) => Err(ParseError::new(word.span, "ARG names can not be blank")),
        Some((name, default)) => {
            let part = |text: &str| Word {
                text: text.to_owned(),
                span: word.span,
            };
            Ok(Arg {
                name: part(name),
                default: Some(part(default)),
            })
        }
    });
    args.collect()
}

fn strings(words: &[Word]) -> Vec<String> {
    words.iter().map(|word| word.text.clone()).collect()
}

/// The shell or exec form of what `args` holds.
pub(super) fn form(args: &Args, words: &[Word], node: &Node) -> Command {
    match (args, words) {
        (Args::Json(_), words) => Command::Exec(strings(words)),
        (_, [text, ..]) => Command::Shell(text.clone()),
        (_, []) => Command::Shell(Word {
            text: String::new(),
            span: node.keyword.span,
        }),
    }
}

fn command(node: &Node) -> Parsed<Command> {
    Flags::read(node, NO_FLAGS)?;
    Ok(form(&node.args, node.args.words(), node))
}

fn shell(node: &Node) -> Parsed<Vec<String>> {
    let words = at_least_one(node, "SHELL")?;
    match &node.args {
        Args::Json(_) => Ok(strings(&words)),
        _ => Err(
            args_error(node, "SHELL requires the arguments to be in JSON form")
                .with_hint(r#"write SHELL ["/bin/sh", "-c"]"#),
        ),
    }
}

fn volumes(node: &Node) -> Parsed<Vec<Word>> {
    let mut words = at_least_one(node, "VOLUME")?;
    for word in &mut words {
        word.text = word.text.trim().to_owned();
        if word.text.is_empty() {
            let message = "VOLUME specified can not be an empty string";
            return Err(ParseError::new(word.span, message));
        }
    }
    Ok(words)
}

fn run(node: &Node) -> Parsed<Run> {
    let mut flags = Vec::new();
    for (name, value) in Flags::read(node, RUN_FLAGS)?.into_given() {
        let (name, allowed): (_, &[&str]) = match name {
            "network" => (RunFlagName::Network, &["default", "none", "host"]),
            "security" => (RunFlagName::Security, &["sandbox", "insecure"]),
            "device" => (RunFlagName::Device, &[]),
            _ => (RunFlagName::Mount, &[]),
        };
        if !allowed.is_empty() && !allowed.contains(&value.text.as_str()) {
            let kind = if name == RunFlagName::Network {
                "network"
            } else {
                "security"
            };
            let message = format!("invalid {kind} mode {:?}", value.text);
            let hint = format!("it may be {}", allowed.join(", "));
            return Err(ParseError::new(value.span, message).with_hint(hint));
        }
        flags.push(RunFlag { name, value });
    }
    let heredocs = node.heredocs.clone();
    let command = match form(&node.args, node.args.words(), node) {
        Command::Exec(args) if args.is_empty() => {
            return Err(args_error(
                node,
                "RUN requires a command, and the JSON array is empty",
            ));
        }
        Command::Exec(args) => RunCommand::Exec(args),
        Command::Shell(text) => match (heredoc::mark(&text.text), heredocs.first()) {
            (Ok(Some(_)), Some(script)) => RunCommand::Script(script.clone()),
            _ => RunCommand::Shell { text, heredocs },
        },
    };
    Ok(Run { command, flags })
}

fn onbuild(node: &Node) -> Parsed<Onbuild> {
    let Args::Instruction(inner) = &node.args else {
        return Err(args_error(node, "ONBUILD requires at least one argument"));
    };
    Flags::read(node, NO_FLAGS)?;
    let span = inner.keyword.span;
    match inner.name().as_str() {
        "onbuild" => {
            let message = "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed";
            return Err(ParseError::new(span, message));
        }
        name @ ("from" | "maintainer") => {
            let message = format!("{} isn't allowed as an ONBUILD trigger", name.to_uppercase());
            return Err(ParseError::new(span, message));
        }
        _ => {}
    }
    let mut trigger = inner.original.clone();
    append_heredocs(&mut trigger, &node.heredocs);
    let mut inner = (**inner).clone();
    inner.heredocs.clone_from(&node.heredocs);
    inner.span.end = node.span.end;
    Ok(Onbuild {
        trigger,
        instruction: Box::new(instruction(&inner)?),
    })
}
