//! What PAX records and GNU's long names say about the member that follows them.

use super::Problem;
use super::sparse;
use crate::layer::{Timestamp, Xattrs, pax};

/// Values that take the place of those in the header.
#[derive(Default)]
pub(super) struct Extended {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: Xattrs,
    pub(super) sparse: sparse::Records,
}

impl Extended {
    /// Takes in the content of a PAX header.
    pub(super) fn add_pax(&mut self, mut records: &[u8]) -> Result<(), Problem> {
        let mut libarchive = Xattrs::new();
        while !records.is_empty() {
            let (key, value) = pax::take(&mut records).ok_or(Problem::Pax("a record is malformed"))?;
            if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                self.xattrs.insert(name.to_vec(), value.to_vec());
            } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                let name = percent_decoded(name).ok_or(Problem::Pax("an attribute's name is malformed"))?;
                let value = base64_decoded(value).ok_or(Problem::Pax("an attribute is no base 64"))?;
                libarchive.insert(name, value);
            } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                self.sparse.add(key, value)?;
            } else if !value.is_empty() {
                // An empty value means the header's own (POSIX.1-2017, pax, "pax Extended Header").
                self.add_record(key, value)?;
            }
        }
        for (name, value) in libarchive {
            self.xattrs.entry(name).or_insert(value);
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value).ok_or(Problem::Number("size"))?),
            b"uid" => self.uid = Some(decimal(value).ok_or(Problem::Number("uid"))?),
            b"gid" => self.gid = Some(decimal(value).ok_or(Problem::Number("gid"))?),
            b"mtime" => self.mtime = Some(time(value).ok_or(Problem::Number("mtime"))?),
            _ => {}
        }
        Ok(())
    }
}

/// A decimal number without sign.
pub(super) fn decimal<N: std::str::FromStr>(value: &[u8]) -> Option<N> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Seconds since the epoch, perhaps negative, perhaps with a fraction; what is finer than nanoseconds is cut off.
fn time(value: &[u8]) -> Option<Timestamp> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |&b| b == b'.');
    let seconds: i128 = decimal::<u64>(parts.next()?)?.into();
    let mut fraction = parts.next().unwrap_or_default().to_vec();
    fraction.truncate(9);
    fraction.resize(9, b'0');
    let nanoseconds: i128 = decimal::<u32>(&fraction)?.into();
    let total = seconds * 1_000_000_000 + nanoseconds;
    let total = if negative { -total } else { total };
    Some(Timestamp {
        seconds: i64::try_from(total.div_euclid(1_000_000_000)).ok()?,
        nanoseconds: u32::try_from(total.rem_euclid(1_000_000_000)).ok()?,
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let (digits, after) = after.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    Some(bytes)
}

/// Base 64 with or without padding; libarchive writes it without.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for &c in text.iter().filter(|&&c| c != b'=' && c != b'\n') {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_down() {
        let parsed = |text: &str| time(text.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(parsed("12"), Some((12, 0)));
        assert_eq!(parsed("12.5"), Some((12, 500_000_000)));
        assert_eq!(parsed("12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(parsed("-1.5"), Some((-2, 500_000_000)));
        assert_eq!(parsed("-0.25"), Some((-1, 750_000_000)));
        assert_eq!(parsed("-9223372036854775808"), Some((i64::MIN, 0)));
        for text in ["", "-", ".5", "1e3", "+1", "9223372036854775808", "1.-5"] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn libarchive_attributes_are_decoded() {
        let mut records = Vec::new();
        pax::push(&mut records, b"LIBARCHIVE.xattr.user.a%3Db", b"aGVsbG8");
        pax::push(&mut records, b"LIBARCHIVE.xattr.user.both", b"AA");
        pax::push(&mut records, b"SCHILY.xattr.user.both", b"as it is\n");
        let mut extended = Extended::default();
        assert!(extended.add_pax(&records).is_ok());
        assert_eq!(extended.xattrs.get(&b"user.a=b"[..]), Some(&b"hello".to_vec()));
        assert_eq!(
            extended.xattrs.get(&b"user.both"[..]),
            Some(&b"as it is\n".to_vec())
        );
        assert_eq!(base64_decoded(b"AP8="), Some(vec![0, 255]));
        assert_eq!(base64_decoded(b"A*"), None);
    }

    #[test]
    fn an_empty_value_leaves_the_header_alone() {
        let mut records = Vec::new();
        pax::push(&mut records, b"path", b"");
        pax::push(&mut records, b"uid", b"7");
        let mut extended = Extended::default();
        assert!(extended.add_pax(&records).is_ok());
        assert_eq!((extended.path, extended.uid), (None, Some(7)));
    }
}
