//! Archives and layouts that an image is copied to.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use mica_fs::digest::{DiffId, Hashing, Verifying};
use mica_fs::layer::ingest::decompress;

use super::CopyError;
use super::registry::descriptor;
use super::sink::{Passage, Sink, Standing, lies_elsewhere};
use super::source;
use crate::archive::parts::{self, DockerImage, IMAGE_NAME, MANIFEST_JSON, OCI_LAYOUT, REF_NAME, blob_name};
use crate::archive::{ArchiveFormat, LoadError};
use crate::image::{self, Descriptor, Index, MANIFEST_LIMIT, Manifest, OCI_LAYER};
use crate::push::LayerState;
use crate::reference::Reference;
use crate::registry::FetchedManifest;

/// An archive or a layout in the making.
pub(super) struct Files<'a> {
    sink: &'a mut dyn parts::Sink,
    format: ArchiveFormat,
    name: Option<&'a str>,
    /// What the layout lists already.
    index: Index,
    /// What Docker's table of contents says of the image.
    docker: Option<DockerImage>,
}

impl<'a> Files<'a> {
    /// One that `sink` takes the parts of. In a docker-archive the layers are plain.
    pub(super) fn new(sink: &'a mut dyn parts::Sink, format: ArchiveFormat, name: Option<&'a str>) -> Self {
        Self {
            sink,
            format,
            name,
            index: Index::new(Vec::new()),
            docker: None,
        }
    }

    /// The same, for a layout that lists these images already.
    pub(super) fn with(self, index: Index) -> Self {
        Self { index, ..self }
    }

    /// Writes the tables of contents: without them nothing of it is seen.
    pub(super) fn finish(mut self, mut image: Descriptor) -> Result<(), CopyError> {
        if let Some(name) = self.name {
            let mut names = BTreeMap::from([(REF_NAME.to_owned(), name.to_owned())]);
            if let Some(full) = full_name(name) {
                names.insert(IMAGE_NAME.to_owned(), full.to_string());
            }
            image.annotations = Some(names);
        }
        // A name stands for one image.
        let is_replaced = |entry: &Descriptor| match self.name {
            Some(name) => entry.annotation(REF_NAME) == Some(name),
            None => entry.digest == image.digest && entry.annotation(REF_NAME).is_none(),
        };
        self.index.manifests.retain(|entry| !is_replaced(entry));
        self.index.manifests.push(image);
        if let Some(docker) = self.docker {
            self.sink.file(MANIFEST_JSON, &image::to_json(&[docker]))?;
        }
        self.sink.file("oci-layout", OCI_LAYOUT)?;
        self.sink.file("index.json", &image::to_json(&self.index))?;
        Ok(())
    }

    fn blob(&mut self, blob: &Descriptor, passage: &Passage<'_>) -> Result<(), CopyError> {
        if lies_elsewhere(blob) {
            return Ok(());
        }
        if self.sink.has(&blob.digest, blob.size) {
            passage.tell(blob, LayerState::Exists);
            return Ok(());
        }
        let mut content = Verifying::new(passage.open(blob)?, blob.digest, blob.size);
        let written = self.sink.blob(&blob.digest, blob.size, &mut content);
        written.map_err(|error| CopyError::of_save(blob.digest, error))?;
        passage.tell(blob, LayerState::Done);
        Ok(())
    }

    /// Writes a layer without its compression; it must be what the configuration says.
    fn plain(
        &mut self,
        layer: &Descriptor,
        id: &DiffId,
        passage: &Passage<'_>,
    ) -> Result<Descriptor, CopyError> {
        if layer.digest == id.0 {
            self.blob(layer, passage)?;
            return Ok(Descriptor::new(OCI_LAYER, id.0, layer.size));
        }
        let mut file = self.sink.scratch()?;
        let failed = |error| CopyError::of_blob(layer.digest, error);
        let mut packed = Verifying::new(passage.open(layer)?, layer.digest, layer.size);
        let (digest, size) = {
            let mut out = Hashing::new(io::BufWriter::with_capacity(256 << 10, file.as_file_mut()));
            io::copy(&mut decompress(packed.by_ref()).map_err(failed)?, &mut out).map_err(failed)?;
            // What the decompressor left unread belongs to the blob.
            io::copy(&mut packed, &mut io::sink()).map_err(failed)?;
            let (mut buffer, digest, size) = out.finish();
            io::Write::flush(&mut buffer).map_err(failed)?;
            (digest, size)
        };
        if digest != id.0 {
            let text = format!("uncompressed it has the digest {digest} instead of {id}");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        if !self.sink.has(&digest, size) {
            self.sink.blob_file(&digest, size, file)?;
        }
        passage.tell(layer, LayerState::Done);
        Ok(Descriptor::new(OCI_LAYER, digest, size))
    }

    fn docker_image(
        &mut self,
        manifest: &Manifest,
        passage: &Passage<'_>,
    ) -> Result<Vec<Descriptor>, CopyError> {
        let bytes = source::config(passage.source, &manifest.config)?;
        let config = image::parse_config(manifest, &bytes)?;
        let mut layers = Vec::new();
        for (layer, id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            layers.push(self.plain(layer, id, passage)?);
        }
        self.blob(&manifest.config, passage)?;
        self.docker = Some(DockerImage {
            config: blob_name(&manifest.config.digest),
            repo_tags: self.name.and_then(docker_name).map(|name| vec![name.familiar()]),
            layers: Some(layers.iter().map(|layer| blob_name(&layer.digest)).collect()),
        });
        Ok(layers)
    }
}

impl Sink for Files<'_> {
    fn has(&self, _: &FetchedManifest, _: &Passage<'_>) -> Result<Option<Descriptor>, CopyError> {
        Ok(None)
    }

    fn has_listed(&self, _: &Descriptor) -> Result<bool, CopyError> {
        Ok(false)
    }

    fn blobs(&mut self, manifest: &Manifest, passage: &Passage<'_>) -> Result<Vec<Descriptor>, CopyError> {
        if self.format == ArchiveFormat::Docker {
            return self.docker_image(manifest, passage);
        }
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            self.blob(blob, passage)?;
        }
        Ok(manifest.layers.clone())
    }

    fn manifest(&mut self, manifest: &FetchedManifest, _: Standing) -> Result<(), CopyError> {
        let Descriptor { digest, size, .. } = descriptor(manifest);
        if !self.sink.has(&digest, size) {
            self.sink.blob(&digest, size, &mut &manifest.bytes[..])?;
        }
        Ok(())
    }
}

/// The name in full, if the text is more than a tag.
fn full_name(text: &str) -> Option<Reference> {
    let name = text.contains(['/', ':']).then(|| Reference::parse(text).ok())??;
    name.digest().is_none().then_some(name)
}

/// The name that Docker is to give to an image.
fn docker_name(text: &str) -> Option<Reference> {
    Reference::parse(text).ok().filter(|name| name.digest().is_none())
}

/// A layout that is changed by nobody else until this is dropped, and what it lists: nothing, if it is new.
pub(super) fn open_layout(directory: &Path) -> Result<(File, Index), CopyError> {
    let failed = |source| LoadError::Read {
        what: directory.display().to_string(),
        source,
    };
    fs::create_dir_all(directory).map_err(failed)?;
    let lock = File::open(directory).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let path = directory.join("index.json");
    let index = match File::open(&path) {
        Ok(file) => {
            let mut bytes = Vec::new();
            file.take(MANIFEST_LIMIT)
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            serde_json::from_slice(&bytes).map_err(|error| LoadError::Invalid {
                member: path.display().to_string(),
                reason: error.to_string(),
            })?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What an earlier copy left is a layout without a list.
            let is_ours = |name: &OsStr| {
                name == "blobs" || name == "oci-layout" || name.as_bytes().starts_with(b".mica-")
            };
            for entry in fs::read_dir(directory).map_err(failed)? {
                if !is_ours(&entry.map_err(failed)?.file_name()) {
                    return Err(CopyError::NotALayout {
                        directory: directory.to_owned(),
                    });
                }
            }
            Index::new(Vec::new())
        }
        Err(error) => return Err(failed(error).into()),
    };
    Ok((lock, index))
}
