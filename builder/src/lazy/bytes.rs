//! The bytes of a layer in a registry: fetched where they are missing, checked, and kept in the store.
//!
//! The file `data` of the layer's directory is a sparse file, in which every byte has its position; the file `have` says
//! which chunks are there. Only what was checked is written. Several processes may fill them at once.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use mica_fs::digest::{Digest, Hasher};
use mica_fs::layer::ReadAt;
use mica_fs::store::RemoteDirectory;

use super::blob::Blob;
use super::chunk::{Chunk, Chunks, Packing};
use super::inflate::Gunzip;

/// The sparse file of what was fetched, and the file that says what that is.
const DATA: &str = "data";
const HAVE: &str = "have";

/// What is fetched at least, in bytes of the blob: less would cost as much time.
const MIN_FETCH: u64 = 64 << 10;
/// What is fetched at most ahead of a reader that goes on and on.
const MAX_FETCH: u64 = 4 << 20;
/// As many bytes between two chunks are fetched for nothing rather than asked for apart.
const MAX_GAP: u64 = 16 << 10;
/// A chunk is unpacked in memory up to this size.
const IN_MEMORY: usize = 8 << 20;
/// After so many fetched bytes it is noted what is there.
const SAVE_EVERY: u64 = 64 << 20;

/// The bytes of one layer.
pub(super) struct RemoteBytes {
    digest: Digest,
    blob: Box<dyn Blob>,
    chunks: Chunks,
    data: File,
    have: Have,
    state: Mutex<State>,
    changed: Condvar,
    unsaved: AtomicU64,
    /// Keeps the files from being pruned.
    directory: RemoteDirectory,
}

#[derive(Default)]
struct State {
    /// Chunks that are being fetched.
    fetching: Vec<Range<usize>>,
    /// The chunk that a reader who goes on would want next, and how much was fetched for it.
    next: usize,
    ahead: u64,
}

impl RemoteBytes {
    /// The bytes of the layer with that blob, of which `directory` keeps what was fetched.
    ///
    /// # Errors
    /// What the system reports.
    pub(super) fn new(
        digest: Digest,
        blob: Box<dyn Blob>,
        chunks: Chunks,
        directory: RemoteDirectory,
    ) -> io::Result<Self> {
        let data = private_file(&directory.path().join(DATA))?;
        Ok(Self {
            have: Have::open(&directory.path().join(HAVE), chunks.all().len())?,
            digest,
            blob,
            chunks,
            data,
            state: Mutex::default(),
            changed: Condvar::new(),
            unsaved: AtomicU64::new(0),
            directory,
        })
    }

    /// Makes sure that the chunk is there. The caller wants what comes before position `end`.
    fn ensure(&self, number: usize, end: u64) -> io::Result<()> {
        if self.have.has(number) {
            return Ok(());
        }
        let mut state = self.state();
        let run = loop {
            if self.have.has(number) {
                return Ok(());
            }
            if !state.fetching.iter().any(|run| run.contains(&number)) {
                break self.run(&mut state, number, end);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        state.fetching.push(run.clone());
        drop(state);
        let _done = Fetching {
            bytes: self,
            run: &run,
        };
        match self.fetch_twice(&run, number) {
            // What was fetched ahead may fail: who wants it will ask again.
            Err(_) if self.have.has(number) => Ok(()),
            Err(error) => {
                tracing::warn!(layer = %self.digest, %error, "cannot read from the registry");
                Err(error)
            }
            Ok(()) => Ok(()),
        }
    }

    /// Which chunks to fetch along with this one: those that are wanted, and more the longer a reader goes on.
    fn run(&self, state: &mut State, number: usize, end: u64) -> Range<usize> {
        let goes_on = number == state.next && number > 0;
        state.ahead = match goes_on {
            true => (2 * state.ahead).clamp(MIN_FETCH, MAX_FETCH),
            false => MIN_FETCH,
        };
        let chunks = self.chunks.all();
        let begin = chunks[number].blob.start;
        let fits = |next: usize| {
            let (before, chunk) = (&chunks[next - 1], &chunks[next]);
            let gap = chunk.blob.start.checked_sub(before.blob.end);
            let adjoins = chunk.follows_in_its_piece(before) || gap.is_some_and(|gap| gap <= MAX_GAP);
            let limit = if chunk.position < end {
                MAX_FETCH
            } else {
                state.ahead
            };
            adjoins
                && chunk.blob.end - begin <= limit
                && !self.have.has(next)
                && !state.fetching.iter().any(|run| run.contains(&next))
        };
        let mut last = number + 1;
        while last < chunks.len() && fits(last) {
            last += 1;
        }
        state.next = last;
        number..last
    }

    /// Fetches once more if what came was damaged: the way there may have been. The registry's own errors have been
    /// met with patience already.
    fn fetch_twice(&self, run: &Range<usize>, wanted: usize) -> io::Result<()> {
        match self.fetch(run) {
            Err(error) if !self.blob.is_its_own(&error) && !self.have.has(wanted) => {
                tracing::info!(layer = %self.digest, %error, "fetching it again");
                self.fetch(run)
            }
            result => result,
        }
    }

    /// Fetches chunks that adjoin each other by one request.
    fn fetch(&self, run: &Range<usize>) -> io::Result<()> {
        let chunks = &self.chunks.all()[run.clone()];
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(());
        };
        let mut source = self.blob.read(first.blob.start..last.blob.end)?;
        let mut at = first.blob.start;
        let mut number = run.start;
        for group in chunks.chunk_by(|a, b| a.blob == b.blob) {
            let blob = &group[0].blob;
            skip(&mut source, blob.start - at)?;
            let mut part = (&mut source).take(blob.end - blob.start);
            self.unpack(number, group, &mut part)?;
            // What the piece did not need of its range.
            let rest = part.limit();
            skip(&mut source, rest)?;
            at = blob.end;
            number += group.len();
        }
        self.note(last.blob.end - first.blob.start)
    }

    /// Unpacks chunks that lie in one piece of the blob. The first one has this number.
    fn unpack(&self, number: usize, group: &[Chunk], source: &mut dyn Read) -> io::Result<()> {
        let mut reader: Box<dyn Read + '_> = match group[0].packing {
            Packing::Stored => Box::new(source),
            Packing::Gzip { .. } => Box::new(flate2::read::MultiGzDecoder::new(source)),
            Packing::Zstd { .. } => Box::new(zstd::stream::read::Decoder::new(source)?),
            Packing::Deflate { bits, window } => {
                Box::new(Gunzip::resume(source, bits, &self.chunks.window(window)?))
            }
        };
        let mut unpacked = 0;
        for (number, chunk) in (number..).zip(group) {
            let start = chunk.skip();
            let before = start
                .checked_sub(unpacked)
                .ok_or_else(|| damaged("its chunks overlap"))?;
            skip(&mut reader, before)?;
            unpacked = start + chunk.length;
            if self.have.has(number) {
                skip(&mut reader, chunk.length)?;
            } else {
                self.keep(chunk, &mut reader)?;
                self.have.set(number);
                self.changed.notify_all();
            }
        }
        Ok(())
    }

    /// Takes the bytes of a chunk into the file, if they are the right ones.
    fn keep(&self, chunk: &Chunk, reader: &mut dyn Read) -> io::Result<()> {
        let mut spool = tempfile::spooled_tempfile_in(IN_MEMORY, self.directory.path());
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        let mut left = chunk.length;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..wanted];
            reader.read_exact(piece)?;
            hasher.update(piece);
            spool.write_all(piece)?;
            left -= wanted as u64;
        }
        if chunk.digest.is_some_and(|digest| digest != hasher.finish()) {
            return Err(damaged("what the registry sent is not what the image names"));
        }
        spool.seek(SeekFrom::Start(0))?;
        let mut position = chunk.position;
        loop {
            let count = spool.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.data.write_all_at(&buffer[..count], position)?;
            position += count as u64;
        }
    }

    /// Counts what was fetched; now and then it is noted in the store.
    fn note(&self, bytes: u64) -> io::Result<()> {
        let unsaved = self.unsaved.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if unsaved < SAVE_EVERY {
            return Ok(());
        }
        self.save()
    }

    /// Notes which chunks are there, after they are safe.
    fn save(&self) -> io::Result<()> {
        if self.unsaved.swap(0, Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let seen = self.have.seen();
        self.data.sync_data()?;
        seen.merge_into(&self.directory.path().join(HAVE))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for RemoteBytes {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        let mut at = offset;
        while at < end {
            let number = self
                .chunks
                .at(at)
                .ok_or_else(|| damaged("it has no such bytes"))?;
            // To whom reads a file, an error of the network is one of the medium, whatever its number.
            self.ensure(number, end)
                .map_err(|error| io::Error::other(error.to_string()))?;
            let upto = self.chunks.all()[number].end().min(end);
            let place = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            self.data.read_exact_at(&mut buffer[place(at)..place(upto)], at)?;
            at = upto;
        }
        Ok(())
    }
}

impl Drop for RemoteBytes {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(layer = %self.digest, %error, "cannot note what was fetched");
        }
    }
}

/// Checks the chunks that are there of a layer with this directory.
///
/// # Errors
/// What the system reports; `InvalidData` if one is not what it was.
pub(super) fn check(directory: &Path, chunks: &[Chunk]) -> io::Result<()> {
    let have = Have::open(&directory.join(HAVE), chunks.len())?;
    let mut there = (0..chunks.len()).filter(|number| have.has(*number)).peekable();
    if there.peek().is_none() {
        return Ok(());
    }
    let data = File::open(directory.join(DATA))?;
    let mut buffer = vec![0; 256 << 10];
    for chunk in there.map(|number| &chunks[number]) {
        let Some(expected) = chunk.digest else { continue };
        let (mut hasher, mut at) = (Hasher::new(), chunk.position);
        while at < chunk.end() {
            let count = usize::try_from(chunk.end() - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            data.read_exact_at(&mut buffer[..count], at)?;
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
        if hasher.finish() != expected {
            return Err(damaged("a piece that is kept is not what it was"));
        }
    }
    Ok(())
}

/// Chunks on their way. Dropped when they are there, or will not come.
struct Fetching<'a> {
    bytes: &'a RemoteBytes,
    run: &'a Range<usize>,
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.bytes.state().fetching.retain(|run| run != self.run);
        self.bytes.changed.notify_all();
    }
}

/// Which chunks are there: a bit for each.
struct Have(Box<[AtomicU8]>);

impl Have {
    /// What was noted; nothing if there is no note, or it is of something else.
    fn open(path: &Path, chunks: usize) -> io::Result<Self> {
        let length = chunks.div_ceil(8);
        let noted = match std::fs::read(path) {
            Ok(noted) if noted.len() == length => noted,
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => vec![0; length],
        };
        Ok(Self(noted.into_iter().map(AtomicU8::new).collect()))
    }

    fn has(&self, number: usize) -> bool {
        let byte = self.0.get(number / 8);
        byte.is_some_and(|byte| byte.load(Ordering::Acquire) & (1 << (number % 8)) != 0)
    }

    fn set(&self, number: usize) {
        if let Some(byte) = self.0.get(number / 8) {
            byte.fetch_or(1 << (number % 8), Ordering::Release);
        }
    }

    /// What is there now.
    fn seen(&self) -> Seen {
        Seen(self.0.iter().map(|byte| byte.load(Ordering::Acquire)).collect())
    }
}

struct Seen(Vec<u8>);

impl Seen {
    /// Adds to what other processes have noted.
    fn merge_into(mut self, path: &Path) -> io::Result<()> {
        let mut file = private_file(path)?;
        file.lock()?;
        let mut noted = Vec::new();
        file.read_to_end(&mut noted)?;
        for (byte, noted) in self.0.iter_mut().zip(&noted) {
            *byte |= noted;
        }
        file.set_len(self.0.len() as u64)?;
        file.write_all_at(&self.0, 0)
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Reads past so many bytes.
fn skip(reader: &mut dyn Read, count: u64) -> io::Result<()> {
    match io::copy(&mut reader.take(count), &mut io::sink())? {
        skipped if skipped == count => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn damaged(reason: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("a layer in the registry is damaged: {reason}"),
    )
}
