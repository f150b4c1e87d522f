//! Progress on a terminal: finished steps scroll away upwards, below them stand those that run, each with its
//! time and the end of its output.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mica_builder::event::{Event, Outcome, Planned, StepNumber};

use super::plain::{clean, title, write};

/// How many lines of output a running step shows.
const SHOWN: usize = 6;
/// How many lines a step that failed shows.
const KEPT: usize = 200;
/// How often the picture is redrawn while nothing happens, for the times.
const TICK: Duration = Duration::from_millis(200);

/// A picture of the build that is redrawn until this is dropped.
pub struct Tty {
    picture: Arc<Mutex<Picture>>,
    stop: Option<Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl Tty {
    /// Begins to draw.
    pub fn start() -> Self {
        let picture = Arc::new(Mutex::new(Picture::default()));
        let (stop, stopped) = mpsc::channel();
        let drawn = picture.clone();
        let ticker = thread::spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                drawn.lock().unwrap_or_else(PoisonError::into_inner).redraw("");
            }
        });
        Self {
            picture,
            stop: Some(stop),
            ticker: Some(ticker),
        }
    }

    /// Takes an event in and redraws.
    pub fn show(&self, event: Event) {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.take(event);
    }

    /// Adds a line above the picture.
    pub fn note(&self, text: &str) {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.redraw(&format!("{text}\n"));
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has nothing more to draw.
            let _ = ticker.join();
        }
    }
}

#[derive(Default)]
struct Picture {
    planned: BTreeMap<StepNumber, Planned>,
    running: BTreeMap<StepNumber, Running>,
    /// How many lines the picture takes up on the terminal.
    height: usize,
    last: Option<Instant>,
}

struct Running {
    begin: Instant,
    lines: VecDeque<String>,
    rest: Vec<u8>,
}

impl Picture {
    fn take(&mut self, event: Event) {
        match event {
            Event::Plan(plan) => self.planned.extend(plan.into_iter().map(|p| (p.number, p))),
            Event::Started(number) => {
                let running = Running {
                    begin: Instant::now(),
                    lines: VecDeque::new(),
                    rest: Vec::new(),
                };
                self.running.insert(number, running);
                self.redraw("");
            }
            Event::Output(number, _, bytes) => {
                if let Some(running) = self.running.get_mut(&number) {
                    running.take(&bytes);
                }
                // A step that writes much must not wait for the terminal.
                if self.last.is_none_or(|last| last.elapsed() > TICK / 4) {
                    self.redraw("");
                }
            }
            Event::Finished(number, outcome, elapsed) => {
                let above = self.finished(number, outcome, elapsed);
                self.redraw(&above);
            }
        }
    }

    /// The lines that stay on the terminal for a step that has ended.
    fn finished(&mut self, number: StepNumber, outcome: Outcome, elapsed: Duration) -> String {
        let running = self.running.remove(&number);
        let Some(planned) = self.planned.get(&number) else {
            return String::new();
        };
        let (mark, end) = match outcome {
            Outcome::Cached => (" => CACHED ", String::new()),
            Outcome::Done => (" => ", format!("{:.1}s", elapsed.as_secs_f64())),
            Outcome::Failed => (" => ERROR ", format!("{:.1}s", elapsed.as_secs_f64())),
            Outcome::Canceled => (" => CANCELED ", String::new()),
        };
        let mut text = line(&format!("{mark}{}", title(planned)), &end, width());
        if outcome == Outcome::Failed
            && let Some(mut running) = running
        {
            running.end();
            for output in &running.lines {
                let _ = writeln!(text, "    {output}");
            }
        }
        text
    }

    /// Writes `above` over the old picture, and the new picture below it.
    fn redraw(&mut self, above: &str) {
        let width = width();
        let mut text = String::new();
        if self.height > 0 {
            let _ = write!(text, "\x1b[{}A", self.height);
        }
        text.push_str("\r\x1b[J");
        text.push_str(above);
        let mut height = 0;
        for (number, running) in &self.running {
            let Some(planned) = self.planned.get(number) else {
                continue;
            };
            let end = format!("{:.1}s", running.begin.elapsed().as_secs_f64());
            text.push_str(&line(&format!(" => {}", title(planned)), &end, width));
            height += 1;
            for output in running.lines.iter().rev().take(SHOWN).rev() {
                text.push_str(&line(&format!(" => => {output}"), "", width));
                height += 1;
            }
        }
        self.height = height;
        self.last = Some(Instant::now());
        write(&text);
    }
}

impl Running {
    fn take(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        if let Some(end) = self.rest.iter().rposition(|&b| b == b'\n') {
            let complete: Vec<u8> = self.rest.drain(..=end).collect();
            self.add(&complete);
        }
    }

    fn end(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        self.add(&rest);
    }

    fn add(&mut self, bytes: &[u8]) {
        for text in String::from_utf8_lossy(bytes).lines() {
            // Colours would be cut in the middle; the picture has none.
            self.lines.push_back(without_escapes(&clean(text)));
        }
        let excess = self.lines.len().saturating_sub(KEPT);
        self.lines.drain(..excess);
    }
}

/// The text without terminal control sequences.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        if c != '\x1b' {
            plain.push(c);
        } else if characters.next() == Some('[') {
            // A control sequence ends with a byte from 0x40 on (ECMA-48, 5.4).
            let _ = characters.find(|c| ('\x40'..='\x7e').contains(c));
        }
    }
    plain
}

/// One line of the picture: cut to the width, with the time at its end.
fn line(text: &str, end: &str, width: usize) -> String {
    let room = width.saturating_sub(end.chars().count() + 1);
    let mut cut: String = text.chars().take(room).collect();
    if !end.is_empty() {
        let gap = room.saturating_sub(cut.chars().count());
        cut.extend(std::iter::repeat_n(' ', gap));
    }
    format!("{cut}{end}\n")
}

/// The terminal's width; 80 where it cannot be told.
fn width() -> usize {
    let size = mica_builder::sandbox::terminal::Size::of(std::io::stderr());
    size.map(|size| usize::from(size.columns))
        .filter(|&columns| columns >= 20)
        .unwrap_or(80)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        assert_eq!(line(" => x", "1.0s", 12), " => x  1.0s\n");
        assert_eq!(line("abcdefghij", "", 6), "abcde\n");
    }

    #[test]
    fn escape_sequences_vanish() {
        assert_eq!(without_escapes("\x1b[1;31mred\x1b[0m x"), "red x");
        assert_eq!(without_escapes("\x1b"), "");
    }
}
