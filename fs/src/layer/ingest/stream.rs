//! The incoming tar: every byte that is read goes to disk and into the digest.

use std::io::{self, BufReader, Read};

use super::super::tar_file::TarFile;
use crate::digest::Digest;
use crate::layer::writer::BLOCK;

/// What can go wrong between the incoming stream and the file.
pub(super) enum StreamError {
    /// The stream gave an error.
    Read(io::Error),
    /// The file cannot be written.
    Write(io::Error),
    /// The stream ended where more had to come.
    End,
}

/// One block of a tar.
pub(super) type Block = [u8; BLOCK as usize];

/// Reads a tar and copies it.
pub(super) struct Stream<'a> {
    source: BufReader<&'a mut dyn Read>,
    tar: TarFile,
}

impl<'a> Stream<'a> {
    pub(super) fn new(source: &'a mut dyn Read, tar: TarFile) -> Self {
        Self {
            source: BufReader::with_capacity(1 << 20, source),
            tar,
        }
    }

    /// The number of bytes read.
    pub(super) fn position(&self) -> u64 {
        self.tar.position()
    }

    /// The next block; `None` at the end of the stream.
    pub(super) fn block(&mut self) -> Result<Option<Block>, StreamError> {
        let mut block = [0; BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(StreamError::Read(e)),
            }
        }
        self.tar.write(&block[..filled]).map_err(StreamError::Write)?;
        match filled {
            0 => Ok(None),
            n if n == block.len() => Ok(Some(block)),
            _ => Err(StreamError::End),
        }
    }

    /// Passes on exactly `size` bytes, showing them to `see`.
    pub(super) fn copy(&mut self, size: u64, see: &mut dyn FnMut(&[u8])) -> Result<(), StreamError> {
        let mut left = size;
        while left > 0 {
            match self.some(left)? {
                [] => return Err(StreamError::End),
                bytes => {
                    left -= bytes.len() as u64;
                    see(bytes);
                }
            }
        }
        Ok(())
    }

    /// Passes on the zeros that fill the last block of something of `size` bytes.
    pub(super) fn padding(&mut self, size: u64) -> Result<(), StreamError> {
        let over = size % BLOCK;
        self.copy(if over == 0 { 0 } else { BLOCK - over }, &mut |_| ())
    }

    /// Passes on everything that is left. What follows the end of the archive belongs to the diff ID.
    pub(super) fn drain(&mut self) -> Result<(), StreamError> {
        while !self.some(u64::MAX)?.is_empty() {}
        Ok(())
    }

    /// Ends the file: digest and size.
    pub(super) fn finish(self) -> io::Result<(Digest, u64)> {
        self.tar.finish()
    }

    /// Passes on some bytes, at most `limit`; none at the end of the stream.
    fn some(&mut self, limit: u64) -> Result<&[u8], StreamError> {
        let n = loop {
            let space = self.tar.space().map_err(StreamError::Write)?;
            let wanted = space.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
            match self.source.read(&mut space[..wanted]) {
                Ok(n) => break n.min(wanted),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(StreamError::Read(e)),
            }
        };
        Ok(self.tar.advance(n))
    }
}
