//! `mica save`.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use mica_builder::archive::{self, ArchiveFormat, Coding, Compression, Entry, Existing, Settings};
use mica_builder::image::{Image, Selected};
use mica_builder::reference::Reference;

use crate::config::Context;
use crate::diagnostic::{hint, usage_error};

/// Write images into an archive
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica save -o app.tar app
  mica save app busybox | gzip > images.tar.gz
  mica save -o app.tar.zst app
  mica save app | ssh host mica load
  mica save --format oci-archive --compression zstd -o app.oci.tar app
  mica save --format oci-dir -o app-layout app")]
pub struct Args {
    /// The images: names (which are kept), or IDs or their first digits
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// The file (a directory for oci-dir) to write, compressed if it ends with .gz or .zst; stdout without it
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The form of the archive
    #[arg(long, value_name = "FORMAT", default_value = "docker-archive")]
    format: SaveFormat,
    /// How to compress the layers [default: none for docker-archive, as they came for OCI]
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionChoice>,
    /// How hard to compress the layers: up to 9 for gzip, up to 22 for zstd [default: 5, 3]
    #[arg(long, value_name = "LEVEL", requires = "compression")]
    compression_level: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SaveFormat {
    /// For `docker load`; OCI's tools read it as well
    DockerArchive,
    /// A tar of an OCI image layout
    OciArchive,
    /// An OCI image layout as a directory
    OciDir,
}

/// How layers are to be compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionChoice {
    /// Plain tars
    None,
    /// By gzip: every tool reads it
    Gzip,
    /// By zstd: smaller and faster
    Zstd,
}

impl From<CompressionChoice> for Compression {
    fn from(choice: CompressionChoice) -> Self {
        match choice {
            CompressionChoice::None => Self::None,
            CompressionChoice::Gzip => Self::Gzip,
            CompressionChoice::Zstd => Self::Zstd,
        }
    }
}

/// Writes the archive.
///
/// # Errors
/// If an image is not there, or the archive cannot be written; no part of one is left then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let store = context.store()?;
    let mut images: Vec<(Image, Vec<Reference>)> = Vec::new();
    for text in &args.images {
        let (image, selected) = Image::select(&store, text)?;
        let name = match selected {
            Selected::Name(name) => Some(Reference::parse(&name)?),
            Selected::Id => None,
        };
        match images
            .iter_mut()
            .find(|(known, _)| known.manifest_digest == image.manifest_digest)
        {
            Some((_, names)) => names.extend(name),
            None => images.push((image, name.into_iter().collect())),
        }
    }
    let entries: Vec<Entry<'_>> = images
        .iter()
        .map(|(image, names)| Entry {
            image,
            names: names.clone(),
        })
        .collect();
    let format = match args.format {
        SaveFormat::DockerArchive => ArchiveFormat::Docker,
        SaveFormat::OciArchive | SaveFormat::OciDir => ArchiveFormat::Oci,
    };
    let settings = Settings {
        coding: coding(&args)?,
        ..Settings::new(format)
    };
    match (args.output, args.format) {
        (Some(path), SaveFormat::OciDir) => {
            archive::write_layout(&store, &entries, &settings, &path)?;
        }
        (None, SaveFormat::OciDir) => return Err(usage_error("--format oci-dir needs --output DIRECTORY")),
        (Some(path), _) => archive::save_packed(&path, |out| {
            archive::write(&store, &entries, &settings, out).map(drop)
        })?,
        (None, _) if io::stdout().is_terminal() => {
            return Err(hint(
                usage_error("an archive is not written to a terminal"),
                "give --output FILE, or redirect stdout",
            ));
        }
        (None, _) => {
            let mut out = context.output();
            archive::write(&store, &entries, &settings, &mut out)?;
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How all layers are compressed, whatever they came as.
fn coding(args: &Args) -> anyhow::Result<Option<Coding>> {
    let Some(choice) = args.compression else {
        return Ok(None);
    };
    let compression = Compression::from(choice);
    let highest = compression.highest_level().unwrap_or(0);
    if args.compression_level.is_some_and(|level| level > highest) {
        return Err(usage_error(format!(
            "--compression-level is a number from 0 to {highest}"
        )));
    }
    Ok(Some(Coding {
        compression,
        level: args.compression_level,
        existing: Existing::Recode,
    }))
}
