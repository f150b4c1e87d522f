//! Mounts that a step writes to, served by mica: where the kernel has a single id, so that files keep the owners and
//! permissions that a directory of the host cannot have.
//!
//! What stays from build to build is a named upper on nothing, in the directory of the cache. One session at a time can
//! have an upper, so the steps of a build that share a cache use one mount, and those of another build wait for it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use mica_fs::digest::Digest;
use mica_fs::layer::Kind;
use mica_fs::mount::{MountError, Mounted};
use mica_fs::overlay::{self, Changes, Ino, NewKind, Options, Overlay, Owner, Upper};
use mica_fs::path::ImagePath;
use mica_fs::store::{Store, WorkDir};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::cache::{CacheDirectory, CacheError, Wanted};
use crate::dockerfile::mount::Sharing;
use crate::graph::Permissions;
use crate::rootfs::{self, RootfsError};
use crate::sandbox::VirtualTree;

/// Permissions of what is made for a mount to lie on.
const MOUNT_POINT_MODE: u32 = 0o755;

/// A filesystem that steps write to. Dropping it unmounts, and saves what is kept.
pub struct Served {
    // Unmounted before the directories are removed, which lie below.
    mounted: Mutex<Option<Mounted>>,
    place: PathBuf,
    tree: VirtualTree,
    /// Where what is written goes: to memory, or
    _memory: Option<Memory>,
    /// to a cache.
    _directory: Option<CacheDirectory>,
    _work: WorkDir,
}

/// A tmpfs of mica's own, which bounds what is in it.
struct Memory(PathBuf);

impl Memory {
    fn make(path: PathBuf, size: Option<u64>) -> Result<Self, RootfsError> {
        let path = rootfs::directory(path)?;
        let size = size.map_or(String::new(), |size| format!(",size={size}"));
        let options = format!("mode=700{size}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let mounted = mount(Some("tmpfs"), &path, Some("tmpfs"), flags, Some(options.as_str()));
        match mounted {
            Ok(()) => Ok(Self(path)),
            Err(errno) => Err(MountError::Mount {
                path,
                source: errno.into(),
            }
            .into()),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(errno) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::warn!(path = %self.0.display(), "cannot unmount a tmpfs: {errno}");
        }
    }
}

impl Served {
    fn of_cache(directory: CacheDirectory, store: &Store) -> Result<Self, RootfsError> {
        let overlay = kept(directory.path())?;
        Self::start(overlay, (None, Some(directory)), store.work_dir()?, false)
    }

    /// An empty filesystem in memory, of at most `size` bytes if it is given, with this mode; and the tmpfs that it is in.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn in_memory(size: Option<u64>, mode: u32, store: &Store) -> Result<(Self, PathBuf), RootfsError> {
        let work = store.work_dir()?;
        let memory = Memory::make(work.path().join("memory"), size)?;
        let overlay = Overlay::writable(Vec::new(), Upper::scratch(&memory.0), Options::default())?;
        let changes = Changes {
            mode: Some(mode),
            ..Changes::default()
        };
        overlay.set_attr(Ino::ROOT, &changes)?;
        let place = memory.0.clone();
        // Who writes more than is to fit in must be told.
        Ok((
            Self::start(overlay, (Some(memory), None), work, size.is_some())?,
            place,
        ))
    }

    fn start(
        overlay: Overlay,
        (memory, directory): (Option<Memory>, Option<CacheDirectory>),
        work: WorkDir,
        write_through: bool,
    ) -> Result<Self, RootfsError> {
        let overlay = Arc::new(overlay);
        let place = rootfs::directory(work.path().join("root"))?;
        let mounted = rootfs::serve(&overlay, &place, (false, write_through))?;
        Ok(Self {
            tree: VirtualTree::of(&mounted, &overlay).map_err(|source| MountError::Session {
                path: place.clone(),
                source,
            })?,
            mounted: Mutex::new(Some(mounted)),
            place,
            _memory: memory,
            _directory: directory,
            _work: work,
        })
    }

    /// Where it is mounted.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// What the owners of its files are known from.
    pub fn tree(&self) -> &VirtualTree {
        &self.tree
    }

    /// Makes `path` and what is above it for something to be mounted there. Builds before this one wrote here: no
    /// symbolic link of theirs is followed.
    ///
    /// # Errors
    /// If a symbolic link or something that is no directory is in the way.
    pub fn make_mount_point(&self, path: &ImagePath, is_file: bool) -> io::Result<()> {
        let failed = |error: overlay::Error| io::Error::from_raw_os_error(error.errno());
        let overlay = &self.tree.overlay;
        let mut at = Ino::ROOT;
        let mut names = path.components().peekable();
        while let Some(name) = names.next() {
            at = match overlay.child(at, name).map_err(failed)? {
                Some(found) if found.kind == Kind::Symlink => {
                    return Err(io::Error::other("a symbolic link is in the way"));
                }
                Some(found) => found.ino,
                None => {
                    let kind = match is_file && names.peek().is_none() {
                        true => NewKind::File,
                        false => NewKind::Directory,
                    };
                    let made = overlay.create(at, name, kind, MOUNT_POINT_MODE, Owner::default());
                    let made = made.map_err(failed)?;
                    // The kernel was not told of the node, and so does not refer to it.
                    overlay.forget(made.ino, 1);
                    self.tree.kernel.forget_name(at, name);
                    made.ino
                }
            };
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), RootfsError> {
        let mounted = self.mounted.get_mut().unwrap_or_else(PoisonError::into_inner);
        let unmounted = mounted.take().map_or(Ok(()), Mounted::unmount);
        self.tree.overlay.end()?;
        Ok(unmounted?)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            let error = &error as &(dyn std::error::Error + 'static);
            tracing::warn!(error, "what a step put into a cache may be lost");
        }
    }
}

/// The upper of a cache; one that cannot be used begins anew.
fn kept(directory: &Path) -> Result<Overlay, overlay::Error> {
    let open = || Overlay::writable(Vec::new(), Upper::named(directory), Options::default());
    match open() {
        Err(overlay::Error::State { reason, .. }) => {
            tracing::warn!("a cache of --mount=type=cache cannot be used and begins anew: {reason}");
            std::fs::remove_dir_all(directory).map_err(|source| overlay::Error::Io {
                what: "remove a cache",
                source,
            })?;
            open()
        }
        opened => opened,
    }
}

/// Makes the upper of a new cache in `directory`: `fill` puts in what it holds at first.
///
/// # Errors
/// What `fill` reports, and [`overlay::Error`].
pub fn make<E: From<overlay::Error>>(
    directory: &Path,
    permissions: Permissions,
    fill: impl FnOnce(&Overlay) -> Result<(), E>,
) -> Result<(), E> {
    let overlay = kept(directory)?;
    let Permissions { uid, gid, mode } = permissions;
    let changes = Changes {
        mode: Some(mode),
        uid: Some(uid),
        gid: Some(gid),
        ..Changes::default()
    };
    overlay.set_attr(Ino::ROOT, &changes)?;
    fill(&overlay)?;
    Ok(overlay.end()?)
}

/// The caches that steps of this build use together.
#[derive(Default)]
pub struct SharedCaches(Mutex<BTreeMap<Digest, Weak<Served>>>);

impl SharedCaches {
    fn map(&self) -> MutexGuard<'_, BTreeMap<Digest, Weak<Served>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, key: &Digest) -> Option<Arc<Served>> {
        self.map().get(key).and_then(Weak::upgrade)
    }

    /// Opens a cache below `root` and serves it, or joins the steps that share it. Waits as
    /// [`CacheDirectory::open`] does.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(
        &self,
        root: &Path,
        wanted: &Wanted<'_>,
        (store, stopped): (&Store, &dyn Fn() -> bool),
    ) -> Result<Arc<Served>, CacheError> {
        let shared = || match wanted.sharing {
            Sharing::Shared => self.find(&wanted.key),
            Sharing::Private | Sharing::Locked => None,
        };
        loop {
            if let Some(served) = shared() {
                return Ok(served);
            }
            let alone = Wanted {
                sharing: match wanted.sharing {
                    // An upper has one session.
                    Sharing::Shared | Sharing::Locked => Sharing::Locked,
                    Sharing::Private => Sharing::Private,
                },
                ..*wanted
            };
            let directory = match CacheDirectory::open(root, &alone, &|| stopped() || shared().is_some()) {
                Err(CacheError::Stopped) if !stopped() => continue,
                opened => opened?,
            };
            let served = Served::of_cache(directory, store);
            let served = Arc::new(served.map_err(|source| CacheError::Serve(Box::new(source)))?);
            if wanted.sharing == Sharing::Shared {
                self.map().insert(wanted.key, Arc::downgrade(&served));
            }
            return Ok(served);
        }
    }
}
