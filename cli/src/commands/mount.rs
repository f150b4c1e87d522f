//! `mica mount`: show an image as a directory.
//!
//! Two ways lead there. In the host's mount namespace a server process stays in the background ([`serve`]); with
//! a command, the mount lives in a namespace of its own for as long as the command ([`namespace`]). In both a
//! tiny watcher ([`watch`]) takes the mount away when its server is killed. A server in the background or foreground can
//! reach little of the machine ([`confine`]).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use mica_builder::image::Image;
use mica_builder::ledger::{find, forest};
use mica_fs::digest::Digest;
use mica_fs::layer::Layer;
use mica_fs::mount::{Content, MountError, MountOptions, Permissions};
use mica_fs::overlay::{Overlay, Upper};
use mica_fs::store::{Lease, Store, StoreError, UpperBase, WorkDir};

use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::source::{Elsewhere, Source};

mod confine;
pub mod control;
mod namespace;
pub mod record;
pub mod serve;
pub mod watch;

/// Show an image as a directory
///
/// The image is mounted read-only, in the background, until `mica umount`. With a COMMAND it is mounted where
/// only the command and its children see it, and unmounted when the command ends: this needs neither root nor
/// fusermount3.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica mount debian:12 /mnt\n  \
    mica mount --rw --upper trial debian:12 /mnt    keep what is changed, and find it again next time\n  \
    mica mount app@7 /mnt                           as it was after step 7 of its last build, also a failed one
    mica mount app@build:3 /mnt                     after the third step of the stage build
    mica mount --all app /mnt                       /mnt/image, /mnt/steps/07-RUN-make, /mnt/layers, /mnt/diff
    mica mount debian:12 -- ls -l /proc/self/cwd/   run a command with the image at $MICA_MOUNT\n  \
    mica mount debian:12                            the same with a shell")]
pub struct Args {
    #[command(flatten)]
    what: What,

    /// The directory to mount on; without it, a private temporary one for the command
    directory: Option<PathBuf>,

    /// Stay in the foreground and serve until unmounted or interrupted
    #[arg(long, short = 'f', conflicts_with = "command")]
    foreground: bool,

    /// Run this, by default $SHELL, with the mount visible to it alone, at DIRECTORY and $MICA_MOUNT
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What to mount, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct What {
    /// Allow changes; they are thrown away at the end unless --upper keeps them
    #[arg(long)]
    rw: bool,

    /// Keep the changes under this name, for the next mount of the same image with it
    #[arg(long, value_name = "NAME", requires = "rw")]
    upper: Option<String>,

    /// Show only the lowest N layers
    #[arg(long, value_name = "N")]
    layers: Option<usize>,

    /// Show all of the image's last build: the image, the filesystem after each step, each layer, and what each step
    /// changed
    #[arg(long, conflicts_with_all = ["rw", "layers"])]
    all: bool,

    /// Let device nodes of the image work
    #[arg(long)]
    dev: bool,

    /// Let set-user-ID bits and file capabilities of the image work
    #[arg(long)]
    suid: bool,

    /// Name, ID or digest of the image; or IMAGE@STEP, a step of its last build, by the number that the build showed, by
    /// the name of a stage, or STAGE:N; build-N stands for a build, and nothing before the @ for the last one
    image: String,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Mounts, in one of the three ways.
///
/// # Errors
/// [`MountError`] with a hint, an unknown image, or what kept the server from starting.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    // clap does not tell `DIRECTORY --` from `DIRECTORY`.
    let has_command = !args.command.is_empty() || std::env::args_os().any(|arg| arg == "--");
    match args.directory {
        None if args.foreground => Err(usage_error("--foreground needs a directory to mount on")),
        directory if directory.is_none() || has_command => {
            namespace::run(&args.what, directory, &args.command, context)
        }
        Some(directory) if args.foreground => serve::foreground(&args.what, &directory, context),
        Some(directory) => serve::background(&args.what, &directory, context),
        None => Err(usage_error("a directory to mount on is missing")),
    }
}

/// What is mounted, with what keeps its layers and its upper alive.
struct Opened {
    content: Content,
    /// The image; `None` for a step of a build, and for all of one.
    manifest: Option<Digest>,
    _lease: Lease,
    _scratch: Option<WorkDir>,
}

impl Opened {
    /// The overlay that can be changed.
    fn overlay(&self) -> Option<&Arc<Overlay>> {
        match &self.content {
            Content::Overlay(overlay) => Some(overlay),
            Content::Forest(_) => None,
        }
    }

    /// Saves what was changed, for the next session: this process may take a while to end.
    fn end(&self) -> anyhow::Result<()> {
        let saved = self.overlay().map(|overlay| overlay.end());
        saved
            .transpose()
            .context("cannot save what was changed")
            .map(drop)
    }
}

impl What {
    /// Finds what is to be mounted and makes an overlay of its layers.
    fn open(&self, store: &Store) -> anyhow::Result<Opened> {
        if self.all {
            return self.open_all(store);
        }
        if let Some((build, step)) = find::split(&self.image) {
            return self.open_step(store, build, step);
        }
        let source = self.elsewhere.image(store, &self.image)?;
        let Source::Stored(image) = source else {
            return self.open_remote(store, &source);
        };
        let mut ids = image.layers().to_vec();
        ids.truncate(self.count(ids.len())?);
        let lease = store.lease(&ids)?;
        let layers = store.layers(&ids)?;
        let Some(name) = &self.upper else {
            return self.opened(store, layers, lease, Some(image.manifest_digest));
        };
        let base = UpperBase {
            image: self.image.clone(),
            manifest: image.manifest_digest,
            layers: ids,
        };
        let upper = named_upper(store, name, &base)?;
        let overlay = Overlay::writable(layers, upper, Default::default())
            .with_context(|| format!("cannot use the upper {name:?}"))?;
        Ok(Opened {
            content: Arc::new(overlay).into(),
            manifest: Some(image.manifest_digest),
            _lease: lease,
            _scratch: None,
        })
    }

    /// How many of so many layers are to be shown.
    fn count(&self, all: usize) -> anyhow::Result<usize> {
        match self.layers {
            Some(lowest) if lowest > all => Err(usage_error(format!("{} has only {all} layers", self.image))),
            lowest => Ok(lowest.unwrap_or(all)),
        }
    }

    /// An image that is read in its registry.
    fn open_remote(&self, store: &Store, source: &Source) -> anyhow::Result<Opened> {
        if self.upper.is_some() {
            let error = anyhow::anyhow!(
                "--upper keeps changes of images in the store; {} is not there",
                self.image
            );
            return Err(hint(error, format!("`mica pull {}` brings it in", self.image)));
        }
        let image = source.image();
        let layers = source.layers(store, 0..self.count(image.layers().len())?)?;
        self.opened(store, layers, store.lease(&[])?, Some(image.manifest_digest))
    }

    fn open_step(&self, store: &Store, build: &str, step: &str) -> anyhow::Result<Opened> {
        if self.upper.is_some() || self.layers.is_some() {
            return Err(usage_error(
                "--upper and --layers are for images, not for steps of a build",
            ));
        }
        let found = find::step(store, build, step)?;
        let layers = found.layers(store)?;
        let lease = store.lease(&found.record.layers_after(found.step()))?;
        self.opened(store, layers, lease, None)
    }

    /// The overlay of these layers, with a scratch upper if it is to be changed.
    fn opened(
        &self,
        store: &Store,
        layers: Vec<Arc<Layer>>,
        lease: Lease,
        manifest: Option<Digest>,
    ) -> anyhow::Result<Opened> {
        let scratch = self.rw.then(|| store.work_dir()).transpose()?;
        let overlay = match &scratch {
            None => Overlay::read_only(layers),
            Some(work) => Overlay::writable(layers, Upper::scratch(work.path()), Default::default())?,
        };
        Ok(Opened {
            content: Arc::new(overlay).into(),
            manifest,
            _lease: lease,
            _scratch: scratch,
        })
    }

    fn open_all(&self, store: &Store) -> anyhow::Result<Opened> {
        let (id, record) = find::build(store, &self.image)?;
        let ids = record.steps.iter().flat_map(|step| record.layers_after(step));
        let ids: Vec<_> = ids.filter(|id| store.has_layer(id)).collect();
        let lease = store.lease(&ids)?;
        let planted = forest::plant(store, id, &record)?;
        for error in &planted.missing {
            tracing::warn!("{error}");
        }
        Ok(Opened {
            content: Arc::new(planted.forest).into(),
            manifest: None,
            _lease: lease,
            _scratch: None,
        })
    }

    fn options(&self, permissions: Permissions) -> MountOptions {
        MountOptions {
            writable: self.rw,
            write_through: false,
            traced: false,
            allow_other: !matches!(permissions, Permissions::Owner),
            permissions,
            owner: None,
            no_dev: !self.dev,
            no_suid: !self.suid,
            name: self.image.clone(),
        }
    }
}

/// The image that this names.
pub fn find_image(store: &Store, text: &str) -> anyhow::Result<Image> {
    Image::find(store, text).map_err(|error| match error.hint() {
        Some(advice) => hint(error, advice),
        None => error.into(),
    })
}

/// The named upper, made if it is not there.
fn named_upper(store: &Store, name: &str, base: &UpperBase) -> anyhow::Result<Upper> {
    store.upper(name, base).map_err(|error| match &error {
        StoreError::UpperBase { manifest, .. } => {
            let advice = format!(
                "choose another name; or mount {manifest}, or make an image of it: mica commit {name} IMAGE"
            );
            hint(error, advice)
        }
        _ => error.into(),
    })
}

/// Adds to a mount error what can be done about it.
pub fn explain(error: MountError) -> anyhow::Error {
    let advice = match &error {
        MountError::NoFuse { .. } => {
            "load the kernel module (`modprobe fuse`), or start the container with `--device /dev/fuse`"
                .to_owned()
        }
        MountError::Device { .. }
        | MountError::NotAllowed { .. }
        | MountError::Session { .. }
        | MountError::Helper { .. } => {
            "`mica doctor` says what this machine lacks, and how to mend it".to_owned()
        }
        MountError::MountPoint { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("make the directory first: mkdir -p {}", path.display())
        }
        MountError::AlreadyMounted { path } => {
            format!(
                "choose another directory, or `mica umount {}` first",
                path.display()
            )
        }
        MountError::NoHelper => {
            "install fuse3 (apt-get install fuse3), or look at the image from a namespace of its \
                                 own: mica mount IMAGE DIR -- COMMAND"
                .to_owned()
        }
        MountError::Busy { path } => format!(
            "leave the directory and close its files, or detach it at once: mica umount --lazy {}",
            path.display()
        ),
        _ => return error.into(),
    };
    hint(error, advice)
}
