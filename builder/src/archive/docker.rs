//! `manifest.json`, the table of contents of Docker's archives.

use serde::{Deserialize, Serialize};

/// Name of the table of contents.
pub(crate) const MANIFEST_JSON: &str = "manifest.json";

/// One image of a docker-archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    /// The member with the configuration.
    pub(crate) config: String,
    /// The names, short: `busybox:latest`.
    pub(crate) repo_tags: Option<Vec<String>>,
    /// The members with the layers, bottom layer first.
    pub(crate) layers: Option<Vec<String>>,
}
