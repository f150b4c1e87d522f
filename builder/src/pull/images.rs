//! The images of the store, and those that registries have for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;

use super::{Naming, Pull, PullError};
use crate::build::StoreImages;
use crate::image::{Image, ImageError, Platform};
use crate::plan::FindImage;
use crate::reference::Reference;

/// When an image is pulled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum When {
    /// Always: what its registry has counts.
    Always,
    /// If the store has none of that name.
    #[default]
    Missing,
    /// Never.
    Never,
}

/// The images of the store, and those that registries have for it.
pub struct Images<'a> {
    pull: Pull<'a>,
    when: When,
    /// What was pulled already. A name means one image throughout a build.
    known: RefCell<BTreeMap<(String, String), Image>>,
}

impl<'a> Images<'a> {
    /// Images that are pulled by `pull`.
    pub fn new(pull: Pull<'a>, when: When) -> Self {
        Self {
            pull,
            when,
            known: RefCell::default(),
        }
    }

    fn pulled(&self, reference: &Reference, platform: &Platform) -> Result<Image, PullError> {
        let pull = Pull {
            platform: Some(platform.clone()),
            ..self.pull
        };
        // A name is the machine's own image to everybody else.
        let naming = match platform.suits(&Platform::host()) {
            true => Naming::Named,
            false => Naming::Unnamed,
        };
        Ok(pull.pull(reference, naming)?.image)
    }

    /// Whether the store's own image is the one that is meant.
    fn stored(&self, name: &str, platform: &Platform) -> bool {
        match Image::find(self.pull.store, name) {
            Ok(image) => image.config.platform().suits(platform),
            // What cannot be read is to be told.
            Err(error) => !matches!(error, ImageError::Unknown { .. }),
        }
    }
}

impl FindImage for Images<'_> {
    fn find(&self, name: &str, platform: &Platform) -> Result<Image, (String, Option<String>)> {
        let in_store = || StoreImages(self.pull.store).find(name, platform);
        let Ok(reference) = Reference::parse(name) else {
            return in_store();
        };
        let key = (reference.stored(), platform.to_string());
        if let Some(image) = self.known.borrow().get(&key) {
            return Ok(image.clone());
        }
        match self.when {
            When::Never => return in_store(),
            When::Missing if self.stored(name, platform) => return in_store(),
            When::Missing | When::Always => {}
        }
        match self.pulled(&reference, platform) {
            Ok(image) => {
                self.known.borrow_mut().insert(key, image.clone());
                Ok(image)
            }
            Err(error) => {
                let near = in_store().err().and_then(|(_, hint)| hint);
                let near = near.filter(|hint| hint.starts_with("did you mean"));
                Err((in_words(name, &error), near.or(error.hint())))
            }
        }
    }
}

/// An error with its causes, on a line.
fn in_words(name: &str, error: &PullError) -> String {
    let mut text = format!("cannot pull {name}: {error}");
    let mut cause = error.source();
    while let Some(inner) = cause {
        let told = inner.to_string();
        if !text.ends_with(&told) {
            text = format!("{text}: {told}");
        }
        cause = inner.source();
    }
    text
}
