//! The tar of a layer on its way to disk: counted, hashed, and sparse where it holds nothing but zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use crate::digest::{Digest, Hasher};
use crate::sys::writeback::start_write_back;

/// What is hashed and written at a time. A multiple of [`HOLE`] and of tar's blocks.
const BUFFER: usize = 1 << 20;
/// Blocks of this size, aligned to it in the file, that hold only zeros become holes.
const HOLE: usize = 64 << 10;
/// After so many bytes the system is told to write them to the disk.
const WRITE_BACK: u64 = 8 << 20;
static ZEROS: [u8; HOLE] = [0; HOLE];

/// An append-only tar file. Holes change what it takes on disk, never its bytes or its digest.
///
/// What does not fit into one buffer is hashed by a thread of its own and written by another: reading in a layer
/// computes two digests of every byte, the tar's and the file's, and so uses two processors.
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
    /// To the threads.
    Thread(Worker),
    /// Nowhere: a thread has failed, or the file is finished.
    Closed,
}

impl TarFile {
    /// Creates the file, which must not exist.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        File::create_new(path).map(|file| Self::to(Some(file)))
    }

    /// Only counts and hashes.
    pub(super) fn unkept() -> Self {
        Self::to(None)
    }

    fn to(file: Option<File>) -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            flushed: 0,
            drain: Drain::Inline(Sink {
                hasher: Hasher::new(),
                output: Output {
                    file,
                    written: 0,
                    started: 0,
                },
            }),
        }
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
            // A thread ends early only with an error.
            None => Err(worker.finish().err().unwrap_or_else(closed)),
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("an earlier write has failed")
}

/// The threads: one hashes, the next writes.
struct Worker {
    full: Sender<Box<[u8]>>,
    empty: Receiver<Box<[u8]>>,
    hashing: JoinHandle<Hasher>,
    writing: JoinHandle<io::Result<Output>>,
}

impl Worker {
    fn start(sink: Sink) -> io::Result<Self> {
        let Sink {
            mut hasher,
            mut output,
        } = sink;
        let (full, to_hash) = mpsc::channel::<Box<[u8]>>();
        let (hashed, to_write) = mpsc::channel::<Box<[u8]>>();
        let (done, empty) = mpsc::channel();
        // With the one that is filled, two for each of the two, so that nobody waits for a neighbour at once.
        for _ in 0..4 {
            let _ = done.send(vec![0; BUFFER].into_boxed_slice());
        }
        let hashing = thread::Builder::new()
            .name("layer-hash".to_owned())
            .spawn(move || {
                for buffer in to_hash {
                    hasher.update(&buffer);
                    if hashed.send(buffer).is_err() {
                        break;
                    }
                }
                hasher
            })?;
        let writing = thread::Builder::new()
            .name("layer-write".to_owned())
            .spawn(move || {
                for buffer in to_write {
                    output.write(&buffer)?;
                    // Nobody waits for a buffer once the last one is on its way.
                    let _ = done.send(buffer);
                }
                Ok(output)
            })?;
        Ok(Self {
            full,
            empty,
            hashing,
            writing,
        })
    }

    /// An empty buffer for a full one; `None` if a thread has ended.
    fn exchange(&self, full: Box<[u8]>) -> Option<Box<[u8]>> {
        self.full.send(full).ok()?;
        self.empty.recv().ok()
    }

    fn finish(self) -> io::Result<Sink> {
        drop(self.full);
        let panicked = || io::Error::other("a thread that writes the tar has panicked");
        let hasher = self.hashing.join().map_err(|_| panicked());
        let output = self.writing.join().unwrap_or_else(|_| Err(panicked()))?;
        Ok(Sink {
            hasher: hasher?,
            output,
        })
    }
}

/// The file and the digest of what is in it.
struct Sink {
    hasher: Hasher,
    output: Output,
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.output.write(bytes)
    }

    fn finish(self) -> io::Result<(Digest, u64)> {
        let size = self.output.finish()?;
        Ok((self.hasher.finish(), size))
    }
}

/// The file; none if the bytes are not kept.
struct Output {
    file: Option<File>,
    written: u64,
    /// Up to here the system was told to write to the disk.
    started: u64,
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &self.file else {
            self.written += bytes.len() as u64;
            return Ok(());
        };
        // Neighbouring blocks that are no holes are written by one call.
        let mut pending = 0..0;
        for (n, block) in bytes.chunks(HOLE).enumerate() {
            let start = n * HOLE;
            if block == ZEROS {
                file.write_all_at(&bytes[pending.clone()], self.written + pending.start as u64)?;
                pending = start + block.len()..start + block.len();
            } else {
                pending.end = start + block.len();
            }
        }
        file.write_all_at(&bytes[pending.clone()], self.written + pending.start as u64)?;
        self.written += bytes.len() as u64;
        // The disk works while the rest is read: the sync at the end then has little left to wait for.
        if self.written - self.started >= WRITE_BACK {
            start_write_back(file, self.started, self.written - self.started);
            self.started = self.written;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<u64> {
        if let Some(file) = &self.file {
            file.set_len(self.written)?;
            file.sync_all()?;
        }
        Ok(self.written)
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
            let mut unkept = TarFile::unkept();
            unkept.write(&bytes).expect("counted");
            assert_eq!(
                unkept.finish().expect("finished"),
                (Digest::of(&bytes), size as u64)
            );
        }
    }

    #[test]
    fn a_failed_write_stays_an_error() {
        let read_only = Sink {
            hasher: Hasher::new(),
            output: Output {
                file: Some(File::open("/dev/null").expect("opened")),
                written: 0,
                started: 0,
            },
        };
        let mut tar = TarFile {
            buffer: vec![1; BUFFER].into_boxed_slice(),
            filled: 0,
            flushed: 0,
            drain: Drain::Inline(read_only),
        };
        let failed = (0..10).any(|_| tar.write(&vec![1; BUFFER]).is_err());
        assert!(failed && tar.write(&vec![1; 2 * BUFFER]).is_err());
        assert!(tar.finish().is_err());
    }
}
