//! Certificates for one registry: directories `certs.d/HOST[:PORT]`, as Docker and podman have them. Files `*.crt` are
//! authorities to trust; `NAME.cert` and `NAME.key` are what this side shows.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{RegistryError, Settings};
use crate::http::Trust;

/// The directories `certs.d` of the system and of the user.
pub(super) fn directories(variable: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let home = variable("HOME");
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
    let docker = variable("DOCKER_CONFIG").or_else(|| Some(home?.join(".docker")));
    let own = [
        config.map(|directory| directory.join("containers/certs.d")),
        docker.map(|directory| directory.join("certs.d")),
    ];
    let system = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from);
    own.into_iter().flatten().chain(system).collect()
}

/// What the directories have for a registry.
pub(super) fn trust(settings: &Settings, registry: &str) -> Result<Trust, RegistryError> {
    let mut trust = Trust::default();
    if let Some(only) = &settings.only_certificates {
        fs::read_dir(only).map_err(|e| failed(only, e.to_string()))?;
        add(&mut trust, only)?;
        return Ok(trust);
    }
    for directory in &settings.certificates {
        add(&mut trust, &directory.join(registry))?;
    }
    Ok(trust)
}

fn add(trust: &mut Trust, directory: &Path) -> Result<(), RegistryError> {
    let read = |path: &Path| fs::read(path).map_err(|e| failed(path, e.to_string()));
    for path in files(directory)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => trust
                .add_authorities(&read(&path)?)
                .map_err(|reason| failed(&path, reason))?,
            Some("cert") => {
                let key = read(&path.with_extension("key"))?;
                trust
                    .set_identity(&read(&path)?, &key)
                    .map_err(|reason| failed(&path, reason))?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, RegistryError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(failed(directory, e.to_string())),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| failed(directory, e.to_string()))?;
    paths.sort();
    Ok(paths)
}

fn failed(path: &Path, reason: String) -> RegistryError {
    RegistryError::Certificate {
        path: path.to_owned(),
        reason,
    }
}
