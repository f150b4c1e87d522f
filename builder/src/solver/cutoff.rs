//! Early cut-off: a command that was executed again and made what it had made before.
//!
//! If the new layer equals the last one of the command in everything but times, the last one takes its place, so that
//! the steps after it find the layers that they know. But what it holds then looks older than the change that made the
//! command run, and a program that goes by times, like make, would do again what the command has done. So that is not
//! shown to a step that is executed: either nothing below is newer than the last layer, or the cache has all steps that
//! follow.

use mica_fs::digest::DiffId;
use mica_fs::layer::compare;

use super::{At, Built, Solver, StepError};
use crate::cache;
use crate::event::StepNumber;

/// The most entries of a layer that is compared.
const LARGEST: u32 = 1_000_000;

impl Solver<'_> {
    /// The earlier layer that takes the place of the new one, if one does.
    pub(super) fn cut_off(
        &self,
        at: At<'_>,
        command: &mica_fs::digest::Digest,
        new: DiffId,
    ) -> Result<Option<DiffId>, StepError> {
        let fresh = self.store.layer(&new)?;
        if fresh.index().len() > LARGEST {
            return Ok(None);
        }
        for record in cache::of_command(self.store, command)? {
            let Some(last) = record.layer.filter(|last| *last != new) else {
                continue;
            };
            let layer = self.store.layer(&last)?;
            if compare::differences(layer.index(), fresh.index()).is_empty()
                && (self.is_newer(last, at.built)? || self.is_all_known(at, last))
            {
                return Ok(Some(last));
            }
        }
        Ok(None)
    }

    /// Whether nothing below is newer than what the layer made.
    fn is_newer(&self, layer: DiffId, below: &Built) -> Result<bool, StepError> {
        let Some(oldest) = compare::oldest(self.store.layer(&layer)?.index()) else {
            return Ok(true);
        };
        let below = self.store.layers(&below.layers)?;
        let newest = below
            .iter()
            .filter_map(|layer| compare::newest(layer.index()))
            .max();
        Ok(newest.is_none_or(|newest| newest <= oldest))
    }

    /// Whether the cache has every step that follows on top of `layer`, in this stage and in others that stand on it.
    fn is_all_known(&self, at: At<'_>, layer: DiffId) -> bool {
        if at.progress.bases.contains(&at.stage.name) {
            return false;
        }
        let mut built = Built {
            layers: at.built.layers.clone(),
            ..Built::default()
        };
        built.layers.push(layer);
        for (offset, step) in at.following.iter().enumerate() {
            let number = StepNumber(at.number.0 + 1 + offset);
            let at = At {
                number,
                built: &built,
                text: &step.text,
                following: &[],
                probing: true,
                ..at
            };
            match self.step(step, at) {
                Ok((record, _)) => built.layers.extend(record.layer),
                Err(_) => return false,
            }
        }
        true
    }
}
