//! How layers are compressed when they leave.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};

use mica_fs::digest::{Digest, Hashing};

use crate::compress::{Algorithm, compress};

/// A form of a layer's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As plain tars.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// How the layers of an archive are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Coding {
    /// By what.
    pub compression: Compression,
    /// How hard to try, from 0 to [`Compression::highest_level`]; the compression's own default if `None`.
    pub level: Option<u32>,
    /// What happens to layers that came compressed.
    pub existing: Existing,
}

/// What happens to layers that came compressed into the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// They leave as they came.
    Keep,
    /// They are compressed again like the others.
    Recode,
}

impl Compression {
    /// The greatest level there is; `None` where there are none.
    pub fn highest_level(self) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Gzip => Some(9),
            Self::Zstd => Some(22),
        }
    }

    /// What follows a layer's media type (OCI image specification, "Layer Media Types").
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => "+gzip",
            Self::Zstd => "+zstd",
        }
    }
}

impl From<Compression> for Coding {
    /// All layers, at the default level.
    fn from(compression: Compression) -> Self {
        Self {
            compression,
            level: None,
            existing: Existing::Recode,
        }
    }
}

impl Coding {
    /// What does it; `None` if nothing is to be done.
    pub(crate) fn algorithm(self) -> Option<Algorithm> {
        let level = self.level.and_then(|level| i32::try_from(level).ok());
        match self.compression {
            Compression::None => None,
            Compression::Gzip => Some(
                self.level
                    .map_or(Algorithm::GZIP, |level| Algorithm::Gzip(level.min(9))),
            ),
            Compression::Zstd => Some(level.map_or(Algorithm::ZSTD, Algorithm::Zstd)),
        }
    }

    /// Compresses `plain` into `file`: the digest and the size of what is in it.
    pub(crate) fn compress(self, plain: &mut dyn Read, file: &mut File) -> io::Result<(Digest, u64)> {
        let mut out = Hashing::new(BufWriter::with_capacity(256 << 10, file));
        match self.algorithm() {
            None => drop(io::copy(plain, &mut out)?),
            Some(algorithm) => compress(algorithm, plain, &mut out)?,
        }
        let (mut buffer, digest, size) = out.finish();
        buffer.flush()?;
        Ok((digest, size))
    }
}
