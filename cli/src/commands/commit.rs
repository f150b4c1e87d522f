//! `mica commit`: an image of what was changed.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail, ensure};
use mica_builder::commit::{self, Remark};
use mica_builder::image::Image;
use mica_builder::import;
use mica_builder::pull::{JOBS, Naming};
use mica_builder::reference::Reference;
use mica_builder::solver::Stop;
use mica_fs::digest::{DiffId, Digest};
use mica_fs::overlay::Overlay;
use mica_fs::store::{Store, StoreError, UpperBase};

use super::mount::control;
use super::mount::record::{self, Record};
use super::pull::Puller;
use super::tag::taggable;
use crate::config::Context;
use crate::diagnostic::hint;
use crate::progress::transfer::{Shown, Transfers};
use crate::registries::Options;
use crate::signals;

/// Make an image of what was changed in a writable mount or a named upper
///
/// The new image has the layers of the one that was mounted, and one more with the changes. Of a mount that is in use
/// it has what was written before; who writes meanwhile waits until the layer is made. The mount and the upper stay
/// as they are.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica commit /mnt app:patched
  mica commit -m 'with tools' -c 'CMD [\"/bin/bash\"]' -c 'ENV LANG=C.UTF-8' trial app:tools")]
pub struct Args {
    /// The directory of a mount that was made with --rw, or the name of an upper
    #[arg(value_name = "DIRECTORY|UPPER")]
    source: String,
    /// The names of the new image
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A remark for the image's history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
    /// Who made it
    #[arg(long, short, value_name = "TEXT")]
    author: Option<String>,
    /// Apply an instruction to the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR; may be repeated
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,

    #[command(flatten)]
    registry: Options,
}

/// Makes the image and writes its ID.
///
/// # Errors
/// If there is no such mount or upper, a mount is read-only, an upper is in use by a session that cannot be asked, or
/// a change is none.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let names = args
        .names
        .iter()
        .map(|name| taggable(name))
        .collect::<Result<Vec<_>, _>>()?;
    let store = context.store()?;
    let source = Source::find(&args.source, context, &store)?;
    let base = source.base(&store, &args.registry)?;
    let mut config = base.config.clone();
    // As in Docker, what the image does when it is built upon does not go on.
    config.config.on_build.clear();
    for change in &args.change {
        import::change(&mut config.config, change)?;
    }
    let layer = source.layer(&base, context, &store)?;
    let remark = Remark {
        created: jiff::Timestamp::now().to_string(),
        author: args.author,
        message: args.message,
    };
    let image = commit::image(&store, &base, config, layer, remark)?;
    for name in &names {
        store.tag(&name.to_string(), &image.manifest_digest)?;
    }
    context.print(&format!("{}\n", image.id()))?;
    Ok(ExitCode::SUCCESS)
}

/// Where the changes are.
enum Source {
    /// In a mount, whose server is asked for them.
    Mount(Record),
    /// In an upper that no session has.
    Upper(String, UpperBase),
}

impl Source {
    fn find(text: &str, context: &Context, store: &Store) -> anyhow::Result<Self> {
        let directory = record::canonical(Path::new(text));
        let mut mounts = record::mounted(context)?.into_iter().map(|found| found.record);
        if let Some(mount) =
            mounts.find(|mount| mount.directory == directory || mount.upper.as_deref() == Some(text))
        {
            let read_only = format!("{text} is mounted read-only: nothing has changed in it");
            ensure!(
                mount.writable,
                hint(anyhow!(read_only), "mount with --rw to change an image")
            );
            return Ok(Self::Mount(mount));
        }
        match store.upper_base(text) {
            Ok(base) => Ok(Self::Upper(text.to_owned(), base)),
            Err(StoreError::NoUpper { .. } | StoreError::UpperName { .. }) => Err(hint(
                anyhow!("{text} is neither a mount nor an upper of this store"),
                "`mica mounts` and `mica upper ls` list them; $MICA_ROOT chooses the store",
            )),
            Err(other) => Err(other.into()),
        }
    }

    /// The image that was changed.
    fn base(&self, store: &Store, registry: &Options) -> anyhow::Result<Image> {
        let manifest: Digest = match self {
            Self::Mount(mount) if mount.manifest.is_empty() => {
                bail!("{} is a step of a build, and no image", mount.image)
            }
            Self::Mount(mount) => mount.manifest.parse()?,
            Self::Upper(_, base) => base.manifest,
        };
        match self {
            // It was read in its registry.
            Self::Mount(mount) if !store.has_blob(&manifest) => {
                pull(store, &mount.image, &manifest, registry)
            }
            _ => Ok(Image::load(store, &manifest)?),
        }
        .context("cannot find the image that was changed")
    }

    /// What was changed, as a layer upon those of `base`.
    fn layer(&self, base: &Image, context: &Context, store: &Store) -> anyhow::Result<Option<DiffId>> {
        match self {
            Self::Mount(mount) => {
                let snapshot = control::snapshot(context, mount)?;
                check_layers(base, &snapshot.below)?;
                Ok(snapshot.layer)
            }
            Self::Upper(name, upper) => {
                check_layers(base, &upper.layers)?;
                let layers = upper.layers.iter().map(|id| store.layer(id));
                let layers = layers.collect::<Result<Vec<_>, _>>()?;
                let overlay = Overlay::writable(layers, store.upper(name, upper)?, Default::default())
                    .with_context(|| format!("cannot use the upper {name:?}"))?;
                Ok(commit::layer(store, &overlay)?)
            }
        }
    }
}

/// Brings an image in that a mount shows of a registry: a new layer needs those below.
fn pull(store: &Store, name: &str, manifest: &Digest, registry: &Options) -> anyhow::Result<Image> {
    let reference = Reference::parse(&format!("{}@{manifest}", Reference::parse(name)?.repository()))?;
    let stop = Arc::new(Stop::default());
    let puller = Puller {
        store,
        client: &registry.client(&stop)?,
        platform: None,
        jobs: JOBS,
        transfers: Transfers::start(Shown::Bars),
    };
    let pulled = signals::stopping_soon(&stop, || puller.pull(&reference, Naming::Unnamed))?;
    Ok(pulled?.image)
}

/// A mount may show the lowest layers only.
fn check_layers(base: &Image, below: &[DiffId]) -> anyhow::Result<()> {
    if base.layers() != below {
        let (shown, all) = (below.len(), base.layers().len());
        bail!("only {shown} of the image's {all} layers were mounted: changes to them make no image");
    }
    Ok(())
}
