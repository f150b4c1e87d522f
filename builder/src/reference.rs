//! Names of images, by Docker's grammar (github.com/distribution/reference): `[domain/]path[:tag][@digest]`.

use std::fmt;
use std::str::FromStr;

use mica_fs::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DEFAULT_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";

/// Longest `domain/path`, in bytes.
const NAME_LIMIT: usize = 255;
/// Longest tag, in bytes.
const TAG_LIMIT: usize = 128;

/// An image's name in full. Its text form is canonical: `docker.io/library/busybox:latest` for `busybox`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid image name {text:?}: {reason}")]
pub struct InvalidReference {
    /// The text that was given.
    pub text: String,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with the name of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reason {
    /// There is no name.
    #[error("the name is empty")]
    Empty,
    /// Upper case in the repository's path.
    #[error("the repository must be lower case")]
    UpperCase,
    /// A registry that is no host name, address or port.
    #[error("the registry is no host name")]
    Domain,
    /// A character, or a sequence of separators, that a path cannot have.
    #[error(
        "the repository may have lower-case letters and digits, with single `.`, `_`, `__` or dashes between them"
    )]
    Path,
    /// A tag with other characters, or too long a one.
    #[error(
        "a tag has letters, digits, `_`, `.` and `-`, begins with none of the last two, and has at most 128 characters"
    )]
    Tag,
    /// A digest that is not SHA-256.
    #[error("the part behind @ is no digest of the form sha256:<64 hexadecimal digits>")]
    Digest,
    /// The name has more than 255 characters.
    #[error("the name is longer than 255 characters")]
    TooLong,
    /// It looks like an image ID.
    #[error("64 hexadecimal digits are an image ID, no name")]
    Id,
}

impl InvalidReference {
    /// What to write instead, where that can be told.
    pub fn hint(&self) -> Option<String> {
        (self.reason == Reason::UpperCase).then(|| {
            let (name, rest) = match self.text.rfind(':').filter(|&i| !self.text[i..].contains('/')) {
                Some(colon) => self.text.split_at(colon),
                None => (self.text.as_str(), ""),
            };
            format!("write {}{rest}", name.to_lowercase())
        })
    }
}

impl Reference {
    /// Reads a name as people write it. Without a domain Docker Hub is meant, without a tag and a digest
    /// the tag `latest`.
    ///
    /// # Errors
    /// [`InvalidReference`] with the first thing that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidReference> {
        Self::parse_parts(text).map_err(|reason| InvalidReference {
            text: text.to_owned(),
            reason,
        })
    }

    fn parse_parts(text: &str) -> Result<Self, Reason> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|_| Reason::Digest)?)),
            None => (text, None),
        };
        // A colon in front of a slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((name, tag)) => (name, Some(tag)),
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(Reason::Empty);
        }
        if is_image_id(name) {
            return Err(Reason::Id);
        }
        let (domain, path) = split_domain(name);
        check_domain(domain)?;
        check_path(&path)?;
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        if domain.len() + 1 + path.len() > NAME_LIMIT {
            return Err(Reason::TooLong);
        }
        let tag = tag.or((digest.is_none()).then_some(DEFAULT_TAG));
        Ok(Self {
            domain: domain.to_owned(),
            path,
            tag: tag.map(str::to_owned),
            digest,
        })
    }

    /// The registry's host, perhaps with a port: `docker.io`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `None` only beside a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest that is meant.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Domain and path, without tag and digest: `docker.io/library/busybox`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name by which a store knows what is meant: beside a digest a tag says nothing.
    pub fn stored(&self) -> String {
        match self.digest {
            Some(digest) => format!("{}@{digest}", self.repository()),
            None => self.to_string(),
        }
    }

    /// The repository as people write it: `busybox`.
    pub fn familiar_repository(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.repository();
        }
        match self
            .path
            .strip_prefix(OFFICIAL)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            // `library/x/y` is not what `x/y` means.
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The shortest text that means the same: `busybox:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_repository())
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(&digest.to_string());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.repository()))
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        Self::parse(text)
    }
}

fn is_image_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Domain and path of a name. The part before the first slash is a domain if it looks like a host: with a dot,
/// a port or upper case, or `localhost`.
fn split_domain(name: &str) -> (&str, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    match domain {
        DEFAULT_DOMAIN | LEGACY_DEFAULT_DOMAIN => {
            let official = !path.contains('/') && !path.is_empty();
            let path = if official {
                format!("{OFFICIAL}/{path}")
            } else {
                path.to_owned()
            };
            (DEFAULT_DOMAIN, path)
        }
        _ => (domain, path.to_owned()),
    }
}

fn check_domain(domain: &str) -> Result<(), Reason> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(Reason::Domain)?;
            let is_address =
                !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':');
            if !is_address {
                return Err(Reason::Domain);
            }
            match port {
                "" => (None, None),
                port => (None, Some(port.strip_prefix(':').ok_or(Reason::Domain)?)),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let good_host = host.is_none_or(|host| host.split('.').all(is_domain_component));
    let good_port = port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    if good_host && good_port {
        Ok(())
    } else {
        Err(Reason::Domain)
    }
}

fn is_domain_component(component: &str) -> bool {
    !component.is_empty()
        && !component.starts_with('-')
        && !component.ends_with('-')
        && component.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn check_path(path: &str) -> Result<(), Reason> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(Reason::UpperCase);
    }
    match path.split('/').all(is_path_component) {
        true => Ok(()),
        false => Err(Reason::Path),
    }
}

/// Runs of letters and digits with separators between them: `.`, `_`, `__` or any number of dashes.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends_well = |b: Option<&u8>| b.is_some_and(|&b| alphanumeric(b));
    let bytes = component.as_bytes();
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && bytes.split(|&b| alphanumeric(b)).all(|separator| {
            matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&b| b == b'-')
        })
}

fn check_tag(tag: &str) -> Result<(), Reason> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= TAG_LIMIT
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good { Ok(()) } else { Err(Reason::Tag) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> Result<String, Reason> {
        Reference::parse(text)
            .map(|r| r.to_string())
            .map_err(|e| e.reason)
    }

    #[test]
    fn short_names_are_completed() {
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("me/app:1.0", "docker.io/me/app:1.0", "me/app:1.0"),
            (
                "docker.io/busybox",
                "docker.io/library/busybox:latest",
                "busybox:latest",
            ),
            (
                "index.docker.io/library/a",
                "docker.io/library/a:latest",
                "a:latest",
            ),
            ("localhost/a", "localhost/a:latest", "localhost/a:latest"),
            (
                "localhost:5000/a/b:c",
                "localhost:5000/a/b:c",
                "localhost:5000/a/b:c",
            ),
            (
                "ghcr.io/a__b/c--d.e_f",
                "ghcr.io/a__b/c--d.e_f:latest",
                "ghcr.io/a__b/c--d.e_f:latest",
            ),
            ("[::1]:80/a", "[::1]:80/a:latest", "[::1]:80/a:latest"),
            (
                "docker.io/library/x/y",
                "docker.io/library/x/y:latest",
                "library/x/y:latest",
            ),
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(Reference::parse(&reference.familiar()), Ok(reference), "{text}");
        }
    }

    #[test]
    fn a_digest_stands_for_the_tag() {
        let digest = Digest::of(b"");
        let reference = Reference::parse(&format!("a@{digest}")).unwrap();
        assert_eq!((reference.tag(), reference.digest()), (None, Some(digest)));
        let both = Reference::parse(&format!("a:b@{digest}")).unwrap();
        assert_eq!(both.familiar(), format!("a:b@{digest}"));
    }

    #[test]
    fn other_texts_are_refused() {
        let long = "a".repeat(256);
        for (text, reason) in [
            ("", Reason::Empty),
            (":tag", Reason::Empty),
            ("App", Reason::UpperCase),
            ("ghcr.io/Me/app", Reason::UpperCase),
            ("a b", Reason::Path),
            ("a//b", Reason::Path),
            ("a..b", Reason::Path),
            ("a___b", Reason::Path),
            ("-a", Reason::Path),
            ("a/", Reason::Path),
            ("../etc", Reason::Domain),
            ("a:", Reason::Tag),
            ("a:-x", Reason::Tag),
            ("a:x y", Reason::Tag),
            ("a@sha256:12", Reason::Digest),
            ("a:80x/b", Reason::Domain),
            ("é/a", Reason::Path),
            (&long, Reason::TooLong),
            (&Digest::of(b"").hex(), Reason::Id),
        ] {
            assert_eq!(canonical(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn upper_case_has_a_hint() {
        let hint = |text: &str| Reference::parse(text).err().and_then(|e| e.hint());
        assert_eq!(hint("MyApp:V1").as_deref(), Some("write myapp:V1"));
        assert_eq!(hint("a b"), None);
    }

    proptest! {
        #[test]
        fn anything_parses_to_itself_or_is_refused(text in "[a-zA-Z0-9.:/@_\\[\\]é -]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                prop_assert_eq!(Reference::parse(&reference.to_string()), Ok(reference.clone()));
                prop_assert_eq!(Reference::parse(&reference.familiar()), Ok(reference));
            }
        }
    }
}
