//! The control socket between mica and a step's init: JSON messages, each with a length before it.
//!
//! Its hang-up is meaningful in both directions: to init, that mica is gone; to mica, that init is.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::Failure;
use super::terminal::Size;
use super::{Answered, Exit, Spec, sys};

/// More than any environment and argument list the kernel accepts, as JSON.
const MAX_MESSAGE: u32 = 64 << 20;

/// mica's first message; the step's stdin rides along unless there is a terminal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) spec: Spec,
    pub(super) terminal: Option<Size>,
    /// Which of its system calls mica answers.
    pub(super) answered: Option<Answered>,
}

/// mica's later messages.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Send this signal to the command.
    Signal(i32),
    /// The step's network is connected.
    Connected,
    /// The calls that the filter holds up are answered from now on.
    Supervised,
}

/// Init's messages.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The step is in its mount namespace, whose descriptor rides along.
    Entered,
    /// Calls are held up; the descriptor at which they are to be answered rides along.
    Filtered,
    /// Something optional is missing from the command's world.
    Warning(String),
    /// The step's network namespace, which rides along, is to be connected.
    Network,
    /// The command runs; the terminal's master rides along if one was asked for.
    Started,
    /// The command never ran.
    Failed(Failure),
    /// The command ended.
    Exited(Exit),
}

#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    pub(super) fn new(socket: UnixStream) -> Self {
        Self(socket)
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Hangs up, also for every clone and for the peer.
    pub(super) fn hang_up(&self) {
        // It fails only if the peer has already hung up.
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }

    pub(super) fn send<T: Serialize>(&self, message: &T, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length <= MAX_MESSAGE)
            .ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut frame = length.to_ne_bytes().to_vec();
        frame.extend_from_slice(&body);
        let (mut rest, mut fd) = (frame.as_slice(), fd);
        // Not by write(2): a program may have SIGPIPE at its default.
        while !rest.is_empty() {
            match sys::send_with_fd(self.0.as_fd(), rest, fd) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    fd = None;
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The next message, and what descriptor came with it; `None` when the peer has hung up.
    pub(super) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Option<OwnedFd>)>> {
        let mut length = [0; 4];
        let (got, fd) = loop {
            match sys::receive_with_fd(self.0.as_fd(), &mut length) {
                Ok((0, _)) | Err(Errno::ECONNRESET) => return Ok(None),
                Ok(received) => break received,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        (&self.0).read_exact(length.get_mut(got..).unwrap_or_default())?;
        let length = u32::from_ne_bytes(length);
        if length > MAX_MESSAGE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut body = Vec::new();
        (&self.0).take(u64::from(length)).read_to_end(&mut body)?;
        Ok(Some((serde_json::from_slice(&body)?, fd)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn messages_keep_their_order_and_their_descriptors() {
        let (a, b) = UnixStream::pair().unwrap();
        let (a, b) = (Channel::new(a), Channel::new(b));
        let (read, write) = io::pipe().unwrap();
        a.send(&Report::Warning("x".repeat(1000)), None).unwrap();
        a.send(&Report::Started, Some(write.as_fd())).unwrap();
        drop((a, write));

        let (first, none) = b.receive::<Report>().unwrap().unwrap();
        assert!(matches!(first, Report::Warning(text) if text.len() == 1000));
        assert!(none.is_none());
        let (second, fd) = b.receive::<Report>().unwrap().unwrap();
        assert!(matches!(second, Report::Started));
        std::fs::File::from(fd.unwrap()).write_all(b"through").unwrap();
        assert_eq!(io::read_to_string(read).unwrap(), "through");
        assert!(b.receive::<Report>().unwrap().is_none(), "hang-up");
    }

    #[test]
    fn an_absurd_length_is_refused() {
        let (a, b) = UnixStream::pair().unwrap();
        (&a).write_all(&u32::MAX.to_ne_bytes()).unwrap();
        assert!(Channel::new(b).receive::<Report>().is_err());
    }
}
