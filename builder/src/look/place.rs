//! Which tree a person means: that of an image, of one of its layers, or of a layer alone.

use mica_fs::digest::DiffId;
use mica_fs::store::{Store, StoreError};

use crate::image::{Image, ImageError};

/// Between an image and the number of one of its layers: `app@layer:3`.
const LAYER: &str = "@layer:";

/// A tree, by its layers.
#[derive(Clone, PartialEq, Debug)]
pub struct Place {
    /// The layers, bottom layer first.
    pub layers: Vec<DiffId>,
    /// The image that they are of, which may have more of them; `None` for a layer alone.
    pub image: Option<Image>,
}

/// Why a text names no tree.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// There is no such image.
    #[error(transparent)]
    Image(#[from] ImageError),
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PlaceError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Image(error) => error.hint(),
            Self::Layer { image, .. } => Some(format!(
                "`mica diff {image}` lists the layers; 1 is the lowest one, and 0 stands for the empty image"
            )),
            Self::Store(_) => None,
        }
    }
}

impl Place {
    /// What `text` means: an image; `IMAGE@layer:N`, its tree when it had N layers; or the diff ID of a layer, which is
    /// then looked at alone.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn find(store: &Store, text: &str) -> Result<Self, PlaceError> {
        if let Some((name, number)) = text.rsplit_once(LAYER) {
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
            return Ok(Self {
                layers: image.layers()[..height].to_vec(),
                image: Some(image),
            });
        }
        match Image::find(store, text) {
            Ok(image) => Ok(Self {
                layers: image.layers().to_vec(),
                image: Some(image),
            }),
            Err(error) => match text.parse().map(DiffId) {
                Ok(id) if store.has_layer(&id) => Ok(Self {
                    layers: vec![id],
                    image: None,
                }),
                _ => Err(error.into()),
            },
        }
    }
}
