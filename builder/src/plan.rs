//! From a Dockerfile to the build graph: stages connected, variables replaced, configuration computed. Nothing
//! of this needs a step to have run, so every mistake that can be found before the first step is.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::{self, Dockerfile, ParseError, ValueError, Word};
use crate::epoch::{Epoch, SOURCE_DATE_EPOCH};
use crate::graph::{ExtraHost, Graph, Mount, Network, StageId};
use crate::image::{Image, Platform};
use crate::lint::Linter;
use crate::reference::Reference;
use crate::sandbox::Limits;

mod arguments;
mod evaluate;
mod from;
mod history;
mod mounts;
mod planner;
mod scope;
mod sources;
#[cfg(test)]
mod tests;

pub(crate) use arguments::description;
pub use arguments::unknown_arguments;
use planner::{Missing, Planner};

/// What the user asks of a build, apart from the Dockerfile.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// `--build-arg`; a name without a value takes it from the environment, and is left out if unset there.
    pub build_args: BTreeMap<String, String>,
    /// `--target`.
    pub target: Option<String>,
    /// `--label`, set on the result.
    pub labels: BTreeMap<String, String>,
    /// `--network`.
    pub network: Option<Network>,
    /// `--add-host`.
    pub hosts: Vec<ExtraHost>,
    /// `--volume`: what every RUN sees.
    pub volumes: Vec<Mount>,
    /// `--shm-size`, `--ulimit`, `--cgroup-parent`.
    pub limits: Limits,
    /// `--allow`.
    pub allow: BTreeSet<Entitlement>,
    /// The time of the build context, for `SOURCE_DATE_EPOCH=context`: that of a commit. A directory has none.
    pub context_time: Option<Epoch>,
    /// `--platform`; the host's if it is left out.
    pub platform: Option<Platform>,
    /// `--no-cache-filter`: names of stages whose steps are executed whatever the cache holds.
    pub refresh: BTreeSet<String>,
    /// `--build-context`: what FROM and `from` call by these names ([`context_name`]).
    pub contexts: BTreeMap<String, NamedContext>,
}

/// What a step may not do unless the command line allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `security.insecure`: `RUN --security=insecure`.
    Insecure,
}

/// What a name of the command line stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// A directory, which the solver has under the same name.
    Directory,
    /// The image of this name.
    Image(String),
}

/// The form under which a named context is known, so that `docker.io/library/alpine:latest` in a Dockerfile finds the
/// context `alpine`.
pub fn context_name(name: &str) -> String {
    let Ok(reference) = Reference::parse(&name.to_lowercase()) else {
        return name.to_lowercase();
    };
    let familiar = reference.familiar();
    match familiar.strip_suffix(":latest") {
        Some(bare) => bare.to_owned(),
        None => familiar,
    }
}

impl Request {
    fn platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }
}

/// Reads the name of a platform, as `--platform` has it: `linux/amd64`, `arm64`.
///
/// # Errors
/// If it is none.
pub fn platform(text: &str) -> Result<Platform, ValueError> {
    let parsed = dockerfile::parse_platform(text)?;
    let mut platform = Platform::host();
    platform.variant = parsed.variant;
    platform.os = parsed.os;
    platform.architecture = parsed.architecture;
    Ok(platform)
}

/// Finds an image by its name, as FROM and COPY --from have it. The error's text and hint are shown at the
/// instruction.
pub trait FindImage {
    /// The image `name` for `platform`.
    ///
    /// # Errors
    /// A message and perhaps a hint.
    fn find(&self, name: &str, platform: &Platform) -> Result<Image, (String, Option<String>)>;
}

/// Plans a build: what the target needs. The linter hears of what is planned.
///
/// # Errors
/// The first mistake, with its place in the Dockerfile.
pub fn plan(
    dockerfile: &Dockerfile,
    request: &Request,
    images: &dyn FindImage,
    linter: &Linter<'_>,
) -> Result<Graph, ParseError> {
    linter.text(dockerfile);
    let mut planner = Planner::new(dockerfile, request, images, linter)?;
    let epoch = epoch(dockerfile, request, &planner.arguments.values)?;
    let target = planner.target()?;
    planner.plan(target, Missing::Refused)?;
    let mut graph = planner.finish(target, epoch);
    if let Some(stage) = graph.stages.get_mut(&target) {
        stage.config.config.labels.extend(request.labels.clone());
    }
    Ok(graph)
}

/// Asks the linter of every stage, or of those that the target needs if one is given. Images need not be there: what
/// is unknown because of that is not reported.
///
/// # Errors
/// The first mistake that would make a build fail.
pub fn check(
    dockerfile: &Dockerfile,
    request: &Request,
    images: &dyn FindImage,
    linter: &Linter<'_>,
) -> Result<(), ParseError> {
    linter.text(dockerfile);
    let mut planner = Planner::new(dockerfile, request, images, linter)?;
    match &request.target {
        Some(_) => planner.plan(planner.target()?, Missing::Assumed),
        None => planner
            .stages()
            .try_for_each(|id| planner.plan(id, Missing::Assumed)),
    }
}

/// What is known of a target and the stages that it needs.
pub(crate) struct Survey {
    pub(crate) target: StageId,
    pub(crate) stages: BTreeMap<StageId, evaluate::Evaluated>,
    /// Every FROM of the Dockerfile.
    pub(crate) froms: Vec<from::From>,
    /// The arguments before the first FROM.
    pub(crate) declared: BTreeMap<String, arguments::GlobalArgument>,
}

/// Plans a build without asking for images that are not there.
pub(crate) fn survey(
    dockerfile: &Dockerfile,
    request: &Request,
    images: &dyn FindImage,
    linter: &Linter<'_>,
) -> Result<Survey, ParseError> {
    let mut planner = Planner::new(dockerfile, request, images, linter)?;
    let target = planner.target()?;
    planner.plan(target, Missing::Assumed)?;
    Ok(planner.survey(target))
}

/// The time that the build takes for now: that of `--build-arg`, or else that of an ARG before the first FROM.
fn epoch(
    dockerfile: &Dockerfile,
    request: &Request,
    globals: &BTreeMap<String, String>,
) -> Result<Option<Epoch>, ParseError> {
    let given = request.build_args.get(SOURCE_DATE_EPOCH);
    match given
        .or_else(|| globals.get(SOURCE_DATE_EPOCH))
        .map(String::as_str)
    {
        None | Some("") => Ok(None),
        Some("context") => Ok(request.context_time),
        Some(text) => Epoch::parse(text).map(Some).map_err(|error| {
            let lines = dockerfile.global_args.iter().flat_map(|line| &line.args);
            let own = lines
                .map(|arg| &arg.name)
                .find(|name| name.text == SOURCE_DATE_EPOCH);
            ParseError::new(
                own.map_or(dockerfile.stages[0].span, |name| name.span),
                error.to_string(),
            )
        }),
    }
}

fn expand(
    word: &Word,
    env: &dyn dockerfile::Environment,
    escape: dockerfile::Escape,
) -> Result<dockerfile::Expanded, ParseError> {
    dockerfile::expand_word(&word.text, escape, env).map_err(|e| ParseError::new(word.span, e.to_string()))
}
