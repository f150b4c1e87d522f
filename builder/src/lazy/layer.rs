//! Opening one layer of an image in a registry: by its table of contents, or after one pass over it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};
use std::sync::Arc;

use mica_fs::digest::{DiffId, Digest, Verifying};
use mica_fs::layer::index::{Encoded, Index};
use mica_fs::layer::ingest::ingest_index;
use mica_fs::layer::{INDEX_FILE, Layer};
use mica_fs::store::{RemoteDirectory, Store, WorkDir};

use super::blob::Blob;
use super::bytes::RemoteBytes;
use super::chunk::Chunks;
use super::pass::{Kind, Pass, SPACING};
use super::toc::{self, TocError};
use super::{LazyError, Notice, Notify};

/// Name of the list of chunks within a layer's directory.
pub(super) const CHUNKS: &str = "chunks";
/// As many bytes at the beginning tell what a layer is packed with.
const START: u64 = 512;

/// A layer as its image describes it.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// The digest of its blob.
    pub digest: Digest,
    /// The size of its blob, in bytes.
    pub size: u64,
    /// What the manifest says besides: some of it is about tables of contents.
    pub annotations: &'a BTreeMap<String, String>,
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
}

/// What became of the layer.
enum Made {
    /// It can be read where it is.
    Index(WorkDir),
    /// It is in the store.
    Taken(Arc<Layer>),
}

/// Opens the layer: as it is in the store, or as it was known before, or as it tells itself now.
///
/// # Errors
/// [`LazyError`].
pub fn open(
    store: &Store,
    layer: &Described<'_>,
    blob: Box<dyn Blob>,
    notify: Notify<'_>,
) -> Result<Arc<Layer>, LazyError> {
    if store.has_layer(&layer.diff_id) {
        return Ok(store.layer(&layer.diff_id)?);
    }
    if let Some(directory) = store.remote_directory(&layer.digest)? {
        match parts(layer, &directory) {
            Ok((index, chunks)) => return assemble(layer, directory, index, chunks, blob),
            Err(error) => {
                tracing::warn!(layer = %layer.digest, %error, "what is known of the layer is made anew");
                drop(directory);
                store.remove_remote_directory(&layer.digest)?;
            }
        }
    }
    let work = match make(store, layer, &*blob, notify)? {
        Made::Taken(layer) => return Ok(layer),
        Made::Index(work) => work,
    };
    let directory = store.publish_remote_directory(&layer.digest, work)?;
    let (index, chunks) = parts(layer, &directory).map_err(|source| layer.failed(source))?;
    assemble(layer, directory, index, chunks, blob)
}

fn parts(layer: &Described<'_>, directory: &RemoteDirectory) -> io::Result<(Index, Chunks)> {
    let index = Index::open(&directory.path().join(INDEX_FILE)).map_err(io::Error::other)?;
    if index.diff_id() != layer.diff_id {
        return Err(io::Error::other("it is of another image's layer"));
    }
    Ok((index, Chunks::open(&directory.path().join(CHUNKS), layer.size)?))
}

fn assemble(
    layer: &Described<'_>,
    directory: RemoteDirectory,
    index: Index,
    chunks: Chunks,
    blob: Box<dyn Blob>,
) -> Result<Arc<Layer>, LazyError> {
    let bytes = RemoteBytes::new(layer.digest, blob, chunks, directory);
    let bytes = bytes.map_err(|source| layer.failed(source))?;
    Ok(Arc::new(Layer::elsewhere(index, Box::new(bytes))))
}

/// Makes the index and the list of chunks.
fn make(
    store: &Store,
    layer: &Described<'_>,
    blob: &dyn Blob,
    notify: Notify<'_>,
) -> Result<Made, LazyError> {
    let work = store.work_dir()?;
    match by_table(layer, blob, &work) {
        Ok(true) => return Ok(Made::Index(work)),
        Ok(false) => {}
        Err(TocError::Read(error)) if error.kind() == io::ErrorKind::Unsupported => {
            notify(Notice::NoRanges);
            return take(store, layer, blob.whole());
        }
        Err(TocError::Read(error)) if blob.is_its_own(&error) => return Err(layer.failed(error)),
        Err(error) => tracing::warn!(
            layer = %layer.digest, error = %describe(&error), "the table of contents is of no use; reading the whole layer"
        ),
    }
    notify(Notice::Pass {
        layer: layer.digest,
        bytes: layer.size,
    });
    let whole = Told {
        from: blob.whole(),
        layer: layer.digest,
        done: 0,
        told: 0,
        notify,
    };
    by_pass(store, layer, whole, work)
}

/// After so many bytes it is told how far a pass is.
const NEWS: u64 = 1 << 20;

/// The blob on its way through a pass, of which somebody hears.
struct Told<'a> {
    from: Box<dyn Read + Send>,
    layer: Digest,
    done: u64,
    told: u64,
    notify: Notify<'a>,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.done += n as u64;
        if self.done - self.told >= NEWS || n == 0 && self.told < self.done {
            self.told = self.done;
            (self.notify)(Notice::Passing {
                layer: self.layer,
                done: self.done,
            });
        }
        Ok(n)
    }
}

/// By the table of contents; false if there is none.
fn by_table(layer: &Described<'_>, blob: &dyn Blob, work: &WorkDir) -> Result<bool, TocError> {
    let Some(place) = toc::find(blob, layer.size, layer.annotations)? else {
        return Ok(false);
    };
    let contents = place.table(blob)?.contents(place.format, place.range.start)?;
    write_index(work, &contents.index, layer.diff_id, contents.tar_size)?;
    Chunks::write(&work.path().join(CHUNKS), layer.size, &contents.chunks, &[])?;
    Ok(true)
}

fn write_index(work: &WorkDir, index: &Encoded, diff_id: DiffId, tar_size: u64) -> io::Result<()> {
    let mut out = BufWriter::new(File::create_new(work.path().join(INDEX_FILE))?);
    index.write(diff_id, tar_size, &mut out)?;
    out.flush()?;
    out.get_ref().sync_all()
}

/// By reading all of it once.
fn by_pass(store: &Store, layer: &Described<'_>, whole: impl Read, work: WorkDir) -> Result<Made, LazyError> {
    let failed = |source| layer.failed(source);
    let mut source = Verifying::new(whole, layer.digest, layer.size);
    let mut start = Vec::new();
    (&mut source)
        .take(START)
        .read_to_end(&mut start)
        .map_err(failed)?;
    let kind = Kind::of(&start, layer.size);
    let whole = io::Cursor::new(start).chain(source);
    let Some(kind) = kind else {
        drop(work);
        return take(store, layer, whole);
    };
    // A table that turned out to be of no use may have left something.
    let work = match work.path().join(INDEX_FILE).exists() {
        true => store.work_dir()?,
        false => work,
    };
    let mut pass = Pass::new(kind, whole, SPACING).map_err(failed)?;
    let written = ingest_index(&mut pass, work.path()).map_err(|source| LazyError::Ingest {
        digest: layer.digest,
        source,
    })?;
    if written.diff_id != layer.diff_id {
        return Err(LazyError::DiffId {
            digest: layer.digest,
            expected: layer.diff_id,
            found: written.diff_id,
        });
    }
    let (chunks, windows) = pass.finish(layer.size);
    Chunks::write(&work.path().join(CHUNKS), layer.size, &chunks, &windows).map_err(failed)?;
    Ok(Made::Index(work))
}

/// Takes the layer into the store: in its middle nothing can be read.
fn take(store: &Store, layer: &Described<'_>, mut whole: impl Read) -> Result<Made, LazyError> {
    let taken = store.import_layer(&mut whole, Some(layer.diff_id))?;
    Ok(Made::Taken(taken))
}

impl Described<'_> {
    fn failed(&self, source: io::Error) -> LazyError {
        LazyError::Layer {
            digest: self.digest,
            source,
        }
    }
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
