//! Images and their names.
//!
//! The names stand twice: in the catalog, and in `index.json` for other tools, which is written anew after each
//! change of the catalog and under the same lock.

use std::fs::File;

use super::catalog::Catalog;
use super::layout::{self, Descriptor};
use super::{Store, StoreError};
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;

/// The most bytes a manifest may have; registries allow 4 MiB (OCI distribution specification, "Pushing
/// Manifests").
pub(super) const MAX_MANIFEST: u64 = 4 << 20;

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its names: full canonical references, sorted.
    pub names: Vec<String>,
    /// When it came into the store.
    pub added: Timestamp,
}

impl Store {
    /// Adds the image of a manifest that is a blob of the store. One that is there already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], and what [`Store::read_blob`] reports.
    pub fn add_image(&self, manifest: &Digest) -> Result<(), StoreError> {
        let descriptor = self.descriptor(manifest)?;
        self.change_images(|catalog| catalog.add_image(&descriptor, Timestamp::now()))
    }

    /// Gives an image a name, which no other image has any more then. An image that is not yet in the store is
    /// added.
    ///
    /// # Errors
    /// As [`Store::add_image`].
    pub fn tag(&self, name: &str, manifest: &Digest) -> Result<(), StoreError> {
        let descriptor = self.descriptor(manifest)?;
        self.change_images(|catalog| catalog.tag(name, &descriptor, Timestamp::now()))
    }

    /// Takes a name away from its image, which stays. Whether there was such a name.
    ///
    /// # Errors
    /// [`StoreError::Catalog`] and what writing `index.json` reports.
    pub fn untag(&self, name: &str) -> Result<bool, StoreError> {
        self.change_images(|catalog| catalog.untag(name))
    }

    /// Removes an image and its names; its blobs and layers go at the next prune. Whether there was one.
    ///
    /// # Errors
    /// As [`Store::untag`].
    pub fn remove_image(&self, manifest: &Digest) -> Result<bool, StoreError> {
        self.change_images(|catalog| catalog.remove_image(manifest))
    }

    /// The manifest of the image of that name.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn resolve(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        self.with_catalog(|catalog| catalog.resolve(name))
    }

    /// All images, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let rows = self.with_catalog(|catalog| catalog.images())?;
        let records = rows.into_iter().map(|row| ImageRecord {
            manifest: row.descriptor.digest,
            names: row.names,
            added: row.added,
        });
        Ok(records.collect())
    }

    /// Notes that a repository of a registry has these blobs, so that they need not be sent there again. It may have
    /// lost them since.
    ///
    /// # Errors
    /// [`StoreError::Catalog`] and [`StoreError::Full`].
    pub fn note_sources(&self, blobs: &[Digest], registry: &str, repository: &str) -> Result<(), StoreError> {
        self.with_catalog(|catalog| catalog.add_sources(blobs, registry, repository))
    }

    /// The repositories of a registry that had this blob.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn sources(&self, blob: &Digest, registry: &str) -> Result<Vec<String>, StoreError> {
        self.with_catalog(|catalog| catalog.sources(blob, registry))
    }

    /// Whether a registry had this blob.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn has_source(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.with_catalog(|catalog| catalog.has_source(blob))
    }

    /// Notes the digest and the size that a layer has when it is compressed by `coding`, so that it need not be
    /// compressed to know whether it is somewhere.
    ///
    /// # Errors
    /// [`StoreError::Catalog`] and [`StoreError::Full`].
    pub fn note_compressed(
        &self,
        layer: &DiffId,
        coding: &str,
        blob: (Digest, u64),
    ) -> Result<(), StoreError> {
        self.with_catalog(|catalog| catalog.add_compressed(layer, coding, blob))
    }

    /// The digest and the size of a compressed layer, if it was compressed so before.
    ///
    /// # Errors
    /// [`StoreError::Catalog`].
    pub fn compressed(&self, layer: &DiffId, coding: &str) -> Result<Option<(Digest, u64)>, StoreError> {
        self.with_catalog(|catalog| catalog.compressed(layer, coding))
    }

    /// Changes the catalog and writes `index.json` accordingly.
    pub(super) fn change_images<T>(
        &self,
        change: impl FnOnce(&mut Catalog) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let path = self.root.join(LOCK);
        let lock = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
        lock.lock().map_err(|e| StoreError::io("lock", &path, e))?;
        self.with_catalog(|catalog| {
            let value = change(catalog)?;
            layout::write(&self.root, &catalog.images()?)?;
            Ok(value)
        })
    }

    fn descriptor(&self, manifest: &Digest) -> Result<Descriptor, StoreError> {
        let bytes = self.read_blob(manifest, MAX_MANIFEST)?;
        Ok(Descriptor {
            digest: *manifest,
            media_type: layout::media_type(&bytes),
            size: bytes.len() as u64,
        })
    }
}

/// Locked by who changes images or names.
const LOCK: &str = "index.lock";
