//! What is refused, where the error points, and the hint it gives.

use crate::dockerfile::parse;

/// The place, the message and the hint of the error in `text`.
fn error(text: &str) -> (u32, u32, String, String) {
    let error = parse(text.as_bytes()).expect_err(text);
    let start = error.span.start;
    (
        start.line,
        start.column,
        error.message,
        error.hint.unwrap_or_default(),
    )
}

#[test]
fn errors_say_what_and_where() {
    for (text, line, column, message) in [
        ("", 1, 1, "empty"),
        ("# c\n\n", 1, 1, "empty"),
        ("ARG A", 1, 1, "no build stage"),
        ("RUN x\nFROM y", 1, 1, "no build stage in current context"),
        ("FROM", 1, 1, "FROM requires either one or three arguments"),
        ("FROM a b", 1, 6, "FROM requires either one or three arguments"),
        ("FROM a AS 1b", 1, 11, "invalid name for build stage: \"1b\""),
        ("FROM --os=x a", 1, 6, "unknown flag: --os"),
        ("# escape=x\nFROM a", 1, 10, "invalid escape token 'x'"),
        (
            "# escape=`\n# Escape=`\nFROM a",
            2,
            10,
            "only one escape parser directive",
        ),
        ("FROM a\nFOO b", 2, 1, "unknown instruction: FOO"),
        ("FROM a\nRUN []", 2, 1, "RUN requires a command"),
        ("FROM a\nRUN [1]", 2, 5, "strings only"),
        ("FROM a\nCMD [\"a\", [\"b\"]]", 2, 5, "strings only"),
        ("FROM a\nRUN --network=x b", 2, 5, "invalid network mode \"x\""),
        ("FROM a\nRUN <<E\nb", 2, 1, "unterminated heredoc"),
        ("FROM a\nCOPY b", 2, 6, "COPY requires at least two arguments"),
        ("FROM a\nADD", 2, 1, "ADD requires at least two arguments"),
        (
            "FROM a\nCOPY b <<E\nE",
            2,
            8,
            "COPY cannot accept a heredoc as a destination",
        ),
        ("FROM a\nCOPY --from b c", 2, 6, "missing a value on flag: --from"),
        (
            "FROM a\nCOPY --from=b --from=c d e",
            2,
            15,
            "duplicate flag specified: --from",
        ),
        (
            "FROM a\nCOPY --from=$b c d",
            2,
            6,
            "variable expansion is not supported for --from",
        ),
        (
            "FROM a\nCOPY --link= b c",
            2,
            6,
            "missing a value on flag: --link",
        ),
        (
            "FROM a\nCOPY --link=x b c",
            2,
            6,
            "expecting boolean value for flag --link, not: x",
        ),
        ("FROM a\nENV B", 2, 5, "ENV must have two arguments"),
        ("FROM a\nENV", 2, 1, "ENV requires at least one argument"),
        ("FROM a\nENV b=1 c", 2, 9, "can't find = in \"c\""),
        ("FROM a\nLABEL =b", 2, 7, "LABEL names can not be blank"),
        ("FROM a\nARG =b", 2, 5, "ARG names can not be blank"),
        ("FROM a\nARG", 2, 1, "ARG requires at least one argument"),
        (
            "FROM a\nMAINTAINER",
            2,
            1,
            "MAINTAINER requires exactly one argument",
        ),
        ("FROM a\nMAINTAINER --boo b", 2, 12, "unknown flag: --boo"),
        (
            "FROM a\nRUN b \\\n c\n\nWORKDIR",
            5,
            1,
            "WORKDIR requires exactly one argument",
        ),
        ("FROM a\nEXPOSE", 2, 1, "EXPOSE requires at least one argument"),
        (
            "FROM a\nVOLUME [\"\"]",
            2,
            8,
            "VOLUME specified can not be an empty string",
        ),
        (
            "FROM a\nSHELL sh -c",
            2,
            7,
            "SHELL requires the arguments to be in JSON form",
        ),
        ("FROM a\nSHELL []", 2, 1, "SHELL requires at least one argument"),
        (
            "FROM a\nHEALTHCHECK",
            2,
            1,
            "HEALTHCHECK requires at least one argument",
        ),
        (
            "FROM a\nHEALTHCHECK NONE x",
            2,
            13,
            "HEALTHCHECK NONE takes no arguments",
        ),
        (
            "FROM a\nHEALTHCHECK curl x",
            2,
            13,
            "Unknown type \"CURL\" in HEALTHCHECK",
        ),
        (
            "FROM a\nHEALTHCHECK CMD",
            2,
            13,
            "Missing command after HEALTHCHECK CMD",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=zz CMD b",
            2,
            13,
            "invalid duration \"zz\"",
        ),
        (
            "FROM a\nHEALTHCHECK --interval=1us CMD b",
            2,
            13,
            "cannot be less than 1ms",
        ),
        (
            "FROM a\nHEALTHCHECK --retries=-1 CMD b",
            2,
            13,
            "--retries cannot be negative (-1)",
        ),
        ("FROM a\nONBUILD", 2, 1, "ONBUILD requires at least one argument"),
        ("FROM a\nONBUILD ONBUILD RUN b", 2, 9, "Chaining ONBUILD"),
        (
            "FROM a\nONBUILD from b",
            2,
            9,
            "FROM isn't allowed as an ONBUILD trigger",
        ),
        (
            "FROM a\nONBUILD COPY b",
            2,
            14,
            "COPY requires at least two arguments",
        ),
        ("FROM a\nONBUILD FOO b", 2, 9, "unknown instruction: FOO"),
    ] {
        let (at_line, at_column, got, _) = error(text);
        assert!(got.contains(message), "{text:?}: {got}");
        assert_eq!((at_line, at_column), (line, column), "{text:?}: {got}");
    }
}

#[test]
fn slips_get_a_hint() {
    let hint = |text| error(text).3;
    assert_eq!(hint("FROM a\nRNU b"), "did you mean RUN?");
    assert_eq!(hint("FORM a"), "did you mean FROM?");
    assert_eq!(hint("FROM a\nCOPY --chwon=1 b c"), "did you mean --chown?");
    assert_eq!(hint("FROM a\nWORKDIR --x b"), "this instruction has no flags");
    assert_eq!(hint("FROM a\nFOO b"), "");
}

#[test]
fn a_bad_byte_is_shown() {
    let text = b"FROM a\nRUN \xff";
    let error = parse(text).expect_err("not UTF-8");
    let expected = "D:2:5: invalid UTF-8\n  |\n2 | RUN \u{fffd}\n  |     ^\n  = hint: save the \
                    Dockerfile with the encoding UTF-8";
    assert_eq!(error.render("D", text), expected);
}
