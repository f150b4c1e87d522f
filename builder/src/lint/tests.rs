use std::collections::BTreeMap;

use super::*;
use crate::dockerfile::parse;
use crate::image::{Image, Platform};
use crate::plan::{self, FindImage, Request};

/// Images of any name, each without configuration.
struct AnyImage;

impl FindImage for AnyImage {
    fn find(&self, name: &str, _: &Platform) -> Result<Image, (String, Option<String>)> {
        if name.starts_with("missing") {
            return Err((format!("no image {name}"), None));
        }
        let blob = crate::image::Descriptor::new("x", mica_fs::digest::Digest::of(b"config"), 1);
        Ok(Image {
            manifest_digest: mica_fs::digest::Digest::of(b"manifest"),
            manifest: crate::image::Manifest::new(blob, Vec::new()),
            config: crate::image::ImageConfig::default(),
        })
    }
}

fn checked(text: &str, request: &Request, ignore: Option<&Ignore>) -> Vec<Warning> {
    let dockerfile = parse(text.as_bytes()).expect("valid");
    let linter = Linter::new(&dockerfile, &request.build_args, ignore).expect("options");
    plan::check(&dockerfile, request, &AnyImage, &linter).expect("no mistake");
    linter.warnings()
}

/// The rule, the instruction's line and the place of each warning.
fn found(text: &str) -> Vec<(&'static str, u32, (u32, u32))> {
    let warnings = checked(text, &Request::default(), None);
    let place = |w: &Warning| (w.span.start.line, w.span.start.column);
    warnings
        .iter()
        .map(|w| (w.rule.name(), w.instruction.start.line, place(w)))
        .collect()
}

#[track_caller]
fn expect(text: &str, expected: &[(&'static str, u32, (u32, u32))]) {
    assert_eq!(found(text), expected, "{text}");
}

#[test]
fn a_good_file_has_no_warnings() {
    expect(
        "ARG BASE=debian\nFROM --platform=$BUILDPLATFORM $BASE AS build\nARG VERSION\nENV A=$VERSION PUBLIC_KEY=x\n\
         WORKDIR /src\nWORKDIR sub\nCOPY . .\nRUN echo $UNDEFINED\nFROM scratch\nCOPY --from=build /src /\n\
         EXPOSE 80/tcp 53/udp\nHEALTHCHECK CMD true\nCMD [\"/a\"]\nENTRYPOINT [\"/b\"]\n",
        &[],
    );
}

#[test]
fn stages_and_instructions_are_written_alike() {
    expect("FROM scratch AS Build\n", &[("StageNameCasing", 1, (1, 17))]);
    expect("FROM scratch as build\n", &[("FromAsCasing", 1, (1, 14))]);
    expect("from scratch AS build\n", &[("FromAsCasing", 1, (1, 14))]);
    expect("from scratch as build\nlabel a=b\n", &[]);
    expect(
        "FROM scratch AS a\nFROM scratch AS a\nFROM scratch AS scratch\n",
        &[
            ("DuplicateStageName", 2, (2, 17)),
            ("ReservedStageName", 3, (3, 17)),
        ],
    );
    // As many of each: capitals win. A mixed one counts for neither.
    expect(
        "FROM scratch\nlabel a=b\n",
        &[("ConsistentInstructionCasing", 2, (2, 1))],
    );
    expect(
        "from scratch\nlabel a=b\nLABEL c=d\nLaBel e=f\n",
        &[
            ("ConsistentInstructionCasing", 3, (3, 1)),
            ("ConsistentInstructionCasing", 4, (4, 1)),
        ],
    );
    expect(
        "From scratch as x\n",
        &[("ConsistentInstructionCasing", 1, (1, 1))],
    );
}

#[test]
fn what_the_text_shows() {
    // The instruction of a blank continuation is told by its last line, as Docker does.
    expect(
        "FROM scratch\nLABEL a=b \\\n\n  c=d\n",
        &[("NoEmptyContinuation", 4, (3, 1))],
    );
    expect(
        "FROM scratch\nMAINTAINER me\n",
        &[("MaintainerDeprecated", 2, (2, 1))],
    );
    expect(
        "FROM scratch\nENV a 1\nLABEL \\\n  b 2\nENV c=3\n",
        &[
            ("LegacyKeyValueFormat", 2, (2, 5)),
            ("LegacyKeyValueFormat", 3, (4, 3)),
        ],
    );
}

#[test]
fn from_uses_what_is_declared() {
    expect(
        "ARG tag\nFROM busybox:${TAG}${tag}latest\n",
        &[("UndefinedArgInFrom", 2, (2, 6))],
    );
    expect("ARG BASE\nFROM ${BASE:-busybox}\n", &[]);
    expect("ARG P=linux/arm64\nFROM --platform=$P busybox\n", &[]);
    expect(
        "FROM --platform=${TARGETPLATFORM} busybox\nFROM --platform=linux/amd64 busybox\n\
         FROM --platform=linux/amd64 busybox AS build-amd64\n",
        &[
            ("RedundantTargetPlatform", 1, (1, 6)),
            ("FromPlatformFlagConstDisallowed", 2, (2, 6)),
        ],
    );
    let given = Request {
        build_args: [("BASE".to_owned(), "busybox".to_owned())].into(),
        ..Request::default()
    };
    let warnings = checked("ARG BASE\nFROM $BASE\n", &given, None);
    assert_eq!(warnings[0].rule, Rule::InvalidDefaultArgInFrom);
    let warnings = checked("ARG VERSOIN\nFROM busybox:x$VERSION\n", &Request::default(), None);
    assert_eq!(warnings[0].hint.as_deref(), Some("did you mean VERSOIN?"));
}

#[test]
fn variables_are_defined_before_they_are_used() {
    let text = "FROM busybox AS a\nARG foo\nENV bar=1\nCOPY $foo .\nLABEL a=$bar b=$baz c=${none:-x}\nFROM a\n\
                COPY $bar$foo$quux .\nRUN --mount=type=cache,target=/c$dir x\nCOPY <<EOF /f\n$heredoc\nEOF\n\
                EXPOSE $port\nUSER $PATH\n";
    let text = text.replace("EXPOSE $port\n", "");
    expect(
        &text,
        &[
            ("UndefinedVar", 5, (5, 16)),
            ("UndefinedVar", 5, (5, 23)),
            ("UndefinedVar", 7, (7, 6)),
            ("UndefinedVar", 8, (8, 5)),
            ("UndefinedVar", 9, (10, 1)),
        ],
    );
    let warnings = checked(
        "FROM busybox\nENV DIRECTORY=/x\nCOPY a $DIRECTROY\n",
        &Request::default(),
        None,
    );
    assert_eq!(warnings[0].hint.as_deref(), Some("did you mean $DIRECTORY?"));
    // An image that is not there may define anything.
    expect("FROM missing\nCOPY $x .\n", &[]);
}

#[test]
fn one_command_and_not_in_a_shell() {
    expect(
        "FROM scratch\nCMD a\nENTRYPOINT b\nCMD [\"c\"]\nHEALTHCHECK NONE\nHEALTHCHECK CMD d\nFROM scratch\nCMD [\"e\"]\n",
        &[
            ("JSONArgsRecommended", 2, (2, 1)),
            ("MultipleInstructionsDisallowed", 2, (2, 1)),
            ("JSONArgsRecommended", 3, (3, 1)),
            ("MultipleInstructionsDisallowed", 5, (5, 1)),
        ],
    );
    expect("FROM scratch\nSHELL [\"/bin/bash\", \"-c\"]\nCMD a\n", &[]);
}

#[test]
fn the_first_working_directory_is_absolute() {
    expect(
        "FROM busybox AS a\nWORKDIR app\nWORKDIR sub\nFROM a\nWORKDIR more\nFROM scratch\nENV D=x\nWORKDIR $D\n",
        &[
            ("WorkdirRelativePath", 2, (2, 9)),
            ("WorkdirRelativePath", 8, (8, 9)),
        ],
    );
}

#[test]
fn secrets_have_names_of_secrets() {
    expect(
        "FROM scratch\nARG API_KEY password=x PUBLIC_KEY tokens\nENV aws_SECRET_x=1 AUTH=2 KEY_FILE=3 monkey=4\n",
        &[
            ("SecretsUsedInArgOrEnv", 2, (2, 5)),
            ("SecretsUsedInArgOrEnv", 2, (2, 13)),
            ("SecretsUsedInArgOrEnv", 3, (3, 5)),
            ("SecretsUsedInArgOrEnv", 3, (3, 20)),
        ],
    );
}

#[test]
fn ports_are_of_the_container() {
    expect(
        "FROM scratch\nEXPOSE 80/TCP\nEXPOSE 8080:80 127.0.0.1:81:81/Udp\nEXPOSE 1-3/udp\n",
        &[
            ("ExposeProtoCasing", 2, (2, 8)),
            ("ExposeInvalidFormat", 3, (3, 8)),
            ("ExposeProtoCasing", 3, (3, 16)),
            ("ExposeInvalidFormat", 3, (3, 16)),
        ]
        .map(|w| w),
    );
}

#[test]
fn ignored_files_are_not_copied() {
    let ignored = |patterns: &str, text: &str| {
        let ignore = Ignore::parse(patterns.as_bytes()).expect("patterns");
        let warnings = checked(
            &format!("FROM busybox AS a\nFROM busybox\n{text}"),
            &Request::default(),
            Some(&ignore),
        );
        warnings
            .iter()
            .map(|w| (w.rule, w.span.start.line))
            .collect::<Vec<_>>()
    };
    let text = "COPY secret /\nADD ./dir/x y /\nCOPY --from=a secret /\nCOPY . /\n";
    let rule = Rule::CopyIgnoredFile;
    assert_eq!(ignored("secret\ndir\n", text), [(rule, 3), (rule, 4)]);
    assert_eq!(ignored("**\n", "COPY . /\n"), [(rule, 3)]);
    assert_eq!(ignored("secret\n!secret/keep\n", "COPY secret /\n"), []);
}

#[test]
fn comments_describe_what_follows() {
    let text = "# nothing of the kind\nARG foo=bar\n# version is the version\nARG version=1 other=2\n\
                # Build is the stage\nFROM scratch AS build\n# COPY needs none\nLABEL a=b\n";
    expect(text, &[]);
    let rule = "InvalidDefinitionDescription";
    let asked = format!("# check=skip=all;experimental={rule}\n{text}");
    expect(&asked, &[(rule, 3, (3, 1)), (rule, 7, (7, 1))]);
}

#[test]
fn options_choose_the_rules() {
    let text = "FROM scratch as x\nMAINTAINER me\n";
    expect(&format!("# check=skip=all\n{text}"), &[]);
    expect(
        &format!("# check=skip=FromAsCasing\n{text}"),
        &[("MaintainerDeprecated", 3, (3, 1))],
    );
    expect(
        "FROM scratch as x\n# check=skip=MaintainerDeprecated\nMAINTAINER me\n",
        &[("FromAsCasing", 1, (1, 14))],
    );
    let request = Request {
        build_args: [(OPTIONS_ARGUMENT.to_owned(), "skip=all".to_owned())].into(),
        ..Request::default()
    };
    assert_eq!(checked(text, &request, None), []);
    for bad in ["skip", "nosuch=1", "error=maybe"] {
        assert!(Options::parse(bad).is_err(), "{bad}");
    }
    assert_eq!(
        Options::parse("skip = all"),
        Options::parse("skip"),
        "a blank ends the options"
    );
}

#[test]
fn warnings_can_be_errors() {
    let verdict = |text: &str| {
        let dockerfile = parse(text.as_bytes()).expect("valid");
        let linter = Linter::new(&dockerfile, &BTreeMap::new(), None).expect("options");
        plan::plan(&dockerfile, &Request::default(), &AnyImage, &linter).expect("a plan");
        linter.verdict().map_err(|e| (e.span.start.line, e.message))
    };
    assert_eq!(verdict("FROM busybox as x\n"), Ok(()));
    let (line, message) =
        verdict("# check=error=true\nFROM busybox as x\nMAINTAINER me\n").expect_err("refused");
    assert!(
        line == 2 && message.contains("FromAsCasing, MaintainerDeprecated"),
        "{message}"
    );
    assert_eq!(
        verdict("# check=skip=FromAsCasing;error=true\nFROM busybox as x\n"),
        Ok(())
    );
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len());
    assert!(Rule::ALL.iter().all(|rule| !rule.description().is_empty()));
}
