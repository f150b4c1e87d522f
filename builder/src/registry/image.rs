//! An image in a registry: which of an index suits, and what its manifest and configuration say.

use std::io::Read as _;

use mica_fs::digest::{Digest, Verifying};

use super::{FetchedManifest, ManifestName, RegistryError, Repository};
use crate::image::{
    self, CONFIG_LIMIT, Descriptor, ImageConfig, ImageError, Index, Manifest, MediaTypes, Platform,
};

/// How deep indexes may be nested.
const DEPTH: u32 = 4;

/// An image in a registry. Its layers were not looked at.
#[derive(Clone, PartialEq, Debug)]
pub struct RemoteImage {
    /// The digest of what the name stands for: the manifest, or an index.
    pub named: Digest,
    /// The digest of the manifest.
    pub manifest_digest: Digest,
    /// The manifest as it came.
    pub manifest_bytes: Vec<u8>,
    /// The manifest. It has as many layers as the configuration.
    pub manifest: Manifest,
    /// The configuration as it came.
    pub config_bytes: Vec<u8>,
    /// The configuration.
    pub config: ImageConfig,
}

/// Why a name of a registry is no image that can be used.
#[derive(Debug, thiserror::Error)]
pub enum RemoteImageError {
    /// The registry did not give what it should.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The manifest or the configuration.
    #[error("{name}: {source}")]
    Image {
        /// The name that was asked for.
        name: String,
        /// What is wrong.
        source: ImageError,
    },
    /// Docker's format of before 2016.
    #[error("{name} is in Docker's old format, image manifest version 2, schema 1")]
    Schema1 {
        /// The name that was asked for.
        name: String,
    },
    /// Something else than an image.
    #[error("{name} is no image, but {media_type}")]
    Artifact {
        /// The name that was asked for.
        name: String,
        /// What it is.
        media_type: String,
    },
    /// There is no image for the platform.
    #[error("{name} has no image for {wanted}, only for {available}")]
    Platform {
        /// The name that was asked for.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// A layer that is to be fetched from elsewhere.
    #[error("{name} has a layer that its registry does not hold: {digest} ({media_type})")]
    Foreign {
        /// The name that was asked for.
        name: String,
        /// The layer.
        digest: Digest,
        /// What it is.
        media_type: String,
    },
    /// A layer of another kind.
    #[error("{name} has a layer of a kind that mica does not know: {media_type}")]
    Layer {
        /// The name that was asked for.
        name: String,
        /// What it is.
        media_type: String,
    },
    /// An index without end.
    #[error("{name} is an index of indexes of indexes: more than {DEPTH} of them")]
    Nested {
        /// The name that was asked for.
        name: String,
    },
}

impl RemoteImageError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Image { source, .. } => source.hint(),
            Self::Schema1 { .. } => {
                Some("pull and push it by a tool that converts it, such as `skopeo copy`".to_owned())
            }
            Self::Platform { .. } => Some("name another by --platform".to_owned()),
            Self::Foreign { .. } => {
                Some("such layers belong to Windows images, which mica does not run".to_owned())
            }
            Self::Artifact { .. } | Self::Layer { .. } | Self::Nested { .. } => None,
        }
    }
}

impl RemoteImage {
    /// Finds the image of that name for `platform`. What is no index is taken as it is: see
    /// [`ImageConfig::platform`].
    ///
    /// # Errors
    /// [`RemoteImageError`].
    pub fn find(
        repository: &Repository,
        name: ManifestName<'_>,
        platform: &Platform,
    ) -> Result<Self, RemoteImageError> {
        let text = match name {
            ManifestName::Tag(tag) => format!("{}:{tag}", repository.name()),
            ManifestName::Digest(digest) => format!("{}@{digest}", repository.name()),
        };
        let mut fetched = repository.manifest(name)?;
        let named = fetched.digest;
        for _ in 0..=DEPTH {
            let manifest = match read(&text, &fetched, platform)? {
                Reading::Index(entry) => {
                    fetched = repository.manifest(ManifestName::Digest(entry))?;
                    continue;
                }
                Reading::Image(manifest) => *manifest,
            };
            let reader = Reader {
                name: &text,
                platform,
            };
            let config_bytes = reader.config(repository, &manifest.config)?;
            let config = image::parse_config(&manifest, &config_bytes).map_err(|e| reader.failed(e))?;
            return Ok(Self {
                named,
                manifest_digest: fetched.digest,
                manifest_bytes: fetched.bytes,
                manifest,
                config_bytes,
                config,
            });
        }
        Err(RemoteImageError::Nested { name: text })
    }
}

/// What a manifest says.
#[derive(Clone, PartialEq, Debug)]
pub enum Reading {
    /// It is an index, with this entry for the platform.
    Index(Digest),
    /// It is the manifest of an image whose layers can be had.
    Image(Box<Manifest>),
}

/// Reads a manifest or an index of the image `name`.
///
/// # Errors
/// [`RemoteImageError`], if it is neither, or of no use.
pub fn read(name: &str, fetched: &FetchedManifest, platform: &Platform) -> Result<Reading, RemoteImageError> {
    let reader = Reader { name, platform };
    if reader.is_index(fetched)? {
        return reader.choose(fetched).map(Reading::Index);
    }
    let manifest = image::parse_manifest(fetched.digest, &fetched.bytes).map_err(|e| reader.failed(e))?;
    reader.check(&manifest)?;
    Ok(Reading::Image(Box::new(manifest)))
}

struct Reader<'a> {
    name: &'a str,
    platform: &'a Platform,
}

impl Reader<'_> {
    fn is_index(&self, fetched: &FetchedManifest) -> Result<bool, RemoteImageError> {
        let kind = Descriptor::new(&fetched.media_type, fetched.digest, 0);
        let name = self.name.to_owned();
        match fetched.media_type.as_str() {
            _ if kind.is_index() => Ok(true),
            _ if kind.is_manifest() => Ok(false),
            text if text.starts_with("application/vnd.docker.distribution.manifest.v1") => {
                Err(RemoteImageError::Schema1 { name })
            }
            other => Err(RemoteImageError::Artifact {
                name,
                media_type: other.to_owned(),
            }),
        }
    }

    /// The entry of an index that suits: one of the very variant before others.
    fn choose(&self, fetched: &FetchedManifest) -> Result<Digest, RemoteImageError> {
        let index: Index =
            serde_json::from_slice(&fetched.bytes).map_err(|e| self.invalid("index", fetched, e))?;
        let usable =
            |entry: &&Descriptor| !entry.is_attestation() && (entry.is_index() || entry.is_manifest());
        let entries: Vec<&Descriptor> = index.manifests.iter().filter(usable).collect();
        let fits = |entry: &&&Descriptor| entry.platform.as_ref().is_none_or(|p| p.suits(self.platform));
        let exact = |entry: &&&Descriptor| {
            let variant = entry.platform.as_ref().and_then(|p| p.variant.as_ref());
            entry.platform.is_some() && variant == self.platform.variant.as_ref()
        };
        let fitting: Vec<_> = entries.iter().filter(fits).collect();
        let chosen = fitting.iter().copied().find(exact).or(fitting.first().copied());
        if let Some(entry) = chosen {
            return Ok(entry.digest);
        }
        let mut available: Vec<String> = entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref().map(ToString::to_string))
            .collect();
        available.sort();
        available.dedup();
        Err(RemoteImageError::Platform {
            name: self.name.to_owned(),
            wanted: self.platform.to_string(),
            available: match available.is_empty() {
                true => "nothing".to_owned(),
                false => available.join(", "),
            },
        })
    }

    /// Whether a manifest is that of an image whose layers can be had.
    fn check(&self, manifest: &Manifest) -> Result<(), RemoteImageError> {
        let name = || self.name.to_owned();
        let config = manifest.config.media_type.as_str();
        let known = [MediaTypes::Oci.config(), MediaTypes::Docker.config(), ""];
        if !known.contains(&config) {
            let kind = manifest.other.get("artifactType").and_then(|kind| kind.as_str());
            return Err(RemoteImageError::Artifact {
                name: name(),
                media_type: kind.unwrap_or(config).to_owned(),
            });
        }
        for layer in &manifest.layers {
            let media_type = layer.media_type.clone();
            let (nowhere, digest) = (media_type.contains(".nondistributable."), layer.digest);
            if nowhere || media_type.contains(".foreign.") || layer.other.contains_key("urls") {
                return Err(RemoteImageError::Foreign {
                    name: name(),
                    digest,
                    media_type,
                });
            }
            if !layer.is_layer() {
                return Err(RemoteImageError::Layer {
                    name: name(),
                    media_type,
                });
            }
        }
        Ok(())
    }

    fn config(&self, repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RemoteImageError> {
        let (digest, size) = (descriptor.digest, descriptor.size);
        let invalid = |reason: String| {
            self.failed(ImageError::Invalid {
                what: "image configuration",
                digest,
                reason,
            })
        };
        if size > CONFIG_LIMIT {
            return Err(invalid(format!("it has {size} bytes, of at most {CONFIG_LIMIT}")));
        }
        let mut bytes = Vec::new();
        let mut blob = Verifying::new(repository.blob(digest, size, 0), digest, size);
        match blob.read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(match error.downcast::<RegistryError>() {
                Ok(error) => error.into(),
                Err(error) => invalid(error.to_string()),
            }),
        }
    }

    fn failed(&self, source: ImageError) -> RemoteImageError {
        let name = self.name.to_owned();
        RemoteImageError::Image { name, source }
    }

    fn invalid(
        &self,
        what: &'static str,
        fetched: &FetchedManifest,
        error: serde_json::Error,
    ) -> RemoteImageError {
        self.failed(ImageError::Invalid {
            what,
            digest: fetched.digest,
            reason: error.to_string(),
        })
    }
}
