//! Questions on the terminal.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use anyhow::Context as _;
use mica_builder::registry::Password;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::diagnostic::{hint, usage_error};

/// The longest password that is read, in bytes.
const LIMIT: u64 = 64 << 10;

/// Asks for a line of text.
///
/// # Errors
/// If there is no terminal.
pub fn line(question: &str) -> anyhow::Result<String> {
    let mut terminal = terminal()?;
    terminal.write_all(question.as_bytes())?;
    read(&terminal)
}

/// Asks for a password, which is not shown.
///
/// # Errors
/// If there is no terminal.
pub fn password(question: &str) -> anyhow::Result<Password> {
    let mut terminal = terminal()?;
    terminal.write_all(question.as_bytes())?;
    let text = {
        let _silence = Silence::on(&terminal)?;
        read(&terminal)
    };
    terminal.write_all(b"\n")?;
    Ok(Password::new(text?))
}

/// Reads a password from stdin, all of it, without the line break at its end.
///
/// # Errors
/// If stdin cannot be read, or is empty.
pub fn password_of_stdin() -> anyhow::Result<Password> {
    let mut text = String::new();
    let stdin = io::stdin().lock();
    stdin
        .take(LIMIT)
        .read_to_string(&mut text)
        .context("cannot read the password from stdin")?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    match text.is_empty() {
        true => Err(usage_error("the password on stdin is empty")),
        false => Ok(Password::new(text)),
    }
}

fn terminal() -> anyhow::Result<File> {
    let opened = File::options().read(true).write(true).open("/dev/tty");
    opened.map_err(|_| {
        hint(
            usage_error("there is no terminal to ask on"),
            "give --username, and the password by --password-stdin",
        )
    })
}

fn read(terminal: &File) -> anyhow::Result<String> {
    let mut text = String::new();
    BufReader::new(terminal.take(LIMIT)).read_line(&mut text)?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silence<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silence<'a> {
    fn on(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("cannot ask without showing the answer")?;
        let mut silent = before.clone();
        silent.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &silent)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        // The terminal is gone if this fails.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}
