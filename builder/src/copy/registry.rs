//! A registry that an image is copied to.

use std::collections::BTreeMap;
use std::io::{self, Read};

use mica_fs::digest::{Digest, Verifying};

use super::CopyError;
use super::sink::{Passage, Sink, Standing, lies_elsewhere};
use super::source::Source;
use crate::compress::{self, Algorithm};
use crate::image::{self, Descriptor, Manifest, OCI_LAYER};
use crate::parallel;
use crate::push::{JOBS, LayerState};
use crate::reference::Reference;
use crate::registry::{
    Client, Content, FetchedManifest, ManifestName, Mounted, RegistryError, Repository, UploadError,
};

/// The repository, and the name that the image gets there.
pub(super) struct Remote {
    repository: Repository,
    name: Reference,
    /// The repository of the same registry that it comes from.
    sibling: Option<String>,
}

impl Remote {
    pub(super) fn new(client: &Client, name: &Reference, source: &dyn Source) -> Result<Self, RegistryError> {
        let repository = client.repository(name)?;
        let own = repository.origin();
        let sibling = source
            .origin()
            .filter(|other| other.registry() == own.registry() && other.repository() != own.repository());
        let sibling = sibling.map(|other| other.repository().to_owned());
        Ok(Self {
            repository: repository.for_push(&sibling.as_deref().into_iter().collect::<Vec<_>>()),
            name: name.clone(),
            sibling,
        })
    }

    /// The image under the wanted name, if it has that configuration: what a configuration lists as layers is the
    /// same, however they are compressed.
    fn same_config(&self, config: &Digest) -> Result<Option<Descriptor>, CopyError> {
        let name = ManifestName::of(&self.name);
        if self.repository.manifest_digest(name)?.is_none() {
            return Ok(None);
        }
        let there = self.repository.manifest(name)?;
        let manifest = image::parse_manifest(there.digest, &there.bytes).ok();
        let is_same = manifest.is_some_and(|manifest| manifest.config.digest == *config);
        Ok(is_same.then(|| descriptor(&there)))
    }

    /// Sees to it that the repository has a blob, and returns what it is there.
    fn send(&self, blob: &Descriptor, passage: &Passage<'_>) -> Result<Descriptor, CopyError> {
        if lies_elsewhere(blob) {
            return Ok(blob.clone());
        }
        if let Some(algorithm) = passage.compresses(blob) {
            return self.compress(blob, algorithm, passage);
        }
        if self.repository.blob_size(&blob.digest)?.is_some() {
            passage.tell(blob, LayerState::Exists);
            return Ok(blob.clone());
        }
        let mut begun = None;
        if let Some(sibling) = &self.sibling {
            match self.repository.mount_blob(&blob.digest, sibling)? {
                Mounted::No(upload) => begun = Some(upload),
                Mounted::Yes => {
                    passage.tell(blob, LayerState::Mounted(sibling.clone()));
                    return Ok(blob.clone());
                }
            }
        }
        let content = Plain {
            source: passage.source,
            blob,
        };
        let progress = |sent| passage.tell(blob, LayerState::Sent(sent));
        let sent = self.repository.upload(&content, begun, &progress);
        sent.map_err(|error| of_upload(blob, error))?;
        passage.tell(blob, LayerState::Done);
        Ok(blob.clone())
    }

    fn compress(
        &self,
        blob: &Descriptor,
        algorithm: Algorithm,
        passage: &Passage<'_>,
    ) -> Result<Descriptor, CopyError> {
        let content = Packed {
            source: passage.source,
            blob,
            algorithm,
        };
        let progress = |sent| passage.tell(blob, LayerState::Sent(sent));
        let sent = self.repository.upload(&content, None, &progress);
        let (digest, size) = sent.map_err(|error| of_upload(blob, error))?;
        passage.tell(blob, LayerState::Done);
        let suffix = match algorithm {
            Algorithm::Gzip(_) => "+gzip",
            Algorithm::Zstd(_) => "+zstd",
        };
        Ok(Descriptor::new(&format!("{OCI_LAYER}{suffix}"), digest, size))
    }
}

impl Sink for Remote {
    fn has(&self, top: &FetchedManifest, passage: &Passage<'_>) -> Result<Option<Descriptor>, CopyError> {
        let there = self.repository.manifest_digest(ManifestName::of(&self.name))?;
        if there == Some(top.digest) {
            return Ok(Some(descriptor(top)));
        }
        match image::parse_manifest(top.digest, &top.bytes) {
            Ok(manifest) if passage.source.is_made_up() && there.is_some() => {
                self.same_config(&manifest.config.digest)
            }
            _ => Ok(None),
        }
    }

    fn has_listed(&self, entry: &Descriptor) -> Result<bool, CopyError> {
        // A registry takes a manifest only if it has all that it names.
        let there = self
            .repository
            .manifest_digest(ManifestName::Digest(entry.digest))?;
        Ok(there == Some(entry.digest))
    }

    fn blobs(&mut self, manifest: &Manifest, passage: &Passage<'_>) -> Result<Vec<Descriptor>, CopyError> {
        let all = manifest.layers.iter().chain([&manifest.config]);
        let distinct: BTreeMap<Digest, &Descriptor> = all.map(|blob| (blob.digest, blob)).collect();
        let distinct: Vec<&Descriptor> = distinct.into_values().collect();
        let sent = parallel::map(&distinct, JOBS, |blob| {
            Ok::<_, CopyError>((blob.digest, self.send(blob, passage)?))
        })?;
        let sent: BTreeMap<Digest, Descriptor> = sent.into_iter().collect();
        // Equal blobs may be described differently.
        let as_sent = |layer: &Descriptor| match sent.get(&layer.digest) {
            Some(there) if there.digest != layer.digest => there.clone(),
            _ => layer.clone(),
        };
        Ok(manifest.layers.iter().map(as_sent).collect())
    }

    fn manifest(&mut self, manifest: &FetchedManifest, standing: Standing) -> Result<(), CopyError> {
        let name = match standing {
            Standing::Named => ManifestName::of(&self.name),
            Standing::Listed => ManifestName::Digest(manifest.digest),
        };
        if let ManifestName::Digest(wanted) = name
            && wanted != manifest.digest
        {
            return Err(CopyError::OtherDigest {
                wanted,
                found: manifest.digest,
            });
        }
        let (kind, bytes) = (&manifest.media_type, &manifest.bytes);
        Ok(self.repository.put_manifest(name, kind, bytes)?)
    }
}

pub(super) fn descriptor(manifest: &FetchedManifest) -> Descriptor {
    Descriptor::new(&manifest.media_type, manifest.digest, manifest.bytes.len() as u64)
}

fn of_upload(blob: &Descriptor, error: UploadError) -> CopyError {
    match error {
        UploadError::Registry(error) => error.into(),
        UploadError::Content(error) => CopyError::of_blob(blob.digest, error),
    }
}

/// A blob as it is.
struct Plain<'a> {
    source: &'a dyn Source,
    blob: &'a Descriptor,
}

impl Content for Plain<'_> {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.blob.digest, self.blob.size))
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        self.source.blob(self.blob)
    }
}

/// A layer that is compressed on the way.
struct Packed<'a> {
    source: &'a dyn Source,
    blob: &'a Descriptor,
    algorithm: Algorithm,
}

impl Content for Packed<'_> {
    fn known(&self) -> Option<(Digest, u64)> {
        None
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        let plain = Verifying::new(self.source.blob(self.blob)?, self.blob.digest, self.blob.size);
        Ok(Box::new(compress::reader(self.algorithm, plain)?))
    }
}
