//! Equal steps of one build are executed once, also if two stages come to them at the same time.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, PoisonError};

use mica_fs::digest::Digest;

use super::{CachePolicy, lock};
use crate::cache::Record;

/// The steps of a build by what they depend on.
#[derive(Default)]
pub(super) struct Once {
    steps: Mutex<BTreeMap<Id, State>>,
    changed: Condvar,
}

/// A step's cache key, and whether an earlier build's result may stand for it.
type Id = (Digest, bool);

enum State {
    AtWork,
    Done(Record),
    Failed,
}

/// Whose turn a step is.
pub(super) enum Turn<'a> {
    /// An equal one has given this.
    Theirs(Record),
    /// An equal one has failed, and so will the build.
    Failed,
    /// No other one has come to it.
    Ours(Claim<'a>),
}

/// The right to execute a step. Dropped without a result it tells that the step failed.
pub(super) struct Claim<'a> {
    once: &'a Once,
    id: Id,
}

impl Once {
    /// Waits for an equal step that is at work.
    pub fn begin(&self, key: Digest, policy: CachePolicy) -> Turn<'_> {
        let id = (key, policy == CachePolicy::Use);
        let mut steps = lock(&self.steps);
        loop {
            match steps.get(&id) {
                None => {
                    steps.insert(id, State::AtWork);
                    return Turn::Ours(Claim { once: self, id });
                }
                Some(State::Done(record)) => return Turn::Theirs(record.clone()),
                Some(State::Failed) => return Turn::Failed,
                Some(State::AtWork) => {
                    steps = self.changed.wait(steps).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

impl Claim<'_> {
    /// The step gave this.
    pub fn done(self, record: &Record) {
        lock(&self.once.steps).insert(self.id, State::Done(record.clone()));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut steps = lock(&self.once.steps);
        if matches!(steps.get(&self.id), Some(State::AtWork)) {
            steps.insert(self.id, State::Failed);
        }
        drop(steps);
        self.once.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn record(created: &str) -> Record {
        Record {
            layer: None,
            created: created.to_owned(),
            key: serde_json::Value::Null,
            lineage: None,
        }
    }

    #[test]
    fn the_second_gets_what_the_first_gave() {
        let once = Once::default();
        let key = Digest::of(b"key");
        let Turn::Ours(claim) = once.begin(key, CachePolicy::Use) else {
            panic!("it is the first")
        };
        thread::scope(|scope| {
            let second = scope.spawn(|| match once.begin(key, CachePolicy::Use) {
                Turn::Theirs(record) => record.created,
                _ => panic!("it is the second"),
            });
            thread::sleep(Duration::from_millis(20));
            claim.done(&record("first"));
            assert_eq!(second.join().expect("no panic"), "first");
        });
        // One that must not take an earlier result takes none.
        assert!(matches!(once.begin(key, CachePolicy::Refresh), Turn::Ours(_)));
    }

    #[test]
    fn a_failure_fails_its_equals() {
        let once = Once::default();
        let key = Digest::of(b"key");
        drop(once.begin(key, CachePolicy::Use));
        assert!(matches!(once.begin(key, CachePolicy::Use), Turn::Failed));
    }
}
