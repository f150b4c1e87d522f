//! Output for people: stdout, tables, sizes and times.

use std::fmt;
use std::io::{self, BufWriter, Stdout, Write};

use crate::diagnostic::StdoutClosed;

/// Stdout, buffered. When its reader has gone away it fails with an error that ends the program quietly.
pub struct Output(BufWriter<Stdout>);

impl Output {
    /// Writes to this process's stdout.
    pub fn new() -> Self {
        Self(BufWriter::with_capacity(64 << 10, io::stdout()))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark_closed)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark_closed)
    }
}

fn mark_closed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed),
        _ => error,
    }
}

/// Rows under headings, each column as wide as its widest cell.
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these headings and no rows.
    pub fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)));
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<&[String]> = self.rows.iter().map(<[String; N]>::as_slice).collect();
        f.write_str(&aligned(&rows))
    }
}

/// Lines in columns, which are cut at tabs.
pub fn columns(lines: &[String]) -> String {
    let cells = |line: &String| line.split('\t').map(printable).collect();
    let rows: Vec<Vec<String>> = lines.iter().map(cells).collect();
    aligned(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn aligned(rows: &[&[String]]) -> String {
    let mut widths = vec![0; rows.iter().map(|row| row.len()).max().unwrap_or(0)];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(*row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells = widths
            .iter()
            .zip(*row)
            .map(|(width, cell)| format!("{cell:width$}   "));
        text.push_str(cells.collect::<String>().trim_end());
        text.push('\n');
    }
    text
}

/// What stands above a column of this field: `CreatedBy` under `CREATED BY`.
pub fn heading(field: &str) -> String {
    if field == "CreatedSince" {
        return "CREATED".to_owned();
    }
    let mut out = String::new();
    for c in field.chars() {
        if c.is_uppercase() && out.ends_with(char::is_lowercase) {
            out.push(' ');
        }
        out.push(c);
    }
    out.to_uppercase()
}

/// The text without anything that a terminal would obey: an image's names and labels are foreign.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// A line of a patch for a terminal, which keeps its tabs.
pub fn patch_line(line: &str) -> String {
    line.split('\t').map(printable).collect::<Vec<_>>().join("\t")
}

/// A number of bytes as Docker shows it: three significant digits, powers of 1000.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // The error of the conversion is far below the three digits that are shown.
    #[allow(clippy::cast_precision_loss)]
    let mut value = bytes as f64;
    let mut unit = 0;
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    let number = format!("{value:.decimals$}");
    let number = match decimals {
        0 => &number,
        _ => number.trim_end_matches('0').trim_end_matches('.'),
    };
    format!("{number}{}", UNITS[unit])
}

/// When an image, or a layer of it, was made. Those that don't say it come last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Created(Option<jiff::Timestamp>);

impl Created {
    /// Reads a time as in RFC 3339.
    pub fn parse(text: Option<&str>) -> Self {
        Self(text.and_then(|text| text.parse().ok()))
    }

    /// How long ago that was, as Docker says it.
    pub fn ago(&self) -> String {
        match self.0 {
            // Reproducible builds set the epoch, or the zero of Go's times.
            Some(time) if time.as_second() > 0 => ago(jiff::Timestamp::now().as_second() - time.as_second()),
            _ => "N/A".to_owned(),
        }
    }
}

/// How long ago something was, as Docker says it.
fn ago(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".to_owned(),
        _ => format!("{} ago", duration(seconds)),
    }
}

fn duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (77_812_345, "77.8MB"),
            (999_600, "1MB"),
            (120_000_000, "120MB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_are_said_as_docker_says_them() {
        for (seconds, text) in [
            (-5, "in the future"),
            (0, "Less than a second ago"),
            (45, "45 seconds ago"),
            (60, "About a minute ago"),
            (190, "3 minutes ago"),
            (3600, "About an hour ago"),
            (2 * 86400, "2 days ago"),
            (20 * 86400, "2 weeks ago"),
            (400 * 86400, "13 months ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["A", "LONG"]);
        table.row(["abc".to_owned(), "x\x1b[31m".to_owned()]);
        assert_eq!(table.to_string(), "A     LONG\nabc   x\u{fffd}[31m\n");
    }
}
