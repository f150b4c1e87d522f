//! Records of builds in the store: a directory `builds/<number>` for each, with `record.json` in it.

use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use mica_fs::store::{Store, StoreError, WorkDir};

use super::{BuildRecord, VERSION};
use crate::image::Image;

const FILE: &str = "record.json";

/// The number of a build in its store; as text `build-7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildId(pub u64);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "build-{}", self.0)
    }
}

/// A text that is no [`BuildId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a build is called build-N")]
pub struct InvalidBuildId;

impl FromStr for BuildId {
    type Err = InvalidBuildId;

    fn from_str(text: &str) -> Result<Self, InvalidBuildId> {
        let number = text.strip_prefix("build-").and_then(|number| number.parse().ok());
        number.map(Self).ok_or(InvalidBuildId)
    }
}

/// Why the record of a build cannot be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error("cannot {doing} {path}")]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record that is no JSON of the known form.
    #[error("the record {path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A record of a newer program.
    #[error("the record {path} has version {found}; this program knows {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// No such build is known.
    #[error("{id} is not known")]
    Unknown {
        /// The build.
        id: BuildId,
    },
    /// No build is known.
    #[error("no build is known")]
    None,
}

impl LedgerError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unknown { .. } => {
                Some("the 100 newest builds are known; `mica why --list` lists them".to_owned())
            }
            Self::None => Some("`mica build` leaves a record of each build in the store".to_owned()),
            _ => None,
        }
    }
}

/// Puts a record into the store. The build is at work for as long as what comes with its number is held.
pub(super) fn keep(store: &Store, record: &BuildRecord) -> Result<(BuildId, WorkDir), LedgerError> {
    let work = store.work_dir()?;
    write(work.path().join(FILE), record)?;
    Ok((BuildId(store.publish_build(&work)?), work))
}

/// Puts a record in place of the one that is there. Only the process does that whose build it is.
pub(super) fn replace(store: &Store, id: BuildId, record: &BuildRecord) -> Result<(), LedgerError> {
    let path = store.build_directory(id.0).join(FILE);
    let new = path.with_extension("new");
    write(new.clone(), record)?;
    fs::rename(new, &path).map_err(|source| LedgerError::File {
        doing: "write",
        path,
        source,
    })
}

fn write(path: PathBuf, record: &BuildRecord) -> Result<(), LedgerError> {
    fs::write(&path, crate::image::to_json(record)).map_err(|source| LedgerError::File {
        doing: "write",
        path,
        source,
    })
}

/// The record of a build.
///
/// # Errors
/// [`LedgerError::Unknown`], and those of a record that cannot be read.
pub fn load(store: &Store, id: BuildId) -> Result<BuildRecord, LedgerError> {
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let path = store.build_directory(id.0).join(FILE);
    let text = match fs::read(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(LedgerError::Unknown { id }),
        result => result.map_err(|source| LedgerError::File {
            doing: "read",
            path: path.clone(),
            source,
        })?,
    };
    let damaged = |source| LedgerError::Damaged {
        path: path.clone(),
        source,
    };
    let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version != VERSION {
        return Err(LedgerError::Version { path, found: version });
    }
    serde_json::from_slice(&text).map_err(damaged)
}

/// The records that can be read, the newest first. One that cannot is left out: it is of no use to anybody.
///
/// # Errors
/// [`LedgerError::Store`].
pub fn newest_first(store: &Store) -> Result<impl Iterator<Item = (BuildId, BuildRecord)>, LedgerError> {
    let numbers = store.builds()?.into_iter().rev();
    Ok(
        numbers.filter_map(move |number| match load(store, BuildId(number)) {
            Ok(record) => Some((BuildId(number), record)),
            Err(error) => {
                tracing::debug!(
                    number,
                    error = &error as &dyn std::error::Error,
                    "a build is left out"
                );
                None
            }
        }),
    )
}

/// The last build.
///
/// # Errors
/// [`LedgerError::None`] if none is known.
pub fn latest(store: &Store) -> Result<(BuildId, BuildRecord), LedgerError> {
    newest_first(store)?.next().ok_or(LedgerError::None)
}

/// The last build that gave this image.
///
/// # Errors
/// [`LedgerError::Store`].
pub fn latest_of(store: &Store, image: &Image) -> Result<Option<(BuildId, BuildRecord)>, LedgerError> {
    Ok(newest_first(store)?.find(|(_, record)| record.gave(image)))
}
