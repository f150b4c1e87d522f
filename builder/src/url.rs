//! URLs as far as builds need them: to be fetched, to be shown, and to be followed when a server redirects (RFC 3986).

use std::fmt;

/// An absolute URL with a host.
///
/// Shown without its password: what is shown ends up in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    /// The scheme in lower case: `https`.
    pub scheme: String,
    /// What stands before `@`: a user, perhaps with a password.
    pub user: Option<String>,
    /// The host, perhaps with a port.
    pub host: String,
    /// The path: empty, or beginning with `/`.
    pub path: String,
    /// What follows `?`.
    pub query: Option<String>,
    /// What follows `#`.
    pub fragment: Option<String>,
}

/// Why a text is no URL that can be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not begin with a scheme and `//`.
    #[error("it has no scheme")]
    Scheme,
    /// Nothing stands where the host should.
    #[error("it has no host")]
    Host,
    /// It has a line break or another control character.
    #[error("it has a control character")]
    Control,
}

impl Url {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.chars().any(char::is_control) {
            return Err(UrlError::Control);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(word) {
            return Err(UrlError::Scheme);
        }
        let (rest, fragment) = cut(rest, '#');
        let (rest, query) = cut(rest, '?');
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        if host.is_empty() || host.starts_with(':') {
            return Err(UrlError::Host);
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            user,
            host: host.to_owned(),
            path: path.to_owned(),
            query,
            fragment,
        })
    }

    /// The URL that `reference` means on a page of this one: a whole URL, or a part that replaces the end of this.
    ///
    /// # Errors
    /// [`UrlError`].
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        if reference.contains("://") && !reference.starts_with(['/', '?', '#']) {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            return Self::parse(&format!("{}://{rest}", self.scheme));
        }
        let (directory, _) = self.path.rsplit_once('/').unwrap_or_default();
        let path = match reference.chars().next() {
            None | Some('?' | '#') => self.path.clone() + reference,
            Some('/') => reference.to_owned(),
            Some(_) => format!("{directory}/{reference}"),
        };
        let user = self.user.as_ref().map(|user| format!("{user}@"));
        Self::parse(&format!(
            "{}://{}{}{path}",
            self.scheme,
            user.unwrap_or_default(),
            self.host
        ))
    }

    /// The host without its port.
    pub fn host_name(&self) -> &str {
        match self.host.rsplit_once(':') {
            Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
            _ => &self.host,
        }
    }

    /// Whether the host is this machine, by a name or an address that cannot mean another.
    pub fn is_loopback(&self) -> bool {
        let host = self.host_name().trim_matches(['[', ']']).to_lowercase();
        let address = host.parse::<std::net::IpAddr>();
        host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|ip| ip.is_loopback())
    }

    /// The last name of the path, decoded; `None` if there is none.
    pub fn file_name(&self) -> Option<Vec<u8>> {
        let path = self.path.trim_end_matches('/');
        let name = decode(path.rsplit('/').next().unwrap_or_default());
        let usable = !name.is_empty() && name != b"." && name != b"..";
        (usable && !name.contains(&b'/') && !name.contains(&0)).then_some(name)
    }

    /// The user and the password, decoded.
    pub fn credentials(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let user = self.user.as_ref()?;
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        Some((decode(user), decode(password)))
    }

    /// The same without user, password and fragment: what a request is about.
    pub fn bare(&self) -> Self {
        Self {
            user: None,
            fragment: None,
            ..self.clone()
        }
    }

    /// The whole text with what may not stand in a request encoded.
    pub fn encoded(&self) -> String {
        let mut text = String::new();
        for &byte in self.text(self.user.as_deref()).as_bytes() {
            match byte {
                0x21..=0x7e if !b"\"<>\\^`{|}".contains(&byte) => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        text
    }

    fn text(&self, user: Option<&str>) -> String {
        let mut text = format!("{}://", self.scheme);
        if let Some(user) = user {
            text = text + user + "@";
        }
        text = text + &self.host + &self.path;
        for (mark, part) in [('?', &self.query), ('#', &self.fragment)] {
            if let Some(part) = part {
                text.push(mark);
                text.push_str(part);
            }
        }
        text
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|user| match user.split_once(':') {
            Some((name, _)) => format!("{name}:xxxxx"),
            None => user.clone(),
        });
        f.write_str(&self.text(user.as_deref()))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

fn cut(text: &str, mark: char) -> (&str, Option<String>) {
    match text.split_once(mark) {
        Some((before, after)) => (before, Some(after.to_owned())),
        None => (text, None),
    }
}

/// `text` with each password in a URL replaced by as many asterisks as it has bytes, so that places in it stay: what
/// stands before the `@` of an `http` URL without a colon counts as one, being a token as a rule.
pub fn mask_passwords(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        masked.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/?#\"'`<>".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        let user = authority.rfind('@').map_or("", |at| &authority[..at]);
        let is_http = before.ends_with("http://") || before.ends_with("https://");
        let shown = match user.find(':') {
            Some(colon) => colon + 1,
            None if is_http => 0,
            None => user.len(),
        };
        masked.push_str(&user[..shown]);
        masked.extend(std::iter::repeat_n('*', user.len() - shown));
        rest = &after[user.len()..];
    }
    masked + rest
}

/// Encodes what a part of a query may not have (RFC 3986, section 2.3).
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Undoes percent-encoding; what is none stays as it is.
pub fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|&b| char::from(b).to_digit(16));
        match (first, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                // Two hexadecimal digits fit a byte.
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn passwords_are_masked_in_place() {
        for (text, masked) in [
            ("ADD https://me:pass@x/a /", "ADD https://me:****@x/a /"),
            ("http://token@x http://a:b@c", "http://*****@x http://a:*@c"),
            ("ssh://git@x/a@b:c", "ssh://git@x/a@b:c"),
            ("ftp://u:p@h@x/", "ftp://u:***@x/"),
            ("'https://x/@' ://", "'https://x/@' ://"),
            ("https://é:ü@x", "https://é:**@x"),
        ] {
            assert_eq!(mask_passwords(text), masked, "{text}");
            assert_eq!(masked.len(), text.len());
        }
    }

    #[test]
    fn parts_are_told_apart() {
        let found = url("HTTPS://me:s3cret@example.com:8080/a/b%20c.tar?x=1&y=2#ref:dir");
        assert_eq!(found.scheme, "https");
        assert_eq!(found.host, "example.com:8080");
        assert_eq!(found.host_name(), "example.com");
        assert_eq!(found.path, "/a/b%20c.tar");
        assert_eq!(found.query.as_deref(), Some("x=1&y=2"));
        assert_eq!(found.fragment.as_deref(), Some("ref:dir"));
        assert_eq!(found.file_name().unwrap(), b"b c.tar");
        assert_eq!(found.credentials().unwrap(), (b"me".to_vec(), b"s3cret".to_vec()));
        assert_eq!(url("http://[::1]:80/").host_name(), "[::1]");
        assert_eq!(url("http://[::1]").host_name(), "[::1]");
    }

    #[test]
    fn a_password_is_never_shown() {
        let secret = url("https://me:s3cret@example.com/x?q");
        assert_eq!(secret.to_string(), "https://me:xxxxx@example.com/x?q");
        assert!(!format!("{secret:?}").contains("s3cret"));
        assert!(secret.encoded().contains("s3cret"));
        assert_eq!(secret.bare().to_string(), "https://example.com/x?q");
    }

    #[test]
    fn what_is_no_url_is_refused() {
        assert_eq!(Url::parse("/a/b"), Err(UrlError::Scheme));
        assert_eq!(Url::parse("ht tp://a"), Err(UrlError::Scheme));
        assert_eq!(Url::parse("http:///x"), Err(UrlError::Host));
        assert_eq!(Url::parse("http://me@/x"), Err(UrlError::Host));
        assert_eq!(Url::parse("http://a/\nHost: b"), Err(UrlError::Control));
    }

    #[test]
    fn redirects_are_relative_to_where_they_came_from() {
        let base = url("http://a.example/d/e/f?q=1#frag");
        for (reference, result) in [
            ("https://b.example/x", "https://b.example/x"),
            ("//b.example/x", "http://b.example/x"),
            ("/x?y", "http://a.example/x?y"),
            ("x", "http://a.example/d/e/x"),
            ("?z", "http://a.example/d/e/f?z"),
            (
                "/login?to=http://a.example/",
                "http://a.example/login?to=http://a.example/",
            ),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), result, "{reference}");
        }
    }

    #[test]
    fn names_come_from_the_path() {
        let name = |text: &str| url(text).file_name().map(|name| String::from_utf8(name).unwrap());
        assert_eq!(name("http://a/x/y.tgz?download=1"), Some("y.tgz".to_owned()));
        assert_eq!(name("http://a/x/"), Some("x".to_owned()));
        assert_eq!(name("http://a"), None);
        assert_eq!(name("http://a/%2e%2e"), None);
        assert_eq!(name("http://a/x%2fy"), None);
        assert_eq!(name("http://a/100%"), Some("100%".to_owned()));
    }

    #[test]
    fn requests_have_no_odd_characters() {
        assert_eq!(url("http://a/b c/é|").encoded(), "http://a/b%20c/%C3%A9%7C");
        assert_eq!(url("http://a/b%20c").encoded(), "http://a/b%20c");
    }
}
