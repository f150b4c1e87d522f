//! Registries: the OCI distribution protocol, as a client speaks it.
//!
//! A [`Client`] knows how registries are reached ([`config`]), who one is there ([`credentials`]), and keeps
//! connections and tokens. A [`Repository`] is one image's place, with its mirrors: manifests, blobs, tags. Digests and
//! sizes are for the reader of a [`Blob`] to check; it goes on by itself where a transfer broke off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::{self, HttpError};
use crate::reference::Reference;

mod auth;
mod blob;
mod certificates;
pub mod challenge;
pub mod config;
pub mod credentials;
mod endpoint;
mod error;
mod image;
mod manifest;
mod session;
#[cfg(test)]
mod tests;
mod upload;

pub use blob::Blob;
pub use config::Config;
use credentials::Login;
pub use credentials::{Credentials, Password};
pub use endpoint::Endpoint;
pub use error::{Complaint, RegistryError};
pub use image::{Reading, RemoteImage, RemoteImageError, read};
pub use manifest::{FetchedManifest, ManifestName};
use session::Connection;
pub use session::{Call, Target};
pub use upload::{Begun, Content, Mounted, UploadError};

/// What a client is told.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which registries stand for others, and how they are reached.
    pub config: Config,
    /// Who one is.
    pub credentials: Credentials,
    /// The directories `certs.d`.
    pub certificates: Vec<PathBuf>,
    /// A directory with certificates for every registry, in place of those (`--cert-dir`).
    pub only_certificates: Option<PathBuf>,
}

impl Settings {
    /// Those of the user: files of configuration and credentials. `authfile` takes the place of all files of
    /// credentials. `variable` reads the environment.
    ///
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn of_user(
        authfile: Option<PathBuf>,
        variable: &dyn Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, RegistryError> {
        // As the XDG base directory specification has it, what is empty counts as unset.
        let variable = |name: &str| variable(name).filter(|value| !value.as_os_str().is_empty());
        Ok(Self {
            config: Config::read(&variable)?,
            credentials: Credentials::of_user(authfile, &variable),
            certificates: certificates::directories(&variable),
            only_certificates: None,
        })
    }
}

/// Says whether to give up.
pub type Stopped = Arc<dyn Fn() -> bool + Send + Sync>;

/// A client of registries. Clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    stopped: Stopped,
    connections: Mutex<BTreeMap<(String, bool), Arc<Connection>>>,
    /// Hosts of mirrors that did not answer: they are not asked again.
    silent: Mutex<BTreeSet<String>>,
}

impl Client {
    /// A client that gives up what it does once `stopped` says so.
    pub fn new(settings: Settings, stopped: Stopped) -> Self {
        let shared = Shared {
            settings,
            stopped,
            connections: Mutex::default(),
            silent: Mutex::default(),
        };
        let shared = Arc::new(shared);
        Self { shared }
    }

    /// What it was told.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Whether it was asked to give up.
    pub fn is_stopped(&self) -> bool {
        (self.shared.stopped)()
    }

    /// What ends all transfers of the client at once, for those who set what it was told to look at.
    pub fn interrupter(&self) -> impl Fn() + Send + Sync + use<> {
        let shared = Arc::downgrade(&self.shared);
        move || {
            if let Some(shared) = shared.upgrade() {
                lock(&shared.connections)
                    .values()
                    .for_each(|connection| connection.http.shut());
            }
        }
    }

    /// The repository of an image, to read from it.
    ///
    /// # Errors
    /// [`RegistryError::Blocked`].
    pub fn repository(&self, reference: &Reference) -> Result<Repository, RegistryError> {
        let name = reference.repository();
        let endpoints = self.shared.settings.config.endpoints(reference);
        let endpoints = endpoints.ok_or(RegistryError::Blocked { name })?;
        Ok(Repository {
            client: self.clone(),
            name: reference.familiar_repository(),
            endpoints,
            action: "pull",
            more: Vec::new(),
        })
    }

    /// The connections to a host. `registry` is what people call it, in credentials and `certs.d`.
    fn connection(
        &self,
        registry: &str,
        host: &str,
        insecure: bool,
    ) -> Result<Arc<Connection>, RegistryError> {
        let mut connections = lock(&self.shared.connections);
        let key = (host.to_owned(), insecure);
        if let Some(known) = connections.get(&key) {
            return Ok(known.clone());
        }
        if self.is_stopped() {
            return Err(HttpError::Stopped.into());
        }
        let mut trust = certificates::trust(&self.shared.settings, registry)?;
        if insecure {
            trust.verify_nothing();
        }
        let connection = Arc::new(Connection::new(host, insecure, http::Client::new(trust)));
        connections.insert(key, connection.clone());
        Ok(connection)
    }

    /// Tries to be this user at a registry, and returns what to keep: the login itself, or a token that the registry
    /// gave for it.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] if the registry does not know the user.
    pub fn log_in(&self, registry: &str, login: &Login) -> Result<Login, RegistryError> {
        let endpoint = self.shared.settings.config.host(registry);
        let endpoint = endpoint.ok_or_else(|| RegistryError::Blocked {
            name: registry.to_owned(),
        })?;
        session::log_in(self, &endpoint, login)
    }
}

/// A repository, at its registry and at the mirrors of that.
#[derive(Clone)]
pub struct Repository {
    client: Client,
    name: String,
    endpoints: Vec<Endpoint>,
    action: &'static str,
    /// Scopes of other repositories.
    more: Vec<String>,
}

impl Repository {
    /// The name as people write it, without a tag: `busybox`, `quay.io/a/b`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that it was made by.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The places to read from, the best first.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The repository itself, not a mirror.
    pub fn origin(&self) -> &Endpoint {
        // `Config::endpoints` puts it last.
        &self.endpoints[self.endpoints.len() - 1]
    }

    /// The same to write to: without mirrors, and with the right to push. Blobs of `others`, repositories of the same
    /// registry, may be mounted into it.
    #[must_use]
    pub fn for_push(&self, others: &[&str]) -> Self {
        let more = others.iter().map(|other| format!("repository:{other}:pull"));
        Self {
            endpoints: vec![self.origin().clone()],
            action: "pull,push",
            more: more.collect(),
            ..self.clone()
        }
    }

    /// What tokens for it are to allow.
    fn scopes(&self, endpoint: &Endpoint) -> Vec<String> {
        let own = format!("repository:{}:{}", endpoint.repository(), self.action);
        std::iter::once(own).chain(self.more.iter().cloned()).collect()
    }

    /// Asks each place in turn until one has what is wanted.
    fn first<T>(
        &self,
        mut ask: impl FnMut(&Endpoint) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let silent = &self.client.shared.silent;
        for mirror in self.endpoints.iter().filter(|endpoint| endpoint.is_mirror()) {
            if lock(silent).contains(mirror.host()) {
                continue;
            }
            let error = match ask(mirror) {
                Ok(found) => return Ok(found),
                Err(error) if self.client.is_stopped() => return Err(error),
                Err(error) => error,
            };
            tracing::warn!(mirror = %mirror.name(), %error, "asking the next place");
            if matches!(&error, RegistryError::Http(error) if error.cause().is_some()) {
                lock(silent).insert(mirror.host().to_owned());
            }
        }
        ask(self.origin())
    }
}

/// Locks a mutex. What it guards is valid after every statement, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
