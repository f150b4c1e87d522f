//! The system calls that mica answers in the kernel's place.
//!
//! In every user namespace those that make devices. In one with a single id also those that take, change or tell ids:
//! the kernel there knows one, the image has many. And what would get round these is refused: rings of requests that no
//! filter sees, and the resource limit that carries a process's credential.

use super::Answered;
use super::bpf::{Action, Comparison, Condition, Filter, Rule, Table};

/// Calls that are always answered.
const ANSWERED: &[&str] = &[
    // Owners, and who else may use a file.
    "chown",
    "chown32",
    "fchown",
    "fchown32",
    "fchownat",
    "lchown",
    "lchown32",
    "fstat",
    "fstat64",
    "fstatat64",
    "lstat",
    "lstat64",
    "newfstatat",
    "stat",
    "stat64",
    "statx",
    "fgetxattr",
    "fremovexattr",
    "fsetxattr",
    "getxattr",
    "lgetxattr",
    "lremovexattr",
    "lsetxattr",
    "removexattr",
    "setxattr",
    // Who a process is.
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getgroups",
    "getgroups32",
    "getresgid",
    "getresgid32",
    "getresuid",
    "getresuid32",
    "getuid",
    "getuid32",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setuid",
    "setuid32",
    "capget",
    "capset",
    "execve",
    "execveat",
    // What depends on it.
    "chroot",
    "creat",
    "kill",
    "open",
    "openat",
    "openat2",
    "pidfd_send_signal",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo",
    "tgkill",
    "tkill",
];

/// The same, of which 32-bit architectures have an older form with 16-bit ids that nothing uses any more.
const WIDER: &str = "32";

/// Adds to `filter` what the emulation needs. It goes before all other rules.
pub fn add_to(filter: &mut Filter, answered: Answered) {
    for table in filter.tables() {
        devices(table);
        if answered == Answered::Devices {
            continue;
        }
        for name in ANSWERED {
            let wider = format!("{name}{WIDER}");
            let is_old = table.architecture().number(&wider).is_some();
            if !is_old {
                table.put_first(name, Rule::always(Action::Notify));
            }
        }
        arguments(table);
        new_files(table);
        let locks = i32::try_from(libc::RLIMIT_LOCKS).unwrap_or_default();
        table.put_first("setrlimit", on(vec![Condition::int(0, locks)], Action::Errno(0)));
        let sets = Condition {
            argument: 2,
            comparison: Comparison::NotEqual(0),
        };
        table.put_first(
            "prlimit64",
            on(vec![Condition::int(1, locks), sets], Action::Errno(0)),
        );
        // As Docker's profile has it.
        table.put_first("io_uring_setup", Rule::always(Action::Errno(libc::EPERM)));
    }
}

/// Only device nodes are beyond what the kernel does itself.
fn devices(table: &mut Table) {
    for (name, mode) in [("mknod", 1), ("mknodat", 2)] {
        for kind in [libc::S_IFCHR, libc::S_IFBLK] {
            let is_device = Condition {
                argument: mode,
                comparison: Comparison::Masked {
                    mask: u64::from(libc::S_IFMT),
                    value: u64::from(kind),
                },
            };
            table.put_first(name, on(vec![is_device], Action::Notify));
        }
    }
}

fn arguments(table: &mut Table) {
    for option in [
        libc::PR_SET_KEEPCAPS,
        libc::PR_GET_KEEPCAPS,
        libc::PR_CAPBSET_READ,
        libc::PR_CAPBSET_DROP,
    ] {
        table.put_first("prctl", on(vec![Condition::int(0, option)], Action::Notify));
    }
    let peer = vec![
        Condition::int(1, libc::SOL_SOCKET),
        Condition::int(2, libc::SO_PEERCRED),
    ];
    table.put_first("getsockopt", on(peer, Action::Notify));
}

/// The filesystem is asked when a name is made.
fn new_files(table: &mut Table) {
    let new = (libc::O_CREAT | libc::O_EXCL) as u64;
    for (name, flags) in [("open", 1), ("openat", 2)] {
        let is_new = Condition {
            argument: flags,
            comparison: Comparison::Masked {
                mask: new,
                value: new,
            },
        };
        table.put_first(name, on(vec![is_new], Action::Allow));
    }
}

fn on(conditions: Vec<Condition>, action: Action) -> Rule {
    Rule { conditions, action }
}

#[cfg(test)]
mod tests {
    use super::super::bpf::Architecture;
    use super::*;

    #[test]
    fn the_filter_is_short_enough() {
        for answered in [Answered::Devices, Answered::Ids] {
            let tables = Architecture::NATIVE
                .iter()
                .map(|architecture| Table::new(*architecture, Action::Allow));
            let mut filter = Filter::new(tables.collect());
            add_to(&mut filter, answered);
            assert!(filter.notifies() && filter.program().is_some());
        }
    }
}
