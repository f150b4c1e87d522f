//! Progress line by line, in the form of BuildKit's: `#3 [2/4] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use mica_builder::event::{Event, Inputs, Outcome, Planned, StepNumber};
use mica_builder::pull::PullEvent;

use super::pulling::Pulling;
use crate::render::printable;

/// Shows each event as lines, as it comes.
#[derive(Default)]
pub struct Plain {
    steps: Mutex<BTreeMap<StepNumber, State>>,
    /// The image that is being pulled.
    pulling: Mutex<Option<Pulling>>,
}

struct State {
    planned: Planned,
    /// Its number in the log.
    index: usize,
    begin: Instant,
    /// Output after the last newline.
    rest: Vec<u8>,
    /// The last lines, for the case that the step fails.
    last: VecDeque<String>,
    error: String,
}

/// How many lines of a step that failed are shown again: those of others may have come between.
const SHOWN_AGAIN: usize = 10;

impl Plain {
    /// Shows an event.
    pub fn show(&self, event: Event) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Plan(plan) => {
                steps.extend(plan.into_iter().zip(1..).map(|(planned, index)| {
                    let state = State {
                        index,
                        begin: Instant::now(),
                        rest: Vec::new(),
                        last: VecDeque::new(),
                        error: String::new(),
                        planned,
                    };
                    (state.planned.number, state)
                }));
            }
            Event::Started(number) => {
                let Some(state) = steps.get_mut(&number) else {
                    return;
                };
                state.begin = Instant::now();
                write(&format!("#{} {}\n", state.index, title(&state.planned)));
            }
            Event::Output(number, _, bytes) => {
                let Some(state) = steps.get_mut(&number) else {
                    return;
                };
                state.rest.extend_from_slice(&bytes);
                write(&state.lines(false));
            }
            Event::Error(number, error) => {
                if let Some(state) = steps.get_mut(&number) {
                    state.error = error;
                }
            }
            Event::Finished(number, outcome, elapsed) => {
                let Some(state) = steps.get_mut(&number) else {
                    return;
                };
                let end = match outcome {
                    Outcome::Cached => "CACHED".to_owned(),
                    Outcome::Unchanged(inputs) => format!("CACHED ({})", unchanged(inputs)),
                    Outcome::Done => format!("DONE {:.1}s", elapsed.as_secs_f64()),
                    Outcome::Failed => format!("ERROR: {}", printable(&state.error)),
                    Outcome::Canceled => "CANCELED".to_owned(),
                };
                let rest = state.lines(true);
                let again = match outcome {
                    Outcome::Failed => state.again(),
                    Outcome::Cached | Outcome::Unchanged(_) | Outcome::Done | Outcome::Canceled => {
                        String::new()
                    }
                };
                write(&format!("{rest}#{} {end}\n\n{again}", state.index));
            }
        }
    }
}

impl Plain {
    /// Shows what happens to an image: under the number 0, since the steps have those from 1 on.
    pub fn pull(&self, event: PullEvent) {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            PullEvent::Found(name, layers) => {
                let begun = pulling.insert(Pulling::new(&name, &layers));
                write(&format!("#0 {}\n", begun.title));
            }
            PullEvent::Layer(digest, state) => {
                let Some(pulling) = pulling.as_mut() else { return };
                if pulling.set(&digest, state) {
                    let seconds = pulling.begin.elapsed().as_secs_f64();
                    write(&format!("#0 {seconds:.3} {}\n", pulling.line(&digest)));
                }
            }
            PullEvent::Ended(error) => {
                let Some(pulling) = pulling.take() else { return };
                let end = match error {
                    None => format!("DONE {:.1}s", pulling.begin.elapsed().as_secs_f64()),
                    Some(error) => format!("ERROR: {}", printable(&error)),
                };
                write(&format!("#0 {end}\n\n"));
            }
            PullEvent::Warning(_) => {}
        }
    }
}

impl State {
    /// The complete lines of the output so far, and at the end what is left, each after the step's number and
    /// the seconds since it began.
    fn lines(&mut self, all: bool) -> String {
        let end = match all {
            true => self.rest.len(),
            false => self.rest.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1),
        };
        let seconds = self.begin.elapsed().as_secs_f64();
        let complete: Vec<u8> = self.rest.drain(..end).collect();
        let mut text = String::new();
        for line in String::from_utf8_lossy(&complete).lines() {
            let line = format!("{seconds:.3} {}", clean(line));
            text.push_str(&format!("#{} {line}\n", self.index));
            if self.last.len() == SHOWN_AGAIN {
                self.last.pop_front();
            }
            self.last.push_back(line);
        }
        text
    }

    /// The end of the output of a step that failed, under its name.
    fn again(&self) -> String {
        if self.last.is_empty() {
            return String::new();
        }
        let lines: String = self.last.iter().map(|line| format!("{line}\n")).collect();
        format!("------\n > {}:\n{lines}------\n", title(&self.planned))
    }
}

/// Why a step was not executed although something below it has changed.
pub fn unchanged(inputs: Inputs) -> String {
    let [read, all] = [inputs.read, inputs.all].map(thousands);
    format!("unchanged inputs: {read} of {all} files read")
}

/// `9,310`
fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let first = digits.len() % 3;
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && at % 3 == first {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `[stage 2/4] RUN make`, on one line.
pub fn title(planned: &Planned) -> String {
    let stage = planned
        .stage
        .as_ref()
        .map(|name| format!("{name} "))
        .unwrap_or_default();
    let text = printable(planned.text.lines().next().unwrap_or_default());
    // As wide as the last one's, as Docker has it.
    let width = planned.total.to_string().len();
    format!("[{stage}{:>width$}/{}] {text}", planned.position, planned.total)
}

/// A line of a step's output, without what would move the cursor: of a line that was overwritten by carriage
/// returns only the last state.
pub fn clean(line: &str) -> String {
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or_default();
    line.replace('\t', "    ")
        .chars()
        .filter(|c| !c.is_control() || *c == '\x1b')
        .collect()
}

/// Writes to stderr in one piece. If stderr is closed there is nobody to tell.
pub fn write(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Keeps the end of each step's output, and shows it if the step fails.
#[derive(Default)]
pub struct Tail {
    output: Mutex<BTreeMap<StepNumber, Vec<u8>>>,
}

/// How much of a step's output is kept for the case that it fails.
const TAIL: usize = 16 << 10;

impl Tail {
    /// Takes an event in.
    pub fn show(&self, event: Event) {
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Output(number, _, bytes) => {
                let kept = output.entry(number).or_default();
                kept.extend_from_slice(&bytes);
                let excess = kept.len().saturating_sub(TAIL);
                kept.drain(..excess);
            }
            Event::Finished(number, outcome, _) => {
                let kept = output.remove(&number).unwrap_or_default();
                if outcome == Outcome::Failed && !kept.is_empty() {
                    write(&String::from_utf8_lossy(&kept));
                }
            }
            Event::Plan(_) | Event::Started(_) | Event::Error(..) => {}
        }
    }
}
