//! The command `mica`.
//!
//! Arguments come in through [`args`], each command is a file of [`commands`], and whatever goes wrong leaves
//! through [`diagnostic`]. What a command found out goes to stdout, everything else to stderr.

use std::env;
use std::process::ExitCode;

use clap::Parser as _;
use mica_builder::sandbox::{INIT_ARG, KEEPER_ARG, dismiss, init_main, keeper_main};

mod args;
mod commands;
mod config;
mod diagnostic;
mod limits;
mod location;
mod node;
mod progress;
mod prompt;
mod registries;
mod render;
mod signals;
mod source;
mod sys;
mod template;
mod volume;

use args::Cli;
use config::Context;

fn main() -> ExitCode {
    // A build step's first processes are this program again. They must not have begun anything else.
    let mut arguments = env::args_os().skip(1);
    match arguments.next() {
        Some(first) if first == INIT_ARG => init_main(),
        Some(first) if first == KEEPER_ARG => {
            keeper_main(&arguments.next().unwrap_or_default().to_string_lossy())
        }
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return diagnostic::usage(&error),
    };
    let failure = cli.command.failure_code();
    let ended = run(cli);
    dismiss();
    match ended {
        Ok(code) => signals::exit_status().map_or(code, ExitCode::from),
        Err(error) if diagnostic::is_stdout_closed(&error) => diagnostic::BROKEN_PIPE.into(),
        Err(error) => {
            diagnostic::report(&error);
            signals::exit_status()
                .or(diagnostic::exit_code(&error).filter(|_| failure != diagnostic::RUN_FAILED))
                .unwrap_or(failure)
                .into()
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    diagnostic::choose_color(cli.global.color);
    diagnostic::start_log(cli.global.log_level()?)?;
    let context = Context::new(&cli.global)?;
    cli.command.run(&context)
}
