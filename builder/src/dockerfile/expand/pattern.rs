//! The patterns of `${x#p}`, `${x%p}` and `${x/p/r}`: `*`, `?` and characters.
//!
//! BuildKit turns a pattern into a regular expression; here it is an automaton that is run over the
//! value once, so that no pattern takes more than its length times the value's.

/// Part of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// This character.
    Literal(char),
    /// Any one character. As in BuildKit a wildcard stops at the end of a line.
    Any,
    /// Any characters, or none.
    Star,
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

/// Longer patterns are refused: they bound the time of a match.
const MAX_LENGTH: usize = 1024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    /// From the start, as little as possible.
    ShortestPrefix,
    /// From the start, as much as possible.
    LongestPrefix,
    /// From the first place possible, as much as possible.
    Anywhere,
}

impl Pattern {
    /// Reads a pattern; `\` escapes `*`, `?`, `\` and, because `${x/p/r}` needs it, `/` and `}`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '*' => Token::Star,
                '?' => Token::Any,
                '\\' => match rest.next() {
                    Some(c @ ('*' | '?' | '\\' | '/' | '}')) => Token::Literal(c),
                    Some(c) => return Err(format!("invalid escape '\\{c}'")),
                    None => return Err("invalid escape '\\' at its end".to_owned()),
                },
                c => Token::Literal(c),
            });
            if tokens.len() > MAX_LENGTH {
                return Err(format!("it is longer than {MAX_LENGTH} characters"));
            }
        }
        Ok(Self(tokens))
    }

    /// `value` without the prefix that matches; whole if none does.
    pub(super) fn trim_prefix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().collect();
        let matched = find(&self.0, &text, 0, prefix(longest));
        text.iter().skip(matched.map_or(0, |m| m.1)).collect()
    }

    /// `value` without the suffix that matches; whole if none does.
    pub(super) fn trim_suffix(&self, value: &str, longest: bool) -> String {
        let text: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().copied().collect();
        let matched = find(&tokens, &text, 0, prefix(longest));
        text.iter().skip(matched.map_or(0, |m| m.1)).rev().collect()
    }

    /// `value` with the first match, or all of them, replaced; `None` if that is over `limit` bytes.
    pub(super) fn replace(&self, value: &str, replacement: &str, all: bool, limit: usize) -> Option<String> {
        let text: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        let mut last_end = None;
        while let Some((start, end)) = find(&self.0, &text, at, Want::Anywhere) {
            out.extend(text.iter().skip(at).take(start - at));
            // An empty match right after a match is part of that match.
            if start != end || last_end != Some(start) {
                out.push_str(replacement);
            }
            if out.len() > limit {
                return None;
            }
            last_end = Some(end);
            at = end;
            if !all {
                break;
            }
            if start == end {
                let Some(c) = text.get(at) else { break };
                out.push(*c);
                at += 1;
            }
        }
        out.extend(text.iter().skip(at));
        (out.len() <= limit).then_some(out)
    }
}

fn prefix(longest: bool) -> Want {
    if longest {
        Want::LongestPrefix
    } else {
        Want::ShortestPrefix
    }
}

/// The match from `from` on, as start and end. State `i` is "before token `i`" and holds the first
/// start that leads there: the leftmost match wins, then the longest (or shortest).
fn find(tokens: &[Token], text: &[char], from: usize, want: Want) -> Option<(usize, usize)> {
    let mut states: Vec<Option<usize>> = vec![None; tokens.len() + 1];
    let mut best: Option<(usize, usize)> = None;
    for at in from..=text.len() {
        if at == from || (want == Want::Anywhere && best.is_none()) {
            states[0] = states[0].or(Some(at));
        }
        for (i, token) in tokens.iter().enumerate() {
            if *token == Token::Star {
                states[i + 1] = earliest(states[i], states[i + 1]);
            }
        }
        if let Some(start) = states[tokens.len()]
            && best.is_none_or(|(first, _)| start <= first)
        {
            best = Some((start, at));
            if want == Want::ShortestPrefix {
                return best;
            }
        }
        let Some(c) = text.get(at) else { break };
        let alive = step(tokens, &mut states, *c, best);
        if !alive && (best.is_some() || want != Want::Anywhere) {
            break;
        }
    }
    best
}

/// Moves every state over one character; false if none is left. Starts after the best match's are
/// dropped, for they can't win.
fn step(tokens: &[Token], states: &mut [Option<usize>], c: char, best: Option<(usize, usize)>) -> bool {
    let mut alive = false;
    let mut from_before = None;
    for (i, state) in states.iter_mut().enumerate() {
        let here = state.filter(|start| best.is_none_or(|(first, _)| *start <= first));
        let token = tokens.get(i);
        let stays = here.filter(|_| token == Some(&Token::Star) && c != '\n');
        *state = earliest(stays, from_before);
        alive |= state.is_some();
        from_before = here.filter(|_| match token {
            Some(Token::Literal(literal)) => *literal == c,
            Some(Token::Any) => c != '\n',
            Some(Token::Star) | None => false,
        });
    }
    alive
}

fn earliest(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("a pattern")
    }

    #[test]
    fn trims_shortest_and_longest() {
        let name = "foo.bar.tar.gz";
        assert_eq!(pattern("*.").trim_prefix(name, false), "bar.tar.gz");
        assert_eq!(pattern("*.").trim_prefix(name, true), "gz");
        assert_eq!(pattern(".*").trim_suffix(name, false), "foo.bar.tar");
        assert_eq!(pattern(".*").trim_suffix(name, true), "foo");
        assert_eq!(pattern("zzz").trim_prefix(name, true), name);
        assert_eq!(pattern("*").trim_prefix(name, false), name);
        assert_eq!(pattern("*").trim_suffix(name, true), "");
        assert_eq!(pattern(r"\**").trim_suffix("xx**", true), "xx");
        assert_eq!(pattern(r"\**\*").trim_suffix("a***yy*", true), "a");
    }

    fn replaced(text: &str, value: &str, replacement: &str, all: bool) -> String {
        pattern(text)
            .replace(value, replacement, all, 100)
            .expect("short")
    }

    #[test]
    fn replaces_the_leftmost_longest() {
        assert_eq!(replaced("f??", "foo.foo", "Q", false), "Q.foo");
        assert_eq!(replaced("a*b", "xaabab!", "-", true), "x-!");
        assert_eq!(replaced("aa", "aaaaa", "b", true), "bba");
        assert_eq!(replaced("", "ab", "-", true), "-a-b-");
        assert_eq!(replaced("*", "ab", "-", true), "-");
        assert_eq!(replaced("ab", "aab", "-", true), "a-");
        assert_eq!(replaced("*", "a\nb", "-", true), "-\n-");
        assert_eq!(replaced(r"\/", "/a/", "$1", true), "$1a$1");
        assert_eq!(pattern("").replace("aaaa", &"b".repeat(30), true, 100), None);
    }

    #[test]
    fn refuses_needless_escapes() {
        for bad in [r"\", r"\x", r"\\\"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        assert!(Pattern::parse(&"a".repeat(MAX_LENGTH + 1)).is_err());
    }

    #[test]
    fn a_hostile_pattern_is_fast() {
        let text = "a".repeat(100_000);
        let replaced = pattern("*a*a*a*a*a*b").replace(&text, "", true, text.len());
        assert_eq!(replaced, Some(text));
    }

    /// Whether the tokens match all of the text, told by trying everything.
    fn matches_all(tokens: &[Token], text: &[char]) -> bool {
        match (tokens, text) {
            ([], text) => text.is_empty(),
            ([Token::Star, rest @ ..], text) => {
                matches_all(rest, text)
                    || matches!(text, [c, tail @ ..] if *c != '\n' && matches_all(tokens, tail))
            }
            ([Token::Any, rest @ ..], [c, tail @ ..]) => *c != '\n' && matches_all(rest, tail),
            ([Token::Literal(l), rest @ ..], [c, tail @ ..]) => l == c && matches_all(rest, tail),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn matches_are_those_of_trying_everything(
            source in "[ab*?]{0,6}",
            value in "[ab\n]{0,10}",
            longest: bool,
        ) {
            let compiled = pattern(&source);
            let text: Vec<char> = value.chars().collect();
            let prefixes = (0..=text.len()).filter(|n| matches_all(&compiled.0, &text[..*n]));
            let length = if longest { prefixes.max() } else { prefixes.min() };
            let expected: String = text.iter().skip(length.unwrap_or(0)).collect();
            prop_assert_eq!(compiled.trim_prefix(&value, longest), expected);

            let starts = (0..=text.len()).filter(|n| matches_all(&compiled.0, &text[*n..]));
            let start = if longest { starts.min() } else { starts.max() };
            let expected: String = text.iter().take(start.unwrap_or(text.len())).collect();
            prop_assert_eq!(compiled.trim_suffix(&value, longest), expected);

            let first = (0..=text.len()).find_map(|start| {
                let ends = (start..=text.len()).rev();
                let mut ends = ends.filter(|end| matches_all(&compiled.0, &text[start..*end]));
                ends.next().map(|end| (start, end))
            });
            prop_assert_eq!(find(&compiled.0, &text, 0, Want::Anywhere), first);
        }
    }
}
