//! How stages and instructions are called and written.

use std::collections::BTreeSet;

use super::{Linter, Rule};
use crate::dockerfile::{Dockerfile, Stage, Word};

/// Names that FROM and `--from` understand as something else.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(linter: &Linter<'_>, dockerfile: &Dockerfile) {
    let mut seen = BTreeSet::new();
    for stage in &dockerfile.stages {
        let site = linter.at(&stage.comments, stage.span);
        check_from(linter, stage);
        let Some(name) = &stage.name else { continue };
        if RESERVED.contains(&name.text.as_str()) {
            let detail = format!(
                "the stage is called {}, which FROM and --from do not find",
                name.text
            );
            site.report(Rule::ReservedStageName, name.span, detail);
        }
        if !seen.insert(name.text.as_str()) {
            let detail = format!("an earlier stage is called {} as well", name.text);
            site.report(Rule::DuplicateStageName, name.span, detail);
        }
    }
    check_case(linter, dockerfile);
}

fn check_from(linter: &Linter<'_>, stage: &Stage) {
    let site = linter.at(&stage.comments, stage.span);
    let [_, keyword, name] = stage.words.as_slice() else {
        return;
    };
    if name.text != name.text.to_lowercase() {
        let detail = format!("write the stage's name {} in lower case", name.text);
        site.report(Rule::StageNameCasing, name.span, detail);
    }
    let from = &stage.keyword.text;
    let alike = match Case::of(from) {
        Case::Lower => keyword.text == keyword.text.to_lowercase(),
        Case::Upper => keyword.text == keyword.text.to_uppercase(),
        // The rule of instructions says it.
        Case::Mixed => true,
    };
    if !alike {
        let detail = format!("{from} and {} differ in case", keyword.text);
        site.report(Rule::FromAsCasing, keyword.span, detail);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
    Mixed,
}

impl Case {
    fn of(word: &str) -> Self {
        match word {
            _ if word == word.to_lowercase() => Self::Lower,
            _ if word == word.to_uppercase() => Self::Upper,
            _ => Self::Mixed,
        }
    }
}

/// Every instruction is written as most are; capitals if there are as many of each.
fn check_case(linter: &Linter<'_>, dockerfile: &Dockerfile) {
    let sites = dockerfile.stages.iter().flat_map(|stage| {
        let from = (&stage.keyword, linter.at(&stage.comments, stage.span));
        let instructions = stage.instructions.iter();
        let others = instructions.map(|i| (&i.keyword, linter.at(&i.comments, i.span)));
        std::iter::once(from).chain(others)
    });
    let sites = Vec::from_iter(sites);
    let count = |case| {
        sites
            .iter()
            .filter(|(word, _)| Case::of(&word.text) == case)
            .count()
    };
    let (usual, name) = match count(Case::Lower) > count(Case::Upper) {
        true => (Case::Lower, "small letters"),
        false => (Case::Upper, "capitals"),
    };
    for (Word { text, span }, site) in sites {
        if Case::of(text) != usual {
            let detail = format!("{text} is not in {name}, as most instructions are");
            site.report(Rule::ConsistentInstructionCasing, *span, detail);
        }
    }
}
