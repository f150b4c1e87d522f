//! The watcher: a process that unmounts. It does so when the server tells it to, and outlives a killed server just long
//! enough to take its mount away.
//!
//! A mount without a server answers every access with "transport endpoint is not connected", and only unmounting
//! it helps. The watcher has a socket whose other end the server holds: the end of the server, however it comes, is the
//! end of what comes through the socket.
//!
//! The server itself may be unable to unmount (see [`super::confine`]), so it asks. What is unmounted was said before
//! any request was served, and cannot be changed later.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use mica_fs::mount::{Means, MountError, Place};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The hidden command that is a watcher.
pub const COMMAND: &str = "__watch-mount";

/// What the server tells its watcher at once, in a line.
#[derive(Serialize, Deserialize)]
struct Watch {
    directory: PathBuf,
    device: (u32, u32),
    helper: bool,
    /// A file to remove with the mount at the server's end.
    record: Option<PathBuf>,
}

/// What the server may ask for later, in a line. Each order but the last has an answer in a line.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Order {
    /// To unmount; lazily if the mount is in use.
    Unmount,
    /// To detach it at once.
    Detach,
    /// To end, since the mount has. Only the end of the server would not tell: the next mount at the same place may
    /// have the device number that this one had.
    End,
}

/// `Err` with what went wrong.
type Answer = Result<(), String>;

impl Order {
    fn obey(self, place: &Place) -> Result<(), MountError> {
        match self {
            Self::Unmount => match place.unmount() {
                Err(MountError::Busy { .. }) => place.detach(),
                result => result,
            },
            Self::Detach => place.detach(),
            Self::End => Ok(()),
        }
    }
}

/// Does what the server asks for, waits for its end, and unmounts lazily what it left behind.
///
/// # Errors
/// If it cannot be unmounted.
pub fn run() -> anyhow::Result<ExitCode> {
    // Out of reach of what is sent to the server's process group or terminal; and of what ends all processes of a
    // service at once, since the server needs this one to end well.
    nix::unistd::setsid().context("cannot leave the session")?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .context("cannot handle signals")?;
    }
    std::env::set_current_dir("/")?;
    let server = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut lines = BufReader::new(&server).lines();
    let first = lines.next().context("the server of the mount told nothing")??;
    let watch: Watch = serde_json::from_str(&first).context("the server of the mount told something else")?;
    let means = match watch.helper {
        true => Means::Helper,
        false => Means::Kernel,
    };
    let place = Place::new(watch.directory, watch.device, means);
    for line in lines.map_while(Result::ok) {
        let answer: Answer = match serde_json::from_str::<Order>(&line) {
            Ok(Order::End) => return Ok(ExitCode::SUCCESS),
            Ok(order) => order.obey(&place).map_err(|error| described(error.into())),
            Err(error) => Err(error.to_string()),
        };
        // Once the mount is gone the server may be, too.
        let _ = (&server).write_all(&line_of(&answer)?);
    }
    if place.is_mounted() {
        place.detach()?;
        if let Some(record) = watch.record {
            let _ = std::fs::remove_file(&record);
            let _ = std::fs::remove_file(record.with_extension("sock"));
            super::record::remove_empty_log(&record);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn described(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn line_of(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The server's side: while this lives, the watcher waits.
pub struct Watched {
    place: Place,
    watcher: Mutex<BufReader<UnixStream>>,
}

impl Watched {
    /// Has the watcher do this, and returns when it is done. Where there is no watcher any more this process tries.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn order(&self, order: Order) -> anyhow::Result<()> {
        match self.ask(order) {
            Ok(answer) => answer.map_err(anyhow::Error::msg),
            Err(error) => {
                tracing::debug!(%error, "the watcher of the mount does not answer");
                Ok(order.obey(&self.place)?)
            }
        }
    }

    /// Lets the watcher end without a look at the place: the mount is gone.
    pub fn dismiss(&self) {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        // If it is not there any more, all the better.
        let _ = line_of(&Order::End).and_then(|line| watcher.get_mut().write_all(&line));
    }

    fn ask(&self, order: Order) -> io::Result<Answer> {
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        watcher.get_mut().write_all(&line_of(&order)?)?;
        let mut line = String::new();
        watcher.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Starts a watcher for `place`.
///
/// # Errors
/// If the process cannot be started.
pub fn start(place: &Place, record: Option<&Path>) -> anyhow::Result<Watched> {
    let (mut ours, theirs) = UnixStream::pair().context("cannot make a pair of sockets")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let watch = Watch {
        directory: place.directory().to_owned(),
        device: place.device(),
        helper: place.means() == Means::Helper,
        record: record.map(Path::to_owned),
    };
    Command::new(program)
        .arg(COMMAND)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .and_then(|_| ours.write_all(&line_of(&watch)?))
        .context("cannot start the watcher of the mount")?;
    Ok(Watched {
        place: place.clone(),
        watcher: Mutex::new(BufReader::new(ours)),
    })
}
