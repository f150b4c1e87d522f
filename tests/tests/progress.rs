//! How a build is shown while it goes on.

use mica_tests::Scene;
use serde_json::Value;

#[test]
fn progress_comes_in_the_form_that_is_asked_for() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write(
        "ctx/Dockerfile",
        "FROM base AS one\nRUN echo said; echo again >&2\nFROM one\nRUN echo why; exit 3\n",
    );
    let build = |style: &str| scene.mica(["build", style, "ctx"]).exits(1);
    let plain = build("--progress=plain");
    for part in [
        "#2 [one 2/2] RUN echo said",
        " said\n",
        "#2 DONE 0.",
        "#3 ERROR: process \"/bin/sh -c echo why; exit 3\" did not complete successfully: exit code: 3\n",
        "------\n > [stage-1 1/1] RUN echo why; exit 3:\n",
    ] {
        assert!(
            plain.stderr().contains(part),
            "no {part:?} in\n{}",
            plain.stderr()
        );
    }
    // Without a terminal there is no picture.
    assert!(!build("--progress=tty").stderr().contains('\x1b'));
    let json = build("--progress=rawjson").stderr();
    let lines: Vec<Value> = json
        .lines()
        .take_while(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("it is JSON"))
        .collect();
    let vertexes: Vec<_> = lines
        .iter()
        .filter_map(|line| line["vertexes"].as_array())
        .flatten()
        .collect();
    assert!(
        vertexes
            .iter()
            .any(|v| v["name"] == "[one 2/2] RUN echo said; echo again >&2" && v["cached"] == true)
    );
    assert!(vertexes.iter().any(|v| v["error"]
        == "process \"/bin/sh -c echo why; exit 3\" did not complete successfully: exit code: 3"
        && v["completed"].is_string()));
    assert!(
        lines.iter().any(|line| line["logs"][0]["data"] == "d2h5Cg=="),
        "{json}"
    );
}

/// Which steps are numbered, and how, is as in Docker's log.
#[test]
fn only_what_does_work_is_a_step() {
    let Some(scene) = Scene::with_base() else { return };
    let runs: String = (1..=8).map(|n| format!("RUN echo {n} > /{n}\n")).collect();
    let dockerfile = format!(
        "FROM base AS one\nENV A=1\nLABEL l=1\nRUN echo\nUSER 0\nWORKDIR /w\nFROM scratch AS two\nCOPY --from=one /w /w\n\
         CMD [\"x\"]\nFROM one AS three\nENV B=1\nCOPY --from=two /w /v\n{runs}EXPOSE 1\n"
    );
    let shown = scene.build(&dockerfile, ["-t", "i"]).ok().stderr();
    let is_title = |line: &&str| line.starts_with('#') && line.contains(" [");
    let mut titles: Vec<_> = shown.lines().filter(is_title).collect();
    assert_eq!(
        titles.split_off(4)[..2],
        [
            "#5 [three 1/9] COPY --from=two /w /v",
            "#6 [three 2/9] RUN echo 1 > /1"
        ],
        "{shown}"
    );
    let first = [
        "#1 [one 1/3] FROM base",
        "#2 [one 2/3] RUN echo",
        "#3 [one 3/3] WORKDIR /w",
        "#4 [two 1/1] COPY --from=one /w /w",
    ];
    assert_eq!(titles, first, "{shown}");
    // Numbers are as wide as the widest.
    let more = format!("FROM base\n{runs}RUN echo 9\nRUN echo 10\n");
    scene
        .build(&more, ["-t", "i"])
        .ok()
        .says("#2 [ 2/11] RUN echo 1 > /1")
        .says("#11 [11/11] RUN echo 10");
}

#[test]
fn a_step_that_waits_for_a_stage_has_not_begun() {
    let Some(scene) = Scene::with_base() else { return };
    let dockerfile = "\
FROM base AS slow
RUN sleep 0.3; echo slow > /made
FROM base AS copies
COPY --from=slow /made /copied
FROM base AS links
COPY --link --from=slow /made /copied
FROM base
RUN --mount=from=slow,target=/m cat /m/made > /seen
COPY --from=copies /copied /
COPY --from=links /copied /
";
    let shown = scene.build(dockerfile, ["-t", "i"]).ok().stderr();
    let at = |text: &str| {
        shown
            .find(text)
            .unwrap_or_else(|| panic!("no {text:?} in\n{shown}"))
    };
    let built = at("#2 DONE");
    for text in ["[copies 2/2] COPY", "[links 2/2] COPY", "RUN --mount"] {
        assert!(at(text) > built, "{text} began too early\n{shown}");
    }
}
