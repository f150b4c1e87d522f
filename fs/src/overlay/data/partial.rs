//! A large file of a layer of which some blocks were changed: those lie in the flat file, the others still in the
//! layer. So the first write to a file costs what it writes, not what the file holds.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::host::{self, BLOCK};
use super::{Content, FileData, small};
use crate::layer::Layer;
use crate::layer::index::EntryId;
use crate::overlay::Error;

/// A copy-up of up to so many bytes is made at once: reading a file from two places is not worth less.
pub(super) const AT_ONCE: u64 = 64 << 10;

const BLOCK_SIZE: u64 = BLOCK as u64;
const BITS: u64 = u64::BITS as u64;

/// Where the bytes of a partly copied file lie.
pub(in crate::overlay) struct Partial {
    layer: Arc<Layer>,
    entry: EntryId,
    /// Bytes from here on are never the layer's.
    shown: u64,
    /// A bit for each block of the layer's file: whether the flat file has it.
    copied: Box<[u64]>,
    /// Blocks below `shown` that are the layer's.
    missing: u64,
}

/// Which blocks of such a file are where, for a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::overlay) struct Blocks {
    /// Bytes from here on are the flat file's.
    pub shown: u64,
    /// Those of 64 blocks each of which the flat file has some: their number, and a bit for each block.
    pub copied: Vec<(u64, u64)>,
}

/// One of the two places.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Layer,
    Flat,
}

impl Partial {
    /// A file whose first `shown` bytes are a layer's; those that follow are the flat file's.
    pub fn new(layer: Arc<Layer>, entry: EntryId, shown: u64) -> Self {
        let words = usize::try_from(words(shown)).unwrap_or(usize::MAX);
        Self {
            layer,
            entry,
            shown,
            copied: vec![0; words].into_boxed_slice(),
            missing: shown.div_ceil(BLOCK_SIZE),
        }
    }

    /// The same as it was logged; the flat file has `size` bytes. `None` if it cannot be so.
    pub fn restored(layer: Arc<Layer>, entry: EntryId, blocks: &Blocks, size: u64) -> Option<Self> {
        let limit = layer.index().entry(entry)?.size();
        if blocks.shown > limit {
            return None;
        }
        let mut partial = Self::new(layer, entry, blocks.shown);
        for (number, bits) in &blocks.copied {
            *partial.copied.get_mut(usize::try_from(*number).ok()?)? = *bits;
        }
        let all = blocks.shown.div_ceil(BLOCK_SIZE);
        partial.missing = (0..all).filter(|block| !partial.is_copied(*block)).count() as u64;
        // Cut off after it was logged.
        partial.truncate(size);
        Some(partial)
    }

    pub fn blocks(&self) -> Blocks {
        let some = (0..words(self.shown)).zip(self.copied.iter().copied());
        Blocks {
            shown: self.shown,
            copied: some.filter(|(_, bits)| *bits != 0).collect(),
        }
    }

    /// Whether the layer is needed no more.
    pub fn is_complete(&self) -> bool {
        self.missing == 0
    }

    /// What the layer's bytes take, roughly.
    pub fn space(&self) -> u64 {
        let stored = self
            .layer
            .index()
            .entry(self.entry)
            .map_or(0, |entry| entry.stored());
        stored.min(self.missing * BLOCK_SIZE)
    }

    /// Whether all bytes of a range are the flat file's.
    pub fn has(&self, range: Range<u64>) -> bool {
        self.runs(range).all(|(side, _)| side == Side::Flat)
    }

    /// A range in pieces that lie in one place each.
    fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (Side, Range<u64>)> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let (start, side) = (at, self.side(at));
            while at < range.end && self.side(at) == side {
                at = match at < self.shown {
                    true => ((at / BLOCK_SIZE + 1) * BLOCK_SIZE).min(self.shown),
                    false => range.end,
                };
            }
            Some((side, start..at.min(range.end)))
        })
    }

    fn side(&self, offset: u64) -> Side {
        match offset >= self.shown || self.is_copied(offset / BLOCK_SIZE) {
            true => Side::Flat,
            false => Side::Layer,
        }
    }

    fn is_copied(&self, block: u64) -> bool {
        let word = usize::try_from(block / BITS)
            .ok()
            .and_then(|word| self.copied.get(word));
        word.is_none_or(|word| word >> (block % BITS) & 1 != 0)
    }

    /// The bytes of the layer that lie in the same blocks as the ends of a range that is about to be written, but
    /// outside of it: they must be copied before.
    pub fn edges(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = range.start / BLOCK_SIZE * BLOCK_SIZE..range.start.min(self.shown);
        let last = range.end
            ..range
                .end
                .div_ceil(BLOCK_SIZE)
                .saturating_mul(BLOCK_SIZE)
                .min(self.shown);
        [first, last]
            .into_iter()
            .filter(|edge| !edge.is_empty() && self.side(edge.start) == Side::Layer)
    }

    /// The flat file has all blocks of a range now.
    pub fn take(&mut self, range: &Range<u64>) {
        let end = range.end.min(self.shown).div_ceil(BLOCK_SIZE);
        for block in range.start / BLOCK_SIZE..end {
            if !self.is_copied(block)
                && let Some(word) = self
                    .copied
                    .get_mut(usize::try_from(block / BITS).unwrap_or(usize::MAX))
            {
                *word |= 1 << (block % BITS);
                self.missing -= 1;
            }
        }
    }

    /// Bytes from `size` on are the layer's no more.
    pub fn truncate(&mut self, size: u64) {
        let before = self.shown.div_ceil(BLOCK_SIZE);
        self.shown = self.shown.min(size);
        let lost = self.shown.div_ceil(BLOCK_SIZE)..before;
        self.missing -= lost.filter(|block| !self.is_copied(*block)).count() as u64;
    }

    /// Reads bytes of the layer.
    pub fn read_layer(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.layer.read_at(self.entry, buffer, offset)? {
            read if read < buffer.len() => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// How many words of bits a file of `size` bytes has.
fn words(size: u64) -> u64 {
    size.div_ceil(BLOCK_SIZE).div_ceil(BITS)
}

impl FileData {
    pub(super) fn read_partial(
        &self,
        partial: &Partial,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, Error> {
        let flat = self.flat()?;
        for (side, run) in partial.runs(offset..offset + buffer.len() as u64) {
            let piece = &mut buffer[small(run.start - offset)..small(run.end - offset)];
            match side {
                Side::Layer => partial
                    .read_layer(run.start, piece)
                    .map_err(Error::io("read a file of a layer"))?,
                Side::Flat => {
                    let read =
                        host::read_full(&flat, run.start, piece).map_err(Error::io("read a flat file"))?;
                    // A file that is being truncated.
                    piece[read..].fill(0);
                }
            }
        }
        Ok(buffer.len())
    }

    /// Before a range of a partly copied file is written: copies what shares its first and its last block with it.
    pub(super) fn copy_edges(&self, partial: &Partial, range: Range<u64>) -> Result<(), Error> {
        let flat = self.flat()?;
        let mut block = [0; BLOCK];
        for edge in partial.edges(&range) {
            let piece = &mut block[..small(edge.end - edge.start)];
            partial
                .read_layer(edge.start, piece)
                .and_then(|()| flat.write_all_at(piece, edge.start))
                .map_err(Error::io("copy up a file"))?;
        }
        Ok(())
    }

    pub(super) fn change_partial(&self, content: &mut Content, change: impl FnOnce(&mut Partial)) {
        if let Content::Partial(partial) = content {
            change(partial);
            if partial.is_complete() {
                self.replace(content, Content::Flat);
            }
        }
    }
}
