//! On which processor requests are answered.
//!
//! The kernel likes to wake a server on an idle processor, while its client's falls idle to wait. To wake an idle
//! processor takes, in a virtual machine above all, ten times as long as to switch from one task to another. So
//! where it is known that a mount has one client at a time, and at which processor, the threads that answer stay there.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// No processor.
const ANY: usize = usize::MAX;

/// So many times in a row a client was at one processor before it is believed that there is no other.
const SURE: u32 = 32;

/// So many requests without a word of the client are answered before nothing is believed any more: there may be other
/// clients since, or none that is waiting.
const PATIENCE: u32 = 64;

thread_local! {
    /// Where this thread is kept, and where it might run before.
    static KEPT: RefCell<Option<(usize, CpuSet)>> = const { RefCell::new(None) };
}

/// What is known of a mount's clients.
#[derive(Debug)]
pub(crate) struct Near {
    /// Where the threads are to be.
    wanted: AtomicUsize,
    /// Where a client was last.
    last: AtomicUsize,
    /// How often in a row, up to [`SURE`].
    times: AtomicU32,
    /// How many requests are left of [`PATIENCE`].
    patience: AtomicU32,
}

impl Default for Near {
    fn default() -> Self {
        Self {
            wanted: AtomicUsize::new(ANY),
            last: AtomicUsize::new(ANY),
            times: AtomicU32::new(0),
            patience: AtomicU32::new(0),
        }
    }
}

impl Near {
    /// That a client is at this processor. Any order of words from several threads is as good as another.
    pub fn client_at(&self, processor: usize) {
        if self.last.swap(processor, Ordering::Relaxed) != processor {
            self.times.store(0, Ordering::Relaxed);
            self.wanted.store(ANY, Ordering::Relaxed);
        } else if self.times.load(Ordering::Relaxed) < SURE {
            self.times.fetch_add(1, Ordering::Relaxed);
        } else {
            self.patience.store(PATIENCE, Ordering::Relaxed);
            self.wanted.store(processor, Ordering::Relaxed);
        }
    }

    /// Where a thread that has got a request is to be; `None` for anywhere.
    fn wanted(&self) -> Option<usize> {
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == ANY {
            return None;
        }
        let one_less = |left: u32| left.checked_sub(1);
        let left = self
            .patience
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        if left.is_err() {
            self.wanted.store(ANY, Ordering::Relaxed);
        }
        left.is_ok().then_some(wanted)
    }

    /// Brings the calling thread, which has got a request, to where it is to be. That it cannot is no matter.
    pub fn follow(&self) {
        let wanted = self.wanted();
        KEPT.with_borrow_mut(|kept| {
            if kept.as_ref().map(|(at, _)| *at) == wanted {
                return;
            }
            let before = kept.take().map(|(_, before)| before);
            let Ok(before) = before.map_or_else(|| sched_getaffinity(THIS), Ok) else {
                return;
            };
            let Some(at) = wanted else {
                let _ = sched_setaffinity(THIS, &before);
                return;
            };
            let mut only = CpuSet::new();
            if only.set(at).and_then(|()| sched_setaffinity(THIS, &only)).is_ok() {
                *kept = Some((at, before));
            }
        });
    }
}

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

#[cfg(test)]
mod tests {
    use super::*;

    /// Where this thread may run.
    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(THIS).expect("a thread can ask for its own");
        (0..CpuSet::count())
            .filter(|at| set.is_set(*at) == Ok(true))
            .collect()
    }

    #[test]
    fn a_thread_follows_a_client_that_stays() {
        let near = Near::default();
        let before = allowed();
        let at = *before.last().expect("it runs somewhere");
        for _ in 0..=SURE {
            near.client_at(at);
            near.follow();
            assert_eq!(allowed(), before, "it is not sure yet");
        }
        near.client_at(at);
        near.follow();
        assert_eq!(allowed(), [at]);
        for _ in 1..PATIENCE {
            near.follow();
            assert_eq!(allowed(), [at]);
        }
        near.follow();
        assert_eq!(allowed(), before, "nothing was heard for long");
    }

    #[test]
    fn clients_at_several_processors_are_not_followed() {
        let near = Near::default();
        let before = allowed();
        for _ in 0..SURE + 2 {
            near.client_at(0);
        }
        near.client_at(1);
        near.follow();
        assert_eq!(allowed(), before);
        for at in 0..4 * SURE as usize {
            near.client_at(at % 2);
            near.follow();
        }
        assert_eq!(allowed(), before);
    }
}
