//! Where the steps of a build take files from: contexts, stages and images.

use mica_fs::digest::DiffId;
use mica_fs::path::ImagePath;
use serde_json::{Value, json};

use super::{At, Built, Progress, Solver, StepError, Subject};
use crate::event::{Outcome, StepNumber};
use crate::graph::{CopyFrom, Stage};
use crate::ignore::Ignore;
use crate::op::copy::{CopyError, Sources};
use crate::origin::{BuildContext, Origin};
use crate::tree::ImageTree;

impl Solver<'_> {
    /// Opens what a COPY or a mount takes its files from; waits for a stage that is not yet built.
    pub(super) fn origin(&self, from: &CopyFrom, progress: &Progress) -> Result<Origin<'_>, StepError> {
        Ok(match from {
            CopyFrom::Context => self.context_origin(self.context, "the build context".to_owned())?,
            CopyFrom::Named(name) => {
                self.context_origin(self.named(name)?, format!("the build context {name}"))?
            }
            CopyFrom::Stage(id) => {
                let layers = progress.wait(*id)?.layers;
                Origin::layers(self.image_tree(&layers)?, layers, "the stage it comes from")
            }
            CopyFrom::Image { name, layers } => {
                let place = format!("the image {name}");
                Origin::layers(self.image_tree(layers)?, layers.clone(), place)
            }
        })
    }

    fn context_origin<'c>(&self, context: &'c BuildContext, place: String) -> Result<Origin<'c>, StepError> {
        Ok(match context {
            BuildContext::Directory(directory) => Origin::directory(directory, place),
            BuildContext::Layers(layers) => Origin::layers(self.image_tree(layers)?, layers.clone(), place),
        })
    }

    fn named(&self, name: &str) -> Result<&BuildContext, StepError> {
        let named = self.contexts.get(name);
        named.ok_or_else(|| StepError::NoContext(name.to_owned()))
    }

    /// What a FROM of files stands on: the layers that they are in, or one of a directory's.
    pub(super) fn named_base(
        &self,
        number: StepNumber,
        name: &str,
        stage: &Stage,
        progress: &Progress,
    ) -> Result<(Built, Outcome), StepError> {
        let directory = match self.named(name)? {
            BuildContext::Directory(directory) => directory,
            BuildContext::Layers(layers) => {
                let layers = layers.clone();
                return Ok((
                    Built {
                        layers,
                        ..Built::default()
                    },
                    Outcome::Cached,
                ));
            }
        };
        let exclude = Ignore::default();
        let sources = Sources::one(&**directory, "/", &exclude, name)?;
        let inputs = json!({ "sources": sources.digest().map_err(CopyError::from)? });
        let at = At {
            number,
            built: &Built::default(),
            policy: self.policy,
            stage,
            text: &stage.text,
            following: &[],
            probing: false,
            progress,
        };
        let subject = Subject {
            kind: "context",
            inputs,
            resolve: &|| Ok(Value::Null),
        };
        let (record, outcome) = self.cached(at, &subject, || {
            let rootfs = self.rootfs(&[], Vec::new())?;
            sources.place_whole(rootfs.overlay(), &ImagePath::root())?;
            self.commit(rootfs)
        })?;
        let built = Built {
            layers: record.layer.into_iter().collect(),
            ..Built::default()
        };
        Ok((built, outcome))
    }

    pub(super) fn image_tree(&self, layers: &[DiffId]) -> Result<ImageTree, StepError> {
        Ok(ImageTree::new(self.store.layers(layers)?))
    }
}
