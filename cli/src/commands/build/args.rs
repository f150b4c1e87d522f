//! The arguments of `mica build`: the names and meanings of `docker buildx build`.

use std::path::PathBuf;

use mica_builder::cache::Mode;

use crate::limits::LimitArgs;
use crate::progress::Style;
use crate::registries::{Options, PullWhen};

/// Build an image from a Dockerfile
///
/// Takes the options of `docker buildx build`. Each RUN is executed in namespaces of its own on a copy-on-write
/// mount of the layers so far. Steps whose command, base and copied files are the same as in an earlier build are
/// taken from the cache, and so are those that read nothing of what has changed. The image goes into the store, unless
/// --output says otherwise.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  \
    mica build -t hello .\n  \
    mica build -t hello:1.0 -f docker/Dockerfile --build-arg VERSION=1.0 --target release .\n  \
    mica build -o type=oci,dest=hello.tar,compression=zstd -o type=local,dest=out .\n  \
    SOURCE_DATE_EPOCH=0 mica build -o type=oci,dest=hello.tar,rewrite-timestamp=true .\n  \
    mica build --on-error=shell -t hello .    a shell where a RUN failed\n  \
    mica build -t hello https://example.com/hello.git#main:docker\n  \
    echo 'FROM busybox' | mica build -t copy -\n\n\
    What is the same in the environment: BUILDKIT_PROGRESS is --progress, SOURCE_DATE_EPOCH is a build argument."
)]
pub struct Args {
    /// The build context: a directory, the URL of a Git repository (https://HOST/REPO.git#REF:DIRECTORY), the URL of a
    /// tar or a Dockerfile; or `-` for a tar or a Dockerfile on stdin
    #[arg(value_name = "PATH|URL|-")]
    pub path: PathBuf,

    /// Name of the Dockerfile [default: Dockerfile in the context], or its URL; `-` reads it from stdin. In a context that
    /// is no directory it is a path in there
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,

    /// Set a build argument; without =VALUE it is taken from the environment
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,

    /// Give a place a name for FROM and --from: a directory, docker-image://NAME, oci-layout://DIRECTORY[:TAG|@DIGEST], or
    /// the URL of a Git repository or of a file
    #[arg(long, value_name = "NAME=PLACE")]
    pub build_context: Vec<String>,

    /// The platform to build for: this machine's
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Vec<String>,

    /// When to pull the images that the Dockerfile names; without WHEN: always
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_value = "missing", default_missing_value = "always")]
    pub pull: PullWhen,

    /// Check the Dockerfile, and build nothing: --call=check
    #[arg(long, conflicts_with = "call")]
    pub check: bool,

    /// Answer a question instead of building: check, outline, targets; with `,format=json` in JSON
    #[arg(long, value_name = "METHOD", default_value = "build")]
    pub call: String,

    #[command(flatten)]
    pub image: ImageArgs,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(flatten)]
    pub steps: StepArgs,

    #[command(flatten)]
    pub cache: CacheArgs,

    #[command(flatten)]
    pub registry: Options,

    #[command(flatten)]
    pub debug: DebugArgs,

    #[command(flatten)]
    pub display: DisplayArgs,

    #[command(flatten)]
    pub docker: DockerArgs,
}

/// What `--flag[=VALUE]` shows for VALUE.
const BOOL: &str = "true|false";

/// Names, and what is written on the image.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The image")]
pub struct ImageArgs {
    /// Name the image, as NAME or NAME:TAG; may be given again
    #[arg(long, short, value_name = "NAME")]
    pub tag: Vec<String>,

    /// Set a label on the image
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,

    /// Set an annotation of the manifest, or with `manifest-descriptor:` before it of its entry in an archive's index
    #[arg(long, value_name = "[KIND:]NAME=VALUE")]
    pub annotation: Vec<String>,

    /// Make one layer of all that the build adds to its base
    #[arg(long, value_name = BOOL, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub squash: Option<bool>,

    /// What to do to the layers that the build adds, the root filesystem of the image being the same. fold: a file that
    /// a later layer stores again with another mode, owner or time is stored once, and one that a later layer deletes
    /// or overwrites is not stored
    #[arg(long, value_name = "HOW", conflicts_with = "squash")]
    pub optimize: Option<Optimize>,
}

/// What to do to the layers of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Optimize {
    /// Store each file once, in the layer that made it
    Fold,
    /// Nothing
    None,
}

/// Where the result goes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Output")]
pub struct OutputArgs {
    /// Where the result goes: type=image|oci|docker|tar|local|cacheonly,KEY=VALUE...; or a directory for the files;
    /// or `-` for a tar of them to stdout. May be given again
    ///
    /// image: into the store, as without this option (name=NAME). oci, docker: an archive (dest=FILE or stdout;
    /// tar=false for a directory). local, tar: the files of the image (dest=PATH, platform-split=true). cacheonly:
    /// nothing.
    ///
    /// For images: compression=gzip|zstd|uncompressed, compression-level=N, force-compression=true (also for layers
    /// that came compressed), oci-mediatypes=false, push=true, push-by-digest=true, annotation.NAME=VALUE, rewrite-timestamp=true (no file is newer
    /// than SOURCE_DATE_EPOCH).
    #[arg(long, short, value_name = "SPEC")]
    pub output: Vec<String>,

    /// Into the store, besides where --output says
    #[arg(long, value_name = BOOL, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub load: Option<bool>,

    /// To the registries that the image's names say, besides where --output says
    #[arg(long, value_name = BOOL, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub push: Option<bool>,

    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,

    /// Write digests and names to a file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
}

/// What RUN sees and may do.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Steps")]
pub struct StepArgs {
    /// Give a secret to steps that ask for it by RUN --mount=type=secret. A build whose image would hold one fails;
    /// search=no lets that be
    #[arg(long, value_name = "id=ID[,src=FILE|,env=VAR][,search=no]")]
    pub secret: Vec<String>,

    /// Give an SSH agent to steps that ask for it by RUN --mount=type=ssh, and `default` also to git: that of the
    /// environment, or the one behind a socket, or one with these keys
    #[arg(long, value_name = "ID[=SOCKET|KEY,...]")]
    pub ssh: Vec<String>,

    /// Show every RUN a file or directory of this machine, itself and not a copy. What it holds is not part of the
    /// cache
    #[arg(long, short, value_name = "HOST:PATH[:ro]")]
    pub volume: Vec<String>,

    /// What RUN can reach, where it does not say so itself
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: NetworkMode,

    /// Add a name to /etc/hosts of every RUN; the address may be host-gateway
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,

    /// Allow what is refused otherwise: security.insecure for RUN --security=insecure; network.host always is
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    pub allow: Vec<String>,

    /// The size of /dev/shm, as in 512m [default: 64m]
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,

    /// Limit a resource of every RUN: nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,

    #[command(flatten)]
    pub limits: LimitArgs,

    /// The control group in which each RUN gets one of its own
    #[arg(long, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,

    /// How many steps may be executed at once; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub jobs: usize,
}

/// By what earlier results are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CacheMode {
    /// A step is not executed again if nothing that it has read has changed
    Trace,
    /// A step is executed again if anything below it has changed, as docker does
    Content,
}

/// Reads `N%` or `N`.
fn percentage(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "a part is a number from 0 to 100, as in 25%".to_owned())
}

impl From<CacheMode> for Mode {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Trace => Self::Trace,
            CacheMode::Content => Self::Content,
        }
    }
}

/// What is taken from earlier builds.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Execute every step, whatever the cache holds
    #[arg(long, value_name = BOOL, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub no_cache: Option<bool>,

    /// Execute every step of these stages, whatever the cache holds
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,

    /// By what earlier results are found: by what a step has read, or by content alone, as docker does
    #[arg(long, value_name = "MODE", value_enum, default_value_t = CacheMode::Trace)]
    pub cache: CacheMode,

    /// Execute also this part of the steps that the cache has, and fail if that gives something else
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = percentage)]
    pub verify_cache: Option<u8>,

    /// Take steps from this cache as well: NAME or type=registry,ref=NAME, type=local,src=DIR[,tag=TAG]
    #[arg(long, value_name = "SPEC")]
    pub cache_from: Vec<String>,

    /// Write the cache: type=registry,ref=NAME, type=local,dest=DIR[,tag=TAG], each [,mode=min|max][,ignore-error=true],
    /// or type=inline, into the image
    #[arg(long, value_name = "SPEC")]
    pub cache_to: Vec<String>,
}

/// Looking into steps while the build waits.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Debugging")]
pub struct DebugArgs {
    /// Open a shell in the filesystem of a RUN that failed, with its environment, mounts, secrets and user; there
    /// /dev/mica/step executes its command again. What is changed is thrown away
    #[arg(long, value_name = "WHAT")]
    pub on_error: Option<OnError>,

    /// Open one before this RUN, COPY or ADD, by the number that the build shows; may be given again
    #[arg(long = "break", value_name = "STEP")]
    pub before: Vec<usize>,

    /// Open one after this step; may be given again
    #[arg(long = "break-after", value_name = "STEP")]
    pub after: Vec<usize>,
}

/// The values of `--on-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OnError {
    /// Open a shell
    Shell,
}

/// What is shown meanwhile.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Progress")]
pub struct DisplayArgs {
    /// How to show progress
    #[arg(
        long,
        value_name = "STYLE",
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        hide_env_values = true
    )]
    pub progress: Style,

    /// Say at the end why each step was executed, or not: see `mica why`
    #[arg(long)]
    pub explain: bool,

    /// Show nothing but errors, and print the image's ID
    #[arg(long, short, value_name = BOOL, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub quiet: Option<bool>,
}

/// What docker has and mica need not, or does not yet: accepted where that changes nothing.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "For docker's sake")]
pub struct DockerArgs {
    /// Only false: no attestations are made
    #[arg(long, value_name = "false")]
    pub provenance: Option<String>,

    /// Only false: no attestations are made
    #[arg(long, value_name = "false")]
    pub sbom: Option<String>,

    /// Only with disabled=true: no attestations are made
    #[arg(long, value_name = "SPEC")]
    pub attest: Vec<String>,

    /// Only default: mica builds by itself
    #[arg(long, value_name = "default")]
    pub builder: Option<String>,

    /// Options of the old builder that change nothing here.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub rm: Option<bool>,

    /// Likewise.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub force_rm: Option<bool>,

    /// Likewise.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub compress: Option<bool>,
}

/// The values of `--network`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum NetworkMode {
    /// The host's network
    Default,
    /// The host's network
    Host,
    /// No network
    None,
    /// The world, by pasta, and nothing of the host's loopback interface
    Pasta,
}
