//! Commands of a test: how they are started, and what came of them.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::machine;

/// No command of a test takes longer than this on the slowest machine.
fn patience() -> Duration {
    Duration::from_secs(machine::either(240, 7200))
}

/// A command about to be run.
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
}

impl Run {
    /// Wraps a command; its stdin is empty until [`Run::stdin`] fills it.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            stdin: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// What the command reads from its stdin.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// If there is no such program.
    pub fn start(mut self) -> Running {
        let started = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = started.unwrap_or_else(|error| panic!("{:?}: {error}", self.command));
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let bytes = std::mem::take(&mut self.stdin);
        // A command that does not read it may end first.
        thread::spawn(move || drop(stdin.write_all(&bytes)));
        let stdout = gather(child.stdout.take().expect("stdout is a pipe"));
        let stderr = gather(child.stderr.take().expect("stderr is a pipe"));
        Running {
            text: format!("{:?}", self.command),
            child,
            stdout,
            stderr,
        }
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Runs it, and it must succeed.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        self.run().must(|status| status.success(), "succeed")
    }

    /// Runs it, and it must end with this exit status.
    #[track_caller]
    pub fn exits(self, code: i32) -> Outcome {
        self.run()
            .must(|status| status.code() == Some(code), &format!("exit with {code}"))
    }

    /// Runs it, and it must fail in an orderly way: a status that is not 0, no panic, no signal.
    #[track_caller]
    pub fn fails(self) -> Outcome {
        let outcome = self
            .run()
            .must(|status| status.code().is_some_and(|code| code != 0), "fail");
        outcome.lacks("panicked at")
    }
}

fn gather(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all there is to show.
        let _ = pipe.read_to_end(&mut bytes);
        // Nobody waits for it any more after a timeout.
        let _ = sender.send(bytes);
    });
    receiver
}

/// A command at work.
pub struct Running {
    text: String,
    child: Child,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: mpsc::Receiver<Vec<u8>>,
}

impl Running {
    /// The id of the process that was started.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id is a pid_t"))
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        let end = waitid(
            Id::Pid(self.pid()),
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
        );
        !matches!(end, Ok(WaitStatus::StillAlive))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the process is there to be signalled");
    }

    /// Waits for its end, and that of all who hold its stdout and stderr.
    ///
    /// # Panics
    /// If that takes too long; the process is then killed.
    pub fn wait(mut self) -> Outcome {
        let end = Instant::now() + patience();
        let left = || end.saturating_duration_since(Instant::now());
        let output = [&self.stdout, &self.stderr].map(|pipe| pipe.recv_timeout(left()));
        let [Ok(stdout), Ok(stderr)] = output else {
            // It may have ended, and left a child that holds the pipes.
            let _ = self.child.kill();
            panic!("{}: not done after {:?}", self.text, patience());
        };
        let status = self.child.wait().expect("a child can be waited for");
        Outcome {
            text: self.text,
            status,
            stdout,
            stderr,
        }
    }
}

/// What came of a command.
#[derive(Debug)]
pub struct Outcome {
    text: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Stdout as text.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Stdout without its last line's end: the one thing that a command answers.
    pub fn answer(&self) -> String {
        self.stdout().trim_end_matches('\n').to_owned()
    }

    /// Each line of stdout as JSON.
    pub fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{error} in {line:?}\n{}", self.describe()))
        };
        self.stdout().lines().map(parse).collect()
    }

    /// Stdout as one JSON value.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.describe()))
    }

    /// Something of stdout or stderr must hold this text.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.has(text), "nothing says {text:?}\n{}", self.describe());
        self
    }

    /// Neither stdout nor stderr may hold this text.
    #[track_caller]
    pub fn lacks(self, text: &str) -> Self {
        assert!(!self.has(text), "something says {text:?}\n{}", self.describe());
        self
    }

    /// Whether stdout or stderr holds this text.
    pub fn has(&self, text: &str) -> bool {
        self.stdout().contains(text) || self.stderr().contains(text)
    }

    /// How often stderr and stdout hold this text.
    pub fn count(&self, text: &str) -> usize {
        self.stdout().matches(text).count() + self.stderr().matches(text).count()
    }

    #[track_caller]
    fn must(self, test: impl Fn(&ExitStatus) -> bool, what: &str) -> Self {
        assert!(test(&self.status), "it should {what}\n{}", self.describe());
        self
    }

    /// The command, how it ended and what it wrote, for messages.
    pub fn describe(&self) -> String {
        let end = match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "neither exited nor was killed".to_owned(),
        };
        format!(
            "{}\n{end}\n--- stdout\n{}\n--- stderr\n{}",
            self.text,
            self.stdout(),
            self.stderr()
        )
    }
}

/// Waits until a condition holds.
///
/// # Panics
/// If it does not within the time that any machine needs.
#[track_caller]
pub fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A command of this machine that prepares something, outside of any scene.
pub fn tool(program: impl AsRef<OsStr>, directory: &Path) -> Run {
    let mut command = Command::new(program);
    command.current_dir(directory);
    Run::new(command)
}
