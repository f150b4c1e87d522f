//! `mica import`.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use mica_builder::image::{History, Image, ImageConfig};
use mica_builder::import::{self, Host};
use mica_builder::reference::Reference;
use mica_builder::sandbox::{self, IdMode, UserNs};
use mica_fs::digest::DiffId;
use mica_fs::store::Store;

use super::mount::find_image;
use super::tag::taggable;
use crate::config::Context;

/// What a program is searched in, and what the image's environment says.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Make an image of a root filesystem's tarball or directory, or of programs of this machine
///
/// A directory may be the upper directory of an overlayfs mount: what it says is removed (character devices 0:0, opaque
/// directories) is removed in the image. An unprivileged user's files are root's in the image.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "With --host the image holds the given programs, the libraries (or the interpreters) that they\n\
need to start, and a minimal /etc, /dev, /proc, /sys, /tmp and so on. Nothing is downloaded.\n\n\
Examples:
  mica import rootfs.tar.xz debian:local
  debootstrap-something | mica import - debian:local
  mica import -c 'CMD [\"/bin/sh\"]' -c 'ENV LANG=C.UTF-8' rootfs.tar base
  mica import --base debian:12 /srv/changes/upper debian:changed
  mica import --host sh ls cat -t tools
  mica import --host /usr/bin/python3 sh --include /usr/lib/python3.11 -t python"
)]
pub struct Args {
    /// The tarball, perhaps compressed, or the directory; - for a tarball on stdin
    #[arg(
        value_name = "TARBALL|DIRECTORY",
        required_unless_present = "host",
        conflicts_with = "host"
    )]
    tarball: Option<PathBuf>,
    /// The name of the image
    #[arg(value_name = "NAME", conflicts_with = "host")]
    name: Option<String>,
    /// Programs of this machine, by name or by path
    #[arg(long, value_name = "PROGRAM", num_args = 1..)]
    host: Vec<OsString>,
    /// Files or directories of this machine that come along with the programs
    #[arg(long, value_name = "PATH", requires = "host")]
    include: Vec<PathBuf>,
    /// The name of the image; may be repeated
    #[arg(long, short, value_name = "NAME")]
    tag: Vec<String>,
    /// Put what is imported as one more layer upon this image, whose configuration the new one gets
    #[arg(long, value_name = "IMAGE", conflicts_with = "host")]
    base: Option<String>,
    /// Apply an instruction to the configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, SHELL,
    /// STOPSIGNAL, USER, VOLUME or WORKDIR; may be repeated
    #[arg(long, short, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// A remark for the image's history
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

/// Makes the image and writes its ID.
///
/// # Errors
/// If the tarball is damaged, a program or a library is not found, or a change is none; the store is as it was then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let names: Vec<Reference> = args
        .name
        .iter()
        .chain(&args.tag)
        .map(|name| taggable(name))
        .collect::<Result<_, _>>()?;
    if args.tarball.as_ref().is_some_and(|path| path.is_dir())
        && matches!(IdMode::detect(), Ok(IdMode::Subordinate))
    {
        // There the user is root, and what subordinate ids own can be read and has its owner.
        sandbox::enter(UserNs::Subordinate)?;
    }
    let store = context.store()?;
    let base = args
        .base
        .as_ref()
        .map(|name| find_image(&store, name))
        .transpose()?;
    let mut config = base
        .as_ref()
        .map_or_else(ImageConfig::default, |base| base.config.clone());
    if !args.host.is_empty() {
        config.config.env.push(format!("PATH={SEARCH_PATH}"));
    }
    for change in &args.change {
        import::change(&mut config.config, change)?;
    }
    let host = match args.host.is_empty() {
        true => None,
        false => Some(gather(&args)?),
    };
    let layer = match &host {
        Some(host) => import::host(&store, host)?,
        None => import_files(&store, args.tarball.unwrap_or_default())?,
    };
    let now = jiff::Timestamp::now().to_string();
    config.created = Some(now.clone());
    config.rootfs.diff_ids.push(layer);
    config.history.push(History {
        created: Some(now),
        created_by: host.map(|_| "mica import --host".to_owned()),
        comment: Some(args.message.unwrap_or_else(|| "Imported by mica".to_owned())),
        ..History::default()
    });
    let image = Image::write(&store, config, base.as_ref())?;
    store.add_image(&image.manifest_digest)?;
    for name in &names {
        store.tag(&name.to_string(), &image.manifest_digest)?;
    }
    context.print(&format!("{}\n", image.id()))?;
    Ok(ExitCode::SUCCESS)
}

fn import_files(store: &Store, path: PathBuf) -> anyhow::Result<DiffId> {
    let importing = || format!("cannot import {}", path.display());
    if path.is_dir() {
        return import::directory(store, &path).with_context(importing);
    }
    if path.as_os_str() == "-" {
        return Ok(import::tarball(store, &mut io::stdin().lock())?);
    }
    let mut file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    import::tarball(store, &mut file).with_context(importing)
}

fn gather(args: &Args) -> anyhow::Result<Host> {
    let search_path = std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into());
    let mut host = Host::new();
    for program in &args.host {
        host.program(program, &search_path)?;
    }
    for path in &args.include {
        host.include(path)?;
    }
    Ok(host)
}
