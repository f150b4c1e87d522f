//! `manifest.json`, the table of contents of Docker's archives.

use serde::{Deserialize, Serialize};

/// Name of the table of contents.
pub(super) const MANIFEST_JSON: &str = "manifest.json";

/// One image of a docker-archive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerImage {
    /// The member with the configuration.
    pub(super) config: String,
    /// The names, short: `busybox:latest`.
    pub(super) repo_tags: Option<Vec<String>>,
    /// The members with the layers, bottom layer first.
    pub(super) layers: Option<Vec<String>>,
}
