//! `mica prune`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use mica_builder::image::Image;
use mica_fs::store::{Policy, Pruned};

use crate::args::Format;
use crate::commands::build::enter_sandbox;
use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::render;

/// Remove what nothing needs
///
/// Removes images without a name, and layers and blobs that no image and no record of the build cache needs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica prune
  mica prune -af                     the build cache as well, without asking
  mica prune --filter until=72h      cache records that were not used for three days
  mica prune --dry-run -a")]
pub struct Args {
    /// Remove the build cache as well, and what RUN --mount=type=cache keeps
    #[arg(long, short)]
    all: bool,
    /// Don't ask
    #[arg(long, short)]
    force: bool,
    /// Remove nothing, only tell what would be
    #[arg(long)]
    dry_run: bool,
    /// until=DURATION: remove the part of the build cache that was not used for so long (30m, 24h, 7d)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Removes what nothing needs, and says what that was.
///
/// # Errors
/// If an image in the store is damaged: nothing was removed then, since what it needs cannot be known.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let until = args
        .filter
        .iter()
        .map(|text| parse_until(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let cache_age = match (until.last(), args.all) {
        (Some(age), _) => *age,
        (None, true) => Duration::ZERO,
        (None, false) => Duration::MAX,
    };
    if !args.force && !args.dry_run && !confirm(args.all)? {
        return Ok(ExitCode::SUCCESS);
    }
    let store = context.store()?;
    let keep_cache_mounts = !args.all || !until.is_empty() || !store.has_cache_mounts()?;
    if !keep_cache_mounts && !args.dry_run {
        enter_sandbox(context)?;
    }
    let policy = Policy {
        keep_unnamed: false,
        cache_age,
        cache_bytes: if args.all && until.is_empty() { 0 } else { u64::MAX },
        keep_cache_mounts,
        dry_run: args.dry_run,
    };
    let pruned = store.prune(
        &|manifest| Image::reach(&store, manifest).map_err(Into::into),
        &policy,
    )?;
    let text = match args.format {
        Format::Table => describe(&pruned, args.dry_run),
        Format::Json => format!("{}\n", json(&pruned)),
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn confirm(all: bool) -> anyhow::Result<bool> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(hint(
            usage_error("there is nobody to ask"),
            "give --force to remove without a question",
        ));
    }
    let what = if all { " and the whole build cache" } else { "" };
    let question = format!("Remove images without a name, layers that nothing needs{what}? [y/N] ");
    io::stderr().write_all(question.as_bytes())?;
    let mut answer = String::new();
    stdin
        .lock()
        .read_line(&mut answer)
        .context("cannot read the answer")?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn describe(pruned: &Pruned, dry_run: bool) -> String {
    let mut text = String::new();
    for image in &pruned.images {
        text.push_str(&format!("image {image}\n"));
    }
    for layer in &pruned.layers {
        text.push_str(&format!("layer {layer}\n"));
    }
    for blob in &pruned.blobs {
        text.push_str(&format!("blob {blob}\n"));
    }
    if pruned.cache_records > 0 {
        text.push_str(&format!("{} records of the build cache\n", pruned.cache_records));
    }
    if pruned.cache_mounts > 0 {
        text.push_str(&format!(
            "{} directories of RUN --mount=type=cache\n",
            pruned.cache_mounts
        ));
    }
    let label = if dry_run {
        "Would reclaim"
    } else {
        "Total reclaimed space"
    };
    text.push_str(&format!("{label}: {}\n", render::size(pruned.bytes)));
    text
}

fn json(pruned: &Pruned) -> serde_json::Value {
    serde_json::json!({
        "Images": pruned.images,
        "Layers": pruned.layers,
        "Blobs": pruned.blobs,
        "CacheRecords": pruned.cache_records,
        "CacheMounts": pruned.cache_mounts,
        "SpaceReclaimed": pruned.bytes,
    })
}

fn parse_until(text: &str) -> anyhow::Result<Duration> {
    let invalid = || {
        usage_error(format!(
            "{text:?} is no filter: until=DURATION (30m, 24h, 7d) is known"
        ))
    };
    let duration = text.strip_prefix("until=").ok_or_else(invalid)?;
    let unit_at = duration.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
    let (number, unit) = duration.split_at(unit_at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(invalid()),
    };
    let number: u64 = number.parse().map_err(|_| invalid())?;
    Ok(Duration::from_secs(
        number.checked_mul(seconds).ok_or_else(invalid)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_until("until=24h").unwrap(), Duration::from_secs(86400));
        assert_eq!(parse_until("until=7d").unwrap(), Duration::from_secs(7 * 86400));
        for text in [
            "until=",
            "until=5",
            "until=h",
            "until=99999999999999999999d",
            "label=x",
        ] {
            assert!(parse_until(text).is_err(), "{text}");
        }
    }
}
