//! mica's side of a command's pseudo-terminal.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd;
use serde::{Deserialize, Serialize};
use signal_hook::SigId;
use signal_hook::consts::SIGWINCH;
use signal_hook::low_level::{pipe, unregister};

use super::sys;

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl Default for Size {
    /// 24 lines of 80 characters.
    fn default() -> Self {
        Self {
            rows: 24,
            columns: 80,
        }
    }
}

impl Size {
    /// The size of the terminal on `fd`; `None` if it is none.
    pub fn of(fd: impl AsFd) -> Option<Self> {
        sys::window_size(fd.as_fd()).ok()
    }
}

/// Passes everything between the user's terminal and a command's, until the command's closes.
///
/// `master` is what [`Running::take_terminal`](super::Running::take_terminal) gave. `input` is the
/// user's terminal, which is in raw mode meanwhile (so an interrupt typed there becomes a byte that
/// the command's terminal turns into a signal), or any file; `None` types nothing. Changes of size
/// of the terminal `input` reach the command. The output goes to `output` as it comes.
///
/// The user's terminal is restored on return, also after an error.
pub fn relay(master: OwnedFd, input: Option<BorrowedFd<'_>>, output: &mut dyn Write) -> io::Result<()> {
    let _raw = input.map(RawMode::set).transpose()?;
    let resized = Resizes::watch()?;
    let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
    fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Relay {
        master,
        input,
        typed: Vec::new(),
    }
    .run(&resized, output)
}

struct Relay<'a> {
    master: OwnedFd,
    /// `None` once it has ended.
    input: Option<BorrowedFd<'a>>,
    /// Read from the input, not yet taken by the terminal.
    typed: Vec<u8>,
}

impl Relay<'_> {
    fn run(mut self, resized: &Resizes, output: &mut dyn Write) -> io::Result<()> {
        let user = self.input;
        let mut buffer = [0; 16 << 10];
        loop {
            let ready = self.wait(resized)?;
            if ready.resized {
                resized.acknowledge();
                if let Some(size) = user.and_then(Size::of) {
                    sys::set_window_size(self.master.as_fd(), size)?;
                }
            }
            if ready.input {
                self.read_input(&mut buffer)?;
            }
            if !self.typed.is_empty() {
                self.write_typed()?;
            }
            if ready.master {
                match unistd::read(&self.master, &mut buffer) {
                    // EIO: no process has the slave end open any more.
                    Ok(0) | Err(Errno::EIO) => return Ok(()),
                    Ok(count) => {
                        output.write_all(buffer.get(..count).unwrap_or_default())?;
                        output.flush()?;
                    }
                    Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
    }

    fn wait(&self, resized: &Resizes) -> io::Result<Ready> {
        let mut interest = PollFlags::POLLIN;
        if !self.typed.is_empty() {
            interest |= PollFlags::POLLOUT;
        }
        let mut fds = vec![
            PollFd::new(self.master.as_fd(), interest),
            PollFd::new(resized.reader.as_fd(), PollFlags::POLLIN),
        ];
        // No more is read while the command has not taken what was typed before.
        let input = self.input.filter(|_| self.typed.is_empty());
        fds.extend(input.map(|input| PollFd::new(input, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(errno) => return Err(errno.into()),
        }
        let events = |index: usize| {
            fds.get(index)
                .and_then(PollFd::revents)
                .unwrap_or(PollFlags::empty())
        };
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            master: events(0).intersects(readable),
            resized: events(1).intersects(readable),
            input: events(2).intersects(readable),
        })
    }

    fn read_input(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        /// What ends the input of a terminal in its usual, line-wise mode.
        const END_OF_TRANSMISSION: u8 = 4;
        let Some(input) = self.input else {
            return Ok(());
        };
        match unistd::read(input, buffer) {
            Ok(0) | Err(Errno::EIO) => {
                self.input = None;
                self.typed.push(END_OF_TRANSMISSION);
            }
            Ok(count) => self
                .typed
                .extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    fn write_typed(&mut self) -> io::Result<()> {
        match unistd::write(&self.master, &self.typed) {
            Ok(count) => drop(self.typed.drain(..count.min(self.typed.len()))),
            // Gone: the next read says so.
            Err(Errno::EIO) => self.typed.clear(),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Ready {
    master: bool,
    resized: bool,
    input: bool,
}

/// Raw mode of a terminal, until dropped. Does nothing to what is no terminal.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Option<Termios>,
}

impl<'a> RawMode<'a> {
    fn set(terminal: BorrowedFd<'a>) -> io::Result<Self> {
        let before = match tcgetattr(terminal) {
            Ok(before) => before,
            Err(_) => {
                return Ok(Self {
                    terminal,
                    before: None,
                });
            }
        };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(terminal, SetArg::TCSADRAIN, &raw)?;
        Ok(Self {
            terminal,
            before: Some(before),
        })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(errno) = tcsetattr(self.terminal, SetArg::TCSADRAIN, before)
        {
            tracing::warn!("cannot restore the terminal: {errno}");
        }
    }
}

/// SIGWINCH as something to poll, until dropped.
struct Resizes {
    reader: UnixStream,
    registration: SigId,
}

impl Resizes {
    fn watch() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        let registration = pipe::register(SIGWINCH, writer)?;
        Ok(Self { reader, registration })
    }

    fn acknowledge(&self) {
        // Whatever is left is acknowledged the next time.
        let _ = unistd::read(&self.reader, &mut [0; 64]);
    }
}

impl Drop for Resizes {
    fn drop(&mut self) {
        unregister(self.registration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;

    #[test]
    fn bytes_pass_both_ways_until_the_command_closes_its_end() {
        let pty = openpty(None, None).unwrap();
        let (typed, mut keyboard) = io::pipe().unwrap();
        keyboard.write_all(b"hello\n").unwrap();
        let command = std::thread::spawn(move || {
            let mut line = [0; 64];
            let count = unistd::read(&pty.slave, &mut line).unwrap();
            unistd::write(&pty.slave, b"done").unwrap();
            line[..count].to_vec()
        });
        let mut shown = Vec::new();
        relay(pty.master, Some(typed.as_fd()), &mut shown).unwrap();
        assert_eq!(command.join().unwrap(), b"hello\n");
        // The line discipline echoes, and turns a line feed into carriage return and line feed.
        assert_eq!(shown, b"hello\r\ndone");
    }

    #[test]
    fn the_end_of_the_input_reaches_the_command() {
        let pty = openpty(None, None).unwrap();
        let (typed, keyboard) = io::pipe().unwrap();
        drop(keyboard);
        let command = std::thread::spawn(move || unistd::read(&pty.slave, &mut [0; 8]));
        relay(pty.master, Some(typed.as_fd()), &mut io::sink()).unwrap();
        assert_eq!(command.join().unwrap(), Ok(0));
    }

    #[test]
    fn a_terminal_is_raw_only_while_it_is_relayed() {
        let user = openpty(None, None).unwrap();
        let before = tcgetattr(&user.slave).unwrap();
        let raw = RawMode::set(user.slave.as_fd()).unwrap();
        assert_ne!(tcgetattr(&user.slave).unwrap().local_flags, before.local_flags);
        drop(raw);
        assert_eq!(tcgetattr(&user.slave).unwrap().local_flags, before.local_flags);
    }

    #[test]
    fn a_change_of_the_users_terminal_reaches_the_command() {
        let user = openpty(None, None).unwrap();
        let pty = openpty(None, None).unwrap();
        let size = Size {
            rows: 50,
            columns: 132,
        };
        sys::set_window_size(user.master.as_fd(), size).unwrap();
        let (master, slave) = (pty.master, pty.slave);
        let command = std::thread::spawn(move || {
            while Size::of(&slave) != Some(size) {
                // Before the relay listens, the signal is ignored: that is its default action.
                nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).unwrap();
                std::thread::yield_now();
            }
        });
        relay(master, Some(user.slave.as_fd()), &mut io::sink()).unwrap();
        command.join().unwrap();
    }
}
