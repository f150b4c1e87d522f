//! The watcher: a process that outlives a killed server just long enough to take its mount away.
//!
//! A mount without a server answers every access with "transport endpoint is not connected", and only unmounting
//! it helps. The watcher reads from a pipe whose other end the server holds: the end of the server, however it
//! comes, is the end of the pipe.

use std::io::{PipeWriter, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use mica_fs::mount::{Means, Place};
use serde::{Deserialize, Serialize};

/// The hidden command that is a watcher.
pub const COMMAND: &str = "__watch-mount";

/// What the server tells its watcher at once, and the watcher acts on at the end.
#[derive(Serialize, Deserialize)]
struct Orders {
    directory: PathBuf,
    device: (u32, u32),
    helper: bool,
    /// A file to remove with the mount.
    record: Option<PathBuf>,
}

/// Waits for the server's end and unmounts lazily what it left behind.
///
/// # Errors
/// If it cannot be unmounted.
pub fn run() -> anyhow::Result<ExitCode> {
    // Out of reach of what is sent to the server's process group or terminal.
    nix::unistd::setsid().context("cannot leave the session")?;
    std::env::set_current_dir("/")?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let orders: Orders = serde_json::from_str(&text).context("the server of the mount told nothing")?;
    let means = if orders.helper {
        Means::Helper
    } else {
        Means::Kernel
    };
    let place = Place::new(orders.directory, orders.device, means);
    if place.is_mounted() {
        place.detach()?;
        if let Some(record) = orders.record {
            let _ = std::fs::remove_file(&record);
            let _ = std::fs::remove_file(record.with_extension("sock"));
            super::record::remove_empty_log(&record);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The server's side: while this lives, the watcher waits.
pub struct Watched {
    _pipe: PipeWriter,
}

/// Starts a watcher for `place`.
///
/// # Errors
/// If the process cannot be started.
pub fn start(place: &Place, record: Option<&Path>) -> anyhow::Result<Watched> {
    let (reader, mut writer) = std::io::pipe().context("cannot make a pipe")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let orders = Orders {
        directory: place.directory().to_owned(),
        device: place.device(),
        helper: place.means() == Means::Helper,
        record: record.map(Path::to_owned),
    };
    Command::new(program)
        .arg(COMMAND)
        .stdin(Stdio::from(reader))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .and_then(|_| writer.write_all(serde_json::to_string(&orders)?.as_bytes()))
        .context("cannot start the watcher of the mount")?;
    Ok(Watched { _pipe: writer })
}
