//! The arguments of `mica build`, and what of them the planner is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use mica_builder::graph::Network;
use mica_builder::plan::{NamedContext, Request};

use super::sources;
use crate::progress::Style;

/// Build an image from a Dockerfile
///
/// Each RUN is executed in namespaces of its own on a copy-on-write mount of the layers so far. Steps whose
/// command, base and copied files are the same as in an earlier build are taken from the cache.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica build -t hello .\n  \
    mica build -t hello:1.0 -f docker/Dockerfile --build-arg VERSION=1.0 --target release .\n  \
    mica build --output type=oci,dest=hello.tar .\n  \
    echo 'FROM busybox' | mica build -t copy -")]
pub struct Args {
    /// The build context: a directory; or `-` to read a Dockerfile from stdin, with no context
    #[arg(value_name = "PATH|-")]
    pub(super) path: PathBuf,

    /// Name of the Dockerfile [default: PATH/Dockerfile]; `-` reads it from stdin
    #[arg(long, short, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,

    /// Name the image, as NAME or NAME:TAG; may be given again
    #[arg(long, short, value_name = "NAME")]
    pub(super) tag: Vec<String>,

    /// Set a build argument; without =VALUE it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub(super) build_arg: Vec<String>,

    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub(super) target: Option<String>,

    /// Set a label on the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub(super) label: Vec<String>,

    /// Give a directory or an image (docker-image://NAME) a name for FROM and --from
    #[arg(long, value_name = "NAME=PATH")]
    pub(super) build_context: Vec<String>,

    /// Give a secret to steps that ask for it by RUN --mount=type=secret
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR]")]
    pub(super) secret: Vec<String>,

    /// Execute every step, whatever the cache holds
    #[arg(long)]
    pub(super) no_cache: bool,

    /// Execute every step of these stages, whatever the cache holds
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub(super) no_cache_filter: Vec<String>,

    /// Accepted as docker has it: images come from the store, and there is nothing to pull
    #[arg(long)]
    pub(super) pull: bool,

    /// The platform to build for: this machine's
    #[arg(long, value_name = "OS/ARCH")]
    pub(super) platform: Vec<String>,

    /// Add a name to /etc/hosts of every step
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub(super) add_host: Vec<String>,

    /// What RUN can reach, where it does not say so itself
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub(super) network: NetworkMode,

    /// Check the Dockerfile, and build nothing: --call=check
    #[arg(long, conflicts_with = "call")]
    pub(super) check: bool,

    /// Answer a question instead of building: check, outline, targets; with `,format=json` in JSON
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub(super) call: String,

    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    pub(super) iidfile: Option<PathBuf>,

    /// Write the result: type=oci|docker|tar|local,dest=PATH; or a directory; or `-` for a tar to stdout
    #[arg(long, short, value_name = "SPEC")]
    pub(super) output: Vec<String>,

    /// How to show progress
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub(super) progress: Style,

    /// Show nothing but errors, and print the image's ID
    #[arg(long, short)]
    pub(super) quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum NetworkMode {
    /// The host's network
    Default,
    /// The host's network
    Host,
    /// No network
    None,
}

/// What is asked of the planner.
///
/// # Errors
/// If an option is not of its form.
pub(super) fn request(args: &Args, contexts: BTreeMap<String, NamedContext>) -> anyhow::Result<Request> {
    let mut build_args = BTreeMap::new();
    for text in &args.build_arg {
        match text.split_once('=') {
            Some((name, value)) => {
                build_args.insert(name.to_owned(), value.to_owned());
            }
            None => {
                if let Ok(value) = std::env::var(text) {
                    build_args.insert(text.clone(), value);
                }
            }
        }
    }
    let label = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    Ok(Request {
        build_args,
        target: args.target.clone().filter(|target| !target.is_empty()),
        labels: args.label.iter().map(label).collect(),
        network: match args.network {
            NetworkMode::None => Some(Network::None),
            NetworkMode::Default | NetworkMode::Host => None,
        },
        hosts: sources::hosts(&args.add_host)?,
        platform: sources::platform(&args.platform)?,
        refresh: args.no_cache_filter.iter().cloned().collect(),
        contexts,
        ..Request::default()
    })
}
