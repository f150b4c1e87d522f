//! The image configuration: Docker's superset of the OCI image specification's.
//!
//! Fields that mica does not know are kept, so that an image that was built upon another one loses nothing.

use std::collections::{BTreeMap, BTreeSet};

use mica_fs::digest::DiffId;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::manifest::Platform;

/// The image configuration.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, as in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it (MAINTAINER).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The processor, in Go's words: `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// The processor's variant: `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The operating system: `linux`.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default, deserialize_with = "or_default")]
    pub config: RunConfig,
    /// The layers, bottom layer first.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// How each layer came about.
    #[serde(default, deserialize_with = "or_default")]
    pub history: Vec<History>,
    /// Fields that mica does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Default for ImageConfig {
    /// An image without layers for this machine.
    fn default() -> Self {
        let host = Platform::host();
        Self {
            created: None,
            author: None,
            architecture: host.architecture,
            variant: host.variant,
            os: host.os,
            config: RunConfig::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
            other: BTreeMap::new(),
        }
    }
}

impl ImageConfig {
    /// What the image runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            other: BTreeMap::new(),
        }
    }
}

/// How to run an image's command.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `user`, `uid`, `user:group` ...; empty for root.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports: `80/tcp`.
    #[serde(
        default,
        deserialize_with = "from_set",
        serialize_with = "to_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub exposed_ports: BTreeSet<String>,
    /// `NAME=VALUE`, in order.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub env: Vec<String>,
    /// The command's first words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The command, or its last words if there is an entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Directories that a container gets volumes for.
    #[serde(
        default,
        deserialize_with = "from_set",
        serialize_with = "to_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    pub volumes: BTreeSet<String>,
    /// Where the command starts; empty for `/`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the command to end: `SIGTERM`, `15`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds to wait before the command is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How to see whether the container works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for the builds that are based on this image.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub on_build: Vec<String>,
    /// The shell of the shell form of RUN, CMD and ENTRYPOINT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Windows: the command is already escaped.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub args_escaped: bool,
    /// Fields that mica does not use: `Memory`, `CpuShares`, `Hostname` ...
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A health check. Times are in nanoseconds, as in Docker's configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", text]`.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub test: Vec<String>,
    /// Time between two checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    /// Time that one check may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    /// Time between two checks within the start period.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    /// Failures in a row that make the container unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
}

/// The layers of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// Bottom layer first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self {
            kind: layers(),
            diff_ids: Vec::new(),
        }
    }
}

fn layers() -> String {
    "layers".to_owned()
}

/// How a layer, or a change of the configuration alone, came about.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct History {
    /// When, as in RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether there is no layer to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// Docker writes `null` for whatever is empty.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Go's sets are objects with empty objects as values.
fn from_set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<String>, D::Error> {
    let map: Option<BTreeMap<String, Value>> = Option::deserialize(deserializer)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn to_set<S: Serializer>(set: &BTreeSet<String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(set.iter().map(|key| (key, serde_json::Map::new())))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of what `docker save` writes.
    const DOCKERS: &str = r#"{"architecture":"arm64","config":{"Hostname":"h","Tty":false,"ExposedPorts":{"80/tcp":{}},
        "Env":["PATH=/bin"],"Cmd":null,"Entrypoint":["/e"],"Volumes":null,"OnBuild":null,"Labels":null,"User":"",
        "Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":30000000000}},"container":"c0ffee","created":"2024-01-02T03:04:05.6Z",
        "docker_version":"20.10","history":[{"created":"2024-01-02T03:04:05Z","created_by":"/bin/sh -c #(nop) ADD x","empty_layer":true}],
        "os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"variant":"v8"}"#;

    #[test]
    fn docker_configuration_round_trips() {
        let config: ImageConfig = serde_json::from_str(DOCKERS).unwrap();
        assert_eq!(config.config.exposed_ports, BTreeSet::from(["80/tcp".to_owned()]));
        assert_eq!(
            (config.config.cmd.as_ref(), config.rootfs.diff_ids.len()),
            (None, 1)
        );
        assert_eq!(config.other["docker_version"], "20.10");
        assert_eq!(config.config.other["Hostname"], "h");

        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains(r#""ExposedPorts":{"80/tcp":{}}"#), "{text}");
        assert_eq!(serde_json::from_str::<ImageConfig>(&text).unwrap(), config);
        let again = serde_json::from_str::<ImageConfig>(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }

    #[test]
    fn nothing_needs_to_be_there() {
        let config: ImageConfig = serde_json::from_str("{}").unwrap();
        assert!(config.rootfs.diff_ids.is_empty() && config.os.is_empty());
        let nulls = r#"{"config":null,"rootfs":null,"history":null}"#;
        assert_eq!(serde_json::from_str::<ImageConfig>(nulls).unwrap(), config);
    }
}
