//! Manifests and tags of a repository.

use std::fmt;
use std::io::Read as _;

use mica_fs::digest::Digest;
use serde::Deserialize;

use super::session::Call;
use super::{Endpoint, RegistryError, Repository};
use crate::http::{Again, Failed, HttpError, Method, Response, retry};
use crate::image::{MANIFEST_LIMIT, MediaTypes, OCI_INDEX};
use crate::reference::Reference;

/// How many pages of tags are asked for.
const MAX_PAGES: usize = 1000;
/// The largest page of tags, in bytes.
const PAGE_LIMIT: u64 = 4 << 20;

/// What a manifest is called in its repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManifestName<'a> {
    /// By a tag, which may become another's.
    Tag(&'a str),
    /// By its digest.
    Digest(Digest),
}

impl<'a> ManifestName<'a> {
    /// The one that a reference means: a digest, if it has one, else a tag.
    pub fn of(reference: &'a Reference) -> Self {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => Self::Digest(digest),
            // A reference has one of both.
            (None, tag) => Self::Tag(tag.unwrap_or("latest")),
        }
    }
}

impl fmt::Display for ManifestName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A manifest or an index, as a registry gave it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchedManifest {
    /// What it is: as it says itself, or as the registry says.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

impl FetchedManifest {
    /// Tells what the bytes are: as they say themselves, or as the registry says. What could be two things is none
    /// (CVE-2021-41190).
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of(bytes: Vec<u8>, content_type: &str) -> Result<Self, String> {
        Ok(Self {
            media_type: media_type(&bytes, content_type)?,
            digest: Digest::of(&bytes),
            bytes,
        })
    }
}

/// The fields that tell what a manifest is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    schema_version: Option<serde_json::Number>,
    media_type: Option<String>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl Repository {
    /// Fetches a manifest or an index; of all kinds, so that what cannot be used can be named.
    ///
    /// # Errors
    /// [`RegistryError`]; [`RegistryError::Digest`] if it is not the one that was asked for.
    pub fn manifest(&self, name: ManifestName<'_>) -> Result<FetchedManifest, RegistryError> {
        self.first(|endpoint| {
            self.whole(|| {
                let response = self.ask_manifest(endpoint, Method::Get, name, &[])?;
                self.read_manifest(name, response)
            })
        })
    }

    /// The digest of a manifest, if the repository has it; nothing is transferred.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn manifest_digest(&self, name: ManifestName<'_>) -> Result<Option<Digest>, RegistryError> {
        let response = self.ask_manifest(self.origin(), Method::Head, name, &[404])?;
        if response.status == 404 {
            return Ok(None);
        }
        let stated = response.header("docker-content-digest");
        if let Some(digest) = stated.and_then(|text| text.parse().ok()) {
            return Ok(Some(digest));
        }
        // Not every registry says it.
        self.manifest(name).map(|manifest| Some(manifest.digest))
    }

    /// Asks again for an answer that breaks off.
    fn whole<T>(&self, ask: impl Fn() -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let stopped = || self.client().is_stopped();
        retry(&stopped, || {
            ask().map_err(|error| Failed {
                again: match error.is_broken_off() {
                    true => Again::Patiently,
                    false => Again::Never,
                },
                error: Box::new(error),
                pause: None,
            })
        })
    }

    fn about(&self, name: ManifestName<'_>) -> String {
        match name {
            ManifestName::Tag(tag) => format!("the manifest of {}:{tag}", self.name()),
            ManifestName::Digest(digest) => format!("the manifest of {}@{digest}", self.name()),
        }
    }

    fn ask_manifest(
        &self,
        endpoint: &Endpoint,
        method: Method,
        name: ManifestName<'_>,
        accepted: &[u16],
    ) -> Result<Response, RegistryError> {
        let (path, about) = (format!("manifests/{name}"), self.about(name));
        let mut call = Call::new(method, &path, &about);
        call.accepted = accepted;
        let (oci, docker) = (MediaTypes::Oci, MediaTypes::Docker);
        let kinds = [oci.index(), docker.index(), oci.manifest(), docker.manifest()];
        call.headers
            .push(("accept", kinds.map(str::to_owned).join(", ") + ", */*;q=0.1"));
        self.call_at(endpoint, &mut call)
    }

    fn read_manifest(
        &self,
        name: ManifestName<'_>,
        response: Response,
    ) -> Result<FetchedManifest, RegistryError> {
        let about = self.about(name);
        let server = response.url.host.clone();
        let stated = response.header("docker-content-digest").map(str::to_owned);
        let content_type = response.header("content-type").unwrap_or_default();
        let content_type = content_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let bytes = read(response, MANIFEST_LIMIT, &about)?;
        let found = Digest::of(&bytes);
        let expected = match name {
            ManifestName::Digest(digest) => Some(digest),
            // A digest by another algorithm cannot be checked.
            ManifestName::Tag(_) => stated.and_then(|text| text.parse().ok()),
        };
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(RegistryError::Digest {
                about,
                server,
                expected,
                found,
            });
        }
        FetchedManifest::of(bytes, &content_type).map_err(|reason| RegistryError::Protocol {
            about,
            server,
            reason,
        })
    }

    /// All tags of the repository, in the registry's order.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn tags(&self) -> Result<Vec<String>, RegistryError> {
        self.first(|endpoint| self.tags_at(endpoint))
    }

    fn tags_at(&self, endpoint: &Endpoint) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let about = format!("the tags of {}", self.name());
        let mut tags = Vec::new();
        let mut query = "?n=1000".to_owned();
        for _ in 0..MAX_PAGES {
            let path = format!("tags/list{query}");
            let (server, next, body) = self.whole(|| {
                let response = self.call_at(endpoint, &mut Call::new(Method::Get, &path, &about))?;
                let server = response.url.host.clone();
                // RFC 8288: <URL>; rel="next". Only the query differs.
                let next = response.header("link").and_then(|link| {
                    let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
                    let query = url.split_once('?')?.1;
                    rest.contains("next").then(|| format!("?{query}"))
                });
                Ok((server, next, read(response, PAGE_LIMIT, &about)?))
            })?;
            let page: Page = serde_json::from_slice(&body).map_err(|e| RegistryError::Protocol {
                about: about.clone(),
                server,
                reason: e.to_string(),
            })?;
            tags.extend(page.tags.unwrap_or_default());
            match next {
                Some(next) if next != query => query = next,
                _ => break,
            }
        }
        Ok(tags)
    }
}

fn media_type(bytes: &[u8], content_type: &str) -> Result<String, String> {
    let kind: Kind = serde_json::from_slice(bytes).map_err(|e| format!("it is no manifest: {e}"))?;
    if kind.layers.is_some() && kind.manifests.is_some() {
        return Err("it is a manifest and an index at once".to_owned());
    }
    if kind
        .schema_version
        .is_some_and(|version| version.as_u64() == Some(1))
    {
        return Ok("application/vnd.docker.distribution.manifest.v1+json".to_owned());
    }
    let stated = kind.media_type.filter(|text| !text.is_empty());
    let of_content = match (kind.manifests.is_some(), content_type.contains("manifest")) {
        (_, true) => content_type.to_owned(),
        (true, false) => OCI_INDEX.to_owned(),
        (false, false) => MediaTypes::Oci.manifest().to_owned(),
    };
    Ok(stated.unwrap_or(of_content))
}

/// Reads an answer of at most `limit` bytes.
pub(super) fn read(response: Response, limit: u64, about: &str) -> Result<Vec<u8>, RegistryError> {
    let server = response.url.host.clone();
    let mut bytes = Vec::new();
    let mut reader = response.into_reader().take(limit + 1);
    match reader.read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= limit => Ok(bytes),
        Ok(_) => Err(RegistryError::Protocol {
            about: about.to_owned(),
            server,
            reason: format!("it has more than {limit} bytes"),
        }),
        Err(source) => Err(HttpError::Body {
            url: about.to_owned(),
            bytes: bytes.len() as u64,
            source,
        }
        .into()),
    }
}
