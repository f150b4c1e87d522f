//! Images from registries into the store.
//!
//! A layer is never unpacked: while its blob arrives it is hashed, kept as it is in a [`Download`], decompressed, and
//! indexed. What has arrived stays when a pull ends early, and the next one goes on after it; layers that are whole are
//! not fetched again.
//!
//! [`Download`]: mica_fs::store::Download

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use mica_fs::digest::{DiffId, Digest};
use mica_fs::store::{Store, StoreError};

use crate::image::{Image, Platform};
use crate::reference::Reference;
use crate::registry::{Client, ManifestName, RegistryError, RemoteImage, RemoteImageError, Repository};

mod feed;
mod images;
mod layer;
mod room;

pub use images::{Images, When};
pub use layer::LayerError;
pub use room::NoRoom;

/// How many layers are fetched at once, as by Docker.
pub const JOBS: usize = 3;

/// Why an image could not be pulled. The store has no image more than before.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Its manifest or its configuration.
    #[error(transparent)]
    Image(#[from] RemoteImageError),
    /// The registry, while layers were fetched.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The image is for another platform than was asked for.
    #[error("{name} is for the platform {found}, not for {wanted}")]
    Platform {
        /// The image.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The image's own.
        found: String,
    },
    /// A layer.
    #[error("the layer {digest} of {name} cannot be used")]
    Layer {
        /// The image.
        name: String,
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        source: Box<LayerError>,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It was stopped.
    #[error("the pull was stopped; what has arrived is kept for the next one")]
    Stopped,
}

impl PullError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Registry(error) => error.hint(),
            Self::Platform { .. } => Some("name another by --platform, or leave it out".to_owned()),
            Self::Layer { source, .. } => source.hint(),
            Self::Store(_) | Self::Stopped => None,
        }
    }

    /// Whether there is no such image.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Image(RemoteImageError::Registry(error)) if error.is_unknown())
    }
}

/// What happens to a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayerState {
    /// It has its turn later.
    Queued,
    /// It is in the store.
    Exists,
    /// Another process fetches it.
    Waiting,
    /// So many of its bytes have arrived.
    Arrived(u64),
    /// It was taken in.
    Done,
}

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum PullEvent {
    /// The image was found: its name, and its layers' blobs with their sizes, bottom layer first.
    Found(String, Vec<(Digest, u64)>),
    /// Something happened to a layer.
    Layer(Digest, LayerState),
    /// It has ended, with this error if any. Comes after each [`Self::Found`].
    Ended(Option<String>),
    /// It is not as one would expect.
    Warning(String),
}

/// Takes events, from several threads at once.
pub type Listener<'a> = &'a (dyn Fn(PullEvent) + Sync);

/// What is to become of the image's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Naming {
    /// The image gets it, and who had it loses it.
    Named,
    /// Nothing: the image has no name in the store.
    Unnamed,
}

/// How to pull.
pub struct Pull<'a> {
    /// Where to.
    pub store: &'a Store,
    /// Where from.
    pub client: &'a Client,
    /// The platform that was asked for; the machine's own is taken otherwise, if there is a choice.
    pub platform: Option<Platform>,
    /// How many layers are fetched at once.
    pub jobs: usize,
    /// Who hears of it.
    pub listener: Listener<'a>,
}

/// An image that was pulled.
#[derive(Clone, PartialEq, Debug)]
pub struct Pulled {
    /// The image.
    pub image: Image,
    /// The digest of what the name stands for: the image's manifest, or an index that lists it.
    pub named: Digest,
    /// Whether the name stood for another image in the store, or for none.
    pub is_new: bool,
}

impl Pull<'_> {
    /// Pulls an image.
    ///
    /// # Errors
    /// [`PullError`].
    pub fn pull(&self, reference: &Reference, naming: Naming) -> Result<Pulled, PullError> {
        let repository = self.client.repository(reference)?;
        let host = Platform::host();
        let platform = self.platform.as_ref().unwrap_or(&host);
        let remote = RemoteImage::find(&repository, ManifestName::of(reference), platform)?;
        self.check_platform(reference, &remote, platform)?;
        let arrived = self.layers(reference, &repository, &remote);
        let pulled = arrived.and_then(|()| self.publish(reference, naming, remote));
        let error = pulled.as_ref().err().map(ToString::to_string);
        (self.listener)(PullEvent::Ended(error));
        pulled
    }

    fn check_platform(
        &self,
        reference: &Reference,
        remote: &RemoteImage,
        wanted: &Platform,
    ) -> Result<(), PullError> {
        let found = remote.config.platform();
        if found.suits(wanted) {
            return Ok(());
        }
        let error = PullError::Platform {
            name: reference.familiar(),
            wanted: wanted.to_string(),
            found: found.to_string(),
        };
        if self.platform.is_some() {
            return Err(error);
        }
        (self.listener)(PullEvent::Warning(error.to_string()));
        Ok(())
    }

    /// Brings the layers into the store, several at once, the bottom ones first.
    fn layers(
        &self,
        reference: &Reference,
        repository: &Repository,
        remote: &RemoteImage,
    ) -> Result<(), PullError> {
        let blobs = remote.manifest.layers.iter();
        let mut seen = BTreeSet::new();
        let jobs: VecDeque<layer::Job> = blobs
            .zip(remote.config.rootfs.diff_ids.iter().copied())
            .filter(|(blob, diff_id)| seen.insert((blob.digest, *diff_id)))
            .map(|(blob, diff_id)| layer::Job {
                digest: blob.digest,
                size: blob.size,
                diff_id,
            })
            .collect();
        let announced = jobs.iter().map(|job| (job.digest, job.size)).collect();
        (self.listener)(PullEvent::Found(reference.familiar(), announced));
        let failed = AtomicBool::new(false);
        let stopped = || failed.load(Ordering::Relaxed) || self.client.is_stopped();
        let fetcher = layer::Fetcher {
            store: self.store,
            repository,
            listener: self.listener,
            stopped: &stopped,
            name: reference.familiar(),
        };
        let queue = Mutex::new(jobs);
        let first_error = Mutex::new(None);
        let work = || {
            // The first error is the one to tell: the others gave up because of it.
            while let Some(job) = next(&queue) {
                if let Err(error) = fetcher.fetch(&job) {
                    let mut first = first_error.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.store(true, Ordering::Relaxed);
                    first.get_or_insert(error);
                    return;
                }
            }
        };
        thread::scope(|scope| {
            let count = queue.lock().unwrap_or_else(PoisonError::into_inner).len();
            for _ in 0..count.min(self.jobs.max(1)) {
                scope.spawn(work);
            }
        });
        match first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Writes what is not a layer, and names the image.
    fn publish(
        &self,
        reference: &Reference,
        naming: Naming,
        remote: RemoteImage,
    ) -> Result<Pulled, PullError> {
        let store = self.store;
        store.put_blob(&remote.config_bytes)?;
        let digest = store.put_blob(&remote.manifest_bytes)?;
        let layers = remote.manifest.layers.iter().map(|layer| layer.digest);
        let blobs: Vec<Digest> = layers.chain([remote.manifest.config.digest]).collect();
        store.note_sources(&blobs, reference.domain(), reference.path())?;
        let name = reference.stored();
        let is_new = store.resolve(&name)? != Some(digest);
        match naming {
            Naming::Named => store.tag(&name, &digest)?,
            Naming::Unnamed => store.add_image(&digest)?,
        }
        Ok(Pulled {
            image: Image {
                manifest_digest: digest,
                manifest: remote.manifest,
                config: remote.config,
            },
            named: remote.named,
            is_new,
        })
    }
}

fn next(queue: &Mutex<VecDeque<layer::Job>>) -> Option<layer::Job> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}
