//! The system-call edge of this crate: safe wrappers, and its only `unsafe` code.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Deref;

pub(crate) mod fd;
pub(crate) mod limit;
pub(crate) mod statx;
pub(crate) mod writeback;

/// A file mapped into memory, read-only.
pub struct Mapping(memmap2::Mmap);

impl Mapping {
    /// Maps the whole of `file`.
    ///
    /// # Errors
    /// What mmap(2) reports.
    pub fn of(file: &File) -> io::Result<Self> {
        // SAFETY: only write-once files of the store are mapped: they are complete before they get their name
        // and are never written again, and removing one leaves the mapping valid.
        unsafe { memmap2::Mmap::map(file) }.map(Self)
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
