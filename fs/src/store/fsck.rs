//! Checking the store, and mending what can be made anew: indexes from tars, the catalog from `index.json`.

use std::fs::{self, File};
use std::io;

use super::{Store, StoreError, catalog, layout, lock};
use crate::digest::{DiffId, Digest, Hashing};
use crate::layer::index::Index;
use crate::layer::ingest::ingest;
use crate::layer::{INDEX_FILE, TAR_FILE, Timestamp};

/// What to check and whether to mend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsckOptions {
    /// Mend what can be mended.
    pub repair: bool,
    /// Make the catalog anew from `index.json`. Cache records are lost.
    pub rebuild_catalog: bool,
}

/// What was looked at, and what is wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FsckReport {
    /// Blobs that were read, tars of layers left out.
    pub blobs: u64,
    /// Layers whose tar and index were read.
    pub layers: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The bytes of a blob are not those of its digest.
    Blob {
        /// Its name.
        digest: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// The bytes of a layer's tar are not those of its diff ID.
    Tar {
        /// Its name.
        diff_id: DiffId,
        /// The digest of its bytes.
        found: Digest,
    },
    /// A layer has no tar.
    NoTar {
        /// Its name.
        diff_id: DiffId,
    },
    /// A layer's index is missing, damaged, or of another version.
    Index {
        /// The layer.
        diff_id: DiffId,
        /// What is wrong with it.
        reason: String,
        /// Whether it has been made anew.
        repaired: bool,
    },
    /// The OCI layout lacks the name of a layer's tar.
    NoLink {
        /// The layer.
        diff_id: DiffId,
        /// Whether it has been made.
        repaired: bool,
    },
    /// What is kept of a layer in a registry is damaged.
    Remote {
        /// The layer's blob.
        blob: Digest,
        /// What is wrong.
        reason: String,
        /// Whether it was removed, to be made anew when it is needed.
        repaired: bool,
    },
    /// An image's manifest is no blob of the store.
    NoManifest {
        /// The manifest.
        manifest: Digest,
        /// The image's names.
        names: Vec<String>,
    },
}

impl Store {
    /// Reads every byte of the store's objects and checks them.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Catalog`], and what making something anew reports. What is wrong with
    /// the objects stands in the report.
    pub fn fsck(&self, options: &FsckOptions) -> Result<FsckReport, StoreError> {
        if options.rebuild_catalog {
            self.rebuild_catalog()?;
        }
        let mut report = FsckReport::default();
        for digest in self.objects(&self.blobs())? {
            if !self.has_layer(&DiffId(digest)) {
                report.blobs += 1;
                let file = self.open_blob(&digest)?;
                let found =
                    digest_of(&file).map_err(|e| StoreError::io("read", &self.blob_path(&digest), e))?;
                if found != digest {
                    report.problems.push(Problem::Blob { digest, found });
                }
            }
        }
        for digest in self.objects(&self.layers_path())? {
            report.layers += 1;
            self.check_layer(DiffId(digest), options.repair, &mut report.problems)?;
        }
        for image in self.images()? {
            if !self.has_blob(&image.manifest) {
                report.problems.push(Problem::NoManifest {
                    manifest: image.manifest,
                    names: image.names,
                });
            }
        }
        Ok(report)
    }

    fn check_layer(
        &self,
        diff_id: DiffId,
        repair: bool,
        problems: &mut Vec<Problem>,
    ) -> Result<(), StoreError> {
        let tar = self.layer_path(&diff_id).join(TAR_FILE);
        let found = match File::open(&tar).and_then(|file| digest_of(&file)) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                problems.push(Problem::NoTar { diff_id });
                return Ok(());
            }
            Err(e) => return Err(StoreError::io("read", &tar, e)),
        };
        if found != diff_id.0 {
            problems.push(Problem::Tar { diff_id, found });
            return Ok(());
        }
        if let Err(reason) = self.check_index(&diff_id) {
            if repair {
                self.rebuild_index(&diff_id)?;
            }
            problems.push(Problem::Index {
                diff_id,
                reason,
                repaired: repair,
            });
        }
        if !self.has_blob(&diff_id.0) {
            if repair {
                self.link_as_blob(&diff_id)?;
            }
            problems.push(Problem::NoLink {
                diff_id,
                repaired: repair,
            });
        }
        Ok(())
    }

    fn check_index(&self, diff_id: &DiffId) -> Result<(), String> {
        let index = Index::open(&self.layer_path(diff_id).join(INDEX_FILE)).map_err(|e| {
            match std::error::Error::source(&e) {
                Some(source) => format!("{e}: {source}"),
                None => e.to_string(),
            }
        })?;
        if index.diff_id() != *diff_id {
            return Err(format!("it is the index of {}", index.diff_id()));
        }
        match index.verify() {
            true => Ok(()),
            false => Err("its bytes are not those that were written".to_owned()),
        }
    }

    fn rebuild_index(&self, diff_id: &DiffId) -> Result<(), StoreError> {
        let layer = self.layer_path(diff_id);
        let path = layer.join(TAR_FILE);
        let mut tar = File::open(&path).map_err(|e| StoreError::io("read", &path, e))?;
        let work = self.work_dir()?;
        ingest(&mut tar, work.path())?;
        let index = layer.join(INDEX_FILE);
        fs::rename(work.path().join(INDEX_FILE), &index).map_err(|e| StoreError::io("write", &index, e))?;
        super::sync_directory(&layer)
    }

    /// Makes the catalog anew from `index.json`. The old one is put aside, as it may be damaged.
    fn rebuild_catalog(&self) -> Result<(), StoreError> {
        let entries = layout::read(&self.root)?;
        *lock(&self.catalog) = None;
        for suffix in ["", "-wal", "-shm"] {
            let from = self.root.join(format!("{}{suffix}", catalog::FILE));
            let to = self.root.join(format!("{}.old{suffix}", catalog::FILE));
            match fs::rename(&from, &to) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("put aside", &from, e));
                }
                _ => {}
            }
        }
        self.change_images(|catalog| {
            for (descriptor, name) in &entries {
                let added = self.added(&descriptor.digest);
                match name {
                    Some(name) => catalog.tag(name, descriptor, added)?,
                    None => catalog.add_image(descriptor, added)?,
                }
            }
            Ok(())
        })
    }

    /// When the blob was written.
    fn added(&self, manifest: &Digest) -> Timestamp {
        fs::metadata(self.blob_path(manifest))
            .and_then(|metadata| metadata.modified())
            .map_or_else(|_| Timestamp::now(), Timestamp::from)
    }
}

fn digest_of(file: &File) -> io::Result<Digest> {
    let mut reader = Hashing::new(io::BufReader::with_capacity(1 << 20, file));
    io::copy(&mut reader, &mut io::sink())?;
    Ok(reader.finish().1)
}
