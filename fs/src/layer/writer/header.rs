//! One member's header: ustar where everything fits, with a PAX header before it where something does not.

use tar::{EntryType, Header};

use super::{BLOCK, WriteError};
use crate::layer::{Device, Metadata, Timestamp, Xattrs, pax};
use crate::path::ImagePath;

/// The largest number of an eight-byte octal field.
const MAX_7_DIGITS: u32 = 0o7_777_777;
/// The largest number of a twelve-byte octal field.
const MAX_11_DIGITS: u64 = 0o77_777_777_777;

/// What a header says.
pub(super) struct Member<'a> {
    pub(super) name: Vec<u8>,
    pub(super) kind: EntryType,
    pub(super) size: u64,
    pub(super) link: Vec<u8>,
    pub(super) device: Device,
    pub(super) xattrs: Option<&'a Xattrs>,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
}

impl<'a> Member<'a> {
    /// An empty regular file without extended attributes.
    pub(super) fn new(name: Vec<u8>, metadata: &'a Metadata) -> Self {
        Self {
            name,
            kind: EntryType::Regular,
            size: 0,
            link: Vec::new(),
            device: Device::default(),
            xattrs: None,
            mode: metadata.mode & 0o7777,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
        }
    }

    /// The blocks that go before the content. `path` is for errors.
    pub(super) fn encode(&self, path: &ImagePath) -> Result<Vec<u8>, WriteError> {
        let mut header = Header::new_ustar();
        let mut records = Vec::new();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        self.set_names(&mut header, &mut records);
        self.set_numbers(&mut header, &mut records);
        self.set_device(&mut header, path)?;
        self.set_xattrs(&mut records, path)?;
        header.set_cksum();
        let mut blocks = Vec::new();
        if !records.is_empty() {
            push_pax(&mut blocks, &self.name, &records);
        }
        blocks.extend_from_slice(header.as_bytes());
        Ok(blocks)
    }

    fn set_names(&self, header: &mut Header, records: &mut Vec<u8>) {
        let (prefix, name) = split(&self.name).unwrap_or_else(|| {
            pax::push(records, b"path", &self.name);
            // What a reader without PAX would see.
            (&[], &self.name[..self.name.len().min(100)])
        });
        let link = match self.link.len() {
            0..=100 => self.link.as_slice(),
            _ => {
                pax::push(records, b"linkpath", &self.link);
                &self.link[..100]
            }
        };
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.name[..name.len()].copy_from_slice(name);
            ustar.prefix[..prefix.len()].copy_from_slice(prefix);
            ustar.linkname[..link.len()].copy_from_slice(link);
        }
    }

    /// Numbers that do not fit stand in the PAX header, and as 0 in the old field.
    fn set_numbers(&self, header: &mut Header, records: &mut Vec<u8>) {
        let mut id = |key: &[u8], id: u32| match id {
            0..=MAX_7_DIGITS => u64::from(id),
            _ => {
                pax::push(records, key, id.to_string().as_bytes());
                0
            }
        };
        header.set_uid(id(b"uid", self.uid));
        header.set_gid(id(b"gid", self.gid));
        header.set_size(match self.size {
            0..=MAX_11_DIGITS => self.size,
            size => {
                pax::push(records, b"size", size.to_string().as_bytes());
                0
            }
        });
        let whole = u64::try_from(self.mtime.seconds)
            .ok()
            .filter(|&s| s <= MAX_11_DIGITS);
        if whole.is_none() || self.mtime.nanoseconds != 0 {
            pax::push(records, b"mtime", decimal(self.mtime).as_bytes());
        }
        header.set_mtime(whole.unwrap_or(0));
    }

    fn set_device(&self, header: &mut Header, path: &ImagePath) -> Result<(), WriteError> {
        if self.device.major > MAX_7_DIGITS || self.device.minor > MAX_7_DIGITS {
            let (path, device) = (path.clone(), self.device);
            return Err(WriteError::Device { path, device });
        }
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.set_device_major(self.device.major);
            ustar.set_device_minor(self.device.minor);
        }
        Ok(())
    }

    fn set_xattrs(&self, records: &mut Vec<u8>, path: &ImagePath) -> Result<(), WriteError> {
        for (name, value) in self.xattrs.into_iter().flatten() {
            if name.is_empty() || name.iter().any(|b| matches!(b, b'=' | b'\n' | 0)) {
                return Err(WriteError::Xattr {
                    path: path.clone(),
                    name: String::from_utf8_lossy(name).into_owned(),
                });
            }
            pax::push(records, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }
        Ok(())
    }
}

/// Prefix and name of a ustar header, if the name fits: up to 155 and 100 bytes, split at a `/` that is
/// written in neither.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((&[], name));
    }
    // The first `/` that leaves at most 100 bytes after it; never the one that ends a directory's name.
    let from = name.len() - 101;
    let at = from + name[from..name.len() - 1].iter().position(|&b| b == b'/')?;
    (at > 0 && at <= 155).then(|| (&name[..at], &name[at + 1..]))
}

/// Seconds since the epoch as PAX wants them, without needless digits.
fn decimal(time: Timestamp) -> String {
    let (sign, seconds, nanoseconds) = match time.nanoseconds {
        n if time.seconds < 0 && n > 0 => ("-", (time.seconds + 1).unsigned_abs(), 1_000_000_000 - n),
        n if time.seconds < 0 => ("-", time.seconds.unsigned_abs(), n),
        n => ("", time.seconds.unsigned_abs(), n),
    };
    let mut text = format!("{sign}{seconds}");
    if nanoseconds > 0 {
        text.push_str(format!(".{nanoseconds:09}").trim_end_matches('0'));
    }
    text
}

fn push_pax(blocks: &mut Vec<u8>, name: &[u8], records: &[u8]) {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_size(records.len() as u64);
    let base = name
        .rsplit(|&b| b == b'/')
        .find(|part| !part.is_empty())
        .unwrap_or_default();
    let shown = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.name[..shown.len()].copy_from_slice(&shown);
    }
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(records);
    blocks.resize(blocks.len().next_multiple_of(BLOCK as usize), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_a_slash() {
        let long = [vec![b'a'; 60], vec![b'/'], vec![b'b'; 80], b"/".to_vec()].concat();
        assert_eq!(split(&long).map(|(p, n)| (p.len(), n.len())), Some((60, 81)));
        assert_eq!(split(&[b'a'; 101]), None);
        assert_eq!(split(&[vec![b'a'; 156], b"/b".to_vec()].concat()), None);
        assert_eq!(split(&[vec![b'a'; 101], b"/".to_vec()].concat()), None);
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
    }

    #[test]
    fn times_are_decimal_fractions() {
        let text = |seconds, nanoseconds| decimal(Timestamp { seconds, nanoseconds });
        assert_eq!(text(12, 0), "12");
        assert_eq!(text(12, 50_000_000), "12.05");
        assert_eq!(text(-2, 500_000_000), "-1.5");
        assert_eq!(text(-1, 999_999_999), "-0.000000001");
        assert_eq!(text(-3, 0), "-3");
        assert_eq!(text(i64::MIN, 0), "-9223372036854775808");
    }
}
