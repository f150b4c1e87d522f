//! "Did you mean": the nearest of the names there are.

/// The nearest of `names` to `given`, if it is near enough to be a slip.
pub fn suggestion<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given: Vec<char> = given.to_lowercase().chars().take(32).collect();
    let slip = if given.len() > 4 { 2 } else { 1 };
    let distances = names.into_iter().map(|name| {
        let lower = name.to_lowercase();
        // A word that was not finished is a slip as well.
        let begun = given.len() >= 3 && lower.chars().take(given.len()).eq(given.iter().copied());
        match begun && lower.chars().count() > given.len() {
            true => (1, name),
            false => (distance(&given, &lower), name),
        }
    });
    distances
        .filter(|(distance, _)| (1..=slip).contains(distance))
        .min()
        .map(|(_, name)| name)
}

/// The edits between two words: a character more, less, other, or swapped with its neighbour.
fn distance(a: &[char], b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i];
        for j in 1..=b.len() {
            let mut edits = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            edits = edits.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                edits = edits.min(above[j - 2] + 1);
            }
            next.push(edits);
        }
        above = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_mended_and_other_words_left() {
        let names = ["RUN", "COPY", "ENTRYPOINT"];
        assert_eq!(suggestion("rnu", names), Some("RUN"));
        assert_eq!(suggestion("ENTRYPONT", names), Some("ENTRYPOINT"));
        assert_eq!(suggestion("entry", names), Some("ENTRYPOINT"));
        assert_eq!(suggestion("FOO", names), None);
        assert_eq!(suggestion("RUN", names), None);
        assert_eq!(suggestion("", names), None);
        assert_eq!(distance(&['k', 'i', 't', 't', 'e', 'n'], "sitting"), 3);
    }
}
