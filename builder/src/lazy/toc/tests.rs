//! Tables of contents as they should be, and as nobody should believe them.

use mica_fs::layer::index::Index;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The layer of a table of these entries, the files of which lie in 1000 bytes.
fn contents(format: Format, entries: Value) -> Result<Contents, TocError> {
    let json = json!({"version": 1, "entries": entries}).to_string();
    Table::parse(json.as_bytes())?.contents(format, 1000)
}

fn index(contents: &Contents) -> Index {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("index");
    let mut file = std::fs::File::create(&path).expect("created");
    let diff_id = mica_fs::digest::DiffId(Digest::of(b""));
    contents.index.write(diff_id, 0, &mut file).expect("written");
    Index::open(&path).expect("an index")
}

#[test]
fn members_have_what_the_table_says() {
    let content = Digest::of(b"content");
    let contents = contents(
        Format::Estargz,
        json!([
            {"name": "dir/", "type": "dir", "mode": 16877, "uid": 3, "gid": 4, "modtime": "2019-08-20T10:30:43.5Z"},
            {"name": "dir/file", "type": "reg", "size": 7, "mode": 33261, "offset": 100,
             "digest": content.to_string(), "xattrs": {"user.a": "aGk="}},
            {"name": "dir/link", "type": "symlink", "linkName": "file", "modtime": "1960-01-01T00:00:00.25Z"},
            {"name": "dir/hard", "type": "hardlink", "linkName": "dir/file"},
            {"name": "null", "type": "char", "devMajor": 1, "devMinor": 3},
            {"name": "dir/.wh.gone", "type": "reg"},
            {"name": "dir/.wh..wh..opq", "type": "reg"},
            {"name": ".no.prefetch.landmark", "type": "reg", "size": 1, "offset": 300},
            {"name": "stargz.index.json", "type": "reg", "size": 1, "offset": 400},
        ]),
    );
    let contents = contents.expect("a layer");
    let index = index(&contents);
    let names = |dir| {
        index
            .children(dir)
            .map(|(name, _)| name.to_vec())
            .collect::<Vec<_>>()
    };
    let root = mica_fs::layer::index::EntryId::ROOT;
    assert_eq!(names(root), [b"dir".to_vec(), b"null".to_vec()]);
    let Some(mica_fs::layer::index::Slot::Entry(dir)) = index.lookup(root, b"dir") else {
        panic!("a directory");
    };
    let entry = index.entry(dir).expect("it is there");
    assert_eq!(
        (entry.mode(), entry.uid(), entry.gid(), entry.is_opaque()),
        (0o755, 3, 4, true)
    );
    assert_eq!(entry.mtime().nanoseconds, 500_000_000);
    assert_eq!(names(dir), [&b"file"[..], b"gone", b"hard", b"link"]);
    let node = |name: &[u8]| match index.lookup(dir, name) {
        Some(mica_fs::layer::index::Slot::Entry(id)) => index.entry(id).expect("it is there"),
        other => panic!("{other:?}"),
    };
    let file = node(b"file");
    assert_eq!((file.size(), file.digest(), file.nlink()), (7, Some(content), 2));
    assert_eq!(file.xattrs()[&b"user.a"[..]], b"hi");
    let link = node(b"link").mtime();
    assert_eq!((link.seconds, link.nanoseconds), (-315_619_200, 250_000_000));
    // The piece of the file ends where the next one begins.
    let [chunk] = &contents.chunks[..] else {
        panic!("one chunk: {:?}", contents.chunks)
    };
    assert_eq!((chunk.blob.clone(), chunk.digest), (100..300, Some(content)));
}

#[test]
fn chunks_make_files_with_holes() {
    let zeros = Digest::of(&[0; 10]).to_string();
    let contents = contents(
        Format::ZstdChunked,
        json!([
            {"name": "a", "type": "reg", "size": 30, "offset": 8, "endOffset": 31, "chunkSize": 10},
            {"name": "a", "type": "chunk", "chunkOffset": 10, "chunkSize": 10, "offset": 20, "chunkType": "zeros", "chunkDigest": zeros},
            {"name": "a", "type": "chunk", "chunkOffset": 20, "chunkSize": 10, "offset": 20},
            {"name": "b", "type": "reg", "size": 4, "offset": 40, "endOffset": 44},
        ]),
    );
    let contents = contents.expect("a layer");
    let places: Vec<_> = contents
        .chunks
        .iter()
        .map(|chunk| (chunk.position, chunk.length, chunk.blob.clone()))
        .collect();
    assert_eq!(places, [(0, 10, 8..20), (10, 10, 20..31), (20, 4, 40..44)]);
    let index = index(&contents);
    let Some(mica_fs::layer::index::Slot::Entry(a)) =
        index.lookup(mica_fs::layer::index::EntryId::ROOT, b"a")
    else {
        panic!("a file");
    };
    let extents: Vec<_> = index.entry(a).expect("it is there").extents().collect();
    let offsets: Vec<_> = extents.iter().map(|e| (e.offset, e.length, e.position)).collect();
    assert_eq!(offsets, [(0, 10, 0), (20, 10, 10)]);
}

#[test]
fn tables_that_cannot_be_are_refused() {
    let file = json!({"name": "a", "type": "reg", "size": 10, "offset": 5, "endOffset": 9});
    let with = |changes: Value| {
        let mut entry = file.clone();
        for (key, value) in changes.as_object().expect("an object") {
            entry[key] = value.clone();
        }
        json!([entry])
    };
    assert!(contents(Format::ZstdChunked, with(json!({}))).is_ok());
    for changes in [
        json!({"offset": 9}),
        json!({"endOffset": 1001}),
        json!({"endOffset": u64::MAX}),
        json!({"size": u64::MAX}),
        json!({"size": u64::MAX / 2, "chunkSize": 3}),
        json!({"chunkSize": 11}),
        json!({"chunkSize": 9}),
        json!({"chunkOffset": 1}),
        json!({"size": -1}),
        json!({"name": "../a"}),
        json!({"name": "/a"}),
        json!({"name": "a/../../b"}),
        json!({"name": ""}),
        json!({"name": "x".repeat(5000)}),
        json!({"name": ".wh."}),
        json!({"type": "socket"}),
        json!({"type": "chunk"}),
        json!({"type": "symlink", "linkName": ""}),
        json!({"type": "hardlink", "linkName": "../b"}),
        json!({"digest": "sha256:no"}),
        json!({"chunkDigest": "md5:0"}),
        json!({"modtime": "yesterday"}),
        json!({"xattrs": {"user.a": "!"}}),
    ] {
        let refused = contents(Format::ZstdChunked, with(changes.clone()));
        assert!(refused.is_err(), "{changes}");
    }
    let twice = json!([file, {"name": "a/b", "type": "reg"}]);
    assert!(contents(Format::ZstdChunked, twice).is_err(), "below a file");
    assert!(matches!(
        Table::parse(br#"{"version":2,"entries":[]}"#),
        Err(TocError::Version(2))
    ));
    assert!(matches!(Table::parse(b"{"), Err(TocError::Json(_))));
}

#[test]
fn the_end_of_a_blob_tells_where_the_table_is() {
    let none = BTreeMap::new();
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0];
    footer.extend_from_slice(b"00000000000001f4STARGZ");
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(footer.len(), 51);
    let tail = [&[7; 21][..], &footer].concat();
    let place = estargz::footer(&tail, 1051, &none).expect("a table");
    assert_eq!((place.range, place.digest), (500..1000, None));
    let legacy = [&footer[..10], &[22, 0], &footer[16..]].concat();
    assert_eq!(legacy.len(), 47);
    let place = estargz::footer(&legacy, 1047, &none).expect("a table");
    assert_eq!(place.range, 500..1000);
    assert_eq!(estargz::footer(&[0; 72], 1000, &none), None);

    for (size, magic) in [(64_u32, b"GNUlInUx"), (40, b"GnUlInUx")] {
        let mut frame = vec![0x50, 0x2a, 0x4d, 0x18];
        frame.extend_from_slice(&size.to_le_bytes());
        for number in [500_u64, 60, 100, 1] {
            frame.extend_from_slice(&number.to_le_bytes());
        }
        frame.resize(size as usize, 0);
        frame.extend_from_slice(magic);
        assert_eq!(zstd_chunked::footer(&frame).expect("a table").range, 500..560);
        frame[32] = 2;
        assert_eq!(zstd_chunked::footer(&frame), None, "another kind of table");
    }
    let digest = Digest::of(b"table");
    let annotations = BTreeMap::from([
        (
            "io.github.containers.zstd-chunked.manifest-position".to_owned(),
            "9:8:7:1".to_owned(),
        ),
        (
            "io.github.containers.zstd-chunked.manifest-checksum".to_owned(),
            digest.to_string(),
        ),
    ]);
    let place = zstd_chunked::annotated(&annotations).expect("a table");
    assert_eq!((place.range, place.digest), (9..17, Some(digest)));
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0..50_u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c./]{0,6}".prop_map(Value::from),
        prop::sample::select(vec![
            "reg", "chunk", "dir", "hardlink", "symlink", "zeros", ".wh.a", "a"
        ])
        .prop_map(Value::from),
    ]
}

proptest! {
    #[test]
    fn any_table_gives_chunks_within_the_blob(
        entries in proptest::collection::vec(
            proptest::collection::btree_map(
                prop::sample::select(vec![
                    "name", "type", "size", "offset", "endOffset", "innerOffset", "chunkOffset", "chunkSize",
                    "chunkType", "linkName", "mode",
                ]),
                value(),
                0..8,
            ),
            0..6,
        ),
    ) {
        for format in [Format::Estargz, Format::ZstdChunked] {
            if let Ok(contents) = contents(format, json!(entries)) {
                for chunk in &contents.chunks {
                    prop_assert!(chunk.blob.start < chunk.blob.end && chunk.blob.end <= 1000);
                }
                for pair in contents.chunks.windows(2) {
                    prop_assert_eq!(pair[0].end(), pair[1].position);
                }
            }
        }
    }

    #[test]
    fn any_end_of_a_blob_is_read(tail in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = estargz::footer(&tail, 1000, &BTreeMap::new());
        let _ = zstd_chunked::footer(&tail);
    }
}
