//! Where a session's changes go, and how a named upper outlives its session.
//!
//! A named upper keeps the names and metadata that differ from the layers in a [`log`]: each sync appends
//! the nodes that changed since the one before ([`Unsaved`]), so it costs what changed and not what the upper
//! holds. The bytes of files lie beside it, or in it while they are few.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::flat::FlatFiles;
use super::inode::{Body, Content};
use super::*;

mod log;
mod record;
#[cfg(test)]
mod tests;

use log::Log;

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
    /// have it; what [`Overlay::sync`] or [`Overlay::save`] wrote last is what the next session finds.
    pub fn named(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            named: true,
        }
    }
}

/// What a sync is to make durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durable {
    /// The data and what is needed to find it, as fdatasync(2).
    Data,
    /// Times as well, as fsync(2).
    All,
}

/// What the log of a named upper lacks. It is guarded by the lock on the tree.
#[derive(Default)]
pub(super) struct Unsaved {
    /// Nodes that changed, or came, or went.
    nodes: HashSet<u64>,
    /// Nodes of which only times changed.
    times: HashSet<u64>,
    /// The changed names of each directory.
    names: HashMap<u64, HashSet<Box<[u8]>>>,
    /// Files whose bytes moved, or changed in memory.
    data: HashSet<u64>,
}

impl Unsaved {
    /// The node differs from what is saved.
    pub fn node(&mut self, ino: u64) {
        self.nodes.insert(ino);
    }

    /// The node's times differ from what is saved.
    pub fn times(&mut self, ino: u64) {
        self.times.insert(ino);
    }

    /// What a name of a directory stands for differs from what is saved.
    pub fn name(&mut self, directory: u64, name: &[u8]) {
        self.names.entry(directory).or_default().insert(name.into());
    }

    /// The bytes of a file differ from what is saved, or lie elsewhere.
    pub fn data(&mut self, ino: u64) {
        self.data.insert(ino);
    }

    fn is_empty(&self, durable: Durable) -> bool {
        let times = durable == Durable::Data || self.times.is_empty();
        times && self.nodes.is_empty() && self.names.is_empty() && self.data.is_empty()
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
    lock: File,
    /// Locked while a sync goes on: those that wait meanwhile find that it was done for them too.
    log: Mutex<Log>,
}

/// Names within the directory of a named upper.
const LOCK: &str = "lock";
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
                return Err(Error::InUse {
                    path: upper.directory,
                });
            }
            Err(TryLockError::Error(source)) => return Err(Error::io("lock the upper")(source)),
        }
        Ok(Self {
            files: Arc::new(FlatFiles::new(files, true)),
            saved: Some(Saved {
                log: Mutex::new(Log::new(&upper.directory)),
                directory: upper.directory,
                lock,
            }),
        })
    }

    pub fn files(&self) -> &Arc<FlatFiles> {
        &self.files
    }

    pub fn is_named(&self) -> bool {
        self.saved.is_some()
    }

    /// Lets another session have a named upper.
    pub fn release(&self) -> Result<()> {
        match &self.saved {
            Some(saved) => saved.lock.unlock().map_err(Error::io("unlock the upper")),
            None => Ok(()),
        }
    }

    /// Puts what was saved into the tree of a session that begins, and has it note what changes from then on.
    /// Flat files that nothing names go.
    pub fn restore(&self, tree: &mut Tree) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let mut log = saved.log.lock().unwrap_or_else(PoisonError::into_inner);
        let damaged = |reason| Error::State {
            path: saved.directory.clone(),
            reason,
        };
        let opened = log
            .open(tree.lower.layers())
            .map_err(Error::io("read the upper's state"))?;
        let mut unsaved = Unsaved::default();
        if let Some(recorded) = opened.map_err(damaged)? {
            let moved = record::restore(recorded.payloads(), tree).map_err(damaged)?;
            moved.into_iter().for_each(|ino| unsaved.data(ino));
        }
        tree.unsaved = Some(unsaved);
        self.remove_strays(tree)
    }

    fn remove_strays(&self, tree: &Tree) -> Result<()> {
        let is_flat = |body: &Body| matches!(body, Body::File(Content::Own(data)) if data.has_flat_file());
        let flat = tree.nodes.iter().filter(|(_, node)| is_flat(&node.body));
        let named: HashSet<_> = flat.map(|(ino, _)| self.files.path(*ino)).collect();
        for file in fs::read_dir(self.files.directory()).map_err(Error::io("list the upper's files"))? {
            let path = file.map_err(Error::io("list the upper's files"))?.path();
            if !named.contains(&path) {
                fs::remove_file(&path).map_err(Error::io("remove a file that the upper does not name"))?;
            }
        }
        Ok(())
    }

    /// Makes durable what a named upper has not saved yet, as one: after a crash all of it is there or none. The
    /// order matters: first the data that is named, then the names, then the removal of what only the names
    /// before led to.
    pub fn sync(&self, overlay: &Overlay, durable: Durable) -> Result<()> {
        let Some(saved) = &self.saved else { return Ok(()) };
        let mut log = saved.log.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tree = overlay.tree();
        let Some(unsaved) = &mut tree.unsaved else {
            return Ok(());
        };
        let whole = log.wants_checkpoint();
        if !whole && unsaved.is_empty(durable) {
            return Ok(());
        }
        let unsaved = std::mem::take(unsaved);
        let discarded = self.files.discarded();
        let batch = match whole {
            true => record::Batch::whole(&tree),
            false => record::Batch::changes(&tree, &unsaved),
        };
        drop(tree);
        let written = batch.finish(&self.files).and_then(|payload| {
            let written = match whole {
                true => log.replace(overlay.layers(), &payload),
                false => log.append(&payload),
            };
            written.map_err(Error::io("write the upper's state"))
        });
        match written {
            Ok(()) => discarded.into_iter().for_each(|ino| self.files.remove(ino)),
            Err(_) => {
                // What was taken is saved with everything else, next time.
                log.distrust();
                discarded.into_iter().for_each(|ino| self.files.discard(ino));
            }
        }
        written
    }
}
