//! Questions that a Dockerfile answers without being built: `--check` and `--call`.

use mica_tests::Scene;

const WISE: &str = "FROM scratch\nLABEL a=b\n";
const UNWISE: &str = "FROM scratch as base\nLABEL a=b\nMAINTAINER me\n";

#[test]
fn a_check_shows_each_warning_with_its_line_and_builds_nothing() {
    let scene = Scene::new();
    scene.build(WISE, ["--check"]).ok().says("no warnings found");
    let outcome = scene.build(UNWISE, ["--check", "-t", "never"]).exits(1);
    let outcome = outcome
        .says("2 warnings have been found")
        .says("WARNING: FromAsCasing");
    outcome
        .says("Dockerfile:1:14")
        .says("WARNING: MaintainerDeprecated")
        .says("Dockerfile:3:1")
        .says("^^");
    assert_eq!(scene.images(), Vec::<String>::new());
    // The base image need not be there.
    scene.build("FROM not-here\nRUN true\n", ["--check"]).ok();
    scene.build(UNWISE, ["--call=check,ignorestatus=true"]).ok();
}

#[test]
fn a_check_in_json_has_the_form_of_buildx() {
    let scene = Scene::new();
    let report = scene.build(UNWISE, ["--call=check,format=json"]).exits(1).json();
    let warnings = report["warnings"].as_array().expect("warnings");
    assert_eq!(warnings[1]["ruleName"], "MaintainerDeprecated");
    assert_eq!(warnings[1]["location"]["ranges"][0]["start"]["line"], 3);
    assert_eq!(warnings[0]["position"]["column"], 14);
    assert_eq!(report["sources"][0]["language"], "Dockerfile");
    let report = scene
        .build("FROM scratch\nCOPPY a b\n", ["--call=check,format=json"])
        .exits(1)
        .json();
    assert_eq!(report["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
}

#[test]
fn warnings_come_after_a_build_and_can_stop_it() {
    let scene = Scene::new();
    let outcome = scene.build(UNWISE, ["-t", "made"]).ok();
    outcome
        .says("2 warnings found")
        .says("FromAsCasing")
        .says("(line 3, column 1)");
    scene.build(UNWISE, ["--quiet"]).ok().lacks("FromAsCasing");
    let strict = format!("# check=error=true\n{UNWISE}");
    let outcome = scene.build(&strict, ["-t", "never"]).fails();
    outcome
        .says("lint violation")
        .says("FromAsCasing, MaintainerDeprecated");
    assert_eq!(scene.images().len(), 1);
    let lenient = format!("# check=skip=FromAsCasing,MaintainerDeprecated;error=true\n{UNWISE}");
    scene.build(&lenient, ["-t", "made"]).ok().lacks("warning");
}

#[test]
fn ignored_files_and_undefined_variables_are_seen() {
    let scene = Scene::new();
    scene.write("ctx/.dockerignore", "secret\n");
    let text = "FROM scratch\nENV DIRECTORY=/d\nCOPY secret $DIRECTROY/\n";
    let outcome = scene.build(text, ["--check"]).exits(1);
    outcome
        .says("CopyIgnoredFile")
        .says("UndefinedVar")
        .says("did you mean $DIRECTORY?");
}

#[test]
fn targets_and_outlines_are_told() {
    let scene = Scene::new();
    let text = "# VERSION is what is built\nARG VERSION=1\n# base has the tools\nFROM not-here:$VERSION AS base\n\
                FROM base\nARG MODE=fast\nRUN --mount=type=secret,id=key,required=true true\n";
    let targets = scene.build(text, ["--call=targets"]).ok().answer();
    assert_eq!(
        targets,
        "TARGET      DESCRIPTION\nbase        has the tools\n(default)"
    );
    let json = scene.build(text, ["--call=targets,format=json"]).ok().json();
    assert_eq!(json["targets"][0]["name"], "base");
    assert_eq!(json["targets"][1]["default"], true);
    let outline = scene
        .build(text, ["--call=outline", "--build-arg", "MODE=small"])
        .ok();
    let outline = outline
        .says("VERSION     1       is what is built")
        .says("MODE        small");
    outline.says("key      true");
    let json = scene
        .build(text, ["--call=outline,format=json", "--target=base"])
        .ok()
        .json();
    assert_eq!(json["name"], "base");
    assert_eq!(json["args"].as_array().map(Vec::len), Some(1));
    scene.build(text, ["--call=nosuch"]).exits(2).says("targets");
}

#[test]
fn another_frontend_is_refused() {
    let scene = Scene::new();
    scene
        .build(
            "# syntax=docker/dockerfile:1\nFROM scratch\nLABEL a=b\n",
            ["-t", "made"],
        )
        .ok();
    let outcome = scene
        .build("# syntax=example.com/other:1\nFROM scratch\n", ["-t", "never"])
        .fails();
    outcome.says("Dockerfile:1:").says("example.com/other:1");
}

#[test]
fn a_build_argument_that_does_nothing_is_told() {
    let scene = Scene::new();
    let text = "FROM scratch\nARG VERSION\nLABEL v=$VERSION\n";
    let outcome = scene
        .build(text, ["--build-arg=VERSOIN=1", "--build-arg=HTTP_PROXY=p"])
        .ok();
    outcome
        .says("VERSOIN")
        .says("did you mean VERSION?")
        .lacks("HTTP_PROXY");
}
