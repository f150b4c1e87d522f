//! The terminal: taken over, and given back however the program ends.

use std::io::{self, Stdout, stdin, stdout};
use std::os::fd::AsFd as _;
use std::panic;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{DisableMouseCapture, EnableMouseCapture};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};

/// A terminal that is drawn on. Dropping it gives it back as it was.
pub struct Screen {
    pub terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// If it cannot be set up; it is as it was then.
    pub fn take() -> io::Result<Self> {
        // A panic's message would be lost on the screen that is given up.
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            give_back();
            tell(about);
        }));
        enable_raw_mode()?;
        let taken = execute!(stdout(), EnterAlternateScreen, EnableMouseCapture)
            .and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        match taken {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// What came of waiting for the terminal.
pub enum Waited {
    /// Something was typed, or a signal came.
    Ready,
    /// Nothing in that time.
    Quiet,
    /// It has hung up: nobody will ever type again.
    Gone,
}

/// Waits for the terminal. The library's own waiting would never return from one that has hung up.
///
/// # Errors
/// What poll(2) reports.
pub fn wait(patience: Duration) -> io::Result<Waited> {
    let stdin = stdin();
    let mut terminal = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
    let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL;
    match poll(&mut terminal, patience) {
        Ok(0) => Ok(Waited::Quiet),
        // The window's size may have changed.
        Err(Errno::EINTR) => Ok(Waited::Ready),
        Err(errno) => Err(errno.into()),
        Ok(_) => match terminal[0].revents() {
            Some(events) if events.intersects(hung_up) => Ok(Waited::Gone),
            _ => Ok(Waited::Ready),
        },
    }
}

/// Gives the terminal back. If it is gone there is nobody to tell.
fn give_back() {
    let _ = execute!(
        stdout(),
        DisableMouseCapture,
        LeaveAlternateScreen,
        ratatui::crossterm::cursor::Show
    );
    let _ = disable_raw_mode();
}
