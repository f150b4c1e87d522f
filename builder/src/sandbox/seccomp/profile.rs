//! Docker's default profile: what a step's processes may ask of the kernel.
//!
//! The lists are those of moby/profiles `seccomp/default.json` (2026). A call that they lack fails with EPERM; one that
//! is younger than they are, with ENOSYS, so that programs take what there was before it, as with runc.

use super::bpf::{Action, Architecture, Comparison, Condition, Filter, Rule, Table};
use super::numbers;
use crate::sandbox::capabilities::CapabilitySet;

/// Allowed whatever the step's capabilities.
const ALWAYS: &str = "\
_llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range bind \
breakpoint brk cacheflush cachestat capget capset chdir chmod chown chown32 clock_adjtime clock_adjtime64 \
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 close \
close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old \
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat \
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 \
fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 \
fstatfs fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 \
getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom \
getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday \
getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc \
kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat \
listen listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat lstat64 madvise \
map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall \
mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 \
mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall \
munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 \
pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 \
process_mrelease process_vm_readv process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 \
read readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
removexattr removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending \
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 \
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 \
send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address set_tls setfsgid \
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid \
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid \
setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun \
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed to who has the capability, by its number in capability.h.
const BY_CAPABILITY: &[(u8, &str)] = &[
    (DAC_READ_SEARCH, "open_by_handle_at"),
    (SYS_MODULE, "delete_module finit_module init_module"),
    (SYS_RAWIO, "ioperm iopl"),
    (SYS_CHROOT, "chroot"),
    (SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (SYS_PACCT, "acct"),
    (
        SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl \
         quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    (SYS_BOOT, "reboot"),
    (
        SYS_NICE,
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    (SYS_TIME, "clock_settime clock_settime64 settimeofday stime"),
    (SYS_TTY_CONFIG, "vhangup"),
    (SYSLOG, "syslog"),
    (PERFMON, "perf_event_open"),
    (BPF, "bpf"),
];

const DAC_READ_SEARCH: u8 = 2;
const SYS_MODULE: u8 = 16;
const SYS_RAWIO: u8 = 17;
const SYS_CHROOT: u8 = 18;
const SYS_PTRACE: u8 = 19;
const SYS_PACCT: u8 = 20;
const SYS_ADMIN: u8 = 21;
const SYS_BOOT: u8 = 22;
const SYS_NICE: u8 = 23;
const SYS_TIME: u8 = 25;
const SYS_TTY_CONFIG: u8 = 26;
const SYSLOG: u8 = 34;
const PERFMON: u8 = 38;
const BPF: u8 = 39;

/// The youngest call that the profile knows; numbers above it are younger.
const YOUNGEST: &str = "removexattrat";

/// Execution domains that change nothing of the protection: PER_LINUX, PER_LINUX32, each with or without UNAME26, and
/// the question which one it is.
const PERSONALITIES: &[i32] = &[0, 8, 0x20000, 0x20008, -1];

/// Kinds of sockets that reach beyond the network namespace or far into the kernel.
const NO_SOCKETS: &[i32] = &[libc::AF_ALG, libc::AF_VSOCK];

/// What clone(2) makes namespaces by.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

const REFUSE: Action = Action::Errno(libc::EPERM);

/// The profile for a step with these capabilities; `None` on a machine whose system calls are not known.
pub fn default_profile(capabilities: CapabilitySet) -> Option<Filter> {
    let tables = Architecture::NATIVE.iter();
    let tables = Vec::from_iter(tables.map(|architecture| table(*architecture, capabilities)));
    (!tables.is_empty()).then(|| Filter::new(tables))
}

fn table(architecture: Architecture, capabilities: CapabilitySet) -> Table {
    let mut table = Table::new(architecture, Action::Errno(libc::ENOSYS));
    let allow = || Rule::always(Action::Allow);
    for name in ALWAYS.split_whitespace() {
        table.add(name, allow());
    }
    for (capability, names) in BY_CAPABILITY {
        if capabilities.contains(*capability) {
            names.split_whitespace().for_each(|name| table.add(name, allow()));
        }
    }
    let when = |conditions: Vec<Condition>, action| Rule { conditions, action };
    for family in NO_SOCKETS {
        table.add("socket", when(vec![Condition::int(0, *family)], REFUSE));
    }
    table.add("socket", allow());
    for personality in PERSONALITIES {
        let is_it = vec![Condition::int(0, *personality)];
        table.add("personality", when(is_it, Action::Allow));
    }
    let mask = u64::from(NAMESPACES.cast_unsigned());
    let none = Comparison::Masked { mask, value: 0 };
    let no_namespace = Condition {
        argument: 0,
        comparison: none,
    };
    table.add("clone", when(vec![no_namespace], Action::Allow));
    // Its flags lie in memory, where a filter sees nothing: libraries then take clone(2).
    table.add("clone3", Rule::always(Action::Errno(libc::ENOSYS)));
    let youngest = architecture.number(YOUNGEST);
    for name in numbers::names() {
        if architecture.number(name) <= youngest {
            table.add(name, Rule::always(REFUSE));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_and_none_is_there_twice() {
        let always: Vec<_> = ALWAYS.split_whitespace().collect();
        assert!(always.is_sorted_by(|a, b| a < b));
        let known: Vec<_> = numbers::names().collect();
        let more = BY_CAPABILITY
            .iter()
            .flat_map(|(_, names)| names.split_whitespace());
        for name in always.iter().copied().chain(more.clone()).chain([YOUNGEST]) {
            assert!(known.binary_search(&name).is_ok(), "{name}");
        }
        for name in more {
            assert!(always.binary_search(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn the_program_is_short_enough() {
        for set in [CapabilitySet::DEFAULT, CapabilitySet::from_bits(u64::MAX)] {
            let filter = default_profile(set);
            assert_eq!(filter.is_none(), Architecture::NATIVE.is_empty());
            assert!(filter.is_none_or(|filter| filter.program().is_some()));
        }
    }
}
