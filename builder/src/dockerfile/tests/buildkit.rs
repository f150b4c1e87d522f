//! BuildKit's own test data, where it lies beside the workspace (or where `MICA_SHARED` says).

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::dockerfile::{Escape, Nodes, expand_word, expand_words, parse_nodes};

/// The directory of the data; says so and gives `None` where it is absent.
#[allow(clippy::print_stderr)]
fn data(left_out: &str) -> Option<PathBuf> {
    let shared = std::env::var_os("MICA_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let data = shared.join("buildkit-parser-data");
    if data.is_dir() {
        return Some(data);
    }
    eprintln!("left out: {left_out}: there is no {}", data.display());
    None
}

fn directories(of: PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(&of).expect("the data's directory");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{of:?} is empty");
    paths
}

#[test]
fn trees_are_those_of_buildkit() {
    let Some(data) = data("the parser's test files") else {
        return;
    };
    let mut failures = Vec::new();
    for directory in directories(data.join("testfiles")) {
        let text = fs::read(directory.join("Dockerfile")).expect("a Dockerfile");
        let expected = fs::read_to_string(directory.join("result")).expect("a result");
        match parse_nodes(&text) {
            Ok(nodes) if format!("{nodes}\n") == expected => {}
            Ok(nodes) => failures.push(format!("{directory:?}:\n{nodes}\nand not\n{expected}")),
            Err(error) => failures.push(error.render(&directory.to_string_lossy(), &text)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn what_buildkit_refuses_is_refused() {
    let Some(data) = data("the parser's negative test files") else {
        return;
    };
    for directory in directories(data.join("testfiles-negative")) {
        let text = fs::read(directory.join("Dockerfile")).expect("a Dockerfile");
        assert!(parse_nodes(&text).is_err(), "{directory:?}");
    }
}

#[test]
fn lines_are_those_of_buildkit() {
    let Some(data) = data("the test file of line numbers") else {
        return;
    };
    let text = fs::read(data.join("testfile-line/Dockerfile")).expect("a Dockerfile");
    let Nodes { nodes, .. } = parse_nodes(&text).expect("valid");
    let lines: Vec<_> = nodes
        .iter()
        .map(|n| (n.span.start.line, n.span.end.line))
        .collect();
    assert_eq!(lines, [(5, 5), (11, 12), (17, 31)]);
}

#[test]
fn words_expand_as_in_buildkit() {
    let Some(data) = data("envVarTest") else {
        return;
    };
    let set = [
        ("PWD", "/home"),
        ("SHELL", "bash"),
        ("KOREAN", "한국어"),
        ("NULL", ""),
    ];
    let env: BTreeMap<String, String> = set
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let text = fs::read_to_string(data.join("envVarTest")).expect("envVarTest");
    let mut failures = Vec::new();
    for line in text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
    {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        let [platform, source, expected] = fields.as_slice() else {
            panic!("{line}")
        };
        if *platform == "W" {
            continue;
        }
        let got = match expand_word(source, Escape::Backslash, &env) {
            Ok(expanded) => expanded.text,
            Err(_) => "error".to_owned(),
        };
        if got != *expected {
            failures.push(format!("{source}: {got:?} and not {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn words_split_as_in_buildkit() {
    let Some(data) = data("wordsTest") else {
        return;
    };
    let mut env = BTreeMap::new();
    let text = fs::read_to_string(data.join("wordsTest")).expect("wordsTest");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(assignment) = line.strip_prefix("ENV ") {
            let (name, value) = assignment.trim_start_matches(' ').split_once('=').expect(line);
            env.insert(name.to_owned(), value.to_owned());
            continue;
        }
        let (source, expected) = line.split_once('|').expect(line);
        let got =
            expand_words(source.trim(), Escape::Backslash, &env).unwrap_or_else(|_| vec!["error".to_owned()]);
        let expected: Vec<&str> = expected.trim_start_matches(' ').split(',').collect();
        assert_eq!(got, expected, "{line}");
    }
}
