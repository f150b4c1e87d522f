//! Secrets in what an image is about to keep: the layers of a build and its configuration are searched for the bytes
//! of what `--secret` gave.
//!
//! A secret is looked for as it is (without white space around it), in base64 of either alphabet wherever it begins in
//! what was encoded, and URL-encoded. One shorter than [`SHORTEST`] is not: such bytes stand anywhere by chance.

use std::collections::BTreeSet;
use std::fmt;
use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use memchr::memmem::Finder;
use mica_fs::layer::index::{EntryId, Slot};
use mica_fs::layer::{Kind, Layer};
use mica_fs::path::ImagePath;
use serde_json::Value;

use crate::sandbox::Secret;

#[cfg(test)]
mod tests;

/// The least length, in bytes, of a secret that is searched for.
pub const SHORTEST: usize = 8;

/// How much of a file is searched at once, in bytes; more if a secret is that long.
const PIECE: usize = 256 << 10;

/// The length in characters of a part of a long base64 text that is searched for alone: programs break lines after 64
/// characters or more, so that of two such parts side by side one is on a line.
const UNBROKEN: usize = 32;

/// What is searched for.
#[derive(Default)]
pub struct Leaks {
    needles: Vec<Needle>,
    shortest: usize,
    longest: usize,
}

struct Needle {
    id: String,
    form: Form,
    finder: Finder<'static>,
}

/// How a secret was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// In base64 (RFC 4648).
    Base64,
    /// With percent signs (RFC 3986).
    Url,
}

/// A secret that an image would keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the secret {id} is in {place}{form}")]
pub struct Leak {
    /// Which one.
    pub id: String,
    /// How it is written there.
    pub form: Form,
    /// Where.
    pub place: Place,
}

/// Where a secret was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file's content.
    Content(ImagePath),
    /// In a name.
    Name(ImagePath),
    /// In the target of a symbolic link.
    Target(ImagePath),
    /// In an extended attribute of a file.
    Attribute(ImagePath, String),
    /// In what the image's history says of an instruction.
    History,
    /// In the image's configuration, at this place of it.
    Config(String),
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "",
            Self::Base64 => ", in base64",
            Self::Url => ", URL-encoded",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(path) => write!(f, "the file {path} of the new layer"),
            // The path would show it.
            Self::Name(path) => match path.split() {
                Some((parent, _)) => write!(f, "a file name in {parent} of the new layer"),
                None => f.write_str("a file name of the new layer"),
            },
            Self::Target(path) => write!(f, "the target of the symbolic link {path} of the new layer"),
            Self::Attribute(path, name) => {
                write!(f, "the extended attribute {name} of {path} of the new layer")
            }
            Self::History => f.write_str("what the image's history would say of this instruction"),
            Self::Config(place) => write!(f, "the image's configuration ({place})"),
        }
    }
}

impl Leak {
    /// What a person can do.
    pub fn hint(&self) -> String {
        let id = &self.id;
        match self.place {
            Place::History | Place::Config(_) => format!(
                "give it to a step by RUN --mount=type=secret,id={id}, not by ARG, ENV or LABEL; if everybody may read \
                 it, say --secret id={id},...,search=no"
            ),
            _ => format!(
                "let the step write it to no file that stays, as below a --mount=type=tmpfs; if everybody may read it, \
                 say --secret id={id},...,search=no"
            ),
        }
    }
}

impl Leaks {
    /// Searches for these secrets, each with its id.
    pub fn of<'a>(secrets: impl IntoIterator<Item = (&'a String, &'a Secret)>) -> Self {
        let mut needles = Vec::new();
        for (id, secret) in secrets {
            let bytes = secret.bytes().trim_ascii();
            if bytes.len() < SHORTEST {
                continue;
            }
            let mut known = BTreeSet::new();
            let forms = std::iter::once((Form::Plain, bytes.to_vec()))
                .chain(in_base64(bytes).map(|text| (Form::Base64, text)))
                .chain(in_urls(bytes).map(|text| (Form::Url, text)));
            for (form, text) in forms {
                if known.insert(text.clone()) {
                    needles.push(Needle {
                        id: id.clone(),
                        form,
                        finder: Finder::new(&text).into_owned(),
                    });
                }
            }
        }
        let lengths = || needles.iter().map(|needle| needle.finder.needle().len());
        Self {
            shortest: lengths().min().unwrap_or(usize::MAX),
            longest: lengths().max().unwrap_or_default(),
            needles,
        }
    }

    /// Whether there is nothing to search for.
    pub fn is_empty(&self) -> bool {
        self.needles.is_empty()
    }

    /// Searches a layer: names, contents, link targets and extended attributes. The first find is the answer.
    ///
    /// # Errors
    /// What reading the layer reports.
    pub fn in_layer(&self, layer: &Layer) -> io::Result<Option<Leak>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut buffer = Vec::new();
        let mut seen = BTreeSet::new();
        let mut todo = vec![(EntryId::ROOT, ImagePath::root())];
        while let Some((directory, above)) = todo.pop() {
            for (name, slot) in layer.index().children(directory) {
                let path = above.join(name);
                if let Some(leak) = self.find(path.as_bytes(), || Place::Name(path.clone())) {
                    return Ok(Some(leak));
                }
                let Slot::Entry(id) = slot else { continue };
                let Some(entry) = layer.index().entry(id) else {
                    continue;
                };
                if entry.nlink() > 1 && !seen.insert(id) {
                    continue;
                }
                if let Some(leak) = self.find(entry.target(), || Place::Target(path.clone())) {
                    return Ok(Some(leak));
                }
                for (name, value) in entry.xattrs() {
                    let shown = || String::from_utf8_lossy(&name).into_owned();
                    let place = || Place::Attribute(path.clone(), shown());
                    let found = self.find(&name, place).or_else(|| self.find(&value, place));
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                match entry.kind() {
                    Kind::Directory if id > directory => todo.push((id, path)),
                    Kind::File => {
                        if let Some(leak) = self.in_file((layer, id, entry.size()), &path, &mut buffer)? {
                            return Ok(Some(leak));
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Searches a file piece by piece. What lies across the border of two pieces is in the second.
    fn in_file(
        &self,
        (layer, id, size): (&Layer, EntryId, u64),
        path: &ImagePath,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Leak>> {
        if size < self.shortest as u64 {
            return Ok(None);
        }
        buffer.resize(PIECE.max(4 * self.longest), 0);
        let (mut offset, mut kept) = (0, 0);
        loop {
            let read = layer.read_at(id, &mut buffer[kept..], offset)?;
            if read == 0 {
                return Ok(None);
            }
            let end = kept + read;
            let found = self.find(&buffer[..end], || Place::Content(path.clone()));
            if found.is_some() {
                return Ok(found);
            }
            offset += read as u64;
            kept = end.min(self.longest - 1);
            buffer.copy_within(end - kept..end, 0);
        }
    }

    /// Searches a text of the history.
    pub fn in_history(&self, text: &str) -> Option<Leak> {
        self.find(text.as_bytes(), || Place::History)
    }

    /// Searches every name and every text of a configuration.
    pub fn in_config(&self, config: &Value) -> Option<Leak> {
        self.in_value(config, "")
    }

    fn in_value(&self, value: &Value, at: &str) -> Option<Leak> {
        let place = || Place::Config(at.trim_start_matches('.').to_owned());
        match value {
            Value::String(text) => self.find(text.as_bytes(), place),
            Value::Array(values) => {
                let mut all = values.iter().enumerate();
                all.find_map(|(i, value)| self.in_value(value, &format!("{at}[{i}]")))
            }
            Value::Object(members) => members.iter().find_map(|(name, value)| {
                self.find(name.as_bytes(), place)
                    .or_else(|| self.in_value(value, &format!("{at}.{name}")))
            }),
            _ => None,
        }
    }

    fn find(&self, bytes: &[u8], place: impl FnOnce() -> Place) -> Option<Leak> {
        if bytes.len() < self.shortest {
            return None;
        }
        let found = |needle: &&Needle| needle.finder.find(bytes).is_some();
        let needle = self.needles.iter().find(found)?;
        Some(Leak {
            id: needle.id.clone(),
            form: needle.form,
            place: place(),
        })
    }
}

/// The characters of base64 that `bytes` determine, for each of the places in a group of three where they can begin.
fn in_base64(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let text = |skipped: usize, engine: &dyn Fn(&[u8]) -> String| {
        let encoded = engine(&[&[0; 2][..skipped], bytes].concat());
        // Six bits a character; one that holds bits of others is left out, at both ends.
        let (first, last) = ((8 * skipped).div_ceil(6), 8 * (skipped + bytes.len()) / 6);
        encoded.as_bytes()[first..last].to_vec()
    };
    let mut texts = Vec::new();
    for skipped in 0..3 {
        texts.push(text(skipped, &|bytes| STANDARD_NO_PAD.encode(bytes)));
        texts.push(text(skipped, &|bytes| URL_SAFE_NO_PAD.encode(bytes)));
    }
    texts.into_iter().flat_map(|text| {
        if text.len() <= 2 * UNBROKEN {
            return vec![text];
        }
        // From the middle: keys of one kind begin and end alike.
        let middle = text.len() / 2;
        vec![
            text[middle - UNBROKEN..middle].to_vec(),
            text[middle..middle + UNBROKEN].to_vec(),
        ]
    })
}

/// `bytes` as programs write them in a URL: they differ in the case of the digits, in the slash, and in the space.
fn in_urls(bytes: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let encode = |upper: bool, slash: bool, plus: bool| {
        let mut text = Vec::new();
        for &byte in bytes {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte),
                b'/' if slash => text.push(byte),
                b' ' if plus => text.push(b'+'),
                _ if upper => text.extend(format!("%{byte:02X}").bytes()),
                _ => text.extend(format!("%{byte:02x}").bytes()),
            }
        }
        text
    };
    let choices = [false, true];
    let all = choices
        .into_iter()
        .flat_map(move |a| choices.into_iter().flat_map(move |b| choices.map(|c| (a, b, c))));
    Vec::from_iter(all.map(|(upper, slash, plus)| encode(upper, slash, plus))).into_iter()
}
