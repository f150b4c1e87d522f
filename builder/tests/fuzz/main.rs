//! Random input for the parser of Dockerfiles (with the planner and the linter behind it), for the expander of words,
//! and for what reads what registries say, and the layers that lie there: none may panic, hang or break what is promised.
//!
//! Inputs are mutations of real files and of the language's own words. Each test takes two seconds, or as many as
//! `MICA_FUZZ_SECONDS` says; `MICA_FUZZ_SEED` repeats a run.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

mod corpus;
mod layers;
mod lazy;
mod mutate;
mod registries;

use mica_builder::dockerfile::{self, Escape, Span};
use mica_builder::image::{Image, Platform};
use mica_builder::lint::Linter;
use mica_builder::outline;
use mica_builder::plan::{self, FindImage, Request};
use mutate::Mutator;
use nix::time::{ClockId, clock_gettime};

/// Far above what the largest input takes, far below what a quadratic step would.
const SLOW: Duration = Duration::from_secs(10);

fn seconds(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// The processor's time that this thread took: a busy machine says nothing of an input.
fn spent() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .expect("every thread has such a clock")
        .into()
}

/// Gives `target` inputs until the time is over.
fn fuzz<I: Debug + AsRef<[u8]>>(next: impl Fn(&mut Mutator) -> I, target: impl Fn(&I)) {
    let seed = seconds("MICA_FUZZ_SEED", std::process::id().into());
    let mut mutator = Mutator::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds("MICA_FUZZ_SECONDS", 2));
    let mut count = 0_u64;
    while Instant::now() < end {
        let input = next(&mut mutator);
        let start = spent();
        let result = catch_unwind(AssertUnwindSafe(|| target(&input)));
        let shown = || String::from_utf8_lossy(input.as_ref()).into_owned();
        assert!(result.is_ok(), "seed {seed}: a panic for {:?}", shown());
        assert!(
            spent() - start < SLOW,
            "seed {seed}: {:?} for {:?}",
            spent() - start,
            shown()
        );
        count += 1;
    }
    assert!(count > 0, "no input was tried");
}

/// No image is there, so that every name is an unknown one.
struct NoImages;

impl FindImage for NoImages {
    fn find(&self, name: &str, _: &Platform) -> Result<Image, (String, Option<String>)> {
        Err((format!("no image {name}"), None))
    }
}

fn is_inside(span: Span, text: &[u8]) -> bool {
    span.start.offset <= span.end.offset && span.end.offset <= text.len()
}

#[test]
fn dockerfiles() {
    let corpus = corpus::dockerfiles();
    fuzz(
        |mutator| mutator.dockerfile(&corpus),
        |text: &Vec<u8>| dockerfile_target(text),
    );
}

fn dockerfile_target(text: &[u8]) {
    let file = match dockerfile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            assert!(is_inside(error.span, text));
            assert!(error.render("Dockerfile", text).starts_with("Dockerfile"));
            return;
        }
    };
    let nodes = dockerfile::parse_nodes(text).expect("it was parsed before");
    assert!(nodes.nodes.iter().all(|node| is_inside(node.span, text)));
    assert!(!nodes.to_string().is_empty());
    let request = Request {
        build_args: [
            ("A".to_owned(), "a b".to_owned()),
            ("x".to_owned(), "${x}".to_owned()),
        ]
        .into(),
        ..Request::default()
    };
    for request in [Request::default(), request] {
        if let Ok(linter) = Linter::new(&file, &request.build_args, None) {
            if let Err(error) = plan::check(&file, &request, &NoImages, &linter) {
                error.render("Dockerfile", text);
            }
            for warning in linter.warnings() {
                assert!(is_inside(warning.span, text), "{warning:?}");
                warning.as_error().render("Dockerfile", text);
            }
        }
    }
    assert_eq!(outline::targets(&file).len(), file.stages.len());
}

#[test]
fn words() {
    let corpus = corpus::words();
    fuzz(|mutator| mutator.word(&corpus), |word: &String| word_target(word));
}

fn word_target(word: &str) {
    let env = [
        ("A", "a"),
        ("EMPTY", ""),
        ("PATH", "/usr/bin:/bin"),
        ("QUOTES", "'\"\\$`"),
        ("BLANKS", " x \t y\n"),
        ("STARS", "*?[a]*"),
        ("SELF", "$SELF${SELF}"),
        ("ÜÑ", "ü한국"),
    ];
    let env: std::collections::BTreeMap<String, String> = env
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    for escape in [Escape::Backslash, Escape::Backquote] {
        let one = dockerfile::expand_word(word, escape, &env);
        let several = dockerfile::expand_words(word, escape, &env);
        assert_eq!(
            one.is_ok(),
            several.is_ok(),
            "one word and several are read alike"
        );
        match one {
            Ok(expanded) => {
                assert!(expanded.found.iter().all(|name| env.contains_key(name)));
                assert!(expanded.unset.iter().all(|name| !env.contains_key(name)));
                let joined: usize = several.expect("just seen").iter().map(String::len).sum();
                assert!(joined <= expanded.text.len());
            }
            Err(error) => assert!(error.to_string().chars().count() < 3000),
        }
    }
    // What has nothing that means something is itself.
    if !word.contains(['$', '\'', '"', '\\', '`', '<']) {
        let text = dockerfile::expand_word(word, Escape::Backslash, &env)
            .expect("plain text")
            .text;
        assert_eq!(text, word);
    }
    // A failure of the heredoc is one of a substitution: quotes are text there.
    if !word.contains('$') {
        assert!(dockerfile::expand_heredoc(word, &env).is_ok());
    }
    if let Ok(ports) = dockerfile::parse_expose(word) {
        assert!(!ports.is_empty());
    }
    if let Ok(platform) = dockerfile::parse_platform(word) {
        assert!(dockerfile::parse_platform(&platform.to_string()).is_ok());
    }
    for error in [
        dockerfile::parse_duration(word).err(),
        dockerfile::parse_stop_signal(word).err(),
    ] {
        assert!(error.is_none_or(|error| !error.to_string().is_empty()));
    }
    if let Ok(chmod) = dockerfile::Chmod::parse(word) {
        assert!(chmod.apply(0o644, false) <= 0o7777);
    }
}
