//! The cache of a build for other stores.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use mica_fs::digest::{DiffId, Digest, Verifying};
use mica_fs::store::{Store, StoreError};
use tempfile::NamedTempFile;

use super::bundle::{Bundle, CACHE_CONFIG, INLINE};
use super::{Record, find_by};
use crate::archive::Coding;
use crate::image::{self, Descriptor, Image, ImageError, Index, Manifest, OCI_LAYER};
use crate::ledger::BuildRecord;
use crate::push::{Push, PushError};
use crate::reference::Reference;

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Which steps a cache is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Scope {
    /// Those whose layers the image has.
    #[default]
    Min,
    /// All that the build looked at.
    Max,
}

/// Why a cache cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The registry did not take it.
    #[error(transparent)]
    Push(#[from] PushError),
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The image cannot be written anew.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ExportError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Push(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Write { .. } | Self::Store(_) => None,
        }
    }
}

/// The records of a build that gave `image`.
///
/// # Errors
/// [`StoreError`] if the catalog cannot be read.
pub fn gather(store: &Store, build: &BuildRecord, image: &Image, scope: Scope) -> Result<Bundle, StoreError> {
    let keys = build.steps.iter().filter_map(|step| step.key.as_ref());
    let keys: BTreeSet<Digest> = keys.map(|key| Digest::of(key.to_string().as_bytes())).collect();
    let mut records: Vec<Record> = Vec::new();
    for key in keys {
        records.extend(find_by(store, &key)?);
    }
    if scope == Scope::Min {
        let own = |id: &DiffId| image.layers().contains(id);
        records.retain(|record| record.layer.as_ref().is_none_or(own));
    }
    let mut reads = BTreeMap::new();
    for digest in records.iter().filter_map(|record| record.lineage.as_ref()?.reads) {
        if let Some(bytes) = store.trace(&digest)? {
            reads.insert(digest, bytes);
        }
    }
    let mut seen = BTreeSet::new();
    let layers = records.iter().filter_map(|record| record.layer);
    let layers = layers.filter(|layer| seen.insert(*layer)).collect();
    Ok(Bundle::new(layers, records, reads))
}

/// Pushes a cache to a registry.
///
/// # Errors
/// [`ExportError`].
pub fn to_registry(bundle: &Bundle, push: &Push<'_>, to: &Reference) -> Result<(), ExportError> {
    let config = image::to_json(bundle);
    push.push_artifact(&bundle.layers, (CACHE_CONFIG, &config), to)?;
    Ok(())
}

/// The image with its records in its configuration: another image, by its ID.
///
/// # Errors
/// [`ExportError`].
pub fn inline(
    store: &Store,
    mut bundle: Bundle,
    image: &Image,
    base: Option<&Image>,
) -> Result<Image, ExportError> {
    bundle.layers.clear();
    let mut config = image.config.clone();
    // Text that was read back from what was written.
    let value = serde_json::to_value(&bundle).unwrap_or_default();
    config.other.insert(INLINE.to_owned(), value);
    Ok(Image::write(store, config, base)?)
}

/// Writes a cache into the directory of an OCI image layout, which is made if need be, under a tag. What it holds under
/// other tags stays.
///
/// # Errors
/// [`ExportError`].
pub fn to_directory(
    store: &Store,
    bundle: &Bundle,
    coding: Coding,
    directory: &Path,
    tag: &str,
) -> Result<(), ExportError> {
    let layout = Layout { directory };
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|e| layout.error(&blobs, e))?;
    let mut layers = Vec::new();
    for id in &bundle.layers {
        layers.push(layout.layer(store, id, coding)?);
    }
    let config = layout.blob(CACHE_CONFIG, &image::to_json(bundle))?;
    let manifest = Manifest::new(config, layers);
    let mut descriptor = layout.blob(manifest.media_type(), &image::to_json(&manifest))?;
    descriptor.annotations = Some(BTreeMap::from([(REF_NAME.to_owned(), tag.to_owned())]));
    let mut manifests = layout.index()?;
    manifests.retain(|other| other.annotation(REF_NAME) != Some(tag));
    manifests.push(descriptor);
    layout.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    layout.file("index.json", &image::to_json(&Index::new(manifests)))
}

/// A directory that is written to.
struct Layout<'a> {
    directory: &'a Path,
}

impl Layout<'_> {
    fn error(&self, path: &Path, source: io::Error) -> ExportError {
        ExportError::Write {
            path: path.to_owned(),
            source,
        }
    }

    fn index(&self) -> Result<Vec<Descriptor>, ExportError> {
        let path = self.directory.join("index.json");
        match fs::read(&path) {
            Ok(bytes) => {
                let index: Index =
                    serde_json::from_slice(&bytes).map_err(|e| self.error(&path, io::Error::other(e)))?;
                Ok(index.manifests)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(self.error(&path, error)),
        }
    }

    /// Writes a file, whole or not at all.
    fn file(&self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        let path = self.directory.join(name);
        let mut file = self.scratch()?;
        file.write_all(bytes).map_err(|e| self.error(&path, e))?;
        file.persist(&path).map_err(|e| self.error(&path, e.error))?;
        Ok(())
    }

    fn scratch(&self) -> Result<NamedTempFile, ExportError> {
        tempfile::Builder::new()
            .prefix(".mica-")
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(self.directory)
            .map_err(|e| self.error(self.directory, e))
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ExportError> {
        let digest = Digest::of(bytes);
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes)?;
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    /// Compresses a layer, unless that was done before.
    fn layer(&self, store: &Store, id: &DiffId, coding: Coding) -> Result<Descriptor, ExportError> {
        let media_type = format!("{OCI_LAYER}{}", coding.compression.suffix());
        let name = coding.algorithm().map(|algorithm| algorithm.to_string());
        let path = |digest: &Digest| self.directory.join("blobs/sha256").join(digest.hex());
        if let Some(name) = &name
            && let Some((digest, size)) = store.compressed(id, name)?
            && fs::metadata(path(&digest)).is_ok_and(|file| file.len() == size)
        {
            return Ok(Descriptor::new(&media_type, digest, size));
        }
        let plain = store.open_blob(&id.0)?;
        let mut plain = Verifying::new(plain, id.0, store.layer(id)?.index().tar_size());
        let mut file = self.scratch()?;
        let (digest, size) = coding
            .compress(&mut plain, file.as_file_mut())
            .map_err(|e| self.error(file.path(), e))?;
        let to = path(&digest);
        file.persist(&to).map_err(|e| self.error(&to, e.error))?;
        if let Some(name) = name {
            store.note_compressed(id, &name, (digest, size))?;
        }
        Ok(Descriptor::new(&media_type, digest, size))
    }
}
