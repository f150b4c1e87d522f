//! The two processes between mica and the command: the launcher and PID 1.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, chown, dup2_stdin, pipe2, sethostname, setsid};

use super::capabilities::{CapabilitySet, drop_to, drop_to_init};
use super::channel::{Channel, Order, Report, Start};
use super::error::{Failure, Step, errno_of};
use super::process::{self, Streams};
use super::seccomp::{self, Filter, bpf::Architecture, profile::default_profile};
use super::{Answered, Capabilities, Exit, MountKind, Network, Spec, doctor, limits, mounts, sys};

/// The main function of the program when its first argument is [`INIT_ARG`](super::INIT_ARG).
///
/// Must be called before any thread is started and before any file is opened: it takes the control
/// socket from stdin and closes every descriptor past stderr.
pub fn init_main() -> ! {
    let status = match launch() {
        Ok(status) => status,
        Err(error) => {
            let message = format!("mica: this is for mica's own use: {error}\n");
            // Nobody is on the socket, and perhaps nobody on stderr.
            let _ = io::stderr().write_all(message.as_bytes());
            125
        }
    };
    sys::exit_now(status)
}

/// The launcher: stays outside of the step's namespaces, so that it holds nothing of the image.
///
/// It does not ask for a signal at its parent's death: the kernel sends that when the *thread* that
/// made the process ends. Init watches the control socket instead, and the launcher ends with init.
///
/// Returns init's exit status, as a shell would give it.
fn launch() -> io::Result<i32> {
    sys::close_from(3)?;
    let channel = Channel::new(UnixStream::from(sys::duplicate(io::stdin())?));
    dup2_stdin(std::fs::File::open("/dev/null")?)?;
    let Some((start, stdin)) = channel.receive::<Start>()? else {
        return Ok(0);
    };
    match fork_init() {
        Ok(ForkResult::Child) => init(&channel, &start, stdin),
        Ok(ForkResult::Parent { child }) => {
            drop(stdin);
            Ok(match watch(child, &channel)? {
                WaitStatus::Exited(_, code) => code,
                WaitStatus::Signaled(_, signal, _) => Exit::Signal(signal as i32).status(),
                _ => 0,
            })
        }
        Err(failure) => channel.send(&Report::Failed(failure), None).map(|()| 0),
    }
}

/// Waits for init, which the step's root can stop for good by tracing it: then it goes on. When mica has hung up, init
/// is killed, whatever holds it.
fn watch(init: Pid, control: &Channel) -> io::Result<WaitStatus> {
    let mut changed = SigSet::empty();
    changed.add(Signal::SIGCHLD);
    changed.thread_block()?;
    let changed = SignalFd::with_flags(&changed, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    loop {
        match waitpid(init, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(WaitStatus::Stopped(..)) => {
                // If init has been killed meanwhile, the next round hears of it.
                let _ = kill(init, Signal::SIGCONT);
                continue;
            }
            Err(Errno::EINTR) => continue,
            ended => return Ok(ended?),
        }
        let mut fds = [
            PollFd::new(changed.as_fd(), PollFlags::POLLIN),
            // What is said is for init. A hang-up is reported unasked.
            PollFd::new(control.as_fd(), PollFlags::empty()),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            polled => polled?,
        };
        if fds[1].any() == Some(true) {
            let _ = kill(init, Signal::SIGKILL);
            return Ok(sys::wait_for(init)?);
        }
        while let Ok(Some(_)) = changed.read_signal() {}
    }
}

fn fork_init() -> Result<ForkResult, Failure> {
    let failed = |errno| Failure::new(Step::Namespaces, "", errno);
    // A session of its own: what the user types at mica's terminal is mica's to pass on.
    setsid().map_err(failed)?;
    chdir("/").map_err(failed)?;
    // Until init has let go of all that is outside, nobody must reach it through /proc.
    prctl::set_dumpable(false).map_err(failed)?;
    // By default it is the name of the descriptor that was executed.
    prctl::set_name(c"mica-init").map_err(failed)?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(failed)?;
    sys::fork().map_err(failed)
}

/// PID 1 of the step.
fn init(channel: &Channel, start: &Start, stdin: Option<OwnedFd>) -> ! {
    let ended = start_command(channel, start, stdin).and_then(|running| running.follow(channel));
    let report = match ended {
        Ok(Some(exit)) => Report::Exited(exit),
        // mica is gone.
        Ok(None) => sys::exit_now(1),
        Err(failure) => Report::Failed(failure),
    };
    // If mica is gone by now, nobody waits for the report.
    let _ = channel.send(&report, None);
    sys::exit_now(0)
}

/// The command from init's point of view.
struct Following {
    command: Pid,
    signals: SignalFd,
    /// Yields a [`Failure`] if the command cannot be prepared; its end comes with the command's exec. It stays
    /// open: the command can list init's descriptors, and none may vanish meanwhile.
    outcome: io::PipeReader,
    /// Whether mica knows that the command runs.
    announced: bool,
    master: Option<OwnedFd>,
}

fn start_command(channel: &Channel, start: &Start, stdin: Option<OwnedFd>) -> Result<Following, Failure> {
    let spec = &start.spec;
    let failed = |errno| Failure::new(Step::Process, "", errno);
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    // Blocked before the command exists, so that no signal is lost; PID 1 gets by default only
    // those that it has blocked or handles.
    let all = SigSet::all();
    all.thread_set_mask().map_err(failed)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&all, flags).map_err(failed)?;

    let pty = isolate(channel, start)?;
    let (master, slave) = pty.map_or((None, None), |pty| (Some(pty.master), Some(pty.slave)));
    let streams = match (slave, stdin) {
        (Some(slave), _) => Streams::Terminal(slave),
        (None, Some(stdin)) => Streams::Stdin(stdin),
        (None, None) => return Err(failed(Errno::EBADF)),
    };
    let (outcome, tell) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (settled, settle) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    match sys::fork().map_err(failed)? {
        ForkResult::Parent { child } => {
            drop((tell, streams, settled));
            drop_to_init().map_err(|errno| Failure::new(Step::Capabilities, "", errno))?;
            drop(settle);
            Ok(Following {
                command: child,
                signals,
                outcome: io::PipeReader::from(outcome),
                announced: false,
                master,
            })
        }
        ForkResult::Child => {
            drop((master, outcome, settle));
            // Init closes its end when it has closed and given up all that it will: what the command sees of
            // init does not change under its eyes.
            let _ = io::PipeReader::from(settled).read(&mut [0]);
            sys::exit_now(run_command(spec, streams, io::PipeWriter::from(tell)))
        }
    }
}

/// Makes the world that the command sees, and gives up what init does not need any more.
fn isolate(channel: &Channel, start: &Start) -> Result<Option<mounts::Pty>, Failure> {
    let spec = &start.spec;
    // A warning that mica cannot hear is no reason to fail: its hang-up is noticed later.
    let mut warn = |text| {
        let _ = channel.send(&Report::Warning(text), None);
    };
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    if spec.network != Network::Host {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    unshare(flags).map_err(|errno| Failure::new(Step::Namespaces, "", errno))?;
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWCGROUP) {
        warn(format!(
            "the control groups outside are visible: {}",
            errno.desc()
        ));
    }
    if spec.network != Network::Host {
        sys::loopback_up().map_err(|errno| Failure::new(Step::Loopback, "", errno))?;
    }
    if spec.network == Network::Pasta {
        have_connected(channel).map_err(|error| Failure::new(Step::Network, "", errno_of(&error)))?;
    }
    match sethostname(&spec.hostname) {
        Ok(()) => {}
        // podman's profile for containers allows namespaces, but not this call.
        Err(Errno::EPERM) => {
            warn("steps see the host name outside: a seccomp profile around mica forbids to set one (`mica doctor`)".into());
        }
        Err(errno) => return Err(Failure::new(Step::Hostname, spec.hostname.clone(), errno)),
    }
    match sys::new_session_keyring() {
        // Without keyrings, or where a seccomp profile forbids them, there is nothing to hide.
        Ok(()) | Err(Errno::ENOSYS | Errno::EPERM) => {}
        Err(errno) => warn(format!(
            "the session keyring outside is visible: {}",
            errno.desc()
        )),
    }
    umask(Mode::empty());
    let virtual_ids = start.answered == Some(Answered::Ids);
    let pty = mounts::set_up(spec, (start.terminal, virtual_ids), &mut warn)?;
    chdir(&spec.cwd)
        .map_err(|errno| Failure::new(Step::WorkingDirectory, spec.cwd.display().to_string(), errno))?;
    limits::raise(&spec.limits.ulimits)?;
    // While init still has CAP_SYS_ADMIN: see there.
    filter(channel, start, &mut warn)?;
    if virtual_ids {
        give_mounts(spec)?;
    }
    drop_to(spec.capabilities).map_err(|errno| Failure::new(Step::Capabilities, "", errno))?;
    let failed = |errno| Failure::new(Step::Process, "", errno);
    // A change of credentials may have cleared it.
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    // As PID 1 of a Docker container, init can be looked at by the step's root: `find /` goes through
    // /proc/1. It could even be traced, and then holds nothing but its end of the control socket.
    prctl::set_dumpable(true).map_err(failed)?;
    Ok(pty)
}

/// Has mica connect this process's network namespace, and waits until it is.
fn have_connected(channel: &Channel) -> io::Result<()> {
    let namespace = std::fs::File::open("/proc/self/ns/net")?;
    channel.send(&Report::Network, Some(namespace.as_fd()))?;
    loop {
        match channel.receive::<Order>()? {
            Some((Order::Connected, _)) => return Ok(()),
            // There is no command yet that it could be for.
            Some((Order::Signal(_) | Order::Supervised, _)) => {}
            None => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Puts this process, and the command with it, under Docker's profile; and has mica answer what the kernel cannot.
fn filter(channel: &Channel, start: &Start, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
    let profile = match start.spec.capabilities {
        Capabilities::All => None,
        Capabilities::Default => {
            let profile = default_profile(CapabilitySet::DEFAULT);
            if profile.is_none() {
                warn("system calls are not filtered: those of this kind of machine are not known".into());
            }
            profile
        }
    };
    match start.answered {
        Some(Answered::Ids) => {
            let supervised = be_supervised(channel, &seccomp::supervised(profile, Answered::Ids));
            return supervised.map_err(|errno| match doctor::listener_remedy(errno) {
                Some(remedy) => filter_failed(errno).hint(remedy),
                None => filter_failed(errno),
            });
        }
        // Without it a step works as well, as long as it makes no device.
        Some(Answered::Devices) if !Architecture::NATIVE.is_empty() => {
            match be_supervised(channel, &seccomp::supervised(profile.clone(), Answered::Devices)) {
                Err(Errno::ENOSYS | Errno::EINVAL | Errno::EBUSY) => {
                    warn("devices cannot be made: nothing more can answer system calls here".into());
                }
                supervised => return supervised.map_err(filter_failed),
            }
        }
        Some(Answered::Devices) | None => {}
    }
    let Some(profile) = profile else {
        return Ok(());
    };
    match seccomp::install(&profile) {
        Ok(_) => Ok(()),
        Err(Errno::ENOSYS | Errno::EINVAL) => {
            warn("system calls are not filtered: this kernel cannot".into());
            Ok(())
        }
        Err(errno) => Err(filter_failed(errno)),
    }
}

fn filter_failed(errno: Errno) -> Failure {
    Failure::new(Step::SystemCalls, "", errno)
}

/// Tells mica whom the files of other filesystems belong to.
fn give_mounts(spec: &Spec) -> Result<(), Failure> {
    let secrets = spec.mounts.iter().filter_map(|mount| match mount.kind {
        MountKind::File { uid, gid, .. } => Some((mount.target.as_path(), uid, gid)),
        _ => None,
    });
    let owners = spec.owners.iter();
    let owners = owners.map(|(target, uid, gid)| (Path::new(target), *uid, *gid));
    for (target, uid, gid) in secrets.chain(owners) {
        chown(target, Some(uid.into()), Some(gid.into()))
            .map_err(|errno| Failure::new(Step::Mount, target.display().to_string(), errno))?;
    }
    Ok(())
}

/// Puts this process and all of the step under a filter, and waits until mica answers the calls that it holds up. On an
/// error there is no filter.
fn be_supervised(channel: &Channel, filter: &Filter) -> Result<(), Errno> {
    let told = |error: io::Error| errno_of(&error);
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mounts = open("/proc/self/ns/mnt", flags, Mode::empty())?;
    channel
        .send(&Report::Entered, Some(mounts.as_fd()))
        .map_err(told)?;
    let listener = seccomp::install(filter)?;
    channel
        .send(&Report::Filtered, listener.as_ref().map(AsFd::as_fd))
        .map_err(told)?;
    loop {
        match channel.receive::<Order>().map_err(told)? {
            Some((Order::Supervised, _)) => return Ok(()),
            // There is no command yet that it could be for.
            Some((Order::Signal(_) | Order::Connected, _)) => {}
            None => return Err(Errno::EPIPE),
        }
    }
}

/// The command's process: returns its exit status only if it cannot become the command.
fn run_command(spec: &Spec, streams: Streams, mut tell: io::PipeWriter) -> i32 {
    match process::prepare(spec, streams) {
        Ok(()) => process::exec(spec),
        Err(failure) => {
            let text = serde_json::to_vec(&failure).unwrap_or_default();
            // The reader is init, without which this process does not live.
            let _ = tell.write_all(&text);
            1
        }
    }
}

impl Following {
    /// Reaps, passes signals on, and returns when the command ends; `None` when mica hangs up.
    fn follow(mut self, channel: &Channel) -> Result<Option<Exit>, Failure> {
        let failed = |errno| Failure::new(Step::Process, "", errno);
        loop {
            let (mica, signals, outcome) = self.wait_for_events(channel).map_err(failed)?;
            if outcome {
                self.announce(channel)?;
            }
            if mica {
                match channel.receive::<Order>() {
                    Ok(Some((Order::Signal(number), _))) => self.send(number),
                    Ok(Some((Order::Connected | Order::Supervised, _))) => {}
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(failed(errno_of(&error))),
                }
            }
            if signals {
                self.forward().map_err(failed)?;
                if let Some(exit) = self.reap().map_err(failed)? {
                    // It may have ended before its outcome was looked at.
                    self.announce(channel)?;
                    return Ok(Some(exit));
                }
            }
        }
    }

    /// Which of the control socket, the signals and the outcome have something to say.
    fn wait_for_events(&self, channel: &Channel) -> Result<(bool, bool, bool), Errno> {
        let mut fds = vec![
            PollFd::new(channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if !self.announced {
            fds.push(PollFd::new(self.outcome.as_fd(), PollFlags::POLLIN));
        }
        loop {
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
                Ok(_) => break,
            }
        }
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        Ok((ready(0), ready(1), ready(2)))
    }

    /// Tells mica, once, whether the command has come to run.
    fn announce(&mut self, channel: &Channel) -> Result<(), Failure> {
        if std::mem::replace(&mut self.announced, true) {
            return Ok(());
        }
        let text = io::read_to_string(&self.outcome).unwrap_or_default();
        if let Ok(failure) = serde_json::from_str::<Failure>(&text) {
            return Err(failure);
        }
        let master = self.master.take();
        let sent = channel.send(&Report::Started, master.as_ref().map(AsFd::as_fd));
        sent.map_err(|error| Failure::new(Step::Process, "", errno_of(&error)))
    }

    fn send(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            // It fails only if the command has just ended, which is noticed next.
            let _ = nix::sys::signal::kill(self.command, signal);
        }
    }

    /// Passes on what was sent to init, from outside or by the step itself.
    fn forward(&self) -> Result<(), Errno> {
        while let Some(info) = self.signals.read_signal()? {
            let number = i32::try_from(info.ssi_signo).unwrap_or_default();
            if number != libc::SIGCHLD {
                self.send(number);
            }
        }
        Ok(())
    }

    /// Reaps all that have ended; the command's own end is returned.
    fn reap(&self) -> Result<Option<Exit>, Errno> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.command => {
                    return Ok(Some(Exit::Code(code)));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.command => {
                    return Ok(Some(Exit::Signal(signal as i32)));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
