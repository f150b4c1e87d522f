//! `mica blame`.

use std::io::Write as _;
use std::process::ExitCode;

use mica_builder::look::blame::{Blamed, blame};
use mica_builder::look::instruction::Instruction;
use mica_fs::layer::Kind;
use mica_fs::path::ImagePath;
use serde_json::json;

use super::log::{instruction_json, title};
use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::hint;
use crate::location;
use crate::node;
use crate::render::{printable, size};
use crate::source::Elsewhere;

/// How much of an instruction a line shows, in characters.
const WIDTH: usize = 50;

/// Show which instruction changed each path of an image last
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of a directory it is the instruction that made it, or changed its own mode or owner last.\n\
A layer that stores a file again just as it was does not count.\n\n\
Examples:
  mica blame app
  mica blame app /etc
  mica blame -R app /usr/local
  mica blame --depth 2 --no-trunc app /
  mica blame --format json app /etc/passwd"
)]
pub struct Args {
    /// The image: a name, an ID or its first digits, IMAGE@layer:N or IMAGE@STEP; IMAGE:/PATH is understood as well
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The directory or file
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Show what is in the directories, too
    #[arg(long, short = 'R', conflicts_with = "depth")]
    recursive: bool,
    /// Show so many levels of directories; 0 is PATH itself
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: usize,
    /// Show instructions in full
    #[arg(long)]
    no_trunc: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Writes a line for each path.
///
/// # Errors
/// If there is no such image, or nothing at that path.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (name, path) = match (&args.path, location::split(&args.image)) {
        (Some(path), _) => (args.image.as_str(), path.as_str()),
        (None, Some(parts)) => parts,
        (None, None) => (args.image.as_str(), "/"),
    };
    let store = context.store()?;
    let place = args.elsewhere.place(&store, name)?;
    let top = location::path(path)?;
    let depth = if args.recursive { usize::MAX } else { args.depth };
    let mut blamed = blame(&place.stack, &top, depth);
    if blamed.is_empty() {
        let error = anyhow::anyhow!("there is no {top} in {name}");
        return Err(hint(
            error,
            format!("`mica log {name} {top}` says whether it ever was"),
        ));
    }
    // As with ls(1), the directory whose content is asked for is not listed itself.
    if blamed.len() > 1 {
        blamed.remove(0);
    }
    let mut out = context.output();
    let digits = place.stack.layers().len().to_string().len();
    for one in &blamed {
        let instruction = place.instruction(one.layer);
        match args.format {
            Format::Table => writeln!(out, "{}", line(one, &instruction, &top, digits, args.no_trunc))?,
            Format::Json => writeln!(out, "{}", as_json(one, &instruction))?,
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// `3 RUN adduser app    0644   1.2kB passwd`
fn line(one: &Blamed, instruction: &Instruction, top: &ImagePath, digits: usize, no_trunc: bool) -> String {
    let title = title(instruction);
    let title = match title.chars().count() {
        long if long > WIDTH && !no_trunc => title.chars().take(WIDTH - 1).chain(['…']).collect(),
        _ => title,
    };
    let relative = one
        .path
        .as_bytes()
        .strip_prefix(top.as_bytes())
        .unwrap_or_default();
    let relative = relative.strip_prefix(b"/").unwrap_or(relative);
    let name = match (relative, &one.path) {
        (b"", path) => printable(&path.to_string()),
        (name, _) => printable(&String::from_utf8_lossy(name)),
    };
    let slash = if one.node.is_directory() && !name.ends_with('/') {
        "/"
    } else {
        ""
    };
    let bytes = if one.node.kind == Kind::File {
        size(one.node.size)
    } else {
        String::new()
    };
    let (layer, mode) = (one.layer, one.node.metadata.mode);
    format!("{layer:>digits$}  {title:WIDTH$}  {mode:04o} {bytes:>7}  {name}{slash}")
}

fn as_json(one: &Blamed, instruction: &Instruction) -> serde_json::Value {
    let mut value = instruction_json(instruction);
    let own = json!({
        "Layer": one.layer,
        "Path": one.path.to_string(),
        "Node": node::json(&one.node),
    });
    if let (Some(value), serde_json::Value::Object(own)) = (value.as_object_mut(), own) {
        value.extend(own);
    }
    value
}
