//! What a Dockerfile offers: its targets, and what a build of one can be given.

use std::collections::BTreeSet;

use crate::dockerfile::{Dockerfile, ParseError, Span};
use crate::graph::{MountKind, Op, StageId};
use crate::lint::Linter;
use crate::plan::{self, FindImage, Request, Survey};

/// A stage that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Whether it is built if none is asked for.
    pub is_default: bool,
    /// What the comment before FROM says of it.
    pub description: Option<String>,
    /// What it stands on, as written.
    pub base: String,
    /// The platform, as written.
    pub platform: Option<String>,
    /// Where FROM is.
    pub span: Span,
}

/// The stages of a Dockerfile, in its order.
pub fn targets(dockerfile: &Dockerfile) -> Vec<Target> {
    let stages = dockerfile.stages.iter().enumerate();
    let target = |(at, stage): (usize, &crate::dockerfile::Stage)| Target {
        name: stage.name.as_ref().map(|name| name.text.clone()),
        is_default: at + 1 == dockerfile.stages.len(),
        description: describe(stage),
        base: stage.base.text.clone(),
        platform: stage.platform.as_ref().map(|word| word.text.clone()),
        span: stage.span,
    };
    stages.map(target).collect()
}

fn describe(stage: &crate::dockerfile::Stage) -> Option<String> {
    plan::description(&stage.comments, &stage.name.as_ref()?.text)
}

/// What a build of a target can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline {
    /// The target's name, if it has one.
    pub name: Option<String>,
    /// What the comment before its FROM says.
    pub description: Option<String>,
    /// Build arguments, in the order of the file.
    pub arguments: Vec<Argument>,
    /// Secrets, likewise.
    pub secrets: Vec<Secret>,
    /// SSH agents, likewise.
    pub agents: Vec<Secret>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value in this build: that of the command line, or the default.
    pub value: Option<String>,
    /// What the comment before ARG says of it.
    pub description: Option<String>,
    /// Where ARG is.
    pub span: Span,
}

/// A secret, or a socket of an SSH agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// Where it is asked for first.
    pub span: Span,
}

/// The outline of the target that is asked for. Images need not be there.
///
/// # Errors
/// The first mistake that would make a build fail.
pub fn outline(
    dockerfile: &Dockerfile,
    request: &Request,
    images: &dyn FindImage,
) -> Result<Outline, ParseError> {
    let silent = Linter::silent();
    let planned = plan::survey(dockerfile, request, images, &silent)?;
    let stage = &dockerfile.stages[planned.target.0];
    let mut arguments = arguments(&planned);
    arguments.sort_by_key(|argument| argument.span.start);
    let secrets = asked_for(&planned, &|kind| match kind {
        MountKind::Secret(secret) => Some((&secret.id, secret.required)),
        _ => None,
    });
    let agents = asked_for(&planned, &|kind| match kind {
        MountKind::Ssh(agent) => Some((&agent.id, agent.required)),
        _ => None,
    });
    Ok(Outline {
        name: stage.name.as_ref().map(|name| name.text.clone()),
        description: describe(stage),
        arguments,
        secrets,
        agents,
    })
}

/// Those of the target go before those of the stages that it needs, and a stage's own before those from before the
/// first FROM.
fn arguments(planned: &Survey) -> Vec<Argument> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut globals = BTreeSet::new();
    let order = |id: &StageId| (*id != planned.target, *id);
    let mut ids = Vec::from_iter(planned.stages.keys());
    ids.sort_by_key(|id| order(id));
    for id in ids {
        for argument in &planned.stages[id].arguments {
            if argument.global {
                globals.insert(argument.name.clone());
            } else if seen.insert(argument.name.clone()) {
                found.push(Argument {
                    name: argument.name.clone(),
                    value: argument.value.clone(),
                    description: argument.description.clone(),
                    span: argument.span,
                });
            }
        }
        globals.extend(planned.froms[id.0].arguments.iter().cloned());
    }
    let mut todo = Vec::from_iter(globals.iter().cloned());
    while let Some(name) = todo.pop() {
        let needs = planned.declared.get(&name).map(|argument| &argument.needs);
        todo.extend(
            needs
                .into_iter()
                .flatten()
                .filter(|name| globals.insert((*name).clone()))
                .cloned(),
        );
    }
    for (name, argument) in &planned.declared {
        if globals.contains(name) && seen.insert(name.clone()) {
            found.push(Argument {
                name: name.clone(),
                value: argument.value.clone(),
                description: argument.description.clone(),
                span: argument.span,
            });
        }
    }
    found
}

/// What the mounts that `pick` picks ask for: ids, and whether they are required, in the order of the file.
fn asked_for(planned: &Survey, pick: &dyn Fn(&MountKind) -> Option<(&String, bool)>) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    let mut seen = BTreeSet::new();
    for step in planned.stages.values().flat_map(|stage| &stage.stage.steps) {
        let Op::Run(run) = &step.op else { continue };
        for (id, required) in run.mounts.iter().filter_map(|mount| pick(&mount.kind)) {
            if seen.insert(id) {
                found.push(Secret {
                    name: id.clone(),
                    required,
                    span: step.span,
                });
            }
        }
    }
    found.sort_by_key(|secret| secret.span.start);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, Platform};

    struct NoImages;

    impl FindImage for NoImages {
        fn find(&self, name: &str, _: &Platform) -> Result<Image, (String, Option<String>)> {
            Err((format!("no image {name}"), None))
        }
    }

    const TEXT: &str = "# VERSION is what is built\nARG VERSION=1\nARG BASE=debian:$VERSION\nARG UNUSED\n\
        # base has the compiler\nFROM $BASE AS base\nARG VERSION\nRUN --mount=type=secret,id=token,required=true x\n\
        FROM base AS other\nARG OTHER=1\n# app is the program\nFROM base AS app\n# MODE is fast or small\nARG MODE=fast \
        TARGETARCH\nRUN --mount=type=secret,id=key,env=K --mount=type=secret,id=token --mount=type=ssh x\n";

    #[test]
    fn targets_are_the_stages() {
        let dockerfile = crate::dockerfile::parse(TEXT.as_bytes()).expect("valid");
        let targets = targets(&dockerfile);
        let described: Vec<_> = targets
            .iter()
            .map(|t| (t.name.as_deref(), t.description.as_deref()))
            .collect();
        let expected = [
            (Some("base"), Some("has the compiler")),
            (Some("other"), None),
            (Some("app"), Some("is the program")),
        ];
        assert_eq!(described, expected);
        assert_eq!(
            (
                targets[0].base.as_str(),
                targets[0].is_default,
                targets[2].is_default
            ),
            ("$BASE", false, true)
        );
    }

    #[test]
    fn an_outline_has_what_the_target_needs() {
        let dockerfile = crate::dockerfile::parse(TEXT.as_bytes()).expect("valid");
        let request = Request {
            build_args: [("MODE".to_owned(), "small".to_owned())].into(),
            ..Request::default()
        };
        let outline = outline(&dockerfile, &request, &NoImages).expect("an outline");
        let arguments: Vec<_> = outline
            .arguments
            .iter()
            .map(|a| (a.name.as_str(), a.value.as_deref(), a.span.start.line))
            .collect();
        let expected = [
            ("VERSION", Some("1"), 2),
            ("BASE", Some("debian:1"), 3),
            ("MODE", Some("small"), 14),
        ];
        assert_eq!(arguments, expected);
        assert_eq!(
            outline.arguments[0].description.as_deref(),
            Some("is what is built")
        );
        let secrets: Vec<_> = outline
            .secrets
            .iter()
            .map(|s| (s.name.as_str(), s.required))
            .collect();
        assert_eq!(secrets, [("token", true), ("key", false)]);
        let agents: Vec<_> = outline.agents.iter().map(|agent| agent.name.as_str()).collect();
        assert_eq!(agents, ["default"]);
        assert_eq!(outline.description.as_deref(), Some("is the program"));
    }
}
