//! How many requests the kernel sends for what programs do. Unlike times, counts do not depend on the machine:
//! what is lost here is lost everywhere.

mod common;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Layer, Metadata};
use mica_fs::mount::{self, Mounted, RequestKind, Requests};
use mica_fs::overlay::{Options, Overlay, Upper};

use common::{Fallible, Outcome, can_mount, options, path};

const DIRECTORIES: usize = 10;
const FILES: usize = 20;

/// A writable mount of one layer: some directories `dN` with some files `fN`, each of 5 bytes, and `large`.
struct Scene {
    base: tempfile::TempDir,
    mounted: Mounted,
}

impl Scene {
    fn new() -> Fallible<Self> {
        let base = tempfile::tempdir()?;
        for directory in ["layer", "upper", "mnt"] {
            fs::create_dir(base.path().join(directory))?;
        }
        let layer = base.path().join("layer");
        let mut writer = LayerWriter::new(&layer)?;
        let directory = Metadata {
            mode: 0o755,
            ..Metadata::default()
        };
        let file = Metadata {
            mode: 0o644,
            ..Metadata::default()
        };
        for d in 0..DIRECTORIES {
            writer.add(&path(&format!("d{d}")), &directory, NewNode::Directory)?;
            for f in 0..FILES {
                let content = &mut &b"12345"[..];
                writer.add(
                    &path(&format!("d{d}/f{f}")),
                    &file,
                    NewNode::File { size: 5, content },
                )?;
            }
        }
        let large = vec![b'x'; 4 << 20];
        writer.add(
            &path("large"),
            &file,
            NewNode::File {
                size: large.len() as u64,
                content: &mut &large[..],
            },
        )?;
        writer.finish()?;
        let upper = Upper::scratch(&base.path().join("upper"));
        let layers = vec![Arc::new(Layer::open(&layer)?)];
        let overlay = Arc::new(Overlay::writable(layers, upper, Options::default())?);
        let mounted = mount::kernel(overlay, &base.path().join("mnt"), &options(true))?;
        Ok(Self { base, mounted })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.path().join("mnt").join(name)
    }

    /// What `work` makes the kernel ask.
    fn requests_of(&self, work: impl FnOnce() -> std::io::Result<()>) -> Fallible<Requests> {
        let before = self.mounted.requests();
        work()?;
        Ok(self.mounted.requests().since(&before))
    }

    /// Lists everything with its attributes, as `find -ls` does.
    fn walk(&self) -> std::io::Result<()> {
        let mut seen = 0;
        for directory in fs::read_dir(self.at(""))? {
            let directory = directory?;
            if directory.metadata()?.is_dir() {
                for file in fs::read_dir(directory.path())? {
                    seen += u64::from(file?.metadata()?.is_file());
                }
            }
        }
        assert_eq!(seen, (DIRECTORIES * FILES) as u64);
        Ok(())
    }
}

#[test]
fn a_warm_walk_asks_nothing() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let cold = scene.requests_of(|| scene.walk())?;
    // READDIRPLUS brings the attributes of a hundred entries at a time: far fewer requests than files.
    let expected = (DIRECTORIES * FILES / 2) as u64;
    assert!(cold.total() < expected, "cold: {cold}");
    // Listing a directory makes the kernel forget its time of access.
    let second = scene.requests_of(|| scene.walk())?;
    assert_eq!(
        second.total(),
        second.of(RequestKind::GetAttr),
        "second: {second}"
    );
    assert!(second.total() <= DIRECTORIES as u64 + 1, "second: {second}");
    let third = scene.requests_of(|| scene.walk())?;
    assert_eq!(third.total(), 0, "third: {third}");
    scene.mounted.unmount()?;
    Ok(())
}

/// What the kernel needs for a small file, with its cache of writes, and we cannot make fewer of: LOOKUP of the
/// name, MKNOD, GETXATTR of `security.capability` at the first write (it takes a new inode for one that may have
/// some), WRITE when the file is closed, and GETATTR of the directory, whose attributes it forgets at each MKNOD. The
/// time of the write, a SETATTR, is left out if it is in the same tick of the clock as the MKNOD.
#[test]
fn a_small_file_costs_five_requests_and_at_times_one_for_the_time() -> Outcome {
    const NEW: u64 = 200;
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let asked = scene.requests_of(|| {
        for number in 0..NEW {
            File::create_new(scene.at(&format!("d0/new{number}")))?.write_all(b"content")?;
        }
        Ok(())
    })?;
    for kind in [RequestKind::MkNod, RequestKind::Write] {
        assert_eq!(asked.of(kind), NEW, "{asked}");
    }
    // The directory itself is looked up once, and the functions that are answered with ENOSYS are tried once.
    for kind in [
        RequestKind::Lookup,
        RequestKind::GetXattr,
        RequestKind::GetAttr,
        RequestKind::SetAttr,
    ] {
        assert!(asked.of(kind) <= NEW + 2, "{asked}");
    }
    assert!(asked.total() <= 6 * NEW + 8, "{asked}");
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn many_small_writes_become_few_requests() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let asked = scene.requests_of(|| {
        let mut file = File::create_new(scene.at("d0/written"))?;
        for _ in 0..256 {
            file.write_all(&[b'x'; 4096])?;
        }
        Ok(())
    })?;
    assert!(asked.of(RequestKind::GetXattr) <= 1, "{asked}");
    assert!(asked.of(RequestKind::Write) <= 16, "{asked}");
    assert!(asked.total() <= 32, "{asked}");
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn what_is_read_again_is_not_asked_for_again() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let cold = scene.requests_of(|| fs::read(scene.at("large")).map(drop))?;
    assert!(cold.of(RequestKind::Read) <= 64, "cold: {cold}");
    let warm = scene.requests_of(|| fs::read(scene.at("large")).map(drop))?;
    // The attributes: closing a file makes the kernel forget its space, reading the time of access.
    assert!(warm.total() <= 1, "warm: {warm}");
    scene.mounted.unmount()?;
    Ok(())
}

#[test]
fn metadata_of_a_lower_file_changes_without_its_data() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let asked = scene.requests_of(|| {
        fs::set_permissions(scene.at("large"), fs::Permissions::from_mode(0o600))?;
        fs::rename(scene.at("d1"), scene.at("moved"))
    })?;
    assert_eq!(asked.of(RequestKind::SetAttr), 1, "{asked}");
    assert_eq!(asked.of(RequestKind::Rename), 1, "{asked}");
    assert_eq!(
        asked.of(RequestKind::Read) + asked.of(RequestKind::Write),
        0,
        "{asked}"
    );
    scene.mounted.unmount()?;
    Ok(())
}
