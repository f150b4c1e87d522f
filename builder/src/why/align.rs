//! Which step of an earlier build stood in the place of one of this build.

use crate::ledger::{BuildRecord, StepRecord};

/// The counterpart of `step` in `earlier`: in the stage of the same name the equal instruction of the longest common
/// sequence, or else the next one of the same kind between the same neighbours.
pub(super) fn counterpart<'e>(
    record: &BuildRecord,
    step: &StepRecord,
    earlier: &'e BuildRecord,
) -> Option<&'e StepRecord> {
    let new: Vec<_> = record.stage(&step.stage).collect();
    let old: Vec<_> = earlier.stage(&step.stage).collect();
    let place = new.iter().position(|other| other.index == step.index)?;
    aligned(&old, &new)[place].map(|at| old[at])
}

/// For each step of `new` the place of its counterpart in `old`.
fn aligned(old: &[&StepRecord], new: &[&StepRecord]) -> Vec<Option<usize>> {
    let mut places = vec![None; new.len()];
    let (mut from_old, mut from_new) = (0, 0);
    for (a, b) in common(old, new).into_iter().chain([(old.len(), new.len())]) {
        between(old, new, (from_old..a, from_new..b), &mut places);
        if b < new.len() {
            places[b] = Some(a);
        }
        (from_old, from_new) = (a + 1, b + 1);
    }
    places
}

/// Pairs what is left between two equal instructions: each with the next of its kind.
fn between(
    old: &[&StepRecord],
    new: &[&StepRecord],
    (olds, news): (std::ops::Range<usize>, std::ops::Range<usize>),
    places: &mut [Option<usize>],
) {
    let mut next = olds.start;
    for at in news {
        let kind = new[at].instruction();
        if let Some(found) = (next..olds.end).find(|&place| old[place].instruction() == kind) {
            places[at] = Some(found);
            next = found + 1;
        }
    }
}

/// The longest common sequence of equal instructions, as places in both.
fn common(old: &[&StepRecord], new: &[&StepRecord]) -> Vec<(usize, usize)> {
    let equal = |a: usize, b: usize| old[a].text == new[b].text;
    let mut lengths = vec![vec![0_u32; new.len() + 1]; old.len() + 1];
    for a in (0..old.len()).rev() {
        for b in (0..new.len()).rev() {
            lengths[a][b] = match equal(a, b) {
                true => lengths[a + 1][b + 1] + 1,
                false => lengths[a + 1][b].max(lengths[a][b + 1]),
            };
        }
    }
    let (mut a, mut b, mut pairs) = (0, 0, Vec::new());
    while a < old.len() && b < new.len() {
        if equal(a, b) {
            pairs.push((a, b));
            (a, b) = (a + 1, b + 1);
        } else if lengths[a + 1][b] >= lengths[a][b + 1] {
            a += 1;
        } else {
            b += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(texts: &[&str]) -> Vec<StepRecord> {
        let step = |text: &&str| StepRecord {
            text: (*text).to_owned(),
            ..StepRecord::default()
        };
        texts.iter().map(step).collect()
    }

    fn of(old: &[&str], new: &[&str]) -> Vec<Option<usize>> {
        let (old, new) = (steps(old), steps(new));
        aligned(&old.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>())
    }

    #[test]
    fn steps_keep_their_counterparts_when_others_come_and_go() {
        let old = ["FROM a", "RUN one", "COPY . .", "RUN two"];
        assert_eq!(of(&old, &old), [Some(0), Some(1), Some(2), Some(3)]);
        let inserted = ["FROM a", "RUN one", "RUN new", "COPY . .", "RUN two"];
        assert_eq!(of(&old, &inserted), [Some(0), Some(1), None, Some(2), Some(3)]);
        let changed = ["FROM b", "RUN one", "COPY x .", "RUN three"];
        assert_eq!(of(&old, &changed), [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(of(&[], &["FROM a"]), [None]);
        assert_eq!(of(&old, &["FROM a", "RUN two"]), [Some(0), Some(3)]);
    }
}
