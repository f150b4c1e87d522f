//! What takes room in the store, and the removal of what nothing needs.
//!
//! Needed is what an image needs, what a cache record names that the policy keeps, what named
//! uppers lie upon, and what a live process holds. What an image needs the caller tells: this crate reads no manifests.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::builds::{self, Keep};
use super::{Store, StoreError, remote, uppers, work};
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;

/// What an image needs.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// Configuration, compressed layers, manifests below an index; the manifest itself is implied.
    pub blobs: Vec<Digest>,
    /// Layers.
    pub layers: Vec<DiffId>,
}

/// Why the caller cannot tell what an image needs.
pub type ReachError = Box<dyn std::error::Error + Send + Sync>;

/// What is kept besides what images with names need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Keep images without a name.
    pub keep_unnamed: bool,
    /// Keep cache records that were used within this time.
    pub cache_age: Duration,
    /// Keep the last used cache records whose layers, as far as no image needs them, take at most this many bytes.
    pub cache_bytes: u64,
    /// Keep the directories that RUN keeps between builds (`--mount=type=cache`). Those in use stay anyway.
    pub keep_cache_mounts: bool,
    /// Remove nothing, only tell.
    pub dry_run: bool,
}

/// What was removed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Images without a name.
    pub images: Vec<Digest>,
    /// Cache records.
    pub cache_records: u64,
    /// Layers.
    pub layers: Vec<DiffId>,
    /// Blobs that are no layers.
    pub blobs: Vec<Digest>,
    /// Directories of `--mount=type=cache`.
    pub cache_mounts: u64,
    /// What is known of layers in registries.
    pub remote: Space,
    /// Bytes on disk that this frees.
    pub bytes: u64,
}

/// A number of things and the bytes they take on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// How many.
    pub count: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

/// What takes room in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The number of images.
    pub images: u64,
    /// Layers at rest with their indexes.
    pub layers: Space,
    /// Blobs that are not the tar of a layer at rest.
    pub blobs: Space,
    /// Cache records; bytes are those of their text. Their layers are among the layers.
    pub cache: Space,
    /// Directories that RUN keeps between builds (`--mount=type=cache`).
    pub cache_mounts: Space,
    /// Named uppers.
    pub uppers: Space,
    /// What is known of earlier builds.
    pub builds: Space,
    /// What is known of layers in registries, and what was read of them.
    pub remote: Space,
    /// Scratch uppers, half-written things of live processes, and blobs that came in part.
    pub work: Space,
}

impl Store {
    /// Removes what neither an image, a cache record that the policy keeps, nor a live process needs. `reach`
    /// tells what the image of a manifest needs; it may read blobs, but must not publish or open layers, which
    /// waits until the prune is over.
    ///
    /// # Errors
    /// [`StoreError::Reach`] if `reach` fails: nothing is removed then. [`StoreError::Io`] and
    /// [`StoreError::Catalog`]: what was removed before is gone, and all that is needed is there.
    pub fn prune(
        &self,
        reach: &dyn Fn(&Digest) -> Result<Reach, ReachError>,
        policy: &Policy,
    ) -> Result<Pruned, StoreError> {
        let gate = self.gate_exclusive()?;
        let mut pruned = Pruned::default();
        let mut needed: HashSet<Digest> = self.leased(&gate)?.into_iter().collect();
        for upper in self.uppers()? {
            needed.insert(upper.base.manifest);
            needed.extend(upper.base.layers.iter().map(|layer| layer.0));
            // The image may have been removed since: its blobs are there as long as they were needed here.
            if self.has_blob(&upper.base.manifest) {
                self.need(&upper.base.manifest, reach, &mut needed)?;
            }
        }
        for image in self.images()? {
            if image.names.is_empty() && !policy.keep_unnamed && !needed.contains(&image.manifest) {
                pruned.images.push(image.manifest);
                continue;
            }
            self.need(&image.manifest, reach, &mut needed)?;
        }
        let stale = self.stale_records(policy, &mut needed)?;
        pruned.cache_records = stale.len() as u64;
        if !policy.dry_run {
            for manifest in &pruned.images {
                self.remove_image(manifest)?;
            }
            self.with_catalog(|catalog| catalog.cache_remove(&stale))?;
        }
        self.remove_unneeded(&needed, policy.dry_run, &mut pruned)?;
        if !policy.dry_run && !pruned.blobs.is_empty() {
            self.with_catalog(|catalog| catalog.remove_sources(&pruned.blobs))?;
        }
        if !policy.dry_run && !pruned.layers.is_empty() {
            self.with_catalog(|catalog| catalog.remove_compressed(&pruned.layers))?;
        }
        self.remove_context_files(policy, &mut pruned)?;
        let keep = Keep {
            builds: usize::MAX,
            failed_layers: 0,
            age: policy.cache_age,
        };
        pruned.bytes += self.forget_builds(&keep, policy.dry_run)?;
        self.remove_downloads(policy, &mut pruned)?;
        self.prune_remote(policy, &mut pruned)?;
        if !policy.keep_cache_mounts {
            self.remove_cache_mounts(policy.dry_run, &mut pruned)?;
        }
        Ok(pruned)
    }

    /// Adds what an image needs.
    fn need(
        &self,
        manifest: &Digest,
        reach: &dyn Fn(&Digest) -> Result<Reach, ReachError>,
        needed: &mut HashSet<Digest>,
    ) -> Result<(), StoreError> {
        let reached = reach(manifest).map_err(|source| StoreError::Reach {
            manifest: *manifest,
            source,
        })?;
        needed.insert(*manifest);
        needed.extend(reached.blobs);
        needed.extend(reached.layers.iter().map(|layer| layer.0));
        Ok(())
    }

    /// Removes what is known of build contexts that have not changed for as long as the policy keeps cache records.
    fn remove_context_files(&self, policy: &Policy, pruned: &mut Pruned) -> Result<(), StoreError> {
        let directory = self.root.join(super::CONTEXTS);
        let failed = |e| StoreError::io("prune", &directory, e);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed(e)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let Ok(metadata) = entry.metadata() else { continue };
            let written = metadata.modified().map_err(failed)?;
            if written.elapsed().is_ok_and(|age| age < policy.cache_age) {
                continue;
            }
            pruned.bytes += metadata.blocks() * 512;
            if !policy.dry_run {
                remove_file(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Whether RUN keeps directories between builds. Their files may belong to users of images, so that removing them
    /// needs the user namespace of a build.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn has_cache_mounts(&self) -> Result<bool, StoreError> {
        Ok(!self.objects(&self.cache_mounts())?.is_empty())
    }

    fn cache_mounts(&self) -> PathBuf {
        self.root.join("cache-mounts")
    }

    /// Removes the directories of `--mount=type=cache` that nobody uses. Whoever uses one holds a lock on a file in it
    /// whose name ends with `.lock`; it is kept from coming back meanwhile by holding them all.
    fn remove_cache_mounts(&self, dry_run: bool, pruned: &mut Pruned) -> Result<(), StoreError> {
        for digest in self.objects(&self.cache_mounts())? {
            let path = self.cache_mounts().join(digest.hex());
            let Some(_locks) = lock_all(&path)? else { continue };
            pruned.bytes += on_disk(&path)?.bytes;
            pruned.cache_mounts += 1;
            if !dry_run {
                self.remove_directory(&path)?;
            }
        }
        Ok(())
    }

    /// The cache records that the policy does not keep. The layers of the others become needed.
    fn stale_records(
        &self,
        policy: &Policy,
        needed: &mut HashSet<Digest>,
    ) -> Result<Vec<Digest>, StoreError> {
        let age = i64::try_from(policy.cache_age.as_secs()).unwrap_or(i64::MAX);
        let oldest = Timestamp::now().seconds.saturating_sub(age);
        let mut bytes = 0_u64;
        let mut stale = Vec::new();
        for row in self.with_catalog(|catalog| catalog.cache())? {
            let own: HashSet<Digest> = row.layers.iter().map(|layer| layer.0).collect();
            let own: Vec<_> = own.difference(needed).copied().collect();
            let mut size = bytes;
            for layer in &own {
                size = size.saturating_add(on_disk(&self.layer_path(&DiffId(*layer)))?.bytes);
            }
            if row.used < oldest || size > policy.cache_bytes {
                stale.push(row.key);
            } else {
                bytes = size;
                needed.extend(own);
            }
        }
        Ok(stale)
    }

    fn remove_unneeded(
        &self,
        needed: &HashSet<Digest>,
        dry_run: bool,
        pruned: &mut Pruned,
    ) -> Result<(), StoreError> {
        // A layer goes first, so that what is left of it after a crash is a blob that nobody needs.
        let mut own_tars = HashSet::new();
        for digest in self.objects(&self.layers_path())? {
            if needed.contains(&digest) {
                continue;
            }
            let path = self.layer_path(&DiffId(digest));
            own_tars.insert(digest);
            pruned.bytes += on_disk(&path)?.bytes;
            pruned.layers.push(DiffId(digest));
            if !dry_run {
                self.remove_directory(&path)?;
            }
        }
        for digest in self.objects(&self.blobs())? {
            if needed.contains(&digest) {
                continue;
            }
            let path = self.blob_path(&digest);
            if !own_tars.contains(&digest) {
                pruned.bytes += on_disk(&path)?.bytes;
                pruned.blobs.push(digest);
            }
            if !dry_run {
                fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Removes a directory of the store: by a rename, so that no part of it is ever seen.
    pub(super) fn remove_directory(&self, path: &Path) -> Result<(), StoreError> {
        let work = self.work_dir()?;
        fs::rename(path, work.path().join("removed")).map_err(|e| StoreError::io("remove", path, e))
    }

    /// What takes room.
    ///
    /// # Errors
    /// [`StoreError::Io`] and [`StoreError::Catalog`].
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let mut usage = Usage {
            images: self.images()?.len() as u64,
            ..Usage::default()
        };
        for digest in self.objects(&self.layers_path())? {
            usage.layers.count += 1;
            usage.layers.bytes += on_disk(&self.layer_path(&DiffId(digest)))?.bytes;
        }
        for digest in self.objects(&self.blobs())? {
            if !self.has_layer(&DiffId(digest)) {
                usage.blobs.count += 1;
                usage.blobs.bytes += on_disk(&self.blob_path(&digest))?.bytes;
            }
        }
        let (count, bytes) = self.with_catalog(|catalog| catalog.cache_size())?;
        usage.cache = Space { count, bytes };
        usage.cache_mounts = on_disk(&self.cache_mounts())?;
        usage.remote = on_disk(&self.root.join(remote::DIRECTORY))?;
        usage.uppers = on_disk(&self.root.join(uppers::DIRECTORY))?;
        usage.builds = on_disk(&self.root.join(builds::DIRECTORY))?;
        usage.work = on_disk(&self.root.join(work::DIRECTORY))?;
        let downloads = on_disk(&self.downloads())?;
        usage.work.count += downloads.count;
        usage.work.bytes += downloads.bytes;
        Ok(usage)
    }

    /// The digests that the names in `directory` are; other names are none of the store's.
    pub(super) fn objects(&self, directory: &Path) -> Result<Vec<Digest>, StoreError> {
        let failed = |e| StoreError::io("read", directory, e);
        let mut digests = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            digests.extend(name.to_str().and_then(|name| Digest::from_hex(name).ok()));
        }
        digests.sort();
        Ok(digests)
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// Locks every lock file in `directory`; `None` if someone else holds one.
fn lock_all(directory: &Path) -> Result<Option<Vec<File>>, StoreError> {
    let failed = |e| StoreError::io("lock the caches in", directory, e);
    let mut locks = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_none_or(|extension| extension != "lock") {
            continue;
        }
        let lock = File::open(&path).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => locks.push(lock),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    Ok(Some(locks))
}

/// The number of entries directly in a directory (1 for a file), and the bytes on disk of the whole tree.
/// What vanishes meanwhile counts nothing, nor does what is in a directory of an image's user.
pub(super) fn on_disk(path: &Path) -> Result<Space, StoreError> {
    let mut space = Space::default();
    let mut todo = vec![(path.to_owned(), 0)];
    let gone = |e: &io::Error| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
        )
    };
    while let Some((path, depth)) = todo.pop() {
        let failed = |e| StoreError::io("read", &path, e);
        let metadata = match fs::symlink_metadata(&path) {
            Ok(metadata) => metadata,
            Err(e) if gone(&e) => continue,
            Err(e) => return Err(failed(e)),
        };
        space.count += u64::from(depth == 1 || depth == 0 && !metadata.is_dir());
        space.bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            match fs::read_dir(&path) {
                Ok(entries) => {
                    for entry in entries {
                        todo.push((entry.map_err(failed)?.path(), depth + 1));
                    }
                }
                Err(e) if gone(&e) => {}
                Err(e) => return Err(failed(e)),
            }
        }
    }
    Ok(space)
}
