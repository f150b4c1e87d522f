//! Where the text of the Dockerfile comes from.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mica_builder::dockerfile::ParseError;
use mica_fs::digest::DiffId;
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use super::context::{Place, is_url, no_directory};
use crate::diagnostic::{hint, usage_error};

/// A Dockerfile's text and what to call it in messages.
pub(super) struct DockerfileSource {
    pub name: String,
    pub text: Vec<u8>,
    /// Where it lies on this machine.
    pub path: Option<PathBuf>,
}

/// The largest Dockerfile that is read: a larger file is another one, given by mistake.
const MAX_DOCKERFILE: u64 = 16 << 20;
const DOCKERFILE: &str = "Dockerfile";

impl DockerfileSource {
    /// Reads what lies on this machine, or on stdin; `None` if it is in what must be fetched first.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn at_hand(file: Option<&Path>, place: &Place) -> anyhow::Result<Option<Self>> {
        let Some(file) = file else {
            return match place {
                Place::Directory(root) => Self::in_directory(root).map(Some),
                _ => Ok(None),
            };
        };
        match (place, file.to_str()) {
            (Place::Stdin, Some("-")) => Err(usage_error(
                "the Dockerfile and the context cannot both come from stdin",
            )),
            (_, Some("-")) => {
                let text =
                    read_limited(std::io::stdin().lock()).context("cannot read the Dockerfile from stdin")?;
                Ok(Some(Self::without_place(text)))
            }
            (_, Some(text)) if is_url(text) => Ok(None),
            (Place::Directory(_), _) => Self::in_file(file).map(Some),
            _ if file.is_absolute() => Self::in_file(file).map(Some),
            _ => Ok(None),
        }
    }

    /// A Dockerfile that is in no directory.
    pub fn without_place(text: Vec<u8>) -> Self {
        Self {
            name: DOCKERFILE.to_owned(),
            text,
            path: None,
        }
    }

    /// `Dockerfile` in a directory, or `dockerfile` as Docker has it.
    ///
    /// # Errors
    /// If there is neither.
    pub fn in_directory(root: &Path) -> anyhow::Result<Self> {
        if !root.is_dir() {
            return Err(no_directory(root));
        }
        let small = root.join(DOCKERFILE.to_lowercase());
        let usual = root.join(DOCKERFILE);
        Self::in_file(if !usual.exists() && small.exists() {
            &small
        } else {
            &usual
        })
    }

    fn in_file(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()));
        let file = file.map_err(|e| hint(e, "the Dockerfile is named by -f FILE, or lies in the context"))?;
        let text = read_limited(file).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            name: path.strip_prefix(".").unwrap_or(path).display().to_string(),
            text,
            path: Some(path.to_owned()),
        })
    }

    /// The Dockerfile in a context that is a layer.
    ///
    /// # Errors
    /// If there is none.
    pub fn in_layer(store: &Store, layer: DiffId, file: Option<&Path>) -> anyhow::Result<Self> {
        let name = file.unwrap_or(Path::new(DOCKERFILE));
        let mut text = read_in(store, layer, name)?;
        if text.is_none() && name.file_name().is_some_and(|name| name == DOCKERFILE) {
            text = read_in(store, layer, &name.with_file_name(DOCKERFILE.to_lowercase()))?;
        }
        let missing = || anyhow::anyhow!("there is no {} in the build context", name.display());
        let text =
            text.ok_or_else(|| hint(missing(), "name the Dockerfile by -f FILE, as the context has it"))?;
        Ok(Self {
            name: name.display().to_string(),
            text,
            path: None,
        })
    }

    /// An error with the line it is about.
    pub fn error(&self, error: &ParseError) -> anyhow::Error {
        anyhow::anyhow!("{}", error.render(&self.name, &self.text))
    }
}

/// The file `path` of a layer, its links followed inside; `None` if there is none.
pub(super) fn read_in(store: &Store, layer: DiffId, path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    use std::os::unix::ffi::OsStrExt as _;
    let overlay = Overlay::read_only(vec![store.layer(&layer)?]);
    let path = ImagePath::clean(path.as_os_str().as_bytes())?;
    let real = mica_builder::op::copy::resolve_in(&overlay, &path)?;
    let Ok(attr) = overlay.resolve(&real, Follow::No) else {
        return Ok(None);
    };
    let Some((layer, entry)) = overlay.origin(attr.ino) else {
        return Ok(None);
    };
    if attr.size > MAX_DOCKERFILE {
        bail!("{path}: it is larger than 16 MiB");
    }
    let mut text = vec![0; usize::try_from(attr.size)?];
    let mut at = 0;
    while at < text.len() {
        match layer.read_at(entry, &mut text[at..], at as u64)? {
            0 => bail!("{path}: it is cut short"),
            n => at += n,
        }
    }
    Ok(Some(text))
}

/// Reads what a Dockerfile may be.
pub(super) fn read_limited(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_DOCKERFILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_DOCKERFILE {
        bail!("it is larger than 16 MiB");
    }
    Ok(text)
}
