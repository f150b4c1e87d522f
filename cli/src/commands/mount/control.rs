//! What a running mount is asked by other processes: a socket beside its record, for the store's owner alone.
//!
//! A request is a line, the answer a JSON object in a line. There is one request: `snapshot` makes a layer of what
//! the mount has changed.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use mica_builder::commit;
use mica_fs::digest::DiffId;
use mica_fs::overlay::Overlay;
use mica_fs::store::Store;
use serde::{Deserialize, Serialize};

use super::record::Record;
use crate::config::Context;

const SNAPSHOT: &str = "snapshot";

/// A snapshot of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    /// The layers below, bottom layer first.
    pub below: Vec<DiffId>,
    /// What was changed; none if nothing was. The server holds the layer for as long as it lives.
    pub layer: Option<DiffId>,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Snapshot(Snapshot),
    Error(String),
}

/// Where a server is asked. Dropping it takes it away.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The record goes as well, and without it nobody asks.
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the socket; nobody is answered yet. `record` is the file of the mount's record.
///
/// # Errors
/// If the socket cannot be made.
pub fn bind(record: &Path) -> anyhow::Result<Socket> {
    let path = record.with_extension("sock");
    let _ = fs::remove_file(&path);
    let listener = with_short_path(&path, |path| UnixListener::bind(path))
        .with_context(|| format!("cannot make the socket {}", path.display()))?;
    Ok(Socket { path, listener })
}

impl Socket {
    /// Answers requests in a thread of its own, until the process ends.
    ///
    /// # Errors
    /// If the socket cannot be shared with the thread.
    pub fn answer(&self, store: Arc<Store>, overlay: Arc<Overlay>) -> io::Result<()> {
        let listener = self.listener.try_clone()?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                if let Err(error) = stream.and_then(|stream| answer(&stream, &store, &overlay)) {
                    tracing::warn!(%error, "a request to the mount failed");
                }
            }
        });
        Ok(())
    }
}

fn answer(mut stream: &UnixStream, store: &Store, overlay: &Overlay) -> io::Result<()> {
    let mut request = String::new();
    BufReader::new(stream).read_line(&mut request)?;
    let answer = match request.trim_end() {
        SNAPSHOT => match commit::layer(store, overlay) {
            Ok(layer) => Answer::Snapshot(Snapshot {
                below: overlay.layers().iter().map(|layer| layer.diff_id()).collect(),
                layer,
            }),
            Err(error) => Answer::Error(format!("{:#}", anyhow::Error::from(error))),
        },
        other => Answer::Error(format!("the server of the mount does not know {other:?}")),
    };
    serde_json::to_writer(&mut stream, &answer)?;
    stream.write_all(b"\n")
}

/// Has the server of a mount make a layer of what was changed up to now.
///
/// # Errors
/// If the server cannot be asked, or what it says went wrong.
pub fn snapshot(context: &Context, record: &Record) -> anyhow::Result<Snapshot> {
    // What the kernel still holds back of what was written. This process may wait for the mount: it does not serve it.
    File::open(&record.directory)
        .and_then(|directory| Ok(nix::unistd::syncfs(&directory)?))
        .with_context(|| format!("cannot write back {}", record.directory.display()))?;
    let path = super::record::path(context, record.pid).with_extension("sock");
    let ask = || -> io::Result<String> {
        let mut stream = with_short_path(&path, |path| UnixStream::connect(path))?;
        stream.write_all(format!("{SNAPSHOT}\n").as_bytes())?;
        let mut text = String::new();
        BufReader::new(stream).read_line(&mut text)?;
        Ok(text)
    };
    let text = ask().with_context(|| format!("cannot ask the server of {}", record.directory.display()))?;
    let answer = serde_json::from_str(&text).context("the server of the mount ended without an answer")?;
    match answer {
        Answer::Snapshot(snapshot) => Ok(snapshot),
        Answer::Error(error) => Err(anyhow::anyhow!(error)),
    }
}

/// A socket's path may have 107 bytes only, that of a store may be longer: `use_it` gets one through the descriptor
/// of its directory.
fn with_short_path<T>(path: &Path, use_it: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let directory = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    use_it(
        &Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name),
    )
}
