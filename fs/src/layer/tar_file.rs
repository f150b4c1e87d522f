//! The tar of a layer on its way to disk: counted, hashed, and sparse where it holds nothing but zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::digest::{Digest, Hasher};

/// What is hashed and written at a time. A multiple of [`HOLE`] and of tar's blocks.
const BUFFER: usize = 1 << 20;
/// Blocks of this size, aligned to it in the file, that hold only zeros become holes.
const HOLE: usize = 64 << 10;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// An append-only tar file. Holes change what it takes on disk, never its bytes or its digest.
///
/// What does not fit into one buffer is hashed and written by a thread of its own: reading in a layer computes
/// two digests of every byte, the tar's and the file's, and so uses two processors.
pub(super) struct TarFile {
    buffer: Box<[u8]>,
    filled: usize,
    flushed: u64,
    drain: Drain,
}

/// Where full buffers go.
enum Drain {
    /// No buffer was full yet.
    Inline(Sink),
    /// To the thread.
    Thread(Worker),
    /// Nowhere: the thread has failed, or the file is finished.
    Closed,
}

impl TarFile {
    /// Creates the file, which must not exist.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            flushed: 0,
            drain: Drain::Inline(Sink {
                file: File::create_new(path)?,
                written: 0,
                hasher: Hasher::new(),
            }),
        })
    }

    /// The offset at which the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.flushed + self.filled as u64
    }

    /// Appends `bytes`.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let space = self.space()?;
            let n = space.len().min(bytes.len());
            space[..n].copy_from_slice(&bytes[..n]);
            self.advance(n);
            bytes = &bytes[n..];
        }
        Ok(())
    }

    /// Appends `count` zeros.
    pub(super) fn write_zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let n = ZEROS.len().min(usize::try_from(count).unwrap_or(ZEROS.len()));
            self.write(&ZEROS[..n])?;
            count -= n as u64;
        }
        Ok(())
    }

    /// Room for bytes to append, never empty. What is put there counts after [`TarFile::advance`].
    pub(super) fn space(&mut self) -> io::Result<&mut [u8]> {
        if self.filled == self.buffer.len() {
            self.flush()?;
        }
        Ok(&mut self.buffer[self.filled..])
    }

    /// Appends the first `count` bytes of [`TarFile::space`], and returns them.
    pub(super) fn advance(&mut self, count: usize) -> &[u8] {
        let start = self.filled;
        self.filled += count;
        &self.buffer[start..self.filled]
    }

    /// Writes everything to disk and syncs it. Returns the digest of the tar and its size.
    pub(super) fn finish(mut self) -> io::Result<(Digest, u64)> {
        let mut sink = match std::mem::replace(&mut self.drain, Drain::Closed) {
            Drain::Inline(sink) => sink,
            Drain::Thread(worker) => worker.finish()?,
            Drain::Closed => return Err(closed()),
        };
        sink.write(&self.buffer[..self.filled])?;
        sink.finish()
    }

    /// Passes the full buffer on and takes an empty one.
    fn flush(&mut self) -> io::Result<()> {
        let worker = match std::mem::replace(&mut self.drain, Drain::Closed) {
            Drain::Inline(sink) => Worker::start(sink)?,
            Drain::Thread(worker) => worker,
            Drain::Closed => return Err(closed()),
        };
        let full = std::mem::take(&mut self.buffer);
        self.flushed += full.len() as u64;
        self.filled = 0;
        match worker.exchange(full) {
            Some(empty) => {
                self.buffer = empty;
                self.drain = Drain::Thread(worker);
                Ok(())
            }
            // The thread ends early only with an error.
            None => Err(worker.finish().err().unwrap_or_else(closed)),
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("an earlier write has failed")
}

/// The thread that hashes and writes.
struct Worker {
    full: Sender<Box<[u8]>>,
    empty: Receiver<Box<[u8]>>,
    thread: JoinHandle<io::Result<Sink>>,
}

impl Worker {
    fn start(mut sink: Sink) -> io::Result<Self> {
        let (full, work) = mpsc::channel::<Box<[u8]>>();
        let (done, empty) = mpsc::channel();
        // One more buffer than the two at work, so that neither side waits for the other at once.
        for _ in 0..2 {
            let _ = done.send(vec![0; BUFFER].into_boxed_slice());
        }
        let thread = thread::Builder::new()
            .name("layer-tar".to_owned())
            .spawn(move || {
                for buffer in work {
                    sink.write(&buffer)?;
                    // Nobody waits for a buffer once the last one is on its way.
                    let _ = done.send(buffer);
                }
                Ok(sink)
            })?;
        Ok(Self { full, empty, thread })
    }

    /// An empty buffer for a full one; `None` if the thread has ended.
    fn exchange(&self, full: Box<[u8]>) -> Option<Box<[u8]>> {
        self.full.send(full).ok()?;
        self.empty.recv().ok()
    }

    fn finish(self) -> io::Result<Sink> {
        drop(self.full);
        self.thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that writes the tar has panicked")))
    }
}

/// The file and the digest of what is in it.
struct Sink {
    file: File,
    written: u64,
    hasher: Hasher,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        // Neighbouring blocks that are no holes are written by one call.
        let mut pending = 0..0;
        for (n, block) in bytes.chunks(HOLE).enumerate() {
            let start = n * HOLE;
            if block == ZEROS {
                self.file
                    .write_all_at(&bytes[pending.clone()], self.written + pending.start as u64)?;
                pending = start + block.len()..start + block.len();
            } else {
                pending.end = start + block.len();
            }
        }
        self.file
            .write_all_at(&bytes[pending.clone()], self.written + pending.start as u64)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(self) -> io::Result<(Digest, u64)> {
        self.file.set_len(self.written)?;
        self.file.sync_all()?;
        Ok((self.hasher.finish(), self.written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_small_files_have_their_digest() {
        for size in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 5 * BUFFER + 7] {
            let bytes: Vec<u8> = (0..size).map(|at| (at >> 18) as u8).collect();
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("tar");
            let mut tar = TarFile::create(&path).expect("created");
            for part in bytes.chunks(300_000) {
                tar.write(part).expect("written");
            }
            assert_eq!(tar.position(), size as u64);
            assert_eq!(tar.finish().expect("finished"), (Digest::of(&bytes), size as u64));
            assert!(std::fs::read(&path).expect("read") == bytes, "{size}");
        }
    }

    #[test]
    fn a_failed_write_stays_an_error() {
        let read_only = Sink {
            file: File::open("/dev/null").expect("opened"),
            written: 0,
            hasher: Hasher::new(),
        };
        let mut tar = TarFile {
            buffer: vec![1; BUFFER].into_boxed_slice(),
            filled: 0,
            flushed: 0,
            drain: Drain::Inline(read_only),
        };
        let failed = (0..10).any(|_| tar.write(&vec![1; BUFFER]).is_err());
        assert!(failed && tar.write(&vec![1; 2 * BUFFER]).is_err() && tar.write_zeros(1).is_err());
        assert!(tar.finish().is_err());
    }
}
