//! The functions of templates: those of Go that are of use here, and those that Docker adds.

use std::cmp::Ordering;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The names of all functions.
pub const NAMES: [&str; 23] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad",
    "print", "printf", "println", "slice", "split", "title", "truncate", "upper",
];

/// Calls one of them.
///
/// # Errors
/// If it cannot take these arguments.
pub fn call(function: &str, arguments: &[Value]) -> anyhow::Result<Value> {
    let text = |n: usize| arguments.get(n).and_then(Value::as_str);
    let number = |n: usize| {
        arguments
            .get(n)
            .and_then(Value::as_u64)
            .and_then(|n| usize::try_from(n).ok())
    };
    let wrong = || format!("{function} can't take these arguments");
    let value = match (function, arguments) {
        ("json", [value]) => value.to_string().into(),
        ("print", all) => all.iter().map(show).collect::<String>().into(),
        ("println", all) => format!("{}\n", all.iter().map(show).collect::<Vec<_>>().join(" ")).into(),
        ("printf", [format, all @ ..]) => printf(format.as_str().with_context(wrong)?, all)?.into(),
        ("len", [value]) => length(value).with_context(wrong)?.into(),
        ("index", [value, keys @ ..]) => index(value, keys)?,
        ("slice", [Value::String(value), ..]) => {
            let end = number(2).unwrap_or(value.len());
            value.get(number(1).unwrap_or(0)..end).with_context(wrong)?.into()
        }
        ("join", [Value::Null, _]) => "".into(),
        ("join", [Value::Array(list), _]) => {
            let list: Vec<String> = list.iter().map(show).collect();
            list.join(text(1).with_context(wrong)?).into()
        }
        ("split", [Value::String(value), Value::String(separator)]) => match separator.is_empty() {
            true => value.chars().map(|c| c.to_string()).collect::<Vec<_>>().into(),
            false => value
                .split(separator.as_str())
                .map(str::to_owned)
                .collect::<Vec<_>>()
                .into(),
        },
        ("upper", [Value::String(value)]) => value.to_uppercase().into(),
        ("lower", [Value::String(value)]) => value.to_lowercase().into(),
        ("title", [Value::String(value)]) => title(value).into(),
        ("truncate", [Value::String(value), _]) => value
            .chars()
            .take(number(1).with_context(wrong)?)
            .collect::<String>()
            .into(),
        ("pad", [Value::String(value), _, _]) => {
            // Wider than any terminal is no padding.
            let width = |n| number(n).filter(|width| *width <= 1000).with_context(wrong);
            format!("{}{value}{}", " ".repeat(width(1)?), " ".repeat(width(2)?)).into()
        }
        ("not", [value]) => (!truth(value)).into(),
        ("and", [all @ .., last]) => all.iter().find(|value| !truth(value)).unwrap_or(last).clone(),
        ("or", [all @ .., last]) => all.iter().find(|value| truth(value)).unwrap_or(last).clone(),
        ("eq", [value, others @ ..]) if !others.is_empty() => others.contains(value).into(),
        ("ne", [a, b]) => (a != b).into(),
        ("lt" | "le" | "gt" | "ge", [a, b]) => {
            let order = order(a, b).with_context(wrong)?;
            match function {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        _ => bail!(wrong()),
    };
    Ok(value)
}

/// A value as Go prints it.
pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}:{}", show(value)));
            format!("map[{}]", pairs.collect::<Vec<_>>().join(" "))
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// Whether `if` takes the value for true.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        other => length(other) != Some(0),
    }
}

fn length(value: &Value) -> Option<usize> {
    match value {
        Value::String(text) => Some(text.len()),
        Value::Array(list) => Some(list.len()),
        Value::Object(map) => Some(map.len()),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn index(value: &Value, keys: &[Value]) -> anyhow::Result<Value> {
    let mut value = value;
    for key in keys {
        value = match (value, key) {
            (Value::Array(list), Value::Number(_)) => {
                let found = key.as_u64().and_then(|n| list.get(usize::try_from(n).ok()?));
                found.with_context(|| format!("index out of range: {key}"))?
            }
            (Value::Object(map), Value::String(name)) => map.get(name).unwrap_or(&Value::Null),
            (Value::Null, _) => &Value::Null,
            (other, key) => bail!("{} has no index {}", show(other), show(key)),
        };
    }
    Ok(value.clone())
}

fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64()?.partial_cmp(&b.as_f64()?),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    let mut out = String::new();
    for c in text.chars() {
        match start {
            true => out.extend(c.to_uppercase()),
            false => out.push(c),
        }
        start = c.is_whitespace();
    }
    out
}

/// `%s`, `%v`, `%d` and `%q`, with a width as in `%-20s`.
fn printf(format: &str, arguments: &[Value]) -> anyhow::Result<String> {
    let mut arguments = arguments.iter();
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut width = String::new();
        let verb = loop {
            match rest.next() {
                Some(c @ ('-' | '0'..='9')) => width.push(c),
                other => break other,
            }
        };
        let text = match verb {
            Some('%') => "%".to_owned(),
            Some(verb @ ('s' | 'v' | 'd' | 'q')) => {
                let value = arguments
                    .next()
                    .with_context(|| format!("printf has no value for %{verb}"))?;
                match (verb, value) {
                    ('q', Value::String(_)) => value.to_string(),
                    _ => show(value),
                }
            }
            Some(verb) => bail!("printf knows %s, %v, %d and %q, and no %{verb}"),
            None => bail!("printf's format ends in the middle of a %"),
        };
        let (left, digits) = match width.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, width.as_str()),
        };
        let width = match digits {
            "" => 0,
            digits => digits
                .parse()
                .ok()
                .filter(|width| *width <= 1000)
                .context("printf's width is no number")?,
        };
        match left {
            true => out.push_str(&format!("{text:<width$}")),
            false => out.push_str(&format!("{text:>width$}")),
        }
    }
    Ok(out)
}
