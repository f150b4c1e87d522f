//! Who one is at a registry: the files of Docker and podman, and the programs that keep secrets for them.
//!
//! They are read in this order, and the first that knows the registry counts: what the command line says
//! (`--creds`, `--authfile`), `$REGISTRY_AUTH_FILE`; Docker's `config.json` (in `$DOCKER_CONFIG` or `~/.docker`); podman's
//! `auth.json` (`$XDG_RUNTIME_DIR/containers`, `$XDG_CONFIG_HOME/containers`).

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

mod file;
mod helper;
#[cfg(test)]
mod tests;

use file::AuthFile;
pub use file::Stored;

/// The name under which Docker keeps the credentials of Docker Hub.
const HUB_KEY: &str = "https://index.docker.io/v1/";
const HUB: &str = "docker.io";

/// A password or a token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes a secret in.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, to be sent.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// What proves who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user with a password.
    User(String, Password),
    /// A token that gives others (OAuth 2's refresh token), which Docker calls an identity token.
    Identity(Password),
    /// A token for the registry itself.
    Bearer(Password),
}

/// Why credentials cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not what it should be. What is in it is not shown.
    #[error("{path} holds no valid credentials: {reason}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A program that keeps secrets.
    #[error("{program}: {reason}")]
    Helper {
        /// Its name.
        program: String,
        /// What it said.
        reason: String,
    },
    /// There is nowhere to keep them.
    #[error("neither DOCKER_CONFIG nor HOME says where credentials are kept")]
    NoHome,
}

impl CredentialsError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Helper { program, .. } => Some(format!(
                "install {program}, or remove it from credsStore and credHelpers of Docker's config.json"
            )),
            Self::NoHome => Some("name a file by --authfile".to_owned()),
            Self::Io { .. } | Self::Invalid { .. } => None,
        }
    }
}

/// Where credentials are looked for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    given: Option<Login>,
    files: Vec<PathBuf>,
    /// Where new ones are kept.
    own: Option<PathBuf>,
}

impl Credentials {
    /// Those of the user. `authfile` (`--authfile`) takes the place of all other files.
    pub fn of_user(authfile: Option<PathBuf>, variable: &dyn Fn(&str) -> Option<PathBuf>) -> Self {
        if let Some(only) = authfile.or_else(|| variable("REGISTRY_AUTH_FILE")) {
            return Self {
                given: None,
                files: vec![only.clone()],
                own: Some(only),
            };
        }
        let home = variable("HOME");
        let docker = variable("DOCKER_CONFIG").or_else(|| Some(home.clone()?.join(".docker")));
        let docker = docker.map(|directory| directory.join("config.json"));
        let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home?.join(".config")));
        let runtime = variable("XDG_RUNTIME_DIR");
        let podman = [runtime, config].into_iter().flatten();
        let podman = podman.map(|directory| directory.join("containers/auth.json"));
        Self {
            given: None,
            files: docker.iter().cloned().chain(podman).collect(),
            own: docker,
        }
    }

    /// The same for every registry, `--creds`.
    pub fn given(login: Login) -> Self {
        Self {
            given: Some(login),
            ..Self::default()
        }
    }

    /// What there is for a repository, `docker.io/library/busybox`, or a registry as a whole. A program that cannot
    /// be asked has nothing, and the log says so: most images need no credentials.
    ///
    /// # Errors
    /// A file that is damaged or cannot be read.
    pub fn find(&self, name: &str) -> Result<Option<Login>, CredentialsError> {
        if let Some(login) = &self.given {
            return Ok(Some(login.clone()));
        }
        for path in &self.files {
            let found = AuthFile::read(path)?.map(|file| file.find(name));
            if let Some(login) = found.transpose()?.flatten() {
                tracing::debug!(path = %path.display(), %name, "credentials");
                return Ok(Some(login));
            }
        }
        Ok(None)
    }

    /// Keeps `login` for a registry, in Docker's `config.json`, or where that says, and returns where.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn keep(&self, registry: &str, login: &Login) -> Result<Stored, CredentialsError> {
        let path = self.own.as_deref().ok_or(CredentialsError::NoHome)?;
        let mut file = AuthFile::read(path)?.unwrap_or_else(|| AuthFile::new(path));
        let stored = file.put(registry, login)?;
        file.write()?;
        Ok(stored)
    }

    /// Forgets what is kept for a registry, in all files. Returns whether there was anything.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn forget(&self, registry: &str) -> Result<bool, CredentialsError> {
        let mut found = false;
        for path in &self.files {
            let Some(mut file) = AuthFile::read(path)? else {
                continue;
            };
            if file.remove(registry)? {
                file.write()?;
                found = true;
            }
        }
        Ok(found)
    }

    /// The file where new ones are kept.
    pub fn own(&self) -> Option<&Path> {
        self.own.as_deref()
    }
}

/// The name of a registry as it stands in the files, brought to one form: without scheme, path and Docker Hub's other
/// names.
fn canonical(key: &str) -> String {
    let (rest, is_url) = match key.split_once("://") {
        Some((_, rest)) => (rest, true),
        None => (key, false),
    };
    let rest = rest.trim_end_matches('/');
    let api = rest.ends_with("/v1") || rest.ends_with("/v2");
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => HUB,
        host => host,
    };
    match path.is_empty() || is_url || api {
        true => host.to_owned(),
        false => format!("{host}/{path}"),
    }
}

/// The name under which a registry's credentials are kept.
fn key_of(registry: &str) -> &str {
    match registry {
        HUB => HUB_KEY,
        other => other,
    }
}
