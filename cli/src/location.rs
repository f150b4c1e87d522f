//! A place inside an image, as `ls`, `cat` and `cp` take it.

use anyhow::Context as _;
use mica_builder::export::ExportError;
use mica_fs::overlay::{Attr, Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use crate::source::Elsewhere;

/// Takes `IMAGE:/PATH` apart. The colon in front of a slash is neither a tag's nor a port's.
pub fn split(text: &str) -> Option<(&str, &str)> {
    let colon = text.find(":/")?;
    (colon > 0).then(|| (&text[..colon], &text[colon + 1..]))
}

/// Opens the merged root filesystem of an image, of one of its layers, or of a step, in which these paths are to be looked
/// at: of an image in a registry there may be no more.
///
/// # Errors
/// If there is no such image, or a layer is damaged.
pub fn open(
    store: &Store,
    (image, elsewhere): (&str, &Elsewhere),
    paths: &[(ImagePath, Follow)],
) -> anyhow::Result<Overlay> {
    match elsewhere.stored(store, image)? {
        Ok(place) => Ok(Overlay::read_only(place.stack.layers().to_vec())),
        Err(source) => source.tree_for(store, paths),
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
