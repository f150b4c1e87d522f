//! Where in a blob its table of contents lies.

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;

use mica_fs::digest::Digest;

use super::super::blob::Blob;
use super::{Format, Table, TocError, estargz, zstd_chunked};

/// As many bytes at the end of a blob tell where its table is.
const TAIL: u64 = 72;

/// A table of contents in a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(in super::super) struct Place {
    pub format: Format,
    /// Where it lies, compressed.
    pub range: Range<u64>,
    /// Its digest, if the image vouches for it: in eStargz of the JSON, in zstd:chunked of what lies in the blob.
    pub digest: Option<Digest>,
}

/// Finds the table by the annotations that the manifest has for the layer, or by the end of the blob, if there is one.
///
/// # Errors
/// [`TocError::Read`], also if the registry gives only whole blobs.
pub(in super::super) fn find(
    blob: &dyn Blob,
    size: u64,
    annotations: &BTreeMap<String, String>,
) -> Result<Option<Place>, TocError> {
    if let Some(place) = zstd_chunked::annotated(annotations) {
        return Ok(Some(place).filter(|place| place.is_inside(size)));
    }
    let start = size.saturating_sub(TAIL);
    let mut tail = Vec::new();
    blob.read(start..size)?.take(TAIL).read_to_end(&mut tail)?;
    let place = estargz::footer(&tail, size, annotations).or_else(|| zstd_chunked::footer(&tail));
    Ok(place.filter(|place| place.is_inside(size)))
}

impl Place {
    fn is_inside(&self, size: u64) -> bool {
        self.range.start < self.range.end && self.range.end <= size
    }

    /// Fetches the table.
    ///
    /// # Errors
    /// [`TocError`].
    pub(in super::super) fn table(&self, blob: &dyn Blob) -> Result<Table, TocError> {
        let packed = blob.read(self.range.clone())?;
        let json = match self.format {
            Format::Estargz => estargz::unpack(packed, self.digest)?,
            Format::ZstdChunked => zstd_chunked::unpack(packed, &self.range, self.digest)?,
        };
        Table::parse(&json)
    }
}
