//! The same work on several things at once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does `work` to each item by at most `threads` threads, those in front first; the results are in the items' order.
///
/// # Errors
/// The first error. What was not begun by then is not done.
pub(crate) fn map<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<Option<R>>> = Mutex::new(items.iter().map(|_| None).collect());
    let first_error: Mutex<Option<E>> = Mutex::new(None);
    let run = || {
        while !failed.load(Ordering::Relaxed) {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(i) else { return };
            match work(item) {
                Ok(result) => {
                    if let Some(place) = results.lock().unwrap_or_else(PoisonError::into_inner).get_mut(i) {
                        *place = Some(result);
                    }
                }
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(run);
        }
    });
    match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
            Ok(results.into_iter().flatten().collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_an_error_ends_it() {
        let items: Vec<u32> = (0..100).collect();
        let double = |n: &u32| Ok::<_, ()>(n * 2);
        let doubled: Vec<u32> = (0..100).map(|n| n * 2).collect();
        assert_eq!(map(&items, 4, double), Ok(doubled));
        let done = AtomicUsize::new(0);
        let fails = |n: &u32| {
            done.fetch_add(1, Ordering::Relaxed);
            if *n == 0 { Err("first") } else { Ok(()) }
        };
        assert_eq!(map(&items, 1, fails), Err("first"));
        assert_eq!(done.into_inner(), 1);
        assert_eq!(map(&[], 4, double), Ok(Vec::new()));
    }
}
