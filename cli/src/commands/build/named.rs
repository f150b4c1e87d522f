//! `--build-context`: other files and images that FROM and `--from` call by a name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use mica_builder::archive::{LayoutImage, load_from_layout};
use mica_builder::context::Context as Directory;
use mica_builder::origin::BuildContext;
use mica_builder::plan::{self, NamedContext};
use mica_builder::remote::Remote;

use super::context::{Opening, Place, download, fetching, ignore_file};
use super::with_hint;
use crate::diagnostic::{hint, usage_error};

/// What a name stands for, as the command line says it.
#[derive(Debug)]
pub(super) enum Named {
    /// An image of the store.
    Image(String),
    /// An image in an OCI image layout.
    Layout(PathBuf, LayoutImage),
    /// Files.
    Files(Place),
}

/// The `--build-context` options: the names as the planner knows them, the options, and what they mean.
///
/// # Errors
/// If one is not of the form.
pub(super) fn parse(options: &[String]) -> anyhow::Result<Vec<(String, String, Named)>> {
    options.iter().map(|text| parse_one(text)).collect()
}

fn parse_one(text: &str) -> anyhow::Result<(String, String, Named)> {
    let (name, value) = text
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| usage_error(format!("--build-context {text}: the form is NAME=PLACE")))?;
    let place = match (value.split_once("://"), value.split_once(':')) {
        (Some(("docker-image", image)), _) => Named::Image(image.to_owned()),
        (Some(("oci-layout", layout)), _) => layout_image(layout),
        (_, Some(("target", _))) => {
            let error = anyhow::anyhow!("--build-context {text}: target: is for bake files");
            return Err(hint(error, "name the stage itself in the Dockerfile"));
        }
        _ => match Place::of(Path::new(value)).with_context(|| format!("--build-context {text}"))? {
            Place::Stdin => {
                return Err(usage_error(format!(
                    "--build-context {text}: only the build context can be stdin"
                )));
            }
            Place::Directory(path) if value.contains("://") && !path.is_dir() => {
                let error = anyhow::anyhow!("--build-context {text}: this kind of place is not known");
                let places = "it is a directory, docker-image://NAME, oci-layout://DIRECTORY[:TAG|@DIGEST], or the URL \
                              of a Git repository or of a file";
                return Err(hint(error, places));
            }
            place => Named::Files(place),
        },
    };
    Ok((plan::context_name(name), text.to_owned(), place))
}

/// `DIRECTORY[:TAG][@DIGEST]`; the tag is `latest` if neither is given.
fn layout_image(text: &str) -> Named {
    if let Some((directory, digest)) = text.rsplit_once('@') {
        let tagged = directory.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'));
        let directory = tagged.map_or(directory, |(directory, _)| directory);
        return Named::Layout(directory.into(), LayoutImage::Digest(digest.to_owned()));
    }
    let (directory, tag) = match text.rsplit_once(':') {
        Some((directory, tag)) if !tag.contains('/') => (directory, tag),
        _ => (text, "latest"),
    };
    Named::Layout(directory.into(), LayoutImage::Tag(tag.to_owned()))
}

/// What names stand for: for the planner, and the files among them for the solver.
pub(super) type Contexts = (BTreeMap<String, NamedContext>, BTreeMap<String, BuildContext>);

/// Opens what the options name.
///
/// # Errors
/// If something cannot be read or fetched.
pub(super) fn open(named: Vec<(String, String, Named)>, opening: &Opening<'_>) -> anyhow::Result<Contexts> {
    let (mut names, mut files) = Contexts::default();
    for (name, text, place) in named {
        let option = format!("--build-context {text}");
        let known = match place {
            Named::Image(image) => NamedContext::Image(image),
            Named::Layout(directory, which) => {
                let image = load_from_layout(opening.store, &directory, &which)
                    .map_err(|e| with_hint(e.hint(), anyhow::Error::from(e).context(option.clone())))?;
                NamedContext::Image(image.manifest_digest.to_string())
            }
            Named::Files(place) => {
                let context = open_files(&place, opening).context(option)?;
                files.insert(name.clone(), context);
                NamedContext::Directory
            }
        };
        names.insert(name, known);
    }
    Ok((names, files))
}

fn open_files(place: &Place, opening: &Opening<'_>) -> anyhow::Result<BuildContext> {
    let remote = match place {
        Place::Directory(root) => {
            let ignore = ignore_file(&root.join(".dockerignore"))?.unwrap_or_default();
            let directory = Directory::new(root, ignore)
                .with_context(|| format!("cannot read the directory {}", root.display()))?;
            return Ok(BuildContext::Directory(Box::new(directory)));
        }
        Place::Stdin => return Ok(BuildContext::Layers(Vec::new())),
        Place::Git(repository) => Remote::Git((**repository).clone()),
        Place::Url(url) => Remote::Url(download(url)),
    };
    let layer = opening
        .fetcher
        .fetch(&remote)
        .map_err(fetching("cannot fetch it"))?;
    Ok(BuildContext::Layers(vec![layer]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_place_has_its_form() {
        let of = |text: &str| parse_one(text).unwrap();
        let (name, _, named) = of("docker.io/library/alpine:latest=docker-image://busybox");
        assert_eq!(name, "alpine");
        assert!(matches!(named, Named::Image(image) if image == "busybox"));
        let layout = |text: &str| match of(text).2 {
            Named::Layout(path, which) => (path.display().to_string(), which),
            other => panic!("{other:?}"),
        };
        let tag = |tag: &str| LayoutImage::Tag(tag.to_owned());
        assert_eq!(layout("a=oci-layout://x/y:v1"), ("x/y".to_owned(), tag("v1")));
        assert_eq!(
            layout("a=oci-layout:///x:1/y"),
            ("/x:1/y".to_owned(), tag("latest"))
        );
        let digest = LayoutImage::Digest("sha256:ab".to_owned());
        assert_eq!(layout("a=oci-layout://x:v1@sha256:ab"), ("x".to_owned(), digest));
        assert!(matches!(of("a=.").2, Named::Files(Place::Directory(_))));
        assert!(matches!(of("a=https://h/r.git#x").2, Named::Files(Place::Git(_))));
        assert!(matches!(of("a=https://h/x.tar").2, Named::Files(Place::Url(_))));
        for wrong in ["a", "=x", "a=", "a=-", "a=target:x", "a=ftp://h/x"] {
            assert!(parse_one(wrong).is_err(), "{wrong}");
        }
    }
}
