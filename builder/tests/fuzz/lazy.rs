//! Layers that are read in their registry: tables of contents that cannot be trusted, and lists of chunks that are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read, Write as _};
use std::ops::Range;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use mica_builder::export;
use mica_builder::lazy::{Blob, Described, LazyError, open};
use mica_fs::digest::{DiffId, Digest};
use mica_fs::layer::{Kind, Layer};
use mica_fs::overlay::Overlay;
use mica_fs::path::ImagePath;
use mica_fs::store::Store;
use tempfile::TempDir;

use super::fuzz;

/// What a table may say of the members that lie in [`payload`].
const TABLES: [&str; 3] = [
    r#"{"version":1,"entries":[{"name":"d/","type":"dir","mode":493,"modtime":"2024-01-01T00:00:00Z"},{"name":"d/a","type":"reg","size":6,"mode":420,"offset":0,"endOffset":30,"chunkDigest":"DIGEST","digest":"DIGEST"},{"name":"l","type":"symlink","linkName":"d/a"},{"name":"h","type":"hardlink","linkName":"d/a"}]}"#,
    r#"{"version":1,"entries":[{"name":"b","type":"reg","size":12,"offset":0,"chunkSize":6,"xattrs":{"user.a":"Yg=="}},{"name":"b","type":"chunk","offset":40,"chunkOffset":6,"chunkSize":6,"endOffset":60},{"name":"c","type":"reg","size":100,"chunkSize":100,"chunkType":"zeros"},{"name":".wh.x","type":"reg"},{"name":"stargz.index.json","type":"reg","size":1,"offset":70}]}"#,
    r#"{"version":1,"entries":[{"name":"e","type":"char","devMajor":1,"devMinor":3,"uid":1,"gid":2},{"name":"f","type":"fifo"},{"name":"g","type":"block"},{"name":".wh..wh..opq","type":"reg"},{"name":"i","type":"reg","size":3,"offset":0,"innerOffset":2}]}"#,
];

const WORDS: [&str; 40] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "null",
    "0",
    "1",
    "6",
    "30",
    "-1",
    "1e999",
    "9223372036854775807",
    "18446744073709551615",
    "\"version\":",
    "\"entries\":",
    "\"name\":",
    "\"type\":",
    "\"reg\"",
    "\"chunk\"",
    "\"hardlink\"",
    "\"symlink\"",
    "\"dir\"",
    "\"size\":",
    "\"offset\":",
    "\"endOffset\":",
    "\"innerOffset\":",
    "\"chunkOffset\":",
    "\"chunkSize\":",
    "\"chunkType\":\"zeros\"",
    "\"chunkDigest\":\"\"",
    "\"linkName\":",
    "\"modtime\":",
    "\"xattrs\":{\"a\":\"\"}",
    "\"../../x\"",
    "\"/\"",
    "\"a/b/c/d\"",
    "\"d/a\"",
    "{\"name\":\"b\",\"type\":\"reg\",\"size\":6,\"offset\":0},",
];

/// A blob in memory. A part of it that there is not is like a broken network.
struct Memory(Arc<Vec<u8>>);

impl Blob for Memory {
    fn read(&self, range: Range<u64>) -> io::Result<Box<dyn Read + Send>> {
        assert!(
            range.start <= range.end && range.end <= self.0.len() as u64,
            "outside of the blob: {range:?}"
        );
        let range =
            usize::try_from(range.start).expect("in memory")..usize::try_from(range.end).expect("in memory");
        Ok(Box::new(Cursor::new(self.0[range].to_vec())))
    }

    fn whole(&self) -> Box<dyn Read + Send> {
        Box::new(Cursor::new(self.0.to_vec()))
    }

    fn is_its_own(&self, _: &io::Error) -> bool {
        false
    }
}

struct Place {
    store: Store,
    _directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::open(directory.path()).expect("a store");
        Self {
            store,
            _directory: directory,
        }
    }

    fn open(&self, blob: &Arc<Vec<u8>>, digest: Digest, diff_id: DiffId) -> Result<Arc<Layer>, LazyError> {
        let none = BTreeMap::new();
        let described = Described {
            digest,
            size: blob.len() as u64,
            annotations: &none,
            diff_id,
        };
        open(&self.store, &described, Box::new(Memory(blob.clone())), &|_| {})
    }

    /// Opens a blob, reads what is in it, and forgets it.
    fn look(&self, blob: Vec<u8>) {
        let (digest, blob) = (Digest::of(&blob), Arc::new(blob));
        match self.open(&blob, digest, DiffId(digest)) {
            Ok(layer) => look(layer),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        self.store.remove_remote_directory(&digest).expect("removed");
    }
}

/// Reads the beginning of each file. Some cannot be read: then their pieces are not what the table says.
pub fn look(layer: Arc<Layer>) {
    let overlay = Overlay::read_only(vec![layer]);
    let mut files = Vec::new();
    let walked = export::walk(&overlay, &ImagePath::root(), &mut |_, attr| {
        if attr.kind == Kind::File {
            files.push(*attr);
        }
        Ok(())
    });
    walked.expect("a tree of the index can be walked");
    for attr in files.iter().take(20) {
        let mut content = Vec::new();
        let read = export::content(&overlay, attr)
            .take(1 << 16)
            .read_to_end(&mut content);
        if read.is_ok() {
            assert_eq!(content.len() as u64, attr.size.min(1 << 16));
        }
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(bytes).expect("into memory");
    encoder.finish().expect("into memory")
}

fn payload(pack: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    [pack(b"first\n"), pack(b"second"), pack(b"third!")].concat()
}

fn estargz(json: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(json.len() as u64);
    let added = tar.append_data(&mut header, "stargz.index.json", json);
    added.expect("into memory");
    let mut blob = payload(gzip);
    let offset = blob.len();
    blob.extend(gzip(&tar.into_inner().expect("into memory")));
    // An empty member whose extra field says where the table is.
    blob.extend([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0]);
    blob.extend(format!("{offset:016x}STARGZ").bytes());
    blob.extend([1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    blob
}

fn zstd_chunked(json: &[u8]) -> Vec<u8> {
    let pack = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).expect("into memory");
    let mut blob = payload(pack);
    let table = pack(json);
    // Skippable frames: the table, and at the end where it is.
    blob.extend([0x50, 0x2a, 0x4d, 0x18]);
    blob.extend(u32::try_from(table.len()).expect("small").to_le_bytes());
    let offset = blob.len() as u64;
    blob.extend(&table);
    blob.extend([0x50, 0x2a, 0x4d, 0x18, 64, 0, 0, 0]);
    for number in [offset, table.len() as u64, json.len() as u64, 1, 0, 0, 0] {
        blob.extend(number.to_le_bytes());
    }
    blob.extend(b"GNUlInUx");
    blob
}

fn tables() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"first\n").to_string();
    TABLES
        .iter()
        .map(|text| text.replace("DIGEST", &digest).into_bytes())
        .collect()
}

#[test]
fn the_tables_that_are_tried_are_tables() {
    let place = Place::new();
    for (number, json) in tables().iter().enumerate() {
        for blob in [estargz(json), zstd_chunked(json)] {
            let (digest, blob) = (Digest::of(&blob), Arc::new(blob));
            let opened = place.open(&blob, digest, DiffId(digest));
            // Those that name no ends of pieces are no tables of zstd:chunked.
            assert!(opened.is_ok() || number > 0, "{number}: {:?}", opened.err());
        }
    }
}

#[test]
fn tables_of_estargz() {
    let (place, corpus) = (Place::new(), tables());
    fuzz(
        |mutator| mutator.document(&corpus, &WORDS),
        |json: &Vec<u8>| place.look(estargz(json)),
    );
}

#[test]
fn tables_of_zstd_chunked() {
    let (place, corpus) = (Place::new(), tables());
    fuzz(
        |mutator| mutator.document(&corpus, &WORDS),
        |json: &Vec<u8>| place.look(zstd_chunked(json)),
    );
}

/// Not the table alone is damaged.
#[test]
fn blobs_with_tables() {
    let place = Place::new();
    let tables = tables();
    let corpus: Vec<_> = tables
        .iter()
        .flat_map(|json| [estargz(json), zstd_chunked(json)])
        .collect();
    let words = [
        "STARGZ",
        "GNUlInUx",
        "\u{0}",
        "0000000000000000",
        "ffffffffffffffff",
        "\u{1f}",
    ];
    fuzz(
        |mutator| mutator.document(&corpus, &words),
        |blob: &Vec<u8>| place.look(blob.clone()),
    );
}

/// The list of a gzip's checkpoints, damaged so that its digest does not tell.
#[test]
fn lists_of_chunks() {
    /// Where the header has the digest of the records, and where those begin: docs/format.md.
    const DIGEST: Range<usize> = 32..64;
    const RECORD: usize = 96;
    let place = Place::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut state = 1_u64;
    let content: Vec<u8> = (0..6 << 20)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            b'a' + (state >> 60) as u8
        })
        .collect();
    for name in ["a", "b"] {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        let added = tar.append_data(&mut header, name, &content[..]);
        added.expect("into memory");
    }
    let tar = tar.into_inner().expect("into memory");
    let blob = Arc::new(gzip(&tar));
    let (digest, diff_id) = (Digest::of(&blob), DiffId(Digest::of(&tar)));
    drop(place.open(&blob, digest, diff_id).expect("a layer"));
    let file = {
        let directory = place
            .store
            .remote_directory(&digest)
            .expect("read")
            .expect("kept");
        directory.path().join("chunks")
    };
    let whole = fs::read(&file).expect("read");
    let count = usize::from(whole[8]);
    assert!(count > 3, "{count} chunks");
    let end = DIGEST.end + count * RECORD;
    let corpus = vec![whole[DIGEST.end..end].to_vec()];
    fuzz(
        |mutator| {
            mutator.document(
                &corpus,
                &["\u{0}", "\u{1}", "\u{2}", "\u{3}", "\u{7f}\u{7f}\u{7f}\u{7f}"],
            )
        },
        |records: &Vec<u8>| {
            let records = &records[..records.len() - records.len() % RECORD];
            let mut list = whole.clone();
            list.splice(DIGEST.end..end, records.iter().copied());
            list[8..16].copy_from_slice(&((records.len() / RECORD) as u64).to_le_bytes());
            list[DIGEST].copy_from_slice(Digest::of(records).as_bytes());
            fs::write(&file, &list).expect("written");
            match place.open(&blob, digest, diff_id) {
                Ok(layer) => look(layer),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        },
    );
}
