//! `mica copy`.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use mica_builder::archive::Existing;
use mica_builder::copy::{BlobState, Copy, CopyEvent, Digests, Pipes, Place, Platforms};
use mica_builder::image::MediaTypes;
use mica_builder::plan;
use mica_builder::solver::Stop;

use crate::commands::build::with_hint;
use crate::commands::save::CompressionChoice;
use crate::commands::{pull, push};
use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::progress::transfer::{Shown, State, Transfers};
use crate::registries::Options;
use crate::signals;

/// Copy an image between registries, archives and the store
///
/// What the destination has already is not sent. Blobs pass from one place to the other as they arrive; the store gets
/// nothing, unless it is the destination.
#[derive(Debug, clap::Args)]
#[command(after_help = "Places:
  NAME, store:NAME            an image of the store
  docker://NAME               an image in a registry
  docker-archive:FILE[:NAME]  an archive as `docker save` writes it; - is stdin or stdout
  oci-archive:FILE[:NAME]     a tar of an OCI image layout; - is stdin or stdout
  oci:DIRECTORY[:NAME]        an OCI image layout
  docker-daemon:NAME          an image of Docker's daemon, to copy from
  containers-storage:NAME     an image of podman and buildah, to copy from

Examples:
  mica copy docker://busybox docker://registry.example.com/mirror/busybox
  mica copy --all docker://debian:12 oci:layout:debian
  mica copy docker://busybox docker-archive:busybox.tar:busybox:latest
  ssh host docker save app | mica copy docker-archive:- docker://registry.example.com/app")]
pub struct Args {
    /// Copy the images for all platforms
    #[arg(long, short, conflicts_with = "platform")]
    all: bool,

    /// The platform, if the image is there for several: OS[/ARCH[/VARIANT]] [default: this machine's]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,

    /// The form of the manifest [default: as it is]
    #[arg(long, short, value_name = "FORMAT")]
    format: Option<ManifestFormat>,

    /// Fail rather than change a digest
    #[arg(long)]
    preserve_digests: bool,

    /// Write the digest of the copy to a file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,

    /// Write nothing
    #[arg(long, short)]
    quiet: bool,

    /// How to compress plain layers of the store or a docker-archive for a registry [default: gzip]
    #[arg(long, value_name = "HOW")]
    compression: Option<CompressionChoice>,

    /// How hard to compress: up to 9 for gzip, up to 22 for zstd [default: 6, 3]
    #[arg(long, value_name = "LEVEL")]
    compression_level: Option<u32>,

    #[command(flatten)]
    sides: Sides,

    /// What is copied
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Where it is copied to
    #[arg(value_name = "DESTINATION")]
    destination: String,
}

/// How the registries are reached, each in its own way.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Registry options")]
struct Sides {
    /// Whether to check the source's certificate and refuse plain HTTP [default: as registries.conf says, else true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    src_tls_verify: Option<bool>,

    /// The same for the destination
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dest_tls_verify: Option<bool>,

    /// Credentials for the source; others can see them in the list of processes
    #[arg(long, value_name = "USER[:PASSWORD]")]
    src_creds: Option<String>,

    /// Credentials for the destination; others can see them in the list of processes
    #[arg(long, value_name = "USER[:PASSWORD]")]
    dest_creds: Option<String>,

    /// The file with credentials, instead of Docker's config.json and podman's auth.json
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// The same for the source alone
    #[arg(long, value_name = "FILE")]
    src_authfile: Option<PathBuf>,

    /// The same for the destination alone
    #[arg(long, value_name = "FILE")]
    dest_authfile: Option<PathBuf>,

    /// A directory with certificates for the source
    #[arg(long, value_name = "DIR")]
    src_cert_dir: Option<PathBuf>,

    /// A directory with certificates for the destination
    #[arg(long, value_name = "DIR")]
    dest_cert_dir: Option<PathBuf>,
}

impl Sides {
    fn source(&self) -> Options {
        Options::of_side(
            self.src_tls_verify,
            self.src_authfile.clone().or_else(|| self.authfile.clone()),
            self.src_creds.clone(),
            self.src_cert_dir.clone(),
        )
    }

    fn destination(&self) -> Options {
        Options::of_side(
            self.dest_tls_verify,
            self.dest_authfile.clone().or_else(|| self.authfile.clone()),
            self.dest_creds.clone(),
            self.dest_cert_dir.clone(),
        )
    }
}

/// A form of manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManifestFormat {
    /// As OCI has it
    Oci,
    /// Docker's: image manifest version 2, schema 2
    #[value(alias = "docker")]
    V2s2,
}

impl From<ManifestFormat> for MediaTypes {
    fn from(format: ManifestFormat) -> Self {
        match format {
            ManifestFormat::Oci => Self::Oci,
            ManifestFormat::V2s2 => Self::Docker,
        }
    }
}

/// Copies the image and says its digest.
///
/// # Errors
/// If it cannot be copied; the destination's name stands for what it stood for before.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let [from, to] = [&args.source, &args.destination].map(|text| Place::parse(text));
    let [from, to] = [from, to].map(|place| place.map_err(|e| usage_error(e.to_string())));
    let (from, to) = (from?, to?);
    let is_piped = |place: &Place| matches!(place, Place::Archive { file: None, .. });
    if is_piped(&to) && io::IsTerminal::is_terminal(&io::stdout()) {
        let error = usage_error("an archive is not written to a terminal");
        return Err(hint(error, "name a file, or redirect stdout"));
    }
    let needs_store = [&from, &to].iter().any(|place| matches!(place, Place::Store(_)));
    let store = needs_store.then(|| context.store()).transpose()?;
    let stop = Arc::new(Stop::default());
    let (source, destination) = (
        args.sides.source().client(&stop)?,
        args.sides.destination().client(&stop)?,
    );
    let transfers = Transfers::start(match args.quiet {
        true => Shown::Nothing,
        false => Shown::Bars,
    });
    let copy = Copy {
        store: store.as_deref(),
        source: &source,
        destination: &destination,
        platforms: platforms(&args)?,
        media_types: args.format.map(MediaTypes::from),
        digests: match args.preserve_digests {
            true => Digests::Stay,
            false => Digests::MayChange,
        },
        coding: push::coding(args.compression, args.compression_level, Existing::Keep)?,
        listener: &|event| show(&transfers, event),
    };
    let mut output = context.output();
    let pipes = Pipes {
        input: &mut io::stdin(),
        output: &mut output,
    };
    let copied = signals::stopping_soon(&stop, || {
        let copied = copy.copy(&from, &to, pipes);
        transfers.end();
        copied.map_err(|e| with_hint(e.hint(), e))
    })??;
    io::Write::flush(&mut output)?;
    if let Some(path) = &args.digestfile {
        let text = copied.digest.to_string();
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !args.quiet && !is_piped(&to) {
        context.print(&format!("{}\n", copied.digest))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn platforms(args: &Args) -> anyhow::Result<Platforms> {
    let platform = args.platform.as_deref().map(plan::platform).transpose();
    Ok(match platform.map_err(|e| usage_error(e.to_string()))? {
        _ if args.all => Platforms::All,
        Some(platform) => Platforms::One(platform),
        None => Platforms::Host,
    })
}

fn show(transfers: &Transfers, event: CopyEvent) {
    match event {
        CopyEvent::Push(event) => push::show(transfers, event),
        CopyEvent::Pull(event) => pull::show(transfers, event),
        CopyEvent::Begun(digest, layers) => {
            transfers.note(&format!("Copying {digest}"));
            transfers.announce(&layers, State::Idle("Waiting"));
        }
        CopyEvent::Blob(digest, state) => {
            let state = match state {
                BlobState::Exists => State::Ended("Already exists"),
                BlobState::Mounted(_) => State::Ended("Mounted from another repository"),
                BlobState::Sent(bytes) => State::Moved("Copying", bytes),
                BlobState::Done => State::Ended("Copied"),
            };
            transfers.set(&digest, state);
        }
    }
}
