//! Images wherever they are: in the store or, for reading, in their registry.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use mica_builder::image::{Image, ImageError, Platform};
use mica_builder::lazy::{LazyError, LazyImage, Notice};
use mica_builder::look::place::PlaceError;
use mica_builder::reference::Reference;
use mica_builder::registry::{Client, Settings};
use mica_fs::layer::Layer;
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use crate::diagnostic::hint;
use crate::render;

/// An image that can be read.
pub enum Source {
    /// It is in the store.
    Stored(Box<Image>),
    /// It is in its registry, and read there.
    Remote(Box<LazyImage>),
}

impl Source {
    /// The image that a person means by `text`: one of the store or, if that has none of this name, of a registry. What
    /// can only be an ID, or is no name, is looked for in the store alone.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn find(store: &Store, text: &str) -> anyhow::Result<Self> {
        match Image::find(store, text) {
            Ok(image) => Ok(Self::Stored(Box::new(image))),
            Err(error) => remote(text, error.into()),
        }
    }

    /// Its manifest and its configuration.
    pub fn image(&self) -> &Image {
        match self {
            Self::Stored(image) => image,
            Self::Remote(remote) => remote.image(),
        }
    }

    /// Some of its layers, by their numbers from the bottom.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn layers(&self, store: &Store, numbers: Range<usize>) -> anyhow::Result<Vec<Arc<Layer>>> {
        match self {
            Self::Stored(image) => Ok(store.layers(&image.layers()[numbers])?),
            Self::Remote(remote) => remote.layers(store, numbers, &notice).map_err(explain),
        }
    }

    /// Its tree; in a registry only as much of it as shows what lies at these paths.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub fn tree_for(&self, store: &Store, paths: &[(ImagePath, Follow)]) -> anyhow::Result<Overlay> {
        match self {
            Self::Stored(image) => Ok(Overlay::read_only(store.layers(image.layers())?)),
            Self::Remote(remote) => remote.tree_for(store, paths, &notice).map_err(explain),
        }
    }

    /// How many bytes its layers have, bottom layer first: as tars, or in a registry as they are compressed there.
    ///
    /// # Errors
    /// If a layer of the store is missing or damaged.
    pub fn sizes(&self, store: &Store) -> anyhow::Result<Vec<u64>> {
        match self {
            Self::Stored(image) => {
                let layers = store.layers(image.layers())?;
                Ok(layers.iter().map(|layer| layer.index().tar_size()).collect())
            }
            Self::Remote(remote) => Ok(remote
                .image()
                .manifest
                .layers
                .iter()
                .map(|layer| layer.size)
                .collect()),
        }
    }
}

/// The image of that name in its registry, after the store was found not to have it, with this error.
///
/// # Errors
/// That error if it says something else, or the text can be no name; else one that tells both.
pub fn remote(text: &str, error: PlaceError) -> anyhow::Result<Source> {
    let (PlaceError::Image(ImageError::Unknown { near, .. }), Some(reference)) = (&error, name(text)) else {
        return Err(error.into());
    };
    let image = match find_remote(&reference) {
        Ok(image) => image,
        // One of the store was meant, and misspelt.
        Err(_) if !near.is_empty() => return Err(error.into()),
        Err(remote) => return Err(explain(remote).context(error.to_string())),
    };
    tell(&format!(
        "reading {} from {}",
        reference.familiar(),
        image.registry()
    ));
    Ok(Source::Remote(Box::new(image)))
}

/// The name that `text` is, if it can be one of an image in a registry.
fn name(text: &str) -> Option<Reference> {
    let is_id = text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    Reference::parse(text).ok().filter(|_| !is_id)
}

fn find_remote(reference: &Reference) -> Result<LazyImage, LazyError> {
    let variable = |name: &str| env::var_os(name).map(PathBuf::from);
    let client = Client::new(Settings::of_user(None, &variable)?, Arc::new(|| false));
    LazyImage::find(&client, reference, &Platform::host())
}

/// Adds the hint that an error has.
fn explain(error: LazyError) -> anyhow::Error {
    match error.hint() {
        Some(advice) => hint(error, advice),
        None => error.into(),
    }
}

fn notice(notice: Notice) {
    match notice {
        Notice::Pass { layer, bytes } => tell(&format!(
            "reading all of layer {} ({}) once, to know what is in it",
            layer.short(),
            render::size(bytes)
        )),
        Notice::NoRanges => tell("the registry gives whole layers only: they are taken into the store"),
    }
}

/// Says on a terminal what takes time.
fn tell(text: &str) {
    if io::stderr().is_terminal() {
        // Nobody reads it if stderr is closed.
        let _ = writeln!(io::stderr(), "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_an_id_is_no_name() {
        for text in ["0123456789ab", "", "A", "a b", &"0".repeat(64)] {
            assert_eq!(name(text), None, "{text}");
        }
        for text in ["busybox", "cafe", "localhost:5000/a:b"] {
            assert!(name(text).is_some(), "{text}");
        }
    }
}
