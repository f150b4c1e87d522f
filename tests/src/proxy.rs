//! A proxy before a registry that counts what passes, and does to it what networks and busy servers do.
//!
//! It speaks plain HTTP/1.1 and keeps the `Host` header, so the registry's own URLs lead through it as well.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::registry::Registry;

/// What is done to an exchange.
#[derive(Clone)]
pub enum Fault {
    /// Nothing is done, to let some through before another fault.
    Nothing,
    /// The proxy answers itself: a status line such as `429 Too Many Requests`, and headers.
    Answer(&'static str, Vec<(&'static str, String)>),
    /// The connection breaks after so many bytes of the answer's body.
    CutAnswer(u64),
    /// The connection breaks after so many bytes of the request's body have reached the registry.
    CutRequest(u64),
    /// This is called after so many bytes of either body have passed, once; then the exchange goes on, if it can.
    After(u64, Arc<dyn Fn() + Send + Sync>),
    /// Bodies pass at so many bytes per second.
    Slow(u64),
    /// The byte at this offset of the answer's body is another.
    Corrupt(u64),
    /// `Range` is taken from the request, as servers do that know no ranges.
    IgnoreRange,
}

/// A fault and what it is for.
struct Rule {
    method: &'static str,
    path: String,
    left: u32,
    fault: Fault,
}

/// What was exchanged.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request's method.
    pub method: String,
    /// Its path, without what follows `?`.
    pub path: String,
    /// What follows `?`.
    pub query: String,
    /// Its `Range` header.
    pub range: Option<String>,
    /// The status code of the answer; 0 if none came.
    pub status: u16,
    /// Bytes of the request's body.
    pub sent: u64,
    /// Bytes of the answer's body.
    pub received: u64,
}

/// What a request is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `/v2/NAME/manifests/...`
    Manifest,
    /// `/v2/NAME/blobs/sha256:...`
    Blob,
    /// `/v2/NAME/blobs/uploads/...`
    Upload,
    /// Anything else.
    Other,
}

impl Exchange {
    /// What it was about.
    pub fn kind(&self) -> Kind {
        if self.path.contains("/blobs/uploads/") {
            Kind::Upload
        } else if self.path.contains("/blobs/") {
            Kind::Blob
        } else if self.path.contains("/manifests/") {
            Kind::Manifest
        } else {
            Kind::Other
        }
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    log: Vec<Exchange>,
}

/// A proxy; it serves until the test ends.
pub struct Proxy {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Starts a proxy before a registry with plain HTTP.
    pub fn before(registry: &Registry) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, upstream) = (state.clone(), registry.host());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, upstream) = (shared.clone(), upstream.clone());
                // A broken connection is what clients of these tests expect.
                thread::spawn(move || drop(serve(&client, &upstream, &state)));
            }
        });
        Self { address, state }
    }

    /// The host and the port.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// A name in the registry, by way of the proxy.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Does `fault` to the next `times` requests of this method (`*`: any) whose path contains `path`. Of several
    /// that fit the one that was said first counts, until it is used up.
    pub fn fault(&self, method: &'static str, path: &str, times: u32, fault: Fault) {
        let rule = Rule {
            method,
            path: path.to_owned(),
            left: times,
            fault,
        };
        self.state().rules.push(rule);
    }

    /// Forgets all faults.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// What was exchanged so far, in the order in which it ended.
    pub fn log(&self) -> Vec<Exchange> {
        self.state().log.clone()
    }

    /// Forgets what was exchanged.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// How many requests had this method (`*`: any) and were about that.
    pub fn count(&self, method: &str, kind: Kind) -> usize {
        let fits = |e: &&Exchange| (method == "*" || e.method == method) && e.kind() == kind;
        self.log().iter().filter(fits).count()
    }

    /// The bytes of bodies that were sent to the registry.
    pub fn sent(&self) -> u64 {
        self.log().iter().map(|exchange| exchange.sent).sum()
    }

    /// The bytes of bodies that came from the registry about this.
    pub fn received(&self, kind: Kind) -> u64 {
        let log = self.log();
        let fitting = log.iter().filter(|exchange| exchange.kind() == kind);
        fitting.map(|exchange| exchange.received).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread that serves keeps the state; what the faults hold, perhaps the registry itself, must go.
        self.heal();
    }
}

/// Locks the state. It is valid after every statement, so a panic of another holder does no harm.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first line and the headers of a message.
struct Head {
    lines: Vec<String>,
}

impl Head {
    /// Reads one; `None` at the end of the connection.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            match (line.is_empty(), lines.is_empty()) {
                (true, true) => {}
                (true, false) => return Ok(Some(Self { lines })),
                (false, _) => lines.push(line.to_owned()),
            }
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let pairs = self.lines[1..].iter().filter_map(|line| line.split_once(':'));
        let mut named = pairs.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named.next().map(|(_, value)| value.trim())
    }

    fn remove(&mut self, name: &str) {
        let is = |line: &String| {
            line.split(':')
                .next()
                .is_some_and(|found| found.eq_ignore_ascii_case(name))
        };
        self.lines.retain(|line| !is(line));
    }

    fn write(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all((self.lines.join("\r\n") + "\r\n\r\n").as_bytes())
    }

    /// The word of the first line at this place.
    fn word(&self, n: usize) -> &str {
        self.lines[0].split(' ').nth(n).unwrap_or_default()
    }

    fn framing(&self) -> Framing {
        match (self.header("transfer-encoding"), self.header("content-length")) {
            (Some(_), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length.parse().unwrap_or(0)),
            (None, None) => Framing::Length(0),
        }
    }
}

#[derive(Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
}

fn serve(client: &TcpStream, upstream: &str, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    while let Some(head) = Head::read(&mut reader)? {
        let fault = take_fault(&head, state);
        let (path, query) = head.word(1).split_once('?').unwrap_or((head.word(1), ""));
        let mut exchange = Exchange {
            method: head.word(0).to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            range: head.header("range").map(str::to_owned),
            status: 0,
            sent: 0,
            received: 0,
        };
        let done = pass(&mut reader, client, upstream, head, fault, &mut exchange);
        lock(state).log.push(exchange);
        if done.is_err() {
            return client.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn take_fault(head: &Head, state: &Mutex<State>) -> Option<Fault> {
    let mut state = lock(state);
    let fits = |rule: &&mut Rule| {
        rule.left > 0
            && (rule.method == "*" || rule.method == head.word(0))
            && head.word(1).contains(&rule.path)
    };
    let rule = state.rules.iter_mut().find(fits)?;
    rule.left -= 1;
    Some(rule.fault.clone())
}

/// One exchange; an error ends the connection.
fn pass(
    reader: &mut impl BufRead,
    client: &TcpStream,
    upstream: &str,
    mut head: Head,
    fault: Option<Fault>,
    exchange: &mut Exchange,
) -> io::Result<()> {
    let mut body = Body {
        fault: fault.clone(),
        is_answer: false,
        passed: 0,
    };
    if let Some(Fault::Answer(status, headers)) = &fault {
        let read = body.pass(reader, &mut io::sink(), head.framing());
        exchange.sent = body.passed;
        read?;
        exchange.status = status
            .split(' ')
            .next()
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        let mut text = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        return (&*client).write_all((text + "\r\n").as_bytes());
    }
    if let Some(Fault::IgnoreRange) = fault {
        head.remove("range");
    }
    // Asked for, it would be answered by the proxy.
    head.remove("expect");
    head.remove("connection");
    head.lines.push("Connection: close".to_owned());
    let server = TcpStream::connect(upstream)?;
    head.write(&server)?;
    let sent = body.pass(reader, &mut &server, head.framing());
    exchange.sent = body.passed;
    sent?;
    let mut answers = BufReader::new(&server);
    let mut answer = Head::read(&mut answers)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    answer.remove("connection");
    exchange.status = answer.word(1).parse().unwrap_or(0);
    answer.write(client)?;
    if head.word(0) == "HEAD" || matches!(exchange.status, 204 | 304) {
        return Ok(());
    }
    let mut body = Body {
        fault,
        is_answer: true,
        passed: 0,
    };
    let received = body.pass(&mut answers, &mut &*client, answer.framing());
    exchange.received = body.passed;
    received
}

/// A body on its way.
struct Body {
    fault: Option<Fault>,
    is_answer: bool,
    passed: u64,
}

impl Body {
    fn pass(&mut self, from: &mut impl BufRead, to: &mut impl Write, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.bytes(from, to, length),
            Framing::Chunked => loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                to.write_all(line.as_bytes())?;
                let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
                self.bytes(from, to, size)?;
                let mut end = String::new();
                from.read_line(&mut end)?;
                to.write_all(end.as_bytes())?;
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }

    fn bytes(&mut self, from: &mut impl BufRead, to: &mut impl Write, length: u64) -> io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        let mut left = length;
        while left > 0 {
            let wanted = self.piece().min(left).min(buffer.len() as u64);
            let wanted = usize::try_from(wanted).expect("it is smaller than the buffer");
            let n = from.read(&mut buffer[..wanted])?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let (Some(Fault::Corrupt(at)), true) = (&self.fault, self.is_answer)
                && (self.passed..self.passed + n as u64).contains(at)
            {
                buffer[usize::try_from(at - self.passed).expect("it is in the buffer")] ^= 1;
            }
            to.write_all(&buffer[..n])?;
            left -= n as u64;
            self.passed += n as u64;
            self.act()?;
        }
        Ok(())
    }

    /// How many bytes may pass before the fault shows.
    fn piece(&self) -> u64 {
        let until = |at: u64| match at.saturating_sub(self.passed) {
            0 => u64::MAX,
            left => left,
        };
        match &self.fault {
            Some(Fault::CutAnswer(at) | Fault::CutRequest(at) | Fault::After(at, _)) => until(*at),
            Some(Fault::Slow(rate)) => (rate / 50).max(1),
            _ => u64::MAX,
        }
    }

    fn act(&self) -> io::Result<()> {
        match &self.fault {
            Some(Fault::CutAnswer(at)) if self.is_answer && self.passed >= *at => Err(cut()),
            Some(Fault::CutRequest(at)) if !self.is_answer && self.passed >= *at => Err(cut()),
            Some(Fault::After(at, call)) if self.passed == *at => {
                call();
                Ok(())
            }
            Some(Fault::Slow(_)) => {
                thread::sleep(Duration::from_millis(20));
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn cut() -> io::Error {
    io::Error::other("cut by the test")
}
