//! eStargz: a gzip of many members, one of which is the table of contents; the last one says where
//! (stargz-snapshotter, docs/estargz.md).

use std::collections::BTreeMap;
use std::io::{self, Read};

use mica_fs::digest::Digest;

use super::place::Place;
use super::{Format, MAX_TABLE, TocError};

/// Name of the table in the layer.
pub(super) const TABLE: &str = "stargz.index.json";
/// The annotation with the digest of the table.
const DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// The footer: an empty gzip member with the offset of the table in its header, as a subfield or, in stargz, alone.
const FOOTER: usize = 51;
const LEGACY_FOOTER: usize = 47;

/// Reads the end of a blob.
pub(super) fn footer(tail: &[u8], size: u64, annotations: &BTreeMap<String, String>) -> Option<Place> {
    let (length, text) = [(FOOTER, 16), (LEGACY_FOOTER, 12)]
        .into_iter()
        .find_map(|(length, at)| {
            let footer = &tail[tail.len().checked_sub(length)?..];
            let text = footer.get(at..at + 16)?;
            let fits = footer.starts_with(&[0x1f, 0x8b, 8, 4]) && footer[at + 16..].starts_with(b"STARGZ");
            fits.then_some((length as u64, text))
        })?;
    let offset = u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()?;
    Some(Place {
        format: Format::Estargz,
        range: offset..size.checked_sub(length)?,
        digest: annotations.get(DIGEST).and_then(|text| text.parse().ok()),
    })
}

/// The table's JSON: the only file of a tar in a gzip.
pub(super) fn unpack(packed: impl Read, digest: Option<Digest>) -> Result<Vec<u8>, TocError> {
    let limited = flate2::read::MultiGzDecoder::new(packed).take(MAX_TABLE + (64 << 10));
    let mut archive = tar::Archive::new(limited);
    let entry = archive.entries()?.next();
    let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))??;
    if entry.size() > MAX_TABLE {
        return Err(TocError::TooLarge);
    }
    let size = entry.size();
    let mut json = Vec::new();
    entry.take(size).read_to_end(&mut json)?;
    match digest {
        _ if (json.len() as u64) < size => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Some(expected) if expected != Digest::of(&json) => Err(TocError::Digest),
        _ => Ok(json),
    }
}
