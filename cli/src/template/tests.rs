use proptest::prelude::*;
use serde_json::json;

use super::*;

fn object() -> Value {
    json!({
        "Id": "sha256:abc",
        "RepoTags": ["app:latest", "app:1"],
        "Size": 1234,
        "Config": { "Env": ["A=b", "C=d"], "Labels": { "z": "1", "a.b": "2" }, "Tty": false },
        "Parent": null,
    })
}

fn render(text: &str) -> String {
    match Template::parse(text).and_then(|template| template.render(&object())) {
        Ok(text) => text,
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn fields() {
    for (template, expected) in [
        ("plain", "plain"),
        ("{{.Id}} {{ .Size }}", "sha256:abc 1234"),
        ("{{.Config.Env}}", "[A=b C=d]"),
        ("{{.Config.Labels}}", "map[a.b:2 z:1]"),
        ("{{$.Config.Tty}}", "false"),
        ("{{(.Config).Env}}", "[A=b C=d]"),
        ("{{.Parent}}", "<no value>"),
        ("{{.Config.Labels.none}}", "<no value>"),
        ("{{\"}}\"}}{{`a`}}{{/* not shown */}}", "}}a"),
        ("a {{- .Size -}} b", "a1234b"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn functions_and_pipes() {
    for (template, expected) in [
        ("{{json .RepoTags}}", r#"["app:latest","app:1"]"#),
        ("{{.Config.Env | json}}", r#"["A=b","C=d"]"#),
        ("{{join .RepoTags \", \"}}", "app:latest, app:1"),
        ("{{index .RepoTags 1}}", "app:1"),
        ("{{index .Config.Labels \"a.b\"}}", "2"),
        ("{{index (split .Id \":\") 1 | upper}}", "ABC"),
        ("{{len .RepoTags}}{{slice .Id 7 9}}", "2ab"),
        (
            "{{printf \"%-6s|%4d|%q\" \"a\" .Size \"b\"}}",
            "a     |1234|\"b\"",
        ),
        (
            "{{title \"ab cd\"}}{{truncate .Id 3}}{{pad \"x\" 1 2}}",
            "Ab Cdsha x  ",
        ),
        ("{{println \"a\" 1}}", "a 1\n"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn blocks() {
    for (template, expected) in [
        ("{{range .RepoTags}}<{{.}}>{{end}}", "<app:latest><app:1>"),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}",
            "a.b=2;z=1;",
        ),
        ("{{range $t := .RepoTags}}{{$t}} {{end}}", "app:latest app:1 "),
        ("{{range .Parent}}x{{else}}none{{end}}", "none"),
        (
            "{{if .Config.Tty}}a{{else if eq .Size 1234}}b{{else}}c{{end}}",
            "b",
        ),
        ("{{if and .Size (not .Parent)}}yes{{end}}", "yes"),
        ("{{with .Config}}{{.Env}}{{$.Id}}{{end}}", "[A=b C=d]sha256:abc"),
        ("{{with .Parent}}a{{else}}b{{end}}", "b"),
        ("{{$x := .Size}}{{if gt $x 1000}}large{{end}}", "large"),
    ] {
        assert_eq!(render(template), expected, "{template}");
    }
}

#[test]
fn mistakes_are_named() {
    for (template, expected) in [
        ("{{.Nome}}", "there is no field .Nome; there are .Config, .Id"),
        ("{{.Id.x}}", "can't evaluate field x"),
        ("a{{.Id", "{{ at character 2 has no }}"),
        ("{{nothing .Id}}", "there is no function \"nothing\""),
        ("{{if .Id}}", "if at character 1 has no end"),
        ("{{end}}", "end at character 1 has no beginning"),
        ("{{}}", "the action at character 1 is empty"),
        ("{{.Id .Size}}", "two values"),
        ("{{(.Id}}", "not closed"),
        ("{{index .RepoTags 7}}", "index out of range: 7"),
        ("{{$x}}", "undefined variable $x"),
        ("{{json}}", "json can't take these arguments"),
        ("{{pad \"x\" 99999999999 1}}", "pad can't take these arguments"),
    ] {
        let shown = render(template);
        assert!(
            shown.starts_with("error: ") && shown.contains(expected),
            "{template}: {shown}"
        );
    }
    let deep = "{{if 1}}".repeat(10_000);
    assert!(render(&deep).contains("too deep"));
    let brackets = format!("{{{{{}1{}}}}}", "(".repeat(10_000), ")".repeat(10_000));
    assert!(render(&brackets).contains("too many brackets"));
}

proptest! {
    #[test]
    fn nothing_panics(parts in prop::collection::vec(
        prop::sample::select(vec![
            "{{", "}}", "{{-", "-}}", " ", "if", "else", "end", "range", "with", "$", "$k", ",", ":=", ".", ".Id",
            ".Config", "(", ")", "|", "json", "index", "slice", "printf", "\"%5s\"", "\"", "`", "1", "-", "é", "x",
        ]),
        0..20,
    )) {
        let _ = render(&parts.concat());
    }
}
