//! `mica diff`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use mica_builder::look::Stack;
use mica_builder::look::changes::{Change, Precision, compare};
use mica_builder::look::patch;
use mica_fs::path::ImagePath;
use serde_json::json;

use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::location;
use crate::node;
use crate::render::{self, Output, printable};
use crate::source::Elsewhere;

mod tree;

/// Show what each layer of an image changes, or how two images, steps or layers differ
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A is added, C is changed, D is deleted. IMAGE@layer:N is the image as it was when it had N layers,\n\
IMAGE@STEP as it was after that step of its build, and the diff ID of a layer (sha256:...) is that layer alone.\n\n\
With two images the exit status is that of diff(1): 0 if they are the same, 1 if they differ, 2 if something is wrong.\n\n\
Examples:
  mica diff app
  mica diff --layer 3 app
  mica diff app:v1 app:v2
  mica diff app@layer:2 app@layer:5 --path /etc
  mica diff app@3 app@7
  mica diff -u app:v1 app:v2 > changes.patch
  mica diff --tree --times app:v1 app:v2"
)]
pub struct Args {
    /// The image: a name, an ID or its first digits, IMAGE@layer:N, IMAGE@STEP, or the diff ID of a layer
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The image to compare with: what it has more is added
    #[arg(value_name = "OTHER")]
    other: Option<String>,
    /// Only this layer; 1 is the lowest one
    #[arg(long, value_name = "N", conflicts_with = "other")]
    layer: Option<usize>,
    /// Only what is at this path, and below it
    #[arg(long, value_name = "PATH", default_value = "/", hide_default_value = true)]
    path: String,
    /// Times count as well; those of directories never do
    #[arg(long)]
    times: bool,
    /// Draw the differences as a tree
    #[arg(long, conflicts_with_all = ["unified", "format"])]
    tree: bool,
    /// Show the differences of text by lines, as a patch in git's format
    #[arg(long, short, conflicts_with = "format")]
    unified: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

impl Args {
    fn precision(&self) -> Precision {
        match self.times {
            true => Precision::Times,
            false => Precision::Meaning,
        }
    }
}

/// Writes the differences.
///
/// # Errors
/// If there is no such image or layer, or a file cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let top = location::path(&args.path)?;
    let stack = args.elsewhere.place(&store, &args.image)?.stack;
    let mut out = context.output();
    let code = match &args.other {
        Some(other) => {
            let other = args.elsewhere.place(&store, other)?.stack;
            let changes = compare(stack.top(), other.top(), &top, args.precision());
            write(&changes, (&stack, &other), None, &args, &mut out)?;
            ExitCode::from(u8::from(!changes.is_empty()))
        }
        None => {
            layers(&stack, &top, &args, &mut out)?;
            ExitCode::SUCCESS
        }
    };
    out.flush()?;
    Ok(code)
}

fn layers(stack: &Stack, top: &ImagePath, args: &Args, out: &mut Output) -> anyhow::Result<()> {
    let count = stack.layers().len();
    let wanted = match args.layer {
        Some(n) if (1..=count).contains(&n) => n..=n,
        Some(n) => {
            return Err(usage_error(format!(
                "there is no layer {n}: the image has {count}"
            )));
        }
        None => 1..=count,
    };
    for number in wanted {
        let changes = compare(stack.view(number - 1), stack.view(number), top, args.precision());
        if args.layer.is_none() && args.format == Format::Table {
            writeln!(out, "layer {number} {}", stack.layers()[number - 1].diff_id())?;
        }
        write(&changes, (stack, stack), Some(number), args, out)?;
    }
    Ok(())
}

fn write(
    changes: &[Change],
    (old, new): (&Stack, &Stack),
    layer: Option<usize>,
    args: &Args,
    out: &mut Output,
) -> anyhow::Result<()> {
    if args.tree {
        out.write_all(tree::draw(changes, args.precision()).as_bytes())?;
        return Ok(());
    }
    for change in changes {
        if args.unified {
            write_patch(change, old, new, out)?;
            continue;
        }
        match args.format {
            Format::Table => writeln!(out, "{}", line(change, args.precision()))?,
            Format::Json => writeln!(out, "{}", as_json(change, layer, args.precision()))?,
        }
    }
    Ok(())
}

/// On a terminal without what it would obey.
pub fn write_patch(change: &Change, old: &Stack, new: &Stack, out: &mut Output) -> anyhow::Result<()> {
    let mut text = Vec::new();
    patch::write(change, old, new, &mut text)?;
    match std::io::stdout().is_terminal() {
        true => {
            for line in String::from_utf8_lossy(&text).lines() {
                writeln!(out, "{}", render::patch_line(line))?;
            }
        }
        false => out.write_all(&text)?,
    }
    Ok(())
}

/// `C /path  mode 0644 → 0600`
fn line(change: &Change, precision: Precision) -> String {
    let mut line = format!("{} {}", node::letter(change), printable(&change.path.to_string()));
    if let (Some(old), Some(new)) = (&change.before, &change.after) {
        line += &format!("  {}", node::differences(old, new, precision));
    }
    line
}

fn as_json(change: &Change, layer: Option<usize>, precision: Precision) -> serde_json::Value {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    let names = before
        .zip(after)
        .map(|(old, new)| node::aspect_names(old, new, precision));
    json!({
        "Layer": layer,
        "Kind": node::letter(change),
        "Path": change.path.to_string(),
        "Changes": names.unwrap_or_default(),
        "Old": before.map(node::json),
        "New": after.map(node::json),
    })
}
