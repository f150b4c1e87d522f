//! Directories that stay from one build to the next: `--mount=type=cache`.
//!
//! Below `cache-mounts/` of the store each cache has a directory, named by the digest of all that tells it from
//! others. In it lie the caches' instances: directories `0`, `1`..., of which more than one comes to be only by
//! `sharing=private`, each with a file `N.lock` that its users hold locked (flock(2)). An instance is what the steps see,
//! or an upper of what is served to them (`served.rs`).

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mica_fs::digest::Digest;

use crate::dockerfile::mount::Sharing;
use crate::graph::Permissions;
use crate::rootfs::RootfsError;

/// How often a step looks whether a cache has become free.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a cache cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The system.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An owner that this user cannot give away.
    #[error("cannot make {uid}:{gid} the owner of a cache")]
    Owner {
        /// User.
        uid: u32,
        /// Group.
        gid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// What it is to hold at first cannot be put there.
    #[error("cannot fill a new cache")]
    Seed(#[source] SeedFailure),
    /// It cannot be mounted.
    #[error("cannot serve it")]
    Serve(#[source] Box<RootfsError>),
    /// The build was stopped while it waited.
    #[error("the build was stopped")]
    Stopped,
}

/// A cache in use. Dropping it lets others have it.
#[derive(Debug)]
pub struct CacheDirectory {
    path: PathBuf,
    _lock: File,
}

/// Which cache is wanted, and what it is like when it is new.
pub struct Wanted<'a> {
    /// All that tells it from others.
    pub key: Digest,
    /// Who else may use it meanwhile.
    pub sharing: Sharing,
    /// Owner and mode of a new one.
    pub permissions: Permissions,
    /// Fills a new one, which is an empty directory at that path; it may replace the directory's metadata. `None`
    /// leaves it empty.
    pub seed: Option<&'a Seed<'a>>,
}

/// Puts into a new directory what it holds at first.
pub type Seed<'a> = dyn Fn(&Path) -> Result<(), SeedFailure> + 'a;

/// Why it could not.
pub type SeedFailure = Box<dyn std::error::Error + Send + Sync>;

impl CacheDirectory {
    /// Opens a cache below `root`, and makes it if there is none. Waits for it if need be, until `stopped` says that
    /// it is no longer wanted.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn open(root: &Path, wanted: &Wanted<'_>, stopped: &dyn Fn() -> bool) -> Result<Self, CacheError> {
        let family = root.join(wanted.key.hex());
        let mut number = 0_u32;
        loop {
            fs::create_dir_all(&family).map_err(io("make", &family))?;
            let path = family.join(number.to_string());
            let lock_path = family.join(format!("{number}.lock"));
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&lock_path)
                .map_err(io("open", &lock_path))?;
            let locking = Locking {
                lock: &lock,
                path: &lock_path,
                stopped,
            };
            match wanted.sharing {
                // Who comes second finds it made while it waits, and must not wait for the first to be done with it.
                Sharing::Shared => locking.wait(|lock| match path.exists() {
                    true => lock.try_lock_shared(),
                    false => lock.try_lock(),
                })?,
                Sharing::Locked => locking.wait(File::try_lock)?,
                Sharing::Private => {
                    if !locking.try_exclusive()? {
                        number += 1;
                        continue;
                    }
                }
            }
            // A prune may have taken it away between the opening and the lock.
            if !is_same(&lock, &lock_path) {
                continue;
            }
            if !path.exists() {
                make(&path, wanted)?;
            }
            if wanted.sharing == Sharing::Shared {
                locking.wait(File::try_lock_shared)?;
            }
            return Ok(Self { path, _lock: lock });
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(file), Ok(path)) => identity(file) == identity(path),
        _ => false,
    }
}

struct Locking<'a> {
    lock: &'a File,
    path: &'a Path,
    stopped: &'a dyn Fn() -> bool,
}

impl Locking<'_> {
    fn try_exclusive(&self) -> Result<bool, CacheError> {
        self.attempt(File::try_lock)
    }

    fn attempt(&self, lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<bool, CacheError> {
        match lock(self.lock) {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(source)) => Err(io("lock", self.path)(source)),
        }
    }

    fn wait(&self, lock: impl Fn(&File) -> Result<(), TryLockError>) -> Result<(), CacheError> {
        while !self.attempt(&lock)? {
            if (self.stopped)() {
                return Err(CacheError::Stopped);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }
}

/// Makes a new cache at `path` in one step, so that nobody finds a half of it.
fn make(path: &Path, wanted: &Wanted<'_>) -> Result<(), CacheError> {
    let new = path.with_extension("new");
    match fs::remove_dir_all(&new) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(io("remove", &new)(e)),
        _ => {}
    }
    fs::create_dir(&new).map_err(io("make", &new))?;
    let Permissions { uid, gid, mode } = wanted.permissions;
    match wanted.seed {
        Some(seed) => seed(&new).map_err(CacheError::Seed)?,
        None => {
            chown(&new, Some(uid), Some(gid)).map_err(|source| CacheError::Owner { uid, gid, source })?;
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(&new, mode).map_err(io("set the mode of", &new))?;
        }
    }
    fs::rename(&new, path).map_err(io("make", path))
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CacheError {
    move |source| CacheError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(sharing: Sharing) -> Wanted<'static> {
        let metadata = fs::metadata("/proc/self").expect("proc");
        Wanted {
            key: Digest::of(b"cache"),
            sharing,
            permissions: Permissions {
                uid: metadata.uid(),
                gid: metadata.gid(),
                mode: 0o710,
            },
            seed: None,
        }
    }

    fn open(root: &Path, sharing: Sharing, stopped: bool) -> Result<CacheDirectory, CacheError> {
        CacheDirectory::open(root, &wanted(sharing), &|| stopped)
    }

    #[test]
    fn a_cache_keeps_what_is_in_it() {
        let root = tempfile::tempdir().expect("a directory");
        let first = open(root.path(), Sharing::Shared, false).expect("made");
        fs::write(first.path().join("f"), "x").expect("written");
        let mode = fs::metadata(first.path()).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o710);
        let second = open(root.path(), Sharing::Shared, true).expect("shared");
        assert_eq!(second.path(), first.path());
        assert!(second.path().join("f").exists());
    }

    #[test]
    fn a_private_cache_is_shared_with_nobody_and_a_locked_one_waits() {
        let root = tempfile::tempdir().expect("a directory");
        let first = open(root.path(), Sharing::Private, false).expect("made");
        let second = open(root.path(), Sharing::Private, false).expect("another");
        assert_ne!(first.path(), second.path());
        let used = first.path().to_owned();
        assert!(matches!(
            open(root.path(), Sharing::Locked, true),
            Err(CacheError::Stopped)
        ));
        drop(first);
        let third = open(root.path(), Sharing::Locked, true).expect("free again");
        assert_eq!(third.path(), used);
        assert!(matches!(
            open(root.path(), Sharing::Shared, true),
            Err(CacheError::Stopped)
        ));
    }

    #[test]
    fn two_that_share_a_new_cache_do_not_wait_for_each_other() {
        let root = tempfile::tempdir().expect("a directory");
        let too_long = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let stopped = || std::time::Instant::now() > too_long;
        std::thread::scope(|scope| {
            let second = std::sync::Mutex::new(None);
            let seed = |_: &Path| {
                let open = || CacheDirectory::open(root.path(), &wanted(Sharing::Shared), &stopped);
                *second.lock().expect("unpoisoned") = Some(scope.spawn(open));
                // Time to find that the cache is being made.
                std::thread::sleep(3 * PAUSE);
                Ok(())
            };
            let seeded = Wanted {
                seed: Some(&seed),
                ..wanted(Sharing::Shared)
            };
            let first = CacheDirectory::open(root.path(), &seeded, &stopped).expect("made");
            let second = second.lock().expect("unpoisoned").take().expect("begun");
            let second = second.join().expect("no panic").expect("shared");
            assert_eq!(second.path(), first.path());
        });
    }

    #[test]
    fn a_new_cache_holds_its_seed_and_a_failed_one_leaves_none() {
        let root = tempfile::tempdir().expect("a directory");
        let failing = Wanted {
            seed: Some(&|_| Err("no seed".into())),
            ..wanted(Sharing::Shared)
        };
        let result = CacheDirectory::open(root.path(), &failing, &|| false);
        assert!(matches!(result, Err(CacheError::Seed(_))));
        let seeded = Wanted {
            seed: Some(&|at| Ok(fs::write(at.join("seed"), "s")?)),
            ..wanted(Sharing::Shared)
        };
        let cache = CacheDirectory::open(root.path(), &seeded, &|| false).expect("made");
        assert!(cache.path().join("seed").exists());
    }
}
