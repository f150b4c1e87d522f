//! One place where a repository is: a host, and the repository's name there.

const HUB: &str = "docker.io";
/// Where Docker Hub's registry really is.
const HUB_HOST: &str = "registry-1.docker.io";

/// A repository at a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    registry: String,
    repository: String,
    is_insecure: bool,
    is_mirror: bool,
}

impl Endpoint {
    /// `place` is a host, perhaps with a port, perhaps with a repository behind a slash.
    pub(super) fn new(place: &str, is_insecure: bool, is_mirror: bool) -> Self {
        let (registry, repository) = place.split_once('/').unwrap_or((place, ""));
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            is_insecure,
            is_mirror,
        }
    }

    /// The registry as people name it: `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The host to be asked, perhaps with a port: `registry-1.docker.io`.
    pub fn host(&self) -> &str {
        match self.registry.as_str() {
            HUB => HUB_HOST,
            other => other,
        }
    }

    /// The repository's name there: `library/busybox`. Empty if the registry as a whole is meant.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Registry and repository, as credentials are looked for.
    pub fn name(&self) -> String {
        match self.repository.as_str() {
            "" => self.registry.clone(),
            repository => format!("{}/{repository}", self.registry),
        }
    }

    /// Whether certificates are not checked, and plain HTTP will do.
    pub fn is_insecure(&self) -> bool {
        self.is_insecure
    }

    /// Whether it only stands for another.
    pub fn is_mirror(&self) -> bool {
        self.is_mirror
    }
}
