//! Layers in a made-up registry, which counts what is asked of it.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read, Write as _};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::{Layer, ReadAt as _};
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;
use proptest::prelude::*;
use tempfile::TempDir;

use super::blob::Blob;
use super::bytes::RemoteBytes;
use super::chunk::{Chunk, Chunks, Packing};
use super::layer::{Described, open};
use super::pass::{Kind, Pass};
use super::settle::settles;
use super::{LazyError, Notice};

/// A blob in memory, and what was asked of it.
#[derive(Clone)]
pub(super) struct Memory {
    pub bytes: Arc<Mutex<Vec<u8>>>,
    pub asked: Arc<Mutex<Vec<Range<u64>>>>,
    pub ranges: bool,
}

/// An error that stands for the network's.
const BROKEN: &str = "the network is gone";

impl Memory {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: Arc::new(Mutex::new(bytes)),
            asked: Arc::default(),
            ranges: true,
        }
    }

    fn fetched(&self) -> u64 {
        self.asked().iter().map(|range| range.end - range.start).sum()
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<Range<u64>> {
        std::mem::take(&mut *self.asked.lock().expect("no thread panicked"))
    }

    fn damage(&self, at: usize) {
        self.bytes.lock().expect("no thread panicked")[at] ^= 0x55;
    }
}

impl Blob for Memory {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        if !self.ranges {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.asked.lock().expect("no thread panicked").push(range.clone());
        let bytes = self.bytes.lock().expect("no thread panicked");
        let part = bytes.get(range.start as usize..range.end as usize);
        let part = part.ok_or_else(|| io::Error::other(BROKEN))?;
        Ok(Box::new(Cursor::new(part.to_vec())))
    }

    fn whole(&self) -> Box<dyn Read + Send> {
        let bytes = self.bytes.lock().expect("no thread panicked").clone();
        let mut asked = self.asked.lock().expect("no thread panicked");
        asked.push(0..bytes.len() as u64);
        Box::new(Cursor::new(bytes))
    }

    fn is_its_own(&self, error: &io::Error) -> bool {
        error.to_string() == BROKEN
    }
}

/// A store, for as long as the test.
pub(super) struct Place {
    pub store: Store,
    _directory: TempDir,
}

pub(super) fn place() -> Place {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(directory.path()).expect("a store");
    Place {
        store,
        _directory: directory,
    }
}

/// Bytes that compress about as well as programs do.
pub(super) fn text(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match state >> 62 {
            0 => bytes.extend_from_slice(b"once upon a time "),
            _ => bytes.extend_from_slice(&state.to_le_bytes()[4..]),
        }
    }
    bytes.truncate(size);
    bytes
}

/// A tar of these files.
pub(super) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, *content)
            .expect("into memory");
    }
    builder.into_inner().expect("into memory")
}

fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

/// Opens the layer of that tar, of which `blob` is the packed form.
pub(super) fn open_layer(
    place: &Place,
    blob: &Memory,
    tar: &[u8],
    annotations: &BTreeMap<String, String>,
) -> Result<(Arc<Layer>, Vec<Notice>), LazyError> {
    let bytes = blob.bytes.lock().expect("no thread panicked").clone();
    let described = Described {
        digest: Digest::of(&bytes),
        size: bytes.len() as u64,
        annotations,
        diff_id: DiffId(Digest::of(tar)),
    };
    let notices = Mutex::new(Vec::new());
    let notify = |notice| notices.lock().expect("no thread panicked").push(notice);
    let layer = open(&place.store, &described, Box::new(blob.clone()), &notify)?;
    let notices = notices.lock().expect("no thread panicked").clone();
    Ok((layer, notices))
}

pub(super) fn read(layer: &Arc<Layer>, path: &str) -> io::Result<Vec<u8>> {
    let overlay = Overlay::read_only(vec![layer.clone()]);
    let path = ImagePath::clean(path.as_bytes()).expect("a path");
    let attr = overlay.resolve(&path, Follow::Yes).map_err(io::Error::other)?;
    let mut content = Vec::new();
    crate::export::content(&overlay, &attr).read_to_end(&mut content)?;
    Ok(content)
}

/// The sizes of the layers that were read as a whole; nothing else was to be told, but how far that is.
fn passes(notices: &[Notice]) -> Vec<u64> {
    let told = notices.iter().filter_map(|notice| match notice {
        Notice::Pass { bytes, .. } => Some(*bytes),
        Notice::Passing { .. } => None,
        Notice::NoRanges => Some(0),
    });
    told.collect()
}

#[test]
fn every_packing_is_read_and_the_second_look_fetches_little() {
    let (big, late) = (text(12 << 20, 1), text(5000, 2));
    let tar = tar(&[("first", b"1"), ("big", &big), ("late", &late)]);
    let own = |algorithm| {
        let mut out = Vec::new();
        crate::compress::compress(algorithm, &mut &tar[..], &mut out).expect("into memory");
        out
    };
    let members = [gzip(&tar[..5_000_000], 1), gzip(&tar[5_000_000..], 9)].concat();
    for (what, packed) in [
        ("gzip", gzip(&tar, 6)),
        ("stored", gzip(&tar, 0)),
        ("members", members),
        ("own gzip", own(crate::compress::Algorithm::GZIP)),
        ("own zstd", own(crate::compress::Algorithm::ZSTD)),
        ("plain", tar.clone()),
    ] {
        let (place, blob) = (place(), Memory::new(packed.clone()));
        let (layer, notices) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
        let size = packed.len() as u64;
        assert_eq!(passes(&notices), [size], "{what}");
        assert!(read(&layer, "/late").expect("read") == late, "{what}");
        drop(layer);
        assert!(
            blob.fetched() < size * 3 / 2 + (2 << 20),
            "{what}: one pass and a chunk"
        );
        // Again, with what is known by now.
        let (layer, notices) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
        assert!(notices.is_empty(), "{what}");
        assert!(read(&layer, "/late").expect("read") == late, "{what}");
        assert_eq!(blob.fetched(), 0, "{what}: it was kept");
        assert!(read(&layer, "/first").expect("read") == b"1", "{what}");
        let one = blob.fetched();
        assert!(one > 0 && one < size / 2, "{what}: {one} of {size}");
        assert!(read(&layer, "/big").expect("read") == big, "{what}");
        assert!(
            blob.asked().len() <= 8,
            "{what}: a reader who goes on gets more at a time"
        );
        assert_eq!(layer.index().tar_size(), tar.len() as u64);
    }
}

#[test]
fn an_index_takes_about_a_hundredth() {
    let tar = tar(&[("big", &text(40 << 20, 7))]);
    let place = place();
    let (layer, _) = open_layer(&place, &Memory::new(gzip(&tar, 6)), &tar, &BTreeMap::new()).expect("opened");
    drop(layer);
    let directory = std::fs::read_dir(place.store.root().join("remote")).expect("it is there");
    let directory = directory.flatten().next().expect("one layer").path();
    let size = |name: &str| directory.join(name).metadata().expect("it is there").len();
    let known = size("index") + size("chunks");
    assert!(known * 50 < tar.len() as u64, "{known} of {}", tar.len());
}

#[test]
fn what_cannot_be_entered_in_the_middle_is_taken_whole() {
    let content = text(9 << 20, 3);
    let tar = tar(&[("a", &content)]);
    // A frame that does not tell its size, as most writers of streams make it.
    let packed = zstd::encode_all(&tar[..], 1).expect("into memory");
    let (place, blob) = (place(), Memory::new(packed.clone()));
    let (layer, _) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
    assert!(read(&layer, "/a").expect("read") == content);
    assert!(place.store.has_layer(&DiffId(Digest::of(&tar))));
    assert!(blob.fetched() < packed.len() as u64 + 2000, "once only");
    // So is everything if the registry gives whole blobs only.
    let (place, mut blob) = (self::place(), Memory::new(gzip(&tar, 6)));
    blob.ranges = false;
    let (layer, notices) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
    assert_eq!(notices, [Notice::NoRanges]);
    assert!(read(&layer, "/a").expect("read") == content);
}

#[test]
fn a_layer_in_the_store_is_read_there() {
    let tar = tar(&[("a", b"here")]);
    let (place, blob) = (place(), Memory::new(gzip(&tar, 6)));
    place.store.import_layer(&mut &tar[..], None).expect("taken in");
    let (layer, _) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
    assert_eq!(read(&layer, "/a").expect("read"), b"here");
    assert_eq!(blob.fetched(), 0);
}

#[test]
fn damage_is_never_read_as_content() {
    let content = text(6 << 20, 4);
    let tar = tar(&[("a", &content), ("b", b"small")]);
    for packed in [gzip(&tar, 6), gzip(&tar, 0), tar.clone()] {
        let (place, blob) = (place(), Memory::new(packed.clone()));
        let (layer, _) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
        let half = packed.len() / 2;
        blob.damage(half);
        assert!(read(&layer, "/a").is_err(), "the damage is noticed");
        assert_eq!(read(&layer, "/b").expect("elsewhere it is whole"), b"small");
        blob.damage(half);
        assert!(read(&layer, "/a").expect("whole again") == content);
        // Then the damage would be in the first pass.
        blob.damage(half);
        let bytes = blob.bytes.lock().expect("no thread panicked").clone();
        let (described, fresh) = (DiffId(Digest::of(&tar)), self::place());
        let described = Described {
            digest: Digest::of(&packed),
            size: bytes.len() as u64,
            annotations: &BTreeMap::new(),
            diff_id: described,
        };
        assert!(open(&fresh.store, &described, Box::new(blob.clone()), &|_| ()).is_err());
        assert!(
            fresh
                .store
                .remote_directory(&described.digest)
                .expect("readable")
                .is_none()
        );
    }
}

#[test]
fn what_is_known_is_made_anew_if_it_is_damaged() {
    let tar = tar(&[("a", b"content")]);
    let (place, blob) = (place(), Memory::new(gzip(&tar, 6)));
    drop(open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened"));
    let root = place.store.root().join("remote");
    let directory = std::fs::read_dir(&root)
        .expect("there")
        .flatten()
        .next()
        .expect("one")
        .path();
    for name in ["index", "chunks"] {
        for damage in [&b""[..], b"micachk\x01", &[0xff; 200]] {
            std::fs::write(directory.join(name), damage).expect("written");
            let (layer, _) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
            assert_eq!(read(&layer, "/a").expect("read"), b"content");
        }
    }
}

#[test]
fn several_readers_fetch_each_chunk_once() {
    let content = text(16 << 20, 5);
    let tar = tar(&[("a", &content)]);
    let (place, blob) = (place(), Memory::new(gzip(&tar, 1)));
    let (layer, _) = open_layer(&place, &blob, &tar, &BTreeMap::new()).expect("opened");
    let size = blob.bytes.lock().expect("no thread panicked").len() as u64;
    blob.asked();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(read(&layer, "/a").expect("read") == content));
        }
    });
    assert!(blob.fetched() <= size, "nothing is fetched twice");
}

/// A layer of the store.
fn stored(place: &Place, files: &[(&str, &[u8])]) -> Arc<Layer> {
    place
        .store
        .import_layer(&mut &tar(files)[..], None)
        .expect("a layer")
}

#[test]
fn the_top_settles_what_it_can() {
    let place = place();
    let layers = [
        stored(
            &place,
            &[("dir/low", b""), ("etc/conf", b""), ("usr/bin/sh", b"")],
        ),
        stored(
            &place,
            &[("dir/.wh.low", b""), ("own/.wh..wh..opq", b""), ("own/a", b"")],
        ),
        stored(&place, &[("dir/high", b""), ("etc/conf", b"")]),
    ];
    let settled = |from: usize, path: &str| {
        let path = ImagePath::clean(path.as_bytes()).expect("a path");
        settles(&layers[from..], &path, Follow::Yes)
    };
    for (path, from) in [
        ("/dir/high", 2),
        ("/etc/conf", 2),
        ("/etc/conf/below-a-file", 2),
        ("/dir/low", 1),
        ("/own/a", 1),
        ("/own", 1),
        ("/own/none", 1),
        ("/usr/bin/sh", 0),
    ] {
        assert!(
            settled(from, path),
            "{path} is settled by the layers from {from} on"
        );
        assert!(
            from == 2 || !settled(from + 1, path),
            "{path} is not settled before"
        );
    }
    for open in ["/dir", "/", "/none"] {
        assert!(!settled(1, open), "{open} may be in every layer");
    }
}

/// How a stream of gzip was written: pieces, each with a level and what ends it.
#[derive(Clone, Debug)]
struct Piece {
    bytes: Vec<u8>,
    level: u32,
    flush: bool,
    member: bool,
    name: bool,
}

fn piece() -> impl Strategy<Value = Piece> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..3000),
        (0..60_000_usize, any::<u64>()).prop_map(|(size, seed)| text(size, seed)),
        (0..60_000_usize, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]),
    ];
    (bytes, 0..=9_u32, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(bytes, level, flush, member, name)| Piece {
            bytes,
            level,
            flush,
            member,
            name,
        },
    )
}

fn write(pieces: &[Piece]) -> (Vec<u8>, Vec<u8>) {
    let (mut plain, mut packed) = (Vec::new(), Vec::new());
    for group in pieces.chunk_by(|before, _| !before.member) {
        let mut header = GzBuilder::new();
        if group[0].name {
            header = header.filename("a name").comment("a comment").extra("extra");
        }
        let mut encoder = header.write(packed, Compression::new(group[0].level));
        for piece in group {
            encoder.write_all(&piece.bytes).expect("into memory");
            plain.extend_from_slice(&piece.bytes);
            if piece.flush {
                encoder.flush().expect("into memory");
            }
        }
        packed = encoder.finish().expect("into memory");
    }
    (plain, packed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_gzip_is_read_from_any_place(
        pieces in proptest::collection::vec(piece(), 1..8),
        spacing in prop_oneof![Just(1_u64), 1000..50_000_u64],
        reads in proptest::collection::vec((any::<prop::sample::Index>(), 1..70_000_usize), 1..8),
    ) {
        let (plain, packed) = write(&pieces);
        prop_assume!(!plain.is_empty());
        let mut pass = Pass::new(Kind::Gzip, &packed[..], spacing).expect("begun");
        let mut found = Vec::new();
        pass.read_to_end(&mut found).expect("unpacked");
        prop_assert!(found == plain);
        let (chunks, windows) = pass.finish(packed.len() as u64);
        let place = place();
        let bytes = remote(&place, &packed, &chunks, &windows);
        for (start, length) in reads {
            let start = start.index(plain.len());
            let end = (start + length).min(plain.len());
            let mut buffer = vec![0; end - start];
            bytes.read_exact_at(&mut buffer, start as u64).expect("read");
            prop_assert!(buffer == plain[start..end]);
        }
    }

    #[test]
    fn damaged_gzip_is_an_error_or_the_same(
        pieces in proptest::collection::vec(piece(), 1..4),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (plain, packed) = write(&pieces);
        let mut damaged = packed.clone();
        damaged[at.index(packed.len())] = byte;
        let mut found = Vec::new();
        let mut pass = Pass::new(Kind::Gzip, &damaged[..], 1000).expect("begun");
        if pass.read_to_end(&mut found).is_ok() {
            prop_assert!(found == plain);
        }
        let cut = &packed[..cut.index(packed.len())];
        let mut found = Vec::new();
        let mut pass = Pass::new(Kind::Gzip, cut, 1000).expect("begun");
        if pass.read_to_end(&mut found).is_ok() {
            // Between two members nobody can tell.
            prop_assert!(plain.starts_with(&found));
        }
    }

    #[test]
    fn any_list_of_chunks_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("chunks");
        for header in [&b""[..], b"micachk\x01"] {
            std::fs::write(&path, [header, &bytes].concat()).expect("written");
            let _ = Chunks::open(&path, 1000);
        }
    }
}

/// The bytes of these chunks of a blob.
fn remote(place: &Place, packed: &[u8], chunks: &[Chunk], windows: &[u8]) -> RemoteBytes {
    let digest = Digest::of(packed);
    let work = place.store.work_dir().expect("a directory");
    let size = packed.len() as u64;
    Chunks::write(&work.path().join("chunks"), size, chunks, windows).expect("written");
    let directory = place
        .store
        .publish_remote_directory(&digest, work)
        .expect("published");
    let chunks = Chunks::open(&directory.path().join("chunks"), size).expect("read");
    let blob = Box::new(Memory::new(packed.to_vec()));
    RemoteBytes::new(digest, blob, chunks, directory).expect("opened")
}

#[test]
fn a_chunk_that_lies_outside_is_refused() {
    let good = Chunk {
        position: 10,
        length: 5,
        blob: 0..9,
        packing: Packing::Stored,
        digest: None,
    };
    let directory = tempfile::tempdir().expect("a directory");
    let accepted = |name: &str, chunks: &[Chunk]| {
        let path = directory.path().join(name);
        Chunks::write(&path, 9, chunks, &[]).expect("written");
        Chunks::open(&path, 9).is_ok()
    };
    let with = |change: fn(&mut Chunk)| {
        let mut chunk = good.clone();
        change(&mut chunk);
        chunk
    };
    assert!(accepted("good", std::slice::from_ref(&good)));
    assert!(!accepted("overlap", &[good.clone(), good.clone()]));
    assert!(!accepted("beyond", &[with(|chunk| chunk.blob.end = 10)]));
    assert!(!accepted("empty", &[with(|chunk| chunk.length = 0)]));
    assert!(!accepted("huge", &[with(|chunk| chunk.length = u64::MAX)]));
}
