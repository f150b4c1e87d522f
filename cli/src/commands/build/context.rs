//! The build context, and what its ignore file leaves out.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mica_builder::context::Context as BuildContext;
use mica_builder::ignore::Ignore;

use super::Args;
use super::dockerfile::DockerfileSource;

/// Opens the context that the command line names; `empty` is a directory without files.
///
/// # Errors
/// If it, or its ignore file, cannot be read.
pub(super) fn open_context(
    args: &Args,
    source: &DockerfileSource,
    empty: &Path,
) -> anyhow::Result<BuildContext> {
    if args.path.as_os_str() == "-" {
        return Ok(BuildContext::new(empty, Ignore::default())?);
    }
    let ignore = read_ignore(&args.path, source)?;
    BuildContext::new(&args.path, ignore)
        .with_context(|| format!("cannot read the build context {}", args.path.display()))
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
