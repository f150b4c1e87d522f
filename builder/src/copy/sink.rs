//! Where an image goes.

use std::io::Read;

use super::source::Source;
use super::{BlobState, CopyError, CopyEvent, Listener};
use crate::compress::Algorithm;
use crate::image::{Descriptor, Manifest};
use crate::registry::FetchedManifest;

/// What an image can be written to.
pub(super) trait Sink {
    /// Whether the image that is to be copied is there already, under the wanted name.
    fn has(&self, top: &FetchedManifest, passage: &Passage<'_>) -> Result<Option<Descriptor>, CopyError>;

    /// Whether what an index lists is there, with all that belongs to it.
    fn has_listed(&self, entry: &Descriptor) -> Result<bool, CopyError>;

    /// Takes the blobs of a manifest; returns its layers as they are there.
    fn blobs(&mut self, manifest: &Manifest, passage: &Passage<'_>) -> Result<Vec<Descriptor>, CopyError>;

    /// Takes a manifest or an index. All that it names is there.
    fn manifest(&mut self, manifest: &FetchedManifest, standing: Standing) -> Result<(), CopyError>;
}

/// What a manifest is to the image that is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is what the name stands for.
    Named,
    /// An index lists it.
    Listed,
}

/// How blobs pass from a source to a sink.
pub(super) struct Passage<'a> {
    pub(super) source: &'a dyn Source,
    /// How plain layers are compressed, if they are to be.
    pub(super) algorithm: Option<Algorithm>,
    pub(super) listener: Listener<'a>,
    /// Says whether to give up.
    pub(super) stopped: &'a (dyn Fn() -> bool + Sync),
}

impl Passage<'_> {
    pub(super) fn tell(&self, blob: &Descriptor, state: BlobState) {
        (self.listener)(CopyEvent::Blob(blob.digest, state));
    }

    /// The algorithm for a layer that is to be compressed.
    pub(super) fn compresses(&self, layer: &Descriptor) -> Option<Algorithm> {
        let is_plain =
            layer.is_layer() && !layer.media_type.ends_with("gzip") && !layer.media_type.ends_with("zstd");
        self.algorithm.filter(|_| is_plain)
    }

    /// A blob's bytes, which tell how many have passed.
    pub(super) fn open<'b>(&'b self, blob: &'b Descriptor) -> Result<impl Read + use<'b>, CopyError> {
        let content = self.source.blob(blob);
        Ok(Telling {
            content: content.map_err(|e| CopyError::of_blob(blob.digest, e))?,
            passage: self,
            blob,
            passed: 0,
        })
    }
}

struct Telling<'a> {
    content: Box<dyn Read + Send>,
    passage: &'a Passage<'a>,
    blob: &'a Descriptor,
    passed: u64,
}

impl Read for Telling<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if (self.passage.stopped)() {
            return Err(std::io::Error::other(crate::http::HttpError::Stopped));
        }
        let n = self.content.read(buffer)?;
        self.passed += n as u64;
        self.passage.tell(self.blob, BlobState::Sent(self.passed));
        Ok(n)
    }
}

/// Whether a blob is not there to be copied: the layers of Windows images that are fetched from their maker.
pub(super) fn lies_elsewhere(blob: &Descriptor) -> bool {
    let kind = &blob.media_type;
    blob.other.contains_key("urls") && (kind.contains(".foreign.") || kind.contains(".nondistributable."))
}
