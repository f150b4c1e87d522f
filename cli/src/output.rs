//! `build --output`: where a build's result goes besides the store.

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use mica_builder::archive::{self, ArchiveFormat, Compression, Entry, Settings};
use mica_builder::image::Image;
use mica_builder::reference::Reference;
use mica_fs::store::Store;

use crate::diagnostic::{hint, usage_error};

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An archive that holds the image.
    Image(ArchiveFormat),
    /// A tar of the root filesystem.
    Tar,
    /// The root filesystem as a directory.
    Local,
}

/// One `--output`.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
    /// `None` is stdout.
    destination: Option<PathBuf>,
    compression: Option<Compression>,
}

impl Output {
    /// Reads `type=TYPE,dest=PATH[,compression=gzip|zstd|uncompressed]`, or a directory, or `-`.
    ///
    /// # Errors
    /// A usage error that says what is wrong.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        if !text.contains('=') {
            let stdout = text == "-";
            return Ok(Self {
                kind: if stdout { Kind::Tar } else { Kind::Local },
                destination: (!stdout).then(|| PathBuf::from(text)),
                compression: None,
            });
        }
        let (mut kind, mut destination, mut compression) = (None, None, None);
        for field in text.split(',') {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            match (key, value) {
                ("type", "oci") => kind = Some(Kind::Image(ArchiveFormat::Oci)),
                ("type", "docker") => kind = Some(Kind::Image(ArchiveFormat::Docker)),
                ("type", "tar") => kind = Some(Kind::Tar),
                ("type", "local") => kind = Some(Kind::Local),
                ("dest", path) => destination = Some(path),
                ("compression", "gzip") => compression = Some(Compression::Gzip),
                ("compression", "zstd") => compression = Some(Compression::Zstd),
                ("compression", "uncompressed") => compression = Some(Compression::None),
                _ => {
                    return Err(hint(
                        usage_error(format!("--output {text}: {field} is not understood")),
                        "the form is type=oci|docker|tar|local,dest=PATH",
                    ));
                }
            }
        }
        let kind = kind.ok_or_else(|| usage_error(format!("--output {text}: it has no type=")))?;
        let destination = destination.filter(|path| *path != "-").map(PathBuf::from);
        if kind == Kind::Local && destination.is_none() {
            return Err(usage_error(format!(
                "--output {text}: type=local needs dest=DIRECTORY"
            )));
        }
        Ok(Self {
            kind,
            destination,
            compression,
        })
    }

    /// Whether stdout gets it.
    pub fn is_stdout(&self) -> bool {
        self.destination.is_none()
    }

    /// Writes the image. A file is written beside its place and renamed.
    ///
    /// # Errors
    /// If it cannot be written; a file that was there is then still there.
    pub fn write(&self, store: &Store, image: &Image, names: &[Reference]) -> anyhow::Result<()> {
        let entries = [Entry {
            image,
            names: names.to_vec(),
        }];
        let Some(path) = &self.destination else {
            let mut stdout = std::io::stdout();
            if stdout.is_terminal() {
                return Err(usage_error(
                    "an archive is not written to a terminal: redirect stdout, or give dest=",
                ));
            }
            self.write_to(store, &entries, &mut stdout)?;
            return Ok(stdout.flush()?);
        };
        let shown = path.display();
        if self.kind == Kind::Local {
            return mica_builder::export::root_directory(store, image.layers(), path)
                .with_context(|| format!("cannot write to {shown}"));
        }
        archive::save_file(path, |out| self.write_to(store, &entries, out))
            .with_context(|| format!("cannot write {shown}"))
    }

    fn write_to(
        &self,
        store: &Store,
        entries: &[Entry<'_>; 1],
        out: &mut dyn std::io::Write,
    ) -> anyhow::Result<()> {
        match self.kind {
            Kind::Image(format) => {
                let settings = Settings {
                    coding: self.compression.map(Into::into),
                    ..Settings::new(format)
                };
                archive::write(store, entries, &settings, out)?;
            }
            Kind::Tar | Kind::Local => {
                mica_builder::export::root_tar(store, entries[0].image.layers(), out)?;
            }
        }
        Ok(())
    }
}
