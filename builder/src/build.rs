//! A build from a parsed Dockerfile to an image in the store.

use mica_fs::store::Store;

use crate::dockerfile::{Dockerfile, ParseError};
use crate::epoch::Epoch;
use crate::graph::Graph;
use crate::image::{Image, ImageConfig, ImageError, Platform};
use crate::leak::Leak;
use crate::ledger::BuildResult;
use crate::lint::Linter;
use crate::plan::{self, FindImage, Request};
use crate::product::Product;
use crate::solver::{BuildError, Solver, StepError};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile, or an image that it names.
    #[error("{0}")]
    Dockerfile(ParseError),
    /// A step.
    #[error(transparent)]
    Step(#[from] BuildError),
    /// A secret that the image's configuration would tell.
    #[error(transparent)]
    Leak(Leak),
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Builds the image that `dockerfile` describes. Its blobs are in the store, which does not list it yet. The linter hears
/// of what is built, and may forbid it. What the Dockerfile takes as given is asked of `images`. The solver's ledger goes into the store.
///
/// # Errors
/// [`Error`]; what the steps before the failed one gave stays in the cache.
pub fn build(
    dockerfile: &Dockerfile,
    request: &Request,
    solver: &Solver<'_>,
    linter: &Linter<'_>,
    images: &dyn FindImage,
) -> Result<Product, Error> {
    let result = execute(dockerfile, request, solver, linter, images);
    let (outcome, image) = match &result {
        Ok(product) => (BuildResult::Built, Some(&product.image)),
        Err(Error::Step(error)) if matches!(*error.source, StepError::Stopped) => {
            (BuildResult::Stopped, None)
        }
        Err(_) => (BuildResult::Failed, None),
    };
    solver.ledger.close(outcome, image);
    result
}

fn execute(
    dockerfile: &Dockerfile,
    request: &Request,
    solver: &Solver<'_>,
    linter: &Linter<'_>,
    images: &dyn FindImage,
) -> Result<Product, Error> {
    let graph = plan::plan(dockerfile, request, images, linter).map_err(Error::Dockerfile)?;
    linter.verdict().map_err(Error::Dockerfile)?;
    let mut config = graph.stage(graph.target).config.clone();
    refuse_leaks(solver, &graph, &config)?;
    let built = solver.solve(&graph)?;
    config.created = built.created;
    config.history = built.history;
    config.rootfs.diff_ids = built.layers;
    let base = graph.root_image(graph.target);
    if let Some(epoch) = graph.epoch {
        date(
            &mut config,
            base.map_or(0, |base| base.config.history.len()),
            epoch,
        );
    }
    Ok(Product {
        image: Image::write(solver.store, config, base)?,
        base: base.cloned(),
        epoch: graph.epoch,
    })
}

/// Refuses a Dockerfile that would put a secret where everybody reads it.
fn refuse_leaks(solver: &Solver<'_>, graph: &Graph, config: &ImageConfig) -> Result<(), Error> {
    if solver.leaks.is_empty() {
        return Ok(());
    }
    solver.refuse_leaks(graph)?;
    let config = serde_json::to_value(config).unwrap_or_default();
    match solver.leaks.in_config(&config) {
        Some(leak) => Err(Error::Leak(leak)),
        None => Ok(()),
    }
}

/// Makes an image of `epoch`: its own history is of that time, and that of its base, the first `inherited` entries, is
/// no later.
fn date(config: &mut ImageConfig, inherited: usize, epoch: Epoch) {
    config.created = Some(epoch.to_string());
    for (i, entry) in config.history.iter_mut().enumerate() {
        match i < inherited {
            true => epoch.clamp_text(&mut entry.created),
            false => entry.created = Some(epoch.to_string()),
        }
    }
}

/// The images of the store.
pub struct StoreImages<'a>(pub &'a Store);

impl FindImage for StoreImages<'_> {
    fn find(&self, name: &str, platform: &Platform) -> Result<Image, (String, Option<String>)> {
        let image = Image::find(self.0, name).map_err(|e| (e.to_string(), e.hint()))?;
        let own = image.config.platform();
        match own.suits(platform) {
            true => Ok(image),
            false => Err((
                format!("the image {name} is for the platform {own}, not for {platform}"),
                Some(format!(
                    "bring in an image for {platform}, or leave --platform out"
                )),
            )),
        }
    }
}
