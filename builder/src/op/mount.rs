//! What a RUN sees besides its root filesystem, made ready: `--mount`.
//!
//! Files of a stage or an image are bound from a mount of its layers, files of a directory of the host from an overlay
//! that they are placed in; in both the step may write and nothing is kept. A cache is a directory of the store, or a
//! filesystem of mica's where no directory could keep its owners. A secret never touches the disk.
//!
//! The mount points are virtual nodes of whatever they lie in, so that a layer has nothing of them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mica_fs::digest::Digest;
use mica_fs::overlay::{self, Follow, Overlay, Virtual, VirtualNode};
use mica_fs::path::{ImagePath, InvalidPath};
use mica_fs::store::{Store, StoreError, WorkDir};
use serde_json::{Value, json};

use crate::export::{self, ExportError};
use crate::graph::{self, CacheMount, MountKind, Permissions, SecretMount, SshMount};
use crate::ignore::Ignore;
use crate::op::copy::{CopyError, Sources};
use crate::origin::Part;
use crate::rootfs::{Rootfs, RootfsError};
use crate::sandbox::{self, Access, Secret};
use crate::ssh::Forward;

pub mod cache;
mod served;

use cache::{CacheDirectory, CacheError, Wanted};
use served::Served;
pub use served::SharedCaches;

/// The directory of the store that holds the caches.
const CACHES: &str = "cache-mounts";
/// Where the files of a host's directory are placed in the overlay that they are bound from.
const PLACED: &[u8] = b"source";
/// Permissions of the root of a tmpfs, as in Docker.
const TMPFS_MODE: u32 = 0o1777;

/// Why a mount cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// A secret that the step requires and the command line does not give.
    #[error("secret {id}: not given")]
    NoSecret {
        /// Which one.
        id: String,
    },
    /// An SSH agent that the step requires and the command line does not give.
    #[error("SSH agent {id}: not given")]
    NoAgent {
        /// Which one.
        id: String,
    },
    /// The socket of an SSH agent cannot be made.
    #[error("cannot make the socket of the SSH agent {id}")]
    Agent {
        /// Which one.
        id: String,
        /// What the system said.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A secret for a variable that is no text without NUL bytes.
    #[error("secret {id}: it has a NUL byte, which no variable can hold")]
    SecretVariable {
        /// Which one.
        id: String,
    },
    /// The files cannot be read or placed.
    #[error(transparent)]
    Files(#[from] CopyError),
    /// The filesystem that they are bound from.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// A cache.
    #[error("cache {id}")]
    Cache {
        /// Which one.
        id: String,
        /// Why.
        source: CacheError,
    },
    /// The mount point cannot be made in a cache.
    #[error("cannot make the mount point {path}")]
    MountPoint {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A cache is to be filled with a file.
    #[error("{path}: a cache is filled with a directory, and this is none")]
    SeedIsFile {
        /// As written.
        path: String,
    },
    /// A path that Linux does not have.
    #[error("{path:?}: {source}")]
    Path {
        /// As written.
        path: String,
        /// What is wrong.
        source: InvalidPath,
    },
}

/// A mount of a step, with the files that it shows.
pub struct Resolved<'a> {
    target: Option<&'a str>,
    kind: Kind<'a>,
}

enum Kind<'a> {
    Bind {
        part: Part<'a>,
        writable: bool,
    },
    Cache {
        mount: &'a CacheMount,
        seed: Option<Part<'a>>,
    },
    Tmpfs {
        size: Option<u64>,
        writable: bool,
    },
    Host {
        source: &'a Path,
        writable: bool,
    },
    Secret(&'a SecretMount),
    Ssh(&'a SshMount),
}

impl<'a> Resolved<'a> {
    /// A mount of the graph; `find` finds the files that it names.
    ///
    /// # Errors
    /// What `find` reports.
    pub fn new<E>(
        mount: &'a graph::Mount,
        find: impl FnOnce(&'a graph::Origin) -> Result<Part<'a>, E>,
    ) -> Result<Self, E> {
        let kind = match &mount.kind {
            MountKind::Bind { origin, writable } => Kind::Bind {
                part: find(origin)?,
                writable: *writable,
            },
            MountKind::Cache(mount) => Kind::Cache {
                mount,
                seed: mount.seed.as_ref().map(find).transpose()?,
            },
            MountKind::Tmpfs { size, writable } => Kind::Tmpfs {
                size: *size,
                writable: *writable,
            },
            MountKind::Host { source, writable } => Kind::Host {
                source,
                writable: *writable,
            },
            MountKind::Secret(mount) => Kind::Secret(mount),
            MountKind::Ssh(mount) => Kind::Ssh(mount),
        };
        Ok(Self {
            target: mount.target.as_deref(),
            kind,
        })
    }

    fn is_directory(&self) -> bool {
        match &self.kind {
            Kind::Bind { part, .. } => part.is_directory(),
            Kind::Cache { .. } | Kind::Tmpfs { .. } => true,
            Kind::Host { source, .. } => source.is_dir(),
            Kind::Secret(_) | Kind::Ssh(_) => false,
        }
    }

    fn input(&self) -> Value {
        let target = self.target;
        let owner = |permissions: &Permissions| [permissions.uid, permissions.gid, permissions.mode];
        match &self.kind {
            Kind::Bind { part, writable } => {
                json!({"type": "bind", "target": target, "files": part.digest(), "rw": writable})
            }
            Kind::Cache { mount, seed } => json!({
                "type": "cache",
                "target": target,
                "id": mount.id,
                "part": mount.part,
                "files": seed.as_ref().map(Part::digest),
                "owner": owner(&mount.permissions),
                "rw": mount.writable,
            }),
            Kind::Tmpfs { size, writable } => {
                json!({"type": "tmpfs", "target": target, "size": size, "rw": writable})
            }
            // What it holds, and where it is on this machine, are no part of it, as with a cache.
            Kind::Host { writable, .. } => json!({"type": "host", "target": target, "rw": writable}),
            Kind::Secret(mount) => json!({
                "type": "secret",
                "target": target,
                "id": mount.id,
                "env": mount.env,
                "owner": owner(&mount.permissions),
            }),
            Kind::Ssh(mount) => json!({
                "type": "ssh",
                "target": target,
                "id": mount.id,
                "owner": owner(&mount.permissions),
            }),
        }
    }
}

/// What the result of a step depends on: where which files are seen. What a cache holds and the value of a secret are
/// no part of it.
pub fn inputs(mounts: &[Resolved<'_>]) -> Value {
    mounts.iter().map(Resolved::input).collect()
}

/// What mounts are made with.
pub struct Means<'a> {
    /// Holds the caches.
    pub store: &'a Store,
    /// Those that steps have at the moment.
    pub shared: &'a SharedCaches,
    /// The secrets of the command line.
    pub secrets: &'a BTreeMap<String, Secret>,
    /// The sockets of the SSH agents that it gave.
    pub agents: &'a BTreeMap<String, PathBuf>,
    /// Whether the build was stopped meanwhile.
    pub stopped: &'a dyn Fn() -> bool,
}

/// The mounts of a step, ready for its sandbox. They last as long as this value.
#[derive(Default)]
pub struct Ready<'a> {
    /// The mount points in the step's root filesystem.
    pub virtuals: Vec<Virtual>,
    /// The mounts, outer ones first.
    pub mounts: Vec<sandbox::Mount>,
    /// Variables that hold secrets.
    pub env: Vec<(String, String)>,
    /// Where the first SSH agent is seen.
    pub agent: Option<PathBuf>,
    /// Mounts that belong to somebody else than root, where the kernel cannot express it.
    pub owners: Vec<(OsString, u32, u32)>,
    forwards: Vec<(Forward, WorkDir)>,
    bound: Vec<Rootfs<'a>>,
    caches: BTreeMap<Digest, Cache>,
    in_memory: Vec<Served>,
}

/// A cache in use.
enum Cache {
    /// The kernel keeps the owners of what is in it.
    Directory(CacheDirectory),
    /// Mica does.
    Served(Arc<Served>),
}

/// A mount with a place.
struct Placed<'m, 'a> {
    resolved: &'m Resolved<'a>,
    target: ImagePath,
    /// Mount points in what it shows: relative paths.
    inner: Vec<Virtual>,
}

impl<'a> Ready<'a> {
    /// Makes ready what `mounts` ask for. Secrets that are neither given nor required are left out.
    ///
    /// # Errors
    /// [`MountError`].
    pub fn make(mounts: &[Resolved<'_>], means: &Means<'a>) -> Result<Self, MountError> {
        let mut ready = Self::default();
        ready.open_caches(mounts, means)?;
        for placed in ready.arrange(mounts, means)? {
            let kind = match &placed.resolved.kind {
                Kind::Bind { part, writable } => ready.bind(part, *writable, &placed.inner, means)?,
                Kind::Cache { mount, seed } => ready.cache(mount, seed.as_ref(), &placed.inner)?,
                Kind::Tmpfs { size, writable } if is_served() => {
                    ready.memory(&placed, *size, access(*writable), means.store)?
                }
                Kind::Tmpfs { size, writable } => sandbox::MountKind::Tmpfs {
                    size: *size,
                    mode: TMPFS_MODE,
                    access: access(*writable),
                },
                Kind::Host { source, writable } => sandbox::MountKind::Bind {
                    source: source.to_path_buf(),
                    part: PathBuf::new(),
                    access: access(*writable),
                },
                Kind::Secret(SecretMount { id, permissions, .. }) => sandbox::MountKind::File {
                    content: means.secrets.get(id).cloned().unwrap_or_default(),
                    mode: permissions.mode,
                    uid: permissions.uid,
                    gid: permissions.gid,
                },
                Kind::Ssh(mount) => ready.agent_socket(mount, means)?,
            };
            let target = Path::new("/").join(placed.target.as_os_str());
            if let Kind::Ssh(mount) = &placed.resolved.kind {
                let Permissions { uid, gid, .. } = mount.permissions;
                ready.owners.push((target.clone().into(), uid, gid));
            }
            ready.mounts.push(sandbox::Mount { kind, target });
        }
        Ok(ready)
    }

    /// The filesystems that are served for them.
    pub fn trees(&self) -> impl Iterator<Item = sandbox::VirtualTree> {
        let caches = self.caches.values().filter_map(|cache| match cache {
            Cache::Directory(_) => None,
            Cache::Served(served) => Some(served.tree().clone()),
        });
        let in_memory = self.in_memory.iter().map(|served| served.tree().clone());
        let bound = self.bound.iter().filter_map(Rootfs::tree);
        bound.chain(caches).chain(in_memory)
    }

    /// Sorts the mounts by their targets, and gives each mount point to what it lies in: to the step's root or to
    /// another mount. Variables are set at once.
    fn arrange<'m, 'r>(
        &mut self,
        mounts: &'m [Resolved<'r>],
        means: &Means<'_>,
    ) -> Result<Vec<Placed<'m, 'r>>, MountError> {
        let mut placed: Vec<Placed<'m, 'r>> = Vec::new();
        for resolved in mounts {
            if let Kind::Secret(SecretMount {
                id, env, required, ..
            }) = &resolved.kind
            {
                match means.secrets.get(id) {
                    Some(secret) => self.set_variable(id, env.as_ref(), secret)?,
                    None if *required => return Err(MountError::NoSecret { id: id.clone() }),
                    None => continue,
                }
            }
            if let Kind::Ssh(SshMount { id, required, .. }) = &resolved.kind {
                match means.agents.contains_key(id) {
                    true if self.agent.is_none() => self.agent = resolved.target.map(PathBuf::from),
                    true => {}
                    false if *required => return Err(MountError::NoAgent { id: id.clone() }),
                    false => continue,
                }
            }
            if let Some(target) = resolved.target {
                placed.push(Placed {
                    resolved,
                    target: image_path(target)?,
                    inner: Vec::new(),
                });
            }
        }
        placed.sort_by(|a, b| a.target.cmp(&b.target));
        for at in 0..placed.len() {
            let (outer, rest) = placed.split_at_mut(at);
            let Some(this) = rest.first() else { break };
            let node = if this.resolved.is_directory() {
                VirtualNode::Directory
            } else {
                VirtualNode::File(Vec::new())
            };
            let holds = |outer: &&mut Placed<'_, '_>| {
                outer.target != this.target && this.target.starts_with(&outer.target)
            };
            match outer.iter_mut().rev().find(holds) {
                Some(outer) => {
                    let skipped = outer.target.components().count();
                    let path = this.target.components().skip(skipped);
                    let path = path.fold(ImagePath::root(), |path, name| path.join(name));
                    outer.inner.push(Virtual { path, node });
                }
                None => self.virtuals.push(Virtual {
                    path: this.target.clone(),
                    node,
                }),
            }
        }
        Ok(placed)
    }

    /// A socket of this step's own, behind which the agent is.
    fn agent_socket(
        &mut self,
        mount: &SshMount,
        means: &Means<'_>,
    ) -> Result<sandbox::MountKind, MountError> {
        let failed = |source| MountError::Agent {
            id: mount.id.clone(),
            source,
        };
        let agent = means.agents.get(&mount.id);
        let agent = agent.ok_or_else(|| MountError::NoAgent { id: mount.id.clone() })?;
        let work = means.store.work_dir()?;
        let path = work.path().join("agent");
        let forward = Forward::start(&path, agent, mount.permissions).map_err(failed)?;
        self.forwards.push((forward, work));
        Ok(sandbox::MountKind::Bind {
            source: path,
            part: PathBuf::new(),
            access: Access::ReadWrite,
        })
    }

    fn set_variable(&mut self, id: &str, name: Option<&String>, secret: &Secret) -> Result<(), MountError> {
        let Some(name) = name else { return Ok(()) };
        if secret.bytes().contains(&0) {
            return Err(MountError::SecretVariable { id: id.to_owned() });
        }
        let value = String::from_utf8_lossy(secret.bytes()).into_owned();
        self.env.push((name.clone(), value));
        Ok(())
    }

    /// Mounts the layers that a part is of, or an overlay that it is placed in. `inner` are mount points in it.
    fn bind(
        &mut self,
        part: &Part<'_>,
        writable: bool,
        inner: &[Virtual],
        means: &Means<'a>,
    ) -> Result<sandbox::MountKind, MountError> {
        let top = match part.origin().as_layers() {
            Some(_) => part.path().clone(),
            None => ImagePath::root().join(PLACED),
        };
        let inner = inner.iter().map(|inner| Virtual {
            path: under(&top, &inner.path),
            node: inner.node.clone(),
        });
        let layers = part.origin().as_layers().unwrap_or_default();
        let mut rootfs = Rootfs::prepare(means.store, layers, inner.collect())?;
        if part.origin().as_layers().is_none() {
            fill(rootfs.overlay(), part, &top)?;
        }
        let root = rootfs.mount()?;
        self.bound.push(rootfs);
        Ok(sandbox::MountKind::Bind {
            source: root.join(top.as_os_str()),
            part: PathBuf::new(),
            access: access(writable),
        })
    }

    /// A tmpfs, and over it mica's filesystem, which keeps owners and whose files lie in that tmpfs: who looks there finds
    /// that it is one.
    fn memory(
        &mut self,
        placed: &Placed<'_, '_>,
        size: Option<u64>,
        access: Access,
        store: &Store,
    ) -> Result<sandbox::MountKind, MountError> {
        let (served, memory) = Served::in_memory(size, TMPFS_MODE, store)?;
        make_mount_points(Writable::Served(&served), &ImagePath::root(), &placed.inner)?;
        let bind = |source| sandbox::MountKind::Bind {
            source,
            part: PathBuf::new(),
            access,
        };
        self.mounts.push(sandbox::Mount {
            kind: bind(memory),
            target: Path::new("/").join(placed.target.as_os_str()),
        });
        let over = bind(served.place().to_owned());
        self.in_memory.push(served);
        Ok(over)
    }

    /// Binds a cache, which is open; `inner` are mount points in it.
    fn cache(
        &self,
        mount: &CacheMount,
        seed: Option<&Part<'_>>,
        inner: &[Virtual],
    ) -> Result<sandbox::MountKind, MountError> {
        let cache = &self.caches[&cache_key(mount, seed)];
        let writable = match cache {
            Cache::Directory(directory) => Writable::Directory(directory.path()),
            Cache::Served(served) => Writable::Served(served),
        };
        make_mount_points(writable, &image_path(&mount.part)?, inner)?;
        Ok(sandbox::MountKind::Bind {
            source: writable.place().to_owned(),
            part: PathBuf::from(&mount.part),
            access: access(mount.writable),
        })
    }

    /// Opens the caches in the order of their keys, so that two steps never wait for each other, and each once, so
    /// that a step never waits for itself: with the strictest sharing that it asks for.
    fn open_caches(&mut self, mounts: &[Resolved<'_>], means: &Means<'_>) -> Result<(), MountError> {
        let mut wanted = BTreeMap::new();
        for resolved in mounts {
            let Kind::Cache { mount, seed } = &resolved.kind else {
                continue;
            };
            let entry = wanted.entry(cache_key(mount, seed.as_ref())).or_insert((
                mount,
                seed.as_ref(),
                mount.sharing,
            ));
            entry.2 = entry.2.max(mount.sharing);
        }
        for (key, (mount, part, sharing)) in wanted {
            if let Some(part) = part.filter(|part| !part.is_directory()) {
                return Err(MountError::SeedIsFile {
                    path: part.wanted().to_owned(),
                });
            }
            let root = means.store.root().join(CACHES);
            let opened = match is_served() {
                true => {
                    let seed = |at: &Path| -> Result<(), cache::SeedFailure> {
                        served::make(at, mount.permissions, |overlay| match part {
                            Some(part) => fill(overlay, part, &ImagePath::root()).map_err(SeedError::from),
                            None => Ok(()),
                        })?;
                        Ok(())
                    };
                    let wanted = Wanted {
                        key,
                        sharing,
                        permissions: mount.permissions,
                        seed: Some(&seed),
                    };
                    let means_of = (means.store, means.stopped);
                    let served = means.shared.open(&root, &wanted, means_of);
                    served.map(Cache::Served)
                }
                false => {
                    let seed =
                        part.map(|part| move |at: &Path| seed(part, at, means.store).map_err(Into::into));
                    let wanted = Wanted {
                        key,
                        sharing,
                        permissions: mount.permissions,
                        seed: seed.as_ref().map(|seed| seed as &cache::Seed<'_>),
                    };
                    CacheDirectory::open(&root, &wanted, means.stopped).map(Cache::Directory)
                }
            };
            let opened = opened.map_err(|source| MountError::Cache {
                id: mount.id.clone(),
                source,
            })?;
            self.caches.insert(key, opened);
        }
        Ok(())
    }
}

/// Whether caches are served by mica: where the kernel has a single id, no directory could keep their owners.
fn is_served() -> bool {
    sandbox::callers().is_some()
}

/// What tells a cache from others: as with BuildKit, also what it held at first and how it was made. What mica serves and
/// what is a directory are two caches.
fn cache_key(mount: &CacheMount, seed: Option<&Part<'_>>) -> Digest {
    let Permissions { uid, gid, mode } = mount.permissions;
    let mut name = json!({"id": mount.id, "files": seed.map(Part::digest), "owner": [uid, gid, mode]});
    if is_served() {
        name["served"] = true.into();
    }
    Digest::of(name.to_string().as_bytes())
}

fn access(writable: bool) -> Access {
    match writable {
        true => Access::ReadWrite,
        false => Access::ReadOnly,
    }
}

/// Places the files of a part in an overlay.
fn fill(overlay: &Overlay, part: &Part<'_>, at: &ImagePath) -> Result<(), CopyError> {
    let exclude = Ignore::default();
    let origin = part.origin();
    let sources = Sources::one(origin.tree(), part.wanted(), &exclude, origin.place())?;
    sources.place_whole(overlay, at)
}

/// Why a new cache cannot be filled.
#[derive(Debug, thiserror::Error)]
enum SeedError {
    #[error(transparent)]
    Files(#[from] CopyError),
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Overlay(#[from] overlay::Error),
}

/// Fills the new directory `at` of a cache.
fn seed(part: &Part<'_>, at: &Path, store: &Store) -> Result<(), SeedError> {
    match part.origin().as_layers() {
        Some(layers) => {
            let overlay = export::merged(store, layers)?;
            export::place(&overlay, part.path(), Follow::No, at)?;
        }
        None => {
            let rootfs = Rootfs::prepare(store, &[], Vec::new())?;
            let placed = ImagePath::root().join(PLACED);
            fill(rootfs.overlay(), part, &placed)?;
            export::place(rootfs.overlay(), &placed, Follow::No, at)?;
        }
    }
    Ok(())
}

/// What mount points can be made in.
#[derive(Clone, Copy)]
enum Writable<'w> {
    Directory(&'w Path),
    Served(&'w Served),
}

impl<'w> Writable<'w> {
    fn place(self) -> &'w Path {
        match self {
            Self::Directory(path) => path,
            Self::Served(served) => served.place(),
        }
    }
}

/// Makes the mount points `inner` below the directory `top`.
fn make_mount_points(writable: Writable<'_>, top: &ImagePath, inner: &[Virtual]) -> Result<(), MountError> {
    for inner in inner {
        let path = under(top, &inner.path);
        let is_file = matches!(inner.node, VirtualNode::File(_));
        let made = match writable {
            Writable::Directory(root) => make_mount_point(root, &path, is_file),
            Writable::Served(served) => served.make_mount_point(&path, is_file),
        };
        made.map_err(|source| MountError::MountPoint {
            path: writable.place().join(path.as_os_str()),
            source,
        })?;
    }
    Ok(())
}

/// Makes `path` and what is above it in `root`, a directory that builds before this one wrote to: no symbolic link
/// of theirs is followed.
fn make_mount_point(root: &Path, path: &ImagePath, is_file: bool) -> io::Result<()> {
    let mut at = root.to_owned();
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        at.push(OsStr::from_bytes(name));
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_symlink() => {
                return Err(io::Error::other("a symbolic link is in the way"));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => match is_file && names.peek().is_none() {
                true => drop(File::create_new(&at)?),
                false => fs::create_dir(&at)?,
            },
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn under(top: &ImagePath, relative: &ImagePath) -> ImagePath {
    relative
        .components()
        .fold(top.clone(), |path, name| path.join(name))
}

fn image_path(path: &str) -> Result<ImagePath, MountError> {
    ImagePath::clean(path.as_bytes()).map_err(|source| MountError::Path {
        path: path.to_owned(),
        source,
    })
}
