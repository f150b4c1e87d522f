//! Where an image is read from.

use std::io::{self, Read};

use mica_fs::digest::{Digest, Verifying};
use mica_fs::store::Store;

use super::CopyError;
use crate::archive::Archived;
use crate::image::{self, CONFIG_LIMIT, Descriptor, Image, MANIFEST_LIMIT, Manifest, OCI_LAYER};
use crate::reference::Reference;
use crate::registry::{Client, Endpoint, FetchedManifest, ManifestName, RegistryError, Repository};

/// What an image can be read from.
pub(super) trait Source: Sync {
    /// What is to be copied: a manifest, or an index.
    fn top(&self) -> Result<FetchedManifest, CopyError>;

    /// What an entry of an index stands for.
    fn manifest(&self, entry: &Descriptor) -> Result<FetchedManifest, CopyError>;

    /// A blob's bytes, as often as it is wanted. They are not verified.
    fn blob(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>>;

    /// The repository that it is, if it is one.
    fn origin(&self) -> Option<&Endpoint> {
        None
    }

    /// Whether the manifest was made for the occasion, since the source has none.
    fn is_made_up(&self) -> bool {
        false
    }
}

/// Reads the configuration of an image.
pub(super) fn config(source: &dyn Source, config: &Descriptor) -> Result<Vec<u8>, CopyError> {
    let failed = |error| CopyError::of_blob(config.digest, error);
    if config.size > CONFIG_LIMIT {
        return Err(failed(io::Error::other("it is too large for a configuration")));
    }
    let mut bytes = Vec::new();
    let content = source.blob(config).map_err(failed)?;
    let mut content = Verifying::new(content, config.digest, config.size);
    content.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A registry.
pub(super) struct Remote {
    repository: Repository,
    reference: Reference,
}

impl Remote {
    pub(super) fn new(client: &Client, reference: &Reference) -> Result<Self, RegistryError> {
        Ok(Self {
            repository: client.repository(reference)?,
            reference: reference.clone(),
        })
    }
}

impl Source for Remote {
    fn top(&self) -> Result<FetchedManifest, CopyError> {
        Ok(self.repository.manifest(ManifestName::of(&self.reference))?)
    }

    fn manifest(&self, entry: &Descriptor) -> Result<FetchedManifest, CopyError> {
        Ok(self.repository.manifest(ManifestName::Digest(entry.digest))?)
    }

    fn blob(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.repository.blob(blob.digest, blob.size, 0)))
    }

    fn origin(&self) -> Option<&Endpoint> {
        Some(self.repository.origin())
    }
}

impl Source for Archived {
    fn top(&self) -> Result<FetchedManifest, CopyError> {
        Ok(self.top().clone())
    }

    fn manifest(&self, entry: &Descriptor) -> Result<FetchedManifest, CopyError> {
        Ok(self.manifest(entry)?)
    }

    fn blob(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        self.blob(blob).map_err(io::Error::other)
    }

    fn is_made_up(&self) -> bool {
        self.is_made_up()
    }
}

/// An image of the store.
pub(super) struct Stored<'a> {
    store: &'a Store,
    image: Image,
}

impl<'a> Stored<'a> {
    pub(super) fn new(store: &'a Store, image: Image) -> Self {
        Self { store, image }
    }

    /// The layers as the store has them: the blob that one came as may be gone, its plain tar is not.
    fn layers(&self) -> Result<Vec<Descriptor>, CopyError> {
        let came = self.image.manifest.layers.iter();
        let layers = came.zip(self.image.layers()).map(|(came, id)| {
            if self.store.has_blob(&came.digest) {
                return Ok(came.clone());
            }
            let size = self.store.layer(id)?.index().tar_size();
            Ok(Descriptor::new(OCI_LAYER, id.0, size))
        });
        layers.collect()
    }
}

impl Source for Stored<'_> {
    fn top(&self) -> Result<FetchedManifest, CopyError> {
        let own = &self.image.manifest;
        let layers = self.layers()?;
        let (media_type, bytes) = match layers == own.layers {
            true => {
                let bytes = self
                    .store
                    .read_blob(&self.image.manifest_digest, MANIFEST_LIMIT)?;
                (own.media_type().to_owned(), bytes)
            }
            false => {
                let manifest = Manifest::new(own.config.clone(), layers);
                (manifest.media_type().to_owned(), image::to_json(&manifest))
            }
        };
        Ok(FetchedManifest {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        })
    }

    fn manifest(&self, entry: &Descriptor) -> Result<FetchedManifest, CopyError> {
        // The store has no indexes, so nobody asks for what is in one.
        Err(CopyError::of_blob(entry.digest, io::ErrorKind::NotFound.into()))
    }

    fn blob(&self, blob: &Descriptor) -> io::Result<Box<dyn Read + Send>> {
        let file = self.store.open_blob(&blob.digest).map_err(io::Error::other)?;
        Ok(Box::new(file))
    }
}
