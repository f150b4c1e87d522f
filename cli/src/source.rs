//! Images wherever they are: in the store or, for reading, in their registry.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mica_builder::image::{Image, ImageError, Platform};
use mica_builder::lazy::{LazyError, LazyImage, Notice};
use mica_builder::look::place::{Place, PlaceError};
use mica_builder::plan;
use mica_builder::reference::Reference;
use mica_builder::registry::Client;
use mica_fs::digest::Digest;
use mica_fs::layer::Layer;
use mica_fs::overlay::{Follow, Overlay};
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use crate::diagnostic::hint;
use crate::registries::Options;
use crate::render;

/// An image that can be read.
pub enum Source {
    /// It is in the store.
    Stored(Box<Image>),
    /// It is in its registry, and read there.
    Remote(Box<LazyImage>),
}

/// How an image is reached that the store lacks.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Elsewhere {
    /// The platform of an image that is read in its registry: OS[/ARCH[/VARIANT]] [default: this machine's]
    #[arg(long, value_name = "PLATFORM", value_parser = platform, help_heading = "Registry options")]
    platform: Option<Platform>,

    #[command(flatten)]
    registry: Options,
}

fn platform(text: &str) -> Result<Platform, String> {
    plan::platform(text).map_err(|error| error.to_string())
}

impl Elsewhere {
    /// The image that a person means by `text`: one of the store or, if that has none of this name and of the platform
    /// that is asked for, of a registry. What can only be an ID, or is no name, is looked for in the store alone.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn image(&self, store: &Store, text: &str) -> anyhow::Result<Source> {
        match Image::find(store, text) {
            Ok(image) if self.is_other(&image) => self.read(text),
            Ok(image) => Ok(Source::Stored(Box::new(image))),
            Err(error) => self.remote(text, error.into()),
        }
    }

    /// What `text` names besides ([`Place`]); an image in a registry with all its layers, which are read there.
    ///
    /// # Errors
    /// If there is no such image, or a layer is damaged.
    pub fn place(&self, store: &Store, text: &str) -> anyhow::Result<Place> {
        let source = match self.stored(store, text)? {
            Ok(place) => return Ok(place),
            Err(source) => source,
        };
        let count = source.image().layers().len();
        let layers = source.layers(store, 0..count)?;
        Ok(Place::elsewhere(store, source.image(), layers)?)
    }

    /// The place in the store, or else the image in its registry.
    ///
    /// # Errors
    /// If there is neither.
    pub fn stored(&self, store: &Store, text: &str) -> anyhow::Result<Result<Place, Source>> {
        if self.platform.is_some() && Image::find(store, text).is_ok_and(|image| self.is_other(&image)) {
            return self.read(text).map(Err);
        }
        match Place::find(store, text) {
            Ok(place) => Ok(Ok(place)),
            Err(error) => self.remote(text, error).map(Err),
        }
    }

    fn is_other(&self, image: &Image) -> bool {
        let suits = |wanted| image.config.platform().suits(wanted);
        self.platform.as_ref().is_some_and(|wanted| !suits(wanted))
    }

    /// The image of that name in its registry.
    fn read(&self, text: &str) -> anyhow::Result<Source> {
        let image = self.find(&Reference::parse(text)?)?.map_err(explain)?;
        Ok(found(image))
    }

    /// The same, after the store was found not to have it, with this error.
    ///
    /// # Errors
    /// That error if it says something else, or the text can be no name; else one that tells both.
    fn remote(&self, text: &str, error: PlaceError) -> anyhow::Result<Source> {
        let (PlaceError::Image(ImageError::Unknown { near, .. }), Some(reference)) = (&error, name(text))
        else {
            return Err(error.into());
        };
        match self.find(&reference)? {
            Ok(image) => Ok(found(image)),
            // One of the store was meant, and misspelt.
            Err(_) if !near.is_empty() => Err(error.into()),
            Err(remote) => Err(explain(remote).context(error.to_string())),
        }
    }

    fn find(&self, reference: &Reference) -> anyhow::Result<Result<LazyImage, LazyError>> {
        let client = Client::new(self.registry.settings()?, Arc::new(|| false));
        let host = Platform::host();
        let platform = self.platform.as_ref().unwrap_or(&host);
        Ok(LazyImage::find(&client, reference, platform))
    }
}

fn found(image: LazyImage) -> Source {
    tell(&format!(
        "reading {} from {}",
        image.reference().familiar(),
        image.registry()
    ));
    Source::Remote(Box::new(image))
}

impl Source {
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
        let passes = Passes::default();
        match self {
            Self::Stored(image) => Ok(store.layers(&image.layers()[numbers])?),
            Self::Remote(remote) => remote
                .layers(store, numbers, &|notice| passes.show(notice))
                .map_err(explain),
        }
    }

    /// Its tree; in a registry only as much of it as shows what lies at these paths.
    ///
    /// # Errors
    /// If a layer cannot be read.
    pub fn tree_for(&self, store: &Store, paths: &[(ImagePath, Follow)]) -> anyhow::Result<Overlay> {
        let passes = Passes::default();
        match self {
            Self::Stored(image) => Ok(Overlay::read_only(store.layers(image.layers())?)),
            Self::Remote(remote) => remote
                .tree_for(store, paths, &|notice| passes.show(notice))
                .map_err(explain),
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

/// The name that `text` is, if it can be one of an image in a registry.
fn name(text: &str) -> Option<Reference> {
    let is_id = text.len() >= 12 && text.bytes().all(|b| b.is_ascii_hexdigit());
    Reference::parse(text).ok().filter(|_| !is_id)
}

/// Adds the hint that an error has.
fn explain(error: LazyError) -> anyhow::Error {
    match error.hint() {
        Some(advice) => hint(error, advice),
        None => error.into(),
    }
}

/// Layers that are read from their beginning to their end, and how much of them has come.
#[derive(Default)]
struct Passes(Mutex<Passing>);

#[derive(Default)]
struct Passing {
    /// Done and all, in bytes.
    layers: BTreeMap<Digest, (u64, u64)>,
    last: Option<Instant>,
}

impl Passes {
    fn show(&self, notice: Notice) {
        let mut passing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match notice {
            Notice::Pass { layer, bytes } => {
                passing.layers.insert(layer, (0, bytes));
                passing.last = None;
                tell(&format!(
                    "{CLEAR}reading all of layer {} ({}) once, to know what is in it",
                    layer.short(),
                    render::size(bytes)
                ));
            }
            Notice::Passing { layer, done } => {
                if let Some(known) = passing.layers.get_mut(&layer) {
                    known.0 = done;
                }
                passing.draw();
            }
            Notice::NoRanges => {
                tell(&format!(
                    "{CLEAR}the registry gives whole layers only: they are taken into the store"
                ));
            }
        }
    }
}

impl Drop for Passes {
    /// Takes the line away that a pass which failed has left.
    fn drop(&mut self) {
        let passing = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        passing.layers.clear();
        if passing.last.is_some() {
            passing.draw();
        }
    }
}

/// To the beginning of the line, and nothing behind (ECMA-48: CR, EL).
const CLEAR: &str = "\r\x1b[K";
/// How often a line is drawn at most.
const TICK: Duration = Duration::from_millis(100);

impl Passing {
    /// One line that is drawn over and over; it goes when all is done.
    fn draw(&mut self) {
        let sum = |of: fn(&(u64, u64)) -> u64| self.layers.values().map(of).sum::<u64>();
        let (done, all) = (sum(|layer| layer.0), sum(|layer| layer.1));
        let text = match done >= all {
            true => CLEAR.to_owned(),
            false if self.last.is_some_and(|last| last.elapsed() < TICK) => return,
            false => format!("{CLEAR}{} of {}", render::size(done), render::size(all)),
        };
        self.last = Some(Instant::now());
        if io::stderr().is_terminal() {
            // Nobody reads it if stderr is closed.
            let _ = write!(io::stderr(), "{text}");
        }
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
