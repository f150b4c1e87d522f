//! The files that make the store's directory an OCI image layout (OCI image specification, "Image Layout").

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::catalog::ImageRow;
use super::{StoreError, create_new, replace};
use crate::digest::Digest;

pub(super) const INDEX: &str = "index.json";
const LAYOUT: &str = "oci-layout";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// The annotation by which skopeo, buildah and podman find an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation by which containerd names an image that it imports.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What an index says of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

/// Makes the layout's files, if they are missing.
pub(super) fn create(root: &Path) -> Result<(), StoreError> {
    // Never over an index that another process has filled by now.
    create_new(&root.join(INDEX), &text(root, &[])?)?;
    replace(&root.join(LAYOUT), br#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// Writes the index: each name of each image, and the images without a name.
pub(super) fn write(root: &Path, images: &[ImageRow]) -> Result<(), StoreError> {
    replace(&root.join(INDEX), &text(root, images)?)
}

fn text(root: &Path, images: &[ImageRow]) -> Result<Vec<u8>, StoreError> {
    let entry = |image: &ImageRow, name: Option<&String>| Entry {
        media_type: image.descriptor.media_type.clone(),
        digest: image.descriptor.digest,
        size: image.descriptor.size,
        annotations: name
            .into_iter()
            .flat_map(|name| [REF_NAME, CONTAINERD_NAME].map(|key| (key.to_owned(), name.clone())))
            .collect(),
    };
    let mut manifests = Vec::new();
    for image in images {
        manifests.extend(image.names.iter().map(|name| entry(image, Some(name))));
        if image.names.is_empty() {
            manifests.push(entry(image, None));
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE.to_owned(),
        manifests,
    };
    serde_json::to_vec_pretty(&index).map_err(|source| StoreError::Json {
        path: root.join(INDEX),
        source,
    })
}

/// The manifests of the index, each with its name if it has one.
pub(super) fn read(root: &Path) -> Result<Vec<(Descriptor, Option<String>)>, StoreError> {
    let path = root.join(INDEX);
    let text = fs::read(&path).map_err(|e| StoreError::io("read", &path, e))?;
    let index: Index = serde_json::from_slice(&text).map_err(|source| StoreError::Json { path, source })?;
    let entries = index.manifests.into_iter().map(|mut entry| {
        let descriptor = Descriptor {
            digest: entry.digest,
            media_type: entry.media_type,
            size: entry.size,
        };
        (descriptor, entry.annotations.remove(REF_NAME))
    });
    Ok(entries.collect())
}

/// The media type that a manifest states; OCI's manifest may leave it out.
pub(super) fn media_type(manifest: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    match serde_json::from_slice(manifest) {
        Ok(Typed {
            media_type: Some(media_type),
            ..
        }) => media_type,
        Ok(Typed {
            manifests: Some(_), ..
        }) => INDEX_TYPE.to_owned(),
        _ => MANIFEST_TYPE.to_owned(),
    }
}
