//! Where images are copied from and to, as skopeo and podman write it: `docker://busybox`, `oci:layout:1`.

use std::fmt;
use std::path::PathBuf;

use super::Tool;
use crate::archive::ArchiveFormat;
use crate::reference::{InvalidReference, Reference};

/// A place that an image is copied from or to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// mica's own store: a name, or, to copy from, an ID.
    Store(String),
    /// A registry.
    Registry(Reference),
    /// An archive.
    Archive {
        /// Its form, where it is written; read is what it is.
        format: ArchiveFormat,
        /// The file; stdin or stdout if `None`.
        file: Option<PathBuf>,
        /// Which image of it is meant, or what it is to be called.
        name: Option<String>,
    },
    /// An OCI image layout.
    Layout {
        /// The directory.
        directory: PathBuf,
        /// Which image of it is meant, or what it is to be called.
        name: Option<String>,
    },
    /// The store of another tool, to copy from: a name there, or a whole ID.
    Tool(Tool, String),
}

/// A text that names no place.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidPlace {
    /// There is nothing behind the transport.
    #[error("{text:?} names nothing")]
    Empty {
        /// The text.
        text: String,
    },
    /// `docker:` without slashes.
    #[error("{text:?} is no place: docker: is followed by two slashes, as in docker://busybox")]
    Slashes {
        /// The text.
        text: String,
    },
    /// The name in a registry is none.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

impl Place {
    /// Reads a place. What has no transport in front is a name in the store.
    ///
    /// # Errors
    /// [`InvalidPlace`].
    pub fn parse(text: &str) -> Result<Self, InvalidPlace> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(Reference::parse(name)?));
        }
        let (transport, rest) = text.split_once(':').unwrap_or(("", text));
        let is_empty = rest.is_empty() || rest.starts_with(':');
        match transport {
            "docker" if rest.starts_with('/') => Err(InvalidPlace::Slashes {
                text: text.to_owned(),
            }),
            "store" | "docker-archive" | "oci-archive" | "oci" | "docker-daemon" | "containers-storage"
                if is_empty =>
            {
                Err(InvalidPlace::Empty {
                    text: text.to_owned(),
                })
            }
            "store" => Ok(Self::Store(rest.to_owned())),
            "docker-archive" => Ok(Self::archive(ArchiveFormat::Docker, rest)),
            "oci-archive" => Ok(Self::archive(ArchiveFormat::Oci, rest)),
            "oci" => {
                let (path, name) = split(rest);
                let directory = path.into();
                Ok(Self::Layout { directory, name })
            }
            "docker-daemon" => Ok(Self::Tool(Tool::Docker, rest.to_owned())),
            "containers-storage" => Ok(Self::Tool(Tool::Containers, rest.to_owned())),
            _ => Ok(Self::Store(text.to_owned())),
        }
    }

    fn archive(format: ArchiveFormat, text: &str) -> Self {
        let (path, name) = split(text);
        Self::Archive {
            format,
            file: (path != "-").then(|| path.into()),
            name,
        }
    }
}

/// A path, and what follows the first colon.
fn split(text: &str) -> (&str, Option<String>) {
    match text.split_once(':') {
        Some((path, name)) => (path, Some(name.to_owned()).filter(|name| !name.is_empty())),
        None => (text, None),
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Store(name) => return f.write_str(name),
            Self::Tool(tool, name) => return write!(f, "{tool}:{name}"),
            Self::Registry(reference) => return write!(f, "docker://{}", reference.familiar()),
            Self::Archive { format, file, name } => {
                let transport = match format {
                    ArchiveFormat::Docker => "docker-archive",
                    ArchiveFormat::Oci => "oci-archive",
                };
                (transport, file.clone().unwrap_or_else(|| "-".into()), name)
            }
            Self::Layout { directory, name } => ("oci", directory.clone(), name),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.iter().try_for_each(|name| write!(f, ":{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_in_skopeo() {
        for text in [
            "docker://busybox:latest",
            "docker://localhost:5000/a/b:1",
            "docker-archive:a.tar:app:1",
            "docker-archive:-",
            "oci-archive:/tmp/a.tar",
            "oci:layout:1.0",
            "docker-daemon:app:1",
            "containers-storage:[overlay@/a+/b]app:1",
            "app:1",
            "sha256:ab",
        ] {
            assert_eq!(Place::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Place::parse("store:oci:1"), Ok(Place::Store("oci:1".to_owned())));
        let archive = Place::Archive {
            format: ArchiveFormat::Docker,
            file: Some("a.tar".into()),
            name: Some("b:1".to_owned()),
        };
        assert_eq!(Place::parse("docker-archive:a.tar:b:1"), Ok(archive));
        for text in [
            "oci:",
            "store:",
            "oci-archive::a",
            "docker:/x",
            "docker://",
            "docker://X",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
    }
}
