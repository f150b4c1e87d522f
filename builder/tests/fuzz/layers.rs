//! Layers as registries and archives have them: tars of any dialect, compressed or not, and damaged.

use std::io::Read as _;
use std::sync::Arc;

use mica_fs::digest::Digest;
use mica_fs::layer::Layer;
use mica_fs::layer::ingest::{decompress, ingest};

use super::fuzz;
use super::lazy::{gzip, look};

const BLOCK: usize = 512;
/// Where a header has its checksum and its magic.
const CHECKSUM: usize = 148;
const MAGIC: usize = 257;

/// What headers and extended headers are made of.
const WORDS: [&str; 36] = [
    "ustar\0",
    "ustar  \0",
    "\0",
    "\0\0\0\0\0\0\0\0",
    "0000644\0",
    "77777777777\0",
    "00000000001\0",
    "\u{80}",
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "g",
    "x",
    "K",
    "L",
    "S",
    "./",
    "../",
    "/",
    "a/b",
    ".wh.",
    ".wh.a",
    ".wh..wh..opq",
    "30 mtime=1700000000.123456789\n",
    "12 path=a/b\n",
    "16 linkpath=a/b\n",
    "16 size=1000000\n",
    "99999 path=x\n",
    "30 SCHILY.xattr.user.a=value\n",
    "22 GNU.sparse.major=1\n",
    "22 GNU.sparse.map=0,1\n",
    "28 GNU.sparse.realsize=100\n",
];

/// The kinds that tar knows, each as a member of its own.
fn tars() -> Vec<Vec<u8>> {
    let mut all = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &str, target: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let added = match target {
            "" => all.append_data(&mut header, name, content),
            target => all.append_link(&mut header, name, target),
        };
        added.expect("into memory");
    };
    let long = "long/".repeat(40);
    add(tar::EntryType::Directory, "d/", "", b"");
    add(tar::EntryType::Regular, "d/a", "", b"content\n");
    add(tar::EntryType::Regular, &format!("{long}name"), "", b"1");
    add(tar::EntryType::Link, "d/b", "d/a", b"");
    add(tar::EntryType::Symlink, "d/c", "../d/a", b"");
    add(tar::EntryType::Fifo, "d/fifo", "", b"");
    add(tar::EntryType::Char, "d/null", "", b"");
    add(tar::EntryType::Regular, "d/.wh.gone", "", b"");
    add(tar::EntryType::Regular, "e/.wh..wh..opq", "", b"");
    add(
        tar::EntryType::XHeader,
        "pax",
        "",
        b"30 SCHILY.xattr.user.a=value\n\n12 path=f/g\n",
    );
    add(tar::EntryType::Regular, "f", "", &[7; 1500]);
    let all = all.into_inner().expect("into memory");
    // And each member alone.
    let mut tars = vec![all.clone()];
    let ends: Vec<usize> = all
        .chunks(BLOCK)
        .enumerate()
        .filter(|(_, block)| is_header(block))
        .map(|(n, _)| n)
        .collect();
    tars.extend(
        ends.windows(2)
            .map(|pair| all[pair[0] * BLOCK..pair[1] * BLOCK].to_vec()),
    );
    tars
}

fn is_header(block: &[u8]) -> bool {
    block.get(MAGIC..).is_some_and(|rest| rest.starts_with(b"ustar"))
}

/// Gives headers the checksum that they should have, so that a change comes further than to its first check.
fn mend(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK).filter(|block| is_header(block)) {
        block[CHECKSUM..CHECKSUM + 8].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[CHECKSUM..CHECKSUM + 8].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// What was taken in can be read as a whole, and is the tar that came.
fn target(blob: &[u8]) -> bool {
    let directory = tempfile::tempdir().expect("a directory");
    let Ok(mut stream) = decompress(blob) else {
        return false;
    };
    let Ok(written) = ingest(&mut stream, directory.path()) else {
        return false;
    };
    let mut tar = Vec::new();
    decompress(blob)
        .expect("it was read")
        .read_to_end(&mut tar)
        .expect("it was read");
    assert_eq!(written.diff_id.0, Digest::of(&tar));
    let layer = Layer::open(directory.path()).expect("what was taken in can be opened");
    look(Arc::new(layer));
    true
}

#[test]
fn the_layers_that_are_tried_are_layers() {
    let tars = tars();
    assert!(target(&tars[0]) && target(&gzip(&tars[0])));
    // But for a link and an extended header, which need others.
    let refused: Vec<usize> = (0..tars.len()).filter(|n| !target(&tars[*n])).collect();
    assert_eq!(refused.len(), 2, "{refused:?} of {}", tars.len());
}

#[test]
fn layers() {
    let corpus = tars();
    fuzz(
        |mutator| {
            let mut tar = mutator.document(&corpus, &WORDS);
            // One in eight stays damaged where it was changed.
            if tar.len() % 8 != 0 {
                tar.resize(tar.len().next_multiple_of(BLOCK), 0);
                mend(&mut tar);
            }
            tar
        },
        |tar: &Vec<u8>| {
            target(tar);
        },
    );
}

#[test]
fn compressed_layers() {
    let mut corpus: Vec<Vec<u8>> = tars().iter().map(|tar| gzip(tar)).collect();
    let zstd = |tar: &Vec<u8>| zstd::encode_all(&tar[..], 1).expect("into memory");
    corpus.extend(tars().iter().map(zstd));
    fuzz(
        |mutator| {
            mutator.document(
                &corpus,
                &["\u{1f}\u{8b}\u{8}", "\0\0", "BC\u{2}\0", "(\u{b5}/", "P*M\u{18}"],
            )
        },
        |blob: &Vec<u8>| {
            target(blob);
        },
    );
}
