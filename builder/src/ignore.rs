//! `.dockerignore`: which paths of a build context stay out of the build.
//!
//! The rules are those of moby/patternmatcher as BuildKit applies them while it walks a context, not
//! git's: a pattern is rooted at the context; the last pattern that matches a path or one of its
//! parents decides; `!` takes paths in again, also below an excluded directory.

use crate::glob::{DoubleStar, Glob, GlobError};

/// A `.dockerignore` file that can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct IgnoreError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: IgnoreProblem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreProblem {
    /// `!` and nothing after it.
    #[error("illegal exclusion pattern: \"!\"")]
    EmptyException,
    /// A pattern that can't be read.
    #[error(transparent)]
    Pattern(#[from] GlobError),
}

/// The patterns of a `.dockerignore` file, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// `!`: what it matches is not ignored.
    exception: bool,
    glob: Glob,
}

/// What a walk knows of a directory: which patterns match it or a directory above it. The default is
/// the root's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inherited {
    matched: Vec<bool>,
}

impl Ignore {
    /// Reads a file: a pattern a line, `#` at the start of a line for a comment, blanks around a
    /// pattern and a byte order mark at the start of the file ignored.
    ///
    /// # Errors
    /// If a pattern can't be read.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        let mut patterns = Vec::new();
        for (i, line) in text.split(|b| *b == b'\n').enumerate() {
            let pattern = parse_line(line).map_err(|problem| IgnoreError { line: i + 1, problem })?;
            patterns.extend(pattern);
        }
        Ok(Self { patterns })
    }

    /// Patterns that are not from a file, as `--exclude` of `COPY` gives them.
    ///
    /// # Errors
    /// If a pattern can't be read; its number stands for the line.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, IgnoreError> {
        let parse = |(i, line): (usize, &str)| {
            parse_pattern(line.trim().as_bytes())
                .map_err(|problem| IgnoreError { line: i + 1, problem })
                .transpose()
        };
        let patterns = patterns.into_iter().enumerate().filter_map(parse);
        Ok(Self {
            patterns: patterns.collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is no pattern, so that nothing is ignored.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether a pattern takes paths in again (`!`).
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.exception)
    }

    /// Whether `path` is ignored: a path relative to the context's root, components parted by `/`,
    /// with no `.` and no `..` among them. The root itself (an empty path) never is.
    pub fn matches(&self, path: impl AsRef<[u8]>) -> bool {
        let path = path.as_ref();
        let mut parent = Inherited::default();
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(at, _)| at);
        for end in ends {
            parent = self.step(&parent, path.get(..end).unwrap_or_default()).1;
        }
        self.step(&parent, path).0
    }

    /// Whether `path` is ignored, and what to hand on for the paths directly below it; `parent` is
    /// what its directory got. The same answer as [`Ignore::matches`], without the way from the root.
    pub fn step(&self, parent: &Inherited, path: impl AsRef<[u8]>) -> (bool, Inherited) {
        let path = path.as_ref();
        let mut ignored = false;
        let mut matched = Vec::with_capacity(self.patterns.len());
        for (i, pattern) in self.patterns.iter().enumerate() {
            let inherited = parent.matched.get(i).copied().unwrap_or(false);
            // A pattern that would change nothing isn't asked. It counts as not matching below, too:
            // so does BuildKit, and it shows where an exception lies between two such patterns.
            let asked = pattern.exception == ignored && !path.is_empty();
            let matches = inherited || asked && pattern.glob.matches(path);
            if matches {
                ignored = !pattern.exception;
            }
            matched.push(matches);
        }
        (ignored, Inherited { matched })
    }

    /// Whether something below the directory could be taken in again by `!`. Where not, a walk can
    /// leave out a directory that is ignored.
    pub fn may_hold_exceptions(&self, directory: impl AsRef<[u8]>) -> bool {
        let directory = directory.as_ref();
        let mut exceptions = self.patterns.iter().filter(|pattern| pattern.exception);
        exceptions.any(|pattern| directory.is_empty() || pattern.glob.may_match_below(directory))
    }
}

fn parse_line(line: &[u8]) -> Result<Option<Pattern>, IgnoreProblem> {
    if line.first() == Some(&b'#') {
        Ok(None)
    } else {
        parse_pattern(line.trim_ascii())
    }
}

fn parse_pattern(pattern: &[u8]) -> Result<Option<Pattern>, IgnoreProblem> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let (exception, pattern) = match pattern.strip_prefix(b"!") {
        Some(pattern) => (true, pattern.trim_ascii()),
        None => (false, pattern),
    };
    if pattern.is_empty() {
        return Err(IgnoreProblem::EmptyException);
    }
    let glob = Glob::parse(&cleaned(pattern), DoubleStar::CrossesDirectories)?;
    Ok(Some(Pattern { exception, glob }))
}

/// The path without `.`, `..` and needless slashes, and without one at its start: as Go's
/// `filepath.Clean` has it, by text alone.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let rooted = path.first() == Some(&b'/');
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if components.last().is_some_and(|last| *last != b"..") => {
                components.pop();
            }
            b".." if rooted => {}
            component => components.push(component),
        }
    }
    if components.is_empty() {
        b".".to_vec()
    } else {
        components.join(&b'/')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(text.as_bytes()).expect("patterns")
    }

    const CONTEXT: [&str; 10] = [
        ".git/HEAD",
        "a.txt",
        "b.log",
        "d/e/keep.log",
        "d/e/z.log",
        "d/x.log",
        "d/y.txt",
        "keep.log",
        "tmp/sub/t2",
        "tmp/t1",
    ];

    fn kept(text: &str) -> Vec<&'static str> {
        let ignore = ignore(text);
        CONTEXT.into_iter().filter(|path| !ignore.matches(path)).collect()
    }

    #[test]
    fn patterns_are_rooted() {
        let without_logs = ["a.txt", "d/e/keep.log", "d/e/z.log", "d/x.log", "d/y.txt"];
        assert_eq!(kept("*.log\ntmp\n.git\n"), without_logs);
        assert_eq!(
            kept("**/*.log\n.git"),
            ["a.txt", "d/y.txt", "tmp/sub/t2", "tmp/t1"]
        );
        let deep = [
            "a.txt",
            "b.log",
            "d/e/keep.log",
            "d/x.log",
            "d/y.txt",
            "keep.log",
            "tmp/t1",
        ];
        assert_eq!(kept("d/**/z.log\n**/t2\n**/.git\n"), deep);
    }

    #[test]
    fn exceptions_reach_below_excluded_directories() {
        assert_eq!(kept("*\n!d/e\n!a.txt\n"), ["a.txt", "d/e/keep.log", "d/e/z.log"]);
        let parents = kept("d\n!d/e/keep.log\n!d/y.txt\n");
        assert!(parents.contains(&"d/y.txt") && parents.contains(&"d/e/keep.log"));
        assert!(!parents.contains(&"d/x.log") && !parents.contains(&"d/e/z.log"));
        let negated = kept("*.log\n!keep.log\ntmp/*\n!tmp/sub\n");
        assert!(negated.contains(&"keep.log") && negated.contains(&"tmp/sub/t2"));
        assert!(!negated.contains(&"b.log") && !negated.contains(&"tmp/t1"));
    }

    #[test]
    fn paths_are_cleaned() {
        let slashes = [
            "/a.txt",
            "d/",
            "./b.log",
            "tmp/sub/",
            " .git ",
            "# no",
            "keep.log\r",
        ];
        assert_eq!(kept(&slashes.join("\n")), ["tmp/t1"]);
        let dots = kept("d/../a.txt\ntmp/./t1\n\u{feff}x");
        assert!(!dots.contains(&"a.txt") && !dots.contains(&"tmp/t1"));
        assert_eq!(kept("\u{feff}a.txt").len(), CONTEXT.len() - 1);
        assert_eq!(kept("d/..\n/\n.\n..").len(), CONTEXT.len());
    }

    #[test]
    fn double_stars() {
        for (pattern, path, expected) in [
            ("**", "a/b", true),
            ("**/", "a/b", true),
            ("**/file", "file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file", "dir/file/x", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir", false),
            ("dir/**", "dir/dir2/file/", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir2/file", true),
            ("a**b", "ab", true),
            ("a**b", "axb", false),
            ("a**b", "ax/b", true),
            ("**foo", "barfoo", true),
            ("**foo*", "barfoo", false),
            ("abc.def", "abcXdef", false),
            ("a\\*b", "a*b", true),
            ("a/b*", "a/bc/d", true),
            ("[a-c]x", "bx", true),
            ("a(b)c", "a(b)c", true),
        ] {
            assert_eq!(ignore(pattern).matches(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_walk_skips_what_holds_no_exception() {
        let ignore = ignore("*\n!d/e\n!x*/y\n");
        assert!(ignore.may_hold_exceptions("d"));
        assert!(ignore.may_hold_exceptions("xyz"));
        assert!(ignore.may_hold_exceptions(""));
        assert!(!ignore.may_hold_exceptions("tmp"));
        assert!(!ignore.may_hold_exceptions("d/f"));
        assert!(!super::Ignore::default().may_hold_exceptions("d"));
    }

    #[test]
    fn the_line_of_an_error_is_named() {
        let error = |text: &str| Ignore::parse(text.as_bytes()).expect_err(text).to_string();
        assert_eq!(error("a\n!\n"), "line 2: illegal exclusion pattern: \"!\"");
        assert!(error("\n\n[a").starts_with("line 3: syntax error in pattern \"[a\""));
    }

    #[test]
    fn exclude_patterns_know_no_comments() {
        let exclude = Ignore::from_patterns(["#a", "!#ab", "#*"]).expect("patterns");
        assert!(exclude.matches("#a") && exclude.matches("#ab"));
    }

    proptest! {
        #[test]
        fn no_file_panics(text in any::<Vec<u8>>(), path in any::<Vec<u8>>()) {
            if let Ok(ignore) = Ignore::parse(&text) {
                ignore.matches(&path);
            }
        }

        #[test]
        fn skipping_loses_no_exception(
            lines in prop::collection::vec("!?[ab*/]{1,5}", 0..5),
            path in "[ab](/[ab]){0,4}",
        ) {
            let ignore = ignore(&lines.join("\n").replace("!\n", "!a\n"));
            let parents = path.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| &path[..at]);
            let skipped = |dir: &str| ignore.matches(dir) && !ignore.may_hold_exceptions(dir);
            for parent in parents {
                if skipped(parent) {
                    prop_assert!(ignore.matches(&path), "{lines:?} {parent}");
                }
            }
        }
    }
}
