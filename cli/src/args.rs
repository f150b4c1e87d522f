//! The command line: the global options and the list of the commands. Each command's own options stand beside
//! its code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mica_builder::sandbox::UserNs;
use serde_json::Value;

use crate::commands::{
    analyze, blame, build, cat, commit, copy, cp, df, diff, doctor, explore, fsck, history, images, import,
    inspect, load, log, login, logout, ls, mount, mounts, prune, pull, push, rmi, run, save, tag, trace,
    umount, upper, version, why,
};
use crate::config::Context;
use crate::diagnostic::RUN_FAILED;
use crate::render;
use crate::template::Template;

/// Container images as filesystems: build, mount and inspect without root or a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "mica",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "`mica COMMAND --help` says more about a command, with examples.\n\
                  `mica doctor` says what this machine lacks, and how to mend it."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// The options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Where images, layers and the build cache lie
    /// [default: $XDG_DATA_HOME/mica, or /var/lib/mica for root]
    #[arg(
        long,
        global = true,
        env = "MICA_ROOT",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub root: Option<PathBuf>,

    /// Log what mica does, to stderr (the same as --log-level debug)
    #[arg(long, short = 'D', global = true)]
    pub debug: bool,

    /// Log from this level on: error, warn, info, debug or trace, also by part ("mica_fs=debug") [default: warn]
    #[arg(
        long,
        global = true,
        env = "MICA_LOG",
        hide_env_values = true,
        value_name = "LEVEL"
    )]
    pub log_level: Option<String>,

    /// How a user's steps get the ids of the image: auto, root, subuid (the ranges of /etc/subuid) or single (without
    /// any) [default: auto]
    #[arg(
        long,
        global = true,
        env = "MICA_USERNS",
        hide_env_values = true,
        value_name = "MODE"
    )]
    pub userns: Option<UserNs>,

    /// When to use colours; NO_COLOR in the environment is honoured
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
}

impl Global {
    /// The log filter that the options ask for.
    ///
    /// # Errors
    /// A text that is no log filter.
    pub fn log_level(&self) -> anyhow::Result<tracing_subscriber::EnvFilter> {
        let text = match (&self.log_level, self.debug) {
            (Some(text), _) => text.as_str(),
            (None, true) => "debug",
            (None, false) => "warn",
        };
        tracing_subscriber::EnvFilter::try_new(text)
            .map_err(|error| crate::diagnostic::usage_error(format!("{text:?} is not a log level: {error}")))
    }
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Build(Box<build::Args>),
    Run(run::Args),
    Pull(pull::Args),
    Push(push::Args),
    Copy(copy::Args),
    Login(login::Args),
    Logout(logout::Args),
    Images(images::Args),
    History(history::Args),
    Inspect(inspect::Args),
    Tag(tag::Args),
    Rmi(rmi::Args),
    Load(load::Args),
    Save(save::Args),
    Import(import::Args),
    Mount(mount::Args),
    Umount(umount::Args),
    Mounts(mounts::Args),
    Commit(commit::Args),
    Upper(upper::Args),
    Ls(ls::Args),
    Cat(cat::Args),
    Cp(cp::Args),
    Diff(diff::Args),
    Log(log::Args),
    Blame(blame::Args),
    Analyze(analyze::Args),
    Explore(explore::Args),
    Why(why::Args),
    Trace(trace::Args),
    Prune(prune::Args),
    Df(df::Args),
    Fsck(fsck::Args),
    Doctor(doctor::Args),
    Version(version::Args),
    /// Wait for the end of a mount's server
    #[command(name = mount::watch::COMMAND, hide = true)]
    WatchMount,
}

impl Command {
    /// Runs the command.
    ///
    /// # Errors
    /// Whatever made it fail, for [`crate::diagnostic::report`].
    pub fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self {
            Self::Build(args) => build::run(&args, context),
            Self::Run(args) => run::run(args, context),
            Self::Pull(args) => pull::run(args, context),
            Self::Push(args) => push::run(args, context),
            Self::Copy(args) => copy::run(args, context),
            Self::Login(args) => login::run(args, context),
            Self::Logout(args) => logout::run(args, context),
            Self::Images(args) => images::run(args, context),
            Self::History(args) => history::run(args, context),
            Self::Inspect(args) => inspect::run(args, context),
            Self::Tag(args) => tag::run(args, context),
            Self::Rmi(args) => rmi::run(args, context),
            Self::Load(args) => load::run(args, context),
            Self::Save(args) => save::run(args, context),
            Self::Import(args) => import::run(args, context),
            Self::Mount(args) => mount::run(args, context),
            Self::Umount(args) => umount::run(args, context),
            Self::Mounts(args) => mounts::run(args, context),
            Self::Commit(args) => commit::run(args, context),
            Self::Upper(args) => upper::run(args, context),
            Self::Ls(args) => ls::run(args, context),
            Self::Cat(args) => cat::run(args, context),
            Self::Cp(args) => cp::run(args, context),
            Self::Diff(args) => diff::run(args, context),
            Self::Log(args) => log::run(args, context),
            Self::Blame(args) => blame::run(args, context),
            Self::Analyze(args) => analyze::run(args, context),
            Self::Explore(args) => explore::run(args, context),
            Self::Why(args) => why::run(args, context),
            Self::Trace(args) => trace::run(args, context),
            Self::Prune(args) => prune::run(args, context),
            Self::Df(args) => df::run(args, context),
            Self::Fsck(args) => fsck::run(args, context),
            Self::Doctor(args) => doctor::run(args, context),
            Self::Version(args) => version::run(args, context),
            Self::WatchMount => mount::watch::run(),
        }
    }

    /// The exit status when the command itself fails.
    pub fn failure_code(&self) -> u8 {
        match self {
            Self::Run(_) => RUN_FAILED,
            // 1 says that there are differences, as with diff(1), or that a limit is exceeded.
            Self::Diff(_) | Self::Analyze(_) => 2,
            _ => 1,
        }
    }
}

/// How to write what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// JSON, one object a line
    Json,
}

/// How to write objects: as a table, as JSON, or by a template as Docker's `--format` takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectFormat {
    /// For people.
    Table,
    /// One object a line.
    Json,
    /// A template for each object.
    Template(Template),
    /// The same, in columns at its tabs and under headings: `table TEMPLATE`.
    Columns(Template),
}

impl FromStr for ObjectFormat {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A shell passes these two on as they are, and everybody means what they stand for.
        let unescape = |text: &str| text.replace("\\t", "\t").replace("\\n", "\n");
        match text.split_once(char::is_whitespace) {
            None if text == "table" => Ok(Self::Table),
            None if text == "json" => Ok(Self::Json),
            Some(("table", template)) => Ok(Self::Columns(Template::parse(&unescape(template.trim()))?)),
            _ if !text.contains("{{") => {
                anyhow::bail!("there are table, json, and templates such as '{{{{.ID}}}}'")
            }
            _ => Ok(Self::Template(Template::parse(&unescape(text))?)),
        }
    }
}

impl ObjectFormat {
    /// The text of all objects. `table` makes the table for people, and `heading` says what stands above a column.
    ///
    /// # Errors
    /// If the template does not go with the objects.
    pub fn write(
        &self,
        objects: &[Value],
        heading: fn(&str) -> String,
        table: impl FnOnce() -> String,
    ) -> anyhow::Result<String> {
        let lines = |template: &Template| -> anyhow::Result<Vec<String>> {
            objects.iter().map(|object| template.render(object)).collect()
        };
        Ok(match self {
            Self::Table => table(),
            Self::Json => objects.iter().map(|object| format!("{object}\n")).collect(),
            Self::Template(template) => lines(template)?.iter().map(|line| format!("{line}\n")).collect(),
            Self::Columns(template) => {
                let names = objects.first().and_then(Value::as_object).into_iter().flatten();
                let headings = names
                    .map(|(name, _)| (name.clone(), heading(name).into()))
                    .collect();
                let mut rows = vec![template.render(&Value::Object(headings))?];
                rows.extend(lines(template)?);
                render::columns(&rows)
            }
        })
    }
}
