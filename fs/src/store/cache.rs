//! The cache's records. What they say is the builder's; the store knows how they are found, and which layers they name.

use super::{Store, StoreError};
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;

/// How the record of a step is found without its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The digest of everything that the result depends on, but for the layers below.
    pub command: Digest,
    /// The digest of which step it is, whatever it takes in.
    pub step: Digest,
    /// The digest of what it read of the layers below, as [`crate::overlay::trace::encode`] gives it, if that is known.
    pub trace: Option<Digest>,
    /// When it was executed.
    pub made: Timestamp,
}

impl Store {
    /// The cache record of that key. `None` also if a layer that it names is gone.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn cache_get(&self, key: &Digest) -> Result<Option<String>, StoreError> {
        let found = self.with_catalog(|catalog| catalog.cache_get(key))?;
        Ok(found
            .and_then(|(record, layers)| layers.iter().all(|layer| self.has_layer(layer)).then_some(record)))
    }

    /// Stores a cache record, in place of one that has the same key. The layers stay as long as the record.
    ///
    /// # Errors
    /// [`StoreError::Catalog`] and [`StoreError::Full`].
    pub fn cache_put(&self, key: &Digest, record: &str, layers: &[DiffId]) -> Result<(), StoreError> {
        self.with_catalog(|catalog| catalog.cache_put(key, record, layers, None, None))
    }

    /// The same for a record that is also found by its lineage. `trace` is what the lineage names; it may be left out if
    /// it is in the store already, and stays as long as a record names it.
    ///
    /// # Errors
    /// [`StoreError::Catalog`] and [`StoreError::Full`].
    pub fn cache_put_traced(
        &self,
        key: &Digest,
        record: &str,
        layers: &[DiffId],
        lineage: &Lineage,
        trace: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        self.with_catalog(|catalog| catalog.cache_put(key, record, layers, Some(lineage), trace))
    }

    /// The records of that command whose trace is known, the newest first: of those with equal traces the newest, and at
    /// most `most`. Layers that they name may be gone.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn cache_of_command(&self, command: &Digest, most: u32) -> Result<Vec<(String, Digest)>, StoreError> {
        self.with_catalog(|catalog| catalog.cache_of_command(command, most))
    }

    /// The newest record of that step. Layers that it names may be gone.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn cache_of_step(&self, step: &Digest) -> Result<Option<String>, StoreError> {
        self.with_catalog(|catalog| catalog.cache_of_step(step))
    }

    /// What a step has read, encoded.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn trace(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.with_catalog(|catalog| catalog.trace(digest))
    }
}
