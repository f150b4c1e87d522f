//! Progress on a terminal: finished steps scroll away upwards, below them stand those that run, each with its
//! time and the end of its output.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mica_builder::event::{Event, Outcome, Planned, StepNumber};
use mica_builder::pull::PullEvent;

use super::plain::{clean, title, unchanged, write};
use super::pulling::Pulling;
use crate::diagnostic::wants_color;

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

    /// Takes in what happens to an image.
    pub fn pull(&self, event: PullEvent) {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.pull(event);
    }

    /// Takes the picture away, or draws it again.
    pub fn pause(&self, pause: bool) {
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        picture.paused = pause;
        picture.redraw("");
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
    /// The image that is being pulled, before the steps are planned.
    pulling: Option<Pulling>,
    /// When the build was planned.
    begin: Option<Instant>,
    /// How many steps have ended.
    ended: usize,
    /// How many characters each line of the picture on the terminal has.
    drawn: Vec<usize>,
    last: Option<Instant>,
    /// Whether somebody else uses the terminal.
    paused: bool,
}

struct Running {
    begin: Instant,
    lines: VecDeque<String>,
    rest: Vec<u8>,
}

impl Picture {
    fn take(&mut self, event: Event) {
        match event {
            Event::Plan(plan) => {
                self.begin = Some(Instant::now());
                self.planned.extend(plan.into_iter().map(|p| (p.number, p)));
            }
            Event::Started(number) if self.planned.contains_key(&number) => {
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
            Event::Finished(number, outcome, elapsed) if self.planned.contains_key(&number) => {
                let above = self.finished(number, outcome, elapsed);
                self.redraw(&above);
            }
            // The error is shown after the picture, with its line.
            Event::Started(_) | Event::Finished(..) | Event::Error(..) => {}
        }
    }

    fn pull(&mut self, event: PullEvent) {
        match event {
            PullEvent::Found(name, layers) => {
                self.pulling = Some(Pulling::new(&name, &layers));
                self.redraw("");
            }
            PullEvent::Layer(digest, state) => {
                if let Some(pulling) = &mut self.pulling {
                    pulling.set(&digest, state);
                }
                if self.last.is_none_or(|last| last.elapsed() > TICK / 4) {
                    self.redraw("");
                }
            }
            PullEvent::Ended(error) => {
                let Some(pulling) = self.pulling.take() else {
                    return;
                };
                let mark = if error.is_some() { " => ERROR " } else { " => " };
                let time = seconds(pulling.begin.elapsed());
                self.redraw(&line(&format!("{mark}{}", pulling.title), &time, size().columns));
            }
            PullEvent::Warning(_) => {}
        }
    }

    /// The lines that stay on the terminal for a step that has ended.
    fn finished(&mut self, number: StepNumber, outcome: Outcome, elapsed: Duration) -> String {
        let running = self.running.remove(&number);
        self.ended += 1;
        let Some(planned) = self.planned.get(&number) else {
            return String::new();
        };
        let (mark, end) = match outcome {
            Outcome::Cached => (" => CACHED ", String::new()),
            Outcome::Unchanged(inputs) => (" => CACHED ", unchanged(inputs)),
            Outcome::Done => (" => ", seconds(elapsed)),
            Outcome::Failed => (" => ERROR ", seconds(elapsed)),
            Outcome::Canceled => (" => CANCELED ", String::new()),
        };
        let mut text = line(&format!("{mark}{}", title(planned)), &end, size().columns);
        if wants_color(true) {
            text = match outcome {
                Outcome::Cached | Outcome::Unchanged(_) => format!("\x1b[36m{text}\x1b[0m"),
                Outcome::Done | Outcome::Canceled => text,
                Outcome::Failed => format!("\x1b[31m{text}\x1b[0m"),
            };
        }
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
        if self.paused && self.drawn.is_empty() {
            return;
        }
        let Size { rows, columns } = size();
        let mut text = String::new();
        // A terminal that has become narrower has broken the lines.
        let height: usize = self
            .drawn
            .iter()
            .map(|length| length.div_ceil(columns).max(1))
            .sum();
        if height > 0 {
            let _ = write!(text, "\x1b[{}A", height.min(rows));
        }
        text.push_str("\r\x1b[J");
        text.push_str(above);
        let lines = match self.paused {
            true => Vec::new(),
            false => self.lines(rows, columns),
        };
        self.drawn = lines.iter().map(|line| line.trim_end().chars().count()).collect();
        lines.iter().for_each(|line| text.push_str(line));
        self.last = Some(Instant::now());
        write(&text);
    }

    /// The picture: how far the build is, and the steps that run with the end of their output, as far as they fit.
    fn lines(&self, rows: usize, columns: usize) -> Vec<String> {
        if let Some(pulling) = &self.pulling {
            return Self::of_pull(pulling, rows, columns);
        }
        let mut lines = Vec::new();
        let (Some(begin), false) = (self.begin, self.running.is_empty()) else {
            return lines;
        };
        // The last row holds the cursor, the one before it the summary.
        let room = rows.saturating_sub(2);
        let shown = (room / self.running.len()).saturating_sub(1).min(SHOWN);
        for (number, running) in &self.running {
            let Some(planned) = self.planned.get(number) else {
                continue;
            };
            let end = seconds(running.begin.elapsed());
            lines.push(line(&format!(" => {}", title(planned)), &end, columns));
            for output in running.lines.iter().rev().take(shown).rev() {
                lines.push(line(&format!(" => => {output}"), "", columns));
            }
        }
        lines.truncate(room);
        let count = format!("[+] Building ({}/{})", self.ended, self.planned.len());
        lines.push(line(&count, &seconds(begin.elapsed()), columns));
        lines
    }
}

impl Picture {
    /// The picture of a pull: its name, and the layers that arrive.
    fn of_pull(pulling: &Pulling, rows: usize, columns: usize) -> Vec<String> {
        let time = seconds(pulling.begin.elapsed());
        let mut lines = vec![line(&format!(" => {}", pulling.title), &time, columns)];
        let layers = pulling.running().into_iter();
        lines.extend(layers.map(|layer| line(&format!(" => => {layer}"), "", columns)));
        lines.truncate(rows.saturating_sub(1));
        lines
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
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
    let shown = if end.is_empty() {
        room
    } else {
        room.saturating_sub(1)
    };
    let mut cut: String = text.chars().take(shown).collect();
    if !end.is_empty() {
        let gap = room.saturating_sub(cut.chars().count());
        cut.extend(std::iter::repeat_n(' ', gap));
    }
    format!("{cut}{end}\n")
}

/// The size of the terminal in characters.
pub(super) struct Size {
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The terminal's size, or what is usual where it cannot be told; never less than what a picture needs.
pub(super) fn size() -> Size {
    let size = mica_builder::sandbox::terminal::Size::of(std::io::stderr()).unwrap_or_default();
    let or = |number: u16, usual: usize, least: usize| match usize::from(number) {
        0 => usual,
        number => number.max(least),
    };
    Size {
        rows: or(size.rows, 24, 3),
        columns: or(size.columns, 80, 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_the_terminal() {
        assert_eq!(line(" => x", "1.0s", 12), " => x  1.0s\n");
        assert_eq!(line("abcdefghij", "1.0s", 12), "abcdef 1.0s\n");
        assert_eq!(line("abcdefghij", "", 6), "abcde\n");
    }

    #[test]
    fn escape_sequences_vanish() {
        assert_eq!(without_escapes("\x1b[1;31mred\x1b[0m x"), "red x");
        assert_eq!(without_escapes("\x1b"), "");
    }
}
