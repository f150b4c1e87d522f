use std::collections::BTreeMap;

use mica_fs::digest::{DiffId, Digest};

use super::*;
use crate::graph::{Base, CopyFrom, Op};
use crate::image::{ImageConfig, Manifest};

/// Finds one image, `busybox`, with the configuration given.
struct Busybox(ImageConfig);

impl FindImage for Busybox {
    fn find(&self, name: &str, _: &Platform) -> Result<Image, (String, Option<String>)> {
        if name != "busybox" {
            return Err((format!("no image {name}"), Some("there is busybox".to_owned())));
        }
        let blob = crate::image::Descriptor::new("x", Digest::of(b"config"), 1);
        Ok(Image {
            manifest_digest: Digest::of(b"manifest"),
            manifest: Manifest::new(blob, Vec::new()),
            config: self.0.clone(),
        })
    }
}

fn busybox() -> Busybox {
    let mut config = ImageConfig::default();
    config.config.env = vec!["PATH=/bin".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    config.rootfs.diff_ids = vec![DiffId(Digest::of(b"layer"))];
    Busybox(config)
}

fn planned(text: &str, request: &Request, images: &Busybox) -> Result<Graph, ParseError> {
    let dockerfile = dockerfile::parse(text.as_bytes())?;
    plan(&dockerfile, request, images, &Linter::silent())
}

fn graph(text: &str) -> Graph {
    planned(text, &Request::default(), &busybox()).expect("a plan")
}

fn refused(text: &str) -> (u32, String) {
    let error = planned(text, &Request::default(), &busybox()).expect_err("a mistake");
    (error.span.start.line, error.message)
}

fn history(graph: &Graph) -> Vec<String> {
    let steps = &graph.stage(graph.target).steps;
    steps.iter().filter_map(|step| step.history.clone()).collect()
}

#[test]
fn history_texts_are_dockers() {
    let graph = graph(
        "FROM busybox\nARG A=1 B\nENV X=$A Y='a b'\nRUN echo $A\nRUN [\"ls\", \"/x y\"]\nSHELL [\"/bin/ash\", \"-c\"]\n\
         CMD run it\nENTRYPOINT []\nEXPOSE 53/udp 80\nVOLUME /a /b\nHEALTHCHECK --interval=5m --retries=2 CMD true\n\
         COPY --chown=1:2 a b /d/\nUSER ${X}\nONBUILD RUN later\nMAINTAINER some one\n",
    );
    assert_eq!(
        history(&graph),
        [
            "ARG A=1 B",
            "ENV X=1 Y=a b",
            "RUN |2 A=1 B= /bin/sh -c echo $A # buildkit",
            "RUN |2 A=1 B= ls /x y # buildkit",
            "SHELL [/bin/ash -c]",
            "CMD [\"/bin/ash\" \"-c\" \"run it\"]",
            "ENTRYPOINT []",
            "EXPOSE [53/udp 80/tcp]",
            "VOLUME [/a /b]",
            "HEALTHCHECK &{[\"CMD-SHELL\" \"true\"] \"5m0s\" \"0s\" \"0s\" \"0s\" '\\x02'}",
            "COPY --chown=1:2 a b /d/ # buildkit",
            "USER 1",
            "MAINTAINER some one",
        ]
    );
    let config = &graph.stage(graph.target).config;
    assert_eq!(config.config.env, ["PATH=/bin", "X=1", "Y=a b"]);
    assert_eq!(config.config.on_build, ["RUN later"]);
    assert_eq!(config.author.as_deref(), Some("some one"));
}

#[test]
fn an_entrypoint_drops_the_base_images_command_but_not_the_stages_own() {
    let inherited = graph("FROM busybox\nENTRYPOINT [\"e\"]\n");
    assert_eq!(inherited.stage(StageId(0)).config.config.cmd, None);
    let own = graph("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n");
    assert_eq!(
        own.stage(StageId(0)).config.config.cmd,
        Some(vec!["c".to_owned()])
    );
}

#[test]
fn variables_have_dockers_scopes() {
    let request = Request {
        build_args: BTreeMap::from([("GIVEN".to_owned(), "cli".to_owned())]),
        ..Request::default()
    };
    let text = "ARG G=global\nARG IMAGE=busybox\nFROM $IMAGE\nLABEL a=$G\nARG G\nARG GIVEN=default\nENV G2=$G\n\
                ENV abc=1\nENV abc=2 def=$abc\nLABEL b=$G c=$GIVEN d=$def\n";
    let graph = planned(text, &request, &busybox()).expect("a plan");
    let labels = &graph.stage(StageId(0)).config.config.labels;
    let label = |name: &str| labels.get(name).map(String::as_str);
    assert_eq!(
        (label("a"), label("b"), label("c")),
        (Some(""), Some("global"), Some("cli"))
    );
    // All of one ENV sees the values from before it.
    assert_eq!(label("d"), Some("1"));
}

#[test]
fn env_goes_before_arg_in_a_step() {
    let graph = graph("FROM busybox\nARG V=arg\nENV V=env\nRUN x\n");
    let Op::Run(run) = &graph.stage(StageId(0)).steps[2].op else {
        panic!("a RUN")
    };
    let last = run.env.iter().rev().find(|(name, _)| name == "V");
    assert_eq!(last.map(|(_, value)| value.as_str()), Some("env"));
}

#[test]
fn proxies_leave_no_trace() {
    let request = Request {
        build_args: BTreeMap::from([("HTTP_PROXY".to_owned(), "http://p".to_owned())]),
        ..Request::default()
    };
    let graph = planned("FROM busybox\nRUN x\n", &request, &busybox()).expect("a plan");
    let Op::Run(run) = &graph.stage(StageId(0)).steps[0].op else {
        panic!("a RUN")
    };
    assert_eq!(
        run.proxies.get("HTTP_PROXY").map(String::as_str),
        Some("http://p")
    );
    assert!(
        !crate::op::run::inputs(run, serde_json::Value::Null)
            .to_string()
            .contains("http://p")
    );
    assert_eq!(history(&graph), ["RUN /bin/sh -c x # buildkit"]);
}

#[test]
fn working_directories_are_joined() {
    let graph = graph("FROM busybox\nWORKDIR a\nWORKDIR b/../c\nCOPY x y\nWORKDIR /\n");
    assert_eq!(
        history(&graph),
        ["WORKDIR /a", "WORKDIR /a/c", "COPY x y # buildkit", "WORKDIR /"]
    );
    let Op::Copy(copy) = &graph.stage(StageId(0)).steps[2].op else {
        panic!("a COPY")
    };
    assert_eq!(copy.destination, "/a/c/y");
    assert!(matches!(graph.stage(StageId(0)).steps[3].op, Op::Configure));
}

#[test]
fn stages_connect_by_name_in_any_case_and_by_number() {
    let graph = graph(
        "FROM busybox AS Base\nRUN 1\nFROM scratch\nCOPY --from=bAse a /\nFROM base AS x\nCOPY --from=1 b /\n\
         FROM busybox AS unused\nRUN no\nFROM x\n",
    );
    assert!(matches!(graph.stage(StageId(2)).base, Base::Stage(StageId(0))));
    let from = |stage: usize| match &graph.stage(StageId(stage)).steps[0].op {
        Op::Copy(copy) => copy.from.clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(from(1), CopyFrom::Stage(StageId(0))));
    assert!(matches!(from(2), CopyFrom::Stage(StageId(1))));
    let needed: Vec<_> = Vec::from_iter(graph.stages.keys().copied())
        .into_iter()
        .map(|id| id.0)
        .collect();
    assert_eq!(needed, [0, 1, 2, 4]);
    assert!(graph.root_image(graph.target).is_some());
}

#[test]
fn what_comes_after_the_target_need_not_be_right() {
    let request = Request {
        target: Some("ONE".to_owned()),
        ..Request::default()
    };
    let text = "FROM busybox AS one\nFROM no-such-image\n";
    assert_eq!(
        planned(text, &request, &busybox()).expect("a plan").stages.len(),
        1
    );
    let unknown = Request {
        target: Some("three".to_owned()),
        ..Request::default()
    };
    let error = planned(text, &unknown, &busybox()).expect_err("no such stage");
    assert_eq!(error.hint.as_deref(), Some("the stages are: one"));
}

#[test]
fn triggers_of_the_base_image_run_first_and_once() {
    let mut images = busybox();
    images.0.config.on_build = vec!["RUN trigger".to_owned(), "ENV T=1".to_owned()];
    let text = "FROM busybox AS child\nRUN own\nFROM child\nRUN grandchild\n";
    let graph = planned(text, &Request::default(), &images).expect("a plan");
    let texts: Vec<_> = graph
        .stage(StageId(0))
        .steps
        .iter()
        .map(|step| step.text.as_str())
        .collect();
    assert_eq!(texts, ["RUN trigger", "ENV T=1", "RUN own"]);
    assert_eq!(graph.stage(StageId(1)).steps.len(), 1);
    assert!(graph.stage(StageId(1)).config.config.on_build.is_empty());
}

#[test]
fn mistakes_are_found_before_anything_runs() {
    assert_eq!(
        refused("FROM nothing-here\n"),
        (1, "no image nothing-here".to_owned())
    );
    assert_eq!(refused("FROM busybox\nRUN x\nEXPOSE $UNSET notaport\n").0, 3);
    assert_eq!(refused("FROM busybox\nLABEL a=${X:?must be given}\n").0, 2);
    assert_eq!(refused("FROM busybox\nCOPY --chmod=99 a b\n").0, 2);
    assert_eq!(refused("FROM busybox AS a\nCOPY --from=a x y\n").0, 2);
    assert_eq!(refused("FROM busybox\nCOPY --from=3 x y\n").0, 2);
    assert_eq!(refused("FROM --platform=not/a/real/one busybox\n").0, 1);
    assert_eq!(refused("ARG I\nFROM $I\n").0, 2);
}

fn mounts(text: &str) -> Vec<crate::graph::Mount> {
    let graph = graph(text);
    let steps = &graph.stage(graph.target).steps;
    let runs = steps.iter().filter_map(|step| match &step.op {
        Op::Run(run) => Some(run.mounts.clone()),
        _ => None,
    });
    runs.flatten().collect()
}

#[test]
fn mounts_have_absolute_targets_and_defaults() {
    let mounts = mounts(
        "FROM busybox AS one\nFROM busybox\nWORKDIR /w\nARG D=dir\nRUN --mount=target=. --mount=type=bind,source=$D \
         --mount=type=cache,target=../c/ --mount=type=secret,id=a/b --mount=type=secret,id=k,env=K \
         --mount=from=one,target=/one --mount=from=busybox,target=/image x\n",
    );
    let targets: Vec<_> = mounts.iter().map(|mount| mount.target.as_deref()).collect();
    let expected = [
        Some("/w"),
        Some("/w"),
        Some("/c"),
        Some("/run/secrets/b"),
        None,
        Some("/one"),
        Some("/image"),
    ];
    assert_eq!(targets, expected);
    let origin = |at: usize| mounts[at].origin().expect("files");
    assert_eq!(origin(1).source, "dir");
    assert!(matches!(origin(1).from, CopyFrom::Context));
    assert!(matches!(origin(5).from, CopyFrom::Stage(StageId(0))));
    assert!(matches!(origin(6).from, CopyFrom::Image { .. }));
    assert!(matches!(&mounts[2].kind, crate::graph::MountKind::Cache(cache) if cache.id == "/c"));
}

#[test]
fn a_mount_needs_the_stage_it_is_from() {
    let graph =
        graph("FROM busybox AS one\nFROM busybox AS two\nFROM busybox\nRUN --mount=from=two,target=/t x\n");
    assert_eq!(
        Vec::from_iter(graph.stages.keys().copied()),
        [StageId(1), StageId(2)]
    );
}

#[test]
fn mistakes_in_mounts_have_their_line() {
    for (flag, part) in [
        ("type=cache", "target is missing"),
        ("target=/", "invalid target"),
        ("type=nosuch,target=/x", "nosuch"),
        ("from=later,target=/x", "the stage comes later"),
        ("from=self,target=/x", "circular dependency"),
        ("from=7,target=/x", "no earlier stage"),
        ("from=none,target=/x", "no image none"),
    ] {
        let text = format!("FROM busybox AS self\nRUN --mount={flag} x\nFROM busybox AS later\n");
        let request = Request {
            target: Some("self".to_owned()),
            ..Request::default()
        };
        let error = planned(&text, &request, &busybox()).expect_err("a mistake");
        assert_eq!(error.span.start.line, 2, "{flag}");
        assert!(error.message.contains(part), "{flag}: {}", error.message);
    }
}

#[test]
fn stages_in_a_circle_are_refused_also_if_they_are_not_needed() {
    let text = "FROM busybox AS a\nRUN --mount=from=b,target=/b x\nFROM busybox AS b\nCOPY --from=a x y\nFROM busybox\n";
    let (line, message) = refused(text);
    assert!(
        line == 4 && message.contains("circular dependency: stage a"),
        "{line}: {message}"
    );
}

#[test]
fn named_contexts_go_before_stages_and_images() {
    let request = Request {
        contexts: [
            ("docker.io/library/alpine:latest", NamedContext::Directory),
            ("Stage", NamedContext::Directory),
            ("other", NamedContext::Image("busybox".to_owned())),
        ]
        .map(|(name, context)| (context_name(name), context))
        .into(),
        ..Request::default()
    };
    let text = "FROM busybox AS stage\nFROM alpine:latest\nCOPY --from=stage /a /\nCOPY --from=other /a /\n";
    let graph = planned(text, &request, &busybox()).expect("a plan");
    let last = graph.stage(graph.target);
    assert!(matches!(&last.base, Base::Named(name) if name == "alpine"));
    let from = |at: usize| match &last.steps[at].op {
        Op::Copy(copy) => copy.from.clone(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(from(0), CopyFrom::Named(name) if name == "stage"));
    assert!(matches!(from(1), CopyFrom::Image { name, .. } if name == "busybox"));
    assert_eq!(Vec::from_iter(graph.stages.keys().copied()).len(), 1);
}

#[test]
fn stages_that_are_not_needed_are_not_looked_at() {
    let text = "FROM no-such-image AS unused\nCOPY --chmod=99 a b\nFROM busybox AS used\nFROM busybox\n\
                COPY --from=used /a /\nFROM unused AS last\n";
    let target = |name: &str| Request {
        target: Some(name.to_owned()),
        ..Request::default()
    };
    let graph = planned(text, &target("2"), &busybox()).expect("a plan");
    assert_eq!(Vec::from_iter(graph.stages.into_keys()), [StageId(1), StageId(2)]);
    assert!(planned(text, &target("last"), &busybox()).is_err());
    // What FROM says is read of every stage.
    assert_eq!(refused("FROM $NOTHING AS unused\nFROM busybox\n").0, 1);
    assert_eq!(
        refused("FROM --platform=$NOTHING busybox AS unused\nFROM busybox\n").0,
        1
    );
}

#[test]
fn a_trigger_can_need_a_stage() {
    let mut images = busybox();
    images.0.config.on_build = vec![
        "COPY --from=files /a /".to_owned(),
        "RUN --mount=from=0,target=/m x".to_owned(),
    ];
    let text = "FROM scratch AS unused\nFROM scratch AS files\nFROM busybox\nRUN own\n";
    let graph = planned(text, &Request::default(), &images).expect("a plan");
    assert_eq!(graph.stages.len(), 3);
    let last = graph.stage(graph.target);
    assert_eq!(last.steps.len(), 3);
    // The place of a trigger is that of the base.
    assert_eq!(last.steps[0].span.start.line, 3);
    images.0.config.on_build = vec!["COPY --from=nowhere /a /".to_owned()];
    let error = planned(text, &Request::default(), &images).expect_err("no such stage");
    assert_eq!(error.span.start.line, 3);
    assert!(
        error.message.contains("ONBUILD COPY --from=nowhere"),
        "{}",
        error.message
    );
}

#[test]
fn a_stage_goes_on_with_the_arguments_of_its_base() {
    let text = "FROM busybox AS a\nARG A=1 B=2\nENV B=3\nFROM a\nARG C=$A$B\nRUN x\n";
    let graph = graph(text);
    assert_eq!(
        history(&graph),
        ["ARG C=13", "RUN |3 A=1 B=3 C=13 /bin/sh -c x # buildkit"]
    );
}

#[test]
fn the_later_of_env_and_arg_counts() {
    let graph = graph("FROM busybox\nENV V=env\nARG V=arg\nARG N\nRUN x\nENV N=$V\nRUN y\n");
    let history = history(&graph);
    assert_eq!(history[3], "RUN |2 V=arg N= /bin/sh -c x # buildkit");
    assert_eq!(history[5], "RUN |2 V=arg N=arg /bin/sh -c y # buildkit");
    assert_eq!(
        graph.stage(graph.target).config.config.env,
        ["PATH=/bin", "V=env", "N=arg"]
    );
}

#[test]
fn a_default_that_does_not_count_is_not_read() {
    let request = Request {
        build_args: BTreeMap::from([("A".to_owned(), "given".to_owned())]),
        ..Request::default()
    };
    let text = "FROM busybox\nARG A=${NOT:?set}\nLABEL a=$A\n";
    let graph = planned(text, &request, &busybox()).expect("a plan");
    assert_eq!(graph.stage(graph.target).config.config.labels["a"], "given");
    assert_eq!(refused(text).0, 2);
}

#[test]
fn an_image_without_a_search_path_gets_one() {
    let mut images = busybox();
    images.0.config.env = vec!["A=1".to_owned()];
    let graph = planned("FROM busybox\nRUN x\n", &Request::default(), &images).expect("a plan");
    let env = &graph.stage(graph.target).config.config.env;
    assert_eq!(
        env,
        &[
            "A=1",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        ]
    );
}

#[test]
fn a_relative_destination_is_below_the_working_directory() {
    let text =
        "FROM busybox\nWORKDIR /a/b\nCOPY x ../c\nCOPY x ./d/\nCOPY x .\nCOPY x /e/../f\nCOPY x ../..\n";
    let graph = graph(text);
    let steps = graph.stage(graph.target).steps.iter();
    let destinations = steps.filter_map(|step| match &step.op {
        Op::Copy(copy) => Some(copy.destination.clone()),
        _ => None,
    });
    assert_eq!(
        Vec::from_iter(destinations),
        ["/a/c", "/a/b/d/", "/a/b/", "/e/../f", "/"]
    );
}

#[test]
fn only_dockers_own_frontends_are_stood_in_for() {
    for syntax in [
        "docker/dockerfile:1",
        "docker.io/docker/dockerfile:1.26-labs",
        "docker/dockerfile-upstream:master",
        "docker/dockerfile@sha256:1234",
    ] {
        graph(&format!("# syntax={syntax}\nFROM busybox\n"));
        graph(&format!(
            "#!/usr/bin/env mica\n# syntax = {syntax}  \nFROM busybox\n"
        ));
    }
    for syntax in ["example.com/docker/dockerfile:1", "someone/else", "r.j3ss.co/x:1"] {
        let (line, message) = refused(&format!("# escape=`\n# syntax={syntax}\nFROM busybox\n"));
        assert!(line == 2 && message.contains(syntax), "{message}");
    }
}

#[test]
fn slips_in_names_get_a_hint() {
    let hint = |text: &str| {
        let error = planned(text, &Request::default(), &busybox()).expect_err("a mistake");
        error.hint.expect("a hint")
    };
    assert_eq!(
        hint("FROM busybox AS builder\nFROM busybox\nCOPY --from=bulider a b\n"),
        "did you mean the stage builder?"
    );
    assert_eq!(
        hint("FROM busybox AS base\nFROM bsae\n"),
        "did you mean the stage base?"
    );
    assert_eq!(hint("ARG VERSION\nFROM $VERSOIN\n"), "did you mean $VERSION?");
    assert_eq!(
        hint("FROM --platform=$BUILDPLATFROM busybox\n"),
        "did you mean $BUILDPLATFORM?"
    );
    assert_eq!(
        hint("FROM busybox\nCOPY --from=1 a b\n"),
        "this is the first stage"
    );
    let request = Request {
        target: Some("relaese".to_owned()),
        ..Request::default()
    };
    let error = planned("FROM busybox AS release\n", &request, &busybox()).expect_err("no such stage");
    assert_eq!(error.hint.as_deref(), Some("did you mean release?"));
}

#[test]
fn buildkits_own_arguments_are_obeyed() {
    let arguments = [
        ("BUILDKIT_SANDBOX_HOSTNAME", "here"),
        ("BUILDKIT_CACHE_MOUNT_NS", "ours"),
    ];
    let request = Request {
        build_args: arguments
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Request::default()
    };
    let text = "FROM busybox\nRUN --mount=type=cache,target=/c x\n";
    let graph = planned(text, &request, &busybox()).expect("a plan");
    let Op::Run(run) = &graph.stage(graph.target).steps[0].op else {
        panic!("a RUN")
    };
    assert_eq!(run.hostname.as_deref(), Some("here"));
    assert!(matches!(&run.mounts[0].kind, crate::graph::MountKind::Cache(cache) if cache.id == "ours//c"));
    let request = Request {
        build_args: [("BUILDKIT_SYNTAX".to_owned(), "someone/else".to_owned())].into(),
        ..Request::default()
    };
    assert!(planned(text, &request, &busybox()).is_err());
}
