//! Words and where they stand.

use std::collections::BTreeMap;

use serde::Serialize;

/// The lines of each word, counted from 1.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Index(BTreeMap<String, Vec<usize>>);

impl Index {
    pub fn of(text: &str) -> Self {
        let mut index = Self::default();
        for (number, line) in text.lines().enumerate() {
            for word in line.split_whitespace() {
                index.0.entry(word.to_lowercase()).or_default().push(number + 1);
            }
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found() {
        assert_eq!(Index::of("a b\nA").0["a"], [1, 2]);
    }
}
