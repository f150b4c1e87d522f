//! Stages connected: what each stands on and takes files from, and which of them are needed at all.

use std::collections::{BTreeMap, BTreeSet};

use super::arguments::Arguments;
use super::evaluate::{Evaluated, Evaluator};
use super::from::{self, From};
use super::scope::Scope;
use super::{FindImage, NamedContext, Request, Survey, context_name};
use crate::dockerfile::mount;
use crate::dockerfile::{
    Dockerfile, InstructionKind, ParseError, RunFlag, RunFlagName, Span, Word, is_official_syntax, suggestion,
};
use crate::epoch::Epoch;
use crate::graph::{Base, CopyFrom, Graph, Stage, StageId};
use crate::image::{Image, ImageConfig, Platform, RunConfig};
use crate::lint::Linter;
use crate::lint::stage::Memory;

/// Why a stage can't be planned now.
pub(super) enum Halt {
    /// Another stage must be first.
    Needs(StageId),
    /// Never.
    Error(ParseError),
}

impl std::convert::From<ParseError> for Halt {
    fn from(error: ParseError) -> Self {
        Self::Error(error)
    }
}

/// What becomes of images that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// They are errors.
    Refused,
    /// Any configuration and content is possible.
    Assumed,
}

/// The stages planned so far.
pub(super) struct Planner<'a> {
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) request: &'a Request,
    pub(super) linter: &'a Linter<'a>,
    pub(super) arguments: Arguments,
    pub(super) froms: Vec<From>,
    images: &'a dyn FindImage,
    missing: Missing,
    /// The stages of each name, in small letters.
    names: BTreeMap<String, Vec<usize>>,
    planned: BTreeMap<StageId, Evaluated>,
}

/// What a stage begins with.
struct Beginning {
    base: Base,
    config: ImageConfig,
    scope: Scope,
    memory: Memory,
}

impl<'a> Planner<'a> {
    /// Evaluates the arguments before the first FROM, and every FROM.
    ///
    /// # Errors
    /// What is wrong with them, with the syntax directive, or with the order of the stages.
    pub(super) fn new(
        dockerfile: &'a Dockerfile,
        request: &'a Request,
        images: &'a dyn FindImage,
        linter: &'a Linter<'a>,
    ) -> Result<Self, ParseError> {
        check_syntax(dockerfile, request)?;
        let arguments = Arguments::new(dockerfile, request, &request.build_args)?;
        let froms = from::evaluate(dockerfile, request, &arguments, linter)?;
        let mut names = BTreeMap::<_, Vec<_>>::new();
        for (at, stage) in dockerfile.stages.iter().enumerate() {
            let name = stage.name.iter().map(|name| name.text.clone());
            name.for_each(|name| names.entry(name).or_default().push(at));
        }
        let planner = Self {
            dockerfile,
            request,
            linter,
            arguments,
            froms,
            images,
            missing: Missing::Refused,
            names,
            planned: BTreeMap::new(),
        };
        planner.check_cycles()?;
        Ok(planner)
    }

    /// The stages of the Dockerfile.
    pub(super) fn stages(&self) -> impl Iterator<Item = StageId> + use<> {
        (0..self.dockerfile.stages.len()).map(StageId)
    }

    /// The stage that is asked for: the last one, if none is.
    pub(super) fn target(&self) -> Result<StageId, ParseError> {
        let stages = &self.dockerfile.stages;
        let last = StageId(stages.len() - 1);
        let Some(wanted) = &self.request.target else {
            return Ok(last);
        };
        let by_number = || wanted.parse().ok().filter(|&n: &usize| n <= last.0).map(StageId);
        self.stage_named(wanted, stages.len())
            .or_else(by_number)
            .ok_or_else(|| {
                let names =
                    Vec::from_iter(stages.iter().filter_map(|s| Some(s.name.as_ref()?.text.as_str())));
                let error = ParseError::new(
                    stages[last.0].span,
                    format!("target stage {wanted:?} could not be found"),
                );
                error.with_hint(match suggestion(wanted, names.iter().copied()) {
                    Some(name) => format!("did you mean {name}?"),
                    None if names.is_empty() => {
                        "the Dockerfile names no stage: give one a name by `FROM … AS NAME`".to_owned()
                    }
                    None => format!("the stages are: {}", names.join(", ")),
                })
            })
    }

    /// Plans `target` and all that it needs.
    pub(super) fn plan(&mut self, target: StageId, missing: Missing) -> Result<(), ParseError> {
        self.missing = missing;
        let mut todo = Vec::from_iter(self.needed(target));
        // Triggers of a base image may need a stage that the Dockerfile does not say: then that one comes first.
        while let Some(&id) = todo.last() {
            if self.planned.contains_key(&id) {
                todo.pop();
                continue;
            }
            let mark = self.linter.mark();
            match self.stage(id) {
                Ok(planned) => drop(self.planned.insert(id, planned)),
                Err(Halt::Needs(other)) => {
                    self.linter.forget(mark);
                    todo.push(other);
                }
                Err(Halt::Error(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// The graph of what is planned.
    pub(super) fn finish(self, target: StageId, epoch: Option<Epoch>) -> Graph {
        let stages = self.planned.into_iter().map(|(id, planned)| (id, planned.stage));
        Graph {
            stages: stages.collect(),
            target,
            epoch,
        }
    }

    /// All that was found out.
    pub(super) fn survey(self, target: StageId) -> Survey {
        Survey {
            target,
            stages: self.planned,
            froms: self.froms,
            declared: self.arguments.declared,
        }
    }

    /// The stages that `target` needs as far as the Dockerfile says, itself included: the latest first.
    fn needed(&self, target: StageId) -> impl Iterator<Item = StageId> + use<> {
        let mut needed = BTreeSet::from([target]);
        let mut todo = vec![target];
        while let Some(id) = todo.pop() {
            // What comes later can't be taken from: `copy_from` says so.
            let earlier = self
                .references(id)
                .map(|(_, other)| other)
                .filter(|other| *other < id);
            todo.extend(earlier.filter(|other| needed.insert(*other)));
        }
        needed.into_iter().rev()
    }

    /// The stages that a stage names, earlier and later ones, and where it does.
    fn references(&self, id: StageId) -> impl Iterator<Item = (Span, StageId)> {
        let stage = &self.dockerfile.stages[id.0];
        let base = &self.froms[id.0].base;
        let below = self
            .named_context(base)
            .is_none()
            .then(|| self.stage_named(base, id.0))
            .flatten();
        let words = stage
            .instructions
            .iter()
            .flat_map(|instruction| match &instruction.kind {
                InstructionKind::Copy(copy) => {
                    Vec::from_iter(copy.from.iter().map(|word| (word.span, word.text.clone())))
                }
                InstructionKind::Run(run) => {
                    let mounts = run.flags.iter().filter(|flag| flag.name == RunFlagName::Mount);
                    let origin = |flag: &RunFlag| Some((flag.value.span, mount::origin(&flag.value.text)?));
                    mounts.filter_map(origin).collect()
                }
                _ => Vec::new(),
            });
        let named = words.filter_map(move |(span, name)| {
            let number = || {
                name.parse()
                    .ok()
                    .filter(|&n| n < self.dockerfile.stages.len())
                    .map(StageId)
            };
            let context = self.named_context(&name).is_some();
            let earlier = || self.stage_named(&name, id.0);
            let any = || self.stage_named(&name, self.dockerfile.stages.len());
            let other = (!context)
                .then(|| earlier().or_else(any).or_else(number))
                .flatten()?;
            Some((span, other))
        });
        below
            .map(|below| (stage.base.span, below))
            .into_iter()
            .chain(named)
    }

    /// No stage needs itself, whether it is needed or not.
    fn check_cycles(&self) -> Result<(), ParseError> {
        let references = |id| Vec::from_iter(self.references(id)).into_iter();
        let mut done = BTreeSet::new();
        for root in self.stages() {
            let mut path = vec![(root, references(root))];
            let mut on_path = BTreeSet::from([root]);
            while let Some((id, rest)) = path.last_mut() {
                let Some((span, other)) = rest.next() else {
                    on_path.remove(id);
                    done.insert(*id);
                    path.pop();
                    continue;
                };
                if on_path.contains(&other) {
                    let name = &self.dockerfile.stages[other.0].name;
                    let name = name
                        .as_ref()
                        .map_or_else(|| other.0.to_string(), |name| name.text.clone());
                    let error =
                        ParseError::new(span, format!("circular dependency: stage {name} needs itself"));
                    return Err(error.with_hint("a stage can take files from earlier stages only"));
                }
                if !done.contains(&other) {
                    on_path.insert(other);
                    path.push((other, references(other)));
                }
            }
        }
        Ok(())
    }

    fn stage(&self, id: StageId) -> Result<Evaluated, Halt> {
        let stage = &self.dockerfile.stages[id.0];
        let from = &self.froms[id.0];
        let begin = self.begin(id)?;
        let triggers = match begin.base {
            Base::Image(_) | Base::Stage(_) => begin.config.config.on_build.clone(),
            Base::Scratch | Base::Named(_) => Vec::new(),
        };
        let name = match &stage.name {
            Some(name) => name.text.clone(),
            None => format!("stage-{}", id.0),
        };
        let refresh = &self.request.refresh;
        let planned = Stage {
            refresh: refresh.iter().any(|wanted| wanted.eq_ignore_ascii_case(&name)),
            name,
            base: begin.base,
            text: format!("FROM {}", from.base),
            span: stage.span,
            steps: Vec::new(),
            config: begin.config,
        };
        let mut evaluator = Evaluator::new(self, id, planned, begin.scope, begin.memory);
        for trigger in triggers {
            evaluator.trigger(&trigger, stage.base.span)?;
        }
        for instruction in &stage.instructions {
            evaluator.instruction(instruction)?;
        }
        Ok(evaluator.finish())
    }

    fn begin(&self, id: StageId) -> Result<Beginning, Halt> {
        let (name, word) = (&self.froms[id.0].base, &self.dockerfile.stages[id.0].base);
        let platform = self.froms[id.0]
            .platform
            .clone()
            .unwrap_or_else(|| self.request.platform());
        let scratch = scratch_config(&platform);
        let named = match self.named_context(name) {
            Some((name, NamedContext::Directory)) => Some((Base::Named(name), scratch.clone())),
            Some((_, NamedContext::Image(image))) => self.image_base(image, word, &platform)?,
            None => None,
        };
        if named.is_none()
            && let Some(below) = self.stage_named(name, id.0)
        {
            let below_planned = self.planned.get(&below).ok_or(Halt::Needs(below))?;
            let config = below_planned.stage.config.clone();
            return Ok(Beginning {
                scope: Scope::begin(Some(&below_planned.scope), &variables(&config)),
                base: Base::Stage(below),
                config,
                memory: below_planned.memory.inherited(),
            });
        }
        let found = match named {
            Some(found) => Some(found),
            None if name == "scratch" => Some((Base::Scratch, scratch.clone())),
            None => self.image_base(name, word, &platform)?,
        };
        let open = found.is_none();
        let (base, mut config) = found.unwrap_or((Base::Scratch, scratch));
        if !config
            .config
            .env
            .iter()
            .any(|variable| variable.starts_with("PATH="))
        {
            config.config.env.push(default_path());
        }
        let mut scope = Scope::begin(None, &variables(&config));
        scope.open = open;
        Ok(Beginning {
            base,
            config,
            scope,
            memory: Memory::default(),
        })
    }

    /// An image as a base; `None` if it is not there and that does not matter.
    fn image_base(
        &self,
        name: &str,
        word: &Word,
        platform: &Platform,
    ) -> Result<Option<(Base, ImageConfig)>, ParseError> {
        match self.image(name, word.span, platform) {
            Ok(image) => {
                let config = image.config.clone();
                Ok(Some((Base::Image(Box::new(image)), config)))
            }
            Err(_) if self.missing == Missing::Assumed => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn image(&self, name: &str, span: Span, platform: &Platform) -> Result<Image, ParseError> {
        self.images.find(name, platform).map_err(|(message, hint)| {
            let error = ParseError::new(span, message);
            let stages = self
                .dockerfile
                .stages
                .iter()
                .filter_map(|s| Some(s.name.as_ref()?.text.as_str()));
            match (suggestion(name, stages), hint) {
                (Some(stage), _) => error.with_hint(format!("did you mean the stage {stage}?")),
                (None, Some(hint)) => error.with_hint(hint),
                (None, None) => error,
            }
        })
    }

    /// The latest stage of that name before stage `end`. Names don't differ by case.
    fn stage_named(&self, name: &str, end: usize) -> Option<StageId> {
        let stages = self.names.get(&name.to_lowercase())?;
        let before = stages.partition_point(|stage| *stage < end);
        stages.get(before.checked_sub(1)?).copied().map(StageId)
    }

    /// What the command line says that a name stands for, before stages and images: with the name that it is known
    /// by.
    fn named_context(&self, name: &str) -> Option<(String, &NamedContext)> {
        let known = context_name(name);
        let context = self.request.contexts.get(&known)?;
        Some((known, context))
    }

    /// What `--from` of COPY and `from` of a mount name in stage `id`: a context of the command line, a stage by name
    /// or number, or an image.
    pub(super) fn copy_from(&self, word: &Word, id: StageId) -> Result<CopyFrom, Halt> {
        let name = &word.text;
        match self.named_context(name) {
            Some((name, NamedContext::Directory)) => return Ok(CopyFrom::Named(name)),
            Some((_, NamedContext::Image(image))) => return Ok(self.copy_from_image(image, word.span)?),
            None => {}
        }
        if let Some(other) = self.stage_named(name, id.0) {
            return self.copy_from_stage(other);
        }
        if let Ok(number) = name.parse::<usize>() {
            if number < id.0 {
                return self.copy_from_stage(StageId(number));
            }
            let error = ParseError::new(
                word.span,
                format!("from={number}: there is no earlier stage of that number"),
            );
            return Err(Halt::Error(match id.0 {
                0 => error.with_hint("this is the first stage"),
                1 => error.with_hint("there is one before this: 0"),
                n => error.with_hint(format!("those before this are 0 to {}", n - 1)),
            }));
        }
        if self.stage_named(name, self.dockerfile.stages.len()).is_some() {
            let message = format!("from={name}: the stage comes later");
            let error = ParseError::new(word.span, message);
            return Err(error
                .with_hint("a stage can take files from earlier stages only")
                .into());
        }
        if name == "scratch" {
            // An empty image: nothing can be found in it.
            return Ok(CopyFrom::Image {
                name: name.clone(),
                layers: Vec::new(),
            });
        }
        Ok(self.copy_from_image(name, word.span)?)
    }

    fn copy_from_stage(&self, id: StageId) -> Result<CopyFrom, Halt> {
        match self.planned.contains_key(&id) {
            true => Ok(CopyFrom::Stage(id)),
            false => Err(Halt::Needs(id)),
        }
    }

    fn copy_from_image(&self, name: &str, span: Span) -> Result<CopyFrom, ParseError> {
        let layers = match self.image(name, span, &self.request.platform()) {
            Ok(image) => image.layers().to_vec(),
            Err(_) if self.missing == Missing::Assumed => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(CopyFrom::Image {
            name: name.to_owned(),
            layers,
        })
    }
}

/// The frontend that the Dockerfile asks for, or the build argument `BUILDKIT_SYNTAX`, is one that this one stands for.
fn check_syntax(dockerfile: &Dockerfile, request: &Request) -> Result<(), ParseError> {
    let given = request.build_args.get("BUILDKIT_SYNTAX");
    let (syntax, span) = match (given, &dockerfile.directives.syntax) {
        (Some(given), _) => (given, Span::default()),
        (None, Some(word)) => (&word.text, word.span),
        (None, None) => return Ok(()),
    };
    if is_official_syntax(syntax) {
        return Ok(());
    }
    let message = format!("the frontend {syntax} is not supported: only Docker's own language is");
    Err(ParseError::new(span, message)
        .with_hint("use docker/dockerfile:1, or leave the syntax directive out"))
}

/// The configuration of a stage that stands on nothing.
fn scratch_config(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: platform.os.clone(),
        config: RunConfig {
            env: vec![default_path()],
            working_dir: "/".to_owned(),
            ..RunConfig::default()
        },
        ..ImageConfig::default()
    }
}

fn default_path() -> String {
    format!("PATH={}", crate::sandbox::DEFAULT_PATH)
}

/// The variables of an image's configuration.
pub(super) fn variables(config: &ImageConfig) -> Vec<(String, String)> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (name.to_owned(), value.to_owned())
    };
    config.config.env.iter().map(pair).collect()
}
