//! Which content the files of a context had when they were read last, so that only those that changed since are read
//! again. It is kept in a file of the store, whose loss or damage costs time only; `docs/format.md` describes it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use mica_fs::digest::Digest;
use mica_fs::layer::Timestamp;
use mica_fs::overlay::Expected;
use mica_fs::path::ImagePath;
use mica_fs::stamp::{Known, Stamp};

/// The file's first bytes, of which the last is the version.
const MAGIC: [u8; 8] = *b"micactx\x01";
/// As many files are remembered at most.
const MAX_FILES: usize = 1 << 20;
/// A larger file of records is none of ours.
const MAX_BYTES: u64 = 1 << 30;
/// A file that no build met since it was saved so many times is forgotten.
const MAX_AGE: u8 = 16;

/// The content of files, by their path in the context.
#[derive(Default)]
pub(super) struct KnownFiles {
    /// Where it is kept beyond this process, if anywhere.
    place: OnceLock<PathBuf>,
    /// Read when first needed.
    records: OnceLock<RwLock<Records>>,
    changed: AtomicBool,
}

type Records = HashMap<ImagePath, Record>;

#[derive(Debug)]
struct Record {
    known: Known,
    /// Whether each later change of the file gives it another stamp.
    settled: bool,
    /// How often it was saved since a build met it.
    age: AtomicU8,
}

impl KnownFiles {
    /// Says where it is kept: in the file at `place`. To be called before anything else.
    pub fn keep_at(&self, place: PathBuf) {
        // A second build with the same context keeps it in the same store.
        let _ = self.place.set(place);
    }

    /// The content of a file that has this stamp, if it was read when it had it.
    pub fn get(&self, path: &ImagePath, stamp: &Stamp) -> Expected {
        let found = self.find(path, stamp);
        found.map_or(Expected::Anything, |(known, settled)| match settled {
            true => Expected::Stamped(known),
            false => Expected::Content(known.digest),
        })
    }

    fn find(&self, path: &ImagePath, stamp: &Stamp) -> Option<(Known, bool)> {
        let records = self.records().read().unwrap_or_else(PoisonError::into_inner);
        let record = records.get(path)?;
        record.age.store(0, Ordering::Relaxed);
        (record.known.stamp == *stamp).then_some((record.known, record.settled))
    }

    /// Notes the content of a file that was begun to be read at `now`.
    pub fn put(&self, path: &ImagePath, known: Known, now: Timestamp) {
        let settled = known.stamp.is_settled(now);
        let age = AtomicU8::new(0);
        let mut records = self.records().write().unwrap_or_else(PoisonError::into_inner);
        records.insert(path.clone(), Record { known, settled, age });
        self.changed.fetch_or(settled, Ordering::Relaxed);
    }

    /// Writes the file, if anything was noted. Of two processes that do so the last one's stays.
    pub fn save(&self) -> io::Result<()> {
        let Some(place) = self.place.get() else {
            return Ok(());
        };
        if !self.changed.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = encode(&self.records().read().unwrap_or_else(PoisonError::into_inner));
        let directory = place.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory)?;
        let mut new = tempfile::NamedTempFile::new_in(directory)?;
        // Not synced: what a crash leaves of it is found damaged.
        new.write_all(&bytes)?;
        new.persist(place)?;
        Ok(())
    }

    fn records(&self) -> &RwLock<Records> {
        self.records
            .get_or_init(|| RwLock::new(self.place.get().and_then(|place| read(place)).unwrap_or_default()))
    }
}

fn read(place: &Path) -> Option<Records> {
    let mut bytes = Vec::new();
    File::open(place)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .ok()?;
    let records = decode(&bytes);
    if records.is_none() {
        tracing::warn!(path = %place.display(), "what is known of the build context's files is damaged");
    }
    records
}

fn encode(records: &Records) -> Vec<u8> {
    let mut sorted: Vec<_> = records
        .iter()
        .filter(|(_, record)| record.settled)
        .map(|(path, record)| (record.age.load(Ordering::Relaxed), path, record.known))
        .collect();
    // Those met last are the ones to keep.
    sorted.sort_unstable_by_key(|(age, path, _)| (*age, *path));
    sorted.truncate(MAX_FILES);
    let mut body = Vec::with_capacity(sorted.len() * 128);
    for (age, path, Known { stamp, digest }) in sorted {
        for number in [stamp.device, stamp.inode, stamp.size] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        for time in [stamp.mtime, stamp.ctime] {
            body.extend_from_slice(&time.seconds.to_le_bytes());
            body.extend_from_slice(&time.nanoseconds.to_le_bytes());
        }
        body.extend_from_slice(digest.as_bytes());
        body.push(age);
        let path = path.as_bytes();
        body.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        body.extend_from_slice(path);
    }
    [&MAGIC[..], Digest::of(&body).as_bytes(), &body].concat()
}

fn decode(bytes: &[u8]) -> Option<Records> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    let (digest, body) = rest.split_first_chunk::<32>()?;
    if Digest::of(body).as_bytes() != digest {
        return None;
    }
    let mut body = Body(body);
    let mut records = Records::new();
    while !body.0.is_empty() {
        let stamp = Stamp {
            device: body.number()?,
            inode: body.number()?,
            size: body.number()?,
            mtime: body.time()?,
            ctime: body.time()?,
        };
        let digest = Digest::from_bytes(body.take()?);
        let [age] = body.take()?;
        let path = body.path()?;
        if age < MAX_AGE {
            let record = Record {
                known: Known { stamp, digest },
                settled: true,
                age: AtomicU8::new(age + 1),
            };
            records.insert(path, record);
        }
    }
    Some(records)
}

/// What is left to decode.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn number(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: i64::from_le_bytes(self.take()?),
            nanoseconds: u32::from_le_bytes(self.take()?),
        })
    }

    fn path(&mut self) -> Option<ImagePath> {
        let length = usize::try_from(u32::from_le_bytes(self.take()?)).ok()?;
        let (path, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        ImagePath::clean(path).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Timestamp = Timestamp::from_seconds(100);

    fn known(inode: u64) -> Known {
        let time = Timestamp {
            seconds: -5,
            nanoseconds: 7,
        };
        Known {
            stamp: Stamp {
                device: 1,
                inode,
                size: 3,
                mtime: time,
                ctime: time,
            },
            digest: Digest::of(&inode.to_le_bytes()),
        }
    }

    fn kept_at(place: &Path) -> KnownFiles {
        let files = KnownFiles::default();
        files.keep_at(place.to_owned());
        files
    }

    fn path(text: &str) -> ImagePath {
        ImagePath::clean(text.as_bytes()).expect("a path")
    }

    #[test]
    fn what_is_saved_is_found_again() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let place = directory.path().join("new/known");
        let files = kept_at(&place);
        files.put(&path("a"), known(1), LATER);
        files.put(&path("d/b"), known(2), LATER);
        files.save()?;
        let again = kept_at(&place);
        assert_eq!(
            again.get(&path("a"), &known(1).stamp),
            Expected::Stamped(known(1))
        );
        assert_eq!(
            again.get(&path("d/b"), &known(2).stamp),
            Expected::Stamped(known(2))
        );
        assert_eq!(again.get(&path("d/b"), &known(3).stamp), Expected::Anything);
        assert_eq!(again.get(&path("b"), &known(2).stamp), Expected::Anything);
        Ok(())
    }

    #[test]
    fn what_is_not_met_is_forgotten_in_the_end() -> io::Result<()> {
        let directory = tempfile::tempdir()?;
        let place = directory.path().join("known");
        let first = kept_at(&place);
        first.put(&path("met"), known(1), LATER);
        first.put(&path("not"), known(2), LATER);
        first.save()?;
        for n in 0..u64::from(MAX_AGE) {
            let files = kept_at(&place);
            assert!(files.find(&path("met"), &known(1).stamp).is_some());
            files.put(&path("new"), known(10 + n), LATER);
            files.save()?;
        }
        let last = kept_at(&place);
        assert!(last.find(&path("met"), &known(1).stamp).is_some());
        assert!(last.find(&path("not"), &known(2).stamp).is_none());
        Ok(())
    }

    #[test]
    fn damage_is_found() {
        let record = Record {
            known: known(1),
            settled: true,
            age: AtomicU8::new(0),
        };
        let bytes = encode(&Records::from([(path("a"), record)]));
        assert!(decode(&bytes).is_some_and(|records| records.len() == 1));
        for at in 0..bytes.len() {
            assert!(decode(&bytes[..at]).is_none(), "cut at {at}");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode(&damaged).is_none(), "damaged at {at}");
        }
    }
}
