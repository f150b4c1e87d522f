//! Files from elsewhere: URLs and Git repositories, that ADD, named contexts and the build context name.
//!
//! Each becomes a layer in the store, with a record of where it came from. What is there already is not fetched again:
//! a server is asked whether its file is still the same, a repository which commit a name stands for. So downloads
//! are cached, copied and pruned as any other layer.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::writer::WriteError;
use mica_fs::store::{Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::http::{Client, HttpError};
use crate::op::archive::ArchiveError;
use crate::rootfs::RootfsError;
use crate::sandbox::Secret;
use crate::url::Url;

mod archive;
mod checksum;
mod download;
mod git;
mod git_program;
mod git_url;

pub use archive::Unpacked;
pub use checksum::{Checksum, InvalidChecksum};
pub use git::{GitError, SSH_AGENT};
pub use git_url::{GitRepository, GitUrlError, Transport};

/// Something outside of the build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Remote {
    /// A file on a server.
    Url(Download),
    /// Files of a repository.
    Git(GitRepository),
}

/// A file on a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Download {
    /// Where.
    pub url: Url,
    /// The name that the file gets.
    pub name: String,
    /// What it must be.
    pub checksum: Option<Checksum>,
}

/// The name of a file whose URL has none, as in BuildKit.
const UNNAMED: &str = "__unnamed__";

impl Download {
    /// The file at `url`, named as the last part of its path.
    pub fn new(url: Url, checksum: Option<Checksum>) -> Self {
        let name = url
            .file_name()
            .map(|name| String::from_utf8_lossy(&name).into_owned());
        Self {
            name: name.unwrap_or_else(|| UNNAMED.to_owned()),
            url,
            checksum,
        }
    }
}

/// Why something cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The network, or a server.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// A repository.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Not what was expected.
    #[error("{what}: digest mismatch: expected {expected}, got {found}")]
    Checksum {
        /// The URL or the repository.
        what: String,
        /// As written.
        expected: String,
        /// What was fetched.
        found: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The layer.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// An archive that cannot be unpacked.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The layer of what is unpacked.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A file on the way to the store.
    #[error("cannot write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl RemoteError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Http(error) => error.hint().map(str::to_owned),
            Self::Git(error) => error.hint(),
            Self::Checksum { .. } => Some(
                "if the new content is what you want, write its digest; otherwise do not trust it".to_owned(),
            ),
            _ => None,
        }
    }
}

/// Brings what is elsewhere into the store.
pub struct Fetcher<'a> {
    store: &'a Store,
    secrets: &'a BTreeMap<String, Secret>,
    agents: &'a BTreeMap<String, PathBuf>,
    stopped: &'a (dyn Fn() -> bool + Sync),
    client: Arc<Client>,
    fetched: Mutex<BTreeMap<String, Slot>>,
}

/// What one thing became, once somebody has fetched it.
type Slot = Arc<Mutex<Option<DiffId>>>;

impl<'a> Fetcher<'a> {
    /// A fetcher into `store`. Secrets of certain names are credentials (`HTTP_AUTH_TOKEN_<host>`,
    /// `GIT_AUTH_TOKEN`), and `agents` are sockets of SSH agents; it gives up once `stopped` says so.
    pub fn new(
        store: &'a Store,
        secrets: &'a BTreeMap<String, Secret>,
        agents: &'a BTreeMap<String, PathBuf>,
        stopped: &'a (dyn Fn() -> bool + Sync),
    ) -> Self {
        Self {
            store,
            secrets,
            agents,
            stopped,
            client: Arc::default(),
            fetched: Mutex::default(),
        }
    }

    /// What ends all downloads at once, for who has set what `stopped` looks at.
    pub fn interrupter(&self) -> impl Fn() + Send + Sync + use<> {
        let client = self.client.clone();
        move || client.shut()
    }

    /// Fetches `remote`, and returns the layer that holds it. A fetcher gives the same thing the same content, however
    /// often it is asked.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn fetch(&self, remote: &Remote) -> Result<DiffId, RemoteError> {
        let slot = {
            let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
            fetched.entry(format!("{remote:?}")).or_default().clone()
        };
        let mut known = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layer) = *known {
            return Ok(layer);
        }
        let layer = match remote {
            Remote::Url(download) => self.download(download)?,
            Remote::Git(repository) => self.clone_of(repository)?,
        };
        *known = Some(layer);
        Ok(layer)
    }

    /// What was recorded under `key`, if the layer that `layer_of` finds in it is still there.
    fn recall<T: DeserializeOwned>(
        &self,
        key: &Value,
        layer_of: impl Fn(&T) -> DiffId,
    ) -> Result<Option<T>, RemoteError> {
        let Some(text) = self.store.cache_get(&digest(key))? else {
            return Ok(None);
        };
        let record: Option<T> = serde_json::from_str(&text).ok();
        Ok(record.filter(|record| self.store.has_layer(&layer_of(record))))
    }

    /// Records what came of `key`.
    fn remember<T: Serialize>(&self, key: &Value, record: &T, layer: DiffId) -> Result<(), RemoteError> {
        let text = serde_json::to_string(record).unwrap_or_default();
        Ok(self.store.cache_put(&digest(key), &text, &[layer])?)
    }

    fn secret(&self, name: &str) -> Option<&[u8]> {
        self.secrets.get(name).map(Secret::bytes)
    }
}

fn digest(key: &Value) -> Digest {
    Digest::of(key.to_string().as_bytes())
}
