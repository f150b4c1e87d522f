//! From a Dockerfile to the build graph: stages connected, variables replaced, configuration computed. Nothing
//! of this needs a step to have run, so every mistake that can be found before the first step is.

use std::collections::{BTreeMap, BTreeSet};

use crate::dockerfile::{self, Dockerfile, ParseError, Span, ValueError, Word};
use crate::epoch::{Epoch, SOURCE_DATE_EPOCH};
use crate::graph::{Base, CopyFrom, ExtraHost, Graph, Network, Stage, StageId};
use crate::image::{Image, ImageConfig, Platform, RunConfig};
use crate::reference::Reference;
use crate::sandbox::Limits;

mod evaluate;
mod history;
mod mounts;
#[cfg(test)]
mod tests;

use evaluate::Evaluator;

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

/// Plans a build.
///
/// # Errors
/// The first mistake, with its place in the Dockerfile.
pub fn plan(dockerfile: &Dockerfile, request: &Request, images: &dyn FindImage) -> Result<Graph, ParseError> {
    let target = target(dockerfile, request)?;
    let globals = globals(dockerfile, request, &stage_name(dockerfile, target))?;
    let epoch = epoch(dockerfile, request, &globals)?;
    let mut planner = Planner {
        dockerfile,
        request,
        images,
        globals,
        stages: Vec::new(),
    };
    // What comes after the target can't be needed by it, and need not even be right.
    for stage in &dockerfile.stages[..=target.0] {
        let planned = planner.stage(stage)?;
        planner.stages.push(planned);
    }
    let mut graph = Graph {
        stages: planner.stages,
        target,
        epoch,
    };
    let config = &mut graph.stages[target.0].config.config;
    config.labels.extend(request.labels.clone());
    Ok(graph)
}

fn target(dockerfile: &Dockerfile, request: &Request) -> Result<StageId, ParseError> {
    let last = StageId(dockerfile.stages.len() - 1);
    let Some(wanted) = &request.target else {
        return Ok(last);
    };
    let by_name = dockerfile.stages.iter().position(|stage| {
        stage
            .name
            .as_ref()
            .is_some_and(|name| name.text.eq_ignore_ascii_case(wanted))
    });
    let by_number = wanted.parse().ok().filter(|&n: &usize| n <= last.0);
    by_name.or(by_number).map(StageId).ok_or_else(|| {
        let names: Vec<_> = dockerfile
            .stages
            .iter()
            .filter_map(|s| s.name.as_ref())
            .map(|n| n.text.clone())
            .collect();
        let error = ParseError::new(
            dockerfile.stages[last.0].span,
            format!("target stage {wanted:?} could not be found"),
        );
        match names.is_empty() {
            true => error.with_hint("the Dockerfile names no stage: give one a name by `FROM … AS NAME`"),
            false => error.with_hint(format!("the stages are: {}", names.join(", "))),
        }
    })
}

fn stage_name(dockerfile: &Dockerfile, id: StageId) -> String {
    match &dockerfile.stages[id.0].name {
        Some(name) => name.text.clone(),
        None => format!("stage-{}", id.0),
    }
}

/// The arguments before the first FROM, and those that every build has.
fn globals(
    dockerfile: &Dockerfile,
    request: &Request,
    target: &str,
) -> Result<BTreeMap<String, String>, ParseError> {
    let mut globals = BTreeMap::new();
    for (prefix, platform) in [("BUILD", Platform::host()), ("TARGET", request.platform())] {
        globals.insert(format!("{prefix}PLATFORM"), platform.to_string());
        globals.insert(format!("{prefix}OS"), platform.os);
        globals.insert(format!("{prefix}ARCH"), platform.architecture);
        globals.insert(format!("{prefix}VARIANT"), platform.variant.unwrap_or_default());
    }
    globals.insert("TARGETSTAGE".to_owned(), target.to_owned());
    for arg in dockerfile.global_args.iter().flat_map(|line| &line.args) {
        let name = &arg.name.text;
        let given = request.build_args.get(name).cloned();
        let value = match (given, &arg.default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(expand(default, &globals, dockerfile)?),
            (None, None) => None,
        };
        if let Some(value) = value {
            globals.insert(name.clone(), value);
        }
    }
    Ok(globals)
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
    dockerfile: &Dockerfile,
) -> Result<String, ParseError> {
    expand_with(word, env, dockerfile.escape())
}

/// Replaces the variables of a word; an error shows the word.
fn expand_with(
    word: &Word,
    env: &dyn dockerfile::Environment,
    escape: dockerfile::Escape,
) -> Result<String, ParseError> {
    let expanded = dockerfile::expand_word(&word.text, escape, env);
    expanded
        .map(|e| e.text)
        .map_err(|e| ParseError::new(word.span, e.to_string()))
}

struct Planner<'a> {
    dockerfile: &'a Dockerfile,
    request: &'a Request,
    images: &'a dyn FindImage,
    globals: BTreeMap<String, String>,
    stages: Vec<Stage>,
}

impl Planner<'_> {
    fn stage(&self, stage: &dockerfile::Stage) -> Result<Stage, ParseError> {
        let id = StageId(self.stages.len());
        let base_name = expand(&stage.base, &self.globals, self.dockerfile)?;
        if base_name.is_empty() {
            return Err(ParseError::new(stage.base.span, "base name should not be empty")
                .with_hint("an ARG that FROM uses needs a default or --build-arg"));
        }
        let platform = self.platform(stage)?;
        let (base, config) = self.base(&base_name, stage.base.span, &platform)?;
        let triggers = match base {
            Base::Image(_) | Base::Stage(_) => config.config.on_build.clone(),
            Base::Scratch | Base::Named(_) => Vec::new(),
        };
        let mut evaluator = Evaluator::new(self, config);
        for trigger in triggers {
            let instruction = dockerfile::parse_trigger(trigger.as_bytes()).map_err(|e| {
                ParseError::new(
                    stage.base.span,
                    format!("ONBUILD {trigger} of {base_name}: {}", e.message),
                )
            })?;
            evaluator.instruction(&instruction)?;
        }
        for instruction in &stage.instructions {
            evaluator.instruction(instruction)?;
        }
        let (steps, config) = evaluator.finish();
        let name = stage_name(self.dockerfile, id);
        let refresh = &self.request.refresh;
        Ok(Stage {
            refresh: refresh.iter().any(|wanted| wanted.eq_ignore_ascii_case(&name)),
            name,
            base,
            text: format!("FROM {base_name}"),
            span: stage.span,
            steps,
            config,
        })
    }

    fn platform(&self, stage: &dockerfile::Stage) -> Result<Platform, ParseError> {
        let Some(word) = &stage.platform else {
            return Ok(self.request.platform());
        };
        let text = expand(word, &self.globals, self.dockerfile)?;
        if text.is_empty() {
            return Ok(self.request.platform());
        }
        platform(&text).map_err(|e| ParseError::new(word.span, e.to_string()))
    }

    fn base(&self, name: &str, span: Span, platform: &Platform) -> Result<(Base, ImageConfig), ParseError> {
        match self.named_context(name) {
            Some((name, NamedContext::Directory)) => {
                return Ok((Base::Named(name), scratch_config(platform)));
            }
            Some((_, NamedContext::Image(image))) => {
                let image = self.image(image, span, platform)?;
                let config = image.config.clone();
                return Ok((Base::Image(Box::new(image)), config));
            }
            None => {}
        }
        if let Some(id) = self.stage_named(name) {
            let config = self.stages[id.0].config.clone();
            return Ok((Base::Stage(id), config));
        }
        if name == "scratch" {
            return Ok((Base::Scratch, scratch_config(platform)));
        }
        let image = self.image(name, span, platform)?;
        let config = image.config.clone();
        Ok((Base::Image(Box::new(image)), config))
    }

    fn image(&self, name: &str, span: Span, platform: &Platform) -> Result<Image, ParseError> {
        self.images.find(name, platform).map_err(|(message, hint)| {
            let error = ParseError::new(span, message);
            match hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        })
    }

    /// The latest earlier stage of that name. Names don't differ by case.
    fn stage_named(&self, name: &str) -> Option<StageId> {
        let earlier = &self.dockerfile.stages[..self.stages.len()];
        let named = |stage: &dockerfile::Stage| {
            stage
                .name
                .as_ref()
                .is_some_and(|n| n.text.eq_ignore_ascii_case(name))
        };
        earlier.iter().rposition(named).map(StageId)
    }

    /// What the command line says that a name stands for, before stages and images: with the name that it is known
    /// by.
    fn named_context(&self, name: &str) -> Option<(String, &NamedContext)> {
        let known = context_name(name);
        let context = self.request.contexts.get(&known)?;
        Some((known, context))
    }

    /// What `--from` of COPY and `from` of a mount name: a context of the command line, a stage by name or number, or
    /// an image.
    fn copy_from(&self, word: &Word) -> Result<CopyFrom, ParseError> {
        let name = &word.text;
        match self.named_context(name) {
            Some((name, NamedContext::Directory)) => return Ok(CopyFrom::Named(name)),
            Some((_, NamedContext::Image(image))) => return self.copy_from_image(image, word.span),
            None => {}
        }
        if let Some(id) = self.stage_named(name) {
            return Ok(CopyFrom::Stage(id));
        }
        if let Ok(number) = name.parse::<usize>() {
            return match number < self.stages.len() {
                true => Ok(CopyFrom::Stage(StageId(number))),
                false => Err(ParseError::new(
                    word.span,
                    format!("from={number}: there is no earlier stage of that number"),
                )),
            };
        }
        let own = self.dockerfile.stages.iter().skip(self.stages.len());
        if own
            .filter_map(|s| s.name.as_ref())
            .any(|n| n.text.eq_ignore_ascii_case(name))
        {
            return Err(ParseError::new(
                word.span,
                format!("from={name}: circular dependency: the stage is this one or comes later"),
            )
            .with_hint("a stage can take files from earlier stages only"));
        }
        self.copy_from_image(name, word.span)
    }

    fn copy_from_image(&self, name: &str, span: Span) -> Result<CopyFrom, ParseError> {
        let image = self.image(name, span, &self.request.platform())?;
        Ok(CopyFrom::Image {
            name: name.to_owned(),
            layers: image.layers().to_vec(),
        })
    }
}

/// The configuration of a stage that stands on nothing.
fn scratch_config(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: RunConfig {
            env: vec![format!("PATH={}", crate::sandbox::DEFAULT_PATH)],
            working_dir: "/".to_owned(),
            ..RunConfig::default()
        },
        ..ImageConfig::default()
    }
}
