use proptest::prelude::*;

use super::*;

fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn expand(word: &str, env: &BTreeMap<String, String>) -> String {
    match expand_word(word, Escape::Backslash, env) {
        Ok(expanded) => expanded.text,
        Err(error) => panic!("{error}"),
    }
}

fn problem(word: &str) -> ExpandProblem {
    let env = env(&[("SET", "x"), ("EMPTY", "")]);
    expand_word(word, Escape::Backslash, &env)
        .expect_err(word)
        .problem
}

#[test]
fn unset_and_empty_differ() {
    let env = env(&[("SET", "val"), ("EMPTY", "")]);
    for (word, expected) in [
        ("${SET:-d}${UNSET:-d}${EMPTY:-d}", "valdd"),
        ("${SET-d}${UNSET-d}${EMPTY-d}", "vald"),
        ("${SET:+a}${UNSET:+a}${EMPTY:+a}", "a"),
        ("${SET+a}${UNSET+a}${EMPTY+a}", "aa"),
        ("${SET:?e}${SET?e}${EMPTY?e}", "valval"),
        ("${UNSET:-${SET:-x}}-${Z:-${Y:-${X:-deep}}}", "val-deep"),
    ] {
        assert_eq!(expand(word, &env), expected, "{word}");
    }
}

#[test]
fn patterns() {
    let env = env(&[
        ("FOO", "xxyy"),
        ("URL", "http://a.b"),
        ("PATH", "/tmp/tmp/x.txt"),
        ("ODD", r"()[]{}^$.*?|\x"),
        ("NEEDLE", r"\*/"),
        ("STARS", "/foo*/*/*.txt"),
        ("SLASHES", "http://"),
        ("T", "/tmp"),
        ("NONE", ""),
    ]);
    for (word, expected) in [
        ("${FOO#*x*y}", "y"),
        ("${FOO##*x}", "yy"),
        ("${FOO#}${FOO##}${FOO%}", "xxyyxxyyxxyy"),
        ("${FOO%y}", "xxy"),
        ("${FOO%%y*}", "xx"),
        ("${FOO#$NONE}", "xxyy"),
        (r"${ODD#()[]{\}^$.\*\?|\\}", "x"),
        (
            "${STARS/$NEEDLE/.} ${STARS//$NEEDLE/.}",
            "/foo.*/*.txt /foo..*.txt",
        ),
        ("${PATH/$T/} ${PATH//$T/}", "/tmp/x.txt /x.txt"),
        ("${URL/$SLASHES/https://}", "https://a.b"),
        (r"${PATH//\//\/}", r"\/tmp\/tmp\/x.txt"),
        ("${FOO///}${UNSET///}${UNSET#x}", "xxyy"),
        ("${ABC:-.}${FOO%x}${ABC:-.}", ".xxyy."),
        ("\"${FOO#x}\"", "xyy"),
    ] {
        assert_eq!(expand(word, &env), expected, "{word}");
    }
}

#[test]
fn problems_are_told_apart() {
    use ExpandProblem as P;
    assert_eq!(problem("a'b"), P::UnterminatedQuote('\''));
    assert_eq!(problem("a\"b"), P::UnterminatedQuote('"'));
    assert_eq!(problem("${Y"), P::MissingBrace);
    assert_eq!(problem("${Y:-a"), P::MissingBrace);
    assert_eq!(problem("${"), P::MissingBrace);
    assert_eq!(problem("${}"), P::BadSubstitution);
    assert_eq!(problem("${SET/a}"), P::MissingSlash);
    assert_eq!(problem("${SET=y}"), P::UnsupportedModifier("=".to_owned()));
    assert_eq!(problem("${SET:#y}"), P::UnsupportedModifier(":#".to_owned()));
    assert_eq!(
        problem(r"${SET#\y}").to_string().split(':').next(),
        Some(r"invalid pattern (\y) in substitution")
    );
    let required = |word| problem(word).to_string();
    assert_eq!(required("${N?}"), "N: is not allowed to be unset");
    assert_eq!(required("${EMPTY:?}"), "EMPTY: is not allowed to be empty");
    assert_eq!(required("${N:?give $SET}"), "N: give x");
}

#[test]
fn what_was_unset_is_named() {
    let env = env(&[("SET", "x")]);
    let expanded = expand_word("$A${SET}${B:-$C}'$D'", Escape::Backslash, &env).expect("valid");
    assert_eq!(Vec::from_iter(expanded.unset), ["A", "B", "C"]);
}

#[test]
fn the_escape_character_may_be_another() {
    let env = env(&[("v", "x")]);
    let expand = |word| expand_word(word, Escape::Backquote, &env).map(|e| e.text);
    assert_eq!(expand(r"C:\dir\$v").as_deref(), Ok(r"C:\dir\x"));
    assert_eq!(expand("`$v a` b \"`\"`x\"").as_deref(), Ok("$v a b \"`x"));
}

#[test]
fn heredocs_keep_their_quotes() {
    let env = env(&[("NAME", "world")]);
    let expand = |body| expand_heredoc(body, &env).map(|e| e.text);
    assert_eq!(expand("it's \"$NAME\"\n").as_deref(), Ok("it's \"world\"\n"));
    assert_eq!(expand(r"\$NAME \\ `x`").as_deref(), Ok(r"$NAME \ `x`"));
}

#[test]
fn defaults_do_not_lose_the_words_around_them() {
    let split = |word| expand_words(word, Escape::Backslash, &NoVariables);
    assert_eq!(
        split("80${X:-80} a${Y:-b c}d"),
        Ok(["8080", "ab", "cd"].map(String::from).into())
    );
    assert_eq!(split("\"\" ''"), Ok(vec![]));
}

#[test]
fn growth_and_depth_are_bounded() {
    let env = env(&[("A", &"x".repeat(1 << 20))]);
    let grown = expand_word(&"$A".repeat(17), Escape::Backslash, &env).expect_err("too long");
    assert_eq!(grown.problem, ExpandProblem::TooLong);
    let replaced = expand_word("${A//x/$A}", Escape::Backslash, &env).expect_err("too long");
    assert_eq!(replaced.problem, ExpandProblem::TooLong);
    let deep = "${a:-".repeat(100_000);
    assert_eq!(problem(&deep), ExpandProblem::TooDeep);
    let nested = format!("{}x{}", "${a:-".repeat(100), "}".repeat(100));
    assert_eq!(expand(&nested, &BTreeMap::new()), "x");
}

proptest! {
    #[test]
    fn no_word_panics(word in "[a$\\{\\}:?#%/+*'\"\\\\`<\\- é-]{0,24}", value in "[a*/.]{0,6}") {
        let env = env(&[("a", &value)]);
        for escape in [Escape::Backslash, Escape::Backquote] {
            let _ = expand_word(&word, escape, &env);
            let _ = expand_words(&word, escape, &env);
        }
        let _ = expand_heredoc(&word, &env);
        let _ = split_raw(&word);
    }

    #[test]
    fn an_escaped_text_is_itself(text in any::<String>()) {
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(expand(&escaped, &BTreeMap::new()), text);
    }
}
