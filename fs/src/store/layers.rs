//! Layers at rest.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Store, StoreError, WorkDir, lock, sync_directory};
use crate::digest::DiffId;
use crate::layer::index::IndexError;
use crate::layer::ingest::{decompress, ingest};
use crate::layer::writer::Written;
use crate::layer::{INDEX_FILE, Layer, TAR_FILE};

impl Store {
    /// Opens a layer, once in the life of this store object as long as the layer is in use. The layer will not
    /// be pruned until the store object is dropped.
    ///
    /// # Errors
    /// [`StoreError::NoLayer`], and [`StoreError::Layer`] if its index is missing or damaged.
    pub fn layer(&self, id: &DiffId) -> Result<Arc<Layer>, StoreError> {
        if let Some(layer) = self.open_already(id) {
            return Ok(layer);
        }
        let gate = self.gate_shared()?;
        let layer = self.open_layer(id)?;
        self.hold(&gate, &[id.0])?;
        Ok(layer)
    }

    /// Opens the layers of a stack, each as [`Self::layer`] does: quicker than one after the other.
    ///
    /// # Errors
    /// As [`Self::layer`].
    pub fn layers(&self, ids: &[DiffId]) -> Result<Vec<Arc<Layer>>, StoreError> {
        let gate = self.gate_shared()?;
        let mut opened = Vec::new();
        let mut layers = Vec::with_capacity(ids.len());
        for id in ids {
            layers.push(match self.open_already(id) {
                Some(layer) => layer,
                None => {
                    opened.push(id.0);
                    self.open_layer(id)?
                }
            });
        }
        self.hold(&gate, &opened)?;
        Ok(layers)
    }

    fn open_already(&self, id: &DiffId) -> Option<Arc<Layer>> {
        lock(&self.layers).get(id)?.upgrade()
    }

    /// The caller holds the gate, and then the layer.
    fn open_layer(&self, id: &DiffId) -> Result<Arc<Layer>, StoreError> {
        let layer = Layer::open(&self.layer_path(id)).map_err(|source| match source {
            IndexError::Read { source, .. }
                if source.kind() == io::ErrorKind::NotFound && !self.has_layer(id) =>
            {
                StoreError::NoLayer { diff_id: *id }
            }
            source => StoreError::Layer { diff_id: *id, source },
        })?;
        let layer = Arc::new(layer);
        lock(&self.layers).insert(*id, Arc::downgrade(&layer));
        Ok(layer)
    }

    /// Whether the store has the layer.
    pub fn has_layer(&self, id: &DiffId) -> bool {
        self.layer_path(id).join(TAR_FILE).is_file()
    }

    /// Publishes the layer that has been written into the work directory, as layer and as blob. Everything else
    /// in the work directory is removed with it. That the store has the layer already is no error.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Full`].
    pub fn publish_layer(&self, work: WorkDir, written: &Written) -> Result<Arc<Layer>, StoreError> {
        let id = written.diff_id;
        let ready = work.path().join("publish");
        let failed = |e| StoreError::io("publish", &ready, e);
        fs::create_dir(&ready).map_err(failed)?;
        for file in [TAR_FILE, INDEX_FILE] {
            fs::rename(work.path().join(file), ready.join(file)).map_err(failed)?;
        }
        sync_directory(&ready)?;
        {
            let gate = self.gate_shared()?;
            let place = self.layer_path(&id);
            // The blob first: alone it is a whole object that nobody needs, should this process end in between. One that is
            // there without a layer is replaced, so that layer and blob are one file.
            if !self.has_layer(&id) {
                let (tar, link) = (ready.join(TAR_FILE), work.path().join("blob"));
                let blob = self.blob_path(&id.0);
                let linked = fs::hard_link(&tar, &link).and_then(|()| fs::rename(&link, &blob));
                linked.map_err(|e| StoreError::io("publish", &blob, e))?;
                sync_directory(&self.blobs())?;
            }
            match fs::rename(&ready, &place) {
                Ok(()) => sync_directory(&self.layers_path())?,
                Err(e) if is_taken(&e) => {}
                Err(e) => return Err(StoreError::io("publish", &place, e)),
            }
            self.link_as_blob(&id)?;
            self.hold(&gate, &[id.0])?;
        }
        drop(work);
        self.layer(&id)
    }

    /// Takes in a layer from a tar stream, compressed or not. The diff ID must be the expected one, if any.
    ///
    /// # Errors
    /// [`StoreError::Ingest`] if the stream is no layer; [`StoreError::Digest`] if it is another than expected.
    pub fn import_layer(
        &self,
        stream: &mut dyn Read,
        expected: Option<DiffId>,
    ) -> Result<Arc<Layer>, StoreError> {
        let work = self.work_dir()?;
        let mut tar = decompress(stream).map_err(|source| StoreError::Incoming { bytes: 0, source })?;
        let written = ingest(&mut tar, work.path())?;
        match expected {
            Some(expected) if expected != written.diff_id => Err(StoreError::Digest {
                what: "the layer's tar".to_owned(),
                expected: expected.0,
                found: written.diff_id.0,
            }),
            _ => self.publish_layer(work, &written),
        }
    }

    pub(super) fn layers_path(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer_path(&self, id: &DiffId) -> PathBuf {
        self.layers_path().join(id.0.hex())
    }

    /// Gives a layer's tar its second name, by which the OCI layout knows it.
    pub(super) fn link_as_blob(&self, id: &DiffId) -> Result<(), StoreError> {
        let blob = self.blob_path(&id.0);
        match fs::hard_link(self.layer_path(id).join(TAR_FILE), &blob) {
            Ok(()) => sync_directory(&self.blobs()),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(StoreError::io("publish", &blob, e)),
        }
    }
}

/// rename(2) of a directory onto one that is not empty.
pub(super) fn is_taken(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
    )
}
