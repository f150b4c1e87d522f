//! The fields of one header block, in the dialects of V7, POSIX (ustar), star and GNU.

use super::Problem;
use super::stream::Block;

/// What a member is, as its type flag says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// GNU's sparse file, whose map follows the header.
    GnuSparse,
    /// GNU: the content is the next member's name.
    LongName,
    /// GNU: the content is the next member's link target.
    LongLink,
    /// PAX records for the next member.
    Pax,
    /// PAX records for all members to come.
    GlobalPax,
}

/// A header block whose checksum is right.
pub(super) struct Header {
    block: Block,
}

impl Header {
    /// `None` if the checksum is wrong: this is no header.
    pub(super) fn new(block: Block) -> Option<Self> {
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        // Some old programs summed signed bytes (POSIX.1-2017, pax, rationale).
        let stated = number(&block[148..156])?;
        (stated == unsigned || stated == signed).then_some(Self { block })
    }

    pub(super) fn block(&self) -> &Block {
        &self.block
    }

    pub(super) fn kind(&self) -> Result<Kind, Problem> {
        Ok(match self.block[156] {
            // V7 knew no directories but by the slash.
            0 if self.name().ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'S' => Kind::GnuSparse,
            b'L' => Kind::LongName,
            b'K' => Kind::LongLink,
            b'x' => Kind::Pax,
            b'g' => Kind::GlobalPax,
            other => return Err(Problem::Type(char::from(other))),
        })
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        // GNU's header has times in the place of ustar's prefix; star's prefix is shorter.
        let prefix: &[u8] = match &self.block[257..263] {
            b"ustar\0" if &self.block[508..512] == b"tar\0" => text(&self.block[345..476]),
            b"ustar\0" => text(&self.block[345..500]),
            _ => &[],
        };
        match prefix {
            [] => name.to_vec(),
            _ => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link(&self) -> &[u8] {
        text(&self.block[157..257])
    }

    pub(super) fn mode(&self) -> Result<u32, Problem> {
        let mode = number(&self.block[100..108]).ok_or(Problem::Number("mode"))?;
        u32::try_from(mode & 0o7777).map_err(|_| Problem::Number("mode"))
    }

    pub(super) fn uid(&self) -> Option<u32> {
        small(&self.block[108..116])
    }

    pub(super) fn gid(&self) -> Option<u32> {
        small(&self.block[116..124])
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.block[124..136]).and_then(|n| u64::try_from(n).ok())
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(&self.block[136..148])
    }

    /// The device number; devices of V7 tars have none.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        match &self.block[257..262] {
            b"ustar" => Some((small(&self.block[329..337])?, small(&self.block[337..345])?)),
            _ => None,
        }
    }
}

fn small(field: &[u8]) -> Option<u32> {
    number(field).and_then(|n| u32::try_from(n).ok())
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

/// A number: octal digits among spaces and NULs, none at all for 0, or GNU's base 256, which has the first bit
/// set and is a two's complement number.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = i128::from(first & 0x3f) - if negative { 0x40 } else { 0 };
        let value = rest
            .iter()
            .try_fold(start, |n, &b| n.checked_mul(256)?.checked_add(i128::from(b)))?;
        return i64::try_from(value).ok();
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|b| matches!(b, 0 | b' '))
        .unwrap_or(digits.len());
    digits[..end].iter().try_fold(0_i64, |n, &b| match b {
        b'0'..=b'7' => n.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_every_dialect() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777"), Some(0o77_777_777));
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(number(&[[0xff; 11].as_slice(), &[0xfe]].concat()), Some(-2));
        assert_eq!(number(&[0xbf; 12]), None);
        assert_eq!(number(b"0000689\0"), None);
        assert_eq!(number(b"-1\0"), None);
    }
}
