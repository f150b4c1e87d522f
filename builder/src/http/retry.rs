//! Attempts, and the pauses between them.

use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::thread;
use std::time::Duration;

use super::HttpError;

/// The pauses between attempts.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// Those where nobody has answered yet: mostly there is nobody.
const QUICK_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(250)];
/// How long a server may ask to be left alone; if it asks for more there is no further attempt.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// A failed attempt.
pub(crate) struct Failed<E> {
    /// Why.
    pub error: Box<E>,
    /// Whether another attempt may do better.
    pub again: Again,
    /// How long the server asks to wait before it.
    pub pause: Option<Duration>,
}

/// How much use there is in another attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Again {
    /// None.
    Never,
    /// Little: the server may just be starting.
    Quickly,
    /// Enough to wait for it.
    Patiently,
}

impl Again {
    /// The pause before attempt `number`, 0 being the first of those that follow another.
    fn pause(self, number: usize) -> Option<Duration> {
        match self {
            Self::Never => None,
            Self::Quickly => QUICK_PAUSES.get(number).copied(),
            Self::Patiently => PAUSES.get(number).copied(),
        }
    }
}

impl From<HttpError> for Failed<HttpError> {
    fn from(error: HttpError) -> Self {
        Self {
            again: match (error.is_passing(), error.is_unreachable()) {
                (false, _) => Again::Never,
                (true, true) => Again::Quickly,
                (true, false) => Again::Patiently,
            },
            error: Box::new(error),
            pause: None,
        }
    }
}

/// Makes attempts until one succeeds, fails for good, or is the last.
pub(crate) fn retry<T, E: From<HttpError> + Display>(
    stopped: &dyn Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, Failed<E>>,
) -> Result<T, E> {
    for number in 0..=PAUSES.len() {
        if stopped() {
            return Err(HttpError::Stopped.into());
        }
        let failed = match attempt() {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        let Some(own) = failed.again.pause(number) else {
            return Err(*failed.error);
        };
        let pause = failed.pause.unwrap_or(own);
        if pause > MAX_RETRY_AFTER {
            return Err(*failed.error);
        }
        tracing::info!(error = %failed.error, ?pause, "trying again");
        wait(jittered(pause), stopped);
    }
    Err(HttpError::Stopped.into())
}

/// Up to a quarter longer, so that clients which failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(());
    pause + pause.mul_f64((random % 1000) as f64 / 4000.0)
}

/// Waits, but not longer than until `stopped`.
pub(crate) fn wait(pause: Duration, stopped: &dyn Fn() -> bool) {
    const PIECE: Duration = Duration::from_millis(50);
    let mut left = pause;
    while !left.is_zero() && !stopped() {
        let piece = left.min(PIECE);
        thread::sleep(piece);
        left -= piece;
    }
}
