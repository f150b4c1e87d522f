//! One image of an OCI image layout, taken into the store without a name.

use std::path::Path;

use mica_fs::store::Store;

use super::load::{INDEX_DEPTH, Staged, choose, json, oci_image, publish, stage};
use super::source::Source;
use super::{LoadError, names};
use crate::image::{Descriptor, Image, Index, MANIFEST_LIMIT, Platform};

/// Which image of a layout.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LayoutImage {
    /// The one with this tag, or with a name that ends with it.
    Tag(String),
    /// The one with this manifest: `sha256:…`.
    Digest(String),
}

impl LayoutImage {
    fn is(&self, descriptor: &Descriptor) -> bool {
        match self {
            Self::Digest(digest) => descriptor.digest.to_string() == *digest,
            Self::Tag(tag) => {
                let names = [names::REF_NAME, names::IMAGE_NAME].map(|key| descriptor.annotation(key));
                let fits = |name: &str| {
                    name == tag || name.strip_suffix(tag).is_some_and(|rest| rest.ends_with(':'))
                };
                names.into_iter().flatten().any(fits)
            }
        }
    }
}

/// Loads the image `which` of the layout in `directory`. It gets no name, and stays until a prune.
///
/// # Errors
/// [`LoadError`].
pub fn load_from_layout(store: &Store, directory: &Path, which: &LayoutImage) -> Result<Image, LoadError> {
    let mut source = Source::Directory(directory.to_owned());
    let index: Index = json("index.json", &source.read("index.json", MANIFEST_LIMIT)?)?;
    let mut fitting: Vec<&Descriptor> = index.manifests.iter().filter(|entry| which.is(entry)).collect();
    if let (true, LayoutImage::Tag(tag), [only]) = (fitting.is_empty(), which, &index.manifests[..])
        && tag == "latest"
    {
        fitting.push(only);
    }
    if fitting.is_empty() {
        return Err(LoadError::Invalid {
            member: "index.json".to_owned(),
            reason: match which {
                LayoutImage::Tag(tag) => format!("it lists no image with the tag {tag}"),
                LayoutImage::Digest(digest) => format!("it lists no image {digest}"),
            },
        });
    }
    let descriptor = choose(&source, &fitting, &Platform::host(), INDEX_DEPTH)?;
    let found = oci_image(&source, descriptor, None)?;
    let mut staged = Staged::new();
    stage(store, &mut source, &found, &mut staged)?;
    for (work, written) in staged.into_values() {
        store.publish_layer(work, &written)?;
    }
    let loaded = publish(store, &source, found)?;
    Ok(loaded.image)
}
