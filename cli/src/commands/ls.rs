//! `mica ls`.

use std::io::Write as _;
use std::process::ExitCode;

use mica_builder::export::{self, ExportError};
use mica_fs::layer::Kind;
use mica_fs::overlay::{Attr, Follow, Overlay};
use mica_fs::path::ImagePath;
use serde_json::json;

use crate::args::Format;
use crate::config::Context;
use crate::location;
use crate::node::type_name;
use crate::render::printable;
use crate::source::Elsewhere;

/// List files inside an image, without a mount
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  mica ls busybox
  mica ls -l busybox /etc
  mica ls -R debian:bookworm-slim /usr/share
  mica ls --format json busybox /bin")]
pub struct Args {
    /// The image: a name, or an ID or its first digits; IMAGE:/PATH is understood as well
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The directory or file
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// Show mode, links, owner, group, size and time
    #[arg(long, short)]
    long: bool,
    /// Show what is in the directories, too
    #[arg(long, short = 'R')]
    recursive: bool,
    /// How to write it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,

    #[command(flatten)]
    elsewhere: Elsewhere,
}

/// Lists a directory, or shows the one file, sorted by name.
///
/// # Errors
/// If there is no such image, or nothing at that path.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let (image, path) = match (&args.path, location::split(&args.image)) {
        (Some(path), _) => (args.image.as_str(), path.as_str()),
        (None, Some(parts)) => parts,
        (None, None) => (args.image.as_str(), "/"),
    };
    let store = context.store()?;
    let top = location::path(path)?;
    // Like ls(1), a directory behind a link is listed only when that is asked for by a slash.
    let follow = if args.long && !path.ends_with('/') {
        Follow::No
    } else {
        Follow::Yes
    };
    let overlay = location::open(&store, (image, &args.elsewhere), &[(top.clone(), follow)])?;
    let attr = location::resolve(&overlay, &top, follow)?;
    let mut out = context.output();
    let mut entries: Vec<(Vec<u8>, ImagePath, Attr)> = Vec::new();
    if attr.kind != Kind::Directory {
        entries.push((path.as_bytes().to_vec(), top, attr));
    } else if args.recursive {
        let mut below = Vec::new();
        export::walk(&overlay, &top, &mut |path, attr| {
            below.push((path.clone(), *attr));
            Ok(())
        })?;
        let relative = |path: &ImagePath| {
            let rest = path.as_bytes().strip_prefix(top.as_bytes()).unwrap_or_default();
            rest.strip_prefix(b"/").unwrap_or(rest).to_vec()
        };
        entries.extend(
            below
                .into_iter()
                .skip(1)
                .map(|(path, attr)| (relative(&path), path, attr)),
        );
    } else {
        let children = export::children(&overlay, attr.ino).map_err(|source| ExportError::Image {
            path: top.clone(),
            source,
        })?;
        entries.extend(
            children
                .into_iter()
                .map(|(name, attr)| (name.clone(), top.join(&name), attr)),
        );
    }
    for (name, path, attr) in &entries {
        writeln!(out, "{}", line(&args, &overlay, name, path, attr)?)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn line(
    args: &Args,
    overlay: &Overlay,
    name: &[u8],
    path: &ImagePath,
    attr: &Attr,
) -> anyhow::Result<String> {
    let name = String::from_utf8_lossy(name);
    let target = match attr.kind {
        Kind::Symlink => Some(String::from_utf8_lossy(&overlay.read_link(attr.ino)?).into_owned()),
        _ => None,
    };
    if args.format == Format::Json {
        return Ok(json!({
            "Path": path.to_string(),
            "Type": type_name(attr.kind),
            "Mode": format!("{:04o}", attr.mode),
            "Uid": attr.uid,
            "Gid": attr.gid,
            "Size": attr.size,
            "Links": attr.nlink,
            "ModTime": time(attr),
            "Target": target,
        })
        .to_string());
    }
    if !args.long {
        return Ok(printable(&name));
    }
    let size = match attr.kind {
        Kind::CharDevice | Kind::BlockDevice => format!("{}, {}", attr.device.major, attr.device.minor),
        _ => attr.size.to_string(),
    };
    let arrow = target
        .map(|target| format!(" -> {}", printable(&target)))
        .unwrap_or_default();
    Ok(format!(
        "{} {:>3} {:>5} {:>5} {:>9} {} {}{arrow}",
        mode_text(attr),
        attr.nlink,
        attr.uid,
        attr.gid,
        size,
        time(attr),
        printable(&name),
    ))
}

fn time(attr: &Attr) -> String {
    jiff::Timestamp::from_second(attr.mtime.seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

/// Type and permissions as in ls(1).
fn mode_text(attr: &Attr) -> String {
    let kind = match attr.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::CharDevice => 'c',
        Kind::BlockDevice => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = attr.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (attr.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}
