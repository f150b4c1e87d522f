//! The one pass over a layer that has no table of contents: it is unpacked as it streams by, and the places are
//! remembered where unpacking can begin again.

use std::io::{self, BufRead, BufReader, Read};

use mica_fs::digest::Hasher;
use zstd::stream::raw::{Decoder, InBuffer, Operation as _, OutBuffer};

use super::chunk::{Chunk, Packing, Window};
use super::inflate::{Gunzip, Step};

/// What chunks get of unpacked bytes, or somewhat more. A window takes some 12 KB for each.
pub(super) const SPACING: u64 = 2 << 20;
const BUFFER: usize = 256 << 10;

/// Reads a packed layer as what it was before, and collects its chunks.
pub(super) struct Pass<R> {
    packed: Packed<R>,
    chunks: Vec<Chunk>,
    windows: Vec<u8>,
    hasher: Hasher,
    /// Bytes that were given out.
    position: u64,
    spacing: u64,
}

enum Packed<R> {
    Gzip(Box<Gunzip<R>>),
    Zstd(Box<Frames<R>>),
    Plain(BufReader<R>, u64),
}

/// What a layer is packed with, as far as reading can begin in its middle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Gzip,
    /// In frames of which the first tells its size: then it is one of several.
    Zstd,
    Plain,
}

impl Kind {
    /// Tells by the first bytes of a blob, of which there should be 512, and its size. `None` if nothing in its middle
    /// can be read without all that is before: it is better taken whole.
    pub(super) fn of(start: &[u8], blob: u64) -> Option<Self> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let size = zstd::zstd_safe::get_frame_content_size(start).ok().flatten()?;
                // A frame that holds the whole layer, but for a small one, is no place to begin in the middle.
                (size <= 4 * SPACING && blob > 0).then_some(Self::Zstd)
            }
            _ if start.get(257..262) == Some(b"ustar") => Some(Self::Plain),
            _ => None,
        }
    }
}

impl<R: Read> Pass<R> {
    /// Reads `source`; chunks get `spacing` bytes or more.
    pub(super) fn new(kind: Kind, source: R, spacing: u64) -> io::Result<Self> {
        Ok(Self {
            spacing,
            packed: match kind {
                Kind::Gzip => Packed::Gzip(Box::new(Gunzip::new(source))),
                Kind::Zstd => Packed::Zstd(Box::new(Frames::new(source)?)),
                Kind::Plain => Packed::Plain(BufReader::with_capacity(BUFFER, source), 0),
            },
            chunks: Vec::new(),
            windows: Vec::new(),
            hasher: Hasher::new(),
            position: 0,
        })
    }

    /// The chunks of a blob of so many bytes, and the windows that they need. The stream must have been read to its end.
    pub(super) fn finish(mut self, blob: u64) -> (Vec<Chunk>, Vec<u8>) {
        self.close(blob);
        (self.chunks, self.windows)
    }

    /// Gives some bytes; none at the end.
    fn next(&mut self) -> io::Result<&[u8]> {
        loop {
            let (at, packing) = match &mut self.packed {
                Packed::Gzip(gunzip) if gunzip.ready().is_empty() => match gunzip.advance()? {
                    Step::End => break,
                    Step::Bytes => continue,
                    Step::Member => (gunzip.position(), Packing::Gzip { skip: 0 }),
                    Step::Block(_) if !is_due(&self.chunks, self.position, self.spacing) => continue,
                    Step::Block(bits) => {
                        let window = add_window(&mut self.windows, &gunzip.window())?;
                        (gunzip.position(), Packing::Deflate { bits, window })
                    }
                },
                Packed::Zstd(frames) if frames.ready.is_empty() => match frames.advance()? {
                    Step::End => break,
                    Step::Member => (frames.position, Packing::Zstd { skip: 0 }),
                    Step::Bytes | Step::Block(_) => continue,
                },
                Packed::Plain(_, at) => match is_due(&self.chunks, self.position, self.spacing) {
                    true => (*at, Packing::Stored),
                    false => break,
                },
                Packed::Gzip(_) | Packed::Zstd(_) => break,
            };
            if is_due(&self.chunks, self.position, self.spacing) {
                self.close(at);
                self.chunks.push(Chunk {
                    position: self.position,
                    length: 0,
                    blob: at..at,
                    packing,
                    digest: None,
                });
            }
        }
        match &mut self.packed {
            Packed::Gzip(gunzip) => Ok(gunzip.ready()),
            Packed::Zstd(frames) => Ok(&frames.output[frames.ready.clone()]),
            Packed::Plain(source, _) => source.fill_buf(),
        }
    }

    /// Ends the chunk at hand, at this offset of the blob.
    fn close(&mut self, at: u64) {
        let Some(last) = self.chunks.last_mut() else {
            return;
        };
        last.length = self.position - last.position;
        last.blob.end = at;
        let hasher = std::mem::replace(&mut self.hasher, Hasher::new());
        match last.length {
            0 => drop(self.chunks.pop()),
            _ => last.digest = Some(hasher.finish()),
        }
    }
}

/// Whether a new chunk may begin.
fn is_due(chunks: &[Chunk], position: u64, spacing: u64) -> bool {
    chunks
        .last()
        .is_none_or(|last| position - last.position >= spacing)
}

fn add_window(windows: &mut Vec<u8>, window: &[u8]) -> io::Result<Window> {
    let packed = zstd::bulk::compress(window, 3)?;
    let offset = windows.len() as u64;
    windows.extend_from_slice(&packed);
    let length = u32::try_from(packed.len()).map_err(io::Error::other)?;
    Ok(Window { offset, length })
}

impl<R: Read> Read for Pass<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.next()?;
        let count = bytes.len().min(buffer.len());
        let buffer = &mut buffer[..count];
        buffer.copy_from_slice(&bytes[..count]);
        match &mut self.packed {
            Packed::Gzip(gunzip) => gunzip.take_bytes(count),
            Packed::Zstd(frames) => frames.ready.start += count,
            Packed::Plain(source, at) => {
                source.consume(count);
                *at += count as u64;
            }
        }
        self.hasher.update(buffer);
        self.position += count as u64;
        Ok(count)
    }
}

/// Reads frames of zstd (RFC 8878), and tells where they begin.
struct Frames<R> {
    source: BufReader<R>,
    decoder: Decoder<'static>,
    output: Box<[u8]>,
    ready: std::ops::Range<usize>,
    position: u64,
    /// Whether the next byte of the source begins a frame, and whether that was told.
    between: bool,
    told: bool,
}

impl<R: Read> Frames<R> {
    fn new(source: R) -> io::Result<Self> {
        Ok(Self {
            source: BufReader::with_capacity(BUFFER, source),
            decoder: Decoder::new()?,
            output: vec![0; BUFFER].into_boxed_slice(),
            ready: 0..0,
            position: 0,
            between: true,
            told: false,
        })
    }

    fn advance(&mut self) -> io::Result<Step> {
        if self.between && !self.told {
            if self.source.fill_buf()?.is_empty() {
                return Ok(Step::End);
            }
            self.told = true;
            return Ok(Step::Member);
        }
        loop {
            let bytes = self.source.fill_buf()?;
            let ended = bytes.is_empty();
            let mut input = InBuffer::around(bytes);
            let mut output = OutBuffer::around(&mut self.output[..]);
            let left = self.decoder.run(&mut input, &mut output)?;
            let (read, written) = (input.pos(), output.pos());
            self.source.consume(read);
            self.position += read as u64;
            self.ready = 0..written;
            self.between = left == 0;
            self.told &= !self.between;
            match written {
                0 if self.between => return self.advance(),
                0 if ended => return Err(io::ErrorKind::UnexpectedEof.into()),
                0 => {}
                _ => return Ok(Step::Bytes),
            }
        }
    }
}
