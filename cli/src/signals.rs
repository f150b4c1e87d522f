//! SIGINT, SIGTERM and SIGHUP: what runs is stopped, everything is unmounted, and the exit status tells.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use mica_builder::solver::Stop;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};

/// How long work that may end anywhere has to end by itself.
const GRACE: Duration = Duration::from_secs(1);
const GLANCE: Duration = Duration::from_millis(50);

const ALL: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// The last signal, from the first work that is stopped by them on: also one that comes between two such works, when
/// nobody waits for it.
static RECEIVED: OnceLock<Arc<AtomicUsize>> = OnceLock::new();

/// Notes signals from now on.
fn note() -> io::Result<()> {
    if RECEIVED.get().is_some() {
        return Ok(());
    }
    let received = Arc::default();
    for signal in ALL {
        let number = usize::try_from(signal).unwrap_or_default();
        flag::register_usize(signal, Arc::clone(&received), number)?;
    }
    RECEIVED.get_or_init(|| received);
    Ok(())
}

fn received() -> usize {
    let received = RECEIVED.get();
    received.map_or(0, |received| received.load(Ordering::Relaxed))
}

/// Does `work`, and stops it when a signal asks for that. Once one has, every later work is stopped from the start.
///
/// # Errors
/// If the signals cannot be caught.
pub fn stopping<T>(stop: &Stop, work: impl FnOnce() -> T) -> anyhow::Result<T> {
    note().context("cannot catch signals")?;
    let mut signals = Signals::new(ALL).context("cannot catch signals")?;
    // What came before is not told any more.
    if received() != 0 {
        stop.stop();
    }
    let end = End(signals.handle());
    Ok(thread::scope(|scope| {
        scope.spawn(move || {
            for _ in signals.forever() {
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
            if received() == 0 {
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
    match received() {
        0 => None,
        signal => u8::try_from(128 + signal).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_between_two_works_stops_the_second() {
        let (first, second) = (Stop::default(), Stop::default());
        stopping(&first, || ()).expect("signals are caught");
        assert!(!first.is_stopped() && exit_status().is_none());
        signal_hook::low_level::raise(SIGTERM).expect("raised");
        let stopped = stopping(&second, || second.is_stopped());
        assert!(stopped.expect("signals are caught"));
        assert_eq!(exit_status(), Some(143));
    }
}
