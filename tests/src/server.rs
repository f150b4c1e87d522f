//! An HTTP server on the loopback interface, for tests of what comes from elsewhere: files with their tags and times,
//! made-up answers, and Git repositories by `git http-backend`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use sha2::{Digest as _, Sha256};

/// The `Last-Modified` of every file: 784111777 seconds after the epoch.
pub const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// A request.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// What follows `?`.
    pub query: String,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// What was sent with it.
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// An answer: the status line, the headers, the body.
#[derive(Clone, Debug)]
pub struct Answer {
    status: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// An answer with a status line such as `404 Not Found`.
    pub fn new(status: &str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status: status.to_owned(),
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

#[derive(Default)]
struct State {
    handlers: BTreeMap<String, Arc<Handler>>,
    log: Vec<String>,
}

/// A server; it serves until the test ends.
pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Default for Server {
    fn default() -> Self {
        Self::start()
    }
}

impl Server {
    /// Starts a server that knows no path.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface has a port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                // A client that has seen enough goes away.
                thread::spawn(move || drop(answer(stream, &state)));
            }
        });
        Self { address, state }
    }

    /// The host and the port.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers requests for `path`, and for what is below it if it ends with `/`.
    pub fn on(&self, path: &str, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        let handler: Handler = Box::new(handler);
        self.state().handlers.insert(path.to_owned(), Arc::new(handler));
    }

    /// Serves a file with an `ETag` and a `Last-Modified`, and obeys conditions.
    pub fn file(&self, path: &str, content: impl Into<Vec<u8>>) {
        let content = content.into();
        let etag = format!(
            "\"{:x}\"",
            Sha256::digest(&content)[0..8]
                .iter()
                .fold(0_u64, |n, b| n << 8 | u64::from(*b))
        );
        self.on(path, move |request| {
            let same = match request.header("if-none-match") {
                Some(tags) => tags.contains(&etag),
                None => request.header("if-modified-since") == Some(MODIFIED),
            };
            let answer = match same {
                true => Answer::new("304 Not Modified", ""),
                false => Answer::new("200 OK", content.clone()),
            };
            answer.header("ETag", &etag).header("Last-Modified", MODIFIED)
        });
    }

    /// Serves the repositories in `directory` below `/git/`, as the protocol of today has it.
    pub fn git(&self, directory: PathBuf) {
        self.on("/git/", move |request| git_http_backend(request, &directory));
    }

    /// What was asked for so far: `GET /x 200` for each.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Forgets what was asked for.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no handler panicked")
    }
}

fn answer(stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let request = read(&stream)?;
    let handler = {
        let state = state.lock().expect("no handler panicked");
        let fits = |path: &str| path == request.path || path.ends_with('/') && request.path.starts_with(path);
        let found = state.handlers.iter().rev().find(|(path, _)| fits(path));
        found.map(|(_, handler)| handler.clone())
    };
    let answer = match handler {
        Some(handler) => handler(&request),
        None => Answer::new("404 Not Found", "no such file"),
    };
    let code = answer.status.split(' ').next().unwrap_or_default();
    let line = format!("{} {} {code}", request.method, request.path);
    state.lock().expect("no handler panicked").log.push(line);
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", answer.status);
    let has_length = answer
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !has_length && code != "304" {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = &stream;
    stream.write_all(head.as_bytes())?;
    stream.write_all(b"\r\n")?;
    stream.write_all(&answer.body)
}

fn read(stream: &TcpStream) -> io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let target = words.next().unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok());
    let mut body = Vec::new();
    match headers.get("transfer-encoding") {
        Some(_) => read_chunks(&mut reader, &mut body)?,
        None => drop(reader.take(length.unwrap_or(0)).read_to_end(&mut body)?),
    }
    Ok(Request {
        method,
        path,
        query,
        headers,
        body,
    })
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        reader.by_ref().take(size).read_to_end(body)?;
        reader.read_line(&mut line)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// RFC 3875, as far as git needs it.
fn git_http_backend(request: &Request, directory: &std::path::Path) -> Answer {
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", directory)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .envs([
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ])
        .env("REQUEST_METHOD", &request.method)
        .env("PATH_INFO", request.path.trim_start_matches("/git"))
        .env("QUERY_STRING", &request.query)
        .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
        .env(
            "HTTP_CONTENT_ENCODING",
            request.header("content-encoding").unwrap_or_default(),
        )
        .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().expect("git is installed");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let body = request.body.clone();
    // It need not read all.
    let writer = thread::spawn(move || drop(stdin.write_all(&body)));
    let output = child.wait_with_output().expect("git ends");
    writer.join().expect("writing does not panic");
    let end = output
        .stdout
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("it has headers");
    let mut answer = Answer::new("200 OK", &output.stdout[end + 4..]);
    for line in String::from_utf8_lossy(&output.stdout[..end]).lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => answer.status = status.to_owned(),
            Some((name, value)) => answer.headers.push((name.to_owned(), value.to_owned())),
            None => {}
        }
    }
    answer
}
