//! Descriptors, manifests and indexes, as the OCI image specification has them and as Docker's older
//! media types spell them.
//!
//! Own types rather than a crate's: a digest is checked when it is parsed, and the JSON that we write is the
//! same in every run (annotations are sorted).

use std::collections::BTreeMap;

use mica_fs::digest::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Media type of a manifest of OCI.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index of OCI.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Media type of an image configuration of OCI.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer of OCI; `+gzip` or `+zstd` follows for a compressed one.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Whose names of kinds of blobs are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MediaTypes {
    /// OCI's.
    #[default]
    Oci,
    /// Docker's older ones ("image manifest version 2, schema 2"), for registries and tools that know no others.
    Docker,
}

impl MediaTypes {
    /// Those that a manifest or an index of this media type uses.
    pub fn of(media_type: &str) -> Self {
        match media_type {
            DOCKER_MANIFEST | DOCKER_INDEX => Self::Docker,
            _ => Self::Oci,
        }
    }

    /// That of a manifest.
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Oci => OCI_MANIFEST,
            Self::Docker => DOCKER_MANIFEST,
        }
    }

    /// That of an index.
    pub fn index(self) -> &'static str {
        match self {
            Self::Oci => OCI_INDEX,
            Self::Docker => DOCKER_INDEX,
        }
    }

    /// That of an image configuration.
    pub fn config(self) -> &'static str {
        match self {
            Self::Oci => OCI_CONFIG,
            Self::Docker => DOCKER_CONFIG,
        }
    }

    /// That of a layer which has the media type `known`.
    pub fn layer(self, known: &str) -> String {
        let compression = ["gzip", "zstd"].into_iter().find(|name| known.ends_with(name));
        let (base, separator) = match self {
            Self::Oci => (OCI_LAYER, '+'),
            Self::Docker => (DOCKER_LAYER, '.'),
        };
        match compression {
            Some(compression) => format!("{base}{separator}{compression}"),
            None => base.to_owned(),
        }
    }
}

/// A content descriptor: what a blob is, its digest and its size.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The platform that an image in an index is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Fields that mica does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the required fields.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: None,
            other: BTreeMap::new(),
        }
    }

    /// The annotation of that key.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(key).map(String::as_str)
    }

    /// Whether the blob is an index (or a manifest list of Docker's).
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_INDEX)
    }

    /// Whether the blob may be an image's manifest: descriptors without a media type are taken for one.
    pub fn is_manifest(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST | "")
    }

    /// Whether this is no image but a statement on one (BuildKit's provenance and SBOM attestations).
    pub fn is_attestation(&self) -> bool {
        self.annotation("vnd.docker.reference.type").is_some()
    }

    /// Whether the blob is a layer: a tar, perhaps compressed. Not so a layer that is to be fetched from elsewhere,
    /// or an encrypted one.
    pub fn is_layer(&self) -> bool {
        let base = self.media_type.split('+').next().unwrap_or_default();
        let compression = self.media_type.split_once('+').map(|(_, c)| c);
        matches!(
            base,
            OCI_LAYER
                | "application/vnd.docker.image.rootfs.diff.tar.gzip"
                | DOCKER_LAYER
                | "application/vnd.docker.image.rootfs.diff.tar.zstd"
        ) && matches!(compression, None | Some("gzip" | "zstd"))
    }
}

/// What an image runs on, in Go's words.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64` ...
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8` ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields that mica does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Platform {
    /// The machine that this runs on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            "loongarch64" => ("loong64", None),
            other => (other, None),
        };
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
            other: BTreeMap::new(),
        }
    }

    /// Whether both name the same system and processor; a variant counts only if both name one.
    pub fn suits(&self, other: &Self) -> bool {
        let variants = self.variant.as_ref().zip(other.variant.as_ref());
        self.os == other.os && self.architecture == other.architecture && variants.is_none_or(|(a, b)| a == b)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .iter()
            .try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// An image's manifest: its configuration and its layers, bottom layer first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// What this is; OCI lets it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers as blobs.
    pub layers: Vec<Descriptor>,
    /// Fields that mica does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Manifest {
    /// An OCI manifest of a configuration and its layers.
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(OCI_MANIFEST.to_owned()),
            config,
            layers,
            other: BTreeMap::new(),
        }
    }

    /// The manifest with these layers instead, all of it in the words of `types`: one manifest speaks one language.
    #[must_use]
    pub fn rewritten(&self, layers: Vec<Descriptor>, types: MediaTypes) -> Self {
        let mut config = self.config.clone();
        config.media_type = types.config().to_owned();
        let layers = layers.into_iter().map(|mut layer| {
            layer.media_type = types.layer(&layer.media_type);
            layer
        });
        Self {
            schema_version: 2,
            media_type: Some(types.manifest().to_owned()),
            config,
            layers: layers.collect(),
            other: self.other.clone(),
        }
    }

    /// Adds annotations.
    pub fn annotate(&mut self, annotations: &BTreeMap<String, String>) {
        if annotations.is_empty() {
            return;
        }
        let there = self.other.entry("annotations".to_owned());
        let there = there.or_insert(Value::Null);
        // Something else than an object there is not valid.
        let mut all = there.as_object().cloned().unwrap_or_default();
        let new = annotations
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().into()));
        all.extend(new);
        *there = all.into();
    }

    /// Its media type: as it says itself, or OCI's.
    pub fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or(OCI_MANIFEST)
    }
}

/// An index: manifests of an image for several platforms, or the images of an OCI layout.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// What this is; OCI lets it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests, or further indexes.
    pub manifests: Vec<Descriptor>,
    /// Fields that mica does not use.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Index {
    /// An OCI index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self {
            schema_version: 2,
            media_type: Some(OCI_INDEX.to_owned()),
            manifests,
            other: BTreeMap::new(),
        }
    }
}
