//! A blob in a registry, as the rest of this module needs it.

use std::io::{self, Read};
use std::ops::Range;

/// A blob that can be read from any place on. Reading fails with `Unsupported` if only the whole blob can be had.
pub trait Blob: Send + Sync {
    /// Its bytes in `range`.
    ///
    /// # Errors
    /// What went wrong on the way, after retries.
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>>;

    /// All its bytes.
    fn whole(&self) -> Box<dyn Read + Send>;

    /// Whether an error of reading is the registry's, or that of the way to it: not one of what the bytes mean.
    fn is_its_own(&self, error: &io::Error) -> bool;
}
