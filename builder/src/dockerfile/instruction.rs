//! Instructions with a meaning. Words are kept as they stand, for expansion needs the state of the
//! build; what can be checked without it has been.

use std::fmt;
use std::time::Duration;

use super::expand::Escape;
use super::heredoc::Heredoc;
use super::nodes::Word;
use super::source::Span;
use super::{BlankContinuation, Directives};

/// A Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The directives at its head.
    pub directives: Directives,
    /// `ARG` before the first `FROM`: for the words of `FROM` only.
    pub global_args: Vec<GlobalArg>,
    /// Its stages in order; at least one.
    pub stages: Vec<Stage>,
    /// Where blank lines lie inside of instructions.
    pub blank_continuations: Vec<BlankContinuation>,
}

impl Dockerfile {
    /// The character that escapes in words.
    pub fn escape(&self) -> Escape {
        self.directives.escape
    }
}

/// An `ARG` instruction before the first `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalArg {
    /// What it declares, in order.
    pub args: Vec<Arg>,
    /// Where the instruction is.
    pub span: Span,
    /// Its text, continuations joined.
    pub source: String,
    /// The comments right before it.
    pub comments: Vec<String>,
}

/// A build stage: `FROM` and the instructions up to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The image, or the name of an earlier stage, or `scratch`.
    pub base: Word,
    /// `--platform`.
    pub platform: Option<Word>,
    /// `AS`, in lower case: names of stages don't differ by case. Its span is the name's.
    pub name: Option<Word>,
    /// `FROM`, as it is written.
    pub keyword: Word,
    /// The words after its flags: the base, and `AS` with the name as it is written.
    pub words: Vec<Word>,
    /// The instructions in order.
    pub instructions: Vec<Instruction>,
    /// Where `FROM` is.
    pub span: Span,
    /// The text of `FROM`, continuations joined.
    pub source: String,
    /// The comments right before `FROM`.
    pub comments: Vec<String>,
}

/// An instruction of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What it does.
    pub kind: InstructionKind,
    /// Its name, as it is written.
    pub keyword: Word,
    /// Where it is, here-documents included.
    pub span: Span,
    /// Its text, continuations joined and white space around it taken away; without the bodies of
    /// here-documents.
    pub source: String,
    /// The comments right before it.
    pub comments: Vec<String>,
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InstructionKind {
    /// `ADD`.
    Add(Add),
    /// `ARG NAME[=DEFAULT]...`.
    Arg(Vec<Arg>),
    /// `CMD`.
    Cmd(Command),
    /// `COPY`.
    Copy(Copy),
    /// `ENTRYPOINT`.
    Entrypoint(Command),
    /// `ENV`.
    Env(Vec<Assignment>),
    /// `EXPOSE`, sorted by their text as Docker does. A word may expand to several ports
    /// ([`super::expand_words`]); [`super::parse_expose`] reads each.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`.
    Healthcheck(Healthcheck),
    /// `LABEL`.
    Label(Vec<Assignment>),
    /// `MAINTAINER`: not expanded.
    Maintainer(Word),
    /// `ONBUILD`.
    Onbuild(Onbuild),
    /// `RUN`.
    Run(Run),
    /// `SHELL`: not expanded, not empty.
    Shell(Vec<String>),
    /// `STOPSIGNAL`; see [`super::parse_stop_signal`].
    StopSignal(Word),
    /// `USER`.
    User(Word),
    /// `VOLUME`, none of them empty.
    Volume(Vec<Word>),
    /// `WORKDIR`.
    Workdir(Word),
}

impl InstructionKind {
    /// The instruction's name in capitals.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// One build argument of `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg {
    /// Its name, not empty.
    pub name: Word,
    /// What follows `=`.
    pub default: Option<Word>,
}

/// One pair of `ENV` or `LABEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The name, not empty before expansion; a label's may have quotes.
    pub name: Word,
    /// The value.
    pub value: Word,
    /// Whether it is written in the old form, `NAME VALUE`.
    pub legacy: bool,
}

/// A command that the image's configuration holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell; may be empty.
    Shell(Word),
    /// A JSON array: the arguments; may be empty.
    Exec(Vec<String>),
}

/// `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What is run. The shell expands it, not the build.
    pub command: RunCommand,
    /// The flags in order, each of a kind that RUN knows.
    pub flags: Vec<RunFlag>,
}

/// What `RUN` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunCommand {
    /// A line for the shell, with the here-documents that it opens; the line may be empty.
    Shell {
        /// The line.
        text: Word,
        /// What [`RunCommand::shell_text`] appends.
        heredocs: Vec<Heredoc>,
    },
    /// `RUN <<EOF`: the body is the script. With `#!` at its start it is a program to run, which
    /// Docker puts to `/dev/pipes/NAME`; otherwise the shell gets it as its text.
    Script(Heredoc),
    /// A JSON array: the arguments, at least one.
    Exec(Vec<String>),
}

impl RunCommand {
    /// What the shell is given: for a line with here-documents they follow it, each with its
    /// delimiter, for the shell to read. `None` for the exec form.
    pub fn shell_text(&self) -> Option<String> {
        match self {
            Self::Exec(_) => None,
            Self::Script(heredoc) => Some(heredoc.content().into_owned()),
            Self::Shell { text, heredocs } => {
                let mut script = text.text.clone();
                append_heredocs(&mut script, heredocs);
                Some(script)
            }
        }
    }
}

/// Puts the here-documents that a line opens after it, as a file would have them.
pub(super) fn append_heredocs(line: &mut String, heredocs: &[Heredoc]) {
    for heredoc in heredocs {
        line.push('\n');
        line.push_str(&heredoc.body);
        line.push_str(&heredoc.name);
    }
}

/// A flag of `RUN` whose value is still a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFlag {
    /// Which flag.
    pub name: RunFlagName,
    /// What follows `=`, with the flag's span.
    pub value: Word,
}

/// The flags of `RUN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunFlagName {
    /// `--mount`, any number of times.
    Mount,
    /// `--network`: `default`, `none` or `host`.
    Network,
    /// `--security`: `sandbox` or `insecure`.
    Security,
    /// `--device`, any number of times.
    Device,
}

/// `COPY`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What goes where.
    pub files: Files,
    /// How.
    pub options: CopyOptions,
    /// `--from`: a stage's name or number, or an image. Variables are refused in it.
    pub from: Option<Word>,
    /// `--parents`: keep the directories of a source's path.
    pub parents: bool,
}

/// `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What goes where.
    pub files: Files,
    /// How.
    pub options: CopyOptions,
    /// `--checksum` of a remote source.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`, where it is given.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`, where it is given: otherwise local archives are unpacked, remote ones not.
    pub unpack: Option<bool>,
}

/// The sources and the destination of `COPY` and `ADD`. There is at least one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Paths, patterns and (of `ADD`) URLs, in order.
    pub sources: Vec<Word>,
    /// Files whose content is in the Dockerfile; Docker copies them after the others. The name is
    /// not expanded, the content is if [`Heredoc::expand`] says so ([`super::expand_heredoc`]).
    pub heredocs: Vec<Heredoc>,
    /// The destination.
    pub destination: Word,
}

/// What `COPY` and `ADD` have in common. An empty value is as good as none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyOptions {
    /// `--chown`; see [`super::Owner`].
    pub chown: Option<Word>,
    /// `--chmod`; see [`super::Chmod`].
    pub chmod: Option<Word>,
    /// `--link`: into a layer of its own that doesn't depend on those below.
    pub link: bool,
    /// `--exclude`: patterns, not expanded.
    pub exclude: Vec<Word>,
}

/// `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Healthcheck {
    /// `NONE`: takes away the base image's.
    None,
    /// `CMD`.
    Cmd {
        /// The test, not empty.
        command: Command,
        /// The flags.
        timing: HealthcheckTiming,
    },
}

/// The flags of `HEALTHCHECK CMD`; `None` and 0 leave the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthcheckTiming {
    /// `--interval` between two tests.
    pub interval: Option<Duration>,
    /// `--timeout` of a test.
    pub timeout: Option<Duration>,
    /// `--start-period`, in which failures don't count.
    pub start_period: Option<Duration>,
    /// `--start-interval` between two tests in the start period.
    pub start_interval: Option<Duration>,
    /// `--retries`: failures in a row until the container counts as unhealthy.
    pub retries: u32,
}

/// `ONBUILD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger as the image's configuration has it: the instruction's text, here-documents
    /// included.
    pub trigger: String,
    /// The trigger's instruction: not `ONBUILD`, `FROM` or `MAINTAINER`.
    pub instruction: Box<Instruction>,
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
