//! The progress of blobs between a registry and the store, on stderr: for a log line by line, for a terminal as bars.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mica_fs::digest::Digest;

use super::plain::write;
use super::tty::size as terminal_size;
use crate::render;

/// How often a picture is drawn at most.
const TICK: Duration = Duration::from_millis(100);
/// How wide a bar is, in characters.
const BAR: usize = 30;

/// How it stands with a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Something else is done first: a word on it.
    Idle(&'static str),
    /// So many bytes have gone: a word on where.
    Moved(&'static str, u64),
    /// Nothing more happens: how it ended.
    Ended(&'static str),
}

/// How much is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shown {
    /// Bars on a terminal, else lines.
    Bars,
    /// Line by line.
    Lines,
    /// Nothing.
    Nothing,
}

/// Draws what becomes of blobs.
pub struct Transfers {
    picture: Option<Mutex<Picture>>,
}

struct Picture {
    is_terminal: bool,
    blobs: Vec<(Digest, u64, State)>,
    drawn: usize,
    last: Option<Instant>,
}

impl Transfers {
    /// Begins to draw.
    pub fn start(shown: Shown) -> Self {
        let picture = Picture {
            is_terminal: shown == Shown::Bars && std::io::stderr().is_terminal(),
            blobs: Vec::new(),
            drawn: 0,
            last: None,
        };
        Self {
            picture: (shown != Shown::Nothing).then(|| Mutex::new(picture)),
        }
    }

    /// Shows a line above all others.
    pub fn note(&self, text: &str) {
        self.with(|picture| picture.redraw(&format!("{text}\n")));
    }

    /// Begins with these blobs and their sizes in bytes; what stood there before stays on the terminal.
    pub fn announce(&self, blobs: &[(Digest, u64)], state: State) {
        self.with(|picture| {
            picture.drawn = 0;
            picture.blobs = blobs
                .iter()
                .map(|&(digest, size)| (digest, size, state))
                .collect();
            if picture.is_terminal {
                picture.redraw("");
            }
        });
    }

    /// Shows what became of a blob.
    pub fn set(&self, digest: &Digest, state: State) {
        self.with(|picture| picture.set(digest, state));
    }

    /// Shows the last state of all.
    pub fn end(&self) {
        self.with(|picture| {
            if picture.is_terminal && !picture.blobs.is_empty() {
                picture.redraw("");
            }
            picture.blobs.clear();
            picture.drawn = 0;
        });
    }

    fn with(&self, action: impl FnOnce(&mut Picture)) {
        if let Some(picture) = &self.picture {
            action(&mut picture.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Picture {
    fn set(&mut self, digest: &Digest, state: State) {
        let Some(blob) = self.blobs.iter_mut().find(|(known, _, _)| known == digest) else {
            return;
        };
        let was = std::mem::replace(&mut blob.2, state);
        let is_news = std::mem::discriminant(&was) != std::mem::discriminant(&state);
        if self.is_terminal {
            if is_news || self.last.is_none_or(|last| last.elapsed() > TICK) {
                self.redraw("");
            }
            return;
        }
        match state {
            State::Ended(word) | State::Idle(word) => write(&format!("{}: {word}\n", digest.short())),
            State::Moved(word, _) if is_news => {
                write(&format!("{}: {word} {}\n", digest.short(), render::size(blob.1)));
            }
            State::Moved(..) => {}
        }
    }

    /// Draws the picture in place of the last one, below `above`.
    fn redraw(&mut self, above: &str) {
        if !self.is_terminal {
            return write(above);
        }
        let size = terminal_size();
        let mut text = match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        };
        text.push_str(above);
        // What does not fit above the cursor could not be drawn over: then what has ended is left out first.
        let room = size.rows.saturating_sub(1);
        let excess = self.blobs.len().saturating_sub(room);
        let ended = |blob: &&(Digest, u64, State)| matches!(blob.2, State::Ended(_));
        let dropped = self.blobs.iter().filter(ended).count().min(excess);
        let mut left_out = 0;
        let shown = self.blobs.iter().filter(|blob| {
            let drop = left_out < dropped && ended(blob);
            left_out += usize::from(drop);
            !drop
        });
        self.drawn = 0;
        for (digest, bytes, state) in shown.take(room) {
            let line: String = line(digest, *bytes, *state)
                .chars()
                .take(size.columns - 1)
                .collect();
            text.push_str(&line);
            text.push('\n');
            self.drawn += 1;
        }
        write(&text);
        self.last = Some(Instant::now());
    }
}

fn line(digest: &Digest, size: u64, state: State) -> String {
    let mut text = format!("{}: ", digest.short());
    match state {
        State::Idle(word) | State::Ended(word) => text.push_str(word),
        State::Moved(word, done) => {
            let part = done.min(size) as f64 / size.max(1) as f64;
            // At most the whole bar.
            let filled = ((part * BAR as f64) as usize).min(BAR);
            let bar = match filled {
                BAR => "=".repeat(BAR),
                n => format!("{}>{}", "=".repeat(n), " ".repeat(BAR - n - 1)),
            };
            let (done, size) = (render::size(done), render::size(size));
            // Writing to a string does not fail.
            let _ = write!(text, "{word:<12} [{bar}] {done}/{size}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_the_bytes() {
        let digest = Digest::of(b"");
        let bar = |done| line(&digest, 1000, State::Moved("Pulling", done));
        assert!(bar(0).ends_with(&format!("Pulling      [>{}] 0B/1kB", " ".repeat(29))));
        assert!(bar(500).contains(&format!("[{}>{}] 500B/1kB", "=".repeat(15), " ".repeat(14))));
        assert!(bar(1000).contains(&format!("[{}] 1kB/1kB", "=".repeat(30))));
        let ended = line(&digest, 0, State::Ended("Pull complete"));
        assert_eq!(ended, "e3b0c44298fc: Pull complete");
    }
}
