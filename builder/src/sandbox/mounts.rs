//! The mounts of a step: what the command finds at /proc, /dev and /sys, and the change of root.
//!
//! Runs in the step's init, in its own mount namespace and still fully privileged there. The tables
//! are Docker's (moby `oci/defaults.go`, `daemon/pkg/oci/namespaces.go`).

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{Gid, Uid, chdir, fchdir, fchown, pivot_root, symlinkat};

use super::error::{Failure, Step};
use super::terminal::Size;
use super::tree::{Tree, attribute};
use super::{Access, Capabilities, DeviceFile, Mount, MountKind, Spec, sys};

/// Below /proc: hidden, since they tell about or touch the machine as a whole.
const MASKED_PROC: &[&str] = &[
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// Below /sys: hidden likewise.
const MASKED_SYS: &[&str] = &["devices/virtual/powercap", "firmware"];

/// Below /sys: one for each mount of FUSE, also of other steps. They come and go while a step looks, so that `find /` would
/// fail by chance.
const FLEETING_SYS: &[&str] = &["class/bdi", "devices/virtual/bdi"];

/// Below /proc: the machine's root may enter them, which root of a user namespace is not. Hidden where
/// they cannot be read, so that `find /` does not fail on them.
const CLOSED_PROC: &[&str] = &["tty/driver"];

/// Below /sys: likewise. Only what is usually there; where one is missing, nothing happens.
const CLOSED_SYS: &[&str] = &[
    "fs/bpf",
    "fs/pstore",
    "fs/selinux",
    "kernel/config",
    "kernel/debug",
    "kernel/security",
    "kernel/tracing",
];

/// Below /proc: not to be written.
const READ_ONLY_PROC: &[&str] = &["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Device nodes taken from the machine: in a user namespace none can be made.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// Symbolic links in /dev.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("/proc/kcore", "core"),
    ("pts/ptmx", "ptmx"),
];

/// Docker's size of /dev/shm and of /dev itself.
const SMALL: &str = "65536k";

const GUARDED: u64 = attribute::NO_SUID | attribute::NO_DEV | attribute::NO_EXEC;

/// The two ends of the command's terminal.
#[derive(Debug)]
pub(super) struct Pty {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Makes the world of `spec` and enters it: on return the root is the image's, and so is the working
/// directory. What is optional and cannot be had is told to `warn`.
///
/// The file mode creation mask must be 0.
pub(super) fn set_up(
    spec: &Spec,
    (terminal, virtual_ids): (Option<Size>, bool),
    warn: &mut dyn FnMut(String),
) -> Result<Option<Pty>, Failure> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|errno| Failure::new(Step::Root, "", errno))?;
    let world = World {
        root: root(&spec.rootfs)?,
        open: spec.capabilities == Capabilities::All,
        virtual_ids,
    };

    world.proc(warn)?;
    let pty = world.dev(spec, terminal, warn)?;
    world.sys(warn)?;
    let mut in_memory = Vec::new();
    for extra in &spec.mounts {
        let tree = world.extra(extra, &in_memory)?;
        if let MountKind::Tmpfs { access, .. } = extra.kind {
            in_memory.push((extra.target.as_path(), tree, access));
        }
    }
    // Only now: mount points were made in them.
    for (target, tree, access) in in_memory {
        if access == Access::ReadOnly {
            let set = tree.set_alone(attribute::READ_ONLY);
            set.map_err(|errno| mount_failed(target, errno))?;
        }
    }
    world.pivot()?;
    Ok(pty)
}

/// The root filesystem as a mount of its own, which `pivot_root(2)` demands.
fn root(rootfs: &Path) -> Result<Tree, Failure> {
    let failed = |errno| Failure::new(Step::Root, rootfs.display().to_string(), errno);
    let tree = Tree::copy_of(rootfs).map_err(failed)?;
    let place = open(
        rootfs,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(failed)?;
    tree.attach(place.as_fd()).map_err(failed)?;
    Ok(tree)
}

struct World {
    root: Tree,
    /// Nothing is masked or read-only.
    open: bool,
    /// The kernel has a single id.
    virtual_ids: bool,
}

impl World {
    /// Attaches `tree` at `target` of the image.
    fn attach(&self, tree: &Tree, target: &Path) -> Result<(), Failure> {
        let place = self
            .root
            .place(target)
            .and_then(|place| tree.attach(place.as_fd()));
        place.map_err(|errno| {
            let failure = mount_failed(target, errno);
            match errno {
                Errno::ENOENT => failure.hint("the mount point does not exist in the image"),
                Errno::ENOTDIR => failure.hint("one is a directory, the other is not"),
                _ => failure,
            }
        })
    }

    fn proc(&self, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        let target = Path::new("/proc");
        let proc = match Tree::new("proc", &[], GUARDED) {
            Ok(tree) => tree,
            // The kernel shows no new proc to a user namespace while the ones it sees are partly
            // masked, as in a Docker container (mount_too_revealing).
            Err(Errno::EPERM) => {
                warn("/proc of steps shows the processes outside: it is masked where mica runs (`mica doctor`)".into());
                Tree::copy_of(target).map_err(|errno| mount_failed(target, errno))?
            }
            Err(errno) => return Err(mount_failed(target, errno)),
        };
        self.attach(&proc, target)?;
        if self.open {
            return Ok(());
        }
        for name in READ_ONLY_PROC {
            make_read_only(&proc, name).map_err(|errno| mask_failed("/proc", name, errno))?;
        }
        for name in MASKED_PROC {
            mask(&proc, name).map_err(|errno| mask_failed("/proc", name, errno))?;
        }
        for name in CLOSED_PROC {
            mask_if_closed(&proc, name).map_err(|errno| mask_failed("/proc", name, errno))?;
        }
        Ok(())
    }

    fn dev(
        &self,
        spec: &Spec,
        terminal: Option<Size>,
        warn: &mut dyn FnMut(String),
    ) -> Result<Option<Pty>, Failure> {
        let failed = |path: &str, errno| mount_failed(Path::new(path), errno);
        let options = [("mode", Some("755")), ("size", Some(SMALL))];
        let dev = Tree::new("tmpfs", &options, attribute::NO_SUID).map_err(|errno| failed("/dev", errno))?;
        populate(&dev, terminal.is_some()).map_err(|errno| failed("/dev", errno))?;
        for file in &spec.device_files {
            write_file(&dev, file).map_err(|errno| failed(&format!("/dev/{}", file.name), errno))?;
        }
        self.attach(&dev, Path::new("/dev"))?;

        for name in DEVICES {
            let path = Path::new("/dev").join(name);
            let bound = Tree::copy_of(&path).and_then(|node| attach_in(&dev, &node, name));
            match bound {
                Ok(()) => {}
                Err(Errno::ENOENT) if *name != "null" => {
                    warn(format!("/dev/{name} is missing where mica runs"));
                }
                Err(errno) => return Err(mount_failed(&path, errno)),
            }
        }
        let pts = pseudo_terminals().map_err(|errno| failed("/dev/pts", errno))?;
        attach_in(&dev, &pts, "pts").map_err(|errno| failed("/dev/pts", errno))?;
        let shm_size = spec.limits.shm_size.map(|size| size.to_string());
        let shm_size = shm_size.as_deref().unwrap_or(SMALL);
        let options = [("mode", Some("1777")), ("size", Some(shm_size))];
        Tree::new("tmpfs", &options, GUARDED)
            .and_then(|shm| attach_in(&dev, &shm, "shm"))
            .map_err(|errno| failed("/dev/shm", errno))?;
        let queues = Tree::new("mqueue", &[], GUARDED);
        if let Err(errno) = queues.and_then(|queues| attach_in(&dev, &queues, "mqueue")) {
            warn(format!("no /dev/mqueue: {}", errno.desc()));
        }
        terminal
            .map(|size| open_terminal(&dev, &pts, size))
            .transpose()
            .map_err(|errno| Failure::new(Step::Terminal, "", errno))
    }

    /// A new sysfs is granted to who owns the network namespace; else the one outside is shown, and
    /// if that cannot be either, none.
    fn sys(&self, warn: &mut dyn FnMut(String)) -> Result<(), Failure> {
        let target = Path::new("/sys");
        let read_only = if self.open { 0 } else { attribute::READ_ONLY };
        let sys = match Tree::new("sysfs", &[], GUARDED | read_only) {
            Ok(sys) => {
                self.attach(&sys, target)?;
                show_cgroups(&sys, read_only);
                sys
            }
            Err(_) => {
                let outside = Tree::copy_of(target).and_then(|tree| tree.set(read_only).map(|()| tree));
                match outside {
                    Ok(sys) => {
                        self.attach(&sys, target)?;
                        sys
                    }
                    Err(errno) => {
                        warn(format!("no /sys: {}", errno.desc()));
                        return Ok(());
                    }
                }
            }
        };
        if self.open {
            return Ok(());
        }
        for name in MASKED_SYS.iter().chain(FLEETING_SYS) {
            mask(&sys, name).map_err(|errno| mask_failed("/sys", name, errno))?;
        }
        for name in CLOSED_SYS {
            mask_if_closed(&sys, name).map_err(|errno| mask_failed("/sys", name, errno))?;
        }
        Ok(())
    }

    /// Makes one of the step's own mounts; `in_memory` are the tmpfs among those before it, with their targets.
    fn extra(&self, extra: &Mount, in_memory: &[(&Path, Tree, Access)]) -> Result<Tree, Failure> {
        let failed = |errno| mount_failed(&extra.target, errno);
        let tree = match &extra.kind {
            MountKind::Bind { source, part, access } => {
                let failed = |errno| failed(errno).hint(format!("from {}", source.join(part).display()));
                let whole = Tree::copy_of(source).map_err(failed)?;
                let tree = match part.as_os_str().is_empty() {
                    true => whole,
                    false => {
                        let place = whole.place(part).map_err(failed)?;
                        Tree::copy_at(place.as_fd()).map_err(failed)?
                    }
                };
                // Real root's steps may make device nodes: they must not reach the host's devices.
                let read_only = match access {
                    Access::ReadOnly => attribute::READ_ONLY,
                    Access::ReadWrite => 0,
                };
                tree.set(attribute::NO_DEV | read_only).map_err(failed)?;
                tree
            }
            MountKind::Tmpfs { size, mode, .. } => {
                let mode = format!("{mode:o}");
                let size = size.map(|size| size.to_string());
                let mut options = vec![("mode", Some(mode.as_str()))];
                options.extend(size.as_deref().map(|size| ("size", Some(size))));
                let attributes = attribute::NO_SUID | attribute::NO_DEV;
                Tree::new("tmpfs", &options, attributes).map_err(failed)?
            }
            MountKind::File {
                content,
                mode,
                uid,
                gid,
            } => {
                // Where the kernel has a single id, mica is told of the owner later.
                let owner = (!self.virtual_ids).then_some((*uid, *gid));
                file_in_memory(content.bytes(), *mode, owner).map_err(failed)?
            }
        };
        let below = in_memory
            .iter()
            .rev()
            .find_map(|(target, tree, _)| Some((tree, extra.target.strip_prefix(target).ok()?)));
        if let Some((parent, path)) = below {
            let is_file = matches!(extra.kind, MountKind::File { .. });
            make_mount_point(parent, path, is_file || is_file_at(&tree)).map_err(failed)?;
        }
        self.attach(&tree, &extra.target)?;
        Ok(tree)
    }

    /// Makes the image's root the root, and lets go of the old one.
    fn pivot(&self) -> Result<(), Failure> {
        let failed = |errno| {
            Failure::new(Step::Pivot, "", errno)
                .hint("mica can run no step from inside a chroot or an initial RAM disk")
        };
        // With "." for both, the old root is stacked upon the new one for a moment; pivot_root(2).
        fchdir(&self.root)
            .and_then(|()| pivot_root(".", "."))
            .and_then(|()| umount2(".", MntFlags::MNT_DETACH))
            .and_then(|()| chdir("/"))
            .map_err(failed)
    }
}

/// Fills the new /dev with mount points and links.
fn populate(dev: &Tree, console: bool) -> Result<(), Errno> {
    for name in ["pts", "shm", "mqueue"] {
        mkdirat(dev, name, Mode::from_bits_truncate(0o755))?;
    }
    let console = console.then_some("console");
    for name in DEVICES.iter().copied().chain(console) {
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        openat(dev, name, create, Mode::from_bits_truncate(0o666))?;
    }
    LINKS.iter().try_for_each(|(to, name)| symlinkat(*to, dev, *name))
}

fn write_file(dev: &Tree, file: &DeviceFile) -> Result<(), Errno> {
    match mkdirat(dev, file.directory.as_str(), Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let directory = dev.open(Path::new(&file.directory), OFlag::O_DIRECTORY)?;
    let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let to = openat(
        directory,
        file.name.as_str(),
        create,
        Mode::from_bits_truncate(0o755),
    )?;
    File::from(to)
        .write_all(file.content.as_bytes())
        .map_err(|e| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

/// Makes `path` and what is above it in a filesystem that only this sandbox has.
fn make_mount_point(parent: &Tree, path: &Path, is_file: bool) -> Result<(), Errno> {
    let existing = |result: Result<(), Errno>| match result {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    };
    let directory = if is_file { path.parent() } else { Some(path) };
    let mut at = PathBuf::new();
    for name in directory.into_iter().flat_map(Path::components) {
        at.push(name);
        existing(mkdirat(parent, &at, Mode::from_bits_truncate(0o755)))?;
    }
    if is_file {
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        existing(openat(parent, path, create, Mode::from_bits_truncate(0o644)).map(drop))?;
    }
    Ok(())
}

fn is_file_at(tree: &Tree) -> bool {
    let handle = tree.as_fd().try_clone_to_owned().map(File::from);
    handle
        .and_then(|file| file.metadata())
        .is_ok_and(|metadata| !metadata.is_dir())
}

/// A file in a memory of its own, which goes with the mount.
fn file_in_memory(content: &[u8], mode: u32, owner: Option<(u32, u32)>) -> Result<Tree, Errno> {
    let errno = |e: std::io::Error| e.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let attributes = attribute::NO_SUID | attribute::NO_DEV | attribute::NO_EXEC;
    let memory = Tree::new("tmpfs", &[("mode", Some("700"))], attributes)?;
    let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(&memory, "file", create, Mode::from_bits_truncate(0o600))?);
    file.write_all(content).map_err(errno)?;
    if let Some((uid, gid)) = owner {
        fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // After the owner, since a change of owner takes set-ID bits away.
    file.set_permissions(Permissions::from_mode(mode))
        .map_err(errno)?;
    Tree::copy_at(memory.place(Path::new("file"))?.as_fd())
}

fn attach_in(parent: &Tree, tree: &Tree, name: &str) -> Result<(), Errno> {
    tree.attach(parent.place(Path::new(name))?.as_fd())
}

fn pseudo_terminals() -> Result<Tree, Errno> {
    let options = |gid| {
        let common = [
            ("newinstance", None),
            ("ptmxmode", Some("0666")),
            ("mode", Some("0620")),
        ];
        common.into_iter().chain(gid).collect::<Vec<_>>()
    };
    let attributes = attribute::NO_SUID | attribute::NO_EXEC;
    // 5 is the group tty of every distribution; it may have no place in the id map.
    Tree::new("devpts", &options(Some(("gid", Some("5")))), attributes)
        .or_else(|_| Tree::new("devpts", &options(None), attributes))
}

fn open_terminal(dev: &Tree, pts: &Tree, size: Size) -> Result<Pty, Errno> {
    let master = pts.open(Path::new("ptmx"), OFlag::O_RDWR | OFlag::O_NOCTTY)?;
    let (slave, number) = sys::open_slave(master.as_fd())?;
    sys::set_window_size(master.as_fd(), size)?;
    let name = number.to_string();
    let console = Tree::copy_at(pts.place(Path::new(&name))?.as_fd())?;
    attach_in(dev, &console, "console")?;
    Ok(Pty { master, slave })
}

/// Programs read their limits in /sys/fs/cgroup; they do without it too.
fn show_cgroups(sys: &Tree, read_only: u64) {
    let unified = statfs("/sys/fs/cgroup").is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
    if unified {
        let _absent_is_fine = Tree::new("cgroup2", &[], GUARDED | read_only)
            .and_then(|cgroups| attach_in(sys, &cgroups, "fs/cgroup"));
    }
}

/// Hides what `name` shows, if it exists: an empty directory, or an empty file.
fn mask(parent: &Tree, name: &str) -> Result<(), Errno> {
    let place = match parent.place(Path::new(name)) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::EACCES) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let file = File::from(place);
    let is_dir = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    let cover = if is_dir {
        Tree::new("tmpfs", &[("size", Some("4k"))], GUARDED | attribute::READ_ONLY)?
    } else {
        Tree::copy_of(Path::new("/dev/null"))?
    };
    cover.attach(file.as_fd())
}

/// Hides the directory `name` if this process may not read it.
fn mask_if_closed(parent: &Tree, name: &str) -> Result<(), Errno> {
    match parent.open(Path::new(name), OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Err(Errno::EACCES) => mask(parent, name),
        _ => Ok(()),
    }
}

fn make_read_only(parent: &Tree, name: &str) -> Result<(), Errno> {
    let place = match parent.place(Path::new(name)) {
        Ok(place) => place,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let copy = Tree::copy_at(place.as_fd())?;
    copy.set(attribute::READ_ONLY)?;
    copy.attach(place.as_fd())
}

fn mount_failed(target: &Path, errno: Errno) -> Failure {
    let failure = Failure::new(Step::Mount, target.display().to_string(), errno);
    match errno {
        Errno::ENOSYS => failure.hint("the sandbox needs Linux 5.12 or newer"),
        _ => failure,
    }
}

fn mask_failed(parent: &str, name: &str, errno: Errno) -> Failure {
    Failure::new(Step::Mask, format!("{parent}/{name}"), errno)
}
