//! The log of a named upper, a file of frames: see `docs/format.md`, "A named upper". What a frame says is
//! `record.rs`'s.
//!
//! The first two frames, the layers and everything that differs from them, are a checkpoint: it is written aside and
//! renamed into place. What changes later is appended, a frame each time, until the file has doubled. A digest
//! chains each frame to those before it, so that the log ends before the first frame that was not written whole.
//! Behind the end lie zeros, allocated ahead.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::{Digest, Hasher};
use crate::layer::Layer;

/// The first bytes of a log; the last one is the version of the format.
const MAGIC: [u8; 8] = *b"micaupr\x03";
/// Length and digest.
const FRAME: usize = 8 + 32;
/// So many bytes are allocated ahead. A sync that changes no metadata of the host's filesystem, not even the size of a
/// file, need not wait for that filesystem's journal.
const AHEAD: usize = 256 << 10;
/// A log shorter than this, in bytes, is not worth a checkpoint.
const SHORT: u64 = 1 << 20;

const FILE: &str = "state";
const NEW_FILE: &str = "state.new";

/// The log of one upper, and where it ends.
pub(super) struct Log {
    directory: PathBuf,
    /// Open for appending; none before the first checkpoint, or after a write that failed.
    file: Option<File>,
    /// Of the last frame.
    digest: Digest,
    /// Where the last frame ends.
    length: u64,
    /// Where the file ends: zeros lie in between.
    allocated: u64,
    /// The length of the checkpoint.
    checkpoint: u64,
}

/// What a log holds; none if there is no log; or what is wrong with it.
pub(super) type Opened = Result<Option<Recorded>, &'static str>;

/// The frames of a log from the checkpoint on.
pub(super) struct Recorded {
    bytes: Vec<u8>,
    frames: Vec<Range<usize>>,
}

impl Recorded {
    /// What each frame says, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        self.frames
            .iter()
            .filter_map(|frame| self.bytes.get(frame.clone()))
    }
}

impl Log {
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            file: None,
            digest: Digest::of(&MAGIC),
            length: 0,
            allocated: 0,
            checkpoint: 0,
        }
    }

    /// Reads the log, and cuts off an end that was not written whole.
    pub fn open(&mut self, layers: &[Arc<Layer>]) -> io::Result<Opened> {
        let path = self.directory.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(None)),
            Err(error) => return Err(error),
        };
        let mut frames = Frames::new(&bytes);
        if bytes.get(..MAGIC.len()).is_none_or(|magic| magic != MAGIC) {
            return Ok(Err("its state is cut short, or of another version"));
        }
        match frames.next() {
            Some(found) if bytes[found.clone()] == describe(layers) => {}
            Some(_) => return Ok(Err("it belongs to another image")),
            None => return Ok(Err("its state is damaged")),
        }
        let Some(checkpoint) = frames.next() else {
            return Ok(Err("its state is damaged"));
        };
        self.checkpoint = frames.at as u64;
        let found = [checkpoint].into_iter().chain(frames.by_ref()).collect();
        (self.digest, self.length) = (frames.digest, frames.at as u64);
        let file = File::options().write(true).open(&path)?;
        if bytes[frames.at..].iter().any(|byte| *byte != 0) {
            tracing::info!(path = %path.display(), "the end of an upper's state was never completed");
        }
        file.set_len(self.length)?;
        self.allocated = self.length;
        self.file = Some(file);
        Ok(Ok(Some(Recorded { frames: found, bytes })))
    }

    /// Bytes of the frames.
    #[cfg(test)]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether everything is to be written anew rather than what changed.
    pub fn wants_checkpoint(&self) -> bool {
        self.file.is_none() || self.length - self.checkpoint > self.checkpoint.max(SHORT)
    }

    /// Puts a checkpoint in place of the log; durable on return.
    pub fn replace(&mut self, layers: &[Arc<Layer>], payload: &[u8]) -> io::Result<()> {
        let new = self.directory.join(NEW_FILE);
        let mut file = File::create(&new)?;
        let mut digest = Digest::of(&MAGIC);
        let mut length = MAGIC.len();
        let mut written = file.write_all(&MAGIC);
        for payload in [&describe(layers), payload] {
            let head = head(&mut digest, payload);
            written = written
                .and_then(|()| file.write_all(&head))
                .and_then(|()| file.write_all(payload));
            length += FRAME + payload.len();
        }
        let placed = written
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&new, self.directory.join(FILE)));
        if let Err(error) = placed {
            // What it takes may be what is missing on a full disk.
            let _ = fs::remove_file(&new);
            return Err(error);
        }
        File::open(&self.directory)?.sync_all()?;
        self.file = Some(file);
        self.digest = digest;
        self.length = length as u64;
        self.allocated = self.length;
        self.checkpoint = self.length;
        Ok(())
    }

    /// Appends a frame; durable on return.
    pub fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut digest = self.digest;
        let mut frame = head(&mut digest, payload);
        frame.extend_from_slice(payload);
        let end = self.length + frame.len() as u64;
        if end > self.allocated {
            frame.resize(frame.len() + AHEAD, 0);
        }
        file.write_all_at(&frame, self.length)?;
        file.sync_data()?;
        self.allocated = self.allocated.max(self.length + frame.len() as u64);
        self.length = end;
        self.digest = digest;
        Ok(())
    }

    /// After a write that failed nobody knows what the file holds: the next one begins anew.
    pub fn distrust(&mut self) {
        self.file = None;
    }
}

/// The payload of the first frame.
fn describe(layers: &[Arc<Layer>]) -> Vec<u8> {
    layers
        .iter()
        .flat_map(|layer| *layer.diff_id().0.as_bytes())
        .collect()
}

/// What stands before a payload; `digest` is that of the frame before, and of this one afterwards.
fn head(digest: &mut Digest, payload: &[u8]) -> Vec<u8> {
    *digest = chain(digest, payload);
    let mut head = (payload.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(digest.as_bytes());
    head
}

fn chain(before: &Digest, payload: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(before.as_bytes());
    hasher.update(payload);
    hasher.finish()
}

/// Where the payloads of the frames lie that are whole.
struct Frames<'a> {
    bytes: &'a [u8],
    /// Where the last whole frame ends.
    at: usize,
    digest: Digest,
}

impl<'a> Frames<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: MAGIC.len(),
            digest: Digest::of(&MAGIC),
        }
    }
}

impl Iterator for Frames<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        let (head, rest) = self.bytes.get(self.at..)?.split_at_checked(FRAME)?;
        let (length, expected) = head.split_first_chunk()?;
        let payload = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let digest = chain(&self.digest, payload);
        if expected != digest.as_bytes() {
            return None;
        }
        self.digest = digest;
        self.at += FRAME + payload.len();
        Some(self.at - payload.len()..self.at)
    }
}
