//! Records of a cache on their way from one store to another.
//!
//! A cache in a registry, or in a directory, is an OCI manifest: its configuration is a [`Bundle`], its layers are those
//! that the steps made. An image can carry the records in its own configuration, for the layers that it has anyway.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mica_fs::digest::{DiffId, Digest};
use serde::{Deserialize, Serialize};

use super::Record;

/// The media type of a cache's configuration.
pub const CACHE_CONFIG: &str = "application/vnd.mica.cache.config.v1+json";
/// The field of an image's configuration with its own records.
pub const INLINE: &str = "dev.mica.cache.v1";
/// The newest version that is understood.
const VERSION: u32 = 1;

/// The records of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    version: u32,
    /// The diff IDs of the manifest's layers, in their order; left out where an image's configuration has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<DiffId>,
    /// What steps gave.
    pub records: Vec<Record>,
    /// What they read, encoded, by digest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    reads: BTreeMap<Digest, String>,
}

impl Bundle {
    /// A bundle of these records.
    pub(super) fn new(layers: Vec<DiffId>, records: Vec<Record>, reads: BTreeMap<Digest, Vec<u8>>) -> Self {
        let encode = |(digest, bytes)| (digest, STANDARD.encode::<Vec<u8>>(bytes));
        Self {
            version: VERSION,
            layers,
            records,
            reads: reads.into_iter().map(encode).collect(),
        }
    }

    /// Reads a bundle.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let bundle: Self = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        match bundle.version {
            VERSION => Ok(bundle),
            other => Err(format!(
                "it has the version {other}, and this program reads version {VERSION}"
            )),
        }
    }

    /// What a step read, encoded; `None` if that is not in it, or other bytes are.
    pub(super) fn reads(&self, digest: &Digest) -> Option<Vec<u8>> {
        let bytes = STANDARD.decode(self.reads.get(digest)?).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }
}
