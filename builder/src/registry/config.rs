//! Which registries stand for others, and how they are reached: a file `registries.conf` in the language of
//! containers-registries.conf(5), version 2.

use std::cmp::Reverse;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::endpoint::Endpoint;
use crate::reference::Reference;

/// The file's name below the directories of configuration.
const FILE: &str = "mica/registries.conf";
/// The file for all users.
const SYSTEM: &str = "/etc/mica/registries.conf";

/// How registries are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    registries: Vec<Registry>,
    /// `--tls-verify`: whether certificates are checked and plain HTTP is refused, whatever the file says.
    pub verify_tls: Option<bool>,
}

/// Why a file of configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {message}")]
    Invalid {
        /// Which.
        path: PathBuf,
        /// What is wrong, and on which line.
        message: String,
    },
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    registry: Vec<Registry>,
}

/// A table `[[registry]]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Registry {
    /// Which names it is about: a host, a host and the beginning of a repository, or `*.example.com`.
    prefix: Option<String>,
    /// What takes the place of the prefix.
    location: Option<String>,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    blocked: bool,
    #[serde(default)]
    mirror: Vec<Mirror>,
}

/// A table `[[registry.mirror]]`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    #[serde(default)]
    insecure: bool,
    #[serde(default)]
    pull_from_mirror: Use,
}

/// For which names a mirror is asked.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Use {
    #[default]
    All,
    DigestOnly,
    TagOnly,
}

impl Config {
    /// Reads the user's file, `$XDG_CONFIG_HOME/mica/registries.conf`, and that for all users. Files that are not
    /// there count as empty. Of two tables for the same prefix the user's counts.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Self, ConfigError> {
        let home = || Some(variable("HOME")?.join(".config"));
        let own = variable("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let own = own.or_else(home).map(|directory| directory.join(FILE));
        let mut config = Self::default();
        for path in own.into_iter().chain([SYSTEM.into()]) {
            match fs::read_to_string(&path) {
                Ok(text) => config.add(&text, &path)?,
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(source) => return Err(ConfigError::Read { path, source }),
            }
        }
        Ok(config)
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.add(text, path)?;
        Ok(config)
    }

    fn add(&mut self, text: &str, path: &Path) -> Result<(), ConfigError> {
        let invalid = |message: String| ConfigError::Invalid {
            path: path.to_owned(),
            message,
        };
        let file: File = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
        for registry in file.registry {
            registry.check().map_err(invalid)?;
            self.registries.push(registry);
        }
        Ok(())
    }

    /// Where the repository of `reference` is, the best place first; the last one is its own. `None` if the
    /// configuration blocks it.
    pub(super) fn endpoints(&self, reference: &Reference) -> Option<Vec<Endpoint>> {
        let name = reference.repository();
        let own = self.registry_of(&name);
        if own.is_some_and(|registry| registry.blocked) {
            return None;
        }
        let mut endpoints = Vec::new();
        if let Some(registry) = own {
            let mirrors = registry
                .mirror
                .iter()
                .filter(|mirror| match mirror.pull_from_mirror {
                    Use::All => true,
                    Use::DigestOnly => reference.digest().is_some(),
                    Use::TagOnly => reference.digest().is_none(),
                });
            endpoints.extend(mirrors.map(|mirror| {
                let place = registry.moved(&name, &mirror.location);
                Endpoint::new(&place, self.is_insecure(mirror.insecure), true)
            }));
        }
        let location = own.and_then(|registry| registry.location.as_deref());
        let place = match (own, location) {
            (Some(registry), Some(location)) => registry.moved(&name, location),
            _ => name.clone(),
        };
        let insecure = own.is_some_and(|registry| registry.insecure);
        endpoints.push(Endpoint::new(&place, self.is_insecure(insecure), false));
        Some(endpoints)
    }

    /// The registry of `host` itself, without its mirrors; `None` if the configuration blocks it.
    pub(super) fn host(&self, host: &str) -> Option<Endpoint> {
        let own = self.registry_of(host);
        if own.is_some_and(|registry| registry.blocked) {
            return None;
        }
        let insecure = own.is_some_and(|registry| registry.insecure);
        let place = own
            .and_then(|registry| registry.location.as_deref())
            .unwrap_or(host);
        Some(Endpoint::new(place, self.is_insecure(insecure), false))
    }

    fn is_insecure(&self, by_file: bool) -> bool {
        self.verify_tls.map_or(by_file, |verify| !verify)
    }

    /// The table with the longest prefix.
    fn registry_of(&self, name: &str) -> Option<&Registry> {
        let fitting = self
            .registries
            .iter()
            .filter_map(|registry| Some((registry.matched(name)?, registry)));
        // Of equals the first: the user's.
        let longest = fitting.min_by_key(|(length, _)| Reverse(*length));
        longest.map(|(_, registry)| registry)
    }
}

impl Registry {
    /// What the table is about.
    fn prefix(&self) -> &str {
        let location = self.location.as_deref();
        self.prefix.as_deref().or(location).unwrap_or_default()
    }

    fn check(&self) -> Result<(), String> {
        let prefix = self.prefix();
        if prefix.is_empty() {
            return Err("a [[registry]] needs a prefix or a location".to_owned());
        }
        let locations = self.mirror.iter().map(|mirror| &mirror.location);
        for place in locations
            .chain(&self.location)
            .map(String::as_str)
            .chain([prefix])
        {
            if place.is_empty() || place.contains("://") || place.contains(char::is_whitespace) {
                return Err(format!(
                    "{place:?} is no registry: write HOST[:PORT][/REPOSITORY]"
                ));
            }
        }
        Ok(())
    }

    /// How much of `name` the prefix takes, if it fits.
    fn matched(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        if let Some(domain) = prefix.strip_prefix('*') {
            let host = name.split('/').next().unwrap_or_default();
            let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
            return (domain.len() > 1 && (host.ends_with(domain) || bare.ends_with(domain)))
                .then_some(host.len());
        }
        let rest = name.strip_prefix(prefix.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then_some(name.len() - rest.len())
    }

    /// `name` with `location` in place of the prefix.
    fn moved(&self, name: &str, location: &str) -> String {
        let rest = &name[self.matched(name).unwrap_or(name.len())..];
        format!("{}{rest}", location.trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        unqualified-search-registries = ["docker.io"]

        [[registry]]
        prefix = "docker.io"
        [[registry.mirror]]
        location = "mirror.example:5000/hub"
        insecure = true
        [[registry.mirror]]
        location = "other.example"
        pull-from-mirror = "digest-only"

        [[registry]]
        prefix = "docker.io/library/old"
        blocked = true

        [[registry]]
        prefix = "*.example.org"
        location = "registry.example.net/all"

        [[registry]]
        location = "plain.example:5000"
        insecure = true
    "#;

    fn places(config: &Config, name: &str) -> Option<Vec<(String, String, bool)>> {
        let endpoints = config.endpoints(&Reference::parse(name).unwrap())?;
        let place = |e: Endpoint| (e.host().to_owned(), e.repository().to_owned(), e.is_insecure());
        Some(endpoints.into_iter().map(place).collect())
    }

    fn place(host: &str, repository: &str, insecure: bool) -> (String, String, bool) {
        (host.to_owned(), repository.to_owned(), insecure)
    }

    #[test]
    fn mirrors_come_before_their_registry() {
        let config = Config::parse(TEXT, Path::new("f")).unwrap();
        let mirror = place("mirror.example:5000", "hub/library/busybox", true);
        let origin = place("registry-1.docker.io", "library/busybox", false);
        assert_eq!(
            places(&config, "busybox"),
            Some(vec![mirror.clone(), origin.clone()])
        );
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        let other = place("other.example", "library/busybox", false);
        assert_eq!(places(&config, &digest), Some(vec![mirror, other, origin]));
    }

    #[test]
    fn the_longest_prefix_counts() {
        let config = Config::parse(TEXT, Path::new("f")).unwrap();
        assert_eq!(places(&config, "old"), None);
        assert_eq!(places(&config, "older").unwrap().len(), 2);
        let moved = place("registry.example.net", "all/x", false);
        assert_eq!(places(&config, "a.example.org/x"), Some(vec![moved]));
        let plain = place("plain.example:5000", "x/y", true);
        assert_eq!(places(&config, "plain.example:5000/x/y"), Some(vec![plain]));
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let mut config = Config::parse(TEXT, Path::new("f")).unwrap();
        config.verify_tls = Some(true);
        assert!(!places(&config, "plain.example:5000/x").unwrap()[0].2);
        config.verify_tls = Some(false);
        assert!(places(&config, "quay.io/x").unwrap()[0].2);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, told) in [
            ("[[registry]]\nprefix = 3", "line 2"),
            ("[[registry]]\nprefx = \"a\"", "prefx"),
            ("[[registry]]\n", "needs a prefix"),
            (
                "[[registry]]\nlocation = \"https://a\"",
                "\"https://a\" is no registry",
            ),
        ] {
            let error = Config::parse(text, Path::new("f")).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
