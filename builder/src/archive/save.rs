//! Writing archives and layouts: the same images give the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use mica_fs::digest::{DiffId, Digest, Verifying};
use mica_fs::store::Store;

use super::SaveError;
use super::coding::{Coding, Compression, Existing};
use super::docker::{DockerImage, MANIFEST_JSON};
use super::names::{IMAGE_NAME, REF_NAME};
use super::sink::{Archive, Directory, Sink};
use super::source::blob_name;
use crate::image::{self, Descriptor, Image, Index, MANIFEST_LIMIT, MediaTypes, OCI_LAYER};
use crate::reference::Reference;

/// The content of `oci-layout` (OCI image specification, "oci-layout file").
pub(crate) const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// The form of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveFormat {
    /// For `docker load`: the layers are not compressed, unless asked for.
    Docker,
    /// For OCI's tools: the manifest and the layers are as they came, so that digests stay.
    Oci,
}

/// How images are written.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The form of the archive.
    pub format: ArchiveFormat,
    /// How the layers are compressed; as the format says if `None`.
    pub coding: Option<Coding>,
    /// Whose media types are used, where something is not left as it came.
    pub media_types: MediaTypes,
    /// Annotations of the manifests.
    pub annotations: BTreeMap<String, String>,
    /// Annotations of the manifests' descriptors in the index.
    pub descriptor_annotations: BTreeMap<String, String>,
}

impl Settings {
    /// Those of `format`.
    pub fn new(format: ArchiveFormat) -> Self {
        Self {
            format,
            coding: None,
            media_types: MediaTypes::Oci,
            annotations: BTreeMap::new(),
            descriptor_annotations: BTreeMap::new(),
        }
    }

    fn coding(&self) -> Option<Coding> {
        self.coding.or(match self.format {
            ArchiveFormat::Docker => Some(Compression::None.into()),
            ArchiveFormat::Oci => None,
        })
    }
}

/// An image that is to be written, with the names that the archive gives it.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its names; those without a tag are left out.
    pub names: Vec<Reference>,
}

/// Writes an archive of these images to `out`; returns a descriptor of each image's manifest.
///
/// # Errors
/// [`SaveError`]; what was written by then is no whole archive.
pub fn write(
    store: &Store,
    entries: &[Entry<'_>],
    settings: &Settings,
    out: &mut dyn Write,
) -> Result<Vec<Descriptor>, SaveError> {
    let work = store.work_dir()?;
    let mut archive = Archive::begin(out, work.path())?;
    let manifests = Collector::run(store, entries, settings, &mut archive)?;
    archive.end()?;
    Ok(manifests)
}

/// Writes an OCI image layout of these images as the directory `directory`, which must not exist or be empty; returns
/// a descriptor of each image's manifest.
///
/// # Errors
/// [`SaveError`]; nothing is left in `directory`'s place then, unless it was there before.
pub fn write_layout(
    store: &Store,
    entries: &[Entry<'_>],
    settings: &Settings,
    directory: &Path,
) -> Result<Vec<Descriptor>, SaveError> {
    let error = |source| SaveError::Write {
        path: directory.to_owned(),
        source,
    };
    let beside = tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .tempdir_in(parent_of(directory))
        .map_err(error)?;
    let manifests = Collector::run(
        store,
        entries,
        settings,
        &mut Directory::begin(beside.path().to_owned())?,
    )?;
    // rename(2) replaces an empty directory, and no other.
    fs::rename(beside.path(), directory).map_err(error)?;
    // It is not ours to remove any more.
    let _ = beside.keep();
    Ok(manifests)
}

/// Has `write` write a file that appears at `path` whole or not at all. Something at `path` that is no regular file,
/// such as a pipe or `/dev/stdout`, is written to directly.
///
/// # Errors
/// What `write` fails with, or [`SaveError::Write`].
pub fn save_file<E: From<SaveError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let error = |source| SaveError::Write {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = BufWriter::new(File::options().write(true).open(path).map_err(error)?);
        write(&mut out)?;
        return Ok(out.flush().map_err(error)?);
    }
    let file = tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(parent_of(path))
        .map_err(error)?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| error(e.into_error()))?;
    file.as_file().sync_all().map_err(error)?;
    file.persist(path).map_err(|e| error(e.error))?;
    Ok(())
}

/// The directory that a file is in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Gathers the images' blobs and tables of contents. The tables come last, when all digests are known.
struct Collector<'a> {
    store: &'a Store,
    settings: &'a Settings,
    sink: &'a mut dyn Sink,
    /// The layers that were compressed already.
    compressed: BTreeMap<DiffId, Descriptor>,
    written: BTreeSet<Digest>,
    manifests: Vec<Descriptor>,
    index: Vec<Descriptor>,
    docker: Vec<DockerImage>,
}

impl<'a> Collector<'a> {
    fn run(
        store: &'a Store,
        entries: &[Entry<'_>],
        settings: &'a Settings,
        sink: &'a mut dyn Sink,
    ) -> Result<Vec<Descriptor>, SaveError> {
        let mut collector = Self {
            store,
            settings,
            sink,
            compressed: BTreeMap::new(),
            written: BTreeSet::new(),
            manifests: Vec::new(),
            index: Vec::new(),
            docker: Vec::new(),
        };
        for entry in entries {
            collector.add(entry)?;
        }
        let index = image::to_json(&Index::new(collector.index));
        collector.sink.file("index.json", &index)?;
        collector
            .sink
            .file(MANIFEST_JSON, &image::to_json(&collector.docker))?;
        collector.sink.file("oci-layout", OCI_LAYOUT)?;
        Ok(collector.manifests)
    }

    fn add(&mut self, entry: &Entry<'_>) -> Result<(), SaveError> {
        let image = entry.image;
        let layers = self.layers(image)?;
        let config = &image.manifest.config;
        self.stored(&config.digest, config.size)?;
        self.docker.push(DockerImage {
            config: blob_name(&config.digest),
            repo_tags: (!entry.names.is_empty())
                .then(|| entry.names.iter().map(Reference::familiar).collect()),
            layers: Some(layers.iter().map(|layer| blob_name(&layer.digest)).collect()),
        });
        let (media_type, bytes) = self.manifest(image, layers)?;
        let mut descriptor = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
        descriptor.platform = (!image.config.os.is_empty()).then(|| image.config.platform());
        if !self.settings.descriptor_annotations.is_empty() {
            descriptor.annotations = Some(self.settings.descriptor_annotations.clone());
        }
        if self.written.insert(descriptor.digest) {
            self.sink
                .blob(&descriptor.digest, descriptor.size, &mut &bytes[..])?;
        }
        self.manifests.push(descriptor.clone());
        self.list(descriptor, &entry.names);
        Ok(())
    }

    /// The manifest with these layers, and its media type: as it came if nothing in it changes.
    fn manifest(&self, image: &Image, layers: Vec<Descriptor>) -> Result<(String, Vec<u8>), SaveError> {
        let settings = self.settings;
        if layers == image.manifest.layers
            && settings.annotations.is_empty()
            && settings.media_types == MediaTypes::Oci
        {
            let bytes = self.store.read_blob(&image.manifest_digest, MANIFEST_LIMIT)?;
            return Ok((image.manifest.media_type().to_owned(), bytes));
        }
        let mut manifest = image.manifest.rewritten(layers, settings.media_types);
        manifest.annotate(&settings.annotations);
        Ok((manifest.media_type().to_owned(), image::to_json(&manifest)))
    }

    /// One entry of the index for each name, or one without a name.
    fn list(&mut self, descriptor: Descriptor, names: &[Reference]) {
        for name in names {
            let mut named = descriptor.clone();
            named.annotations.get_or_insert_default().extend([
                (IMAGE_NAME.to_owned(), name.to_string()),
                (REF_NAME.to_owned(), name.tag().unwrap_or("latest").to_owned()),
            ]);
            self.index.push(named);
        }
        if names.is_empty() {
            self.index.push(descriptor);
        }
    }

    /// The image's layers as they are to be written.
    fn layers(&mut self, image: &Image) -> Result<Vec<Descriptor>, SaveError> {
        let came = image.manifest.layers.iter();
        let layers = image.layers().iter().zip(came);
        layers.map(|(id, came)| self.layer(id, came)).collect()
    }

    fn layer(&mut self, id: &DiffId, came: &Descriptor) -> Result<Descriptor, SaveError> {
        // The blob of a layer that was made here is its plain tar.
        let stays = match self.settings.coding() {
            None => true,
            Some(coding) => coding.existing == Existing::Keep && came.digest != id.0,
        };
        let mut layer = match self.settings.coding() {
            _ if stays && self.store.has_blob(&came.digest) => {
                self.stored(&came.digest, came.size)?;
                came.clone()
            }
            None => self.plain(id)?,
            Some(coding) if coding.compression == Compression::None => self.plain(id)?,
            Some(coding) => self.compress(id, coding)?,
        };
        if self.settings.media_types == MediaTypes::Docker {
            layer.media_type = MediaTypes::Docker.layer(&layer.media_type);
        }
        Ok(layer)
    }

    fn plain(&mut self, id: &DiffId) -> Result<Descriptor, SaveError> {
        let size = self.store.layer(id)?.index().tar_size();
        self.stored(&id.0, size)?;
        Ok(Descriptor::new(OCI_LAYER, id.0, size))
    }

    fn compress(&mut self, id: &DiffId, coding: Coding) -> Result<Descriptor, SaveError> {
        if let Some(known) = self.compressed.get(id) {
            return Ok(known.clone());
        }
        let error = |source| SaveError::Layer { layer: *id, source };
        let size = self.store.layer(id)?.index().tar_size();
        let mut plain = Verifying::new(self.store.open_blob(&id.0)?, id.0, size);
        let mut file = self.sink.scratch()?;
        let (digest, size) = coding.compress(&mut plain, file.as_file_mut()).map_err(error)?;
        if self.written.insert(digest) {
            self.sink.blob_file(&digest, size, file)?;
        }
        let descriptor = Descriptor::new(
            &format!("{OCI_LAYER}{}", coding.compression.suffix()),
            digest,
            size,
        );
        self.compressed.insert(*id, descriptor.clone());
        Ok(descriptor)
    }

    /// Writes a blob of the store as it is.
    fn stored(&mut self, digest: &Digest, size: u64) -> Result<(), SaveError> {
        if !self.written.insert(*digest) {
            return Ok(());
        }
        let mut content = Verifying::new(self.store.open_blob(digest)?, *digest, size);
        self.sink.blob(digest, size, &mut content)
    }
}
