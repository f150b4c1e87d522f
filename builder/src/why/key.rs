//! What differs in the keys of two steps, apart from the layers below them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::{Pair, Reason, TOLD};
use crate::ledger::sources;
use crate::lint::stage::is_secret_name;

/// What of a key follows from the text of the instruction.
const OF_THE_TEXT: [&str; 8] = [
    "args",
    "script",
    "files",
    "destination",
    "chown",
    "chmod",
    "link",
    "parents",
];
/// What is put in place of the value of a secret.
const HIDDEN: &str = "***";

/// What differs, in the words of the Dockerfile as far as it can be said in them.
pub(super) fn differences(pair: &Pair<'_>, before: &Value, after: &Value) -> Vec<Reason> {
    let mut reasons = Vec::new();
    let (old, new) = (&pair.before.text, &pair.step.text);
    if old != new {
        let (before, after) = words(old, new);
        reasons.push(Reason::Instruction { before, after });
    }
    match (&before["inputs"], &after["inputs"]) {
        (Value::Object(before), Value::Object(after)) => {
            fields(pair, before, after, old == new, &mut reasons);
        }
        (before, after) if before != after && reasons.is_empty() => reasons.push(Reason::Setting {
            name: before_kind(pair),
            before: before.clone(),
            after: after.clone(),
        }),
        _ => {}
    }
    reasons
}

fn before_kind(pair: &Pair<'_>) -> String {
    pair.step.instruction().to_lowercase()
}

fn fields(
    pair: &Pair<'_>,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    same_text: bool,
    reasons: &mut Vec<Reason>,
) {
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        match name.as_str() {
            "env" => variables(old, new, reasons),
            "sources" => copied(pair, reasons),
            name if !same_text && OF_THE_TEXT.contains(&name) => {}
            _ => reasons.push(Reason::Setting {
                name: name.clone(),
                before: old.cloned().unwrap_or_default(),
                after: new.cloned().unwrap_or_default(),
            }),
        }
    }
}

fn variables(before: Option<&Value>, after: Option<&Value>, reasons: &mut Vec<Reason>) {
    let values = |env: Option<&Value>| -> BTreeMap<String, String> {
        let pairs = env.and_then(Value::as_object).into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        pairs.map(|(name, value)| (name.clone(), text(value))).collect()
    };
    let (before, after) = (values(before), values(after));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let shown = |value: Option<&String>| match is_secret_name(name) {
            true => value.map(|_| HIDDEN.to_owned()),
            false => value.cloned(),
        };
        reasons.push(Reason::Variable {
            name: name.clone(),
            before: shown(old),
            after: shown(new),
        });
    }
}

/// Which of the files that a COPY takes are others.
fn copied(pair: &Pair<'_>, reasons: &mut Vec<Reason>) {
    let mut told = 0;
    let mut more = 0;
    for (number, new) in pair.step.sources.iter().enumerate() {
        let old = pair.before.sources.get(number);
        if old.is_some_and(|old| old.digest == new.digest) {
            continue;
        }
        let lists = old.and_then(|old| {
            Some((
                sources::find(pair.store, &old.digest)?,
                sources::find(pair.store, &new.digest)?,
            ))
        });
        let changes = lists
            .map(|(old, new)| sources::compare(&old, &new))
            .unwrap_or_default();
        if changes.is_empty() {
            reasons.push(Reason::Sources {
                place: new.place.clone(),
            });
        }
        for (path, change) in changes {
            if told == TOLD {
                more += 1;
                continue;
            }
            told += 1;
            reasons.push(Reason::Source {
                place: new.place.clone(),
                path: path.to_string().trim_start_matches('/').to_owned(),
                change,
            });
        }
    }
    if more > 0 {
        reasons.push(Reason::MoreSources { count: more });
    }
}

/// The words that differ, without what is the same before and behind them.
fn words(before: &str, after: &str) -> (String, String) {
    let split = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let (before, after) = (split(before), split(after));
    let same =
        |pairs: &mut dyn Iterator<Item = (&String, &String)>| pairs.take_while(|(a, b)| a == b).count();
    let front = same(&mut before.iter().zip(&after));
    let back = same(&mut before[front..].iter().rev().zip(after[front..].iter().rev()));
    let middle = |words: &[String]| words[front..words.len() - back].join(" ");
    (middle(&before), middle(&after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_words_that_differ_are_told() {
        let told = |before, after| {
            let (before, after) = words(before, after);
            (before.leak() as &str, after.leak() as &str)
        };
        assert_eq!(told("RUN make -j 2 all", "RUN make -j 4 all"), ("2", "4"));
        assert_eq!(told("RUN a", "RUN a b"), ("", "b"));
        assert_eq!(told("RUN a a", "RUN a"), ("a", ""));
        assert_eq!(told("RUN x", "COPY y z"), ("RUN x", "COPY y z"));
    }

    #[test]
    fn values_of_secrets_are_not_shown() {
        let mut reasons = Vec::new();
        let env = |value: &str| serde_json::json!({"API_TOKEN": value, "MODE": value});
        variables(Some(&env("old")), Some(&env("new")), &mut reasons);
        let text = serde_json::to_string(&reasons).unwrap();
        assert_eq!(text.matches("old").count(), 1, "{text}");
        assert!(text.contains(HIDDEN));
    }
}
