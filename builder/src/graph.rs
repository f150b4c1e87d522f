//! The build graph: stages, their steps, and what each needs. Pure data: it knows nothing of Dockerfile syntax,
//! of the store or of how a step is executed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use mica_fs::digest::DiffId;

use crate::dockerfile::mount::Sharing;
use crate::dockerfile::{Chmod, Span};
use crate::epoch::Epoch;
use crate::image::{Image, ImageConfig};
use crate::remote::Remote;
use crate::sandbox::Limits;

/// The number of a stage, in the order of the Dockerfile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StageId(pub usize);

/// A whole build.
#[derive(Debug)]
pub struct Graph {
    /// The stages that the target needs, itself included, in the order of the Dockerfile. A stage needs earlier ones
    /// only.
    pub stages: BTreeMap<StageId, Stage>,
    /// The stage whose result is the image.
    pub target: StageId,
    /// When the image is to have been made, whenever that is (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<Epoch>,
}

/// A stage: a base and the steps on top of it.
#[derive(Debug)]
pub struct Stage {
    /// Its name, or `stage-N` for one without.
    pub name: String,
    /// What it stands on.
    pub base: Base,
    /// The text of FROM, for people.
    pub text: String,
    /// Where FROM is.
    pub span: Span,
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// Whether its steps are executed whatever the cache holds.
    pub refresh: bool,
    /// The configuration after the last step; its `rootfs` and `history` are the builder's to fill.
    pub config: ImageConfig,
}

/// What a stage stands on.
#[derive(Clone, Debug)]
pub enum Base {
    /// Nothing.
    Scratch,
    /// An image of the store.
    Image(Box<Image>),
    /// An earlier stage.
    Stage(StageId),
    /// A directory that the command line gave this name (`--build-context`).
    Named(String),
}

/// One instruction, evaluated: variables replaced, paths absolute.
#[derive(Debug)]
pub struct Step {
    /// The instruction as the Dockerfile has it, for people.
    pub text: String,
    /// Where it is.
    pub span: Span,
    /// What the image's history says of it; `None` for ONBUILD, of which Docker's says nothing.
    pub history: Option<String>,
    /// What it does.
    pub op: Op,
}

/// What a step does.
#[derive(Debug)]
pub enum Op {
    /// Changes only the configuration: the text it leaves there, for the cache key.
    Configure,
    /// Makes the working directory.
    WorkingDirectory {
        /// As the configuration has it: absolute, perhaps with `..`.
        path: String,
        /// The text of USER: the owner of the directories that are made.
        user: String,
    },
    /// Runs a command.
    Run(Box<Run>),
    /// Copies files.
    Copy(Box<Copy>),
}

/// A RUN.
#[derive(Clone, Debug)]
pub struct Run {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// A script that it runs, there for this step alone.
    pub script: Option<Script>,
    /// The environment from ENV and ARG; the later of two equal names counts.
    pub env: Vec<(String, String)>,
    /// Variables that the result does not depend on: the proxies. Not part of the cache key.
    pub proxies: BTreeMap<String, String>,
    /// The text of USER.
    pub user: String,
    /// The working directory, absolute.
    pub workdir: String,
    /// What it can reach.
    pub network: Network,
    /// Names that its /etc/hosts has besides the usual (`--add-host`).
    pub hosts: Vec<ExtraHost>,
    /// What it sees besides its root filesystem.
    pub mounts: Vec<Mount>,
    /// Its host name; `None` for the usual one.
    pub hostname: Option<String>,
    /// What its root user may do.
    pub security: Security,
    /// How much it may use.
    pub limits: Limits,
}

/// A line of /etc/hosts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// A `--mount` of a RUN.
#[derive(Clone, Debug)]
pub struct Mount {
    /// Where: absolute. A secret that is only a variable has none.
    pub target: Option<String>,
    /// What.
    pub kind: MountKind,
}

/// What a [`Mount`] shows.
#[derive(Clone, Debug)]
pub enum MountKind {
    /// Files that are there already.
    Bind {
        /// Which.
        origin: Origin,
        /// Whether the step may write; what it writes is thrown away.
        writable: bool,
    },
    /// A directory that stays from one build to the next.
    Cache(CacheMount),
    /// An empty filesystem in memory, with its limit in bytes.
    Tmpfs {
        /// `None` for the system's.
        size: Option<u64>,
        /// Whether the step may write to it.
        writable: bool,
    },
    /// A file or directory of this machine (`--volume`), itself and not a copy.
    Host {
        /// Which.
        source: PathBuf,
        /// Whether the step may write to it.
        writable: bool,
    },
    /// A secret: its value is no part of the graph.
    Secret(SecretMount),
    /// A socket of an SSH agent.
    Ssh(SshMount),
}

/// A directory that stays from one build to the next.
#[derive(Clone, Debug)]
pub struct CacheMount {
    /// Which one.
    pub id: String,
    /// What it holds at first.
    pub seed: Option<Origin>,
    /// Which part of it is seen: a relative path, empty for all.
    pub part: String,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// Owner and mode of the directory.
    pub permissions: Permissions,
    /// Whether the step may write.
    pub writable: bool,
}

/// A secret of the command line, as a file or a variable.
#[derive(Clone, Debug)]
pub struct SecretMount {
    /// Which one.
    pub id: String,
    /// The variable that holds it.
    pub env: Option<String>,
    /// Whether the step fails without it.
    pub required: bool,
    /// Owner and mode of the file.
    pub permissions: Permissions,
}

/// An SSH agent of the command line, as a socket.
#[derive(Clone, Debug)]
pub struct SshMount {
    /// Which one.
    pub id: String,
    /// Whether the step fails without it.
    pub required: bool,
    /// Owner and mode of the socket.
    pub permissions: Permissions,
}

/// Where the files of a mount are.
#[derive(Clone, Debug)]
pub struct Origin {
    /// In what.
    pub from: CopyFrom,
    /// Where in it; empty for its root.
    pub source: String,
}

/// Owner and mode of something that is mounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permissions {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// The directory of /dev where a step finds its script, as in BuildKit.
pub const SCRIPTS: &str = "pipes";

/// A script whose text is in the Dockerfile.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name in /dev/[`SCRIPTS`].
    pub name: String,
    /// Its text.
    pub text: String,
}

/// The network of a RUN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// The host's.
    Host,
    /// A loopback interface of its own, and nothing else.
    None,
    /// One of its own, behind which pasta reaches the world.
    Pasta,
}

/// What the root user of a RUN may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Security {
    /// What Docker lets it do.
    Sandbox,
    /// All that mica may do itself, with nothing of /proc and /sys hidden.
    Insecure,
}

/// A COPY or ADD.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Which of the two, for messages.
    pub instruction: &'static str,
    /// Where the sources are.
    pub from: CopyFrom,
    /// What is copied, in order.
    pub sources: Vec<CopySource>,
    /// Files whose content is in the Dockerfile: name and content.
    pub files: Vec<(String, String)>,
    /// The destination, absolute; it may end with `/`.
    pub destination: String,
    /// The text of `--chown`.
    pub chown: Option<String>,
    /// `--chmod`.
    pub chmod: Option<Chmod>,
    /// `--exclude` patterns.
    pub exclude: Vec<String>,
    /// Whether local archives are unpacked (ADD).
    pub unpack: bool,
    /// `--link`: the layer does not look at those below it.
    pub link: bool,
    /// `--parents`: a copy keeps the directories of its source's path.
    pub parents: bool,
    /// What a RUN in its place would have, without a command: for who looks into the step.
    pub surroundings: Run,
}

/// One source of a COPY or ADD.
#[derive(Clone, Debug)]
pub enum CopySource {
    /// A path or a pattern in what the copy takes its files from.
    Path(String),
    /// Something from elsewhere (ADD).
    Remote {
        /// What.
        remote: Remote,
        /// Whether it is unpacked if it is an archive.
        unpack: bool,
    },
}

/// Where a COPY or a mount takes its files from.
#[derive(Clone, Debug)]
pub enum CopyFrom {
    /// The build context.
    Context,
    /// A directory that the command line gave this name (`--build-context`).
    Named(String),
    /// Another stage.
    Stage(StageId),
    /// An image of the store: its name as written and its layers.
    Image {
        /// As written.
        name: String,
        /// Bottom first.
        layers: Vec<DiffId>,
    },
}

impl Mount {
    /// Where its files are, if it shows any.
    pub fn origin(&self) -> Option<&Origin> {
        match &self.kind {
            MountKind::Bind { origin, .. } => Some(origin),
            MountKind::Cache(cache) => cache.seed.as_ref(),
            MountKind::Tmpfs { .. } | MountKind::Host { .. } | MountKind::Secret(_) | MountKind::Ssh(_) => {
                None
            }
        }
    }
}

impl Base {
    /// Whether it comes from outside the Dockerfile.
    pub fn is_elsewhere(&self) -> bool {
        match self {
            Self::Image(_) | Self::Named(_) => true,
            Self::Scratch | Self::Stage(_) => false,
        }
    }
}

impl Op {
    /// Whether there is work to do: the others change only the configuration.
    pub fn makes_a_layer(&self) -> bool {
        match self {
            Self::WorkingDirectory { .. } | Self::Run(_) | Self::Copy(_) => true,
            Self::Configure => false,
        }
    }

    /// The stages that it takes files from, besides the one that it stands on.
    pub fn stages(&self) -> impl Iterator<Item = StageId> {
        let (copy, mounts): (_, &[Mount]) = match self {
            Self::Configure | Self::WorkingDirectory { .. } => (None, &[]),
            Self::Run(run) => (None, &run.mounts),
            Self::Copy(copy) => (Some(&copy.from), &[]),
        };
        let mounted = mounts.iter().filter_map(Mount::origin).map(|origin| &origin.from);
        copy.into_iter().chain(mounted).filter_map(|from| match from {
            CopyFrom::Stage(id) => Some(*id),
            CopyFrom::Context | CopyFrom::Named(_) | CopyFrom::Image { .. } => None,
        })
    }
}

impl Graph {
    /// The image that a stage stands on in the end, through the stages below it.
    pub fn root_image(&self, id: StageId) -> Option<&Image> {
        match &self.stage(id).base {
            Base::Scratch | Base::Named(_) => None,
            Base::Image(image) => Some(image),
            Base::Stage(below) => self.root_image(*below),
        }
    }

    /// The names of the stages that other ones stand on.
    pub fn bases(&self) -> BTreeSet<String> {
        let bases = self.stages.values().filter_map(|stage| match &stage.base {
            Base::Stage(id) => Some(self.stage(*id).name.clone()),
            Base::Scratch | Base::Image(_) | Base::Named(_) => None,
        });
        bases.collect()
    }

    /// The stage of that number, which must be needed.
    pub fn stage(&self, id: StageId) -> &Stage {
        &self.stages[&id]
    }
}
