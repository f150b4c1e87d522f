//! `mica upper`: the changes that writable mounts keep under a name.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::UNIX_EPOCH;

use mica_fs::store::{StoreError, UpperRecord};

use crate::args::Format;
use crate::config::Context;
use crate::diagnostic::hint;
use crate::render::{self, Created, Table};

/// List or throw away the changes that mounts keep
///
/// An upper is made by `mica mount --rw --upper NAME`, and `mica commit` makes an image of one. The image that it
/// belongs to is kept for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  mica upper ls\n  mica upper rm trial")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the uppers
    Ls {
        /// How to write it
        #[arg(long, value_name = "FORMAT", default_value = "table")]
        format: Format,
    },
    /// Throw uppers away, with all the changes in them
    Rm {
        /// The names of the uppers
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

/// Lists, or removes what is named.
///
/// # Errors
/// If there is no such upper, or it is in use: those before it are removed then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { format } => list(format, context)?,
        Action::Rm { names } => {
            let store = context.store()?;
            for name in names {
                store.remove_upper(&name).map_err(explain)?;
                context.print(&format!("{name}\n"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(error: StoreError) -> anyhow::Error {
    match &error {
        StoreError::NoUpper { .. } => hint(error, "`mica upper ls` lists them; $MICA_ROOT chooses the store"),
        StoreError::UpperInUse { .. } => hint(error, "`mica mounts` says where; unmount it first"),
        _ => error.into(),
    }
}

fn list(format: Format, context: &Context) -> anyhow::Result<()> {
    let uppers = context.store()?.uppers()?;
    let mut output = context.output();
    match format {
        Format::Table => {
            let mut table = Table::new(["NAME", "IMAGE", "SAVED", "SIZE", "IN USE"]);
            for upper in &uppers {
                table.row([
                    upper.name.clone(),
                    upper.base.image.clone(),
                    Created::parse(saved(upper).as_deref()).ago(),
                    render::size(upper.bytes),
                    if upper.in_use { "yes" } else { "" }.to_owned(),
                ]);
            }
            write!(output, "{table}")?;
        }
        Format::Json => {
            for upper in &uppers {
                writeln!(output, "{}", json(upper))?;
            }
        }
    }
    output.flush()?;
    Ok(())
}

/// When it was last saved, in RFC 3339.
fn saved(upper: &UpperRecord) -> Option<String> {
    let since = upper.saved?.duration_since(UNIX_EPOCH).ok()?;
    let seconds = i64::try_from(since.as_secs()).ok()?;
    Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
}

fn json(upper: &UpperRecord) -> serde_json::Value {
    serde_json::json!({
        "Name": upper.name,
        "Image": upper.base.image,
        "Digest": upper.base.manifest,
        "Saved": saved(upper),
        "SizeBytes": upper.bytes,
        "InUse": upper.in_use,
    })
}
