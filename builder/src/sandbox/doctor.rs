//! What this machine offers to a sandbox, and the command that adds what it lacks.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::utsname::uname;
use nix::unistd::getuid;

use super::capabilities::has_sys_admin;
use super::cgroup::{Cpu, Resources, check_groups};
use super::maps::Maps;
use super::subid::{self, Kind, Owner};
use super::sys::{self, Inside, Probe};

/// One finding about the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at: "user namespaces", "newuidmap".
    pub name: &'static str,
    /// Whether it serves.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// The one command that mends it, when it does not serve and there is one.
    pub remedy: Option<String>,
}

impl Check {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self {
            name,
            ok: true,
            detail: detail.into(),
            remedy: None,
        }
    }

    fn bad(name: &'static str, detail: impl Into<String>, remedy: Option<String>) -> Self {
        Self {
            name,
            ok: false,
            detail: detail.into(),
            remedy,
        }
    }
}

/// A way of working with mica, and what it needs on this machine for the user who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The commands: "build and run".
    pub name: &'static str,
    /// What it needs, in the order in which it is needed.
    pub checks: Vec<Check>,
    /// Whether one can well do without it: the options that it is for.
    pub options: Option<&'static str>,
}

impl Way {
    /// Whether nothing is missing.
    pub fn is_open(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

/// Looks at what each way of working needs. Changes nothing. Real root needs neither a user namespace nor
/// subordinate ids, and mounts without a helper.
pub fn ways() -> Vec<Way> {
    let is_root = getuid().is_root() && has_sys_admin();
    let mut run = vec![kernel(), privileges()];
    let mut mount = vec![fuse_device()];
    let mut subordinate = None;
    if !is_root {
        run.push(user_namespaces());
        run.extend(sysctls());
        subordinate = Some(ids());
        mount.push(fusermount());
    }
    run.push(fuse_device());
    let way = |name, checks| Way {
        name,
        checks,
        options: None,
    };
    let optional = |name, options, checks| Way {
        name,
        checks,
        options: Some(options),
    };
    let subordinate = subordinate.map(|checks| {
        [
            optional("ids by the kernel", "--userns=subuid", checks),
            optional("ids by mica", "--userns=single", vec![listener()]),
        ]
    });
    let mut ways = vec![way("build, run, mount IMAGE -- COMMAND", run)];
    ways.extend(subordinate.into_iter().flatten());
    let host_name = inside("host name", Inside::HostName, !is_root);
    ways.extend([
        way("mount IMAGE DIR", mount),
        optional(
            "a world of the step's own",
            "isolation from the container around",
            vec![inside("/proc", Inside::Proc, !is_root), host_name],
        ),
        optional(
            "a network apart from this machine",
            "--network=pasta",
            vec![pasta(), tun_device()],
        ),
        optional("limits", "--memory, --cpus, --pids-limit", vec![control_groups()]),
    ]);
    ways
}

/// What mica runs in, as far as a remedy depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Surroundings {
    Machine,
    Container,
    Pod,
}

impl Surroundings {
    fn here() -> Self {
        // As containers' runtimes and Kubernetes leave their marks.
        let container = ["/.dockerenv", "/run/.containerenv"].map(Path::new);
        match env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
            true => Self::Pod,
            false if container.iter().any(|mark| mark.exists()) => Self::Container,
            false => Self::Machine,
        }
    }

    /// The remedy for here.
    fn choose(self, machine: &str, container: &str, pod: &str) -> String {
        match self {
            Self::Machine => machine,
            Self::Container => container,
            Self::Pod => pod,
        }
        .to_owned()
    }
}

/// What a step goes without where it is forbidden.
fn inside(name: &'static str, what: Inside, user_namespace: bool) -> Check {
    let errno = match sys::probe_inside(what, user_namespace) {
        Ok(()) => return Check::good(name, "can be made"),
        Err(errno) => errno,
    };
    let (detail, remedy) = match what {
        Inside::Proc => (
            "the one here is masked, so steps see the processes around, under their numbers there",
            Surroundings::here().choose(
                "unmount what lies over parts of /proc",
                "podman run --security-opt unmask=ALL, docker run --security-opt systempaths=unconfined",
                "in the pod: hostUsers: false, securityContext: {procMount: Unmasked}",
            ),
        ),
        Inside::HostName => (
            "steps see the one around",
            Surroundings::here().choose(
                "allow sethostname(2) in the seccomp profile around",
                "podman run --security-opt seccomp=unconfined",
                "in the pod: securityContext: {seccompProfile: {type: Unconfined}}",
            ),
        ),
    };
    Check::bad(name, format!("{}: {detail}", errno.desc()), Some(remedy))
}

fn pasta() -> Check {
    let name = "pasta";
    match find_program(name) {
        Some(path) => Check::good(name, path.display().to_string()),
        None => Check::bad(name, "not installed", Some("apt-get install passt".into())),
    }
}

fn tun_device() -> Check {
    let (name, path) = ("/dev/net/tun", "/dev/net/tun");
    // Opening it makes no interface yet.
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Check::good(name, "can be opened"),
        Err(error) => {
            let machine = match error.kind() {
                io::ErrorKind::PermissionDenied => "chmod 666 /dev/net/tun",
                _ => "modprobe tun",
            };
            let remedy = Surroundings::here().choose(
                machine,
                "podman run --device /dev/net/tun",
                "in the pod: a volume with hostPath: {path: /dev/net/tun, type: CharDevice}",
            );
            Check::bad(name, error.to_string(), Some(remedy))
        }
    }
}

fn control_groups() -> Check {
    let name = "control groups";
    let some = Resources {
        memory: Some(1 << 30),
        cpu: Some(Cpu {
            quota: 100_000,
            period: 100_000,
        }),
        pids: Some(1000),
    };
    match check_groups(None, &some) {
        Ok(()) => Check::good(name, "can be made"),
        Err(error) => {
            let remedy = Surroundings::here().choose(
                "systemd-run --user --scope -p Delegate=yes mica ...",
                "podman run --cgroupns=private, with /sys/fs/cgroup writable",
                "in the pod: resources: {limits: ...} limit all of mica",
            );
            Check::bad(name, error.to_string(), Some(remedy))
        }
    }
}

/// The first kernel with `mount_setattr(2)`, the youngest call that the sandbox cannot do without.
const OLDEST_KERNEL: (u32, u32) = (5, 12);

fn kernel() -> Check {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_default();
    let (major, minor) = OLDEST_KERNEL;
    match parse_release(&release) {
        Some(version) if version < OLDEST_KERNEL => Check::bad(
            "kernel",
            format!("Linux {release} is older than {major}.{minor}"),
            None,
        ),
        _ => Check::good("kernel", format!("Linux {release}")),
    }
}

/// Major and minor number of a release such as `6.1.0-18-amd64`.
fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn privileges() -> Check {
    let name = "privileges";
    match (getuid().is_root(), has_sys_admin()) {
        (true, true) => Check::good(name, "root with CAP_SYS_ADMIN: no user namespace is needed"),
        (true, false) => Check::good(name, "root without CAP_SYS_ADMIN: a user namespace is made"),
        _ => Check::good(name, format!("user {}: a user namespace is made", getuid())),
    }
}

fn user_namespaces() -> Check {
    let name = "user namespaces";
    match sys::probe_user_namespace() {
        Ok(Probe::Works) => Check::good(name, "can be made"),
        Ok(Probe::NoUserNamespace(errno)) | Err(errno) => {
            Check::bad(name, errno.desc(), user_namespace_remedy(errno))
        }
        Ok(Probe::NoCapabilities(errno)) => Check::bad(
            name,
            format!("can be made, but are given no privileges: {}", errno.desc()),
            Some(format!("sysctl -w {APPARMOR}=0")),
        ),
    }
}

const APPARMOR: &str = "kernel.apparmor_restrict_unprivileged_userns";
const CLONE: &str = "kernel.unprivileged_userns_clone";
const MAXIMUM: &str = "user.max_user_namespaces";

/// What most likely made `unshare(CLONE_NEWUSER)` answer `errno`, as the command that mends it.
pub(super) fn user_namespace_remedy(errno: Errno) -> Option<String> {
    if sysctl(CLONE) == Some(0) {
        return Some(format!("sysctl -w {CLONE}=1"));
    }
    if sysctl(MAXIMUM) == Some(0) || errno == Errno::ENOSPC {
        return Some(format!("sysctl -w {MAXIMUM}=15000"));
    }
    (errno == Errno::EPERM).then(|| {
        Surroundings::here().choose(
            "allow unshare(2) in the seccomp profile around, or leave the chroot",
            "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined",
            "in the pod: securityContext: {seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}}",
        )
    })
}

fn sysctl(name: &str) -> Option<i64> {
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The settings that can forbid user namespaces; those that this kernel has.
fn sysctls() -> Vec<Check> {
    let check = |name, good: fn(i64) -> bool, mend: i64| {
        let value = sysctl(name)?;
        let detail = value.to_string();
        Some(if good(value) {
            Check::good(name, detail)
        } else {
            Check::bad(name, detail, Some(format!("sysctl -w {name}={mend}")))
        })
    };
    let all = [
        check(MAXIMUM, |value| value > 0, 15000),
        check(CLONE, |value| value != 0, 1),
        check(APPARMOR, |value| value == 0, 0),
    ];
    all.into_iter().flatten().collect()
}

/// Whether mica can answer system calls of a step.
fn listener() -> Check {
    let name = "seccomp listener";
    match sys::probe_listener() {
        Ok(()) => Check::good(name, "can be had"),
        Err(errno) => Check::bad(name, errno.desc(), listener_remedy(errno)),
    }
}

/// What most likely made seccomp(2) refuse a listener, as what mends it.
pub(super) fn listener_remedy(errno: Errno) -> Option<String> {
    (errno == Errno::EBUSY || errno == Errno::EPERM || errno == Errno::EACCES).then(|| {
        Surroundings::here().choose(
            "leave the sandbox around, which answers system calls itself: the kernel allows one to do so",
            "podman run --security-opt seccomp=unconfined, and not within a step of mica's",
            "in the pod: securityContext: {seccompProfile: {type: Unconfined}}",
        )
    })
}

/// What gives a user other ids than its own.
fn ids() -> Vec<Check> {
    match Maps::counts_of_container(getuid()) {
        Some((users, groups)) => {
            let detail = format!("{users} users and {groups} groups, those that root has here");
            vec![Check::good("ids", detail)]
        }
        None => vec![
            helper("newuidmap"),
            helper("newgidmap"),
            subordinate_ids("subordinate users", Kind::Users),
            subordinate_ids("subordinate groups", Kind::Groups),
        ],
    }
}

/// newuidmap or newgidmap: present, and allowed to write id maps.
fn helper(name: &'static str) -> Check {
    let Some(path) = find_program(name) else {
        return Check::bad(name, "not installed", Some("apt-get install uidmap".into()));
    };
    let place = path.display();
    let setuid = fs::metadata(&path)
        .is_ok_and(|metadata| metadata.uid() == 0 && metadata.permissions().mode() & 0o4000 != 0);
    if setuid {
        Check::good(name, format!("{place}, set-user-ID root"))
    } else if sys::has_file_capabilities(&path) {
        Check::good(name, format!("{place}, with file capabilities"))
    } else {
        Check::bad(
            name,
            format!("{place} is unprivileged"),
            Some(format!("chmod u+s {place}")),
        )
    }
}

fn subordinate_ids(name: &'static str, kind: Kind) -> Check {
    let owner = Owner::of(getuid());
    let file = kind.file();
    let ranges = subid::ranges(kind, &owner);
    let total: u64 = ranges.iter().map(|(_, count)| u64::from(*count)).sum();
    let detail = format!("{file} gives {total} to {owner}");
    if total < u64::from(subid::ENOUGH) {
        Check::bad(name, detail, Some(subid::remedy(&owner)))
    } else {
        Check::good(name, detail)
    }
}

fn fuse_device() -> Check {
    let (name, path) = ("/dev/fuse", "/dev/fuse");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Check::good(name, "can be opened"),
        Err(error) => {
            let remedy = fuse_remedy(&error);
            let detail = format!(
                "{error}; until then steps run on copies of their root filesystems, or, with a single id, not at all"
            );
            Check::bad(name, detail, Some(remedy))
        }
    }
}

/// What mends that /dev/fuse cannot be opened.
pub(crate) fn fuse_remedy(error: &io::Error) -> String {
    let (machine, container) = match error.kind() {
        io::ErrorKind::PermissionDenied => (
            "chmod 666 /dev/fuse",
            "on the machine, before the container is started: chmod 666 /dev/fuse",
        ),
        _ => ("modprobe fuse", "docker run --device /dev/fuse (podman too)"),
    };
    Surroundings::here().choose(
        machine,
        container,
        "in the pod: a device plugin for /dev/fuse, or a volume with hostPath: {path: /dev/fuse, type: CharDevice}",
    )
}

fn fusermount() -> Check {
    let name = "fusermount3";
    match find_program(name) {
        Some(path) => Check::good(name, path.display().to_string()),
        None => Check::bad(
            name,
            "not installed: without root, mounts are seen by mica's own commands only",
            Some("apt-get install fuse3".into()),
        ),
    }
}

/// The first executable file of this name, in PATH and then where distributions put such programs.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"];
    let directories = env::split_paths(&path).filter(|directory| directory.is_absolute());
    directories
        .chain(usual.iter().map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| {
            fs::metadata(candidate).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finding_says_something_and_no_good_one_needs_mending() {
        let checks: Vec<_> = ways().into_iter().flat_map(|way| way.checks).collect();
        for name in ["kernel", "privileges", "/dev/fuse"] {
            assert!(checks.iter().any(|check| check.name == name), "{name}");
        }
        for check in checks {
            assert!(!check.detail.is_empty(), "{check:?}");
            assert!(!check.ok || check.remedy.is_none(), "{check:?}");
        }
    }

    #[test]
    fn remedies_are_those_of_the_surroundings() {
        let choose = |surroundings: Surroundings| surroundings.choose("m", "c", "p");
        let all = [Surroundings::Machine, Surroundings::Container, Surroundings::Pod];
        assert_eq!(all.map(choose), ["m", "c", "p"]);
    }

    #[test]
    fn releases_compare_by_number() {
        assert_eq!(parse_release("6.1.0-18-amd64"), Some((6, 1)));
        assert!(parse_release("5.4.0").unwrap() < OLDEST_KERNEL);
        assert!(parse_release("10.0-rc1").unwrap() > OLDEST_KERNEL);
        assert_eq!(parse_release("unknown"), None);
    }

    #[test]
    fn programs_are_found_by_name() {
        assert!(find_program("sh").is_some_and(|path| path.is_absolute()));
        assert_eq!(find_program("no-such-program-anywhere"), None);
    }

    #[test]
    fn a_full_namespace_table_is_told_from_a_ban() {
        let remedy = user_namespace_remedy(Errno::ENOSPC).unwrap();
        assert!(remedy.starts_with("sysctl -w "), "{remedy}");
    }
}
