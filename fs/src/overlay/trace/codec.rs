//! A read set as bytes: `docs/format.md`, "What a step has read".

use std::io::Read;

use super::{Observation, Presence, ReadSet};
use crate::digest::Digest;
use crate::layer::{Device, Kind, Timestamp, Xattrs};
use crate::path::ImagePath;

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"micatrc\x01";
/// Sets are far smaller; what claims to be larger is not read. It bounds the bytes of all paths as well, which are
/// longer than what is written of them.
const MAX_BYTES: u64 = 128 << 20;
/// As long as the kernel lets a path be, and longer ones that are reached step by step.
const MAX_PATH: usize = 1 << 16;
/// Paths hardly shrink at higher levels, and digests not at all.
const LEVEL: i32 = 3;

/// The types by their code; 0 is that nothing is there.
const KINDS: [Kind; 7] = [
    Kind::File,
    Kind::Directory,
    Kind::Symlink,
    Kind::CharDevice,
    Kind::BlockDevice,
    Kind::Fifo,
    Kind::Socket,
];

const TARGET: u64 = 1 << 3;
const CONTENT: u64 = 1 << 4;
const LISTING: u64 = 1 << 5;
const XATTRS: u64 = 1 << 6;
const DEVICE: u64 = 1 << 7;
const LINKS: u64 = 1 << 8;

/// Why bytes are no read set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They are of another version.
    #[error("the record of what a step has read is of version {0}, and this program knows version 1")]
    Version(u8),
    /// They are damaged.
    #[error("the record of what a step has read is damaged")]
    Damaged,
}

/// Writes a set. Equal sets give equal bytes.
///
/// # Errors
/// What the compressor reports, which is memory that it does not get.
pub fn encode(set: &ReadSet) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(set.len() * 64);
    put_number(&mut body, set.len() as u64);
    let mut last: &[u8] = &[];
    for (path, observation) in set {
        let path = path.as_bytes();
        let shared = last.iter().zip(path).take_while(|(a, b)| a == b).count();
        put_number(&mut body, shared as u64);
        put_bytes(&mut body, &path[shared..]);
        put_observation(&mut body, observation);
        last = path;
    }
    let compressed = zstd::bulk::compress(&body, LEVEL)?;
    Ok([&MAGIC[..], &compressed].concat())
}

/// Reads a set back.
///
/// # Errors
/// [`DecodeError`] for anything that [`encode`] does not write.
pub fn decode(bytes: &[u8]) -> Result<ReadSet, DecodeError> {
    let (magic, compressed) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Damaged)?;
    match (magic[..7] == MAGIC[..7], magic[7] == MAGIC[7]) {
        (true, true) => {}
        (true, false) => return Err(DecodeError::Version(magic[7])),
        (false, _) => return Err(DecodeError::Damaged),
    }
    decompress(compressed)
        .and_then(|body| Reader(&body).set())
        .ok_or(DecodeError::Damaged)
}

fn decompress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    let mut limited = zstd::stream::read::Decoder::new(bytes).ok()?.take(MAX_BYTES + 1);
    limited.read_to_end(&mut body).ok()?;
    (body.len() as u64 <= MAX_BYTES).then_some(body)
}

fn put_observation(body: &mut Vec<u8>, observation: &Observation) {
    let Observation::Present(seen) = observation else {
        return put_number(body, 0);
    };
    let kind = KINDS.iter().position(|kind| *kind == seen.kind).unwrap_or(0) as u64 + 1;
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    let head = kind
        | flag(TARGET, seen.target.is_some())
        | flag(CONTENT, seen.content.is_some())
        | flag(LISTING, seen.listing.is_some())
        | flag(XATTRS, seen.xattrs.is_some())
        | flag(DEVICE, seen.device != Device::default())
        | flag(LINKS, seen.links.is_some());
    put_number(body, head);
    for number in [seen.mode, seen.uid, seen.gid] {
        put_number(body, number.into());
    }
    put_number(body, seen.size);
    let seconds = seen.mtime.seconds;
    put_number(body, (seconds << 1 ^ seconds >> 63).cast_unsigned());
    put_number(body, seen.mtime.nanoseconds.into());
    if seen.device != Device::default() {
        put_number(body, seen.device.major.into());
        put_number(body, seen.device.minor.into());
    }
    if let Some(target) = &seen.target {
        put_bytes(body, target);
    }
    for digest in [seen.content, seen.listing, seen.links].iter().flatten() {
        body.extend_from_slice(digest.as_bytes());
    }
    if let Some(xattrs) = &seen.xattrs {
        put_number(body, xattrs.len() as u64);
        for (name, value) in xattrs {
            put_bytes(body, name);
            put_bytes(body, value);
        }
    }
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    put_number(body, bytes.len() as u64);
    body.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
fn put_number(body: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        body.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    body.push(rest as u8);
}

/// The number of paths for which there is room from the beginning.
const LARGE: usize = 32_768;

/// What is left to decode.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn set(mut self) -> Option<ReadSet> {
        let count = self.number()?;
        let mut last: Vec<u8> = Vec::new();
        // A large set is not moved while it grows; what the count says is not believed beyond that.
        let expected = usize::try_from(count).map_or(LARGE, |count| count.min(LARGE));
        let mut all: Vec<(ImagePath, Observation)> = Vec::with_capacity(expected);
        let mut budget = usize::try_from(MAX_BYTES).unwrap_or(usize::MAX);
        for _ in 0..count {
            let shared = self.length()?;
            last.get(shared..)?;
            last.truncate(shared);
            last.extend_from_slice(self.bytes()?);
            budget = budget.checked_sub(last.len())?;
            let path = ImagePath::from_member(&last).ok()?;
            // One spelling only, and in order.
            let valid = last.len() <= MAX_PATH
                && path.as_bytes() == last
                && all.last().is_none_or(|(before, _)| *before < path);
            all.push((path, self.observation()?));
            valid.then_some(())?;
        }
        self.0.is_empty().then(|| all.into_iter().collect())
    }

    fn observation(&mut self) -> Option<Observation> {
        let head = self.number()?;
        let Some(kind) = (head & 7).checked_sub(1) else {
            return (head == 0).then_some(Observation::Absent);
        };
        let has = |flag| head & flag != 0;
        let kind = KINDS[kind as usize];
        let [mode, uid, gid] = [self.word()?, self.word()?, self.word()?];
        let size = self.number()?;
        let zigzag = self.number()?;
        let mtime = Timestamp {
            seconds: (zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed(),
            nanoseconds: self.word().filter(|nanoseconds| *nanoseconds < 1_000_000_000)?,
        };
        let mut device = Device::default();
        if has(DEVICE) {
            (device.major, device.minor) = (self.word()?, self.word()?);
        }
        let target = match has(TARGET) {
            true => Some(self.bytes()?.to_vec()),
            false => None,
        };
        let [content, listing, links] = [
            self.digest(has(CONTENT))?,
            self.digest(has(LISTING))?,
            self.digest(has(LINKS))?,
        ];
        let xattrs = match has(XATTRS) {
            true => Some(self.xattrs()?),
            false => None,
        };
        Some(Observation::Present(Presence {
            kind,
            mode,
            uid,
            gid,
            size,
            mtime,
            device,
            links,
            target,
            content,
            listing,
            xattrs,
        }))
    }

    fn xattrs(&mut self) -> Option<Xattrs> {
        let count = self.number()?;
        let mut xattrs = Xattrs::new();
        for _ in 0..count {
            let (name, value) = (self.bytes()?.to_vec(), self.bytes()?.to_vec());
            xattrs.insert(name, value);
        }
        (xattrs.len() as u64 == count).then_some(xattrs)
    }

    fn digest(&mut self, is_there: bool) -> Option<Option<Digest>> {
        if !is_there {
            return Some(None);
        }
        let (digest, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(Some(Digest::from_bytes(*digest)))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    fn word(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7f);
            // No bit may fall off the end.
            (bits << shift >> shift == bits).then_some(())?;
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    fn paths() -> impl Strategy<Value = ImagePath> {
        let name = vec(prop_oneof![1u8..b'/', b'0'..=255], 1..6);
        vec(name.prop_filter("a name", |n| n != b"." && n != b".."), 0..5).prop_map(|names| {
            let root = ImagePath::root();
            names.iter().fold(root, |path, name| path.join(name))
        })
    }

    fn presence() -> impl Strategy<Value = Observation> {
        let digest = || option::of(any::<[u8; 32]>().prop_map(Digest::from_bytes));
        let bytes = || vec(any::<u8>(), 0..9);
        let first = (0usize..7, any::<[u32; 5]>(), any::<u64>(), any::<i64>());
        let second = (0u32..1_000_000_000, digest(), digest(), digest());
        let third = (option::of(bytes()), option::of(btree_map(bytes(), bytes(), 0..3)));
        (first, second, third).prop_map(|(first, second, (target, xattrs))| {
            let (kind, [mode, uid, gid, major, minor], size, seconds) = first;
            let (nanoseconds, content, listing, links) = second;
            let mtime = Timestamp { seconds, nanoseconds };
            let device = Device { major, minor };
            Observation::Present(Presence {
                kind: KINDS[kind],
                mode,
                uid,
                gid,
                size,
                mtime,
                device,
                links,
                target,
                content,
                listing,
                xattrs,
            })
        })
    }

    fn sets() -> impl Strategy<Value = ReadSet> {
        btree_map(paths(), prop_oneof![Just(Observation::Absent), presence()], 0..20)
    }

    proptest! {
        #[test]
        fn a_set_comes_back(set in sets()) {
            let bytes = encode(&set).expect("encoded");
            prop_assert_eq!(decode(&bytes), Ok(set));
        }

        /// Whatever the bytes are: no panic, and what is read is what would be written.
        #[test]
        fn damage_is_noticed_or_harmless(set in sets(), at in any::<usize>(), byte in any::<u8>(), cut in any::<bool>()) {
            let encoded = encode(&set).expect("encoded");
            let mut body = decompress(&encoded[8..]).expect("a frame");
            let at = at % body.len();
            match cut {
                true => body.truncate(at),
                false => body[at] = byte,
            }
            if let Some(set) = Reader(&body).set() {
                let again = decompress(&encode(&set).expect("encoded")[8..]).expect("a frame");
                prop_assert_eq!(Reader(&again).set(), Some(set));
            }
            let mut outside = encoded;
            let at = at % outside.len();
            outside[at] = byte;
            let _ = decode(&outside);
        }

        #[test]
        fn other_bytes_are_refused(bytes in vec(any::<u8>(), 0..64)) {
            let _ = Reader(&bytes).set();
            prop_assert_eq!(decode(&bytes), Err(DecodeError::Damaged));
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = encode(&ReadSet::new()).expect("encoded");
        bytes[7] = 2;
        assert_eq!(decode(&bytes), Err(DecodeError::Version(2)));
    }

    #[test]
    fn what_claims_to_be_huge_is_not_read() {
        let bomb = vec![0; MAX_BYTES as usize + 1];
        let bytes = [
            &MAGIC[..],
            &zstd::bulk::compress(&bomb, LEVEL).expect("compressed"),
        ]
        .concat();
        assert_eq!(decode(&bytes), Err(DecodeError::Damaged));
        // Many long paths that differ in their last byte only.
        let mut body = Vec::new();
        put_number(&mut body, 1 << 20);
        let name = [b'a'; 255];
        let long = [&name[..]; 200].join(&b'/');
        put_number(&mut body, 0);
        put_bytes(&mut body, &long);
        put_number(&mut body, 0);
        for n in 0..(1 << 20) - 1u32 {
            put_number(
                &mut body,
                if n == 0 {
                    long.len() as u64
                } else {
                    long.len() as u64 + 1
                },
            );
            put_bytes(&mut body, if n == 0 { b"/a" } else { b"a" });
            put_number(&mut body, 0);
        }
        assert_eq!(Reader(&body).set(), None);
    }
}
