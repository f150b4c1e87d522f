//! SIGINT, SIGTERM and SIGHUP: what runs is stopped, everything is unmounted, and the exit status tells.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use mica_builder::solver::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// How long work that may end anywhere has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(50);

static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Does `work`, and stops it when a signal asks for that.
///
/// # Errors
/// If the signals cannot be caught.
pub fn stopping<T>(stop: &Stop, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot catch signals")?;
    let end = End(signals.handle());
    Ok(thread::scope(|scope| {
        scope.spawn(move || {
            for signal in signals.forever() {
                RECEIVED.store(signal, Ordering::Relaxed);
                stop.stop();
            }
        });
        let _end = end;
        work()
    }))
}

/// Ends the thread that waits for signals, also where the work panics: the scope waits for that thread.
struct End(Handle);

impl Drop for End {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// As [`stopping`], for work that may end anywhere and anytime: what waits for a silent server is not waited for.
///
/// # Errors
/// As [`stopping`].
pub fn stopping_soon<T>(stop: &Stop, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    let (done, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut left = GRACE;
        while ended.recv_timeout(GLANCE) == Err(RecvTimeoutError::Timeout) {
            if RECEIVED.load(Ordering::Relaxed) == 0 {
                continue;
            }
            left = left.saturating_sub(GLANCE);
            if let (true, Some(status)) = (left.is_zero(), exit_status()) {
                std::process::exit(status.into());
            }
        }
    });
    let result = stopping(stop, work);
    drop(done);
    result
}

/// The exit status after a signal that stopped the work: 128 and its number, as shells report it.
pub fn exit_status() -> Option<u8> {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}
