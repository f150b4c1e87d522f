//! One layer: from the registry, from where a transfer stopped, or from the store.

use std::io;
use std::panic::resume_unwind;
use std::thread;
use std::time::Duration;

use mica_fs::digest::Verifying;
use mica_fs::layer::ingest::{IngestError, decompress, ingest};
use mica_fs::layer::writer::Written;
use mica_fs::store::{Download, WorkDir};

use super::feed::{Feed, Pieces, channel};
use super::room::{Bounded, NoRoom, room};
use super::{DiffId, Digest, LayerState, Listener, PullError, PullEvent, Repository, Store, StoreError};
use crate::http::wait;

/// How often to look whether another process is done with a blob.
const GLANCE: Duration = Duration::from_millis(100);

/// What is wrong with a layer's bytes.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// They are not those of the manifest.
    #[error("its bytes have the digest {found}: the registry, or something on the way, is broken")]
    Digest {
        /// Their digest.
        found: Digest,
    },
    /// Uncompressed, they are not those of the configuration.
    #[error("uncompressed it has the digest {found} where the image's configuration says {expected}")]
    DiffId {
        /// What the configuration says.
        expected: DiffId,
        /// Their digest.
        found: DiffId,
    },
    /// They cannot be decompressed.
    #[error("it cannot be decompressed")]
    Compression(#[source] io::Error),
    /// They become more than the disk can take.
    #[error(transparent)]
    TooLarge(NoRoom),
    /// They are no layer.
    #[error(transparent)]
    Tar(IngestError),
}

impl LayerError {
    fn of_tar(error: IngestError) -> Self {
        let no_room = match &error {
            IngestError::Read { source, .. } => source.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        match no_room {
            Some(no_room) => Self::TooLarge(*no_room),
            None => Self::Tar(error),
        }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Digest { .. } => "try again, or from another registry".to_owned(),
            Self::TooLarge(_) => {
                "if you trust the image, make room (`mica prune`), or set MICA_ROOT to another disk"
                    .to_owned()
            }
            _ => "the image is damaged where it was made: its owner has to push it again".to_owned(),
        })
    }
}

/// A layer to be had.
pub(super) struct Job {
    pub digest: Digest,
    pub size: u64,
    pub diff_id: DiffId,
}

/// Brings layers into the store.
pub(super) struct Fetcher<'a> {
    pub store: &'a Store,
    pub repository: &'a Repository,
    pub listener: Listener<'a>,
    pub stopped: &'a (dyn Fn() -> bool + Sync),
    pub name: String,
}

impl Fetcher<'_> {
    pub(super) fn fetch(&self, job: &Job) -> Result<(), PullError> {
        if self.is_there(job)? {
            self.tell(job, LayerState::Exists);
            return Ok(());
        }
        let mut download = self.own(job)?;
        // Whoever had it may have finished meanwhile.
        let state = match self.is_there(job)? {
            true => LayerState::Exists,
            false if self.store.hold_blob(&job.digest)? => {
                self.take_blob(job)?;
                LayerState::Done
            }
            false => {
                let taken = match self.transfer(job, &mut download) {
                    Ok(taken) => taken,
                    Err(error) => {
                        if matches!(error, PullError::Layer { .. }) {
                            download.remove()?;
                        }
                        return Err(error);
                    }
                };
                self.publish(job, download, taken)?;
                self.tell(job, LayerState::Done);
                return Ok(());
            }
        };
        download.remove()?;
        self.tell(job, state);
        Ok(())
    }

    /// Whether the store has the layer and its blob, which are kept then.
    fn is_there(&self, job: &Job) -> Result<bool, PullError> {
        if !self.store.has_layer(&job.diff_id) {
            return Ok(false);
        }
        self.store.layer(&job.diff_id)?;
        Ok(self.store.hold_blob(&job.digest)?)
    }

    /// The right to fetch the blob.
    fn own(&self, job: &Job) -> Result<Download, PullError> {
        let mut told = false;
        loop {
            if (self.stopped)() {
                return Err(PullError::Stopped);
            }
            if let Some(download) = self.store.download(&job.digest)? {
                return Ok(download);
            }
            if !told {
                self.tell(job, LayerState::Waiting);
                told = true;
            }
            wait(GLANCE, self.stopped);
        }
    }

    /// The store has the blob, but not the layer.
    fn take_blob(&self, job: &Job) -> Result<(), PullError> {
        let file = self.store.open_blob(&job.digest)?;
        let mut bytes = Verifying::new(file, job.digest, job.size);
        self.store.import_layer(&mut bytes, Some(job.diff_id))?;
        Ok(())
    }

    /// Fetches what is missing of the blob. If what was there before turns out to be wrong, all of it.
    fn transfer(&self, job: &Job, download: &mut Download) -> Result<Option<(WorkDir, Written)>, PullError> {
        if download.length() > job.size {
            download.clear()?;
        }
        loop {
            let was_resumed = download.length() > 0;
            match self.attempt(job, download) {
                Err(error @ PullError::Layer { .. }) if was_resumed => {
                    download.clear()?;
                    tracing::info!(%error, "fetching all of it again");
                }
                other => return other,
            }
        }
    }

    fn attempt(&self, job: &Job, download: &mut Download) -> Result<Option<(WorkDir, Written)>, PullError> {
        let work = match self.store.has_layer(&job.diff_id) {
            // Only its blob is missing.
            true => None,
            false => Some(self.store.work_dir()?),
        };
        let (send, pieces) = channel();
        thread::scope(|scope| {
            let feed = Feed {
                fetcher: self,
                job,
                download,
            };
            let is_wanted = work.is_some();
            let feeder = scope.spawn(move || feed.run(is_wanted.then_some(&send)));
            let taken = work.map(|work| take_in(work, pieces));
            let fed = feeder.join().unwrap_or_else(|panic| resume_unwind(panic));
            // What came explains what it was taken for.
            fed?;
            taken.transpose().map_err(|error| self.failed(job, error))
        })
    }

    fn publish(
        &self,
        job: &Job,
        download: Download,
        taken: Option<(WorkDir, Written)>,
    ) -> Result<(), PullError> {
        if let Some((work, written)) = taken {
            if written.diff_id != job.diff_id {
                let (expected, found) = (job.diff_id, written.diff_id);
                download.remove()?;
                return Err(self.layer_error(job, LayerError::DiffId { expected, found }));
            }
            self.store.publish_layer(work, &written)?;
        }
        Ok(self.store.publish_download(download, &job.digest)?)
    }

    fn failed(&self, job: &Job, error: TakeError) -> PullError {
        match error {
            TakeError::Store(error) => error.into(),
            TakeError::Layer(source) => self.layer_error(job, source),
        }
    }

    pub(super) fn layer_error(&self, job: &Job, source: LayerError) -> PullError {
        PullError::Layer {
            name: self.name.clone(),
            digest: job.digest,
            source: Box::new(source),
        }
    }

    pub(super) fn tell(&self, job: &Job, state: LayerState) {
        (self.listener)(PullEvent::Layer(job.digest, state));
    }
}

enum TakeError {
    Store(StoreError),
    Layer(LayerError),
}

/// Takes in a layer while its bytes come. Reads all pieces, whatever becomes of them: whether they are the right ones is
/// known at their end.
fn take_in(work: WorkDir, mut pieces: Pieces) -> Result<(WorkDir, Written), TakeError> {
    let written = match decompress(&mut pieces) {
        Ok(tar) => {
            let mut tar = Bounded::new(tar, || room(work.path()));
            ingest(&mut tar, work.path()).map_err(|error| match StoreError::from(error) {
                StoreError::Ingest(error) => TakeError::Layer(LayerError::of_tar(error)),
                error => TakeError::Store(error),
            })
        }
        Err(error) => Err(TakeError::Layer(LayerError::Compression(error))),
    };
    if !matches!(written, Err(TakeError::Store(_))) {
        pieces.drain();
    }
    Ok((work, written?))
}
