//! zstd:chunked: frames of zstd for each file, and the table of contents in a skippable frame at the end
//! (containers/storage, pkg/chunked).

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;

use mica_fs::digest::Digest;

use super::place::Place;
use super::{Format, MAX_TABLE, TocError};

/// The annotations' names begin so, or as the first versions had it.
const PREFIXES: [&str; 2] = [
    "io.github.containers.zstd-chunked.",
    "io.containers.zstd-chunked.",
];
/// The last bytes of a blob with a table.
const MAGICS: [&[u8]; 2] = [b"GNUlInUx", b"GnUlInUx"];
/// The only type of table, that of CRFS.
const CRFS: u64 = 1;

/// Where the annotations say that the table is.
pub(super) fn annotated(annotations: &BTreeMap<String, String>) -> Option<Place> {
    PREFIXES.iter().find_map(|prefix| {
        let value = |name: &str| annotations.get(&format!("{prefix}{name}"));
        let mut numbers = value("manifest-position")?.split(':').map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let (offset, length, _, kind) = (number()?, number()?, number()?, number()?);
        let digest = value("manifest-checksum")?.parse().ok()?;
        place(offset, length, kind, Some(digest))
    })
}

/// Reads the end of a blob: a skippable frame of 64 or, in the first version, 40 bytes.
pub(super) fn footer(tail: &[u8]) -> Option<Place> {
    if !MAGICS.iter().any(|magic| tail.ends_with(magic)) {
        return None;
    }
    [64, 40].into_iter().find_map(|size: u32| {
        let frame = &tail[tail.len().checked_sub(size as usize + 8)?..];
        let (header, footer) = frame.split_at(8);
        if header[..4] != [0x50, 0x2a, 0x4d, 0x18] || header[4..] != size.to_le_bytes() {
            return None;
        }
        let number = |n: usize| Some(u64::from_le_bytes(footer.get(8 * n..8 * n + 8)?.try_into().ok()?));
        place(number(0)?, number(1)?, number(3)?, None)
    })
}

fn place(offset: u64, length: u64, kind: u64, digest: Option<Digest>) -> Option<Place> {
    let range = offset..offset.checked_add(length)?;
    let format = Format::ZstdChunked;
    (kind == CRFS).then_some(Place {
        format,
        range,
        digest,
    })
}

/// The table's JSON.
pub(super) fn unpack(
    packed: impl Read,
    range: &Range<u64>,
    digest: Option<Digest>,
) -> Result<Vec<u8>, TocError> {
    let size = range.end - range.start;
    if size > MAX_TABLE {
        return Err(TocError::TooLarge);
    }
    let mut bytes = Vec::new();
    packed.take(size).read_to_end(&mut bytes)?;
    if (bytes.len() as u64) < size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if digest.is_some_and(|digest| digest != Digest::of(&bytes)) {
        return Err(TocError::Digest);
    }
    let mut json = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(&bytes[..])?;
    decoder.take(MAX_TABLE + 1).read_to_end(&mut json)?;
    match json.len() as u64 {
        size if size > MAX_TABLE => Err(TocError::TooLarge),
        _ => Ok(json),
    }
}
