//! Lists of what COPY and ADD took: so that a later build can name the file that changed.
//!
//! A list lies in the store under the digest of all that it lists, so equal ones lie there once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::time::SystemTime;

use mica_fs::digest::Digest;
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

const MAGIC: &[u8; 8] = b"micasrc\x01";
/// The largest list that is read, in bytes: a larger one is damaged.
const LIMIT: u64 = 1 << 30;

/// What is known of a file that was copied: enough to tell that it is another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner in the place that it came from.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The beginning of a digest: of a file's bytes, a link's target, a device's number; and of attributes.
    pub content: u64,
}

/// Everything that was copied, by its path in the place that it came from.
pub type List = BTreeMap<ImagePath, Listed>;

/// What became of a file between two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It is of another type.
    Kind,
    /// Its bytes, or where it links to.
    Content,
    /// Its permission bits.
    Mode,
    /// Its owner or group.
    Owner,
}

/// What differs, in the order of the paths.
pub fn compare(old: &List, new: &List) -> Vec<(ImagePath, Change)> {
    let mut changes: Vec<_> = old
        .iter()
        .filter(|(path, _)| !new.contains_key(path))
        .map(|(path, _)| (path.clone(), Change::Removed))
        .collect();
    changes.extend(new.iter().filter_map(|(path, new)| {
        let change = match old.get(path) {
            None => Change::Added,
            Some(old) => old.change(new)?,
        };
        Some((path.clone(), change))
    }));
    changes.sort_by(|a, b| a.0.cmp(&b.0));
    changes
}

impl Listed {
    fn change(&self, new: &Self) -> Option<Change> {
        if self.mode & libc::S_IFMT != new.mode & libc::S_IFMT {
            return Some(Change::Kind);
        }
        if self.content != new.content {
            return Some(Change::Content);
        }
        if self.mode != new.mode {
            return Some(Change::Mode);
        }
        ((self.uid, self.gid) != (new.uid, new.gid)).then_some(Change::Owner)
    }
}

/// Keeps a list under the digest of what it lists, unless it is there.
///
/// # Errors
/// What the system says.
pub fn keep(store: &Store, digest: &Digest, list: &[(ImagePath, Listed)]) -> io::Result<()> {
    let path = store.sources_file(digest);
    if let Ok(file) = File::options().append(true).open(&path) {
        return file.set_modified(SystemTime::now());
    }
    let directory = path.parent().unwrap_or(&path);
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(MAGIC)?;
    file.write_all(&zstd::bulk::compress(&encode(list), 1)?)?;
    file.persist(&path)?;
    Ok(())
}

/// Reads a list; `None` if it is not there, or damaged.
pub fn find(store: &Store, digest: &Digest) -> Option<List> {
    let bytes = fs::read(store.sources_file(digest)).ok()?;
    let compressed = bytes.strip_prefix(MAGIC)?;
    let mut plain = Vec::new();
    let decoder = zstd::stream::read::Decoder::new(compressed).ok()?;
    io::Read::read_to_end(&mut io::Read::take(decoder, LIMIT), &mut plain).ok()?;
    decode(&plain)
}

fn encode(list: &[(ImagePath, Listed)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, listed) in list {
        let path = path.as_bytes();
        let length = u32::try_from(path.len()).unwrap_or(u32::MAX);
        for number in [listed.mode, listed.uid, listed.gid, length] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&listed.content.to_le_bytes());
        bytes.extend_from_slice(path);
    }
    bytes
}

fn decode(mut bytes: &[u8]) -> Option<List> {
    let mut list = List::new();
    while !bytes.is_empty() {
        let mut numbers = [0; 4];
        for number in &mut numbers {
            *number = u32::from_le_bytes(*take(&mut bytes)?);
        }
        let [mode, uid, gid, length] = numbers;
        let content = u64::from_le_bytes(*take(&mut bytes)?);
        let (path, rest) = bytes.split_at_checked(length as usize)?;
        bytes = rest;
        let listed = Listed {
            mode,
            uid,
            gid,
            content,
        };
        list.insert(ImagePath::clean(path).ok()?, listed);
    }
    Some(list)
}

fn take<'b, const N: usize>(bytes: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(first)
}
