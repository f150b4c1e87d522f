//! Images from one place to another: between registries, archives, layouts and the store, without a pull.
//!
//! Blobs pass from the source to the sink as they arrive, their digests and sizes are checked on the way, and what the
//! sink has already does not pass. Nothing of them is kept: the store gets an image only if it is where the image goes.

use std::io::{self, Read, Write};
use std::path::PathBuf;

use mica_fs::digest::Digest;
use mica_fs::store::{Store, StoreError};

use crate::archive::{self, ArchiveFormat, Archived, Coding, Existing, Input, LoadError, SaveError, parts};
use crate::image::{self, Descriptor, Image, ImageConfig, ImageError, Index, MediaTypes, Platform};
use crate::pull::{self, Naming, Pull, PullError, PullEvent};
use crate::push::{self, Push, PushError, PushEvent};
use crate::reference::{InvalidReference, Reference};
use crate::registry::{Client, FetchedManifest, Reading, RegistryError, RemoteImageError, read};

mod files;
mod place;
mod registry;
mod sink;
mod source;
mod tool;

pub use place::{InvalidPlace, Place};
use sink::{Passage, Sink, Standing};
use source::Source;
pub use tool::Tool;

/// How deep indexes may be nested.
const DEPTH: u32 = 4;

/// Why an image could not be copied. What its name at the destination stood for, it stands for still.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What a registry or an archive has under the name.
    #[error(transparent)]
    Remote(#[from] RemoteImageError),
    /// An image of the store, or a manifest or configuration.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An archive cannot be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// An archive cannot be written.
    #[error(transparent)]
    Save(#[from] SaveError),
    /// An image of the store cannot be pushed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// An image cannot be pulled into the store.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name for the store.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A blob cannot be read, or is not what it should be.
    #[error("cannot copy the blob {digest}")]
    Blob {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        source: io::Error,
    },
    /// The image is for another platform than was asked for.
    #[error("{name} is for the platform {found}, not for {wanted}")]
    Platform {
        /// The image.
        name: String,
        /// The platform that was asked for.
        wanted: String,
        /// The image's own.
        found: String,
    },
    /// All platforms were asked for where there can be only one.
    #[error("{place} takes the image of one platform")]
    OnePlatform {
        /// The destination.
        place: String,
    },
    /// The digest was to stay.
    #[error("the digest of {name} cannot be preserved: {reason}")]
    Changed {
        /// The image.
        name: String,
        /// What changes.
        reason: &'static str,
    },
    /// A name with another digest than the image's.
    #[error("the image has the digest {found}, and cannot be pushed as {wanted}")]
    OtherDigest {
        /// The digest in the name.
        wanted: Digest,
        /// The image's.
        found: Digest,
    },
    /// Docker's media types have none for a layer.
    #[error("the layer {digest} is compressed by zstd, for which Docker's format has no name")]
    NoDockerType {
        /// The layer.
        digest: Digest,
    },
    /// An index without end.
    #[error("{name} is an index of indexes of indexes: more than {DEPTH} of them")]
    Nested {
        /// The image.
        name: String,
    },
    /// A directory with other files.
    #[error("{directory} is neither empty nor an OCI image layout")]
    NotALayout {
        /// The directory.
        directory: PathBuf,
    },
    /// What exports an image of another tool's store is not installed.
    #[error("cannot read {place}: there is no {programs}")]
    NoTool {
        /// The source.
        place: String,
        /// What is missing.
        programs: String,
    },
    /// It cannot be started.
    #[error("cannot run {command}")]
    NotStarted {
        /// The command.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// It failed.
    #[error("{command} failed ({status}): {complaint}")]
    Tool {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it said last.
        complaint: String,
    },
    /// Other tools' stores are read only.
    #[error("{place} can only be copied from")]
    OnlySource {
        /// The destination.
        place: String,
    },
    /// No store was opened.
    #[error("this needs the store")]
    NoStore,
}

impl CopyError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Registry(error) => error.hint(),
            Self::Remote(error) => error.hint(),
            Self::Image(ImageError::Unknown { text, .. }) => Some(format!(
                "what has no transport in front is a name in the store; in a registry it is docker://{text}"
            )),
            Self::Image(error) => error.hint(),
            Self::Load(error) => error.hint(),
            Self::Save(error) => error.hint(),
            Self::Push(error) => error.hint(),
            Self::Pull(error) => error.hint(),
            Self::Reference(error) => error.hint(),
            Self::OnePlatform { .. } => {
                Some("leave out --all, or copy to a registry or to oci:DIRECTORY".to_owned())
            }
            Self::OnlySource { .. } => Some(
                "pipe it: `mica save IMAGE | docker load`, or `mica save IMAGE | podman load`".to_owned(),
            ),
            Self::Changed { .. } => Some("leave out --preserve-digests".to_owned()),
            Self::NoDockerType { .. } => Some("leave out --format v2s2".to_owned()),
            _ => None,
        }
    }

    fn of_blob(digest: Digest, error: io::Error) -> Self {
        match error.downcast::<RegistryError>() {
            Ok(error) => error.into(),
            Err(error) => match error.downcast::<LoadError>() {
                Ok(error) => error.into(),
                Err(source) => Self::Blob { digest, source },
            },
        }
    }

    /// A blob that failed on its way into an archive: its own error counts.
    fn of_save(digest: Digest, error: SaveError) -> Self {
        match error {
            SaveError::Write { source, .. } if source.get_ref().is_some() => Self::of_blob(digest, source),
            error => error.into(),
        }
    }
}

/// What happens to a blob.
pub use crate::push::LayerState as BlobState;

/// One thing that happened.
#[derive(Clone, Debug)]
pub enum CopyEvent {
    /// A manifest's turn: the digests and sizes of its layers, bottom layer first.
    Begun(Digest, Vec<(Digest, u64)>),
    /// Something happened to a blob.
    Blob(Digest, BlobState),
    /// Out of the store into a registry.
    Push(PushEvent),
    /// Out of a registry into the store.
    Pull(PullEvent),
}

/// Takes events, from several threads at once.
pub type Listener<'a> = &'a (dyn Fn(CopyEvent) + Sync);

/// Which of the images of an index are copied.
#[derive(Clone, PartialEq, Debug)]
pub enum Platforms {
    /// That for this machine, if there is a choice.
    Host,
    /// That for this platform; what is no index must be for it.
    One(Platform),
    /// All, and the index.
    All,
}

/// Whether digests may change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Digests {
    /// Where the destination or an option asks for it.
    MayChange,
    /// Never.
    Stay,
}

/// stdin and stdout, for archives that come or leave by them.
pub struct Pipes<'a> {
    /// What an archive `-` is read from.
    pub input: &'a mut (dyn Read + Send),
    /// What an archive `-` is written to.
    pub output: &'a mut (dyn Write + Send),
}

/// How to copy.
pub struct Copy<'a> {
    /// The store, if one of the places is in it.
    pub store: Option<&'a Store>,
    /// How the source's registry is reached.
    pub source: &'a Client,
    /// How the destination's registry is reached.
    pub destination: &'a Client,
    /// Which images of an index.
    pub platforms: Platforms,
    /// Whose media types the copy has; those of the original if `None`.
    pub media_types: Option<MediaTypes>,
    /// Whether digests may change.
    pub digests: Digests,
    /// How layers are compressed that are pushed out of the store or a docker-archive.
    pub coding: Coding,
    /// Who hears of it.
    pub listener: Listener<'a>,
}

/// An image that was copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The digest of the manifest or the index at the destination.
    pub digest: Digest,
    /// Whether the destination had it under this name already.
    pub was_there: bool,
}

impl Copy<'_> {
    /// Copies an image.
    ///
    /// # Errors
    /// [`CopyError`].
    pub fn copy(&self, from: &Place, to: &Place, pipes: Pipes<'_>) -> Result<Copied, CopyError> {
        if self.platforms == Platforms::All && takes_one(to) {
            let place = to.to_string();
            return Err(CopyError::OnePlatform { place });
        }
        match (from, to) {
            (_, Place::Tool(..)) => Err(CopyError::OnlySource {
                place: to.to_string(),
            }),
            (_, Place::Store(name)) => self.take_in(from, name, pipes.input),
            (Place::Store(text), Place::Registry(name)) => self.push(text, name),
            _ => {
                let source = self.open(from, pipes.input)?;
                self.pass(&*source, &from.to_string(), to, pipes.output)
            }
        }
    }

    fn store(&self) -> Result<&Store, CopyError> {
        self.store.ok_or(CopyError::NoStore)
    }

    fn take_in(&self, from: &Place, name: &str, input: &mut dyn Read) -> Result<Copied, CopyError> {
        let (store, name) = (self.store()?, Reference::parse(name)?.stored());
        let platform = match &self.platforms {
            Platforms::One(platform) => Some(platform),
            Platforms::Host | Platforms::All => None,
        };
        let load =
            |input, which: &Option<String>| archive::load_one(store, input, which.as_deref(), platform);
        let image = match from {
            Place::Store(text) => Image::find(store, text)?,
            Place::Registry(reference) => self.pull(store, reference, platform)?,
            Place::Archive { file: None, name, .. } => load(Input::Stream(input), name)?,
            Place::Archive {
                file: Some(path),
                name,
                ..
            }
            | Place::Layout {
                directory: path,
                name,
            } => load(Input::Path(path), name)?,
            Place::Tool(tool, name) => tool.load(store, name, platform)?,
        };
        let digest = image.manifest_digest;
        let was_there = store.resolve(&name)? == Some(digest);
        store.tag(&name, &digest)?;
        Ok(Copied { digest, was_there })
    }

    fn pull(&self, store: &Store, name: &Reference, platform: Option<&Platform>) -> Result<Image, CopyError> {
        let pull = Pull {
            store,
            client: self.source,
            platform: platform.cloned(),
            jobs: pull::JOBS,
            listener: &|event| (self.listener)(CopyEvent::Pull(event)),
        };
        Ok(pull.pull(name, Naming::Unnamed)?.image)
    }

    fn push(&self, text: &str, name: &Reference) -> Result<Copied, CopyError> {
        let store = self.store()?;
        let image = Image::find(store, text)?;
        self.check_platform(text, &image.config)?;
        let listener = |event| (self.listener)(CopyEvent::Push(event));
        let coding = match self.digests {
            Digests::MayChange => self.coding,
            // What was made here leaves as the plain tars that its manifest names.
            Digests::Stay => Coding {
                compression: archive::Compression::None,
                existing: Existing::Keep,
                level: None,
            },
        };
        let own_types = MediaTypes::of(image.manifest.media_type());
        if self.digests == Digests::Stay && self.media_types.is_some_and(|types| types != own_types) {
            let (name, reason) = (text.to_owned(), "--format asks for another manifest");
            return Err(CopyError::Changed { name, reason });
        }
        let form = push::Form {
            media_types: self.media_types,
            ..coding.into()
        };
        let pushed = Push::new(store, self.destination, form, &listener).push(&image, name)?;
        Ok(Copied {
            digest: pushed.manifest.digest,
            was_there: pushed.was_there,
        })
    }

    fn check_platform(&self, name: &str, config: &ImageConfig) -> Result<(), CopyError> {
        let found = config.platform();
        match &self.platforms {
            Platforms::One(wanted) if !found.suits(wanted) => Err(CopyError::Platform {
                name: name.to_owned(),
                wanted: wanted.to_string(),
                found: found.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn open(&self, from: &Place, input: &mut dyn Read) -> Result<Box<dyn Source + '_>, CopyError> {
        Ok(match from {
            Place::Store(text) => {
                let store = self.store()?;
                Box::new(source::Stored::new(store, Image::find(store, text)?))
            }
            Place::Registry(reference) => Box::new(source::Remote::new(self.source, reference)?),
            Place::Archive { file: None, name, .. } => {
                Box::new(Archived::open(Input::Stream(input), name.as_deref())?)
            }
            Place::Archive {
                file: Some(path),
                name,
                ..
            }
            | Place::Layout {
                directory: path,
                name,
            } => Box::new(Archived::open(Input::Path(path), name.as_deref())?),
            Place::Tool(tool, name) => {
                Box::new(tool.export(name, |stream| Ok(Archived::open(Input::Stream(stream), None)?))?)
            }
        })
    }

    /// Lets an image pass from a source to a place that is not the store.
    fn pass(
        &self,
        source: &dyn Source,
        name: &str,
        to: &Place,
        output: &mut (dyn Write + Send),
    ) -> Result<Copied, CopyError> {
        let form = match to {
            Place::Archive {
                format: ArchiveFormat::Docker,
                ..
            } => Form::Plain,
            _ => Form::AsItIs,
        };
        let compresses =
            source.is_made_up() && matches!(to, Place::Registry(_)) && self.digests == Digests::MayChange;
        let passage = Passage {
            source,
            algorithm: self.coding.algorithm().filter(|_| compresses),
            listener: self.listener,
            stopped: &|| self.source.is_stopped() || self.destination.is_stopped(),
        };
        let transfer = |sink: &mut dyn Sink| {
            let mut transfer = Transfer {
                copy: self,
                name,
                form,
                passage: &passage,
                sink,
            };
            transfer.run()
        };
        match to {
            Place::Registry(name) => {
                let (image, was_there) =
                    transfer(&mut registry::Remote::new(self.destination, name, source)?)?;
                let digest = image.digest;
                Ok(Copied { digest, was_there })
            }
            Place::Layout { directory, name } => {
                let (_lock, index) = files::open_layout(directory)?;
                let mut sink = parts::Directory::begin(directory.clone())?;
                let files = files::Files::new(&mut sink, ArchiveFormat::Oci, name.as_deref()).with(index);
                write(files, transfer)
            }
            Place::Archive { format, file, name } => {
                let scratch = tempfile::tempdir().map_err(|source| LoadError::Spool { source })?;
                let mut copied = None;
                let mut fill = |out: &mut dyn Write| {
                    let mut sink = parts::Archive::begin(out, scratch.path())?;
                    let files = files::Files::new(&mut sink, *format, name.as_deref());
                    copied = Some(write(files, transfer)?);
                    Ok::<(), CopyError>(sink.end()?)
                };
                match file {
                    Some(path) => archive::save_packed(path, fill)?,
                    None => fill(output)?,
                }
                copied.ok_or(CopyError::NoStore)
            }
            Place::Store(_) | Place::Tool(..) => Err(CopyError::NoStore),
        }
    }
}

/// Whether a place takes no index.
fn takes_one(place: &Place) -> bool {
    match place {
        Place::Store(_) | Place::Tool(..) => true,
        Place::Archive { format, .. } => *format == ArchiveFormat::Docker,
        Place::Registry(_) | Place::Layout { .. } => false,
    }
}

/// Writes an image, then what lists it.
fn write(
    mut files: files::Files<'_>,
    transfer: impl FnOnce(&mut dyn Sink) -> Result<(Descriptor, bool), CopyError>,
) -> Result<Copied, CopyError> {
    let (image, was_there) = transfer(&mut files)?;
    let digest = image.digest;
    files.finish(image)?;
    Ok(Copied { digest, was_there })
}

/// In which form a destination takes layers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    AsItIs,
    /// As plain tars.
    Plain,
}

/// An image on its way.
struct Transfer<'a> {
    copy: &'a Copy<'a>,
    name: &'a str,
    form: Form,
    passage: &'a Passage<'a>,
    sink: &'a mut dyn Sink,
}

impl Transfer<'_> {
    /// Copies what the source's name stands for; returns what the destination's name stands for now, and whether it did
    /// before.
    fn run(&mut self) -> Result<(Descriptor, bool), CopyError> {
        let (chosen, platform) = self.choose(self.passage.source.top()?)?;
        if self.copy.media_types.is_none()
            && let Some(there) = self.sink.has(&chosen, self.passage)?
        {
            return Ok((there, true));
        }
        let mut sent = self.send(&chosen, Standing::Named, DEPTH)?;
        sent.platform = platform;
        Ok((sent, false))
    }

    /// What is wanted of an index.
    fn choose(&self, top: FetchedManifest) -> Result<(FetchedManifest, Option<Platform>), CopyError> {
        let host = Platform::host();
        let wanted = match &self.copy.platforms {
            Platforms::All => return Ok((top, None)),
            Platforms::Host => &host,
            Platforms::One(platform) => platform,
        };
        let (mut fetched, mut platform) = (top, None);
        for _ in 0..=DEPTH {
            if !is_index(&fetched) {
                self.check(&fetched)?;
                return Ok((fetched, platform));
            }
            let Reading::Index(digest) = read(self.name, &fetched, wanted)? else {
                break;
            };
            let entry = self.index(&fetched)?.manifests.into_iter();
            let entry = entry.into_iter().find(|entry| entry.digest == digest);
            let Some(entry) = entry else { break };
            platform.clone_from(&entry.platform);
            fetched = self.passage.source.manifest(&entry)?;
        }
        let name = self.name.to_owned();
        Err(CopyError::Nested { name })
    }

    /// Whether what is no index is for the platform that was asked for.
    fn check(&self, fetched: &FetchedManifest) -> Result<(), CopyError> {
        if !matches!(self.copy.platforms, Platforms::One(_)) {
            return Ok(());
        }
        let manifest = image::parse_manifest(fetched.digest, &fetched.bytes)?;
        let bytes = source::config(self.passage.source, &manifest.config)?;
        self.copy
            .check_platform(self.name, &image::parse_config(&manifest, &bytes)?)
    }

    fn send(
        &mut self,
        fetched: &FetchedManifest,
        standing: Standing,
        depth: u32,
    ) -> Result<Descriptor, CopyError> {
        let sent = match is_index(fetched) {
            true if depth == 0 => {
                let name = self.name.to_owned();
                return Err(CopyError::Nested { name });
            }
            true => self.send_index(fetched, depth)?,
            false => self.send_image(fetched)?,
        };
        if sent.digest != fetched.digest && self.copy.digests == Digests::Stay {
            return Err(self.changed("its manifest has to be another"));
        }
        self.sink.manifest(&sent, standing)?;
        Ok(registry::descriptor(&sent))
    }

    fn send_index(&mut self, fetched: &FetchedManifest, depth: u32) -> Result<FetchedManifest, CopyError> {
        let own = self.index(fetched)?;
        let mut index = own.clone();
        for entry in &mut index.manifests {
            if self.copy.media_types.is_none() && self.sink.has_listed(entry)? {
                continue;
            }
            let listed = self.passage.source.manifest(entry)?;
            let sent = self.send(&listed, Standing::Listed, depth - 1)?;
            if sent.digest != entry.digest {
                (entry.media_type, entry.digest, entry.size) = (sent.media_type, sent.digest, sent.size);
            }
        }
        let own_types = MediaTypes::of(&fetched.media_type);
        let types = self.copy.media_types.unwrap_or(own_types);
        if index == own && types == own_types {
            return Ok(fetched.clone());
        }
        index.media_type = Some(types.index().to_owned());
        Ok(made(types.index(), image::to_json(&index)))
    }

    fn send_image(&mut self, fetched: &FetchedManifest) -> Result<FetchedManifest, CopyError> {
        let manifest = image::parse_manifest(fetched.digest, &fetched.bytes)?;
        let own_types = MediaTypes::of(&fetched.media_type);
        // What is no image has no other words.
        let is_image =
            [MediaTypes::Oci.config(), MediaTypes::Docker.config()].contains(&&*manifest.config.media_type);
        let wanted = self.copy.media_types.filter(|_| is_image);
        if self.copy.digests == Digests::Stay {
            if wanted.is_some_and(|types| types != own_types) {
                return Err(self.changed("--format asks for another manifest"));
            }
            if self.form == Form::Plain
                && manifest
                    .layers
                    .iter()
                    .any(|layer| is_compressed(&layer.media_type))
            {
                return Err(self.changed("the layers of a docker-archive are not compressed"));
            }
        }
        let zstd = manifest
            .layers
            .iter()
            .find(|layer| layer.media_type.ends_with("zstd"));
        if let (Some(MediaTypes::Docker), Some(layer)) = (wanted, zstd) {
            let digest = layer.digest;
            return Err(CopyError::NoDockerType { digest });
        }
        let layers = manifest.layers.iter().map(|layer| (layer.digest, layer.size));
        (self.copy.listener)(CopyEvent::Begun(fetched.digest, layers.collect()));
        let layers = self.sink.blobs(&manifest, self.passage)?;
        let is_same = layers == manifest.layers;
        let types = wanted.unwrap_or(if is_same { own_types } else { MediaTypes::Oci });
        if is_same && types == own_types {
            return Ok(fetched.clone());
        }
        let rewritten = manifest.rewritten(layers, types);
        Ok(made(rewritten.media_type(), image::to_json(&rewritten)))
    }

    fn index(&self, fetched: &FetchedManifest) -> Result<Index, CopyError> {
        let failed = |error: serde_json::Error| ImageError::Invalid {
            what: "index",
            digest: fetched.digest,
            reason: error.to_string(),
        };
        Ok(serde_json::from_slice(&fetched.bytes).map_err(failed)?)
    }

    fn changed(&self, reason: &'static str) -> CopyError {
        let name = self.name.to_owned();
        CopyError::Changed { name, reason }
    }
}

fn made(media_type: &str, bytes: Vec<u8>) -> FetchedManifest {
    FetchedManifest {
        media_type: media_type.to_owned(),
        digest: Digest::of(&bytes),
        bytes,
    }
}

fn is_index(fetched: &FetchedManifest) -> bool {
    Descriptor::new(&fetched.media_type, fetched.digest, 0).is_index()
}

fn is_compressed(media_type: &str) -> bool {
    media_type.ends_with("gzip") || media_type.ends_with("zstd")
}
