//! Compression of what leaves the store: by all processors, and yet the same bytes everywhere.
//!
//! The input is cut into blocks of a fixed size, each of which is compressed by itself, so that the output depends on
//! the input alone, never on the number of threads. See `docs/format.md`, "Compressed layers".

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};

/// How to compress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Algorithm {
    /// gzip (RFC 1952), level 0 to 9.
    Gzip(u32),
    /// zstd (RFC 8878), level 1 to 22.
    Zstd(i32),
}

impl Algorithm {
    /// gzip at the level that gives what other image tools give, within a percent: 6 takes a third more time for a
    /// four-hundredth less.
    pub const GZIP: Self = Self::Gzip(5);
    /// zstd with its own default.
    pub const ZSTD: Self = Self::Zstd(3);

    /// What is compressed at a time, in bytes: part of the format.
    const fn block(self) -> usize {
        match self {
            Self::Gzip(_) => 1 << 20,
            Self::Zstd(_) => 4 << 20,
        }
    }
}

impl fmt::Display for Algorithm {
    /// `gzip:5`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gzip(level) => write!(f, "gzip:{level}"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// Reads what `plain` becomes when it is compressed, which happens meanwhile.
///
/// # Errors
/// If there can be no pipe or thread. What `plain` reports comes where the bytes end.
pub fn reader(algorithm: Algorithm, mut plain: impl Read + Send + 'static) -> io::Result<impl Read + Send> {
    let (pipe, mut out) = io::pipe()?;
    let work = move || compress(algorithm, &mut plain, &mut out);
    let thread = thread::Builder::new().name("compress".to_owned()).spawn(work)?;
    Ok(Packed {
        pipe,
        thread: Some(thread),
    })
}

/// The end of a pipe that a thread writes to.
struct Packed {
    pipe: io::PipeReader,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.read(buffer)?;
        let is_end = n == 0 && !buffer.is_empty();
        if let Some(thread) = self.thread.take_if(|_| is_end) {
            let lost = |_| Err(io::Error::other("a thread that compresses has panicked"));
            thread.join().unwrap_or_else(lost)?;
        }
        Ok(n)
    }
}

/// Compresses all of `plain` into `out`, by as many threads as there are processors.
///
/// # Errors
/// What `plain` and `out` report.
pub fn compress(algorithm: Algorithm, plain: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    compress_by(threads, algorithm, plain, out)
}

/// A block that is to be compressed, and where the result goes.
type Job = (Vec<u8>, mpsc::Sender<io::Result<Piece>>);

/// A compressed block.
struct Piece {
    compressed: Vec<u8>,
    /// Of the bytes before compression.
    crc: Crc,
}

fn compress_by(
    threads: usize,
    algorithm: Algorithm,
    plain: &mut dyn Read,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let queue = Mutex::new(queue);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| work(&queue, algorithm));
        }
        // Dropped at the end, in any case: that ends the threads.
        let jobs = jobs;
        let mut pending: VecDeque<Receiver<io::Result<Piece>>> = VecDeque::new();
        let mut frame = Frame::begin(algorithm, out)?;
        let mut ended = false;
        loop {
            while !ended && pending.len() <= threads {
                let mut block = Vec::with_capacity(algorithm.block());
                plain.take(algorithm.block() as u64).read_to_end(&mut block)?;
                ended = block.len() < algorithm.block();
                let (result, receiver) = mpsc::channel();
                let _ = jobs.send((block, result));
                pending.push_back(receiver);
            }
            let Some(first) = pending.pop_front() else {
                return frame.end(out);
            };
            let lost = || io::Error::other("a thread that compresses has panicked");
            frame.add(first.recv().map_err(|_| lost())??, out)?;
        }
    })
}

fn work(queue: &Mutex<Receiver<Job>>, algorithm: Algorithm) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((block, result)) = job else { return };
        // Nobody waits for it after an error elsewhere.
        let _ = result.send(piece(&block, algorithm));
    }
}

fn piece(block: &[u8], algorithm: Algorithm) -> io::Result<Piece> {
    let mut crc = Crc::new();
    let compressed = match algorithm {
        Algorithm::Gzip(level) => {
            crc.update(block);
            match level > 0 && is_noise(block) {
                true => store(block),
                false => deflate(block, level)?,
            }
        }
        Algorithm::Zstd(level) => {
            let mut compressor = zstd::bulk::Compressor::new(level)?;
            compressor.include_checksum(true)?;
            compressor.compress(block)?
        }
    };
    Ok(Piece { compressed, crc })
}

/// Whether compression would be in vain, as for what is compressed already: deflate is slowest where it finds nothing.
fn is_noise(block: &[u8]) -> bool {
    let mut counts = [0_u64; 256];
    for &byte in block {
        counts[usize::from(byte)] += 1;
    }
    let squares: u64 = counts.iter().map(|count| count * count).sum();
    let size = block.len() as u64;
    // Were all bytes equally frequent, 256 times the sum would be the size squared. A fast compressor tells what
    // frequencies do not: that bytes repeat.
    let is_even = squares * 256 < size * size / 50 * 51;
    is_even && zstd::bulk::compress(block, 1).is_ok_and(|packed| packed.len() >= block.len() / 100 * 99)
}

/// Deflate's stored blocks (RFC 1951, section 3.2.4), none of which is the last.
fn store(block: &[u8]) -> Vec<u8> {
    const LONGEST: usize = u16::MAX as usize;
    let mut stored = Vec::with_capacity(block.len() + block.len().div_ceil(LONGEST) * 5);
    for piece in block.chunks(LONGEST) {
        #[allow(clippy::cast_possible_truncation, reason = "at most LONGEST")]
        let length = piece.len() as u16;
        stored.push(0);
        stored.extend_from_slice(&length.to_le_bytes());
        stored.extend_from_slice(&(!length).to_le_bytes());
        stored.extend_from_slice(piece);
    }
    stored
}

/// Blocks of deflate (RFC 1951) that end at a byte, and none of which is the last.
fn deflate(block: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut compressed = Vec::with_capacity(block.len() / 2 + 64);
    loop {
        let read = usize::try_from(compress.total_in()).unwrap_or(usize::MAX);
        let status = compress.compress_vec(&block[read..], &mut compressed, FlushCompress::Sync)?;
        let all = compress.total_in() == block.len() as u64;
        // With room left in the output, everything has been flushed.
        match status {
            Status::Ok | Status::BufError if all && compressed.len() < compressed.capacity() => {
                return Ok(compressed);
            }
            Status::Ok | Status::BufError => compressed.reserve(block.len() / 4 + 64),
            Status::StreamEnd => return Ok(compressed),
        }
    }
}

/// What stands around the blocks.
enum Frame {
    /// One gzip member.
    Gzip(Crc),
    /// A zstd frame for each block: nothing else.
    Zstd,
}

impl Frame {
    fn begin(algorithm: Algorithm, out: &mut dyn Write) -> io::Result<Self> {
        match algorithm {
            Algorithm::Gzip(_) => {
                // RFC 1952, section 2.3: deflate; no flags, no time, no hint, an unknown system.
                out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255])?;
                Ok(Self::Gzip(Crc::new()))
            }
            Algorithm::Zstd(_) => Ok(Self::Zstd),
        }
    }

    fn add(&mut self, piece: Piece, out: &mut dyn Write) -> io::Result<()> {
        if let Self::Gzip(crc) = self {
            crc.combine(&piece.crc);
        }
        out.write_all(&piece.compressed)
    }

    fn end(self, out: &mut dyn Write) -> io::Result<()> {
        let Self::Gzip(crc) = self else { return Ok(()) };
        // An empty block that is the last one (RFC 1951, section 3.2.3), the checksum, and the size modulo 2^32.
        out.write_all(&[3, 0])?;
        out.write_all(&crc.sum().to_le_bytes())?;
        out.write_all(&crc.amount().to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use mica_fs::layer::ingest::decompress;

    use super::*;

    const ALGORITHMS: [Algorithm; 4] = [
        Algorithm::GZIP,
        Algorithm::Gzip(0),
        Algorithm::ZSTD,
        Algorithm::Zstd(1),
    ];

    fn text(size: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        // Half noise, half text.
        (0..size)
            .map(|at| if at & 64 == 0 { next() } else { b'a' })
            .collect()
    }

    /// Gives a byte or two at a time.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(70_001).min(self.0.len());
            buffer[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    #[test]
    fn threads_and_pieces_do_not_matter_and_nothing_is_lost() {
        for algorithm in ALGORITHMS {
            let block = algorithm.block();
            for size in [0, 1, block - 1, block, block + 1, 3 * block + 5] {
                let plain = text(size);
                let by = |threads, input: &mut dyn Read| {
                    let mut out = Vec::new();
                    compress_by(threads, algorithm, input, &mut out).expect("into memory");
                    out
                };
                let one = by(1, &mut &plain[..]);
                assert!(one == by(3, &mut Slow(&plain)), "{algorithm:?} {size}");
                let mut back = Vec::new();
                let read = decompress(&one[..]).and_then(|mut reader| reader.read_to_end(&mut back));
                read.expect("decompressed");
                assert!(back == plain, "{algorithm:?} {size}");
            }
        }
    }

    #[test]
    fn noise_is_stored_and_what_repeats_is_not() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..3 << 20)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        let packed = |plain: &[u8]| {
            let mut out = Vec::new();
            compress(Algorithm::GZIP, &mut &plain[..], &mut out).expect("into memory");
            let mut back = Vec::new();
            let read = flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut back);
            read.expect("decompressed");
            assert!(back == plain);
            out
        };
        let stored = packed(&noise);
        assert!(stored.len() <= noise.len() + noise.len() / 10_000 + 64);
        let plainly = stored.windows(60_000).any(|piece| piece == &noise[..60_000]);
        assert!(plainly, "it is not compressed");
        let repeated = noise[..20_000].repeat(100);
        assert!(packed(&repeated).len() < repeated.len() / 20);
    }

    #[test]
    fn one_member_and_not_larger_than_need_be() {
        let plain = text(3 << 20);
        let mut out = Vec::new();
        compress(Algorithm::GZIP, &mut &plain[..], &mut out).expect("into memory");
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(&out[..])
            .read_to_end(&mut back)
            .expect("decompressed");
        assert!(back == plain);
        let mut whole = flate2::write::GzEncoder::new(Vec::new(), Compression::new(5));
        whole.write_all(&plain).expect("into memory");
        assert!(out.len() < whole.finish().expect("into memory").len() * 101 / 100);
    }

    #[test]
    fn errors_come_through() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for algorithm in ALGORITHMS {
            assert!(compress(algorithm, &mut Broken, &mut Vec::new()).is_err());
            assert!(compress(algorithm, &mut &text(5 << 20)[..], &mut Broken).is_err());
        }
    }
}
