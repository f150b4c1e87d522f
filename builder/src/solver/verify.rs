//! `--verify-cache`: what the cache has is compared with what executing the step gives.
//!
//! Many commands write something that is another one each time: a date, a random number, a file that says when another
//! one was made. So where a fresh result differs from the cache's, the step is executed again, at least a second later:
//! what differs between the fresh results as well is the step's own doing, and the rest is a mistake of the cache. Where
//! a command invents names, they are others in each result: in a directory in which the fresh results have different
//! names, so may the cache's. What is made of few possible values is the same now and then; so one more execution is not
//! the last.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::{Timestamp, compare};
use mica_fs::overlay::Lowers;
use mica_fs::path::ImagePath;

use super::cached::Given;
use super::{Solver, StepError};
use crate::cache::Record;
use crate::event::StepNumber;
use crate::ledger::Verified;

/// How often a step is executed before what differs is a mistake of the cache.
const EXECUTIONS: usize = 4;

/// Which of two layers has a path at which they differ.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    InBoth,
    InOne,
}

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
        for _ in 1..EXECUTIONS {
            if wrong.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(1_100));
            let again = execute()?.layer;
            let own = self.different(fresh, again)?;
            let invents_names_in = |directory: Option<ImagePath>| {
                let in_it = |(path, there): (&ImagePath, &There)| {
                    *there == There::InOne && path.parent() == directory
                };
                own.iter().any(in_it)
            };
            wrong.retain(|path, there| {
                let is_invented = *there == There::InOne && invents_names_in(path.parent());
                !own.contains_key(path) && !is_invented
            });
        }
        if wrong.is_empty() {
            self.ledger.verified(number, Verified::Same);
            return Ok(());
        }
        let paths: Vec<_> = wrong.into_keys().collect();
        let told = paths.iter().map(ImagePath::to_string).collect();
        self.ledger.verified(number, Verified::Different(told));
        Err(WrongHit { paths }.into())
    }

    fn different(
        &self,
        a: Option<DiffId>,
        b: Option<DiffId>,
    ) -> Result<BTreeMap<ImagePath, There>, StepError> {
        match (a, b) {
            (Some(a), Some(b)) if a != b => {
                let (a, b) = (self.store.layer(&a)?, self.store.layer(&b)?);
                let paths = compare::differences(a.index(), b.index());
                let alone = [a, b].map(|layer| Lowers::new(vec![layer]));
                let there = |path: &ImagePath| match alone.each_ref().map(|tree| tree.resolve(path).is_some())
                {
                    [true, false] | [false, true] => There::InOne,
                    _ => There::InBoth,
                };
                Ok(paths
                    .into_iter()
                    .map(|path| (path.clone(), there(&path)))
                    .collect())
            }
            (Some(_), None) | (None, Some(_)) => Ok(BTreeMap::from([(ImagePath::root(), There::InBoth)])),
            _ => Ok(BTreeMap::new()),
        }
    }
}
