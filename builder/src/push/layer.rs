//! A layer, or another blob, on its way out.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use mica_fs::digest::{DiffId, Digest, Verifying};
use mica_fs::store::{Store, StoreError};

use super::{LayerState, Push, PushError, lock};
use crate::archive::{Coding, Existing};
use crate::compress::{self, Algorithm};
use crate::image::{Descriptor, OCI_LAYER};
use crate::registry::{Begun, Content, Mounted, RegistryError, Repository};

/// How much of a layer keeps one processor busy, in bytes.
const PART: u64 = 1 << 20;

/// A blob of the store, and the form in which it leaves.
pub(crate) struct Outgoing {
    /// As the image's manifest in the store names it.
    pub(super) stored: Descriptor,
    pub(super) diff_id: Option<DiffId>,
    form: Form,
}

enum Form {
    AsItIs,
    Compressed(Recipe),
}

/// How a layer is compressed.
struct Recipe {
    algorithm: Algorithm,
    /// The name of the algorithm and its level in the catalog.
    coding: String,
    media_type: String,
    /// What came of it before.
    known: Option<(Digest, u64)>,
}

impl Outgoing {
    /// A layer that leaves as `coding` says.
    pub(crate) fn new(
        store: &Store,
        coding: Coding,
        id: &DiffId,
        stored: &Descriptor,
    ) -> Result<Self, StoreError> {
        // The blob of a layer that was made here is its plain tar; one that came as a plain tar stays one.
        let is_plain = stored.digest == id.0;
        let came = !is_plain || store.has_source(&stored.digest)?;
        let stays = coding.existing == Existing::Keep && came;
        let form = match coding.algorithm() {
            Some(algorithm) if !stays => Form::Compressed(Recipe::new(store, coding, algorithm, id)?),
            _ if stays => Form::AsItIs,
            // A plain tar is what is wanted, whatever it came as.
            _ => return Self::plain(store, id, stored),
        };
        Ok(Self {
            stored: stored.clone(),
            diff_id: Some(*id),
            form,
        })
    }

    /// A blob that does not change.
    pub(crate) fn as_it_is(stored: Descriptor) -> Self {
        Self {
            stored,
            diff_id: None,
            form: Form::AsItIs,
        }
    }

    fn plain(store: &Store, id: &DiffId, stored: &Descriptor) -> Result<Self, StoreError> {
        let size = store.layer(id)?.index().tar_size();
        let plain = Descriptor::new(OCI_LAYER, id.0, size);
        Ok(Self {
            stored: if stored.digest == id.0 {
                stored.clone()
            } else {
                plain
            },
            diff_id: Some(*id),
            form: Form::AsItIs,
        })
    }

    /// What it is going to be, if that is known.
    pub(super) fn foreseen(&self) -> Option<Descriptor> {
        match &self.form {
            Form::AsItIs => Some(self.stored.clone()),
            Form::Compressed(recipe) => recipe.known.map(|blob| recipe.descriptor(blob)),
        }
    }

    /// The digest that it is going to have, if that is known.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.foreseen().map(|descriptor| descriptor.digest)
    }
}

impl Recipe {
    fn new(store: &Store, coding: Coding, algorithm: Algorithm, id: &DiffId) -> Result<Self, StoreError> {
        let name = algorithm.to_string();
        Ok(Self {
            algorithm,
            known: store.compressed(id, &name)?,
            coding: name,
            media_type: format!("{OCI_LAYER}{}", coding.compression.suffix()),
        })
    }

    fn descriptor(&self, (digest, size): (Digest, u64)) -> Descriptor {
        Descriptor::new(&self.media_type, digest, size)
    }
}

/// Sends blobs to a repository.
pub(super) struct Sender<'a> {
    push: &'a Push<'a>,
    repository: &'a Repository,
    compressor: Gate,
}

impl<'a> Sender<'a> {
    pub(super) fn new(push: &'a Push<'a>, repository: &'a Repository) -> Self {
        Self {
            push,
            repository,
            compressor: Gate::new(),
        }
    }

    /// Sees to it that the repository has a blob, and returns what it is there.
    pub(super) fn send(&self, blob: &Outgoing) -> Result<Descriptor, PushError> {
        let mut begun = None;
        if let Some(there) = blob.foreseen() {
            match self.find(blob, &there.digest)? {
                Found::There => return Ok(there),
                Found::Not(upload) => begun = upload,
            }
        }
        let sent = match &blob.form {
            Form::AsItIs if self.push.store.has_blob(&blob.stored.digest) => {
                let stored = Stored {
                    store: self.push.store,
                    digest: blob.stored.digest,
                    size: blob.stored.size,
                };
                self.upload(blob, &stored, begun, &|sent| {
                    self.push.tell(blob, LayerState::Sent(sent))
                })?;
                blob.stored.clone()
            }
            Form::AsItIs => self.replace(blob, begun)?,
            Form::Compressed(recipe) => self.compress(blob, recipe, begun)?,
        };
        self.is_there(&sent.digest);
        self.push.tell(blob, LayerState::Done);
        Ok(sent)
    }

    fn is_there(&self, digest: &Digest) {
        let name = self.repository.name().to_owned();
        lock(&self.push.there).insert((name, *digest));
    }

    /// Whether the repository has a blob, or can take it from another one.
    fn find(&self, blob: &Outgoing, digest: &Digest) -> Result<Found, PushError> {
        let known = (self.repository.name().to_owned(), *digest);
        if lock(&self.push.there).contains(&known) || self.repository.blob_size(digest)?.is_some() {
            self.is_there(digest);
            self.push.tell(blob, LayerState::Exists);
            return Ok(Found::There);
        }
        // One may have lost the blob, or not be for everyone.
        let sources = self.push.mount_sources(self.repository, digest)?;
        let mut upload = None;
        for source in sources.into_iter().take(super::MAX_MOUNT_SOURCES) {
            match self.repository.mount_blob(digest, &source) {
                Ok(Mounted::Yes) => {
                    self.abandon(upload);
                    self.is_there(digest);
                    self.push.tell(blob, LayerState::Mounted(source));
                    return Ok(Found::There);
                }
                Ok(Mounted::No(begun)) => self.abandon(upload.replace(begun)),
                Err(
                    error @ RegistryError::Refused {
                        status: 401 | 403 | 404,
                        ..
                    },
                ) => {
                    tracing::info!(%error, %source, "no mount");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Found::Not(upload))
    }

    /// Ends an upload that nothing is sent in.
    fn abandon(&self, upload: Option<Begun>) {
        if let Some(upload) = upload {
            self.repository.cancel(upload);
        }
    }

    fn upload(
        &self,
        blob: &Outgoing,
        content: &dyn Content,
        begun: Option<Begun>,
        progress: &dyn Fn(u64),
    ) -> Result<(Digest, u64), PushError> {
        let sent = self.repository.upload(content, begun, progress);
        sent.map_err(|error| PushError::of_upload(error, blob.stored.digest))
    }

    /// Sends a layer in another form than it came in: its blob is not here any more.
    fn replace(&self, blob: &Outgoing, begun: Option<Begun>) -> Result<Descriptor, PushError> {
        let store = self.push.store;
        let Some(id) = blob.diff_id.filter(|id| store.has_layer(id)) else {
            return Err(PushError::Missing {
                digest: blob.stored.digest,
                repository: self.repository.name().to_owned(),
            });
        };
        let coding = match self.push.form.coding.algorithm() {
            Some(_) => self.push.form.coding,
            None => super::CODING,
        };
        let algorithm = coding.algorithm().unwrap_or(Algorithm::GZIP);
        self.compress(blob, &Recipe::new(store, coding, algorithm, &id)?, begun)
    }

    fn compress(
        &self,
        blob: &Outgoing,
        recipe: &Recipe,
        begun: Option<Begun>,
    ) -> Result<Descriptor, PushError> {
        let store = self.push.store;
        let id = blob.diff_id.unwrap_or(DiffId(blob.stored.digest));
        let read = Arc::new(AtomicU64::new(0));
        let size = store.layer(&id)?.index().tar_size();
        let _turn = self.compressor.pass(size);
        let packed = Packed {
            store,
            layer: id,
            size,
            algorithm: recipe.algorithm,
            read: read.clone(),
        };
        let progress = |_| {
            self.push
                .tell(blob, LayerState::Sent(read.load(Ordering::Relaxed)))
        };
        let sent = self.upload(blob, &packed, begun, &progress)?;
        store.note_compressed(&id, &recipe.coding, sent)?;
        Ok(recipe.descriptor(sent))
    }
}

/// Lets layers be compressed side by side as long as there are processors for them: a small one needs one, a large one
/// all, and the others' memory.
struct Gate {
    processors: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

impl Gate {
    fn new() -> Self {
        let processors = thread::available_parallelism().map_or(1, |n| n.get() as u64);
        Self {
            processors,
            free: Mutex::new(processors),
            freed: Condvar::new(),
        }
    }

    /// Waits until a layer of that size, in bytes, may be compressed, which it may until the result is dropped.
    fn pass(&self, size: u64) -> Turn<'_> {
        let wanted = (size / PART + 1).min(self.processors);
        let free = self.freed.wait_while(lock(&self.free), |free| *free < wanted);
        *free.unwrap_or_else(PoisonError::into_inner) -= wanted;
        Turn { gate: self, wanted }
    }
}

struct Turn<'a> {
    gate: &'a Gate,
    wanted: u64,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(&self.gate.free) += self.wanted;
        self.gate.freed.notify_all();
    }
}

enum Found {
    There,
    /// The registry may have begun an upload already.
    Not(Option<Begun>),
}

/// A blob of the store as it is.
struct Stored<'a> {
    store: &'a Store,
    digest: Digest,
    size: u64,
}

impl Content for Stored<'_> {
    fn known(&self) -> Option<(Digest, u64)> {
        Some((self.digest, self.size))
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        let file = self.store.open_blob(&self.digest).map_err(io::Error::other)?;
        Ok(Box::new(file))
    }
}

/// A layer that is compressed while it is read.
struct Packed<'a> {
    store: &'a Store,
    layer: DiffId,
    size: u64,
    algorithm: Algorithm,
    /// How many bytes of the plain tar have been read.
    read: Arc<AtomicU64>,
}

impl Content for Packed<'_> {
    fn known(&self) -> Option<(Digest, u64)> {
        None
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>> {
        let file = self.store.open_blob(&self.layer.0).map_err(io::Error::other)?;
        self.read.store(0, Ordering::Relaxed);
        let plain = Counting {
            from: Verifying::new(file, self.layer.0, self.size),
            read: self.read.clone(),
        };
        Ok(Box::new(compress::reader(self.algorithm, plain)?))
    }
}

struct Counting<R> {
    from: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_layers_share_the_processors_and_a_large_one_has_all() {
        let gate = Gate {
            processors: 2,
            free: Mutex::new(2),
            freed: Condvar::new(),
        };
        let small = [gate.pass(0), gate.pass(PART - 1)];
        assert_eq!(*lock(&gate.free), 0);
        thread::scope(|scope| {
            let large = scope.spawn(|| drop(gate.pass(100 * PART)));
            drop(small);
            large.join().unwrap();
        });
        assert_eq!(*lock(&gate.free), 2);
    }
}
