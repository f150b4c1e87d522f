//! A writable root filesystem for one step or one container: layers, an upper of its own, and a mount while a
//! command runs on it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use mica_fs::digest::DiffId;
use mica_fs::layer::Layer;
use mica_fs::layer::writer::{LayerWriter, WriteError, Written};
use mica_fs::mount::{self, MountError, MountOptions, Mounted, Permissions};
use mica_fs::overlay::{self, Options, Overlay, ReadSet, Upper, Virtual};
use mica_fs::path::ImagePath;
use mica_fs::snapshot::{self, PackError};
use mica_fs::store::{Lease, Store, StoreError, WorkDir};

use crate::leak::{Leak, Leaks};
use crate::sandbox::{self, VirtualTree, keeper};

mod copy;

use copy::Copy;
pub use copy::CopyError;

/// Why a root filesystem cannot be made, mounted or committed.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The overlay cannot be set up.
    #[error("cannot set up the overlay")]
    Overlay(#[from] overlay::Error),
    /// A directory of its own cannot be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// There is no FUSE, and no copy can know the owners that only mica knows.
    #[error("with a single id steps need FUSE; `mica doctor` says how to have it")]
    NeedsFuse(#[source] MountError),
    /// There is no FUSE, and a copy in its place is not possible either.
    #[error("without FUSE ({fuse}) steps run on a copy of their root filesystem, which cannot be made")]
    Copy {
        /// Why there is no FUSE.
        fuse: String,
        /// Why there is no copy.
        source: Box<CopyError>,
    },
    /// The changes that a step made to a copy cannot be taken over.
    #[error("cannot take over what the step has changed")]
    TakeBack(#[source] Box<CopyError>),
    /// The changes cannot be written as a layer.
    #[error("cannot write the new layer")]
    Pack(#[from] PackError),
    /// The layer cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The new layer cannot be searched for secrets.
    #[error("cannot search the new layer for secrets")]
    Search(#[source] std::io::Error),
    /// A secret is in it.
    #[error(transparent)]
    Leak(#[from] Leak),
}

impl RootfsError {
    /// The one command, or the one change, that mends this; `None` when there is no such thing.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Mount(MountError::NoFuse { source } | MountError::Device { source }) => {
                Some(sandbox::doctor::fuse_remedy(source))
            }
            _ => None,
        }
    }
}

/// A root filesystem. Dropping it unmounts and throws the changes away.
pub struct Rootfs<'a> {
    store: &'a Store,
    // Unmounted before the directories are removed, which lie below.
    mounted: Option<Mounted>,
    copy: Option<Copy>,
    /// There is no FUSE: what is read cannot be recorded.
    copied: bool,
    virtuals: BTreeSet<ImagePath>,
    overlay: Arc<Overlay>,
    record: bool,
    work: WorkDir,
    _lease: Lease,
}

impl<'a> Rootfs<'a> {
    /// Prepares a root filesystem of `layers` (bottom first) in which nothing is changed yet. `virtuals` are
    /// visible in it, and never part of a layer.
    ///
    /// # Errors
    /// [`RootfsError`] if a layer is missing or the upper cannot be made.
    pub fn prepare(store: &'a Store, layers: &[DiffId], virtuals: Vec<Virtual>) -> Result<Self, RootfsError> {
        Self::new(store, layers, virtuals, false)
    }

    /// The same, and what is read of the layers is recorded.
    ///
    /// # Errors
    /// As [`Self::prepare`].
    pub fn recorded(
        store: &'a Store,
        layers: &[DiffId],
        virtuals: Vec<Virtual>,
    ) -> Result<Self, RootfsError> {
        Self::new(store, layers, virtuals, true)
    }

    /// The same of opened layers, which need not lie in the store.
    ///
    /// # Errors
    /// [`RootfsError`] if the upper cannot be made.
    pub fn over(
        store: &'a Store,
        layers: Vec<Arc<Layer>>,
        virtuals: Vec<Virtual>,
    ) -> Result<Self, RootfsError> {
        Self::make(store, (layers, store.lease(&[])?), virtuals, false)
    }

    fn new(
        store: &'a Store,
        layers: &[DiffId],
        virtuals: Vec<Virtual>,
        record: bool,
    ) -> Result<Self, RootfsError> {
        let lease = store.lease(layers)?;
        Self::make(store, (store.layers(layers)?, lease), virtuals, record)
    }

    fn make(
        store: &'a Store,
        (opened, lease): (Vec<Arc<Layer>>, Lease),
        virtuals: Vec<Virtual>,
        record: bool,
    ) -> Result<Self, RootfsError> {
        let work = store.work_dir()?;
        let upper = directory(work.path().join("upper"))?;
        let paths = virtuals.iter().map(|node| node.path.clone()).collect();
        let options = Options { record, virtuals };
        let overlay = Overlay::writable(opened, Upper::scratch(&upper), options)?;
        Ok(Self {
            store,
            mounted: None,
            copy: None,
            copied: false,
            virtuals: paths,
            overlay: Arc::new(overlay),
            record,
            work,
            _lease: lease,
        })
    }

    /// The filesystem as an object.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Mounts it in this process's mount namespace and returns where. Where FUSE cannot be had, this is a copy; then
    /// [`read_set`](Self::read_set) knows nothing.
    ///
    /// # Errors
    /// [`RootfsError::Mount`], [`RootfsError::Copy`].
    pub fn mount(&mut self) -> Result<PathBuf, RootfsError> {
        let place = directory(self.work.path().join("root"))?;
        match serve(&self.overlay, &place, (self.record, false)) {
            Ok(mounted) => self.mounted = Some(mounted),
            Err(error @ (MountError::NoFuse { .. } | MountError::Device { .. })) => {
                match sandbox::callers() {
                    None => self.copy(place.clone(), &error)?,
                    // The owners of files are known to our filesystem alone.
                    Some(_) => return Err(RootfsError::NeedsFuse(error)),
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(place)
    }

    /// What the owners of its files are known from, while it is mounted.
    pub fn tree(&self) -> Option<VirtualTree> {
        VirtualTree::of(self.mounted.as_ref()?, &self.overlay).ok()
    }

    fn copy(&mut self, place: PathBuf, error: &MountError) -> Result<(), RootfsError> {
        static WARN: Once = Once::new();
        self.copied = true;
        let fuse = match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        let copy = Copy::make(&self.overlay, place, self.virtuals.clone());
        self.copy = Some(copy.map_err(|source| RootfsError::Copy {
            fuse: fuse.clone(),
            source: Box::new(source),
        })?);
        WARN.call_once(|| {
            tracing::warn!(
                "{fuse}: steps run on copies of their root filesystems. That takes longer, and what they read is not \
                 known to the cache; `mica doctor` says how to mend it"
            );
        });
        Ok(())
    }

    /// Unmounts, and returns when the kernel has written back everything that was written.
    ///
    /// # Errors
    /// [`RootfsError::Mount`], [`RootfsError::TakeBack`].
    pub fn unmount(&mut self) -> Result<(), RootfsError> {
        if let Some(copy) = self.copy.take() {
            copy.take_back(&self.overlay)
                .map_err(|error| RootfsError::TakeBack(Box::new(error)))?;
        }
        match self.mounted.take() {
            Some(mounted) => Ok(mounted.unmount()?),
            None => Ok(()),
        }
    }

    /// What was read of the layers so far, if it is recorded.
    pub fn read_set(&self) -> Option<ReadSet> {
        match self.copied {
            true => None,
            false => self.overlay.read_set(),
        }
    }

    /// Makes a layer of what was changed, and puts it into the store.
    ///
    /// # Errors
    /// [`RootfsError`]; the store is then as it was.
    pub fn commit(self) -> Result<Arc<Layer>, RootfsError> {
        let store = self.store;
        let (written, work) = self.pack()?;
        Ok(store.publish_layer(work, &written)?)
    }

    /// Makes a layer of what was changed, and puts it into the store unless it holds a secret.
    ///
    /// # Errors
    /// [`RootfsError`]; the store is then as it was.
    pub fn commit_without(self, secrets: &Leaks) -> Result<Arc<Layer>, RootfsError> {
        let store = self.store;
        let (written, work) = self.pack()?;
        if !secrets.is_empty() {
            let layer = Layer::open(work.path());
            let layer = layer.map_err(|error| RootfsError::Search(std::io::Error::other(error)))?;
            if let Some(leak) = secrets.in_layer(&layer).map_err(RootfsError::Search)? {
                return Err(leak.into());
            }
        }
        Ok(store.publish_layer(work, &written)?)
    }

    /// Makes a layer of what was changed in a work directory, and does not put it into the store.
    ///
    /// # Errors
    /// [`RootfsError`].
    pub fn pack(mut self) -> Result<(Written, WorkDir), RootfsError> {
        self.unmount()?;
        let work = self.store.work_dir()?;
        let mut writer = LayerWriter::new(work.path())?;
        snapshot::pack(&self.overlay, &mut writer)?;
        Ok((writer.finish()?, work))
    }
}

/// Mounts an overlay for steps on `place`, in this process's mount namespace. `record` is whether it records what is read,
/// `write_through` whether each write is passed on at once.
///
/// # Errors
/// [`MountError`].
pub fn serve(
    overlay: &Arc<Overlay>,
    place: &Path,
    (record, write_through): (bool, bool),
) -> Result<Mounted, MountError> {
    let permissions = sandbox::callers().map_or(Permissions::Kernel, Permissions::Callers);
    let options = MountOptions {
        writable: true,
        write_through,
        traced: record,
        permissions,
        allow_other: true,
        owner: None,
        // Real root's steps have CAP_MKNOD: what they make must not reach the host's devices. In a user
        // namespace the kernel sees to that.
        no_dev: true,
        no_suid: false,
        name: "mica".to_owned(),
    };
    keeper::watch();
    mount::kernel(Arc::clone(overlay), place, &options)
}

/// A new directory.
///
/// # Errors
/// [`RootfsError::Directory`].
pub fn directory(path: PathBuf) -> Result<PathBuf, RootfsError> {
    match std::fs::create_dir(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(RootfsError::Directory { path, source }),
    }
}
