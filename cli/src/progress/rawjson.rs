//! Progress for programs: each event as a line of JSON in the shape of BuildKit's `SolveStatus`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use mica_builder::event::{Event, Outcome, Planned, StepNumber, Stream};
use mica_builder::pull::{LayerState, PullEvent};
use mica_fs::digest::Digest;
use serde_json::{Value, json};

use super::plain::{title, write};
use super::pulling::Pulling;

/// Shows each event as it comes.
#[derive(Default)]
pub struct RawJson {
    steps: Mutex<BTreeMap<StepNumber, Step>>,
    /// The image that is being pulled.
    pulling: Mutex<Option<Pulling>>,
}

struct Step {
    /// What BuildKit calls the digest of a vertex: it stands for the step in this build.
    digest: Digest,
    name: String,
    started: String,
    error: String,
}

impl RawJson {
    /// Shows an event.
    pub fn show(&self, event: Event) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let now = jiff::Timestamp::now().to_string();
        let shown = match event {
            Event::Plan(plan) => {
                let all = plan.iter().map(|planned| (planned.number, Step::new(planned)));
                steps.extend(all);
                let vertexes: Vec<_> = steps.values().map(Step::vertex).collect();
                json!({ "vertexes": vertexes })
            }
            Event::Started(number) => {
                let Some(step) = steps.get_mut(&number) else {
                    return;
                };
                step.started = now;
                json!({ "vertexes": [step.vertex()] })
            }
            Event::Output(number, stream, bytes) => {
                let Some(step) = steps.get(&number) else { return };
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                let data = base64(&bytes);
                json!({ "logs": [{ "vertex": step.digest, "stream": stream, "data": data, "timestamp": now }] })
            }
            Event::Error(number, error) => {
                if let Some(step) = steps.get_mut(&number) {
                    step.error = error;
                }
                return;
            }
            Event::Finished(number, outcome, _) => {
                let Some(step) = steps.get(&number) else { return };
                let mut vertex = step.vertex();
                vertex["completed"] = json!(now);
                match outcome {
                    Outcome::Cached | Outcome::Unchanged(_) => vertex["cached"] = json!(true),
                    Outcome::Done => {}
                    Outcome::Failed => vertex["error"] = json!(step.error),
                    Outcome::Canceled => vertex["error"] = json!("canceled"),
                }
                json!({ "vertexes": [vertex] })
            }
        };
        write(&format!("{shown}\n"));
    }

    /// Shows what happens to an image: as a vertex, with a status for each layer.
    pub fn pull(&self, event: PullEvent) {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        let now = jiff::Timestamp::now().to_string();
        let vertex = |pulling: &Pulling| {
            let (digest, name) = (pulling.digest, &pulling.title);
            json!({ "digest": digest, "name": name, "started": pulling.started })
        };
        let shown = match event {
            PullEvent::Found(name, layers) => {
                json!({ "vertexes": [vertex(pulling.insert(Pulling::new(&name, &layers)))] })
            }
            PullEvent::Layer(digest, state) => {
                let Some(pulling) = pulling.as_mut() else { return };
                if !pulling.set(&digest, state) {
                    return;
                }
                let (current, total) = pulling.bytes(&digest);
                let mut status = json!({
                    "id": digest, "vertex": pulling.digest, "current": current, "total": total,
                    "timestamp": now, "started": pulling.started,
                });
                if matches!(state, LayerState::Done | LayerState::Exists) {
                    status["completed"] = json!(now);
                }
                json!({ "statuses": [status] })
            }
            PullEvent::Ended(error) => {
                let Some(pulling) = pulling.take() else { return };
                let mut vertex = vertex(&pulling);
                vertex["completed"] = json!(now);
                if let Some(error) = error {
                    vertex["error"] = json!(error);
                }
                json!({ "vertexes": [vertex] })
            }
            PullEvent::Warning(_) => return,
        };
        write(&format!("{shown}\n"));
    }

    /// Shows a line about the build as a whole.
    pub fn note(&self, text: &str) {
        let shown = json!({ "warnings": [{ "level": 1, "short": base64(text.as_bytes()) }] });
        write(&format!("{shown}\n"));
    }
}

impl Step {
    fn new(planned: &Planned) -> Self {
        let name = title(planned);
        Self {
            digest: Digest::of(format!("{} {name}", planned.number.0).as_bytes()),
            name,
            started: String::new(),
            error: String::new(),
        }
    }

    fn vertex(&self) -> Value {
        let mut vertex = json!({ "digest": self.digest, "name": self.name });
        if !self.started.is_empty() {
            vertex["started"] = json!(self.started);
        }
        vertex
    }
}

/// RFC 4648, section 4: how Go's JSON has bytes.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = (bits >> (18 - 6 * i)) & 63;
            match i <= chunk.len() {
                true => text.push(char::from(DIGITS[digit as usize])),
                false => text.push('='),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_base64() {
        // The test vectors of RFC 4648, section 10.
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
