//! The build cache: which layer a step gave, by everything that its result depends on.
//!
//! A key is a value that can be printed: a JSON object of the parent's content, the instruction with its
//! variables replaced, and the content of what it takes in. Names of images, times and places on the host are
//! never part of it.

use mica_fs::digest::{ChainId, DiffId, Digest};
use mica_fs::store::{Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Raised when a step's result changes though its key does not.
const VERSION: u32 = 1;

/// What a step's result depends on.
#[derive(Clone, Debug)]
pub struct Key(Value);

impl Key {
    /// The key of a step on top of the layers `parent`: its kind, and everything else that counts.
    pub fn new(parent: &[DiffId], kind: &str, inputs: Value) -> Self {
        Self(json!({
            "version": VERSION,
            "parent": ChainId::of(parent),
            "kind": kind,
            "inputs": inputs,
        }))
    }

    /// The key as it is printed.
    pub fn value(&self) -> &Value {
        &self.0
    }

    /// The digest under which the record lies.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.to_string().as_bytes())
    }
}

/// What a step gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The layer that it made; `None` for a step that only changes the configuration.
    pub layer: Option<DiffId>,
    /// When it was executed (RFC 3339): the history of an image made from the cache is that of the first one.
    pub created: String,
    /// The key, to compare with when a step runs again.
    pub key: Value,
}

/// Looks a step up. A record whose layer is no longer in the store counts as none.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn find(store: &Store, key: &Key) -> Result<Option<Record>, StoreError> {
    let Some(text) = store.cache_get(&key.digest())? else {
        return Ok(None);
    };
    let record: Option<Record> = serde_json::from_str(&text).ok();
    Ok(record.filter(|record| record.layer.is_none_or(|id| store.has_layer(&id))))
}

/// Records what a step gave.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be written.
pub fn keep(store: &Store, key: &Key, layer: Option<DiffId>, created: String) -> Result<Record, StoreError> {
    let record = Record {
        layer,
        created,
        key: key.0.clone(),
    };
    let text = serde_json::to_string(&record).unwrap_or_default();
    store.cache_put(&key.digest(), &text, layer.as_slice())?;
    Ok(record)
}
