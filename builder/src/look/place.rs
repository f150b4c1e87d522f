//! Which tree a person means: that of an image, of one of its layers, of a step of a build, or of a layer alone.

use std::sync::Arc;

use mica_fs::digest::DiffId;
use mica_fs::layer::Layer;
use mica_fs::store::{Store, StoreError};

use super::Stack;
use super::instruction::{self, Instruction};
use crate::image::{Image, ImageError};
use crate::ledger::LedgerError;
use crate::ledger::find::{self, FindError};

/// Between an image and the number of one of its layers: `app@layer:3`.
const LAYER: &str = "@layer:";

/// A tree, by its layers.
pub struct Place {
    /// The layers.
    pub stack: Stack,
    /// What each of them comes from, bottom layer first.
    pub instructions: Vec<Instruction>,
}

/// Why a text names no tree.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// There is no such step.
    #[error(transparent)]
    Step(#[from] FindError),
    /// The image has no layer of that number.
    #[error("{image} has no layer {wanted}: it has {count}")]
    Layer {
        /// The image as it was named.
        image: String,
        /// What was asked for.
        wanted: String,
        /// How many it has.
        count: usize,
    },
    /// The records of builds cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PlaceError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Step(error) => error.hint(),
            Self::Ledger(error) => error.hint(),
            Self::Layer { image, .. } => Some(format!(
                "`mica diff {image}` lists the layers; 1 is the lowest one, and 0 stands for the empty image"
            )),
            Self::Store(_) => None,
        }
    }
}

impl Place {
    /// What `text` means: an image; `IMAGE@layer:N`, its tree when it had N layers; `IMAGE@STEP`, that after a step of its
    /// build ([`find`]); or the diff ID of a layer, which is then looked at alone.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn find(store: &Store, text: &str) -> Result<Self, PlaceError> {
        if let Some((name, number)) = text.rsplit_once(LAYER) {
            return Self::layers_of(store, name, number);
        }
        if let Some((build, step)) = find::split(text) {
            let found = find::step(store, build, step)?;
            return Ok(Self {
                stack: Stack::new(found.layers(store)?),
                instructions: instruction::of_step(store, &found)?,
            });
        }
        match Image::find(store, text) {
            Ok(image) => Self::image(store, &image, usize::MAX),
            Err(error) => match text.parse().map(DiffId) {
                Ok(id) if store.has_layer(&id) => Ok(Self {
                    stack: Stack::open(store, &[id])?,
                    instructions: vec![Instruction::default()],
                }),
                _ => Err(error.into()),
            },
        }
    }

    /// The tree of an image that is not in the store, of these layers, which are all it has.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn elsewhere(store: &Store, image: &Image, layers: Vec<Arc<Layer>>) -> Result<Self, PlaceError> {
        Ok(Self {
            instructions: instruction::of_image(store, image)?,
            stack: Stack::new(layers),
        })
    }

    fn layers_of(store: &Store, name: &str, number: &str) -> Result<Self, PlaceError> {
        let image = Image::find(store, name)?;
        let count = image.layers().len();
        let height = number.parse().ok().filter(|height| *height <= count);
        let Some(height) = height else {
            return Err(PlaceError::Layer {
                image: name.to_owned(),
                wanted: number.to_owned(),
                count,
            });
        };
        Self::image(store, &image, height)
    }

    /// The tree of the lowest `height` layers.
    fn image(store: &Store, image: &Image, height: usize) -> Result<Self, PlaceError> {
        let layers = image.layers().get(..height).unwrap_or(image.layers());
        let mut instructions = instruction::of_image(store, image)?;
        instructions.truncate(layers.len());
        Ok(Self {
            stack: Stack::open(store, layers)?,
            instructions,
        })
    }

    /// What the layer of that number comes from; 1 is the lowest one.
    pub fn instruction(&self, layer: usize) -> Instruction {
        let told = layer
            .checked_sub(1)
            .and_then(|index| self.instructions.get(index));
        told.cloned().unwrap_or_default()
    }
}
