//! `--verify-cache`: what the cache has is compared with what executing the step gives.
//!
//! Many commands write something that is another one each time: a date, a random number, a file that says when another
//! one was made. So where a fresh result differs from the cache's, the step is executed once more, at least a second
//! later: what differs between the two fresh results as well is the step's own doing, and the rest is a mistake of the
//! cache.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::{Timestamp, compare};
use mica_fs::path::ImagePath;

use super::cached::Given;
use super::{Solver, StepError};
use crate::cache::Record;
use crate::event::StepNumber;
use crate::ledger::Verified;

/// What a step's layer differs in from the cache's.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cache has another result than the step gives when it is executed: {}",
    list(paths)
)]
pub struct WrongHit {
    /// Where they differ, in more than times and in what differs each time.
    pub paths: Vec<ImagePath>,
}

fn list(paths: &[ImagePath]) -> String {
    const SHOWN: usize = 10;
    let mut shown: Vec<_> = paths.iter().take(SHOWN).map(|path| path.to_string()).collect();
    if paths.len() > SHOWN {
        shown.push(format!("and {} more", paths.len() - SHOWN));
    }
    shown.join(", ")
}

impl Solver<'_> {
    /// Whether this hit is among those that are verified.
    pub(super) fn is_verified(&self, key: &Digest) -> bool {
        let now = Timestamp::now();
        let chance = format!("{key} {} {}", now.seconds, now.nanoseconds);
        let [first, second, ..] = *Digest::of(chance.as_bytes()).as_bytes();
        u32::from(u16::from_le_bytes([first, second])) * 100 < u32::from(self.verify) << 16
    }

    /// Executes the step of a record that was found, and compares.
    pub(super) fn verified(
        &self,
        number: StepNumber,
        record: &Record,
        execute: &dyn Fn() -> Result<Given, StepError>,
    ) -> Result<(), StepError> {
        let fresh = execute()?.layer;
        let mut wrong = self.different(record.layer, fresh)?;
        if !wrong.is_empty() {
            thread::sleep(Duration::from_millis(1_100));
            let again = execute()?.layer;
            let volatile: BTreeSet<_> = self.different(fresh, again)?.into_iter().collect();
            wrong.retain(|path| !volatile.contains(path));
        }
        if wrong.is_empty() {
            self.ledger.verified(number, Verified::Same);
            return Ok(());
        }
        let paths = wrong.iter().map(ImagePath::to_string).collect();
        self.ledger.verified(number, Verified::Different(paths));
        Err(WrongHit { paths: wrong }.into())
    }

    fn different(&self, a: Option<DiffId>, b: Option<DiffId>) -> Result<Vec<ImagePath>, StepError> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => {
                let (a, b) = (self.store.layer(&a)?, self.store.layer(&b)?);
                Ok(compare::differences(a.index(), b.index()))
            }
            (Some(_), None) | (None, Some(_)) => Ok(vec![ImagePath::root()]),
            _ => Ok(Vec::new()),
        }
    }
}
