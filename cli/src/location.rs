//! A place inside an image, as `ls`, `cat` and `cp` take it.

use anyhow::Context as _;
use mica_builder::export::ExportError;
use mica_builder::look::Stack;
use mica_builder::look::place::Place;
use mica_fs::overlay::{Attr, Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use crate::source;

/// Takes `IMAGE:/PATH` apart. The colon in front of a slash is neither a tag's nor a port's.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let colon = text.find(":/")?;
    (colon > 0).then(|| (&text[..colon], &text[colon + 1..]))
}

/// Opens the merged root filesystem of an image, or of what else [`Place`] knows, in which these paths are to be looked
/// at: of an image in a registry there may be no more.
///
/// # Errors
/// If there is no such image, or a layer is damaged.
pub fn open(store: &Store, image: &str, paths: &[(ImagePath, Follow)]) -> anyhow::Result<Overlay> {
    match Place::find(store, image) {
        Ok(place) => Ok(Overlay::read_only(place.stack.layers().to_vec())),
        Err(error) => source::remote(image, error)?.tree_for(store, paths),
    }
}

/// All layers of an image, or of what else [`Place`] knows; those of an image in a registry are read there.
///
/// # Errors
/// If there is no such image, or a layer is damaged.
pub fn stack(store: &Store, image: &str) -> anyhow::Result<Stack> {
    match Place::find(store, image) {
        Ok(place) => Ok(place.stack),
        Err(error) => {
            let source = source::remote(image, error)?;
            let count = source.image().layers().len();
            Ok(Stack::new(source.layers(store, 0..count)?))
        }
    }
}

/// Reads a path as a person gives it.
///
/// # Errors
/// If it cannot be one.
pub fn path(text: &str) -> anyhow::Result<ImagePath> {
    ImagePath::clean(text.as_bytes()).with_context(|| format!("{text:?} cannot be a path in an image"))
}

/// What is at `path`.
///
/// # Errors
/// If there is nothing.
pub fn resolve(overlay: &Overlay, path: &ImagePath, follow: Follow) -> anyhow::Result<Attr> {
    Ok(overlay
        .resolve(path, follow)
        .map_err(|source| ExportError::Image {
            path: path.clone(),
            source,
        })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_begins_at_the_root() {
        assert_eq!(split("busybox:/etc"), Some(("busybox", "/etc")));
        assert_eq!(
            split("localhost:5000/a:1:/b:/c"),
            Some(("localhost:5000/a:1", "/b:/c"))
        );
        assert_eq!(split("busybox:1.36"), None);
        assert_eq!(split(":/etc"), None);
    }
}
