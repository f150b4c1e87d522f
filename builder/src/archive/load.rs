//! Reading archives.
//!
//! Everything is read, verified and indexed in the store's work directory first. Only when all images of the
//! archive are known to be whole are they published, so a bad archive leaves the store as it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use mica_fs::digest::{DiffId, Digest, Hashing};
use mica_fs::layer::ingest::{decompress, ingest};
use mica_fs::layer::writer::Written;
use mica_fs::store::{Store, WorkDir};

use super::arrived::{Arrived, Kept, Tried};
use super::docker::{DockerImage, MANIFEST_JSON};
use super::source::{Source, blob_name, is_compressed_file, verify};
use super::{LoadError, names};
use crate::image::{
    self, CONFIG_LIMIT, Descriptor, Image, ImageConfig, Index, MANIFEST_LIMIT, Manifest, OCI_CONFIG,
    OCI_LAYER, Platform,
};
use crate::reference::Reference;

/// How deep indexes may be nested.
pub(super) const INDEX_DEPTH: u32 = 4;

/// Where to load from.
pub enum Input<'a> {
    /// A file, or the directory of an OCI image layout.
    Path(&'a Path),
    /// A stream, such as stdin.
    Stream(&'a mut dyn Read),
}

/// An image that was loaded.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    /// The image.
    pub image: Image,
    /// The names that the archive gave it.
    pub names: Vec<Reference>,
}

/// Loads all images of an archive, for this machine's platform where there is a choice, and gives them the names
/// that the archive has for them. Loading the same archive again changes nothing.
///
/// # Errors
/// [`LoadError`]; no image was added, then, and no name.
pub fn load(store: &Store, input: Input<'_>) -> Result<Vec<Loaded>, LoadError> {
    let mut source = open(store, input)?;
    let found = contents(&source)?;
    let mut staged = BTreeMap::new();
    for image in &found {
        stage(store, &mut source, image, &mut staged)?;
    }
    for (work, written) in staged.into_values() {
        store.publish_layer(work, &written)?;
    }
    found
        .into_iter()
        .map(|image| publish(store, &source, image))
        .collect()
}

pub(super) fn open(store: &Store, input: Input<'_>) -> Result<Source, LoadError> {
    let path = match input {
        Input::Stream(stream) => return Ok(Source::Arrived(Arrived::take_in(store, stream)?)),
        Input::Path(path) => path,
    };
    let error = |source| LoadError::read(&path.display().to_string(), source);
    let metadata = path.metadata().map_err(error)?;
    if metadata.is_dir() {
        return Ok(Source::Directory(path.to_owned()));
    }
    let mut file = File::open(path).map_err(error)?;
    if metadata.is_file() && !is_compressed_file(&file).map_err(error)? {
        return Source::tar(file);
    }
    Ok(Source::Arrived(Arrived::take_in(store, &mut file)?))
}

/// An image as the archive describes it; the layers are not yet read.
pub(super) struct Found {
    /// The manifest, if the archive has one.
    manifest: Option<(Descriptor, Vec<u8>, Manifest)>,
    pub(super) config: ImageConfig,
    pub(super) config_bytes: Vec<u8>,
    pub(super) layers: Vec<FoundLayer>,
    pub(super) names: Vec<Reference>,
}

pub(super) struct FoundLayer {
    pub(super) diff_id: DiffId,
    pub(super) member: String,
    /// The blob as the manifest describes it, if there is a manifest.
    blob: Option<Descriptor>,
}

impl FoundLayer {
    /// The compressed blob that is to be kept beside the layer at rest.
    fn kept_blob(&self) -> Option<&Descriptor> {
        self.blob.as_ref().filter(|blob| blob.digest != self.diff_id.0)
    }
}

fn contents(source: &Source) -> Result<Vec<Found>, LoadError> {
    if source.has("index.json") {
        return oci_contents(source);
    }
    if source.has(MANIFEST_JSON) {
        return docker_contents(source);
    }
    Err(LoadError::NoManifest)
}

pub(super) fn json<T: serde::de::DeserializeOwned>(member: &str, bytes: &[u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes).map_err(|error| LoadError::Invalid {
        member: member.to_owned(),
        reason: error.to_string(),
    })
}

fn oci_contents(source: &Source) -> Result<Vec<Found>, LoadError> {
    let index: Index = json("index.json", &source.read("index.json", MANIFEST_LIMIT)?)?;
    let mut found: Vec<Found> = Vec::new();
    for group in group_by_name(&index.manifests) {
        let name = group
            .first()
            .and_then(|descriptor| names::of_descriptor(descriptor));
        let descriptor = choose(source, &group, &Platform::host(), INDEX_DEPTH)?;
        let same = found
            .iter_mut()
            .find(|image| matches!(&image.manifest, Some((d, _, _)) if d.digest == descriptor.digest));
        match same {
            Some(image) => image.names.extend(name),
            None => found.push(oci_image(source, descriptor, name)?),
        }
    }
    if found.is_empty() {
        return Err(LoadError::Invalid {
            member: "index.json".to_owned(),
            reason: "it lists no image".to_owned(),
        });
    }
    add_docker_names(source, &mut found)?;
    Ok(found)
}

/// The entries of a layout's index, those of one name together: several of them are one image for several
/// platforms. Entries without a name stand alone, unless they are told apart by their platforms.
pub(super) fn group_by_name(manifests: &[Descriptor]) -> Vec<Vec<&Descriptor>> {
    let mut groups: Vec<Vec<&Descriptor>> = Vec::new();
    for descriptor in manifests.iter().filter(|descriptor| !descriptor.is_attestation()) {
        let name = names::of_descriptor(descriptor);
        let group = groups.iter_mut().find(|group| {
            group.iter().all(|other| {
                names::of_descriptor(other) == name
                    && matches!((&other.platform, &descriptor.platform), (Some(a), Some(b)) if a != b)
            })
        });
        match group {
            Some(group) => group.push(descriptor),
            None => groups.push(vec![descriptor]),
        }
    }
    groups
}

/// The manifest among `candidates` that is for `platform`; indexes are opened.
pub(super) fn choose(
    source: &Source,
    candidates: &[&Descriptor],
    platform: &Platform,
    depth: u32,
) -> Result<Descriptor, LoadError> {
    let fitting = |descriptor: &&&Descriptor| descriptor.platform.as_ref().is_none_or(|p| p.suits(platform));
    let chosen = match candidates {
        // A layout with one image is taken as it is: loading is not running.
        [only] if only.is_manifest() && depth == INDEX_DEPTH => Some(only),
        _ => candidates.iter().find(fitting),
    };
    let Some(chosen) = chosen else {
        let available: Vec<String> = candidates
            .iter()
            .filter_map(|descriptor| descriptor.platform.as_ref().map(ToString::to_string))
            .collect();
        return Err(LoadError::Platform {
            wanted: platform.to_string(),
            available: if available.is_empty() {
                "nothing".to_owned()
            } else {
                available.join(", ")
            },
        });
    };
    if !chosen.is_index() {
        return Ok((*chosen).clone());
    }
    let member = blob_name(&chosen.digest);
    if depth == 0 {
        return Err(LoadError::Invalid {
            member,
            reason: "indexes are nested too deeply".to_owned(),
        });
    }
    let index: Index = json(&member, &source.read_blob(&chosen.digest, MANIFEST_LIMIT)?)?;
    let inner: Vec<&Descriptor> = index.manifests.iter().filter(|d| !d.is_attestation()).collect();
    choose(source, &inner, platform, depth - 1)
}

pub(super) fn oci_image(
    source: &Source,
    descriptor: Descriptor,
    name: Option<Reference>,
) -> Result<Found, LoadError> {
    let member = blob_name(&descriptor.digest);
    let invalid = |reason: String| LoadError::Invalid {
        member: member.clone(),
        reason,
    };
    if !descriptor.is_manifest() {
        return Err(invalid(format!(
            "{} is not the media type of an image",
            descriptor.media_type
        )));
    }
    let bytes = source.read_blob(&descriptor.digest, MANIFEST_LIMIT)?;
    let manifest = image::parse_manifest(descriptor.digest, &bytes)?;
    let config_bytes = source.read_blob(&manifest.config.digest, CONFIG_LIMIT)?;
    let config = image::parse_config(&manifest, &config_bytes)?;
    if let Some(layer) = manifest.layers.iter().find(|layer| !layer.is_layer()) {
        return Err(invalid(format!(
            "{} is not the media type of a layer that mica can read",
            layer.media_type
        )));
    }
    let layers = manifest
        .layers
        .iter()
        .zip(&config.rootfs.diff_ids)
        .map(|(blob, diff_id)| FoundLayer {
            diff_id: *diff_id,
            member: blob_name(&blob.digest),
            blob: Some(blob.clone()),
        })
        .collect();
    Ok(Found {
        manifest: Some((descriptor, bytes, manifest)),
        config,
        config_bytes,
        layers,
        names: name.into_iter().collect(),
    })
}

/// Docker's table of contents beside an OCI layout may have names that the layout lacks.
fn add_docker_names(source: &Source, found: &mut [Found]) -> Result<(), LoadError> {
    if !source.has(MANIFEST_JSON) {
        return Ok(());
    }
    let images: Vec<DockerImage> = json(MANIFEST_JSON, &source.read(MANIFEST_JSON, MANIFEST_LIMIT)?)?;
    for docker in images {
        let config = |image: &&mut Found| matches!(&image.manifest, Some((_, _, manifest)) if docker.config == blob_name(&manifest.config.digest));
        let Some(image) = found.iter_mut().find(config) else {
            continue;
        };
        for name in docker
            .repo_tags
            .iter()
            .flatten()
            .filter_map(|text| names::tagged(text))
        {
            if !image.names.contains(&name) {
                image.names.push(name);
            }
        }
    }
    Ok(())
}

fn docker_contents(source: &Source) -> Result<Vec<Found>, LoadError> {
    let images: Vec<DockerImage> = json(MANIFEST_JSON, &source.read(MANIFEST_JSON, MANIFEST_LIMIT)?)?;
    if images.is_empty() {
        return Err(LoadError::Invalid {
            member: MANIFEST_JSON.to_owned(),
            reason: "it lists no image".to_owned(),
        });
    }
    images
        .into_iter()
        .map(|image| docker_image(source, image))
        .collect()
}

pub(super) fn docker_image(source: &Source, docker: DockerImage) -> Result<Found, LoadError> {
    let config_bytes = source.read(&docker.config, CONFIG_LIMIT)?;
    // Docker names the configuration by its digest; other tools may not.
    let base = docker.config.rsplit('/').next().unwrap_or_default();
    if let Ok(expected) = Digest::from_hex(base.trim_end_matches(".json")) {
        verify(&docker.config, &expected, &Digest::of(&config_bytes))?;
    }
    let config: ImageConfig = json(&docker.config, &config_bytes)?;
    let members = docker.layers.unwrap_or_default();
    let diff_ids = &config.rootfs.diff_ids;
    if members.len() != diff_ids.len() {
        return Err(LoadError::Invalid {
            member: docker.config,
            reason: format!(
                "it has {} diff IDs, {MANIFEST_JSON} {} layers",
                diff_ids.len(),
                members.len()
            ),
        });
    }
    let layers = members
        .into_iter()
        .zip(diff_ids)
        .map(|(member, diff_id)| FoundLayer {
            diff_id: *diff_id,
            member,
            blob: None,
        })
        .collect();
    let names = docker
        .repo_tags
        .iter()
        .flatten()
        .filter_map(|text| names::tagged(text));
    Ok(Found {
        manifest: None,
        names: names.collect(),
        config,
        config_bytes,
        layers,
    })
}

/// Layers that were read and verified, and wait to be published.
pub(super) type Staged = BTreeMap<DiffId, (WorkDir, Written)>;

/// Reads and verifies the layers of an image that the store lacks.
pub(super) fn stage(
    store: &Store,
    source: &mut Source,
    image: &Found,
    staged: &mut Staged,
) -> Result<(), LoadError> {
    for layer in &image.layers {
        let blob_is_there = layer.kept_blob().is_none_or(|blob| store.has_blob(&blob.digest));
        if staged.contains_key(&layer.diff_id) {
            continue;
        }
        if store.has_layer(&layer.diff_id) && blob_is_there {
            // What is there was verified when it came; the archive must be a whole one all the same. Opening the
            // layer keeps it from a prune by another process.
            if !source.has(&layer.member) {
                let member = layer.member.clone();
                return Err(LoadError::Missing { member });
            }
            store.layer(&layer.diff_id)?;
            continue;
        }
        let ready = match source.arrived(&layer.member) {
            Some(Kept::Layer(tried)) => take(tried, layer)?,
            Some(Kept::Stored { digest, size }) => read_stored(store, layer, *digest, *size)?,
            Some(Kept::Bytes(_)) | None => read_layer(store, source, layer)?,
        };
        staged.insert(layer.diff_id, ready);
    }
    Ok(())
}

/// The layer that a member has become.
fn take(tried: &mut Tried, layer: &FoundLayer) -> Result<(WorkDir, Written), LoadError> {
    if let Some(blob) = &layer.blob {
        verify_blob(layer, blob, tried.size, &tried.digest)?;
    }
    let member = layer.member.clone();
    match tried.take() {
        Some(Ok((work, written))) => {
            verify(&member, &layer.diff_id.0, &written.diff_id.0)?;
            Ok((work, written))
        }
        Some(Err(source)) => Err(LoadError::Layer { member, source }),
        None => Err(LoadError::Invalid {
            member,
            reason: "it stands for two layers with different digests".to_owned(),
        }),
    }
}

fn verify_blob(layer: &FoundLayer, blob: &Descriptor, size: u64, digest: &Digest) -> Result<(), LoadError> {
    if size != blob.size {
        return Err(LoadError::Size {
            member: layer.member.clone(),
            expected: blob.size,
            found: size,
        });
    }
    verify(&layer.member, &blob.digest, digest)
}

/// The layer of a member that is a blob of the store.
fn read_stored(
    store: &Store,
    layer: &FoundLayer,
    digest: Digest,
    size: u64,
) -> Result<(WorkDir, Written), LoadError> {
    if let Some(blob) = &layer.blob {
        verify_blob(layer, blob, size, &digest)?;
    }
    ingest_layer(store, layer, Hashing::new(&mut store.open_blob(&digest)?))
}

fn read_layer(store: &Store, source: &Source, layer: &FoundLayer) -> Result<(WorkDir, Written), LoadError> {
    let reader = match &layer.blob {
        Some(blob) => source.open_blob(&blob.digest, blob.size)?,
        None => Hashing::new(source.open(&layer.member)?.0),
    };
    ingest_layer(store, layer, reader)
}

fn ingest_layer(
    store: &Store,
    layer: &FoundLayer,
    mut reader: Hashing<impl Read>,
) -> Result<(WorkDir, Written), LoadError> {
    let error = |source| LoadError::read(&layer.member, source);
    let work = store.work_dir()?;
    let written = ingest(&mut decompress(&mut reader).map_err(error)?, work.path());
    // What the decompressor left unread belongs to the blob's digest, which explains a bad layer better than
    // whatever the decompressor made of it.
    io::copy(&mut reader, &mut io::sink()).map_err(error)?;
    let (_, digest, _) = reader.finish();
    if let Some(blob) = &layer.blob {
        verify(&layer.member, &blob.digest, &digest)?;
    }
    let written = written.map_err(|source| LoadError::Layer {
        member: layer.member.clone(),
        source,
    })?;
    verify(&layer.member, &layer.diff_id.0, &written.diff_id.0)?;
    Ok((work, written))
}

/// Writes the blobs of an image whose layers are in the store, and names it.
pub(super) fn publish(store: &Store, source: &Source, found: Found) -> Result<Loaded, LoadError> {
    for blob in found.layers.iter().filter_map(FoundLayer::kept_blob) {
        if !store.has_blob(&blob.digest) {
            source.publish_blob(store, blob)?;
        }
    }
    let config_digest = store.put_blob(&found.config_bytes)?;
    let (manifest, manifest_bytes) = match found.manifest {
        Some((_, bytes, manifest)) => (manifest, bytes),
        None => {
            let manifest =
                uncompressed_manifest(store, &found.config, config_digest, found.config_bytes.len())?;
            let bytes = image::to_json(&manifest);
            (manifest, bytes)
        }
    };
    let manifest_digest = store.put_blob(&manifest_bytes)?;
    store.add_image(&manifest_digest)?;
    for name in &found.names {
        store.tag(&name.to_string(), &manifest_digest)?;
    }
    Ok(Loaded {
        image: Image {
            manifest_digest,
            manifest,
            config: found.config,
        },
        names: found.names,
    })
}

fn uncompressed_manifest(
    store: &Store,
    config: &ImageConfig,
    digest: Digest,
    size: usize,
) -> Result<Manifest, LoadError> {
    let mut layers = Vec::new();
    for id in &config.rootfs.diff_ids {
        layers.push(Descriptor::new(
            OCI_LAYER,
            id.0,
            store.layer(id)?.index().tar_size(),
        ));
    }
    Ok(Manifest::new(
        Descriptor::new(OCI_CONFIG, digest, size as u64),
        layers,
    ))
}
