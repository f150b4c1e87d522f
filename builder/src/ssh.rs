//! SSH agents: what `--ssh` gives to `RUN --mount=type=ssh` and to `git`.
//!
//! A step gets a socket of its own, which passes everything on to the agent. Keys never reach a step: an agent signs
//! with them, and gives none away. Keys in files are given to an agent that is started for the build and ends with it.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket;

use crate::graph::Permissions;
use crate::sandbox::die_with_parent;

/// How long an agent may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no agent.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The environment names none.
    #[error("there is no SSH agent: SSH_AUTH_SOCK is not set")]
    NoAgent,
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A socket among several files.
    #[error("{path} is a socket: an agent is named alone, not with other files")]
    Mixed {
        /// The socket.
        path: PathBuf,
    },
    /// A program of OpenSSH that cannot be run.
    #[error("cannot run {program}, which gives keys in files to a build")]
    Program {
        /// Which.
        program: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The agent that was started does not answer.
    #[error("the ssh-agent that was started does not answer")]
    Silent,
    /// A key that the agent does not take.
    #[error("ssh-add: {message}")]
    Key {
        /// What it said.
        message: String,
    },
}

impl AgentError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoAgent => {
                Some("start one by `eval $(ssh-agent)` and `ssh-add`, or name a key: --ssh default=FILE")
            }
            Self::Program { .. } => Some("install the package openssh-client, or name an agent's socket"),
            Self::Key { .. } => Some("a key with a passphrase goes into your agent first, by ssh-add"),
            _ => None,
        }
    }
}

/// An agent. One that was started here ends with this value.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    started: Option<Child>,
}

impl Agent {
    /// The agent behind `files`: a socket, or keys for an agent to be started in `directory`; that of the environment
    /// if there are none. To be called by a thread that lasts as long as the build: the agent ends with it.
    ///
    /// # Errors
    /// [`AgentError`].
    pub fn open(files: &[PathBuf], directory: &Path) -> Result<Self, AgentError> {
        if files.is_empty() {
            let variable = std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
            let socket = PathBuf::from(variable.ok_or(AgentError::NoAgent)?);
            is_socket(&socket)?;
            return Ok(Self {
                socket,
                started: None,
            });
        }
        for path in files {
            if is_socket(path)? {
                return match files {
                    [socket] => Ok(Self {
                        socket: socket.clone(),
                        started: None,
                    }),
                    _ => Err(AgentError::Mixed { path: path.clone() }),
                };
            }
        }
        let agent = Self::start(directory)?;
        agent.add(files)?;
        Ok(agent)
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    fn start(directory: &Path) -> Result<Self, AgentError> {
        let socket = directory.join("ssh-agent");
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        die_with_parent(&mut command);
        let program = |source| AgentError::Program {
            program: "ssh-agent",
            source,
        };
        let started = command.spawn().map_err(program)?;
        let mut agent = Self {
            socket,
            started: Some(started),
        };
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(&agent.socket).is_err() {
            let ended = agent
                .started
                .as_mut()
                .is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > end {
                return Err(AgentError::Silent);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(agent)
    }

    fn add(&self, keys: &[PathBuf]) -> Result<(), AgentError> {
        let mut command = Command::new("ssh-add");
        command.arg("-q").arg("--").args(keys);
        command.env("SSH_AUTH_SOCK", &self.socket);
        // Nobody is there to be asked for a passphrase.
        command
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("SSH_ASKPASS", "false");
        let output = command.stdin(Stdio::null()).output();
        let output = output.map_err(|source| AgentError::Program {
            program: "ssh-add",
            source,
        })?;
        match output.status.success() {
            true => Ok(()),
            false => Err(AgentError::Key {
                message: String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "),
            }),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.started {
            // It may have ended by itself.
            let _ended = child.kill().and_then(|()| child.wait());
        }
    }
}

fn is_socket(path: &Path) -> Result<bool, AgentError> {
    let found = fs::metadata(path).map_err(|source| AgentError::Read {
        path: path.to_owned(),
        source,
    })?;
    Ok(found.file_type().is_socket())
}

/// A socket that passes connections on to an agent, as long as this value lives.
pub struct Forward {
    listener: Arc<UnixListener>,
    path: PathBuf,
}

impl Forward {
    /// Listens at `path`, which must not exist, and passes on to the socket `agent`.
    ///
    /// # Errors
    /// What the system reports.
    pub fn start(path: &Path, agent: &Path, permissions: Permissions) -> io::Result<Self> {
        let listener = Arc::new(UnixListener::bind(path)?);
        fs::set_permissions(path, fs::Permissions::from_mode(permissions.mode))?;
        // Where the kernel has a single id, the owner is told of when the step begins.
        if (permissions.uid, permissions.gid) != (0, 0) && crate::sandbox::callers().is_none() {
            chown(path, Some(permissions.uid), Some(permissions.gid))?;
        }
        let (accepting, agent) = (listener.clone(), agent.to_owned());
        thread::Builder::new().name("ssh".to_owned()).spawn(move || {
            for client in accepting.incoming() {
                let Ok(client) = client else { return };
                match UnixStream::connect(&agent) {
                    Ok(agent) => pass_on(client, agent),
                    Err(error) => tracing::warn!(%error, "the SSH agent does not answer"),
                }
            }
        })?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // Wakes the thread that accepts, which then ends.
        let _woken = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
    }
}

/// Passes bytes on in both directions until one side ends.
fn pass_on(client: UnixStream, agent: UnixStream) {
    let ends = client.try_clone().and_then(|c| Ok((c, agent.try_clone()?)));
    let Ok((mut from_client, mut to_agent)) = ends else {
        return;
    };
    let (mut to_client, mut from_agent) = (client, agent);
    let one = move || {
        // However it ends, the other side is told.
        let _copied = io::copy(&mut from_client, &mut to_agent);
        let _told = to_agent.shutdown(Shutdown::Write);
    };
    let other = move || {
        let _copied = io::copy(&mut from_agent, &mut to_client);
        let _told = to_client.shutdown(Shutdown::Both);
    };
    for direction in [Box::new(one) as Box<dyn FnOnce() + Send>, Box::new(other)] {
        if let Err(error) = thread::Builder::new().spawn(direction) {
            tracing::warn!(%error, "cannot pass on to the SSH agent");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    const PERMISSIONS: Permissions = Permissions {
        uid: 0,
        gid: 0,
        mode: 0o600,
    };

    #[test]
    fn what_is_said_is_passed_on_and_the_socket_ends_with_its_value() {
        let directory = tempfile::tempdir().unwrap();
        let [agent, socket] = ["agent", "socket"].map(|name| directory.path().join(name));
        let listener = UnixListener::bind(&agent).unwrap();
        let answering = thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(said.to_uppercase().as_bytes()).unwrap();
            }
        });
        let forward = Forward::start(&socket, &agent, PERMISSIONS).unwrap();
        assert_eq!(
            fs::metadata(forward.path()).unwrap().permissions().mode() & 0o777,
            0o600
        );
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "HELLO");
        }
        answering.join().unwrap();
        drop(forward);
        assert!(UnixStream::connect(&socket).is_err());
    }

    #[test]
    fn what_is_no_agent_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let [socket, file] = ["socket", "file"].map(|name| directory.path().join(name));
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::write(&file, "no key").unwrap();
        let open = |files: &[PathBuf]| Agent::open(files, directory.path());
        assert_eq!(open(std::slice::from_ref(&socket)).unwrap().socket(), socket);
        assert!(matches!(
            open(&[socket.clone(), file.clone()]),
            Err(AgentError::Mixed { .. })
        ));
        assert!(matches!(
            open(&[directory.path().join("none")]),
            Err(AgentError::Read { .. })
        ));
        let refused = open(&[file]).unwrap_err();
        assert!(
            matches!(refused, AgentError::Key { .. } | AgentError::Program { .. }),
            "{refused}"
        );
    }
}
