//! What the command sees of the world, and what the world sees of it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use mica_builder::sandbox::{Access, Mount, MountKind, Network, SandboxError, Spec, Stdin, Stdio, Step};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::identity::as_user;
use crate::world::{World, run, succeed};

pub fn what_a_command_finds(world: &World) {
    let mut spec = world.script("hostname; pwd; env; umask; ulimit -c; touch made; cat");
    spec.hostname = "somewhere".into();
    spec.cwd = "/app".into();
    spec.env = vec![("PATH".into(), "/bin".into()), ("ONE".into(), "a b=c".into())];
    let found = succeed(&spec);
    // busybox's shell sets SHLVL and PWD itself.
    let found: Vec<_> = found
        .lines()
        .filter(|line| !line.starts_with("SHLVL") && !line.starts_with("PWD"))
        .collect();
    assert_eq!(
        found,
        ["somewhere", "/app", "ONE=a b=c", "PATH=/bin", "0022", "0"]
    );
    let made = fs::metadata(world.rootfs().join("app/made")).unwrap();
    assert_eq!(made.mode() & 0o777, 0o644);
    assert_eq!(
        world.sh("ls /proc/self/fd | wc -l"),
        "4\n",
        "0, 1, 2 and the directory itself"
    );
    // Not through the shell, which ignores some signals itself.
    let signals = Spec::new(
        world.rootfs(),
        ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"],
    );
    assert_eq!(
        succeed(&signals),
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
    );
}

pub fn devices(world: &World) {
    let script = "echo x > /dev/null; [ ! -s /dev/null ] && \
                  for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
                  [ -c /dev/pts/ptmx ]; echo x > /dev/shm/x; [ -d /dev/mqueue ]; \
                  for l in fd stdin ptmx; do readlink /dev/$l; done; echo again > /dev/stdout; \
                  [ ! -e /dev/console ]";
    let expected = "/proc/self/fd\n/proc/self/fd/0\npts/ptmx\nagain\n";
    assert_eq!(world.sh(script), expected);
    assert_eq!(succeed(&as_user(world.script(script), 33, 33, &[])), expected);
}

pub fn proc_and_sys(world: &World) {
    assert_eq!(
        world.sh("[ -e /proc/interrupts ] && cat /proc/interrupts /proc/keys | wc -c"),
        "0\n"
    );
    for refused in ["echo x > /proc/sys/kernel/hostname", "touch /sys/x"] {
        let ran = run(&world.script(refused)).unwrap();
        assert!(
            !ran.exit.success() && ran.stderr.contains("ead-only"),
            "{refused}: {ran:?}"
        );
    }
    assert_eq!(
        world.sh("ls /sys/class/net | grep -c lo; ls /sys/firmware | wc -l"),
        "1\n0\n"
    );
    assert_eq!(
        world.sh("cat /proc/1/cgroup | grep -vc ':/$'; true"),
        "0\n",
        "a cgroup namespace"
    );
    assert!(world.rootfs().join("sys").read_dir().unwrap().next().is_none());
}

pub fn a_masked_proc(world: &World) {
    // The kernel lets no new proc show what the outer one hides: the outer one is used.
    let proc = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let refused = mount(Some("proc"), "/proc", Some("proc"), proc, None::<&str>);
    assert_eq!(refused, Err(Errno::EPERM), "the masks of this case are in force");
    assert_eq!(
        world.sh("echo still here; cat /proc/self/comm"),
        "still here\ncat\n"
    );
}

pub fn no_network(world: &World) {
    let mut spec = world.script("ls /sys/class/net; cat /sys/class/net/lo/flags");
    spec.network = Network::None;
    assert_eq!(succeed(&spec), "lo\n0x9\n", "IFF_UP and IFF_LOOPBACK");
}

pub fn extra_mounts(world: &World) {
    let source = world.outside("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "text").unwrap();
    let rootfs = world.rootfs();
    for target in ["read", "write", "memory"] {
        fs::create_dir(rootfs.join(target)).unwrap();
    }
    fs::write(rootfs.join("etc/secret"), "").unwrap();
    let bind = |source: &Path, access, target: &str| Mount {
        kind: MountKind::Bind {
            source: source.into(),
            part: PathBuf::new(),
            access,
        },
        target: target.into(),
    };
    let mut spec = world.script(
        "cat /read/file /etc/secret; touch /read/x 2>&- || echo ' refused'; echo new > /write/new; \
         stat -c %a /memory; grep ' /memory ' /proc/mounts | grep -o size=64k",
    );
    spec.mounts = vec![
        bind(&source, Access::ReadOnly, "/read"),
        bind(&source, Access::ReadWrite, "/write"),
        bind(&source.join("file"), Access::ReadOnly, "/etc/secret"),
        Mount {
            kind: MountKind::Tmpfs {
                size: Some(65536),
                mode: 0o1777,
                access: Access::ReadWrite,
            },
            target: "/memory".into(),
        },
    ];
    assert_eq!(succeed(&spec), "texttext refused\n1777\nsize=64k\n");
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "new\n");
}

pub fn mount_targets_stay_inside(world: &World) {
    let victim = world.outside("victim");
    fs::create_dir(&victim).unwrap();
    let rootfs = world.rootfs();
    fs::create_dir(rootfs.join("victim")).unwrap();
    symlink("../../../../../../victim", rootfs.join("relative")).unwrap();
    symlink("/victim", rootfs.join("absolute")).unwrap();
    symlink(&victim, rootfs.join("direct")).unwrap();
    let onto = |target: &str| {
        let mut spec = world.script("touch /victim/inside; ls /victim");
        spec.mounts = vec![Mount {
            kind: MountKind::Tmpfs {
                size: None,
                mode: 0o755,
                access: Access::ReadWrite,
            },
            target: target.into(),
        }];
        spec
    };
    for target in ["/relative", "/absolute", "/../../victim"] {
        assert_eq!(succeed(&onto(target)), "inside\n");
        assert!(
            !rootfs.join("victim/inside").exists(),
            "{target} is mounted over /victim"
        );
    }
    let error = run(&onto("/direct")).unwrap_err();
    assert!(matches!(&error, SandboxError::Setup(failure) if failure.errno == libc::ENOENT));
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 0);
}

pub fn a_part_of_a_bind_stays_inside(world: &World) {
    let source = world.outside("source");
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "text").unwrap();
    symlink("../../../../../../a", source.join("link")).unwrap();
    symlink(world.outside("victim"), source.join("out")).unwrap();
    fs::create_dir_all(world.outside("victim")).unwrap();
    fs::create_dir(world.rootfs().join("at")).unwrap();
    let of = |part: &str| {
        let mut spec = world.script("ls /at");
        spec.mounts = vec![Mount {
            kind: MountKind::Bind {
                source: source.clone(),
                part: part.into(),
                access: Access::ReadOnly,
            },
            target: "/at".into(),
        }];
        spec
    };
    assert_eq!(succeed(&of("a")), "b\n");
    assert_eq!(succeed(&of("link/b")), "file\n");
    for part in ["out", "none"] {
        let error = run(&of(part)).unwrap_err();
        assert!(matches!(&error, SandboxError::Setup(failure) if failure.errno == libc::ENOENT));
    }
}

pub fn mounts_are_hidden(world: &World) {
    let seen = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = seen();
    let mut running = world
        .script("echo ready; sleep 1000")
        .spawn(Stdio::Piped(Stdin::Null))
        .unwrap();
    let (out, _err) = running.take_output().unwrap();
    BufReader::new(out).read_line(&mut String::new()).unwrap();
    assert_eq!(seen(), before);
    running.kill().unwrap();
}

pub fn failures_of_the_set_up(world: &World) {
    let failure = |change: &dyn Fn(&mut Spec)| {
        let mut spec = world.script("true");
        change(&mut spec);
        match run(&spec).unwrap_err() {
            SandboxError::Setup(failure) => failure,
            other => panic!("{other:?}"),
        }
    };
    let cwd = failure(&|spec| spec.cwd = "/missing".into());
    assert_eq!((cwd.step, cwd.errno), (Step::WorkingDirectory, libc::ENOENT));
    assert_eq!(
        cwd.to_string(),
        "enter the working directory /missing: No such file or directory"
    );
    let root = failure(&|spec| spec.rootfs = "/missing".into());
    assert_eq!((root.step, root.errno), (Step::Root, libc::ENOENT));
    let hostname = failure(&|spec| spec.hostname = "x".repeat(65));
    assert_eq!((hostname.step, hostname.errno), (Step::Hostname, libc::EINVAL));
    let missing = failure(&|spec| {
        let kind = MountKind::Tmpfs {
            size: None,
            mode: 0o755,
            access: Access::ReadWrite,
        };
        spec.mounts = vec![Mount {
            kind,
            target: "/missing".into(),
        }];
    });
    assert_eq!(
        (missing.step, missing.subject.as_str()),
        (Step::Mount, "/missing")
    );
    assert!(missing.hint.unwrap().contains("does not exist in the image"));

    fs::remove_dir(world.rootfs().join("dev")).unwrap();
    let dev = failure(&|_| {});
    assert_eq!((dev.step, dev.subject.as_str()), (Step::Mount, "/dev"));
}
