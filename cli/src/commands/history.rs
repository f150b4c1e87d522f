//! `mica history`.

use std::process::ExitCode;

use mica_builder::image::Image;
use serde_json::Value;

use crate::args::ObjectFormat;
use crate::config::Context;
use crate::render::{self, Created, Table};
use crate::source::Elsewhere;

/// How much of an instruction the table shows, in characters.
const CREATED_BY_WIDTH: usize = 45;

/// Show how an image came about
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica history app
  mica history --no-trunc app
  mica history --format json app
  mica history --format 'table {{.Size}}\t{{.CreatedBy}}' app")]
pub struct Args {
    /// The image: a name, or an ID or its first digits
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Show instructions and IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// Show only IDs
    #[arg(long, short)]
    quiet: bool,
    /// How to write it: table, json (an object a line), or a template as Docker has it; "table TEMPLATE" makes
    /// columns at its tabs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ObjectFormat,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// One line: an instruction, and the size of its layer.
struct Row {
    /// The image, for the topmost line; the images between have no IDs.
    id: String,
    created: Option<String>,
    created_by: String,
    comment: String,
    size: u64,
}

/// Lists the history, newest first.
///
/// # Errors
/// If there is no such image, or the store cannot be read.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let source = args.elsewhere.image(&store, &args.image)?;
    let rows = rows(source.image(), &source.sizes(&store)?, args.no_trunc);
    let text: String = match args.quiet {
        true => rows.iter().map(|row| format!("{}\n", row.id)).collect(),
        false => {
            let objects: Vec<Value> = rows.iter().map(json).collect();
            args.format
                .write(&objects, heading, || table(&rows, args.no_trunc))?
        }
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn rows(image: &Image, sizes: &[u64], no_trunc: bool) -> Vec<Row> {
    let mut sizes = sizes.iter().copied();
    let mut rows = Vec::new();
    for entry in &image.config.history {
        rows.push(Row {
            id: "<missing>".to_owned(),
            created: entry.created.clone(),
            created_by: entry.created_by.clone().unwrap_or_default(),
            comment: entry.comment.clone().unwrap_or_default(),
            size: if entry.empty_layer {
                0
            } else {
                sizes.next().unwrap_or(0)
            },
        });
    }
    // Some tools write layers without a history.
    let told = image
        .config
        .history
        .iter()
        .filter(|entry| !entry.empty_layer)
        .count();
    for _ in told..image.layers().len() {
        rows.push(Row {
            id: "<missing>".to_owned(),
            created: None,
            created_by: String::new(),
            comment: "no history".to_owned(),
            size: sizes.next().unwrap_or(0),
        });
    }
    rows.reverse();
    if let Some(first) = rows.first_mut() {
        first.id = if no_trunc {
            image.id().to_string()
        } else {
            image.id().short()
        };
    }
    rows
}

fn heading(field: &str) -> String {
    match field {
        "ID" => "IMAGE".to_owned(),
        other => render::heading(other),
    }
}

fn json(row: &Row) -> Value {
    serde_json::json!({
        "ID": row.id,
        "CreatedAt": row.created,
        "CreatedSince": Created::parse(row.created.as_deref()).ago(),
        "CreatedBy": row.created_by,
        "Size": render::size(row.size),
        "SizeBytes": row.size,
        "Comment": row.comment,
    })
}

fn table(rows: &[Row], no_trunc: bool) -> String {
    let mut table = Table::new(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
    for row in rows {
        table.row([
            row.id.clone(),
            Created::parse(row.created.as_deref()).ago(),
            if no_trunc {
                row.created_by.clone()
            } else {
                shorten(&row.created_by)
            },
            render::size(row.size),
            row.comment.clone(),
        ]);
    }
    table.to_string()
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(CREATED_BY_WIDTH) {
        None => text.to_owned(),
        Some(_) => text.chars().take(CREATED_BY_WIDTH - 1).chain(['…']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_instructions_are_shortened() {
        assert_eq!(shorten("short"), "short");
        assert_eq!(shorten(&"é".repeat(45)), "é".repeat(45));
        assert_eq!(shorten(&"é".repeat(46)), format!("{}…", "é".repeat(44)));
    }
}
