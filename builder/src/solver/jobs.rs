//! How many steps are executed at once (`--jobs`).

use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, PoisonError};

/// The right to execute steps, for so many at once.
#[derive(Debug, Default)]
pub struct Jobs {
    limit: Option<NonZeroUsize>,
    running: Mutex<usize>,
    ended: Condvar,
}

/// The right of one step, until it is dropped.
pub(super) struct Job<'a>(&'a Jobs);

impl Jobs {
    /// At most `limit`; `None` is no limit.
    pub fn new(limit: Option<NonZeroUsize>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Waits until another step may be executed.
    pub(super) fn begin(&self) -> Job<'_> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |running: &mut usize| self.limit.is_some_and(|limit| *running >= limit.get());
        let waited = self.ended.wait_while(running, full);
        *waited.unwrap_or_else(PoisonError::into_inner) += 1;
        Job(self)
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        *running -= 1;
        self.0.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    #[test]
    fn no_more_than_the_limit_run_at_once() {
        let jobs = Jobs::new(NonZeroUsize::new(2));
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _job = jobs.begin();
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!((1..=2).contains(&most.load(Ordering::SeqCst)));
        let unlimited = Jobs::default();
        let _all: Vec<_> = (0..100).map(|_| unlimited.begin()).collect();
    }
}
