//! `mica fsck`.

use std::process::ExitCode;

use mica_builder::lazy;
use mica_fs::store::{FsckOptions, FsckReport, Problem};
use serde_json::json;

use crate::args::Format;
use crate::config::Context;

/// Check the store, and mend what can be made anew
///
/// Reads every byte of the images' blobs and layers, and of what is kept of layers in registries, and compares them
/// with their digests.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exits with 1 if something is wrong that was not mended.\n\nExamples:\n  \
    mica fsck\n  \
    mica fsck --repair       make missing or damaged indexes of layers anew\n  \
    mica fsck --rebuild      make a lost or damaged catalog anew; the build cache is lost"
)]
pub struct Args {
    /// Mend what can be mended
    #[arg(long)]
    repair: bool,
    /// Make the catalog anew from the names in index.json
    #[arg(long)]
    rebuild: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// Checks, and writes what is wrong.
///
/// # Errors
/// If the store cannot be read at all.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let options = FsckOptions {
        repair: args.repair,
        rebuild_catalog: args.rebuild,
    };
    let store = context.store()?;
    let mut report = store.fsck(&options)?;
    let remote = lazy::check(&store, args.repair)?;
    let problems = remote.damaged.into_iter();
    report
        .problems
        .extend(problems.map(|(blob, reason, repaired)| Problem::Remote {
            blob,
            reason,
            repaired,
        }));
    let text = match args.format {
        Format::Table => table(&report, remote.layers),
        Format::Json => report
            .problems
            .iter()
            .map(|problem| format!("{}\n", json(problem)))
            .collect(),
    };
    context.print(&text)?;
    match report.problems.iter().all(is_mended) {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(ExitCode::FAILURE),
    }
}

fn table(report: &FsckReport, remote: u64) -> String {
    let FsckReport {
        blobs,
        layers,
        problems,
    } = report;
    let lines: String = problems
        .iter()
        .map(|problem| format!("{}\n", describe(problem)))
        .collect();
    let remote = match remote {
        0 => String::new(),
        count => format!(", and what is kept of {count} layers in registries"),
    };
    format!(
        "{lines}{layers} layers and {blobs} other blobs checked{remote}, {} problems\n",
        problems.len()
    )
}

fn is_mended(problem: &Problem) -> bool {
    match problem {
        Problem::Index { repaired, .. }
        | Problem::NoLink { repaired, .. }
        | Problem::Remote { repaired, .. } => *repaired,
        Problem::Blob { .. } | Problem::Tar { .. } | Problem::NoTar { .. } | Problem::NoManifest { .. } => {
            false
        }
    }
}

/// The problem as a sentence, with what to do about it.
fn describe(problem: &Problem) -> String {
    let again = "remove the images that need it, and load or build them again";
    let mend = |repaired: bool| match repaired {
        true => "mended",
        false => "`mica fsck --repair` mends it",
    };
    match problem {
        Problem::Blob { digest, found } => {
            format!("blob {digest} is damaged: it has the digest {found}; {again}")
        }
        Problem::Tar { diff_id, found } => {
            format!("layer {diff_id} is damaged: it has the digest {found}; {again}")
        }
        Problem::NoTar { diff_id } => format!("layer {diff_id} has lost its tar; {again}"),
        Problem::Index {
            diff_id,
            reason,
            repaired,
        } => format!(
            "the index of layer {diff_id} is no good: {reason}; {}",
            mend(*repaired)
        ),
        Problem::NoLink { diff_id, repaired } => {
            format!("layer {diff_id} is not among the blobs; {}", mend(*repaired))
        }
        Problem::Remote {
            blob,
            reason,
            repaired,
        } => format!(
            "what is kept of the layer {blob} in a registry is no good: {reason}; {}",
            mend(*repaired)
        ),
        Problem::NoManifest { manifest, names } => {
            format!(
                "the manifest {manifest} of {} is missing; {again}",
                names.join(", ")
            )
        }
    }
}

fn json(problem: &Problem) -> serde_json::Value {
    let (kind, digest) = match problem {
        Problem::Blob { digest, .. } => ("blob", digest.to_string()),
        Problem::Tar { diff_id, .. } => ("tar", diff_id.to_string()),
        Problem::NoTar { diff_id } => ("no tar", diff_id.to_string()),
        Problem::Index { diff_id, .. } => ("index", diff_id.to_string()),
        Problem::NoLink { diff_id, .. } => ("no link", diff_id.to_string()),
        Problem::Remote { blob, .. } => ("remote", blob.to_string()),
        Problem::NoManifest { manifest, .. } => ("no manifest", manifest.to_string()),
    };
    json!({
        "Kind": kind,
        "Digest": digest,
        "Mended": is_mended(problem),
        "Problem": describe(problem),
    })
}
