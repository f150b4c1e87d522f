//! The build cache: which layer a step gave, by everything that its result depends on.
//!
//! A key is a value that can be printed: a JSON object of the parent's content, the instruction with its
//! variables replaced, and the content of what it takes in. Names of images, times and places on the host are
//! never part of it.
//!
//! That is more than a step depends on: most of the parent it never looks at. What it did look at, its *read set*, is
//! kept with the record, and the digest of its *command*, which is the key without the parent. So a record of an equal
//! command can be found whose read set is the same in another parent, and its layer is right there as well.

mod bundle;
mod export;
mod import;

use mica_fs::digest::{ChainId, DiffId, Digest};
use mica_fs::layer::Timestamp;
use mica_fs::overlay::{ReadSet, trace};
use mica_fs::store::{self, Store, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use bundle::{Bundle, CACHE_CONFIG, INLINE};
pub use export::{ExportError, Scope, gather, inline, to_directory, to_registry};
pub use import::{ImportError, Imports};

/// Raised when a step's result changes though its key does not.
const VERSION: u32 = 1;
/// How many records of a command are compared with a parent.
const MOST_CANDIDATES: u32 = 16;
/// A step that looked at more paths than this depends on too much to be found again by them.
const MOST_PATHS: usize = 1_000_000;

/// By what earlier results are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// By what a step has read, as well as by content.
    #[default]
    Trace,
    /// By content alone, as Docker does. Neither mode takes a result of the other one.
    Content,
}

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

    /// The key of the same step where results are found like this.
    #[must_use]
    pub fn of_mode(mut self, mode: Mode) -> Self {
        if mode == Mode::Content {
            self.0["cache"] = json!("content");
        }
        self
    }

    /// The digest under which the record lies.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.to_string().as_bytes())
    }

    /// The digest of the command: all but the parent. `resolved` is what was taken from the parent to make sense of the
    /// instruction, such as the ids of a user.
    pub fn command(&self, resolved: &Value) -> Digest {
        let command = json!({
            "version": VERSION,
            "kind": self.0["kind"],
            "inputs": self.0["inputs"],
            "resolved": resolved,
            // Programs can ask for it.
            "machine": std::env::consts::ARCH,
        });
        Digest::of(command.to_string().as_bytes())
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
    /// How it is found without the key; `None` in [`Mode::Content`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Lineage>,
}

/// How the record of a step is found without its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// [`Key::command`].
    pub command: Digest,
    /// Which step of which stage it is, whatever it takes in.
    pub step: Digest,
    /// The digest of what it read, encoded. `None` if that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Digest>,
}

impl Record {
    fn made(&self) -> Timestamp {
        let created: Option<jiff::Timestamp> = self.created.parse().ok();
        created.map_or(Timestamp::default(), |at| Timestamp {
            seconds: at.as_nanosecond().div_euclid(1_000_000_000) as i64,
            nanoseconds: at.as_nanosecond().rem_euclid(1_000_000_000) as u32,
        })
    }
}

/// Looks a step up. A record whose layer is no longer in the store counts as none.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn find(store: &Store, key: &Key) -> Result<Option<Record>, StoreError> {
    find_by(store, &key.digest())
}

fn find_by(store: &Store, key: &Digest) -> Result<Option<Record>, StoreError> {
    let text = store.cache_get(key)?;
    Ok(text.and_then(|text| parse(store, &text)))
}

/// The records of a command whose read sets are known, the newest first: those that [`reads`] may find to be right.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn of_command(store: &Store, command: &Digest) -> Result<Vec<Record>, StoreError> {
    let found = store.cache_of_command(command, MOST_CANDIDATES)?;
    Ok(found.iter().filter_map(|(text, _)| parse(store, text)).collect())
}

/// The last record of a step that was executed, whatever it took in.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn of_step(store: &Store, step: &Digest) -> Result<Option<Record>, StoreError> {
    let text = store.cache_of_step(step)?;
    Ok(text.and_then(|text| parse(store, &text)))
}

/// What the step of a record read of the layers below it; `None` if that is not known. A damaged one counts as none.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn reads(store: &Store, record: &Record) -> Result<Option<ReadSet>, StoreError> {
    let Some(digest) = record.lineage.as_ref().and_then(|lineage| lineage.reads) else {
        return Ok(None);
    };
    let Some(bytes) = store.trace(&digest)? else {
        return Ok(None);
    };
    match trace::decode(&bytes) {
        Ok(set) => Ok(Some(set)),
        Err(error) => {
            tracing::warn!(%digest, %error, "what a step has read cannot be told");
            Ok(None)
        }
    }
}

fn parse(store: &Store, text: &str) -> Option<Record> {
    let record: Option<Record> = serde_json::from_str(text).ok();
    record.filter(|record| record.layer.is_none_or(|id| store.has_layer(&id)))
}

/// A step's result that is to be recorded.
pub struct Made {
    /// The layer, if there is one.
    pub layer: Option<DiffId>,
    /// When it was executed.
    pub created: String,
    /// [`Lineage::command`] and [`Lineage::step`].
    pub lineage: Option<(Digest, Digest)>,
    /// What it read of the layers below.
    pub reads: Option<ReadSet>,
}

/// Records what a step gave.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be written.
pub fn keep(store: &Store, key: &Key, layer: Option<DiffId>, created: String) -> Result<Record, StoreError> {
    let made = Made {
        layer,
        created,
        lineage: None,
        reads: None,
    };
    keep_made(store, key, made)
}

/// The same for a result that is also found without its key.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be written.
pub fn keep_made(store: &Store, key: &Key, made: Made) -> Result<Record, StoreError> {
    let reads = made.reads.filter(|set| set.len() <= MOST_PATHS);
    // What cannot be encoded is only not found again.
    let encoded = reads.and_then(|set| trace::encode(&set).ok());
    let record = Record {
        layer: made.layer,
        created: made.created,
        key: key.0.clone(),
        lineage: made.lineage.map(|(command, step)| Lineage {
            command,
            step,
            reads: encoded.as_deref().map(Digest::of),
        }),
    };
    put(store, key, &record, encoded.as_deref())?;
    Ok(record)
}

/// Records what was found to be right for another key as well. `reads` is what its step read, encoded, if the store may
/// not have it yet.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be written.
pub fn keep_again(
    store: &Store,
    key: &Key,
    found: Record,
    reads: Option<&[u8]>,
) -> Result<Record, StoreError> {
    let record = Record {
        key: key.0.clone(),
        ..found
    };
    put(store, key, &record, reads)?;
    Ok(record)
}

fn put(store: &Store, key: &Key, record: &Record, reads: Option<&[u8]>) -> Result<(), StoreError> {
    let text = serde_json::to_string(record).unwrap_or_default();
    let layers = record.layer.as_slice();
    match &record.lineage {
        None => store.cache_put(&key.digest(), &text, layers),
        Some(lineage) => {
            let lineage = store::Lineage {
                command: lineage.command,
                step: lineage.step,
                trace: lineage.reads,
                made: record.made(),
            };
            store.cache_put_traced(&key.digest(), &text, layers, &lineage, reads)
        }
    }
}
