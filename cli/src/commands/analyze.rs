//! `mica analyze`.

use std::io::Write as _;
use std::process::ExitCode;

use mica_builder::look::instruction::Instruction;
use mica_builder::look::place::Place;
use mica_builder::look::waste::{PathWaste, Reason, Waste, ratio, waste};
use serde_json::json;

use super::log::{instruction_json, title};
use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::hint;
use crate::render::{Output, Table, printable, size};
use crate::source::Elsewhere;

/// How much of an instruction a line shows, in characters.
const WIDTH: usize = 50;

/// Show what an image stores in vain: files that later layers overwrite, delete or store again
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Counted are the bytes of files' contents, as they are uncompressed. The efficiency is the part of them that is\n\
seen in the finished image. A file is duplicated if a later layer stores the same bytes with another mode, owner\n\
or time; `mica build --optimize=fold` stores it once.\n\n\
The exit status is 1 if a limit is exceeded, and 2 if something is wrong.\n\n\
Examples:
  mica analyze app
  mica analyze --top 50 app
  mica analyze --base debian app    # only what the layers above debian's store
  mica analyze --min-efficiency 0.95 --max-wasted-bytes 20MB app    # in a test of a pipeline
  mica analyze --format json app"
)]
pub struct Args {
    /// The image: a name, an ID or its first digits, IMAGE@layer:N or IMAGE@STEP
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Count only the layers above those of this image, on which IMAGE stands
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// Show so many paths, those that waste most
    #[arg(long, value_name = "N", default_value_t = 10)]
    top: usize,
    /// Fail if more is wasted: a number of bytes, or with a unit (20MB, 1GiB)
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    max_wasted_bytes: Option<u64>,
    /// Fail if a larger part of the stored bytes is wasted, in percent
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_wasted_percent: Option<f64>,
    /// Fail if the efficiency is lower, from 0 to 1
    #[arg(long, value_name = "RATIO", value_parser = unit_ratio)]
    min_efficiency: Option<f64>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Writes what is wasted, and compares it with the limits.
///
/// # Errors
/// If there is no such image.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let place = args.elsewhere.place(&store, &args.image)?;
    let told = &place.instructions;
    let base = match &args.base {
        Some(base) => height_of(&args.elsewhere.place(&store, base)?, &place, &args)?,
        None => 0,
    };
    let found = waste(&place.stack).above(base);
    let exceeded = exceeded(&args, &found);
    let mut out = context.output();
    match args.format {
        Format::Table => table(&args, (&found, base), told, &exceeded, &mut out)?,
        Format::Json => writeln!(out, "{}", as_json(&args, (&found, base), told, &exceeded))?,
    }
    out.flush()?;
    Ok(ExitCode::from(u8::from(!exceeded.is_empty())))
}

/// How many of the lowest layers are those of the base.
fn height_of(base: &Place, image: &Place, args: &Args) -> anyhow::Result<usize> {
    let ids =
        |place: &Place| -> Vec<_> { place.stack.layers().iter().map(|layer| layer.diff_id()).collect() };
    let (below, all) = (ids(base), ids(image));
    if !all.starts_with(&below) {
        let name = args.base.as_deref().unwrap_or_default();
        let error = anyhow::anyhow!("{} does not stand on {name}", args.image);
        return Err(hint(
            error,
            "the layers of the base must be the lowest ones of the image; `mica history` lists both",
        ));
    }
    Ok(below.len())
}

/// The limits that the image exceeds.
fn exceeded(args: &Args, found: &Waste) -> Vec<String> {
    let (wasted, stored, efficiency) = (found.wasted(), found.stored(), found.efficiency());
    let mut exceeded = Vec::new();
    if let Some(limit) = args.max_wasted_bytes.filter(|limit| wasted > *limit) {
        exceeded.push(format!("{} are wasted, more than {}", size(wasted), size(limit)));
    }
    let part = ratio(wasted, stored) * 100.0;
    if let Some(limit) = args.max_wasted_percent.filter(|limit| part > *limit) {
        exceeded.push(format!("{part:.2} % are wasted, more than {limit} %"));
    }
    if let Some(limit) = args.min_efficiency.filter(|limit| efficiency < *limit) {
        exceeded.push(format!("the efficiency is {efficiency:.4}, less than {limit}"));
    }
    exceeded
}

fn table(
    args: &Args,
    (found, base): (&Waste, usize),
    told: &[Instruction],
    exceeded: &[String],
    out: &mut Output,
) -> anyhow::Result<()> {
    let (stored, wasted) = (found.stored(), found.wasted());
    writeln!(out, "stored      {}", size(stored))?;
    writeln!(
        out,
        "wasted      {} ({:.1} %)",
        size(wasted),
        ratio(wasted, stored) * 100.0
    )?;
    for reason in Reason::ALL {
        writeln!(out, "  {:<12}{}", reason.name(), size(found.by_reason(reason)))?;
    }
    writeln!(out, "efficiency  {:.4}\n", found.efficiency())?;

    let mut layers = Table::new(["LAYER", "STORED", "HIDDEN LATER", "HIDES", "INSTRUCTION"]);
    for (number, layer) in (1..).zip(&found.layers).skip(base) {
        let title = told.get(number - 1).map(title).unwrap_or_default();
        let short = match title.chars().count() {
            long if long > WIDTH => title.chars().take(WIDTH - 1).chain(['…']).collect(),
            _ => title,
        };
        let [stored, hidden, hides] = [layer.stored, layer.hidden, layer.hides].map(size);
        layers.row([number.to_string(), stored, hidden, hides, short]);
    }
    write!(out, "{layers}")?;

    let paths = found.by_path();
    if !paths.is_empty() {
        let mut table = Table::new(["WASTED", "COPIES", "BY LAYER", "PATH"]);
        for path in paths.iter().take(args.top) {
            table.row([
                size(path.bytes),
                path.copies.to_string(),
                causes(path),
                printable(&path.path.to_string()),
            ]);
        }
        write!(out, "\n{table}")?;
        let rest = paths.len().saturating_sub(args.top);
        if rest > 0 {
            writeln!(out, "and {rest} more: --top {}", paths.len())?;
        }
    }
    let duplicated = found.by_reason(Reason::Duplicated);
    if duplicated > 0 {
        writeln!(
            out,
            "\n`mica build --optimize=fold` saves up to {} of duplicates.",
            size(duplicated)
        )?;
    }
    for limit in exceeded {
        writeln!(out, "\nFAILED: {limit}")?;
    }
    Ok(())
}

/// `3 deleted, 5 duplicated`
fn causes(path: &PathWaste) -> String {
    let told = path
        .by
        .iter()
        .map(|(layer, reason)| format!("{layer} {}", reason.name()));
    told.collect::<Vec<_>>().join(", ")
}

fn as_json(
    args: &Args,
    (found, base): (&Waste, usize),
    told: &[Instruction],
    exceeded: &[String],
) -> serde_json::Value {
    let layers = (1..)
        .zip(&found.layers)
        .skip(base)
        .map(|(number, layer): (usize, _)| {
            let mut value = instruction_json(told.get(number - 1).unwrap_or(&Instruction::default()));
            value["Layer"] = number.into();
            value["Stored"] = layer.stored.into();
            value["Hidden"] = layer.hidden.into();
            value["Hides"] = layer.hides.into();
            value
        });
    let paths = found.by_path();
    let paths = paths.iter().take(args.top).map(|path| {
        let by = path
            .by
            .iter()
            .map(|(layer, reason)| json!({ "Layer": layer, "Reason": reason.name() }));
        json!({
            "Path": path.path.to_string(),
            "Bytes": path.bytes,
            "Copies": path.copies,
            "By": by.collect::<Vec<_>>(),
        })
    });
    json!({
        "Stored": found.stored(),
        "Wasted": found.wasted(),
        "WastedPercent": ratio(found.wasted(), found.stored()) * 100.0,
        "Efficiency": found.efficiency(),
        "Overwritten": found.by_reason(Reason::Overwritten),
        "Deleted": found.by_reason(Reason::Deleted),
        "Duplicated": found.by_reason(Reason::Duplicated),
        "Layers": layers.collect::<Vec<_>>(),
        "Paths": paths.collect::<Vec<_>>(),
        "Exceeded": exceeded,
    })
}

/// Reads a size: `20MB` is 20,000,000 bytes, `20MiB` is 20 × 2²⁰.
fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 4] = [("k", 1), ("m", 2), ("g", 3), ("t", 4)];
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_lowercase();
    let factor = match unit.strip_suffix("ib").map(|unit| (unit, 1024_u64)) {
        Some((unit, base)) => UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, power)| base.pow(*power)),
        None => match unit.strip_suffix('b').unwrap_or(&unit) {
            "" => Some(1),
            unit => UNITS
                .iter()
                .find(|(name, _)| *name == unit)
                .map(|(_, power)| 1000_u64.pow(*power)),
        },
    };
    let number: Option<u64> = number.parse().ok();
    let size = number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| "it is no size such as 500kB, 20MB or 1GiB".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    within(text.strip_suffix('%').unwrap_or(text), 100.0)
}

fn unit_ratio(text: &str) -> Result<f64, String> {
    within(text, 1.0)
}

fn within(text: &str, most: f64) -> Result<f64, String> {
    let number = text
        .trim()
        .parse()
        .ok()
        .filter(|number| (0.0..=most).contains(number));
    number.ok_or_else(|| format!("it is no number from 0 to {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read() {
        for (text, size) in [
            ("0", 0),
            ("12", 12),
            ("3kB", 3000),
            ("20mb", 20_000_000),
            ("1GiB", 1 << 30),
            ("2M", 2_000_000),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for wrong in ["", "MB", "-1", "1.5MB", "3XB", "99999999999TB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!((percent("12.5%"), unit_ratio("0.95")), (Ok(12.5), Ok(0.95)));
        assert!(percent("101").is_err() && unit_ratio("1.1").is_err() && unit_ratio("NaN").is_err());
    }
}
