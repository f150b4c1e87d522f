//! Images of the store into registries.
//!
//! What came compressed leaves as it came, so an image that was pulled keeps its digests. A layer that was made here
//! is compressed while it is sent, and what it became is remembered: the next push asks for that, and sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mica_fs::digest::{DiffId, Digest};
use mica_fs::store::{Store, StoreError};

use crate::archive::{Coding, Compression, Existing};
use crate::image::{self, Descriptor, Image, ImageError, MANIFEST_LIMIT, Manifest, MediaTypes, OCI_LAYER};
use crate::parallel;
use crate::reference::Reference;
use crate::registry::{Client, ManifestName, RegistryError, Repository, UploadError};

mod layer;

pub(crate) use layer::Outgoing;
use layer::Sender;

/// How many blobs are sent at once.
pub const JOBS: usize = 4;
/// How many repositories a token is asked for, to mount blobs from.
const MAX_MOUNT_SOURCES: usize = 16;

/// Why an image could not be pushed. Its name in the registry stands for what it stood for before.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The registry did not take it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer cannot be read or compressed.
    #[error("cannot push the layer {digest}")]
    Layer {
        /// The layer's blob, as the store has it.
        digest: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// Neither the store nor the registry has a layer.
    #[error("the layer {digest} is neither in the store nor in {repository}")]
    Missing {
        /// The layer's blob.
        digest: Digest,
        /// Where it was looked for.
        repository: String,
    },
    /// A name with another digest than the image's.
    #[error("the image has the digest {found}, and cannot be pushed as {wanted}")]
    OtherDigest {
        /// The digest in the name.
        wanted: Digest,
        /// The image's.
        found: Digest,
    },
    /// The image is not what it should be.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PushError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Image(error) => error.hint(),
            Self::Missing { .. } => {
                Some("pull the image again, or push to the registry that it came from".to_owned())
            }
            Self::Layer { .. } => Some("`mica fsck` tells whether the store is damaged".to_owned()),
            Self::OtherDigest { .. } | Self::Store(_) => None,
        }
    }
}

/// What happens to a layer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LayerState {
    /// The registry has it.
    Exists,
    /// The registry took it from another of its repositories.
    Mounted(String),
    /// So many bytes of it have been sent; of one that is compressed on the way, before compression.
    Sent(u64),
    /// It was sent.
    Done,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum PushEvent {
    /// It begins: the repository, and the layers' blobs with their sizes, bottom layer first.
    Begun(String, Vec<(Digest, u64)>),
    /// Something happened to a layer.
    Layer(Digest, LayerState),
}

/// Takes events, from several threads at once.
pub type Listener<'a> = &'a (dyn Fn(PushEvent) + Sync);

/// In which form images are pushed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Form {
    /// How layers are compressed.
    pub coding: Coding,
    /// Whose media types the manifest has; as it is if `None`.
    pub media_types: Option<MediaTypes>,
    /// What the image is called.
    pub naming: Naming,
}

/// What an image is called in its registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// By the tag of the name, or by its digest, which must be the image's.
    Name,
    /// By its digest alone: no tag becomes another's.
    Digest,
}

impl From<Coding> for Form {
    fn from(coding: Coding) -> Self {
        Self {
            coding,
            media_types: None,
            naming: Naming::Name,
        }
    }
}

/// How to push.
pub struct Push<'a> {
    store: &'a Store,
    client: &'a Client,
    form: Form,
    listener: Listener<'a>,
    /// What is known to be in a repository.
    there: Mutex<BTreeSet<(String, Digest)>>,
}

/// An image that was pushed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pushed {
    /// The digest and the size of its manifest in the registry.
    pub manifest: Descriptor,
    /// Whether the registry had the image under this name already.
    pub was_there: bool,
}

/// How layers are compressed unless told otherwise: by gzip, which every tool reads; those that came compressed stay.
pub const CODING: Coding = Coding {
    compression: Compression::Gzip,
    level: None,
    existing: Existing::Keep,
};

impl<'a> Push<'a> {
    /// Pushes out of `store`, in the form `form`.
    pub fn new(store: &'a Store, client: &'a Client, form: impl Into<Form>, listener: Listener<'a>) -> Self {
        Self {
            store,
            client,
            form: form.into(),
            listener,
            there: Mutex::default(),
        }
    }

    /// Pushes an image to a name.
    ///
    /// # Errors
    /// [`PushError`].
    pub fn push(&self, image: &Image, to: &Reference) -> Result<Pushed, PushError> {
        let mut layers = Vec::new();
        for (id, came) in image.layers().iter().zip(&image.manifest.layers) {
            layers.push(Outgoing::new(self.store, self.coding_of(came), id, came)?);
        }
        let stored = layers.iter().map(|layer| &layer.stored);
        let announced = stored.map(|layer| (layer.digest, layer.size)).collect();
        (self.listener)(PushEvent::Begun(to.repository(), announced));
        let config = Outgoing::as_it_is(image.manifest.config.clone());
        let repository = self.repository(to, &config, &layers)?;
        if let Some(manifest) = self.foreseen(image, &layers)?
            && repository.manifest_digest(self.name(to, manifest.digest)?)? == Some(manifest.digest)
        {
            for layer in &layers {
                self.tell(layer, LayerState::Exists);
            }
            return Ok(Pushed {
                manifest,
                was_there: true,
            });
        }
        let sent = self.blobs(&repository, &config, &layers)?;
        let (manifest, bytes) = self.manifest(image, sent)?;
        let name = self.name(to, manifest.digest)?;
        repository.put_manifest(name, &manifest.media_type, &bytes)?;
        Ok(Pushed {
            manifest,
            was_there: false,
        })
    }

    /// What the manifest with this digest is to be called.
    fn name<'n>(&self, to: &'n Reference, found: Digest) -> Result<ManifestName<'n>, PushError> {
        match (self.form.naming, ManifestName::of(to)) {
            (Naming::Digest, _) => Ok(ManifestName::Digest(found)),
            (Naming::Name, ManifestName::Digest(wanted)) if wanted != found => {
                Err(PushError::OtherDigest { wanted, found })
            }
            (Naming::Name, name) => Ok(name),
        }
    }

    /// How a layer is compressed: Docker's media types have none for zstd.
    fn coding_of(&self, came: &Descriptor) -> Coding {
        let is_zstd = came.media_type.ends_with("zstd");
        match self.form.media_types {
            Some(MediaTypes::Docker) if is_zstd => Coding {
                existing: Existing::Recode,
                ..self.form.coding
            },
            _ => self.form.coding,
        }
    }

    /// Pushes a manifest with these layers of the store and a configuration of any kind.
    ///
    /// # Errors
    /// [`PushError`].
    pub(crate) fn push_artifact(
        &self,
        layers: &[DiffId],
        (config_type, config): (&str, &[u8]),
        to: &Reference,
    ) -> Result<(), PushError> {
        let digest = self.store.put_blob(config)?;
        let config = Descriptor::new(config_type, digest, config.len() as u64);
        let config = Outgoing::as_it_is(config);
        let mut outgoing = Vec::new();
        for id in layers {
            let size = self.store.layer(id)?.index().tar_size();
            let plain = Descriptor::new(OCI_LAYER, id.0, size);
            outgoing.push(Outgoing::new(self.store, self.form.coding, id, &plain)?);
        }
        let stored = outgoing.iter().map(|layer| &layer.stored);
        let announced = stored.map(|layer| (layer.digest, layer.size)).collect();
        (self.listener)(PushEvent::Begun(to.repository(), announced));
        let repository = self.repository(to, &config, &outgoing)?;
        let sent = self.blobs(&repository, &config, &outgoing)?;
        let manifest = Manifest::new(config.stored, sent);
        let name = ManifestName::of(to);
        Ok(repository.put_manifest(name, manifest.media_type(), &image::to_json(&manifest))?)
    }

    /// The repository, with the right to mount blobs from others that had them.
    fn repository(
        &self,
        to: &Reference,
        config: &Outgoing,
        layers: &[Outgoing],
    ) -> Result<Repository, PushError> {
        let repository = self.client.repository(to)?;
        let mut others = BTreeSet::new();
        for digest in layers.iter().chain([config]).filter_map(Outgoing::digest) {
            others.extend(self.mount_sources(&repository, &digest)?);
        }
        let others: Vec<&str> = others
            .iter()
            .map(String::as_str)
            .take(MAX_MOUNT_SOURCES)
            .collect();
        Ok(repository.for_push(&others))
    }

    /// The other repositories of the registry that had a blob.
    fn mount_sources(&self, repository: &Repository, digest: &Digest) -> Result<Vec<String>, StoreError> {
        let origin = repository.origin();
        let mut sources = self.store.sources(digest, origin.registry())?;
        sources.retain(|source| source != origin.repository());
        Ok(sources)
    }

    /// The manifest that the registry is going to have, if all layers are known as they will be there.
    fn foreseen(&self, image: &Image, layers: &[Outgoing]) -> Result<Option<Descriptor>, PushError> {
        let known: Option<Vec<Descriptor>> = layers.iter().map(Outgoing::foreseen).collect();
        known
            .map(|layers| self.manifest(image, layers).map(|(descriptor, _)| descriptor))
            .transpose()
    }

    /// The manifest with these layers: as it is in the store, if nothing in it changes.
    fn manifest(&self, image: &Image, layers: Vec<Descriptor>) -> Result<(Descriptor, Vec<u8>), PushError> {
        let own = &image.manifest;
        let own_types = MediaTypes::of(own.media_type());
        let is_same = layers == own.layers;
        let types = match self.form.media_types {
            Some(types) => types,
            None if is_same => own_types,
            None => MediaTypes::Oci,
        };
        let (media_type, bytes) = if is_same && types == own_types {
            let bytes = self.store.read_blob(&image.manifest_digest, MANIFEST_LIMIT)?;
            (own.media_type().to_owned(), bytes)
        } else {
            let manifest = own.rewritten(layers, types);
            (manifest.media_type().to_owned(), image::to_json(&manifest))
        };
        let mut descriptor = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
        descriptor.platform = (!image.config.os.is_empty()).then(|| image.config.platform());
        Ok((descriptor, bytes))
    }

    /// Sends what the repository lacks of the layers and the configuration, several at once, and notes that it has them;
    /// returns the layers as they are there.
    fn blobs(
        &self,
        repository: &Repository,
        config: &Outgoing,
        layers: &[Outgoing],
    ) -> Result<Vec<Descriptor>, PushError> {
        let jobs: Vec<&Outgoing> = distinct(layers).chain([config]).collect();
        let sender = Sender::new(self, repository);
        let sent = parallel::map(&jobs, JOBS, |job| {
            Ok::<_, PushError>((job.stored.digest, sender.send(job)?))
        })?;
        let results: BTreeMap<Digest, Descriptor> = sent.into_iter().collect();
        let blobs: Vec<Digest> = results.values().map(|blob| blob.digest).collect();
        let origin = repository.origin();
        self.store
            .note_sources(&blobs, origin.registry(), origin.repository())?;
        let sent = layers
            .iter()
            .filter_map(|layer| results.get(&layer.stored.digest).cloned());
        Ok(sent.collect())
    }

    fn tell(&self, layer: &Outgoing, state: LayerState) {
        (self.listener)(PushEvent::Layer(layer.stored.digest, state));
    }
}

/// The layers, each once.
fn distinct(layers: &[Outgoing]) -> impl Iterator<Item = &Outgoing> {
    let mut seen = BTreeSet::new();
    layers
        .iter()
        .filter(move |layer| seen.insert(layer.stored.digest))
}

/// Locks a mutex. What it guards is valid after every statement, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PushError {
    fn of_upload(error: UploadError, digest: Digest) -> Self {
        match error {
            UploadError::Registry(error) => error.into(),
            UploadError::Content(source) => Self::Layer { digest, source },
        }
    }
}
