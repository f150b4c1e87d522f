//! An archive that is compressed as a whole, as its file's name says.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use super::{SaveError, save_file};
use crate::compress::{Algorithm, compress};

/// How a file of this name is compressed; `None`: not at all.
///
/// # Errors
/// [`SaveError::Packing`] for compressions that are read, but not written.
fn algorithm(path: &Path) -> Result<Option<Algorithm>, SaveError> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz" | "tgz") => Ok(Some(Algorithm::GZIP)),
        Some("zst" | "tzst") => Ok(Some(Algorithm::ZSTD)),
        Some("bz2" | "tbz2" | "xz" | "txz") => Err(SaveError::Packing {
            path: path.to_owned(),
        }),
        _ => Ok(None),
    }
}

/// As [`save_file`], compressed by gzip or zstd if the name ends with `.gz`, `.tgz`, `.zst` or `.tzst`.
///
/// # Errors
/// What `write` fails with, [`SaveError::Write`] and [`SaveError::Packing`].
pub fn save_packed<E: From<SaveError> + Send>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send,
) -> Result<(), E> {
    match algorithm(path)? {
        None => save_file(path, write),
        Some(algorithm) => save_file(path, |out| {
            let failed = |source| SaveError::Write {
                path: path.to_owned(),
                source,
            };
            let (mut plain, mut into) = io::pipe().map_err(failed)?;
            thread::scope(|scope| {
                let writer = scope.spawn(move || write(&mut into));
                let packed = compress(algorithm, &mut plain, out);
                // Whoever writes more gets an error, rather than wait for ever.
                drop(plain);
                let written = writer.join();
                packed.map_err(failed)?;
                let lost = |_| failed(io::Error::other("the thread that writes has panicked"));
                written.map_err(lost)?
            })
        }),
    }
}
