//! Images: a configuration, a manifest, and a stack of layers.
//!
//! An image's *ID* is the digest of its configuration, as everywhere in Docker's world. The store knows an image
//! by the digest of its *manifest*, since one configuration may come with layers that are compressed differently.

use std::collections::BTreeMap;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::store::{ImageRecord, Reach, Store, StoreError};

use crate::reference::{InvalidReference, Reference};

mod config;
mod manifest;
#[cfg(test)]
mod tests;

pub use config::{Healthcheck, History, ImageConfig, RootFs, RunConfig};
pub use manifest::{
    Descriptor, Index, Manifest, MediaTypes, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Platform,
};

/// The largest manifest or index that is read, in bytes; the limit of the distribution specification.
pub const MANIFEST_LIMIT: u64 = 4 << 20;
/// The largest image configuration that is read, in bytes.
pub const CONFIG_LIMIT: u64 = 16 << 20;

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The text is neither a name nor an ID.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// There is no such image.
    #[error("no such image: {text}")]
    Unknown {
        /// The name or ID that was asked for.
        text: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// Several images have an ID that begins so.
    #[error("{text} is ambiguous: the IDs of {count} images begin so")]
    Ambiguous {
        /// The beginning of an ID.
        text: String,
        /// The number of images.
        count: usize,
    },
    /// The manifest or the configuration is not what it should be.
    #[error("the {what} {digest} is not valid: {reason}")]
    Invalid {
        /// `manifest` or `image configuration`.
        what: &'static str,
        /// Its digest.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
}

impl ImageError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Reference(error) => error.hint(),
            Self::Unknown { near, .. } if near.is_empty() => {
                Some("`mica images` lists the images; `mica load -i ARCHIVE` brings one in".to_owned())
            }
            Self::Unknown { near, .. } => Some(format!("did you mean {}?", near.join(" or "))),
            Self::Ambiguous { .. } => Some("give more digits of the ID".to_owned()),
            Self::Store(_) | Self::Invalid { .. } => None,
        }
    }
}

/// An image in the store.
#[derive(Clone, PartialEq, Debug)]
pub struct Image {
    /// The digest of the manifest, by which the store knows the image.
    pub manifest_digest: Digest,
    /// The manifest. It has as many layers as the configuration.
    pub manifest: Manifest,
    /// The configuration.
    pub config: ImageConfig,
}

/// How a text selected an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selected {
    /// By this name (canonical, with a tag).
    Name(String),
    /// By its ID, its digest, or the beginning of one.
    Id,
}

impl Image {
    /// The image's ID: the digest of its configuration.
    pub fn id(&self) -> Digest {
        self.manifest.config.digest
    }

    /// The layers, bottom layer first.
    pub fn layers(&self) -> &[DiffId] {
        &self.config.rootfs.diff_ids
    }

    /// The size of its layers' uncompressed tars in bytes.
    ///
    /// # Errors
    /// If a layer is missing or damaged.
    pub fn size(&self, store: &Store) -> Result<u64, ImageError> {
        let mut size = 0;
        for id in self.layers() {
            size += store.layer(id)?.index().tar_size();
        }
        Ok(size)
    }

    /// Reads the image with this manifest.
    ///
    /// # Errors
    /// [`ImageError`] if a blob is missing, damaged, or not what it should be.
    pub fn load(store: &Store, manifest: &Digest) -> Result<Self, ImageError> {
        let manifest_bytes = store.read_blob(manifest, MANIFEST_LIMIT)?;
        let parsed = parse_manifest(*manifest, &manifest_bytes)?;
        let config_bytes = store.read_blob(&parsed.config.digest, CONFIG_LIMIT)?;
        let config = parse_config(&parsed, &config_bytes)?;
        Ok(Self {
            manifest_digest: *manifest,
            manifest: parsed,
            config,
        })
    }

    /// The image that a person means by `text`: a name, a name with a digest, an ID or the beginning of one, or
    /// the digest of a manifest or the beginning of one. A name wins over the beginning of an ID.
    ///
    /// # Errors
    /// [`ImageError::Unknown`] and [`ImageError::Ambiguous`], besides those of [`Image::load`].
    pub fn find(store: &Store, text: &str) -> Result<Self, ImageError> {
        Self::select(store, text).map(|(image, _)| image)
    }

    /// Like [`Image::find`], and says how `text` selected the image.
    ///
    /// # Errors
    /// As [`Image::find`].
    pub fn select(store: &Store, text: &str) -> Result<(Self, Selected), ImageError> {
        let reference = Reference::parse(text);
        if let Ok(reference) = &reference
            && let Some(found) = Self::by_name(store, reference)?
        {
            return Ok(found);
        }
        let by_id = match id_prefix(text) {
            Some(prefix) => Self::by_id(store, text, prefix)?,
            None => None,
        };
        match (by_id, reference) {
            (Some(image), _) => Ok((image, Selected::Id)),
            (None, Err(invalid)) if id_prefix(text).is_none() => Err(invalid.into()),
            (None, _) => Err(ImageError::Unknown {
                near: near_names(&store.images()?, text),
                text: text.to_owned(),
            }),
        }
    }

    fn by_name(store: &Store, reference: &Reference) -> Result<Option<(Self, Selected)>, ImageError> {
        let name = reference.stored();
        if let Some(manifest) = store.resolve(&name)? {
            return Ok(Some((Self::load(store, &manifest)?, Selected::Name(name))));
        }
        if let Some(digest) = reference.digest() {
            // The digest says what is meant, whatever its name became since.
            let known = store.images()?.iter().any(|record| record.manifest == digest);
            if known {
                return Ok(Some((Self::load(store, &digest)?, Selected::Id)));
            }
        }
        Ok(None)
    }

    fn by_id(store: &Store, text: &str, prefix: &str) -> Result<Option<Self>, ImageError> {
        let mut found = Vec::new();
        for record in store.images()? {
            let image = Self::load(store, &record.manifest)?;
            if image.id().hex().starts_with(prefix) || record.manifest.hex().starts_with(prefix) {
                found.push((record.added, image));
            }
        }
        let Some(first) = found.first().map(|(_, image)| image.id()) else {
            return Ok(None);
        };
        // One configuration under several manifests is one image to people.
        if found.iter().any(|(_, image)| image.id() != first) {
            return Err(ImageError::Ambiguous {
                text: text.to_owned(),
                count: found.len(),
            });
        }
        Ok(found
            .into_iter()
            .max_by_key(|(added, _)| *added)
            .map(|(_, image)| image))
    }

    /// Adds an image without a name to the store: writes its configuration and its manifest. The layers, named in
    /// `config.rootfs`, must be in the store; the manifest names them uncompressed. The same configuration gives
    /// the same image.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub fn store(store: &Store, config: ImageConfig) -> Result<Self, ImageError> {
        let image = Self::write(store, config, None)?;
        store.add_image(&image.manifest_digest)?;
        Ok(image)
    }

    /// Like [`Image::store`], but the store does not list the image, and keeps its blobs only as long as the store
    /// object lives. The layers that it shares with `base`, upon which it was built, keep their blobs as they came, so
    /// that pushing them again gives the same digests.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub fn write(store: &Store, config: ImageConfig, base: Option<&Self>) -> Result<Self, ImageError> {
        let mut layers = Vec::with_capacity(config.rootfs.diff_ids.len());
        for (i, id) in config.rootfs.diff_ids.iter().enumerate() {
            let shared = base
                .filter(|base| base.layers().get(..=i) == config.rootfs.diff_ids.get(..=i))
                .and_then(|base| base.manifest.layers.get(i));
            layers.push(match shared {
                Some(descriptor) => descriptor.clone(),
                None => Descriptor::new(OCI_LAYER, id.0, store.layer(id)?.index().tar_size()),
            });
        }
        let config_bytes = to_json(&config);
        let config_digest = store.put_blob(&config_bytes)?;
        let config_descriptor = Descriptor::new(OCI_CONFIG, config_digest, config_bytes.len() as u64);
        let manifest = Manifest::new(config_descriptor, layers);
        Self::with_manifest(store, config, manifest)
    }

    /// The image with further annotations of its manifest; the same image if there are none.
    ///
    /// # Errors
    /// [`ImageError::Store`].
    pub fn annotated(
        &self,
        store: &Store,
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self, ImageError> {
        if annotations.is_empty() {
            return Ok(self.clone());
        }
        let mut manifest = self.manifest.clone();
        manifest.annotate(annotations);
        Self::with_manifest(store, self.config.clone(), manifest)
    }

    fn with_manifest(store: &Store, config: ImageConfig, manifest: Manifest) -> Result<Self, ImageError> {
        let manifest_digest = store.put_blob(&to_json(&manifest))?;
        Ok(Self {
            manifest_digest,
            manifest,
            config,
        })
    }

    /// What the image of that manifest needs of the store. For [`Store::prune`].
    ///
    /// # Errors
    /// As [`Image::load`].
    pub fn reach(store: &Store, manifest: &Digest) -> Result<Reach, ImageError> {
        let image = Self::load(store, manifest)?;
        let layers = image.manifest.layers.iter().map(|layer| layer.digest);
        Ok(Reach {
            blobs: layers.chain([image.id()]).collect(),
            layers: image.layers().to_vec(),
        })
    }
}

/// Reads a manifest.
pub(crate) fn parse_manifest(digest: Digest, bytes: &[u8]) -> Result<Manifest, ImageError> {
    let invalid = |reason: String| ImageError::Invalid {
        what: "manifest",
        digest,
        reason,
    };
    let manifest: Manifest = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if manifest.schema_version != 2 {
        return Err(invalid(format!(
            "schema version {} is not 2",
            manifest.schema_version
        )));
    }
    Ok(manifest)
}

/// Reads the configuration that belongs to a manifest, and checks that they have as many layers.
pub(crate) fn parse_config(manifest: &Manifest, bytes: &[u8]) -> Result<ImageConfig, ImageError> {
    let invalid = |reason: String| ImageError::Invalid {
        what: "image configuration",
        digest: manifest.config.digest,
        reason,
    };
    let config: ImageConfig = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    let (blobs, diff_ids) = (manifest.layers.len(), config.rootfs.diff_ids.len());
    if blobs != diff_ids {
        return Err(invalid(format!(
            "it has {diff_ids} diff IDs, the manifest {blobs} layers"
        )));
    }
    Ok(config)
}

/// JSON of our own types, the same in every run.
pub(crate) fn to_json<T: serde::Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with text keys and no failing serialisers are always JSON")
}

/// The digits, if `text` may be the beginning of an ID.
fn id_prefix(text: &str) -> Option<&str> {
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    let is_hex = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (is_hex && (1..=64).contains(&hex.len())).then_some(hex)
}

/// At most three names that look like `text`.
fn near_names(records: &[ImageRecord], text: &str) -> Vec<String> {
    let wanted = text.split([':', '@']).next().unwrap_or_default();
    let mut near: Vec<(usize, String)> = records
        .iter()
        .flat_map(|record| &record.names)
        .filter_map(|name| Reference::parse(name).ok())
        .filter_map(|name| {
            let repository = name.familiar_repository();
            let last = repository.rsplit('/').next().unwrap_or_default();
            let wanted_last = wanted.rsplit('/').next().unwrap_or_default();
            let distance = edit_distance(&repository, wanted).min(1 + edit_distance(last, wanted_last));
            (distance <= 1 + wanted.chars().count() / 4).then(|| (distance, name.familiar()))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// The number of insertions, deletions and replacements that turn one text into the other (Levenshtein).
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(256).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(256).enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}
