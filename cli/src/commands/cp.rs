//! `mica cp`.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use mica_builder::export;
use mica_fs::layer::Kind;
use mica_fs::overlay::Follow;
use mica_fs::path::ImagePath;

use crate::config::Context;
use crate::diagnostic::{hint, usage_error};
use crate::location;
use crate::source::Elsewhere;

/// Copy files out of an image, without a mount
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A directory is copied with all that is in it: to DEST, or into DEST if that is a directory.\n\
With /. at the end of PATH the directory's content is copied. Owners are kept if root copies.\n\n\
Examples:
  mica cp busybox:/etc/passwd .
  mica cp app:/srv ./srv
  mica cp app:/srv/. ./srv
  mica cp app:/usr/share/doc - | tar tv"
)]
pub struct Args {
    /// What to copy
    #[arg(value_name = "IMAGE:PATH")]
    source: String,
    /// Where to; - writes a tar to stdout
    #[arg(value_name = "DEST")]
    destination: PathBuf,
    /// Copy what a symbolic link leads to (inside the image)
    #[arg(long, short = 'L')]
    follow_link: bool,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Copies as `docker cp` does. Nothing is written outside of the destination.
///
/// # Errors
/// If there is no such image or path, or the destination cannot be written.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let Some((image, text)) = location::split(&args.source) else {
        return Err(hint(
            usage_error(format!("{:?} is not of the form IMAGE:/PATH", args.source)),
            "files are copied out of images; to put files into one, build it",
        ));
    };
    let store = context.store()?;
    let path = location::path(text)?;
    let wants_content = text.ends_with("/.") || path.is_root();
    let follow = if args.follow_link || text.ends_with('/') {
        Follow::Yes
    } else {
        Follow::No
    };
    let overlay = location::open(&store, (image, &args.elsewhere), &[(path.clone(), follow)])?;
    let attr = location::resolve(&overlay, &path, follow)?;
    let name = OsStr::from_bytes(path.name().unwrap_or_default());
    if args.destination.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            return Err(hint(
                usage_error("a tar is not written to a terminal"),
                "redirect stdout",
            ));
        }
        let inside = if wants_content {
            ImagePath::root()
        } else {
            ImagePath::clean(name.as_bytes())?
        };
        let mut out = context.output();
        export::tar(&store, &overlay, &path, &inside, &mut out)?;
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    let is_directory = attr.kind == Kind::Directory;
    let ends_with_slash = args.destination.as_os_str().as_bytes().ends_with(b"/");
    let destination = match args.destination.is_dir() {
        true if is_directory && wants_content => args.destination,
        true => args.destination.join(name),
        false if is_directory && args.destination.symlink_metadata().is_ok() => {
            bail!(
                "cannot copy the directory {path} over {}, which is no directory",
                args.destination.display()
            )
        }
        false if !is_directory && ends_with_slash => {
            bail!("there is no directory {}", args.destination.display())
        }
        false => args.destination,
    };
    export::place(&overlay, &path, follow, &destination)?;
    Ok(ExitCode::SUCCESS)
}
