//! The pieces that a layer in a registry is fetched in, and the file that remembers them.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use mica_fs::digest::Digest;

use super::inflate::{Bits, WINDOW};

/// First bytes of a file of chunks; the last one is the version of the format.
const MAGIC: [u8; 8] = *b"micachk\x01";
const HEADER: usize = 64;
const RECORD: usize = 96;
/// The most chunks that are read: as many as a table of contents can hold many times over.
const MAX_CHUNKS: u64 = 1 << 24;

/// A piece of a layer that can be fetched and unpacked without what lies before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    /// Position of its first byte, as the layer's index counts.
    pub position: u64,
    /// Bytes after unpacking.
    pub length: u64,
    /// Where it lies in the blob. More may lie there than this piece.
    pub blob: Range<u64>,
    pub packing: Packing,
    /// Of its bytes after unpacking.
    pub digest: Option<Digest>,
}

/// How a chunk is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    /// As it is.
    Stored,
    /// By gzip, from the beginning of a member; so many unpacked bytes before it belong to others.
    Gzip { skip: u64 },
    /// By zstd, from the beginning of a frame; so many unpacked bytes before it belong to others.
    Zstd { skip: u64 },
    /// By gzip, from a block in the middle of a member.
    Deflate { bits: Bits, window: Window },
}

/// Where in the file the bytes lie to which a block refers: packed by zstd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Window {
    pub offset: u64,
    pub length: u32,
}

impl Chunk {
    /// Position of the byte after its last one.
    pub(super) fn end(&self) -> u64 {
        self.position + self.length
    }

    /// How many unpacked bytes lie before it in its piece of the blob.
    pub(super) fn skip(&self) -> u64 {
        match self.packing {
            Packing::Gzip { skip } | Packing::Zstd { skip } => skip,
            Packing::Stored | Packing::Deflate { .. } => 0,
        }
    }

    /// Whether it lies in the same piece of the blob, behind `before`: then both are unpacked in one go.
    pub(super) fn follows_in_its_piece(&self, before: &Self) -> bool {
        let end = before.skip().checked_add(before.length);
        self.blob == before.blob && end.is_some_and(|end| end <= self.skip())
    }
}

/// What a layer is fetched in: chunks by position, and the windows that they need.
pub(super) struct Chunks {
    chunks: Vec<Chunk>,
    file: File,
    windows: u64,
}

impl Chunks {
    /// Writes a file of chunks, which come by position and do not overlap; syncs it.
    ///
    /// # Errors
    /// What the system reports.
    pub(super) fn write(path: &Path, blob: u64, chunks: &[Chunk], windows: &[u8]) -> io::Result<()> {
        let records: Vec<u8> = chunks.iter().flat_map(encode).collect();
        let mut header = MAGIC.to_vec();
        for number in [chunks.len() as u64, windows.len() as u64, blob] {
            header.extend_from_slice(&number.to_le_bytes());
        }
        header.extend_from_slice(Digest::of(&records).as_bytes());
        debug_assert_eq!(header.len(), HEADER);
        let mut out = BufWriter::new(File::create_new(path)?);
        for part in [&header[..], &records, windows] {
            out.write_all(part)?;
        }
        out.flush()?;
        out.get_ref().sync_all()
    }

    /// Reads a file of chunks of a blob of so many bytes.
    ///
    /// # Errors
    /// `InvalidData` if it is damaged, of another version or of another blob; else what the system reports.
    pub(super) fn open(path: &Path, blob: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let number = |at: usize| u64_at(&header, at);
        let (count, windows) = (number(8), number(16));
        let size = file.metadata()?.len();
        let body = count
            .checked_mul(RECORD as u64)
            .and_then(|records| records.checked_add(HEADER as u64));
        let body = body.filter(|body| body.checked_add(windows) == Some(size));
        let Some(start) = body.filter(|_| header[..8] == MAGIC && count <= MAX_CHUNKS && number(24) == blob)
        else {
            return Err(damaged("it is of another version or cut short"));
        };
        let mut records = vec![0; usize::try_from(start).unwrap_or(usize::MAX) - HEADER];
        file.read_exact_at(&mut records, HEADER as u64)?;
        if Digest::of(&records).as_bytes()[..] != header[32..64] {
            return Err(damaged("its digest differs"));
        }
        let chunks: Option<Vec<Chunk>> = records.chunks_exact(RECORD).map(decode).collect();
        let chunks = chunks.ok_or_else(|| damaged("a record has no meaning"))?;
        check(&chunks, blob, windows).map_err(damaged)?;
        let windows = start;
        Ok(Self {
            chunks,
            file,
            windows,
        })
    }

    /// The size of the blob that a file of chunks is about, as it says itself.
    ///
    /// # Errors
    /// What the system reports.
    pub(super) fn blob_size(file: &File) -> io::Result<u64> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        Ok(u64_at(&header, 24))
    }

    pub(super) fn all(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The number of the chunk that has this position.
    pub(super) fn at(&self, position: u64) -> Option<usize> {
        let after = self.chunks.partition_point(|chunk| chunk.position <= position);
        let number = after.checked_sub(1)?;
        (position < self.chunks[number].end()).then_some(number)
    }

    /// The bytes that a block refers to.
    ///
    /// # Errors
    /// What the system reports; `InvalidData` if they are damaged.
    pub(super) fn window(&self, window: Window) -> io::Result<Vec<u8>> {
        let mut packed = vec![0; window.length as usize];
        self.file
            .read_exact_at(&mut packed, self.windows + window.offset)?;
        zstd::bulk::decompress(&packed, WINDOW)
    }
}

/// Whether chunks come by position without overlap, and lie within the blob and the windows.
fn check(chunks: &[Chunk], blob: u64, windows: u64) -> Result<(), &'static str> {
    let mut end = 0;
    for chunk in chunks {
        if chunk.position < end || chunk.length == 0 {
            return Err("its chunks overlap");
        }
        end = chunk
            .position
            .checked_add(chunk.length)
            .ok_or("a chunk is too long")?;
        if chunk.blob.start >= chunk.blob.end || chunk.blob.end > blob {
            return Err("a chunk lies outside of the blob");
        }
        if let Packing::Deflate { window, .. } = chunk.packing {
            let end = window.offset.checked_add(u64::from(window.length));
            if window.length as usize > 2 * WINDOW || end.is_none_or(|end| end > windows) {
                return Err("a window lies outside of the file");
            }
        }
    }
    Ok(())
}

const STORED: u8 = 0;
const GZIP: u8 = 1;
const ZSTD: u8 = 2;
const DEFLATE: u8 = 3;

fn encode(chunk: &Chunk) -> [u8; RECORD] {
    let none = Window { offset: 0, length: 0 };
    let (tag, skip, bits, window) = match chunk.packing {
        Packing::Stored => (STORED, 0, Bits::default(), none),
        Packing::Gzip { skip } => (GZIP, skip, Bits::default(), none),
        Packing::Zstd { skip } => (ZSTD, skip, Bits::default(), none),
        Packing::Deflate { bits, window } => (DEFLATE, 0, bits, window),
    };
    let numbers = [
        chunk.position,
        chunk.length,
        chunk.blob.start,
        chunk.blob.end,
        skip,
        window.offset,
    ];
    let mut record = [0; RECORD];
    for (place, number) in record.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    record[48..52].copy_from_slice(&window.length.to_le_bytes());
    record[52..56].copy_from_slice(&[tag, bits.count, bits.value, u8::from(chunk.digest.is_some())]);
    if let Some(digest) = &chunk.digest {
        record[56..88].copy_from_slice(digest.as_bytes());
    }
    record
}

fn decode(record: &[u8]) -> Option<Chunk> {
    let number = |n: usize| u64_at(record, 8 * n);
    let skip = number(4);
    let packing = match record[52] {
        STORED => Packing::Stored,
        GZIP => Packing::Gzip { skip },
        ZSTD => Packing::Zstd { skip },
        DEFLATE => Packing::Deflate {
            bits: Bits {
                count: record[53],
                value: record[54],
            },
            window: Window {
                offset: number(5),
                length: u32::from_le_bytes(record[48..52].try_into().ok()?),
            },
        },
        _ => return None,
    };
    let digest = Digest::from_bytes(record[56..88].try_into().ok()?);
    Some(Chunk {
        position: number(0),
        length: number(1),
        blob: number(2)..number(3),
        packing,
        digest: (record[55] != 0).then_some(digest),
    })
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn damaged(reason: &str) -> io::Error {
    let text = format!("the list of a layer's chunks is damaged: {reason}");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
