//! Where a session's changes go, and how a named upper outlives its session.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::flat::FlatFiles;
use super::*;

mod state;

/// Where the changes of a session go.
#[derive(Clone, Debug)]
pub struct Upper {
    directory: PathBuf,
    named: bool,
}

impl Upper {
    /// Changes live as long as the session. `directory` exists, is for this session alone, and is its owner's
    /// to remove.
    pub fn scratch(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            named: false,
        }
    }

    /// Changes outlive the session in `directory`, which is made if it is missing. One session at a time can
    /// have it; what [`Overlay::save`] wrote last is what the next session finds.
    pub fn named(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            named: true,
        }
    }
}

/// The upper of a running session.
pub(super) struct Active {
    files: Arc<FlatFiles>,
    saved: Option<Saved>,
}

/// What a named upper has besides its files.
struct Saved {
    directory: PathBuf,
    /// Held for as long as the session runs.
    _lock: File,
    /// The generations of names and of data at the last save. Locked while one goes on.
    last: Mutex<Option<(u64, u64)>>,
}

/// Names within the directory of a named upper.
const LOCK: &str = "lock";
const STATE: &str = "state";
const NEW_STATE: &str = "state.new";
const FILES: &str = "files";

impl Active {
    pub fn open(upper: Upper) -> Result<Self> {
        if !upper.named {
            return Ok(Self {
                files: Arc::new(FlatFiles::new(upper.directory, false)),
                saved: None,
            });
        }
        let files = upper.directory.join(FILES);
        fs::create_dir_all(&files).map_err(Error::io("create the upper's directory"))?;
        let lock = File::create(upper.directory.join(LOCK)).map_err(Error::io("lock the upper"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::State {
                    path: upper.directory,
                    reason: "another session is using it",
                });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock the upper")(source)),
        }
        Ok(Self {
            files: Arc::new(FlatFiles::new(files, true)),
            saved: Some(Saved {
                directory: upper.directory,
                _lock: lock,
                last: Mutex::default(),
            }),
        })
    }

    pub fn files(&self) -> &Arc<FlatFiles> {
        &self.files
    }

    pub fn is_named(&self) -> bool {
        self.saved.is_some()
    }

    /// Puts what was saved into the tree of a session that begins. Files that no state names go.
    pub fn restore(&self, tree: &mut Tree) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let path = saved.directory.join(STATE);
        match fs::read(&path) {
            Ok(bytes) => state::decode(&bytes, tree).map_err(|reason| Error::State { path, reason })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("read the upper's state")(error)),
        }
        let named: HashSet<_> = tree.nodes.keys().map(|ino| self.files.path(*ino)).collect();
        let files = fs::read_dir(self.files.directory()).map_err(Error::io("list the upper's files"))?;
        for file in files {
            let path = file.map_err(Error::io("list the upper's files"))?.path();
            if !named.contains(&path) {
                fs::remove_file(&path).map_err(Error::io("remove a file that the upper does not name"))?;
            }
        }
        Ok(())
    }

    /// Saves the state of a named upper if it differs from the last in more than times.
    pub fn save_changes(&self, overlay: &Overlay) -> Result<()> {
        self.save_if(overlay, |last, now| last != Some(now))
    }

    /// Saves the state of a named upper.
    pub fn save(&self, overlay: &Overlay) -> Result<()> {
        self.save_if(overlay, |_, _| true)
    }

    /// The order matters: first the data that the state names, then the state, then the removal of what only
    /// the state before named. Whatever is interrupted, a state on disk names only files that are there.
    fn save_if(
        &self,
        overlay: &Overlay,
        needed: impl FnOnce(Option<(u64, u64)>, (u64, u64)) -> bool,
    ) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let mut last = saved.last.lock().unwrap_or_else(PoisonError::into_inner);
        let data_generation = overlay.data_generation.load(Ordering::Relaxed);
        let tree = overlay.tree();
        let now = (tree.generation, data_generation);
        if !needed(*last, now) {
            return Ok(());
        }
        let discarded = self.files.discarded();
        let state = state::Encoded::of(&tree);
        drop(tree);
        let bytes = state.finish()?;
        sync_directory(self.files.directory()).map_err(Error::io("sync the upper's files"))?;
        write_state(&saved.directory, &bytes).map_err(Error::io("write the upper's state"))?;
        *last = Some(now);
        for ino in discarded {
            self.files.remove(ino);
        }
        Ok(())
    }
}

fn write_state(directory: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = directory.join(NEW_STATE);
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, directory.join(STATE))?;
    sync_directory(directory)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
