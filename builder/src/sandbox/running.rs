//! A step from mica's side: starting it, signalling it, waiting for its end.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use super::cgroup::Cgroup;
use super::channel::{Channel, Order, Report, Start};
use super::error::SandboxError;
use super::pasta::Pasta;
use super::program::Program;
use super::{Capabilities, Exit, INIT_ARG, MountKind, Spec, Stdin, Stdio, Supervised, supervisor, sys};

impl Spec {
    /// Starts the command. On return its world is made and the command runs (or has failed to be
    /// executed, which is an [`Exit`] of 126 or 127).
    ///
    /// [`enter`](super::enter) must have succeeded before. May be called from several threads; the
    /// root filesystem, if this process serves it, must be served by other threads than the caller.
    pub fn spawn(&self, stdio: Stdio) -> Result<Running, SandboxError> {
        self.check()?;
        let failed = |action| move |source| SandboxError::Spawn { action, source };
        let (ours, theirs) = UnixStream::pair().map_err(failed("create the control socket"))?;
        let channel = Channel::new(ours);
        let (parent, resources) = (self.limits.cgroup_parent.as_deref(), &self.limits.resources);
        let cgroup = match parent.is_none() && resources.is_empty() {
            true => None,
            false => Some(Cgroup::create(parent, resources)?),
        };
        let (child, output) = launch(theirs, stdio)?;
        let process = child.id();
        let mut running = Running {
            child: Some(child),
            pasta: None,
            cgroup,
            channel,
            output,
            terminal: None,
            supervisor: None,
        };
        if let Some(cgroup) = &running.cgroup {
            // The launcher has forked nothing yet: it waits for the specification.
            cgroup.add(process).map_err(failed("enter its control group"))?;
        }
        let (terminal, stdin) = match stdio {
            Stdio::Terminal(size) => (Some(size), None),
            Stdio::Piped(Stdin::Inherit) => (
                None,
                Some(sys::duplicate(io::stdin()).map_err(failed("pass stdin on"))?),
            ),
            Stdio::Piped(Stdin::Null) => {
                let null = File::open("/dev/null").map_err(failed("open /dev/null"))?;
                (None, Some(null.into()))
            }
        };
        let start = Start {
            spec: self.clone(),
            terminal,
            answered: self.supervised.as_ref().map(|supervised| supervised.answered),
        };
        let stdin = stdin.as_ref().map(OwnedFd::as_fd);
        running
            .channel
            .send(&start, stdin)
            .map_err(failed("send the specification"))?;
        running.await_start(self)?;
        Ok(running)
    }

    /// Refuses what could not even be sent or executed.
    fn check(&self) -> Result<(), SandboxError> {
        if self.args.is_empty() {
            return Err(SandboxError::EmptyCommand);
        }
        let args = self.args.iter().map(|arg| ("argument", arg.as_os_str()));
        let env = self.env.iter().flat_map(|(name, value)| [name, value]);
        let env = env.map(|text| ("variable", text.as_os_str()));
        let sources = self.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { source, .. } => Some(source.as_path()),
            MountKind::Tmpfs { .. } | MountKind::File { .. } => None,
        });
        let targets = self.mounts.iter().map(|mount| mount.target.as_path());
        let inside = targets.chain([self.cwd.as_path()]);
        for path in inside.clone() {
            if !path.is_absolute() {
                return Err(SandboxError::RelativePath {
                    path: path.to_owned(),
                });
            }
        }
        let paths = sources.chain(inside).chain([self.rootfs.as_path()]);
        let paths = paths.map(|path| ("path", path.as_os_str()));
        let hostname = [("host name", OsStr::new(&self.hostname))];
        for (what, value) in args.chain(env).chain(paths).chain(hostname) {
            if value.as_bytes().contains(&0) {
                return Err(SandboxError::Nul {
                    what,
                    value: value.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// The read ends of a command's stdout and stderr.
#[derive(Debug)]
struct Output {
    stdout: PipeReader,
    stderr: PipeReader,
}

/// Re-executes this program as a step's launcher, with the control socket as its stdin.
fn launch(control: UnixStream, stdio: Stdio) -> Result<(Child, Option<Output>), SandboxError> {
    let failed = |action| move |source| SandboxError::Spawn { action, source };
    let program = Program::get().map_err(failed("make an executable of this program"))?;
    let mut command = Command::new(program.path());
    command
        .arg0("mica")
        .arg(INIT_ARG)
        .env_clear()
        .stdin(OwnedFd::from(control));
    let output = match stdio {
        Stdio::Piped(_) => {
            let pipe = || io::pipe().map_err(failed("create a pipe"));
            let ((stdout, out), (stderr, err)) = (pipe()?, pipe()?);
            command.stdout(out).stderr(err);
            Some(Output { stdout, stderr })
        }
        Stdio::Terminal(_) => {
            command.stdout(process::Stdio::null());
            None
        }
    };
    // Dropping the command closes our copies of its ends.
    let child = command.spawn().map_err(failed("execute this program"))?;
    Ok((child, output))
}

/// A command in its sandbox. Dropping it kills it and waits for the end of all its processes.
#[derive(Debug)]
pub struct Running {
    /// The launcher; `None` once it has been waited for.
    child: Option<Child>,
    /// What connects its network, if anything has to.
    pasta: Option<Pasta>,
    /// Removed after the step's end.
    cgroup: Option<Cgroup>,
    channel: Channel,
    output: Option<Output>,
    terminal: Option<OwnedFd>,
    /// Answers system calls of the step; it ends with the last process.
    supervisor: Option<JoinHandle<()>>,
}

impl Running {
    /// The read ends of the command's stdout and stderr, in this order: the first time, and if it
    /// was started with [`Stdio::Piped`].
    ///
    /// Both must be read to their ends, by two threads or by polling, before [`wait`](Self::wait):
    /// a command that fills a pipe which nobody empties does not end.
    pub fn take_output(&mut self) -> Option<(PipeReader, PipeReader)> {
        self.output.take().map(|output| (output.stdout, output.stderr))
    }

    /// The master of the command's pseudo-terminal: the first time, and if it was started with
    /// [`Stdio::Terminal`]. [`terminal::relay`](super::terminal::relay) takes it.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    /// Something that sends signals to the command, also from another thread while one waits.
    pub fn signaller(&self) -> io::Result<Signaller> {
        self.channel.try_clone().map(Signaller)
    }

    /// Sends signal `number` to the command. If that has ended, nothing happens.
    pub fn signal(&self, number: i32) {
        send_signal(&self.channel, number);
    }

    /// Waits until the command has ended and all other processes of the step with it. On return
    /// none is left and the step's mounts are released.
    pub fn wait(mut self) -> Result<Exit, SandboxError> {
        let exit = self.next_end();
        let status = self.join()?;
        exit?.ok_or(SandboxError::InitDied { status })
    }

    /// Kills the command and every other process of the step, and waits until they are gone.
    pub fn kill(mut self) -> Result<(), SandboxError> {
        self.channel.hang_up();
        self.join().map(drop)
    }

    /// Reads until the command runs, or cannot.
    fn await_start(&mut self, spec: &Spec) -> Result<(), SandboxError> {
        let mut mounts = None;
        loop {
            match self.receive()? {
                Some((Report::Entered, descriptor)) => mounts = descriptor,
                Some((Report::Filtered, listener)) => {
                    if let (Some(mounts), Some(listener), Some(what)) =
                        (mounts.take(), listener, &spec.supervised)
                    {
                        self.supervise(mounts, listener, (what, spec.capabilities))?;
                    }
                }
                Some((Report::Started, master)) => {
                    self.terminal = master;
                    return Ok(());
                }
                Some((Report::Warning(text), _)) => warn(text),
                Some((Report::Network, namespace)) => self.connect(namespace)?,
                Some((Report::Failed(failure), _)) => {
                    self.join()?;
                    return Err(SandboxError::Setup(failure));
                }
                // Init announces the start even of a command that has already ended.
                Some((Report::Exited(_), _)) => {}
                None => {
                    let status = self.join()?;
                    return Err(SandboxError::InitDied { status });
                }
            }
        }
    }

    /// Connects the network that init has made, and lets it go on.
    fn connect(&mut self, namespace: Option<OwnedFd>) -> Result<(), SandboxError> {
        let failed = |source| SandboxError::Spawn {
            action: "connect its network",
            source,
        };
        let namespace = namespace.ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        self.pasta = Some(Pasta::connect(namespace.as_fd())?);
        self.channel.send(&Order::Connected, None).map_err(failed)
    }

    /// Begins to answer the step's system calls, and tells init.
    fn supervise(
        &mut self,
        mounts: OwnedFd,
        listener: OwnedFd,
        (what, capabilities): (&Supervised, Capabilities),
    ) -> Result<(), SandboxError> {
        let failed = |source| SandboxError::Spawn {
            action: "answer its system calls",
            source,
        };
        self.supervisor =
            Some(supervisor::start(listener, mounts, what.clone(), capabilities).map_err(failed)?);
        self.channel.send(&Order::Supervised, None).map_err(failed)
    }

    /// Reads until the command's end is reported; `None` if init ends without a word.
    fn next_end(&mut self) -> Result<Option<Exit>, SandboxError> {
        loop {
            match self.receive()? {
                Some((Report::Exited(exit), _)) => return Ok(Some(exit)),
                Some((Report::Failed(failure), _)) => return Err(SandboxError::Setup(failure)),
                Some((Report::Warning(text), _)) => warn(text),
                // Its world is made once, before it starts; what comes later, the step's root may have sent.
                Some((Report::Started | Report::Network | Report::Entered | Report::Filtered, _)) => {}
                None => return Ok(None),
            }
        }
    }

    fn receive(&self) -> Result<Option<(Report, Option<OwnedFd>)>, SandboxError> {
        self.channel.receive().map_err(|source| SandboxError::Spawn {
            action: "hear from init",
            source,
        })
    }

    /// Waits for the launcher, which outlives init, which outlives the step.
    fn join(&mut self) -> Result<String, SandboxError> {
        let Some(mut child) = self.child.take() else {
            return Ok("already waited for".into());
        };
        let status = child.wait();
        if let Some(supervisor) = self.supervisor.take() {
            // Its end means that the step's mounts are released. That it panicked, the log tells.
            let _ = supervisor.join();
        }
        self.pasta = None;
        if self.cgroup.as_ref().is_some_and(Cgroup::ran_out_of_memory) {
            tracing::warn!("a process of the step was killed: its memory was used up (--memory)");
        }
        let failed = |source| SandboxError::Spawn {
            action: "wait for the launcher",
            source,
        };
        status.map(|status| status.to_string()).map_err(failed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.channel.hang_up();
            if let Err(error) = self.join() {
                tracing::warn!("sandbox: {error}");
            }
        }
    }
}

/// Tells what a step lacks, once: the next ones lack it as well.
fn warn(text: String) {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if !told.contains(&text) {
        tracing::warn!("sandbox: {text}");
        // A step's root can make up texts without end.
        if told.len() < 100 {
            told.insert(text);
        }
    }
}

/// Sends signals to a command, from any thread. Does not keep it alive.
#[derive(Debug)]
pub struct Signaller(Channel);

impl Signaller {
    /// Sends signal `number` to the command. If that has ended, nothing happens.
    pub fn signal(&self, number: i32) {
        send_signal(&self.0, number);
    }

    /// Kills the command and every other process of the step, also if the step holds its init.
    pub fn kill(&self) {
        self.0.hang_up();
    }
}

fn send_signal(channel: &Channel, number: i32) {
    // It fails only if init has ended, and the command with it.
    let _ = channel.send(&Order::Signal(number), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_cannot_take_is_refused_before_anything_starts() {
        let refused = |change: &dyn Fn(&mut Spec)| {
            let mut spec = Spec::new("/nowhere", ["true"]);
            change(&mut spec);
            spec.spawn(Stdio::Piped(Stdin::Null)).unwrap_err()
        };
        assert!(matches!(
            refused(&|spec| spec.args.clear()),
            SandboxError::EmptyCommand
        ));
        let nul = refused(&|spec| spec.env.push(("A".into(), "a\0b".into())));
        assert!(matches!(nul, SandboxError::Nul { what: "variable", .. }));
        let relative = refused(&|spec| spec.cwd = "app".into());
        assert!(matches!(relative, SandboxError::RelativePath { .. }));
    }
}
