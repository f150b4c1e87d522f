//! Telling and undoing a layer's compression.

use std::io::{self, BufReader, Cursor, Read};

/// Reads what is compressed by gzip (of several members, as pigz and estargz write it), bzip2, xz or zstd as what
/// it was before, and anything else as it is. The first bytes tell, so media types and file names need not be
/// trusted.
///
/// # Errors
/// What `reader` reports; damaged input is an error of the returned reader, when it gets there.
pub fn decompress<'a, R: Read + 'a>(reader: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(1 << 18, reader);
    let mut start = Vec::with_capacity(MAGIC_LENGTH);
    reader
        .by_ref()
        .take(MAGIC_LENGTH as u64)
        .read_to_end(&mut start)?;
    let compression = Compression::of(&start);
    let whole = Cursor::new(start).chain(reader);
    Ok(match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(whole)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(whole)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    })
}

/// Bytes that tell a compression.
const MAGIC_LENGTH: usize = 10;

enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    fn of(start: &[u8]) -> Self {
        match start {
            // RFC 1952, section 2.3.1; 8 is deflate, the only method.
            [0x1f, 0x8b, 8, ..] => Self::Gzip,
            // The magic number of the first block or, of empty input, of the end: "BZh9" alone may be a file name.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // A frame, or a skippable frame, with which zstd:chunked may begin (RFC 8878, section 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn back(compressed: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        decompress(compressed)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    fn xz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(bytes).expect("into memory");
        encoder.finish().expect("into memory")
    }

    #[test]
    fn every_compression_is_undone() {
        for text in [&b"some bytes"[..], b""] {
            let zstd = zstd::encode_all(text, 1).expect("into memory");
            let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9], zstd.as_slice()].concat();
            for compressed in [gzip(text), bzip2(text), xz(text), zstd, skippable, text.to_vec()] {
                assert_eq!(back(&compressed).expect("decompressed"), text);
            }
        }
        assert_eq!(back(b"BZh9 is a name").expect("as it is"), b"BZh9 is a name");
    }

    #[test]
    fn members_are_joined() {
        for twice in [
            [gzip(b"a"), gzip(b"b")],
            [bzip2(b"a"), bzip2(b"b")],
            [xz(b"a"), xz(b"b")],
        ] {
            assert_eq!(back(&twice.concat()).expect("decompressed"), b"ab");
        }
    }

    #[test]
    fn damage_is_an_error() {
        let text = [7; 5000];
        let zstd = zstd::encode_all(&text[..], 1).expect("into memory");
        for compressed in [gzip(&text), bzip2(&text), xz(&text), zstd] {
            assert!(back(&compressed[..compressed.len() - 3]).is_err());
        }
    }
}
