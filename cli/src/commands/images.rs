//! `mica images`.

use std::process::ExitCode;

use anyhow::Context as _;
use mica_builder::image::Image;
use mica_builder::reference::Reference;
use mica_fs::store::Store;
use serde_json::Value;

use crate::args::ObjectFormat;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::render::{self, Created, Table};

/// List images
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica images
  mica images busybox
  mica images --filter dangling=true -q
  mica images --format json --no-trunc
  mica images --format '{{.Repository}}:{{.Tag}} {{.Size}}'")]
pub struct Args {
    /// Only images of this repository, or with this name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Show all images: mica keeps no hidden ones, so this changes nothing
    #[arg(long, short)]
    all: bool,
    /// Show only IDs
    #[arg(long, short)]
    quiet: bool,
    /// Show the digests of the manifests
    #[arg(long)]
    digests: bool,
    /// Show IDs in full
    #[arg(long)]
    no_trunc: bool,
    /// Only images that match: dangling=true|false, label=KEY[=VALUE]
    #[arg(long, short, value_name = "FILTER")]
    filter: Vec<String>,
    /// How to write it: table, json (an object a line), or a template as Docker has it; "table TEMPLATE" makes
    /// columns at its tabs
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: ObjectFormat,
}

/// One line: an image under one of its names.
struct Row {
    repository: String,
    tag: String,
    image: Image,
    size: u64,
    created: Created,
}

/// Lists the images, newest first.
///
/// # Errors
/// If the store cannot be read, or a filter is unknown.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let filters: Vec<Filter> = args
        .filter
        .iter()
        .map(|text| Filter::parse(text))
        .collect::<Result<_, _>>()?;
    let store = context.store()?;
    let mut rows = rows(&store)?;
    rows.retain(|row| filters.iter().all(|filter| filter.matches(row)));
    if let Some(name) = &args.name {
        let wanted = Reference::parse(name)?;
        let any_tag = !name.rsplit('/').next().unwrap_or_default().contains(':');
        rows.retain(|row| {
            row.repository == wanted.familiar_repository()
                && (any_tag || Some(row.tag.as_str()) == wanted.tag())
        });
    }
    rows.sort_by(|a, b| {
        let names = || (&a.repository, &a.tag).cmp(&(&b.repository, &b.tag));
        b.created.cmp(&a.created).then_with(names)
    });
    let text = match args.quiet {
        true => ids(&rows, &args),
        false => {
            let objects: Vec<Value> = rows.iter().map(|row| object(row, &args)).collect();
            args.format.write(&objects, heading, || table(&rows, &args))?
        }
    };
    context.print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn rows(store: &Store) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for record in store.images()? {
        let image = Image::load(store, &record.manifest)?;
        let size = image.size(store)?;
        let created = Created::parse(image.config.created.as_deref());
        let mut row = |repository: String, tag: &str| {
            rows.push(Row {
                repository,
                tag: tag.to_owned(),
                image: image.clone(),
                size,
                created: created.clone(),
            });
        };
        for name in &record.names {
            let name = Reference::parse(name).context("the store has a name that is none")?;
            row(name.familiar_repository(), name.tag().unwrap_or("<none>"));
        }
        if record.names.is_empty() {
            row("<none>".to_owned(), "<none>");
        }
    }
    Ok(rows)
}

impl Row {
    fn id(&self, args: &Args) -> String {
        match args.no_trunc {
            true => self.image.id().to_string(),
            false => self.image.id().short(),
        }
    }
}

fn ids(rows: &[Row], args: &Args) -> String {
    let mut seen: Vec<String> = Vec::new();
    for row in rows {
        let id = row.id(args);
        if !seen.contains(&id) {
            seen.push(id);
        }
    }
    seen.iter().map(|id| format!("{id}\n")).collect()
}

fn table(rows: &[Row], args: &Args) -> String {
    let cells = |row: &Row| {
        [
            row.repository.clone(),
            row.tag.clone(),
            row.image.manifest_digest.to_string(),
            row.id(args),
            row.created.ago(),
            render::size(row.size),
        ]
    };
    if args.digests {
        let mut table = Table::new(["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]);
        rows.iter().for_each(|row| table.row(cells(row)));
        return table.to_string();
    }
    let mut table = Table::new(["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]);
    for row in rows {
        let [repository, tag, _, id, created, size] = cells(row);
        table.row([repository, tag, id, created, size]);
    }
    table.to_string()
}

fn object(row: &Row, args: &Args) -> Value {
    serde_json::json!({
        "Repository": row.repository,
        "Tag": row.tag,
        "Digest": row.image.manifest_digest,
        "ID": row.id(args),
        "CreatedAt": row.image.config.created,
        "CreatedSince": row.created.ago(),
        "Size": render::size(row.size),
        "SizeBytes": row.size,
    })
}

fn heading(field: &str) -> String {
    match field {
        "ID" => "IMAGE ID".to_owned(),
        other => render::heading(other),
    }
}

/// What `--filter` asks for.
#[derive(Debug, PartialEq, Eq)]
enum Filter {
    Dangling(bool),
    Label(String, Option<String>),
}

impl Filter {
    fn parse(text: &str) -> anyhow::Result<Self> {
        match text.split_once('=') {
            Some(("dangling", "true" | "1")) => Ok(Self::Dangling(true)),
            Some(("dangling", "false" | "0")) => Ok(Self::Dangling(false)),
            Some(("label", label)) => Ok(match label.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(label.to_owned(), None),
            }),
            _ => Err(usage_error(format!(
                "unknown filter {text:?}: there are dangling=true, dangling=false and label=KEY[=VALUE]"
            ))),
        }
    }

    fn matches(&self, row: &Row) -> bool {
        match self {
            Self::Dangling(wanted) => (row.repository == "<none>") == *wanted,
            Self::Label(key, value) => {
                let found = row.image.config.config.labels.get(key);
                found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert_eq!(Filter::parse("dangling=true").unwrap(), Filter::Dangling(true));
        let label = Filter::Label("a".to_owned(), Some("b=c".to_owned()));
        assert_eq!(Filter::parse("label=a=b=c").unwrap(), label);
        assert!(Filter::parse("size=3").is_err());
        assert!(Filter::parse("dangling").is_err());
    }
}
