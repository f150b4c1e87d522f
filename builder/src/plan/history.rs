//! The texts that an image's history has of each instruction, as Docker writes them: its `%q` and `%v` are Go's.

use crate::dockerfile::go_quoted;
use crate::image::Healthcheck;

/// `["a" "b"]`: Go's `%q` of a list of strings.
pub fn quoted_list(words: &[String]) -> String {
    let words: Vec<_> = words.iter().map(|w| go_quoted(w)).collect();
    format!("[{}]", words.join(" "))
}

/// `[a b]`: Go's `%v` of a list of strings.
pub fn plain_list<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let words: Vec<_> = words.into_iter().map(|w| w.as_ref().to_owned()).collect();
    format!("[{}]", words.join(" "))
}

/// `A=1 B=2` for ENV and LABEL.
pub fn pairs(name: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    format!("{name} {}", pairs.join(" "))
}

/// RUN: the build arguments in force, the shell, the command.
pub fn run(arguments: &[(&str, &str)], shell: &[String], command: &[String]) -> String {
    let mut words = vec!["RUN".to_owned()];
    if !arguments.is_empty() {
        words.push(format!("|{}", arguments.len()));
        words.extend(arguments.iter().map(|(name, value)| format!("{name}={value}")));
    }
    words.extend(shell.iter().chain(command).cloned());
    words.push("# buildkit".to_owned());
    words.join(" ")
}

/// HEALTHCHECK: Go's `%q` of its structure.
pub fn healthcheck(check: &Healthcheck) -> String {
    let duration = |d: Option<i64>| format!("\"{}\"", go_duration(d.unwrap_or(0)));
    format!(
        "HEALTHCHECK &{{{} {} {} {} {} {}}}",
        quoted_list(&check.test),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        quoted_rune(check.retries.unwrap_or(0)),
    )
}

/// A duration in nanoseconds as Go prints it: `5m0s`, `1.5s`, `2ms`.
fn go_duration(nanoseconds: i64) -> String {
    let total = nanoseconds.unsigned_abs();
    if total == 0 {
        return "0s".to_owned();
    }
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let decimal = |value: u64, unit: u64| {
        let digits = unit.ilog10() as usize;
        let fraction = format!("{:0digits$}", value % unit);
        let fraction = fraction.trim_end_matches('0');
        match fraction {
            "" => (value / unit).to_string(),
            _ => format!("{}.{fraction}", value / unit),
        }
    };
    if total < 1_000 {
        return format!("{sign}{total}ns");
    }
    if total < 1_000_000 {
        return format!("{sign}{}µs", decimal(total, 1_000));
    }
    if total < 1_000_000_000 {
        return format!("{sign}{}ms", decimal(total, 1_000_000));
    }
    let minutes = total / 60_000_000_000;
    let seconds = decimal(total % 60_000_000_000, 1_000_000_000);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, m) => format!("{sign}{m}m{seconds}s"),
        (h, m) => format!("{sign}{h}h{m}m{seconds}s"),
    }
}

/// A number as Go's `%q` prints it: as the character of that code.
fn quoted_rune(number: i64) -> String {
    let character = u32::try_from(number)
        .ok()
        .and_then(char::from_u32)
        .unwrap_or('\u{fffd}');
    match character {
        '\'' => r"'\''".to_owned(),
        '"' => "'\"'".to_owned(),
        _ => {
            let quoted = go_quoted(&character.to_string());
            format!("'{}'", &quoted[1..quoted.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let cases = [
            (300_000_000_000, "5m0s"),
            (3_000_000_000, "3s"),
            (1_500_000_000, "1.5s"),
            (2_000_000, "2ms"),
            (1_500, "1.5µs"),
            (7, "7ns"),
            (3_660_000_000_000, "1h1m0s"),
            (0, "0s"),
        ];
        for (nanoseconds, text) in cases {
            assert_eq!(go_duration(nanoseconds), text);
        }
    }

    #[test]
    fn numbers_are_quoted_as_characters() {
        assert_eq!(quoted_rune(2), r"'\x02'");
        assert_eq!(quoted_rune(0), r"'\x00'");
        assert_eq!(quoted_rune(10), r"'\n'");
        assert_eq!(quoted_rune(65), "'A'");
        assert_eq!(quoted_rune(39), r"'\''");
    }
}
