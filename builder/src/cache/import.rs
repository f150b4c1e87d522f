//! Caches of other stores: their records are read at once, a layer when a step wants it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use mica_fs::digest::{DiffId, Digest, Verifying};
use mica_fs::overlay::{ReadSet, trace};
use mica_fs::store::{Store, StoreError};

use super::bundle::{Bundle, CACHE_CONFIG, INLINE};
use super::{Key, Record, put};
use crate::compress::Algorithm;
use crate::image::{
    self, CONFIG_LIMIT, Descriptor, ImageConfig, ImageError, Index, MANIFEST_LIMIT, Manifest,
};
use crate::reference::Reference;
use crate::registry::{Client, ManifestName, RegistryError, Repository};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Why a cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A file, or a blob on its way.
    #[error("cannot read {what}")]
    Read {
        /// The file or the blob.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It is no cache of mica's.
    #[error("{what} is no cache that mica can read: {reason}")]
    Invalid {
        /// Where it is.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The manifest is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Where the blobs of a cache are.
enum Place {
    Repository(Repository),
    Directory(PathBuf),
}

/// A cache of another store.
struct Import {
    place: Place,
    what: String,
    bundle: Bundle,
    /// The records of the bundle by their keys.
    records: BTreeMap<Digest, usize>,
    blobs: BTreeMap<DiffId, Descriptor>,
}

/// The caches of other stores that a build may take from.
#[derive(Default)]
pub struct Imports {
    all: Vec<Import>,
}

impl Imports {
    /// Adds a cache in a registry, or an image with a cache of its own. Returns the number of records.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn add_registry(&mut self, client: &Client, reference: &Reference) -> Result<usize, ImportError> {
        let repository = client.repository(reference)?;
        let manifest = repository.manifest(ManifestName::of(reference))?;
        let manifest = image::parse_manifest(manifest.digest, &manifest.bytes)?;
        self.add(Place::Repository(repository), reference.familiar(), manifest)
    }

    /// Adds the cache that a directory has under a tag. Returns the number of records.
    ///
    /// # Errors
    /// [`ImportError`].
    pub fn add_directory(&mut self, directory: &Path, tag: &str) -> Result<usize, ImportError> {
        let what = directory.display().to_string();
        let place = Place::Directory(directory.to_owned());
        let path = directory.join("index.json");
        let bytes = fs::read(&path).map_err(|source| ImportError::Read {
            what: path.display().to_string(),
            source,
        })?;
        let invalid = |reason: String| ImportError::Invalid {
            what: what.clone(),
            reason,
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
        let mut named = index.manifests.iter();
        let named = named.find(|descriptor| descriptor.annotation(REF_NAME) == Some(tag));
        let named = named.ok_or_else(|| invalid(format!("it has nothing with the tag {tag}")))?;
        let bytes = place.small(named, MANIFEST_LIMIT)?;
        let manifest = image::parse_manifest(named.digest, &bytes)?;
        self.add(place, what, manifest)
    }

    fn add(&mut self, place: Place, what: String, manifest: Manifest) -> Result<usize, ImportError> {
        let invalid = |reason: String| ImportError::Invalid {
            what: what.clone(),
            reason,
        };
        let config = place.small(&manifest.config, CONFIG_LIMIT)?;
        let (bundle, layers) = match manifest.config.media_type.as_str() {
            CACHE_CONFIG => {
                let bundle = Bundle::parse(&config).map_err(invalid)?;
                let layers = bundle.layers.clone();
                (bundle, layers)
            }
            _ => of_image(&config).map_err(invalid)?,
        };
        if layers.len() != manifest.layers.len() {
            return Err(invalid("its layers are not those of its manifest".to_owned()));
        }
        let keys = bundle.records.iter().map(|record| record.key.to_string());
        let records = keys.map(|key| Digest::of(key.as_bytes())).zip(0..).collect();
        let blobs = layers.into_iter().zip(manifest.layers).collect();
        let count = bundle.records.len();
        self.all.push(Import {
            place,
            what,
            bundle,
            records,
            blobs,
        });
        Ok(count)
    }

    /// Looks a step up, and brings its layer into the store.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be written. A cache that fails counts as having nothing.
    pub(crate) fn find(&self, store: &Store, key: &Key) -> Result<Option<Record>, StoreError> {
        let digest = key.digest();
        for import in &self.all {
            let record = import.records.get(&digest).map(|at| &import.bundle.records[*at]);
            if let Some(record) = record
                && import.bring(store, record)
            {
                let reads = record.lineage.as_ref().and_then(|lineage| lineage.reads);
                let reads = reads.and_then(|digest| import.bundle.reads(&digest));
                put(store, key, record, reads.as_deref())?;
                return Ok(Some(record.clone()));
            }
        }
        Ok(None)
    }

    /// The layer of the last execution of that step, once it is in the store.
    pub(crate) fn last_layer(&self, store: &Store, step: &Digest) -> Option<DiffId> {
        self.all.iter().find_map(|import| {
            let records = import.bundle.records.iter();
            let of_step = records.filter(|record| {
                let lineage = record.lineage.as_ref();
                lineage.is_some_and(|lineage| lineage.step == *step)
            });
            let last = of_step.max_by_key(|record| record.made())?;
            import.bring(store, last).then_some(last.layer)?
        })
    }

    /// Whether there is a record of an equal command.
    pub(crate) fn has_command(&self, command: &Digest) -> bool {
        let mut records = self.all.iter().flat_map(|import| &import.bundle.records);
        records.any(|record| {
            record
                .lineage
                .as_ref()
                .is_some_and(|lineage| lineage.command == *command)
        })
    }

    /// The first record of an equal command of which `holds` says that all it has read is the same, once its layer is in
    /// the store; what it has read, and the same encoded.
    pub(crate) fn of_command(
        &self,
        store: &Store,
        command: &Digest,
        holds: impl Fn(&ReadSet) -> bool,
    ) -> Option<(Record, ReadSet, Vec<u8>)> {
        self.all.iter().find_map(|import| {
            import.bundle.records.iter().find_map(|record| {
                let lineage = record
                    .lineage
                    .as_ref()
                    .filter(|lineage| lineage.command == *command)?;
                let encoded = import.bundle.reads(&lineage.reads?)?;
                let reads = trace::decode(&encoded).ok().filter(&holds)?;
                import
                    .bring(store, record)
                    .then(|| (record.clone(), reads, encoded))
            })
        })
    }
}

/// The records that an image carries, and its layers.
fn of_image(config: &[u8]) -> Result<(Bundle, Vec<DiffId>), String> {
    let config: ImageConfig = serde_json::from_slice(config).map_err(|e| e.to_string())?;
    let inline = config.other.get(INLINE).ok_or("it carries no cache")?;
    let bundle = Bundle::parse(inline.to_string().as_bytes())?;
    Ok((bundle, config.rootfs.diff_ids))
}

impl Place {
    fn open(&self, blob: &Descriptor) -> Result<Box<dyn Read>, ImportError> {
        match self {
            Self::Repository(repository) => Ok(Box::new(repository.blob(blob.digest, blob.size, 0))),
            Self::Directory(directory) => {
                let path = directory.join("blobs/sha256").join(blob.digest.hex());
                let file = File::open(&path).map_err(|source| ImportError::Read {
                    what: path.display().to_string(),
                    source,
                })?;
                Ok(Box::new(file))
            }
        }
    }

    /// Reads a blob that is small.
    fn small(&self, blob: &Descriptor, limit: u64) -> Result<Vec<u8>, ImportError> {
        let what = blob.digest.to_string();
        if blob.size > limit {
            let reason = format!("it has {} bytes, where at most {limit} are read", blob.size);
            return Err(ImportError::Invalid { what, reason });
        }
        let mut bytes = Vec::new();
        let reader = self.open(blob)?.take(blob.size.saturating_add(1));
        let read = Verifying::new(reader, blob.digest, blob.size).read_to_end(&mut bytes);
        read.map_err(|source| ImportError::Read { what, source })?;
        Ok(bytes)
    }
}

impl Import {
    /// Brings the layer of a record into the store. Whether it is there then.
    fn bring(&self, store: &Store, record: &Record) -> bool {
        let Some(id) = record.layer.filter(|id| !store.has_layer(id)) else {
            return true;
        };
        let Some(blob) = self.blobs.get(&id) else {
            return false;
        };
        let fetched = self.place.open(blob).map_err(|e| e.to_string());
        let fetched = fetched.and_then(|bytes| {
            let mut bytes = Verifying::new(bytes, blob.digest, blob.size);
            let layer = store.import_layer(&mut bytes, Some(id));
            // The rest is part of the blob's digest, which is remembered.
            let rest = io::copy(&mut bytes, &mut io::sink());
            layer.map_err(|e| e.to_string())?;
            rest.map_err(|e| e.to_string())
        });
        if let Err(error) = &fetched {
            tracing::warn!(cache = self.what, layer = %id, error, "a cached layer cannot be had");
            return false;
        }
        self.note(store, &id, blob);
        true
    }

    /// Remembers what the layer is there, so that it need not be compressed to be pushed.
    fn note(&self, store: &Store, id: &DiffId, blob: &Descriptor) {
        let Place::Repository(repository) = &self.place else {
            return;
        };
        let origin = repository.origin();
        let noted = store
            .note_sources(&[blob.digest], origin.registry(), origin.repository())
            .and_then(|()| match blob.media_type.ends_with("gzip") {
                true => store.note_compressed(id, &Algorithm::GZIP.to_string(), (blob.digest, blob.size)),
                false => Ok(()),
            });
        // It only saves time.
        if let Err(error) = noted {
            tracing::debug!(%error, "where a layer came from is not remembered");
        }
    }
}
