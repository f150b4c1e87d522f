//! `mica log`.

use std::io::Write as _;
use std::process::ExitCode;

use mica_builder::look::changes::{Change, Precision};
use mica_builder::look::instruction::Instruction;
use mica_builder::look::log::{Below, Version, log};
use mica_builder::look::{Node, Stack};
use mica_fs::path::ImagePath;
use serde_json::json;

use super::diff::write_patch;
use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::location;
use crate::node::{self, differences, type_name};
use crate::render::{Created, Output, printable, size};
use crate::source::Elsewhere;

/// Show which instructions of an image created, changed and deleted a path
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The newest comes first. A path is as it was in IMAGE@layer:N for `cat`, `cp`, `ls` and `diff`, too.

Examples:
  mica log app /etc/passwd
  mica log -p app /etc/passwd               # what changed, by lines
  mica log --show 2 app /etc/passwd         # the file as it was in layer 2
  mica cat app@layer:2:/etc/passwd          # the same
  mica log app /etc                         # what changed in a directory
  mica log --format json app:/etc/passwd"
)]
pub struct Args {
    /// The image: a name, an ID or its first digits, IMAGE@layer:N or IMAGE@STEP; IMAGE:/PATH is understood as well
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The file or directory
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Show what changed in files by lines
    #[arg(long, short, conflicts_with = "format")]
    patch: bool,
    /// Write the file as it was in this layer to stdout
    #[arg(long, value_name = "N", conflicts_with_all = ["format", "patch"])]
    show: Option<usize>,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Writes what became of a path, the last change first.
///
/// # Errors
/// If there is no such image, or the path never was in it.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (name, path) = match (&args.path, location::split(&args.image)) {
        (Some(path), _) => (args.image.as_str(), path.as_str()),
        (None, Some(parts)) => parts,
        (None, None) => return Err(usage_error("of which file? Give a PATH behind the image")),
    };
    let store = context.store()?;
    let place = args.elsewhere.place(&store, name)?;
    let stack = &place.stack;
    let path = location::path(path)?;
    let versions = log(stack, &path);
    if versions.is_empty() {
        let error = anyhow::anyhow!("{path} never was in {name}");
        return Err(hint(error, "`mica ls -R IMAGE` lists what is in it"));
    }
    let mut out = context.output();
    if let Some(layer) = args.show {
        show(stack, &path, layer, &mut out)?;
    }
    for version in versions.iter().filter(|_| args.show.is_none()) {
        let instruction = place.instruction(version.layer);
        match args.format {
            Format::Json => writeln!(out, "{}", as_json(version, &instruction))?,
            Format::Table => write!(out, "{}", entry(version, &instruction))?,
        }
        if args.patch {
            patch(stack, &path, version, &mut out)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn show(stack: &Stack, path: &ImagePath, layer: usize, out: &mut Output) -> anyhow::Result<()> {
    let count = stack.layers().len();
    if layer > count {
        return Err(usage_error(format!(
            "there is no layer {layer}: the image has {count}"
        )));
    }
    match stack.view(layer).find(path) {
        Some(node) if node.kind == mica_fs::layer::Kind::File => {
            std::io::copy(&mut stack.content(&node), out)?;
            Ok(())
        }
        Some(node) => anyhow::bail!(
            "{path} was no file in layer {layer}, but a {}",
            type_name(node.kind)
        ),
        None => anyhow::bail!("{path} was not there in layer {layer}"),
    }
}

fn patch(stack: &Stack, path: &ImagePath, version: &Version, out: &mut Output) -> anyhow::Result<()> {
    writeln!(out)?;
    let change = Change {
        path: path.clone(),
        before: version.before.clone(),
        after: version.after.clone(),
    };
    write_patch(&change, stack, stack, out)?;
    writeln!(out)?;
    Ok(())
}

/// Two lines: the layer and its instruction, and what it did.
fn entry(version: &Version, instruction: &Instruction) -> String {
    let created = Created::parse(instruction.created.as_deref()).ago();
    format!(
        "layer {}  {}  ({created})\n    {}\n",
        version.layer,
        title(instruction),
        what(version)
    )
}

/// The instruction on one line, with its line in the Dockerfile if that is known.
pub fn title(instruction: &Instruction) -> String {
    let text = match (instruction.text.as_str(), &instruction.comment) {
        ("", Some(comment)) => comment,
        ("", None) => "(the image does not say by which instruction)",
        (text, _) => text,
    };
    let text = printable(&text.split_whitespace().collect::<Vec<_>>().join(" "));
    match &instruction.line {
        Some(line) => format!("{}:{}  {text}", printable(&line.dockerfile), line.number),
        None => text,
    }
}

/// What a layer did to the path.
pub fn what(version: &Version) -> String {
    let did = match (&version.before, &version.after) {
        (None, Some(node)) => format!("created {}", described(node)),
        (_, None) => match &version.gone_with {
            Some(parent) => format!("deleted with {}", printable(&parent.to_string())),
            None => "deleted".to_owned(),
        },
        (Some(_), Some(_)) if version.is_stored_again() => "stored again as it was".to_owned(),
        (Some(old), Some(new)) => {
            // A time is of interest only if nothing else changed.
            let told = match differences(old, new, Precision::Meaning) {
                nothing if nothing.is_empty() && !new.is_directory() => {
                    differences(old, new, Precision::Times)
                }
                told => told,
            };
            match told.is_empty() {
                true => told,
                false => format!("changed {told}"),
            }
        }
    };
    let Below {
        added,
        changed,
        deleted,
    } = version.below;
    if version.below == Below::default() {
        return did;
    }
    let comma = if did.is_empty() { "" } else { "; " };
    format!("{did}{comma}in it {added} added, {changed} changed, {deleted} deleted")
}

/// `file 0644 0:0 1.2kB`
fn described(node: &Node) -> String {
    let meta = &node.metadata;
    let mut text = format!(
        "{} {:04o} {}:{}",
        type_name(node.kind),
        meta.mode,
        meta.uid,
        meta.gid
    );
    match node.kind {
        mica_fs::layer::Kind::File => text += &format!(" {}", size(node.size)),
        mica_fs::layer::Kind::Symlink => {
            text += &format!(" -> {}", printable(&String::from_utf8_lossy(&node.target)))
        }
        _ => {}
    }
    text
}

fn as_json(version: &Version, instruction: &Instruction) -> serde_json::Value {
    let (before, after) = (version.before.as_ref(), version.after.as_ref());
    let changes = before
        .zip(after)
        .map(|(old, new)| node::aspect_names(old, new, Precision::Times));
    let kind = match (before, after) {
        (None, _) => "created",
        (_, None) => "deleted",
        _ if version.is_stored_again() => "stored-again",
        _ => "changed",
    };
    let mut value = instruction_json(instruction);
    let own = json!({
        "Layer": version.layer,
        "Kind": kind,
        "Changes": changes.unwrap_or_default(),
        "Old": before.map(node::json),
        "New": after.map(node::json),
        "GoneWith": version.gone_with.as_ref().map(ToString::to_string),
        "Below": { "Added": version.below.added, "Changed": version.below.changed, "Deleted": version.below.deleted },
    });
    if let (Some(value), serde_json::Value::Object(own)) = (value.as_object_mut(), own) {
        value.extend(own);
    }
    value
}

/// The fields that tell an instruction.
pub fn instruction_json(instruction: &Instruction) -> serde_json::Value {
    json!({
        "Instruction": instruction.text,
        "Created": instruction.created,
        "Comment": instruction.comment,
        "Position": instruction.position,
        "Dockerfile": instruction.line.as_ref().map(|line| &line.dockerfile),
        "Line": instruction.line.as_ref().map(|line| line.number),
    })
}
