//! The build context and the Dockerfile: a directory, a tar or a Dockerfile on stdin, a repository, a URL.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mica_builder::context::Context as Directory;
use mica_builder::epoch::Epoch;
use mica_builder::ignore::Ignore;
use mica_builder::origin::BuildContext;
use mica_builder::remote::{Checksum, Download, Fetcher, GitRepository, Remote, RemoteError, Unpacked};
use mica_builder::url::Url;
use mica_fs::digest::DiffId;
use mica_fs::layer::Kind;
use mica_fs::layer::index::EntryId;
use mica_fs::store::Store;

use super::dockerfile::{self, DockerfileSource};
use super::with_hint;
use crate::diagnostic::{hint, usage_error};

/// What a file that is a context is called, as in BuildKit.
const CONTEXT_FILE: &str = "context";

/// Where a context lies.
#[derive(Debug)]
pub(super) enum Place {
    /// A directory of this machine.
    Directory(PathBuf),
    /// Stdin: a tar, or a Dockerfile.
    Stdin,
    /// A commit of a repository.
    Git(Box<GitRepository>),
    /// A tar, or a Dockerfile, on a server.
    Url(Url),
}

impl Place {
    /// Reads what the command line says. A directory of that name goes before a repository.
    ///
    /// # Errors
    /// If it is a URL that cannot be.
    pub fn of(path: &Path) -> anyhow::Result<Self> {
        let text = match path.to_str() {
            Some("-") => return Ok(Self::Stdin),
            Some(text) if !path.is_dir() => text,
            _ => return Ok(Self::Directory(path.to_owned())),
        };
        let named = |error: &dyn std::fmt::Display| usage_error(format!("the build context {text}: {error}"));
        if let Some(repository) = GitRepository::parse_context(text).map_err(|e| named(&e))? {
            return Ok(Self::Git(Box::new(repository)));
        }
        if is_url(text) {
            return Ok(Self::Url(Url::parse(text).map_err(|e| named(&e))?));
        }
        Ok(Self::Directory(path.to_owned()))
    }
}

impl fmt::Display for Place {
    /// As a record of the build names it: the same for the same place, without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.canonicalize().as_ref().unwrap_or(path).display().fmt(f),
            Self::Stdin => f.write_str("-"),
            Self::Git(repository) => {
                let reference = repository.reference.as_deref().unwrap_or_default();
                write!(f, "{}#{reference}:{}", repository.remote, repository.subdirectory)
            }
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// Whether a text is to be fetched by HTTP.
pub(super) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// A file on a server that is the context or the Dockerfile.
pub(super) fn download(url: &Url) -> Download {
    Download {
        url: url.clone(),
        name: CONTEXT_FILE.to_owned(),
        checksum: None::<Checksum>,
    }
}

/// The time of a context, for `SOURCE_DATE_EPOCH=context`: that of the commit of a repository, which all its files have.
///
/// # Errors
/// If the store cannot be read.
pub(super) fn time(store: &Store, place: &Place, context: &BuildContext) -> anyhow::Result<Option<Epoch>> {
    let (Place::Git(_), BuildContext::Layers(layers)) = (place, context) else {
        return Ok(None);
    };
    let mut newest = None;
    for layer in store.layers(layers)? {
        let index = layer.index();
        let entries = (0..index.len()).filter_map(|number| index.entry(EntryId(number)));
        let files = entries.filter(|entry| entry.kind() == Kind::File);
        newest = newest.max(files.map(|entry| entry.mtime().seconds).max());
    }
    newest
        .map(|seconds| Ok(Epoch::parse(&seconds.to_string())?))
        .transpose()
}

/// What is needed to open a context.
pub(super) struct Opening<'a> {
    pub store: &'a Store,
    pub fetcher: &'a Fetcher<'a>,
    /// A directory to write to.
    pub work: &'a Path,
    /// `-f`.
    pub file: Option<&'a Path>,
}

impl Opening<'_> {
    /// Opens the context, and the Dockerfile in it unless it is `at_hand`.
    ///
    /// # Errors
    /// If one cannot be read or fetched.
    pub fn open(
        &self,
        place: &Place,
        at_hand: Option<DockerfileSource>,
    ) -> anyhow::Result<(DockerfileSource, BuildContext)> {
        let at_hand = match self.file.and_then(Path::to_str).filter(|text| is_url(text)) {
            Some(text) => Some(self.fetched_dockerfile(text)?),
            None => at_hand,
        };
        match place {
            Place::Directory(root) => {
                let source = match at_hand {
                    Some(source) => source,
                    None => DockerfileSource::in_directory(root)?,
                };
                let ignore = read_ignore(root, &source)?;
                let directory = Directory::new(root, ignore)
                    .with_context(|| format!("cannot read the build context {}", root.display()))?;
                Ok((source, BuildContext::Directory(Box::new(directory))))
            }
            Place::Stdin => {
                let path = self.work.join("stdin");
                File::create_new(&path)
                    .and_then(|mut file| io::copy(&mut io::stdin().lock(), &mut file))
                    .context("cannot read stdin")?;
                match self
                    .fetcher
                    .unpack_file(&path)
                    .map_err(fetching("cannot unpack the tar on stdin"))?
                {
                    Some(layer) => self.with_layer(layer, at_hand),
                    None if self.file.is_some() => Err(usage_error(
                        "the Dockerfile on stdin and -f FILE: which of them is meant? (a context on stdin is a tar)",
                    )),
                    None => {
                        let file = File::open(&path).context("cannot read stdin")?;
                        let text = dockerfile::read_limited(file)
                            .context("cannot read the Dockerfile from stdin")?;
                        Ok((
                            DockerfileSource::without_place(text),
                            BuildContext::Layers(Vec::new()),
                        ))
                    }
                }
            }
            Place::Git(repository) => {
                let layer = self.fetcher.fetch(&Remote::Git((**repository).clone()));
                self.with_layer(
                    layer.map_err(fetching("cannot fetch the build context"))?,
                    at_hand,
                )
            }
            Place::Url(url) => {
                let fetched = self.fetcher.fetch_unpacked(&download(url));
                match fetched.map_err(fetching("cannot fetch the build context"))? {
                    Unpacked::Archive(layer) => self.with_layer(layer, at_hand),
                    Unpacked::File(_) if at_hand.is_some() => Err(usage_error(format!(
                        "the build context {url} is no archive, and so it is a Dockerfile: -f names another one"
                    ))),
                    Unpacked::File(layer) => {
                        let text = dockerfile::read_in(self.store, layer, Path::new(CONTEXT_FILE))?;
                        let text = text.unwrap_or_default();
                        Ok((
                            DockerfileSource::without_place(text),
                            BuildContext::Layers(vec![layer]),
                        ))
                    }
                }
            }
        }
    }

    /// A context that is a layer. As with Docker, its `.dockerignore` counts for nothing.
    fn with_layer(
        &self,
        layer: DiffId,
        at_hand: Option<DockerfileSource>,
    ) -> anyhow::Result<(DockerfileSource, BuildContext)> {
        let source = match at_hand {
            Some(source) => source,
            None => DockerfileSource::in_layer(self.store, layer, self.file)?,
        };
        Ok((source, BuildContext::Layers(vec![layer])))
    }

    fn fetched_dockerfile(&self, text: &str) -> anyhow::Result<DockerfileSource> {
        let url = Url::parse(text).map_err(|e| usage_error(format!("-f {text}: {e}")))?;
        let layer = self.fetcher.fetch(&Remote::Url(download(&url)));
        let layer = layer.map_err(fetching("cannot fetch the Dockerfile"))?;
        let text = dockerfile::read_in(self.store, layer, Path::new(CONTEXT_FILE))?;
        Ok(DockerfileSource::without_place(text.unwrap_or_default()))
    }
}

/// Says what failed.
pub(super) fn fetching(doing: &str) -> impl FnOnce(RemoteError) -> anyhow::Error {
    move |error| with_hint(error.hint(), anyhow::Error::from(error).context(doing.to_owned()))
}

/// `DOCKERFILE.dockerignore` goes before the context's `.dockerignore`.
fn read_ignore(root: &Path, source: &DockerfileSource) -> anyhow::Result<Ignore> {
    let own = source.path.as_ref().map(|path| {
        let mut name = path.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    for path in own.into_iter().chain([root.join(".dockerignore")]) {
        if let Some(ignore) = ignore_file(&path)? {
            return Ok(ignore);
        }
    }
    Ok(Ignore::default())
}

/// The ignore file `path`; `None` if there is none.
pub(super) fn ignore_file(path: &Path) -> anyhow::Result<Option<Ignore>> {
    match std::fs::read(path) {
        Ok(text) => {
            let parsed = Ignore::parse(&text);
            Ok(Some(
                parsed.with_context(|| format!("cannot use {}", path.display()))?,
            ))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Adds a hint to the error for a context that is no directory.
pub(super) fn no_directory(root: &Path) -> anyhow::Error {
    hint(
        anyhow::anyhow!("the build context {} is not a directory", root.display()),
        "name a directory, a URL, a Git repository, or `-` to read a Dockerfile or a tar from stdin",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let of = |text: &str| Place::of(Path::new(text)).unwrap();
        assert!(matches!(of("-"), Place::Stdin));
        assert!(matches!(of("."), Place::Directory(_)));
        assert!(matches!(of("no/such"), Place::Directory(_)));
        assert!(matches!(of("https://h/r.git#main:dir"), Place::Git(_)));
        assert!(matches!(of("git@h:r"), Place::Git(_)));
        assert!(matches!(of("github.com/a/b"), Place::Git(_)));
        assert!(matches!(of("https://h/x.tar.gz"), Place::Url(_)));
        assert!(Place::of(Path::new("https://h/r.git?nonsense=1")).is_err());
        assert!(Place::of(Path::new("https:///x")).is_err());
    }
}
