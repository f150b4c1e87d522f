//! How Dockerfiles and command lines name Git repositories, as BuildKit reads it:
//! `https://host/repo.git#REF:DIRECTORY`, `git@host:repo.git#…`, `ssh://…`, `git://…`, or with a query
//! (`?branch=main&subdir=docs`) in place of the fragment.

use crate::http::basic;
use crate::sandbox::Secret;
use crate::url::{Url, decode};

/// A directory of a commit of a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GitRepository {
    /// The repository as `git` gets it: without credentials, query and fragment.
    pub remote: String,
    /// Its host, perhaps with a port.
    pub host: String,
    /// How it is reached.
    pub transport: Transport,
    /// The value of an `Authorization` header, if the URL has a user or a password.
    pub authorization: Option<Secret>,
    /// A branch, a tag, or a commit; `None` is the default branch.
    pub reference: Option<String>,
    /// The directory that is taken; empty for all.
    pub subdirectory: String,
    /// The commit that it must be, or the first digits of it.
    pub checksum: Option<String>,
    /// Whether the directory `.git` is kept; `None` if the URL does not say.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are fetched.
    pub submodules: bool,
    /// Whether `checksum` is fetched without asking what `reference` stands for.
    pub fetch_by_commit: bool,
}

/// How a repository is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// HTTP or HTTPS.
    Http,
    /// SSH.
    Ssh,
    /// Git's own protocol, which is neither encrypted nor authenticated.
    Git,
}

/// What is wrong with the name of a repository.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GitUrlError {
    /// A part that Git repositories do not have.
    #[error("unexpected query {0:?}")]
    Unknown(String),
    /// A query without a value.
    #[error("query {0:?} has no value")]
    NoValue(String),
    /// A query given twice.
    #[error("query {0:?} has multiple values")]
    Twice(String),
    /// A value that is not one of those that will do.
    #[error("invalid value {value:?} of query {name:?}")]
    Value {
        /// Of the query.
        name: String,
        /// As written.
        value: String,
    },
    /// Two parts that name different things.
    #[error("{what} conflicts: {one:?} vs {other:?}")]
    Conflict {
        /// What they name.
        what: &'static str,
        /// One.
        one: String,
        /// The other.
        other: String,
    },
    /// A name that `git` could take for an option, or with characters that no name has.
    #[error("invalid ref {0:?}")]
    Reference(String),
    /// A checksum that is no commit.
    #[error("invalid checksum {0:?}: expected a commit in hexadecimal")]
    Checksum(String),
}

impl GitRepository {
    /// Reads `text`; `None` if it does not name a repository.
    ///
    /// # Errors
    /// [`GitUrlError`] if it does, but what it says of it cannot be.
    pub fn parse(text: &str) -> Result<Option<Self>, GitUrlError> {
        let Some((mut repository, query, fragment)) = location(text) else {
            return Ok(None);
        };
        if let Some(fragment) = fragment {
            let (reference, directory) = fragment.split_once(':').unwrap_or((&fragment, ""));
            repository.reference = Some(reference.to_owned()).filter(|name| !name.is_empty());
            repository.subdirectory = relative(directory);
        }
        repository.read_query(query.as_deref().unwrap_or_default())?;
        repository.check()?;
        Ok(Some(repository))
    }

    /// As [`Self::parse`], also for the old form `github.com/owner/repository` that a build context may have.
    ///
    /// # Errors
    /// [`GitUrlError`].
    pub fn parse_context(text: &str) -> Result<Option<Self>, GitUrlError> {
        match text.starts_with("github.com/") {
            false => Self::parse(text),
            true => {
                let (path, rest) = text.split_at(text.find(['#', '?']).unwrap_or(text.len()));
                let path = path.strip_suffix(".git").unwrap_or(path);
                Self::parse(&format!("https://{path}.git{rest}"))
            }
        }
    }

    fn new(remote: String, host: &str, transport: Transport) -> Self {
        Self {
            remote,
            host: host.to_owned(),
            transport,
            authorization: None,
            reference: None,
            subdirectory: String::new(),
            checksum: None,
            keep_git_dir: None,
            submodules: true,
            fetch_by_commit: false,
        }
    }

    fn read_query(&mut self, query: &str) -> Result<(), GitUrlError> {
        let (mut tag, mut branch) = (None, None);
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |text: &str| String::from_utf8_lossy(&decode(&text.replace('+', " "))).into_owned();
            let (name, value) = (text(name), text(value));
            if seen.contains(&name) {
                return Err(GitUrlError::Twice(name));
            }
            seen.push(name.clone());
            if value.is_empty() && !["keep-git-dir", "submodules", "fetch-by-commit"].contains(&name.as_str())
            {
                return Err(GitUrlError::NoValue(name));
            }
            match name.as_str() {
                "ref" => self.set_reference(value)?,
                "tag" => tag = Some(qualified(&value, "refs/tags/")),
                "branch" => branch = Some(qualified(&value, "refs/heads/")),
                "subdir" => {
                    let value = relative(&value);
                    let known = std::mem::replace(&mut self.subdirectory, value.clone());
                    agree("subdir", Some(known).filter(|known| !known.is_empty()), value)?;
                }
                "checksum" | "commit" => {
                    let known = self.checksum.replace(value.clone());
                    agree("checksum", known, value)?;
                }
                "keep-git-dir" => self.keep_git_dir = Some(switch(&name, value)?),
                "submodules" => self.submodules = switch(&name, value)?,
                "fetch-by-commit" => self.fetch_by_commit = switch(&name, value)?,
                // Times are those of the commit anyway.
                "mtime" if value == "checkout" || value == "commit" => {}
                "mtime" => return Err(GitUrlError::Value { name, value }),
                _ => return Err(GitUrlError::Unknown(name)),
            }
        }
        if let (Some(tag), Some(branch)) = (&tag, &branch) {
            return agree("ref", Some(tag.clone()), branch.clone());
        }
        tag.or(branch).map_or(Ok(()), |name| self.set_reference(name))
    }

    fn set_reference(&mut self, name: String) -> Result<(), GitUrlError> {
        let known = self.reference.replace(name.clone());
        agree("ref", known, name)
    }

    fn check(&self) -> Result<(), GitUrlError> {
        if let Some(name) = &self.reference {
            let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
            if name.starts_with('-') || name.contains("..") || name.contains(odd) {
                return Err(GitUrlError::Reference(name.clone()));
            }
        }
        match &self.checksum {
            Some(text) if !text.bytes().all(|b| b.is_ascii_hexdigit()) => {
                Err(GitUrlError::Checksum(text.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// The repository, the query and the fragment of a text that names a repository.
fn location(text: &str) -> Option<(GitRepository, Option<String>, Option<String>)> {
    if text.starts_with("./") || text.starts_with("../") {
        return None;
    }
    if !text.contains("://") {
        return scp_location(text);
    }
    let mut url = Url::parse(text).ok()?;
    let transport = match url.scheme.as_str() {
        "http" | "https" if url.path.ends_with(".git") => Transport::Http,
        "ssh" => Transport::Ssh,
        "git" => Transport::Git,
        _ => return None,
    };
    let (query, fragment) = (url.query.take(), url.fragment.take());
    let credentials = url.credentials();
    if transport == Transport::Http {
        url.user = None;
    }
    let mut repository = GitRepository::new(url.encoded(), &url.host, transport);
    if let (Some((user, password)), Transport::Http) = (credentials, transport) {
        repository.authorization = Some(Secret::new(basic(&user, &password).into_bytes()));
    }
    Some((repository, query, fragment))
}

/// The form of scp(1): `user@host:path`.
fn scp_location(text: &str) -> Option<(GitRepository, Option<String>, Option<String>)> {
    let (rest, fragment) = match text.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment.to_owned())),
        None => (text, None),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (rest, None),
    };
    let (user, place) = rest.split_once('@')?;
    let (host, path) = place.split_once(':')?;
    let word = |text: &str, more: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(known)
    };
    let valid = word(user, "-_") && word(host, "-.") && !path.is_empty() && !path.contains(char::is_control);
    let repository = GitRepository::new(rest.to_owned(), host, Transport::Ssh);
    valid.then_some((repository, query, fragment))
}

/// `path` without a leading `/`, without `.` and without leading out by `..`.
fn relative(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn qualified(name: &str, prefix: &str) -> String {
    match name.starts_with(prefix) {
        true => name.to_owned(),
        false => format!("{prefix}{name}"),
    }
}

fn agree(what: &'static str, one: Option<String>, other: String) -> Result<(), GitUrlError> {
    match one {
        Some(one) if one != other => Err(GitUrlError::Conflict { what, one, other }),
        _ => Ok(()),
    }
}

fn switch(name: &str, value: String) -> Result<bool, GitUrlError> {
    match value.as_str() {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(GitUrlError::Value {
            name: name.to_owned(),
            value,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(text: &str) -> GitRepository {
        GitRepository::parse(text).unwrap().unwrap()
    }

    #[test]
    fn fragments_name_a_ref_and_a_directory() {
        let found = git("https://github.com/moby/buildkit.git#v1.0:/docs/../src/");
        assert_eq!(found.remote, "https://github.com/moby/buildkit.git");
        assert_eq!(found.host, "github.com");
        assert_eq!(found.reference.as_deref(), Some("v1.0"));
        assert_eq!(found.subdirectory, "src");
        assert_eq!(found.transport, Transport::Http);
        assert_eq!(git("git://host:9418/repo#:dir").reference, None);
        assert_eq!(git("git://host:9418/repo#:../../etc").subdirectory, "etc");
        assert_eq!(git("ssh://git@host:2222/a/b").remote, "ssh://git@host:2222/a/b");
        let scp = git("git@github.com:moby/buildkit.git#main:docs");
        assert_eq!(
            (scp.remote.as_str(), scp.transport),
            ("git@github.com:moby/buildkit.git", Transport::Ssh)
        );
        assert_eq!(scp.host, "github.com");
    }

    #[test]
    fn queries_say_the_same_and_more() {
        let found =
            git("https://h/r.git?branch=main&subdir=a/b&keep-git-dir=1&submodules=false&commit=abc123");
        assert_eq!(found.reference.as_deref(), Some("refs/heads/main"));
        assert_eq!(found.subdirectory, "a/b");
        assert_eq!((found.keep_git_dir, found.submodules), (Some(true), false));
        assert_eq!(found.checksum.as_deref(), Some("abc123"));
        assert_eq!(
            git("https://h/r.git?tag=v1").reference.as_deref(),
            Some("refs/tags/v1")
        );
        assert_eq!(git("git@h:r.git?ref=x#x").reference.as_deref(), Some("x"));
        assert_eq!(git("https://h/r.git?keep-git-dir").keep_git_dir, Some(true));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for wrong in [
            "https://h/r.git?ref=a#b",
            "https://h/r.git?tag=a&branch=b",
            "https://h/r.git?subdir=a#:b",
            "https://h/r.git?ref=",
            "https://h/r.git?ref=a&ref=a",
            "https://h/r.git?nonsense=1",
            "https://h/r.git?submodules=maybe",
            "https://h/r.git?checksum=xyz",
            "https://h/r.git#--upload-pack=evil",
            "https://h/r.git#a b",
            "https://h/r.git#a..b",
        ] {
            assert!(GitRepository::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn other_names_are_no_repositories() {
        for other in [
            "https://h/r.tar.gz",
            "https://h/x",
            "file:///r.git",
            "ext::sh -c x",
            "./r.git",
            "a/b",
            "git@host",
            "-oProxyCommand=x@h:p",
            "a@-h:p",
            "github.com/a/b",
        ] {
            assert_eq!(GitRepository::parse(other), Ok(None), "{other}");
        }
        let context = GitRepository::parse_context("github.com/a/b#main")
            .unwrap()
            .unwrap();
        assert_eq!(context.remote, "https://github.com/a/b.git");
    }

    #[test]
    fn credentials_are_kept_apart() {
        let found = git("https://me:s3cret@h/r.git");
        assert_eq!(found.remote, "https://h/r.git");
        assert_eq!(
            found.authorization.as_ref().unwrap().bytes(),
            b"Basic bWU6czNjcmV0"
        );
        assert!(!format!("{found:?}").contains("bWU6czNjcmV0"));
    }
}
