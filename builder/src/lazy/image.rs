//! An image in a registry, and its layers.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use mica_fs::digest::Digest;
use mica_fs::layer::Layer;
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use super::blob::Blob;
use super::layer::{self, Described};
use super::settle::settles;
use super::{LazyError, Notice};
use crate::image::{Image, Platform};
use crate::reference::Reference;
use crate::registry::{Client, ManifestName, RegistryError, RemoteImage, Repository};

/// How many layers are opened at once.
const AT_ONCE: usize = 4;
/// Who is told of what takes long. Called from several threads.
pub type Notify<'a> = &'a (dyn Fn(Notice) + Sync);

/// An image that is read in its registry.
#[derive(Clone)]
pub struct LazyImage {
    reference: Reference,
    repository: Repository,
    image: Image,
}

impl LazyImage {
    /// Finds the image of that name, for that platform where there is a choice. Fetches its manifest and its configuration.
    ///
    /// # Errors
    /// [`LazyError::Registry`] and [`LazyError::Image`].
    pub fn find(client: &Client, reference: &Reference, platform: &Platform) -> Result<Self, LazyError> {
        let repository = client.repository(reference)?;
        let remote = RemoteImage::find(&repository, ManifestName::of(reference), platform)?;
        Ok(Self {
            reference: reference.clone(),
            repository,
            image: Image {
                manifest_digest: remote.manifest_digest,
                manifest: remote.manifest,
                config: remote.config,
            },
        })
    }

    /// What it is called.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// The registry that it is in.
    pub fn registry(&self) -> &str {
        self.repository.origin().registry()
    }

    /// Its manifest and its configuration. Neither need be in the store, nor its layers.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Opens some of its layers, several at a time.
    ///
    /// # Errors
    /// [`LazyError`] of the first layer that cannot be read.
    pub fn layers(
        &self,
        store: &Store,
        numbers: Range<usize>,
        notify: Notify<'_>,
    ) -> Result<Vec<Arc<Layer>>, LazyError> {
        let todo = Mutex::new(numbers.clone());
        let opened = Mutex::new(BTreeMap::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(numbers.len()) {
                scope.spawn(|| {
                    while let Some(number) = lock(&todo).next() {
                        let layer = self.layer(store, number, notify);
                        if layer.is_err() {
                            // The others would be for nothing.
                            *lock(&todo) = 0..0;
                        }
                        lock(&opened).insert(number, layer);
                    }
                });
            }
        });
        let opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
        opened.into_values().collect()
    }

    /// A tree that has, at these paths, what the image has there. Only the topmost layers are opened that this takes.
    ///
    /// # Errors
    /// [`LazyError`].
    pub fn tree_for(
        &self,
        store: &Store,
        paths: &[(ImagePath, Follow)],
        notify: Notify<'_>,
    ) -> Result<Overlay, LazyError> {
        let count = self.image.layers().len();
        if paths.iter().any(|(path, _)| path.is_root()) {
            return Ok(Overlay::read_only(self.layers(store, 0..count, notify)?));
        }
        let mut topmost = Vec::new();
        for number in (0..count).rev() {
            topmost.insert(0, self.layer(store, number, notify)?);
            if paths.iter().all(|(path, last)| settles(&topmost, path, *last)) {
                break;
            }
        }
        Ok(Overlay::read_only(topmost))
    }

    fn layer(&self, store: &Store, number: usize, notify: Notify<'_>) -> Result<Arc<Layer>, LazyError> {
        let (descriptor, diff_id) = (&self.image.manifest.layers[number], self.image.layers()[number]);
        let none = BTreeMap::new();
        let described = Described {
            digest: descriptor.digest,
            size: descriptor.size,
            annotations: descriptor.annotations.as_ref().unwrap_or(&none),
            diff_id,
        };
        let blob = RegistryBlob {
            repository: self.repository.clone(),
            digest: descriptor.digest,
            size: descriptor.size,
        };
        layer::open(store, &described, Box::new(blob), notify)
    }
}

/// A blob of a repository.
struct RegistryBlob {
    repository: Repository,
    digest: Digest,
    size: u64,
}

impl Blob for RegistryBlob {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(Part(self.repository.blob_range(self.digest, range))))
    }

    fn whole(&self) -> Box<dyn Read + Send> {
        Box::new(self.repository.blob(self.digest, self.size, 0))
    }

    fn is_its_own(&self, error: &io::Error) -> bool {
        registry_error(error).is_some()
    }
}

/// A part of a blob.
struct Part<R>(R);

impl<R: Read> Read for Part<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match registry_error(&error) {
            Some(RegistryError::NoRanges { .. }) => io::Error::new(io::ErrorKind::Unsupported, error),
            _ => error,
        })
    }
}

fn registry_error(error: &io::Error) -> Option<&RegistryError> {
    error.get_ref()?.downcast_ref()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
