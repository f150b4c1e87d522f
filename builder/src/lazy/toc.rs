//! Layers that carry a table of contents: eStargz and zstd:chunked. Both list the members of the tar, and for each file
//! where its bytes lie in the blob, in the same words (the field names come from CRFS).
//!
//! What the table says is believed as far as the image vouches for it: by the digest of the table in the manifest. A
//! table without one is believed as the registry is. Whatever it says, nothing outside of the blob is read.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use base64::Engine as _;
use mica_fs::digest::Digest;
use mica_fs::layer::index::{Data, Encoded, Extent, InvalidEntry, Node};
use mica_fs::layer::ingest::{Listing, Problem};
use mica_fs::layer::{Device, Metadata, Timestamp, Xattrs};
use serde::Deserialize;

use super::chunk::{Chunk, Packing};

mod estargz;
mod place;
#[cfg(test)]
mod tests;
mod zstd_chunked;

pub(super) use place::find;

/// The largest table that is read, in bytes before compression: some 150,000 files.
const MAX_TABLE: u64 = 64 << 20;

/// Why a table of contents cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum TocError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is not the one that the image names")]
    Digest,
    #[error("it is larger than {} MiB", MAX_TABLE >> 20)]
    TooLarge,
    #[error("it is not valid JSON")]
    Json(#[from] serde_json::Error),
    #[error("it has version {0}, not 1")]
    Version(u64),
    #[error("{name:?}: {reason}")]
    Entry { name: String, reason: String },
    #[error(transparent)]
    Index(#[from] InvalidEntry),
}

/// A table of contents.
#[derive(Debug, Deserialize)]
pub(super) struct Table {
    version: u64,
    entries: Vec<Entry>,
}

/// A member of the tar, or a further chunk of the file before it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    size: u64,
    modtime: Option<String>,
    link_name: String,
    mode: u32,
    uid: u32,
    gid: u32,
    dev_major: u32,
    dev_minor: u32,
    xattrs: Option<BTreeMap<String, String>>,
    digest: String,
    offset: u64,
    end_offset: u64,
    inner_offset: u64,
    chunk_offset: u64,
    chunk_size: u64,
    chunk_digest: String,
    chunk_type: String,
}

/// A layer as its table of contents tells it.
pub(super) struct Contents {
    pub index: Encoded,
    pub chunks: Vec<Chunk>,
    /// The tar's size in bytes, as far as the table tells it.
    pub tar_size: u64,
}

/// How the bytes that a table names are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Format {
    Estargz,
    ZstdChunked,
}

impl Table {
    fn parse(json: &[u8]) -> Result<Self, TocError> {
        let table: Self = serde_json::from_slice(json)?;
        match table.version {
            1 => Ok(table),
            other => Err(TocError::Version(other)),
        }
    }

    /// The layer whose files lie in the first `payload` bytes of the blob.
    ///
    /// # Errors
    /// [`TocError`] if the table contradicts itself, or names what no layer can have.
    pub(super) fn contents(&self, format: Format, payload: u64) -> Result<Contents, TocError> {
        let mut reading = Reading {
            format,
            payload,
            starts: self.starts(format),
            listing: Listing::default(),
            chunks: Vec::new(),
            position: 0,
            tar_size: 1024,
        };
        let mut entries = self.entries.as_slice();
        while let Some((first, rest)) = entries.split_first() {
            let more = rest
                .iter()
                .take_while(|entry| entry.kind == "chunk" && entry.name == first.name)
                .count();
            reading
                .member(first, &rest[..more])
                .map_err(|reason| TocError::Entry {
                    name: first.name.clone(),
                    reason,
                })?;
            entries = &rest[more..];
        }
        Ok(Contents {
            index: reading.listing.finish()?,
            chunks: reading.chunks,
            tar_size: reading.tar_size,
        })
    }

    /// Where pieces begin, ascending: in eStargz each ends where the next one begins.
    fn starts(&self, format: Format) -> Vec<u64> {
        if format == Format::ZstdChunked {
            return Vec::new();
        }
        let mut starts: Vec<u64> = self.entries.iter().map(|entry| entry.offset).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }
}

struct Reading {
    format: Format,
    payload: u64,
    starts: Vec<u64>,
    listing: Listing,
    chunks: Vec<Chunk>,
    /// Where the bytes of the next file go: the index counts only bytes that can be fetched.
    position: u64,
    tar_size: u64,
}

impl Reading {
    fn member(&mut self, entry: &Entry, more: &[Entry]) -> Result<(), String> {
        if is_landmark(&entry.name) {
            return Ok(());
        }
        let padded = entry.size.checked_next_multiple_of(512);
        let tar_size = padded.and_then(|size| self.tar_size.checked_add(size)?.checked_add(512));
        self.tar_size = tar_size.ok_or("its size is out of range")?;
        let name = entry.name.as_bytes();
        if entry.kind == "hardlink" {
            let added = self.listing.add_link(name, entry.link_name.as_bytes());
            return added.map_err(text);
        }
        let node = self.node(entry, more)?;
        self.listing.add(name, metadata(entry)?, node).map_err(text)
    }

    fn node(&mut self, entry: &Entry, more: &[Entry]) -> Result<Node, String> {
        let device = Device {
            major: entry.dev_major,
            minor: entry.dev_minor,
        };
        Ok(match entry.kind.as_str() {
            "dir" => Node::Directory,
            "reg" => Node::File(self.file(entry, more)?),
            "symlink" => Node::Symlink(entry.link_name.clone().into_bytes()),
            "char" => Node::CharDevice(device),
            "block" => Node::BlockDevice(device),
            "fifo" => Node::Fifo,
            "chunk" => return Err("a chunk without its file".to_owned()),
            other => return Err(format!("an unknown type: {other:?}")),
        })
    }

    /// A file's chunks must follow each other, without gaps, up to its size.
    fn file(&mut self, entry: &Entry, more: &[Entry]) -> Result<Data, String> {
        let digest = digest(&entry.digest)?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut done = 0;
        for number in (0..=more.len()).take_while(|_| entry.size > 0) {
            let (piece, rest) = match number.checked_sub(1) {
                None => (entry, more),
                Some(number) => (&more[number], &more[number + 1..]),
            };
            let left = entry.size - done;
            let length = if piece.chunk_size == 0 {
                left
            } else {
                piece.chunk_size
            };
            if piece.chunk_offset != done || length > left {
                return Err("its chunks do not follow each other".to_owned());
            }
            if length > 0 && piece.chunk_type != "zeros" {
                let end = self.end(entry, piece, rest);
                let position = self.chunk(piece, length, end, digest.filter(|_| length == entry.size))?;
                match extents.last_mut() {
                    Some(last) if last.offset + last.length == done => last.length += length,
                    _ => extents.push(Extent {
                        offset: done,
                        length,
                        position,
                    }),
                }
            }
            done += length;
        }
        match done == entry.size {
            true => Ok(Data {
                size: entry.size,
                digest,
                extents,
            }),
            false => Err("its chunks are not all of it".to_owned()),
        }
    }

    /// Where a piece of a file ends in the blob: where the next one begins, of any file in eStargz; in zstd:chunked of
    /// this file, for whose end there is a field.
    fn end(&self, entry: &Entry, piece: &Entry, rest: &[Entry]) -> u64 {
        match self.format {
            Format::Estargz => {
                let next = self.starts.partition_point(|start| *start <= piece.offset);
                self.starts
                    .get(next)
                    .map_or(self.payload, |start| *start.min(&self.payload))
            }
            Format::ZstdChunked => {
                let mut next = rest.iter().map(|piece| piece.offset);
                next.find(|start| *start > piece.offset)
                    .unwrap_or(entry.end_offset)
            }
        }
    }

    /// Adds a chunk with bytes, which ends there in the blob; `whole` is the digest of the file if this is all of it.
    /// Returns its position.
    fn chunk(&mut self, piece: &Entry, length: u64, end: u64, whole: Option<Digest>) -> Result<u64, String> {
        let packing = match self.format {
            Format::Estargz => Packing::Gzip {
                skip: piece.inner_offset,
            },
            Format::ZstdChunked => Packing::Zstd { skip: 0 },
        };
        if piece.offset >= end || end > self.payload {
            return Err("its bytes lie outside of the layer".to_owned());
        }
        let position = self.position;
        self.position = position
            .checked_add(length)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or("its size is out of range")?;
        self.chunks.push(Chunk {
            position,
            length,
            blob: Range {
                start: piece.offset,
                end,
            },
            packing,
            digest: digest(&piece.chunk_digest)?.or(whole),
        });
        Ok(position)
    }
}

fn metadata(entry: &Entry) -> Result<Metadata, String> {
    let mut xattrs = Xattrs::new();
    for (name, value) in entry.xattrs.iter().flatten() {
        let value = base64::engine::general_purpose::STANDARD.decode(value);
        let value = value.map_err(|_| format!("the attribute {name:?} is no base64"))?;
        xattrs.insert(name.clone().into_bytes(), value);
    }
    let mtime = match entry.modtime.as_deref() {
        None | Some("") => Timestamp::default(),
        Some(text) => time(text).ok_or_else(|| format!("no time: {text:?}"))?,
    };
    Ok(Metadata {
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        mtime,
        xattrs,
    })
}

/// RFC 3339.
fn time(text: &str) -> Option<Timestamp> {
    let nanoseconds = text.parse::<jiff::Timestamp>().ok()?.as_nanosecond();
    Some(Timestamp {
        seconds: i64::try_from(nanoseconds.div_euclid(1_000_000_000)).ok()?,
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).ok()?,
    })
}

fn digest(text: &str) -> Result<Option<Digest>, String> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("no digest: {text:?}")),
    }
}

/// What the makers of tables put into a layer for themselves.
fn is_landmark(name: &str) -> bool {
    let name = name.trim_start_matches("./");
    [".prefetch.landmark", ".no.prefetch.landmark", estargz::TABLE].contains(&name)
}

fn text(problem: Problem) -> String {
    problem.to_string()
}
