//! One image out of an archive or a layout, which may hold several.

use std::collections::BTreeMap;
use std::io::Read;

use mica_fs::digest::{Digest, Hashing};
use mica_fs::store::Store;

use super::docker::{DockerImage, MANIFEST_JSON};
use super::load::{
    INDEX_DEPTH, Staged, choose, docker_image, group_by_name, json, oci_image, publish, stage,
};
use super::source::{Source, blob_name};
use super::{Input, LoadError, load, names};
use crate::image::{
    self, CONFIG_LIMIT, Descriptor, Image, Index, MANIFEST_LIMIT, Manifest, OCI_CONFIG, OCI_LAYER, Platform,
};
use crate::reference::Reference;
use crate::registry::FetchedManifest;

/// What is meant by a name within an archive.
enum Picked {
    /// The entries of a layout's index for one image: several of them are for several platforms.
    Oci(Vec<Descriptor>),
    /// An image of a docker-archive.
    Docker(DockerImage),
}

/// Loads the image `which` of an archive for `platform`, this machine's without one. It gets no name, and stays until a
/// prune. `which` is a name, a tag, `@` and the image's number (the first is 0), or a digest; without it there must be one
/// image only.
///
/// # Errors
/// [`LoadError`]; no image was added, then.
pub fn load_one(
    store: &Store,
    input: Input<'_>,
    which: Option<&str>,
    platform: Option<&Platform>,
) -> Result<Image, LoadError> {
    let mut source = load::open(store, input)?;
    let mut found = match pick(&source, which)? {
        Picked::Docker(image) => docker_image(&source, image)?,
        Picked::Oci(entries) => {
            let wanted = platform.cloned().unwrap_or_else(Platform::host);
            let entries: Vec<&Descriptor> = entries.iter().collect();
            oci_image(&source, choose(&source, &entries, &wanted, INDEX_DEPTH)?, None)?
        }
    };
    found.names.clear();
    let own = found.config.platform();
    if let Some(wanted) = platform.filter(|wanted| !own.suits(wanted)) {
        let (wanted, available) = (wanted.to_string(), own.to_string());
        return Err(LoadError::Platform { wanted, available });
    }
    let mut staged = Staged::new();
    stage(store, &mut source, &found, &mut staged)?;
    for (work, written) in staged.into_values() {
        store.publish_layer(work, &written)?;
    }
    Ok(publish(store, &source, found)?.image)
}

/// An image in an archive, to be read without a store.
pub(crate) struct Archived {
    source: Source,
    top: FetchedManifest,
    /// The members that are blobs under another name than a layout gives them.
    members: BTreeMap<Digest, String>,
    is_made_up: bool,
}

impl Archived {
    /// Finds the image `which`: a name, a tag, `@` and the image's number (the first is 0), or a digest; the only one
    /// there is without it. A stream is taken in to its end.
    pub(crate) fn open(input: Input<'_>, which: Option<&str>) -> Result<Self, LoadError> {
        let source = match input {
            Input::Path(path) => Source::open_path(path)?,
            Input::Stream(stream) => Source::spool(stream)?,
        };
        match pick(&source, which)? {
            Picked::Docker(image) => Self::docker(source, image),
            Picked::Oci(entries) => Ok(Self {
                top: top(&source, entries)?,
                source,
                members: BTreeMap::new(),
                is_made_up: false,
            }),
        }
    }

    /// An image of a docker-archive, with a manifest, which such archives do not have.
    fn docker(source: Source, image: DockerImage) -> Result<Self, LoadError> {
        let config_member = image.config.clone();
        let found = docker_image(&source, image)?;
        let config = Digest::of(&found.config_bytes);
        let config_size = found.config_bytes.len() as u64;
        let mut members = BTreeMap::from([(config, config_member)]);
        let mut layers = Vec::new();
        for layer in &found.layers {
            let descriptor = describe(&source, &layer.member, layer.diff_id.0)?;
            members.insert(descriptor.digest, layer.member.clone());
            layers.push(descriptor);
        }
        let manifest = Manifest::new(Descriptor::new(OCI_CONFIG, config, config_size), layers);
        let bytes = image::to_json(&manifest);
        Ok(Self {
            source,
            top: FetchedManifest {
                media_type: manifest.media_type().to_owned(),
                digest: Digest::of(&bytes),
                bytes,
            },
            members,
            is_made_up: true,
        })
    }

    /// The manifest or the index of the image.
    pub(crate) fn top(&self) -> &FetchedManifest {
        &self.top
    }

    /// Whether the archive has no manifest, so that [`Self::top`] is none that anybody knows.
    pub(crate) fn is_made_up(&self) -> bool {
        self.is_made_up
    }

    /// What an entry of the index stands for.
    pub(crate) fn manifest(&self, entry: &Descriptor) -> Result<FetchedManifest, LoadError> {
        manifest(&self.source, entry)
    }

    /// A blob's bytes. They are not verified.
    pub(crate) fn blob(&self, blob: &Descriptor) -> Result<Box<dyn Read + Send>, LoadError> {
        let layout_name = blob_name(&blob.digest);
        let member = self.members.get(&blob.digest).unwrap_or(&layout_name);
        let (content, found) = self.source.open(member)?;
        match found == blob.size {
            true => Ok(content),
            false => Err(LoadError::Size {
                member: member.clone(),
                expected: blob.size,
                found,
            }),
        }
    }
}

/// A layer of a docker-archive as a blob. Only of one that is compressed the digest has to be found out.
fn describe(source: &Source, member: &str, diff_id: Digest) -> Result<Descriptor, LoadError> {
    let read = |source| LoadError::read(member, source);
    let (mut content, size) = source.open(member)?;
    let mut start = Vec::new();
    (&mut content).take(6).read_to_end(&mut start).map_err(read)?;
    let suffix = match &start[..] {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
        _ => return Ok(Descriptor::new(OCI_LAYER, diff_id, size)),
    };
    let mut all = Hashing::new(start.chain(content));
    std::io::copy(&mut all, &mut std::io::sink()).map_err(read)?;
    let (_, digest, size) = all.finish();
    Ok(Descriptor::new(&format!("{OCI_LAYER}{suffix}"), digest, size))
}

fn top(source: &Source, mut entries: Vec<Descriptor>) -> Result<FetchedManifest, LoadError> {
    if let [only] = &entries[..] {
        return manifest(source, only);
    }
    // The name belongs to all of them.
    for entry in &mut entries {
        entry.annotations = None;
    }
    let bytes = image::to_json(&Index::new(entries));
    FetchedManifest::of(bytes, "").map_err(|reason| LoadError::Invalid {
        member: "index.json".to_owned(),
        reason,
    })
}

fn manifest(source: &Source, entry: &Descriptor) -> Result<FetchedManifest, LoadError> {
    let bytes = source.read_blob(&entry.digest, MANIFEST_LIMIT.max(CONFIG_LIMIT))?;
    FetchedManifest::of(bytes, &entry.media_type).map_err(|reason| LoadError::Invalid {
        member: blob_name(&entry.digest),
        reason,
    })
}

/// The images of an archive, with all that they are called.
fn list(source: &Source) -> Result<Vec<(Vec<String>, Picked)>, LoadError> {
    if source.has("index.json") {
        let index: Index = json("index.json", &source.read("index.json", MANIFEST_LIMIT)?)?;
        let groups = group_by_name(&index.manifests).into_iter().map(|group| {
            let names = group.iter().flat_map(|entry| {
                let annotated = [names::IMAGE_NAME, names::REF_NAME].map(|key| entry.annotation(key));
                annotated.into_iter().flatten().map(str::to_owned)
            });
            (names.collect(), Picked::Oci(group.into_iter().cloned().collect()))
        });
        return Ok(groups.collect());
    }
    if source.has(MANIFEST_JSON) {
        let images: Vec<DockerImage> = json(MANIFEST_JSON, &source.read(MANIFEST_JSON, MANIFEST_LIMIT)?)?;
        let named = |image: DockerImage| (image.repo_tags.clone().unwrap_or_default(), Picked::Docker(image));
        return Ok(images.into_iter().map(named).collect());
    }
    Err(LoadError::NoManifest)
}

fn pick(source: &Source, which: Option<&str>) -> Result<Picked, LoadError> {
    let mut images = list(source)?;
    let available = || -> String {
        let names = list(source).unwrap_or_default().into_iter();
        let names: Vec<String> = names.filter_map(|(names, _)| names.into_iter().next()).collect();
        names.join(", ")
    };
    if let Some(number) = which.and_then(|which| which.strip_prefix('@')?.parse::<usize>().ok()) {
        return match number < images.len() {
            true => Ok(images.swap_remove(number).1),
            false => Err(LoadError::Unknown {
                which: format!("@{number}"),
                available: available(),
            }),
        };
    }
    if let Some(which) = which {
        images.retain(|(names, picked)| fits(names, picked, which));
    }
    // One image may have several names.
    let first = images.first().map(|(_, picked)| digests(picked));
    match (first, which) {
        (None, Some(which)) => Err(LoadError::Unknown {
            which: which.to_owned(),
            available: available(),
        }),
        (None, None) => Err(LoadError::NoManifest),
        (Some(first), _) if images.iter().any(|(_, other)| digests(other) != first) => {
            Err(LoadError::Several {
                available: available(),
            })
        }
        _ => Ok(images.swap_remove(0).1),
    }
}

/// What an image is, whatever it is called.
fn digests(picked: &Picked) -> Vec<String> {
    match picked {
        Picked::Oci(entries) => entries.iter().map(|entry| entry.digest.to_string()).collect(),
        Picked::Docker(image) => vec![image.config.clone()],
    }
}

/// Whether an image is meant by `which`: one of its names in any spelling, the tag of one, or its digest.
fn fits(names: &[String], picked: &Picked, which: &str) -> bool {
    let parsed = Reference::parse(which).ok();
    let is_name = |name: &String| {
        let tag = name.strip_suffix(which).is_some_and(|rest| rest.ends_with(':'));
        name == which || tag || parsed.is_some() && Reference::parse(name).ok() == parsed
    };
    let is_digest = |entry: &Descriptor| entry.digest.to_string() == which;
    names.iter().any(is_name) || matches!(picked, Picked::Oci(entries) if entries.iter().any(is_digest))
}
