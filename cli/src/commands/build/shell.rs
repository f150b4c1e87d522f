//! `--on-error=shell`, `--break`, `--break-after`: a shell in a step while the build waits.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _};
use std::os::fd::AsFd as _;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use mica_builder::event::Event;
use mica_builder::sandbox::{Exit, Stdio, terminal};
use mica_builder::solver::inspect::{Moment, Paused, STEP, Start, Then};

use super::args::{DebugArgs, OnError};
use crate::diagnostic::{hint, usage_error};
use crate::progress::{Progress, plain};
use crate::render::printable;

/// The exit status of a shell that has the failed step executed once more: EX_TEMPFAIL of sysexits(3), "later
/// attempts may succeed". No shell ends with it by chance, as it may with 0 or 1.
const AGAIN: i32 = 75;

/// The shells of a build. While one is open nothing else is written to the terminal.
pub(super) struct Shells<'p> {
    args: &'p DebugArgs,
    progress: &'p Progress,
    /// What happened while a shell was open.
    held: Mutex<Option<Vec<Event>>>,
    /// Held by who uses the terminal.
    turn: Mutex<()>,
    reached: Mutex<BTreeSet<usize>>,
}

impl DebugArgs {
    /// Whether anything is looked into.
    pub fn is_wanted(&self) -> bool {
        self.on_error.is_some() || !self.before.is_empty() || !self.after.is_empty()
    }

    /// Refuses, before anything is built, shells that nobody could use.
    ///
    /// # Errors
    /// If stdin or stderr is no terminal.
    pub fn check(&self) -> anyhow::Result<()> {
        match self.is_wanted() && !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
            true => Err(hint(
                usage_error("--on-error=shell and --break need a terminal on stdin and stderr"),
                "without one, look at what a failed step left: mica mount @STEP DIR",
            )),
            false => Ok(()),
        }
    }
}

impl<'p> Shells<'p> {
    pub fn new(args: &'p DebugArgs, progress: &'p Progress) -> Self {
        Self {
            args,
            progress,
            held: Mutex::new(None),
            turn: Mutex::new(()),
            reached: Mutex::default(),
        }
    }

    /// Shows an event, or keeps it for later.
    pub fn show(&self, event: Event) {
        match &mut *lock(&self.held) {
            Some(held) => held.push(event),
            None => self.progress.show(event),
        }
    }

    /// Whether a step is looked into.
    pub fn wants(&self, step: usize, moment: Moment) -> bool {
        match moment {
            Moment::Failed(_) => self.args.on_error == Some(OnError::Shell),
            Moment::Before => self.args.before.contains(&step),
            Moment::After => self.args.after.contains(&step),
        }
    }

    /// Opens a shell, and returns when it has ended.
    pub fn look(&self, paused: &Paused<'_>, start: Start<'_>) -> Then {
        let _turn = lock(&self.turn);
        lock(&self.reached).insert(paused.number);
        *lock(&self.held) = Some(Vec::new());
        self.progress.pause(true);
        plain::write(&banner(paused));
        let then = match shell(paused, start) {
            Ok(Exit::Code(AGAIN)) if matches!(paused.moment, Moment::Failed(_)) => {
                plain::write(&format!("#{} once more\n", paused.number));
                Then::Again
            }
            Ok(_) => Then::GoesOn,
            Err(error) => {
                plain::write(&format!("mica: {error:#}\n"));
                Then::GoesOn
            }
        };
        self.progress.pause(false);
        let mut held = lock(&self.held);
        held.take()
            .into_iter()
            .flatten()
            .for_each(|event| self.progress.show(event));
        then
    }

    /// The breakpoints that no step was at.
    pub fn missed(&self) -> Option<String> {
        let reached = lock(&self.reached);
        let wanted: BTreeSet<_> = self.args.before.iter().chain(&self.args.after).collect();
        let missed: Vec<_> = wanted
            .into_iter()
            .filter(|step| !reached.contains(*step))
            .collect();
        let text = missed
            .iter()
            .map(|step| format!("#{step}"))
            .collect::<Vec<_>>()
            .join(", ");
        (!missed.is_empty()).then(|| format!("--break: no RUN, COPY or ADD {text} was reached"))
    }
}

fn banner(paused: &Paused<'_>) -> String {
    let when = match paused.moment {
        Moment::Before => "has not begun".to_owned(),
        Moment::After => "is done".to_owned(),
        Moment::Failed(Exit::Code(code)) => format!("failed with exit code {code}"),
        Moment::Failed(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
    };
    let text = printable(paused.text.lines().next().unwrap_or_default());
    let command = match paused.has_command {
        true => format!("{STEP} executes its command; "),
        false => String::new(),
    };
    let exit = match paused.moment {
        Moment::Failed(_) => format!("`exit` ends the build, `exit {AGAIN}` executes the step once more."),
        Moment::Before | Moment::After => "`exit` goes on.".to_owned(),
    };
    format!(
        "\n#{} {when}: {text}\nA shell in its filesystem: {command}changes are thrown away; {exit}\n",
        paused.number
    )
}

fn shell(paused: &Paused<'_>, start: Start<'_>) -> anyhow::Result<Exit> {
    let Some(shell) = paused.shell else {
        anyhow::bail!(
            "the filesystem of this step has no shell: look at it by `mica mount @{} DIR`",
            paused.number
        );
    };
    let size = terminal::Size::of(io::stdin()).unwrap_or_default();
    let mut running = start(&[shell], Stdio::Terminal(size)).context("cannot start a shell")?;
    if let Some(master) = running.take_terminal() {
        let stdin = io::stdin();
        terminal::relay(master, Some(stdin.as_fd()), &mut io::stderr())
            .context("cannot relay the terminal")?;
    }
    running.wait().context("cannot wait for the shell")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
