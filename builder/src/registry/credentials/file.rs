//! A file of credentials. What else stands in it, it keeps.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::{CredentialsError, Login, Password, canonical, helper, key_of};

/// Where credentials were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In this file, readable to its owner.
    File(PathBuf),
    /// With this program.
    Helper(String),
}

/// Docker's `config.json` or podman's `auth.json`.
pub(super) struct AuthFile {
    path: PathBuf,
    content: Map<String, Value>,
}

impl AuthFile {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            content: Map::new(),
        }
    }

    /// `None` if there is no such file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, CredentialsError> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(source) => {
                return Err(CredentialsError::Io {
                    action: "read",
                    path: path.to_owned(),
                    source,
                });
            }
        };
        let content = match text.trim_ascii().is_empty() {
            true => Ok(Map::new()),
            false => serde_json::from_slice(&text),
        };
        // serde_json tells the place, and nothing of what stands there.
        let content = content.map_err(|e| CredentialsError::Invalid {
            path: path.to_owned(),
            reason: format!(
                "line {}, column {} is no JSON as it should be",
                e.line(),
                e.column()
            ),
        })?;
        let path = path.to_owned();
        Ok(Some(Self { path, content }))
    }

    /// What there is for a repository, or for what it lies in.
    pub(super) fn find(&self, name: &str) -> Result<Option<Login>, CredentialsError> {
        let host = name.split('/').next().unwrap_or_default();
        if let Some(program) = self.helper(host) {
            match helper::get(&program, key_of(host)) {
                Ok(Some(login)) => return Ok(Some(login)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "cannot ask for credentials"),
            }
        }
        let mut name = name;
        loop {
            let entry = self.auths().find(|(key, _)| canonical(key) == name);
            if let Some(login) = entry
                .map(|(key, entry)| self.login(key, entry))
                .transpose()?
                .flatten()
            {
                return Ok(Some(login));
            }
            match name.rsplit_once('/') {
                Some((outer, _)) => name = outer,
                None => return Ok(None),
            }
        }
    }

    /// The program that keeps the secrets of a registry.
    fn helper(&self, host: &str) -> Option<String> {
        let helpers = self.content.get("credHelpers").and_then(Value::as_object);
        let own = helpers
            .into_iter()
            .flatten()
            .find(|(key, _)| canonical(key) == host);
        let program = own
            .map(|(_, program)| program)
            .or(self.content.get("credsStore"))?;
        let program = program.as_str().filter(|program| !program.is_empty())?;
        Some(program.to_owned())
    }

    fn auths(&self) -> impl Iterator<Item = (&String, &Value)> {
        let auths = self.content.get("auths").and_then(Value::as_object);
        auths.into_iter().flatten()
    }

    /// An entry of `auths`. An empty one is what remains where a program keeps the secret.
    fn login(&self, key: &str, entry: &Value) -> Result<Option<Login>, CredentialsError> {
        let text = |name: &str| {
            let text = entry.get(name).and_then(Value::as_str);
            text.filter(|text| !text.is_empty())
        };
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Login::Identity(Password::new(token))));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Login::Bearer(Password::new(token))));
        }
        if let (Some(user), Some(password)) = (text("username"), text("password")) {
            return Ok(Some(Login::User(user.to_owned(), Password::new(password))));
        }
        let Some(auth) = text("auth") else {
            return Ok(None);
        };
        let decoded = BASE64.decode(auth.trim()).ok();
        let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let pair = decoded.as_deref().and_then(|text| text.split_once(':'));
        let (user, password) = pair.ok_or_else(|| CredentialsError::Invalid {
            path: self.path.clone(),
            reason: format!("the auth of {key} is not USER:PASSWORD in base64"),
        })?;
        // Docker pads with zeros.
        let password = password.trim_end_matches('\0');
        Ok(Some(Login::User(user.to_owned(), Password::new(password))))
    }

    pub(super) fn put(&mut self, registry: &str, login: &Login) -> Result<Stored, CredentialsError> {
        let key = key_of(registry);
        let program = self.helper(registry);
        let entry = match (&program, login) {
            (Some(program), _) => {
                helper::store(program, key, login)?;
                json!({})
            }
            (None, Login::User(user, password)) => {
                let pair = format!("{user}:{}", password.reveal());
                json!({ "auth": BASE64.encode(pair) })
            }
            (None, Login::Identity(token)) => json!({
                "auth": BASE64.encode("00000000-0000-0000-0000-000000000000:"),
                "identitytoken": token.reveal(),
            }),
            (None, Login::Bearer(token)) => json!({ "registrytoken": token.reveal() }),
        };
        let auths = self.content.entry("auths").or_insert_with(|| json!({}));
        let Some(auths) = auths.as_object_mut() else {
            return Err(CredentialsError::Invalid {
                path: self.path.clone(),
                reason: "auths is no object".to_owned(),
            });
        };
        auths.retain(|old, _| canonical(old) != registry);
        auths.insert(key.to_owned(), entry);
        Ok(match program {
            Some(program) => Stored::Helper(helper::program(&program)),
            None => Stored::File(self.path.clone()),
        })
    }

    /// Whether there was anything.
    pub(super) fn remove(&mut self, registry: &str) -> Result<bool, CredentialsError> {
        let mut found = false;
        if let Some(program) = self.helper(registry) {
            let key = key_of(registry);
            if helper::get(&program, key)?.is_some() {
                helper::erase(&program, key)?;
                found = true;
            }
        }
        if let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) {
            let before = auths.len();
            auths.retain(|key, _| canonical(key) != registry);
            found |= auths.len() < before;
        }
        Ok(found)
    }

    /// Replaces the file in one step. Only its owner may read it.
    pub(super) fn write(&self) -> Result<(), CredentialsError> {
        // A link stays one.
        let path = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let failed = |source| CredentialsError::Io {
            action: "write",
            path: path.clone(),
            source,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(failed)?;
        // It is made with mode 0600.
        let mut new = tempfile::Builder::new()
            .prefix(".config-")
            .tempfile_in(directory)
            .map_err(failed)?;
        serde_json::to_writer_pretty(&mut new, &self.content).map_err(|e| failed(e.into()))?;
        new.write_all(b"\n").map_err(failed)?;
        new.as_file().sync_all().map_err(failed)?;
        new.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}
