//! The overlay through the kernel: real mounts, on which programs do what programs do.
//!
//! They need root (for mount(2)) and /dev/fuse, and say so where they are skipped.

#![allow(clippy::print_stderr)]

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use mica_fs::digest::Digest;
use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Layer, Metadata, Timestamp};
use mica_fs::mount::{self, MountError, Mounted};
use mica_fs::overlay::{Options, Overlay, Upper};
use mica_fs::snapshot;

use common::{Fallible, Outcome, can_mount, options, path};

fn metadata(mode: u32) -> Metadata {
    Metadata {
        mode,
        mtime: Timestamp::from_seconds(1_000_000_000),
        ..Metadata::default()
    }
}

fn add_file(writer: &mut LayerWriter, name: &str, mode: u32, content: &[u8]) -> Outcome {
    let node = NewNode::File {
        size: content.len() as u64,
        content: &mut &content[..],
    };
    Ok(writer.add(&path(name), &metadata(mode), node)?)
}

fn add_dir(writer: &mut LayerWriter, name: &str) -> Outcome {
    Ok(writer.add(&path(name), &metadata(0o755), NewNode::Directory)?)
}

/// Two layers: the upper one changes a file, removes one, and hides a directory's content.
fn layers(directory: &Path) -> Fallible<Vec<Arc<Layer>>> {
    let (below, above) = (directory.join("below"), directory.join("above"));
    fs::create_dir_all(&below)?;
    fs::create_dir_all(&above)?;
    let mut writer = LayerWriter::new(&below)?;
    for dir in ["bin", "etc", "gone", "tree", "tree/deep"] {
        add_dir(&mut writer, dir)?;
    }
    add_file(&mut writer, "bin/tool", 0o4755, b"#!/bin/sh\necho tool\n")?;
    add_file(&mut writer, "etc/changed", 0o644, b"old")?;
    add_file(&mut writer, "etc/removed", 0o644, b"removed")?;
    add_file(&mut writer, "etc/kept", 0o600, b"kept")?;
    writer.hard_link(&path("etc/link"), &path("etc/kept"))?;
    add_file(&mut writer, "gone/a", 0o644, b"a")?;
    add_file(&mut writer, "tree/deep/leaf", 0o644, &vec![b'x'; 300_000])?;
    writer.add(&path("etc/symlink"), &metadata(0o777), NewNode::Symlink(b"kept"))?;
    writer.finish()?;
    let mut writer = LayerWriter::new(&above)?;
    add_dir(&mut writer, "etc")?;
    add_file(&mut writer, "etc/changed", 0o644, b"new")?;
    writer.whiteout(&path("etc/removed"))?;
    add_dir(&mut writer, "gone")?;
    writer.opaque(&path("gone"))?;
    add_file(&mut writer, "gone/b", 0o644, b"b")?;
    writer.finish()?;
    Ok(vec![
        Arc::new(Layer::open(&below)?),
        Arc::new(Layer::open(&above)?),
    ])
}

/// A mount of the two layers, and the directories it needs.
struct Scene {
    base: tempfile::TempDir,
    overlay: Arc<Overlay>,
    mounted: Mounted,
}

impl Scene {
    fn new(writable: bool) -> Fallible<Self> {
        let base = tempfile::tempdir()?;
        let layers = layers(base.path())?;
        for directory in ["upper", "mnt"] {
            fs::create_dir(base.path().join(directory))?;
        }
        let overlay = Arc::new(match writable {
            false => Overlay::read_only(layers),
            true => Overlay::writable(
                layers,
                Upper::scratch(&base.path().join("upper")),
                Options::default(),
            )?,
        });
        let mounted = mount::kernel(overlay.clone(), &base.path().join("mnt"), &options(writable))?;
        Ok(Self {
            base,
            overlay,
            mounted,
        })
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.path().join("mnt").join(name)
    }

    /// Unmounts, packs what was changed into a layer, and mounts the stack with that layer, read-only.
    fn committed(self) -> Fallible<Self> {
        let Self {
            base,
            overlay,
            mounted,
        } = self;
        mounted.unmount()?;
        let packed = base.path().join("packed");
        fs::create_dir(&packed)?;
        let mut writer = LayerWriter::new(&packed)?;
        snapshot::pack(&overlay, &mut writer)?;
        writer.finish()?;
        let mut stack = Vec::new();
        for directory in ["below", "above", "packed"] {
            stack.push(Arc::new(Layer::open(&base.path().join(directory))?));
        }
        let overlay = Arc::new(Overlay::read_only(stack));
        let mounted = mount::kernel(overlay.clone(), &base.path().join("mnt"), &options(false))?;
        Ok(Self {
            base,
            overlay,
            mounted,
        })
    }
}

/// Every path below `directory` with its type, mode, owner, size, link count and content or target.
fn tree(directory: &Path) -> io::Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut todo = vec![directory.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let (path, about) = (entry.path(), entry.metadata()?);
            let content = match () {
                () if about.is_dir() => {
                    todo.push(path.clone());
                    String::new()
                }
                () if about.is_symlink() => fs::read_link(&path)?.display().to_string(),
                () => format!("{} {}", about.nlink(), Digest::of(&fs::read(&path)?)),
            };
            let owner = (about.uid(), about.gid());
            let line = format!("{:o} {owner:?} {} {content}", about.mode(), about.mtime());
            found.insert(path.strip_prefix(directory).unwrap_or(&path).to_owned(), line);
        }
    }
    Ok(found)
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[test]
fn the_layers_are_seen_as_one_tree() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(false)?;
    assert_eq!(names(&scene.at(""))?, ["bin", "etc", "gone", "tree"]);
    assert_eq!(names(&scene.at("etc"))?, ["changed", "kept", "link", "symlink"]);
    assert_eq!(names(&scene.at("gone"))?, ["b"]);
    assert_eq!(fs::read(scene.at("etc/changed"))?, b"new");
    assert!(fs::read(scene.at("tree/deep/leaf"))? == vec![b'x'; 300_000]);
    assert_eq!(fs::read_link(scene.at("etc/symlink"))?, Path::new("kept"));
    let (kept, link) = (
        fs::metadata(scene.at("etc/kept"))?,
        fs::metadata(scene.at("etc/link"))?,
    );
    assert_eq!((kept.ino(), kept.nlink()), (link.ino(), 2));
    assert_eq!(kept.mode(), libc::S_IFREG | 0o600);
    assert_eq!(kept.mtime(), 1_000_000_000);
    for absent in ["etc/removed", "gone/a", "nothing"] {
        // The second time the kernel answers from what it keeps.
        for _ in 0..2 {
            let error = fs::metadata(scene.at(absent)).err().map(|e| e.kind());
            assert_eq!(error, Some(io::ErrorKind::NotFound), "{absent}");
        }
    }
    let refused = fs::write(scene.at("etc/changed"), "x")
        .err()
        .and_then(|e| e.raw_os_error());
    assert_eq!(refused, Some(libc::EROFS));
    Ok(scene.mounted.unmount()?)
}

#[test]
fn programs_of_the_image_run() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(false)?;
    let output = Command::new(scene.at("bin/tool")).output()?;
    assert_eq!(output.stdout, b"tool\n");
    Ok(scene.mounted.unmount()?)
}

#[test]
fn what_is_written_is_in_the_next_layer() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    fs::write(scene.at("new"), "hello")?;
    fs::create_dir_all(scene.at("a/b/c"))?;
    symlink("../new", scene.at("a/symlink"))?;
    fs::hard_link(scene.at("new"), scene.at("a/hard"))?;
    fs::rename(scene.at("tree"), scene.at("a/b/tree"))?;
    fs::remove_file(scene.at("etc/changed"))?;
    fs::remove_dir_all(scene.at("gone"))?;
    // A hard link of a lower layer survives copy-up: both names see the change.
    OpenOptions::new()
        .append(true)
        .open(scene.at("etc/link"))?
        .write_all(b"+")?;
    assert_eq!(fs::read(scene.at("etc/kept"))?, b"kept+");
    fs::set_permissions(scene.at("bin/tool"), fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(scene.at("etc/kept"), Some(1000), Some(1001))?;
    let before = tree(&scene.at(""))?;
    let scene = scene.committed()?;
    let after = tree(&scene.at(""))?;
    assert_eq!(before, after);
    assert!(before.contains_key(Path::new("a/b/tree/deep/leaf")));
    assert!(!before.contains_key(Path::new("etc/changed")));
    Ok(scene.mounted.unmount()?)
}

#[test]
fn writes_in_place_reach_what_others_have_open() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let leaf = scene.at("tree/deep/leaf");
    let mut reader = File::open(&leaf)?;
    let mut start = [0; 4];
    reader.read_exact(&mut start)?;
    let writer = OpenOptions::new().write(true).open(&leaf)?;
    writer.write_all_at(b"ABCD", 0)?;
    writer.write_all_at(b"EFGH", 200_000)?;
    reader.seek(SeekFrom::Start(0))?;
    reader.read_exact(&mut start)?;
    assert_eq!(&start, b"ABCD");
    writer.sync_all()?;
    let mut expected = vec![b'x'; 300_000];
    expected[..4].copy_from_slice(b"ABCD");
    expected[200_000..200_004].copy_from_slice(b"EFGH");
    assert!(fs::read(&leaf)? == expected);
    drop((reader, writer));
    let scene = scene.committed()?;
    assert!(fs::read(scene.at("tree/deep/leaf"))? == expected);
    Ok(scene.mounted.unmount()?)
}

#[test]
fn truncation_and_append_agree_with_the_kernels_cache() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let leaf = scene.at("tree/deep/leaf");
    fs::write(&leaf, "short")?;
    assert_eq!(fs::metadata(&leaf)?.len(), 5);
    let mut appender = OpenOptions::new().append(true).open(&leaf)?;
    appender.write_all(b" and longer")?;
    assert_eq!(fs::metadata(&leaf)?.len(), 16);
    appender.set_len(20)?;
    appender.write_all(b"!")?;
    drop(appender);
    assert_eq!(fs::read(&leaf)?, b"short and longer\0\0\0\0!");
    let scene = scene.committed()?;
    assert_eq!(
        fs::read(scene.at("tree/deep/leaf"))?,
        b"short and longer\0\0\0\0!"
    );
    Ok(scene.mounted.unmount()?)
}

#[test]
fn an_unlinked_file_lives_while_it_is_open() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    for name in ["etc/kept", "fresh"] {
        let path = scene.at(name);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        file.write_all(b"still here")?;
        fs::remove_file(&path)?;
        assert!(!path.exists());
        file.seek(SeekFrom::Start(0))?;
        let mut content = String::new();
        file.read_to_string(&mut content)?;
        assert_eq!(content, "still here");
    }
    // The other name of the first one still leads to it.
    assert_eq!(fs::read(scene.at("etc/link"))?, b"still here");
    assert_eq!(fs::metadata(scene.at("etc/link"))?.nlink(), 1);
    Ok(scene.mounted.unmount()?)
}

#[test]
fn holes_are_found_also_in_what_the_kernel_still_holds() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(scene.at("sparse"))?;
    file.write_all_at(b"data", 1 << 20)?;
    // Not written back yet: a copy that trusts a wrong answer here loses data.
    let found = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData)?;
    assert!(found <= 1 << 20, "{found}");
    file.sync_all()?;
    let found = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData)?;
    assert!(found <= 1 << 20, "{found}");
    let hole = nix::unistd::lseek(&file, 1 << 20, nix::unistd::Whence::SeekHole)?;
    assert_eq!(hole, (1 << 20) + 4);
    drop(file);
    Ok(scene.mounted.unmount()?)
}

#[test]
fn set_id_bits_go_when_the_owner_changes() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let tool = scene.at("bin/tool");
    assert_eq!(fs::metadata(&tool)?.mode() & 0o7777, 0o4755);
    std::os::unix::fs::chown(&tool, Some(7), None)?;
    assert_eq!(fs::metadata(&tool)?.mode() & 0o7777, 0o755);
    Ok(scene.mounted.unmount()?)
}

#[test]
fn files_are_created_with_mode_and_umask_and_may_be_read_only() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let path = scene.at("locked");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o444)
        .open(&path)?;
    file.write_all(b"written through the first descriptor")?;
    drop(file);
    assert_eq!(fs::metadata(&path)?.mode() & 0o222, 0);
    assert_eq!(fs::read(&path)?.len(), 36);
    let again = OpenOptions::new().write(true).create_new(true).open(&path);
    assert_eq!(again.err().map(|e| e.kind()), Some(io::ErrorKind::AlreadyExists));
    Ok(scene.mounted.unmount()?)
}

#[test]
fn times_are_kept_to_the_nanosecond_also_before_the_epoch() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let path = scene.at("etc/kept");
    for (seconds, nanoseconds) in [(-2, 250_000_000), (0, 1), (1_700_000_000, 999_999_999)] {
        let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            &path,
            &time,
            &time,
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )?;
        let about = fs::metadata(&path)?;
        assert_eq!((about.mtime(), about.mtime_nsec()), (seconds, nanoseconds));
        assert_eq!((about.atime(), about.atime_nsec()), (seconds, nanoseconds));
    }
    Ok(scene.mounted.unmount()?)
}

#[test]
fn a_directory_may_be_emptied_while_it_is_listed() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let many = scene.at("many");
    fs::create_dir(&many)?;
    for number in 0..3000 {
        File::create(many.join(format!("file-with-a-long-name-{number:05}")))?;
    }
    let mut seen = 0;
    for entry in fs::read_dir(&many)? {
        fs::remove_file(entry?.path())?;
        seen += 1;
    }
    assert_eq!(seen, 3000);
    fs::remove_dir(&many)?;
    Ok(scene.mounted.unmount()?)
}

#[test]
fn extended_attributes_come_back() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let path = scene.at("etc/kept");
    let run = |args: &[&str]| Command::new("setfattr").args(args).arg(&path).status();
    match run(&["-n", "user.colour", "-v", "blue"]) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!("skipped: setfattr is not installed");
            return Ok(scene.mounted.unmount()?);
        }
        status => assert!(status?.success()),
    }
    let output = Command::new("getfattr")
        .args(["--only-values", "-n", "user.colour"])
        .arg(&path)
        .output()?;
    assert_eq!(output.stdout, b"blue");
    Ok(scene.mounted.unmount()?)
}

#[test]
fn what_the_protocol_library_lacks_is_refused() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let unnamed = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(scene.at("etc"));
    assert_eq!(unnamed.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    assert!(
        fs::metadata(scene.at("etc/kept"))?.created().is_err(),
        "statx(2) has no birth time"
    );
    Ok(scene.mounted.unmount()?)
}

#[test]
fn a_mount_in_use_is_not_unmounted() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(false)?;
    let open = File::open(scene.at("etc/kept"))?;
    let place = scene.mounted.place().clone();
    assert!(matches!(place.unmount(), Err(MountError::Busy { .. })));
    assert!(place.is_mounted());
    let again = mount::kernel(scene.overlay.clone(), place.directory(), &options(false));
    assert!(matches!(again, Err(MountError::AlreadyMounted { .. })));
    drop(open);
    scene.mounted.unmount()?;
    assert!(!place.is_mounted());
    // A second time there is nothing to do.
    Ok(place.unmount()?)
}

#[test]
fn dropping_the_guard_unmounts_even_what_is_in_use() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(false)?;
    let mut open = File::open(scene.at("tree/deep/leaf"))?;
    let place = scene.mounted.place().clone();
    drop(scene.mounted);
    assert!(!place.is_mounted());
    // Detached, not dead: who has it open reads on.
    let mut content = Vec::new();
    open.read_to_end(&mut content)?;
    assert_eq!(content.len(), 300_000);
    Ok(())
}

#[test]
fn bad_mount_points_are_named() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let base = tempfile::tempdir()?;
    let overlay = Arc::new(Overlay::read_only(layers(base.path())?));
    let file = base.path().join("file");
    fs::write(&file, "")?;
    let mount_on = |directory: &Path| mount::kernel(overlay.clone(), directory, &options(false)).err();
    assert!(matches!(
        mount_on(&base.path().join("missing")),
        Some(MountError::MountPoint { .. })
    ));
    assert!(matches!(mount_on(&file), Some(MountError::NotADirectory { .. })));
    assert!(matches!(
        mount_on(Path::new("/proc")),
        Some(MountError::AlreadyMounted { .. })
    ));
    Ok(())
}

#[test]
fn device_nodes_are_shown_with_their_numbers() -> Outcome {
    if !can_mount() {
        return Ok(());
    }
    let scene = Scene::new(true)?;
    let path = scene.at("device");
    let number = nix::sys::stat::makedev(259, 300);
    nix::sys::stat::mknod(
        &path,
        nix::sys::stat::SFlag::S_IFBLK,
        nix::sys::stat::Mode::S_IRUSR,
        number,
    )?;
    assert_eq!(fs::metadata(&path)?.rdev(), number);
    let fifo = scene.at("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let scene = scene.committed()?;
    assert_eq!(fs::metadata(scene.at("device"))?.rdev(), number);
    assert_eq!(
        fs::metadata(scene.at("fifo"))?.mode() & libc::S_IFMT,
        libc::S_IFIFO
    );
    Ok(scene.mounted.unmount()?)
}
