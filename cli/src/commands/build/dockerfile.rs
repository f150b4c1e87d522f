//! Where the text of the Dockerfile comes from.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mica_builder::dockerfile::ParseError;

use super::Args;
use crate::diagnostic::{hint, usage_error};

/// A Dockerfile's text and what to call it in messages.
pub(super) struct DockerfileSource {
    pub name: String,
    pub text: Vec<u8>,
    /// Where it lies; `None` for stdin.
    pub path: Option<PathBuf>,
}

/// The largest Dockerfile that is read: a larger file is another one, given by mistake.
const MAX_DOCKERFILE: u64 = 16 << 20;

impl DockerfileSource {
    /// Reads what the command line names.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(args: &Args) -> anyhow::Result<Self> {
        let from_stdin = |path: &Path| path.as_os_str() == "-";
        let path = match &args.file {
            Some(file) if from_stdin(file) && from_stdin(&args.path) => {
                return Err(usage_error(
                    "the Dockerfile and the context cannot both come from stdin",
                ));
            }
            Some(file) => file.clone(),
            None if from_stdin(&args.path) => args.path.clone(),
            None => args.path.join("Dockerfile"),
        };
        if from_stdin(&path) {
            let text =
                read_limited(std::io::stdin().lock()).context("cannot read the Dockerfile from stdin")?;
            return Ok(Self {
                name: "Dockerfile".to_owned(),
                text,
                path: None,
            });
        }
        if args.file.is_none() && !args.path.is_dir() {
            return Err(hint(
                anyhow::anyhow!("the build context {} is not a directory", args.path.display()),
                "name a directory, or `-` to read a Dockerfile from stdin",
            ));
        }
        let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()));
        let file = file.map_err(|e| hint(e, "the Dockerfile is named by -f FILE, or lies in the context"))?;
        let text = read_limited(file).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            name: path.strip_prefix(".").unwrap_or(&path).display().to_string(),
            text,
            path: Some(path),
        })
    }

    /// An error with the line it is about.
    pub fn error(&self, error: &ParseError) -> anyhow::Error {
        anyhow::anyhow!("{}", error.render(&self.name, &self.text))
    }
}

fn read_limited(from: impl std::io::Read) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    from.take(MAX_DOCKERFILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_DOCKERFILE {
        bail!("it is larger than 16 MiB");
    }
    Ok(text)
}
