//! Safe wrappers over the system calls that neither std nor nix offers.
//!
//! The only unsafe code of the crate. Nothing here decides anything: each function is one call (or
//! one inseparable group of calls), and reports the kernel's errno.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_long, c_uint, c_ulong};
use std::io::{IoSlice, IoSliceMut};
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::NixPath;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::sys::stat::makedev;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use super::capabilities::CapabilitySet;
use super::terminal::Size;

/// Wraps a descriptor the kernel has just returned from `syscall`.
fn owned(ret: c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(Errno::result(ret)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: every caller passes the result of a call that returns a fresh descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Splits the process in two. Only sound in a single-threaded process, which both users are: the
/// start of the program, and the re-executed init.
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the caller's process has one thread, so no lock can be left held in the child.
    unsafe { nix::unistd::fork() }
}

/// Ends the process at once: no destructors, no `atexit`, which belong to the parent's copy.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes any value and does not return.
    unsafe { libc::_exit(code) }
}

/// What came of a trial of unprivileged user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probe {
    /// A user namespace can be made, and gives capabilities.
    Works,
    /// The user namespace itself is refused.
    NoUserNamespace(Errno),
    /// It is made, but is given no capabilities: what AppArmor's restriction does.
    NoCapabilities(Errno),
}

/// Tries `unshare(CLONE_NEWUSER)` and then a mount namespace in a child process.
pub(super) fn probe_user_namespace() -> nix::Result<Probe> {
    const CAPABILITIES: c_int = 0x80;
    // SAFETY: the process may have threads, so the child makes only system calls that are
    // async-signal-safe (unshare, _exit) and reads its thread-local errno.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            // SAFETY: unshare and _exit take integers only.
            unsafe {
                if libc::unshare(libc::CLONE_NEWUSER) != 0 {
                    libc::_exit(Errno::last_raw() & 0x7f);
                }
                if libc::unshare(libc::CLONE_NEWNS) != 0 {
                    libc::_exit(CAPABILITIES | Errno::last_raw() & 0x7f);
                }
                libc::_exit(0)
            }
        }
        ForkResult::Parent { child } => {
            let code = exit_code(child)?;
            Ok(match code {
                0 => Probe::Works,
                code if code & CAPABILITIES != 0 => Probe::NoCapabilities(Errno::from_raw(code & 0x7f)),
                code => Probe::NoUserNamespace(Errno::from_raw(code)),
            })
        }
    }
}

/// What may be forbidden in namespaces of one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// A /proc of the PID namespace.
    Proc,
    /// A host name of the UTS namespace.
    HostName,
}

/// Tries it in a child process, as root of a user namespace if `user_namespace` says so.
pub(super) fn probe_inside(what: Inside, user_namespace: bool) -> nix::Result<()> {
    let user = if user_namespace { libc::CLONE_NEWUSER } else { 0 };
    let flags = user | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS;
    // SAFETY: the process may have threads, so the children make only system calls that are async-signal-safe, and
    // read their thread-local errno; all strings are static.
    let child = match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => child,
        // SAFETY: as above.
        ForkResult::Child => unsafe {
            let private = libc::MS_REC | libc::MS_PRIVATE;
            let (none, root) = (std::ptr::null(), c"/".as_ptr());
            if libc::unshare(flags) != 0 || libc::mount(none, root, none, private, none.cast()) != 0 {
                libc::_exit(Errno::last_raw() & 0x7f);
            }
            // Only a child is in the PID namespace.
            let inner = libc::fork();
            if inner > 0 {
                let mut status = 0;
                libc::waitpid(inner, &mut status, 0);
                libc::_exit(libc::WEXITSTATUS(status));
            }
            let (proc, place) = (c"proc".as_ptr(), c"/proc".as_ptr());
            let done = match what {
                _ if inner < 0 => -1,
                Inside::Proc => libc::mount(proc, place, proc, 0, none.cast()),
                Inside::HostName => libc::sethostname(proc, 4),
            };
            libc::_exit(if done == 0 { 0 } else { Errno::last_raw() & 0x7f })
        },
    };
    match exit_code(child)? {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// Tries in a child process whether system calls can be held up there for this one to answer.
///
/// # Errors
/// What seccomp(2) says: EBUSY under somebody else's filter that does so.
pub(super) fn probe_listener() -> nix::Result<()> {
    let mut allow = libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: libc::SECCOMP_RET_ALLOW,
    };
    let program = libc::sock_fprog {
        len: 1,
        filter: &raw mut allow,
    };
    // SAFETY: the process may have threads, so the child makes only system calls that are async-signal-safe.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            // An unprivileged process must give up set-user-ID programs first.
            let tried = prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
                .and_then(|()| seccomp(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER));
            exit_now(tried.map_or_else(|errno| errno as c_int, |_| 0))
        }
        ForkResult::Parent { child } => match exit_code(child)? {
            0 => Ok(()),
            errno => Err(Errno::from_raw(errno)),
        },
    }
}

/// Waits for a child and tells how it has exited.
fn exit_code(child: Pid) -> nix::Result<c_int> {
    match wait_for(child)? {
        WaitStatus::Exited(_, code) => Ok(code),
        _ => Err(Errno::ECHILD),
    }
}

/// Closes every descriptor from `first` up.
pub(super) fn close_from(first: c_uint) -> nix::Result<()> {
    // SAFETY: single-threaded start of init: nothing in this process owns those descriptors.
    let ret = unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) };
    Errno::result(ret).map(drop)
}

/// Closes every descriptor from `first` up when this process execs.
pub(super) fn close_on_exec_from(first: c_uint) -> nix::Result<()> {
    // SAFETY: takes integers only, and closes nothing now.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(ret).map(drop)
}

/// `open_tree(2)`: a descriptor of the mount at `path`, detached when `flags` has `OPEN_TREE_CLONE`.
pub(super) fn open_tree(dir: BorrowedFd<'_>, path: &Path, flags: c_uint) -> nix::Result<OwnedFd> {
    // SAFETY: the path is a valid C string for the time of the call.
    let ret = path.with_nix_path(|path| unsafe {
        libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags)
    })?;
    owned(ret)
}

/// `move_mount(2)` of the mount at `tree` to the place that `target` describes.
pub(super) fn move_mount(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static C strings.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(ret).map(drop)
}

/// `mount_setattr(2)`: sets `attributes` on the mount at `tree`, and with `AT_RECURSIVE` on all below it.
pub(super) fn mount_setattr(tree: BorrowedFd<'_>, attributes: u64, flags: libc::c_int) -> nix::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: `attr` lives through the call, and its size is passed with it.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            mem::size_of_val(&attr),
        )
    };
    Errno::result(ret).map(drop)
}

/// `fsopen(2)`: a context in which a new filesystem of type `kind` is configured.
pub(super) fn fsopen(kind: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: `kind` is a C string.
    owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })
}

/// `fsconfig(2)`: sets one option; without a value, a flag.
pub(super) fn fsconfig_set(context: BorrowedFd<'_>, key: &CStr, value: Option<&CStr>) -> nix::Result<()> {
    const SET_FLAG: c_uint = 0;
    const SET_STRING: c_uint = 1;
    let (command, value) = match value {
        Some(value) => (SET_STRING, value.as_ptr()),
        None => (SET_FLAG, std::ptr::null()),
    };
    // SAFETY: key and value are C strings (or null for a flag, as the call demands).
    let ret = unsafe {
        let context = context.as_raw_fd();
        libc::syscall(libc::SYS_fsconfig, context, command, key.as_ptr(), value, 0)
    };
    Errno::result(ret).map(drop)
}

/// `fsconfig(2)` with `FSCONFIG_CMD_CREATE`, then `fsmount(2)`: the configured filesystem as a
/// detached mount with `attributes`.
pub(super) fn fsmount(context: BorrowedFd<'_>, attributes: u64) -> nix::Result<OwnedFd> {
    const CREATE: c_uint = 6;
    let null: *const libc::c_char = std::ptr::null();
    // SAFETY: this command takes no key and no value.
    let ret = unsafe { libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), CREATE, null, null, 0) };
    Errno::result(ret)?;
    // SAFETY: takes integers only. The attributes are 32 bits wide in this call's ABI.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            attributes as c_uint,
        )
    })
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

fn cap_header() -> CapHeader {
    CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    }
}

/// The capabilities in force in this thread, and those it may put in force.
pub(super) fn capabilities() -> nix::Result<(CapabilitySet, CapabilitySet)> {
    let mut header = cap_header();
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the call fills two records.
    let ret = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    Errno::result(ret)?;
    let join = |low: u32, high: u32| CapabilitySet::from_bits(u64::from(high) << 32 | u64::from(low));
    Ok((
        join(data[0].effective, data[1].effective),
        join(data[0].permitted, data[1].permitted),
    ))
}

/// Makes `set` both permitted and effective, with nothing inheritable.
pub(super) fn set_capabilities(set: CapabilitySet) -> nix::Result<()> {
    let mut header = cap_header();
    let half = |bits: u64| CapData {
        effective: bits as u32,
        permitted: bits as u32,
        inheritable: 0,
    };
    let data = [half(set.bits()), half(set.bits() >> 32)];
    // SAFETY: version 3 of the call reads two records.
    let ret = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    Errno::result(ret).map(drop)
}

/// `prctl(2)` with one argument; the kernel demands that the others are 0, in full width.
fn prctl(option: c_int, argument: c_ulong) -> nix::Result<()> {
    const NONE: c_ulong = 0;
    // SAFETY: the options used here take integers only.
    Errno::result(unsafe { libc::prctl(option, argument, NONE, NONE, NONE) }).map(drop)
}

/// Lets a command that is about to be started end with the thread that starts it.
pub(crate) fn die_with_parent(command: &mut Command) {
    let die = || Ok(prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong)?);
    // SAFETY: between fork and exec only prctl(2) is called, which is async-signal-safe.
    unsafe { command.pre_exec(die) };
}

/// Lets a command that is about to be started end when the thread that starts it does, whatever the command makes of
/// its own privileges: a process between them waits for the end of either. SIGTERM ends both.
pub(super) fn end_with_parent(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: the closure runs between fork and exec, and makes only system calls.
    unsafe { command.pre_exec(move || Ok(keep(parent)?)) };
}

/// Lets a command that is about to be started [hear](await_parent_s_end) of the end of the thread that starts it.
pub(super) fn tell_parent_s_end(command: &mut Command) {
    let parent = Pid::this();
    let tell = move || {
        SigSet::all().thread_set_mask()?;
        prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as c_ulong)?;
        match Pid::parent() == parent {
            true => Ok(()),
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: between fork and exec only system calls are made.
    unsafe { command.pre_exec(tell) };
}

/// Returns when the thread that has started this process by [`tell_parent_s_end`] is no more.
pub(super) fn await_parent_s_end() -> nix::Result<()> {
    let mut end = SigSet::empty();
    end.add(Signal::SIGTERM);
    end.wait().map(drop)
}

/// Splits the process: returns in the new one, and stays in the old one until it is told to end or the new one has.
fn keep(parent: Pid) -> nix::Result<()> {
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGTERM);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block()?;
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM as c_ulong)?;
    if Pid::parent() != parent {
        exit_now(1);
    }
    // SAFETY: as fork(2): no memory is shared, and no stack is given. Not by libc, which would take its locks.
    let forked = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    let child = match Errno::result(forked)? {
        0 => return awaited.thread_unblock(),
        child => Pid::from_raw(child as libc::pid_t),
    };
    // Among them is the pipe by which the caller learns that the command runs.
    // SAFETY: takes integers only; nothing here uses a descriptor any more.
    unsafe { libc::syscall(libc::SYS_close_range, 3, c_uint::MAX, 0) };
    loop {
        if let Ok(Signal::SIGTERM) = awaited.wait() {
            // It fails only if it has ended.
            let _ = nix::sys::signal::kill(child, Signal::SIGKILL);
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => exit_now(code),
            Ok(WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => exit_now(1),
            _ => {}
        }
    }
}

/// `pidfd_open(2)`: a process that can be named for good.
pub(super) fn pidfd_open(process: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: takes integers only.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) })
}

/// Sends a signal to a process, if it still lives.
pub(super) fn pidfd_signal(process: &OwnedFd, signal: c_int) -> nix::Result<()> {
    let none: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: without a siginfo the kernel makes one.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), signal, none, 0) };
    match Errno::result(sent) {
        Ok(_) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes from the bounding set what is not in `keep`.
pub(super) fn limit_bounding_set(keep: CapabilitySet) -> nix::Result<()> {
    for number in (0..64).filter(|number| !keep.contains(*number)) {
        match prctl(libc::PR_CAPBSET_DROP, c_ulong::from(number)) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(Errno::EINVAL) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Empties the ambient set, which an exec would otherwise carry over.
pub(super) fn clear_ambient_set() -> nix::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong)
}

/// Joins a new, empty session keyring: the keys of the user's login stay out of the step.
pub(super) fn new_session_keyring() -> nix::Result<()> {
    const JOIN_SESSION_KEYRING: c_int = 1;
    let anonymous: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for an anonymous keyring.
    let ret = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) };
    Errno::result(ret).map(drop)
}

/// `seccomp(2)`: puts this thread and its descendants under `program`; gives the listener if `flags` ask for one.
pub(super) fn seccomp(program: &libc::sock_fprog, flags: c_ulong) -> nix::Result<Option<OwnedFd>> {
    // SAFETY: the program points to as many instructions as it says, see `seccomp::bpf::Program`.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            std::ptr::from_ref(program),
        )
    };
    match flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER {
        0 => Errno::result(ret).map(|_| None),
        // The kernel closes it at an exec.
        _ => owned(ret).map(Some),
    }
}

/// Waits for a system call that is to be answered (seccomp_unotify(2)); ENOENT if its process has gone meanwhile.
pub(super) fn receive_call(listener: BorrowedFd<'_>) -> nix::Result<libc::seccomp_notif> {
    // SAFETY: plain data, for which zeros are valid; the kernel demands them.
    let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
    // SAFETY: the request fills a seccomp_notif. The kernel's is no longer: its size has been fixed since 5.0.
    let ret = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut call,
        )
    };
    Errno::result(ret).map(|_| call)
}

/// Answers the call `id`.
pub(super) fn answer_call(listener: BorrowedFd<'_>, mut answer: libc::seccomp_notif_resp) -> nix::Result<()> {
    // SAFETY: the request reads a seccomp_notif_resp.
    let ret = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw mut answer,
        )
    };
    Errno::result(ret).map(drop)
}

/// Whether the process that made the call `id` still waits for its answer.
pub(super) fn call_is_pending(listener: BorrowedFd<'_>, id: u64) -> bool {
    // SAFETY: the request reads a u64.
    let ret = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
            &raw const id,
        )
    };
    ret == 0
}

/// Has the kernel let caller and answerer take turns on one processor; Linux 6.6.
pub(super) fn take_turns(listener: BorrowedFd<'_>) -> nix::Result<()> {
    // `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`.
    const SYNC_WAKE_UP: c_ulong = 1;
    // SAFETY: the argument is an integer.
    let ret = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS,
            SYNC_WAKE_UP,
        )
    };
    Errno::result(ret).map(drop)
}

/// `statx(2)`.
pub(super) fn statx(
    directory: BorrowedFd<'_>,
    path: &CStr,
    flags: c_int,
    mask: c_uint,
) -> nix::Result<libc::statx> {
    // SAFETY: plain data, for which zeros are valid.
    let mut stat: libc::statx = unsafe { mem::zeroed() };
    // SAFETY: `path` is a C string, and the call fills a statx.
    let ret = unsafe { libc::statx(directory.as_raw_fd(), path.as_ptr(), flags, mask, &raw mut stat) };
    Errno::result(ret).map(|_| stat)
}

/// The same in the older form, which lacks the time of birth.
pub(super) fn stat_of(told: &libc::statx) -> libc::stat {
    // SAFETY: plain data, for which zeros are valid.
    let mut stat: libc::stat = unsafe { mem::zeroed() };
    stat.st_dev = makedev(told.stx_dev_major.into(), told.stx_dev_minor.into());
    stat.st_ino = told.stx_ino;
    stat.st_nlink = told.stx_nlink.into();
    stat.st_mode = told.stx_mode.into();
    stat.st_uid = told.stx_uid;
    stat.st_gid = told.stx_gid;
    stat.st_rdev = makedev(told.stx_rdev_major.into(), told.stx_rdev_minor.into());
    // The widths differ between architectures.
    stat.st_size = told.stx_size as _;
    stat.st_blksize = told.stx_blksize as _;
    stat.st_blocks = told.stx_blocks as _;
    stat.st_atime = told.stx_atime.tv_sec;
    stat.st_atime_nsec = told.stx_atime.tv_nsec.into();
    stat.st_mtime = told.stx_mtime.tv_sec;
    stat.st_mtime_nsec = told.stx_mtime.tv_nsec.into();
    stat.st_ctime = told.stx_ctime.tv_sec;
    stat.st_ctime_nsec = told.stx_ctime.tv_nsec.into();
    stat
}

/// What the kernel writes for a program of this architecture.
pub(super) trait Record {}
impl Record for libc::stat {}
impl Record for libc::statx {}

/// The bytes of a structure as the kernel lays it out.
pub(super) fn bytes_of<T: Record>(record: &T) -> &[u8] {
    let start = std::ptr::from_ref(record).cast::<u8>();
    // SAFETY: as many bytes as the structure has. It consists of integers, and was zeroed as a whole or filled by the
    // kernel, so that none is uninitialised.
    unsafe { std::slice::from_raw_parts(start, mem::size_of::<T>()) }
}

/// A descriptor of this process for what descriptor `number` of process `pid` stands for: `pidfd_getfd(2)`.
pub(super) fn borrow_descriptor(pid: libc::pid_t, number: c_int) -> nix::Result<OwnedFd> {
    // SAFETY: both calls take integers only.
    unsafe {
        let process = owned(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        owned(libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            number,
            0,
        ))
    }
}

/// Brings the interface `lo` of this network namespace up.
pub(super) fn loopback_up() -> nix::Result<()> {
    // SAFETY: takes integers only.
    let ret = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = owned(c_long::from(ret))?;
    // SAFETY: ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with a name and flags.
    let ret = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(ret).map(drop)
}

/// Restores every signal's default action, also those that are inherited as ignored.
pub(super) fn reset_signals() {
    // The kernel's own sigaction: handler SIG_DFL, no flags, restorer or mask. Through libc, the
    // signals that it keeps for its threads could not be reset.
    let default = [0_u64; 4];
    let none: *mut u64 = std::ptr::null_mut();
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the structure is at least as large as the kernel's, and SIG_DFL runs no code of
        // ours. SIGKILL and SIGSTOP refuse: as they should.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), none, 8) };
    }
}

/// Makes the terminal on `slave` the controlling one of this session.
pub(super) fn set_controlling_terminal(slave: BorrowedFd<'_>) -> nix::Result<()> {
    // SAFETY: the argument is an integer: 0, do not steal.
    let ret = unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(ret).map(drop)
}

/// The size of the terminal on `fd`; ENOTTY if it is none.
pub(super) fn window_size(fd: BorrowedFd<'_>) -> nix::Result<Size> {
    // SAFETY: winsize is plain data, for which zeros are valid.
    let mut size: libc::winsize = unsafe { mem::zeroed() };
    // SAFETY: TIOCGWINSZ fills a winsize.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(ret)?;
    Ok(Size {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}

/// Sets the size of the terminal on `fd`.
pub(super) fn set_window_size(fd: BorrowedFd<'_>, size: Size) -> nix::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads a winsize.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(ret).map(drop)
}

/// Unlocks the pseudo-terminal whose master is `master`; gives its slave end and its number.
pub(super) fn open_slave(master: BorrowedFd<'_>) -> nix::Result<(OwnedFd, c_uint)> {
    let unlocked: c_int = 0;
    let mut number: c_uint = 0;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: each request gets what its definition says: a pointer to int, to unsigned int, flags.
    unsafe {
        let master = master.as_raw_fd();
        Errno::result(libc::ioctl(master, libc::TIOCSPTLCK, &raw const unlocked))?;
        Errno::result(libc::ioctl(master, libc::TIOCGPTN, &raw mut number))?;
        let slave = owned(c_long::from(libc::ioctl(master, libc::TIOCGPTPEER, flags)))?;
        Ok((slave, number))
    }
}

/// Sends some of `bytes`, with a descriptor riding along; tells how many.
pub(super) fn send_with_fd(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
) -> nix::Result<usize> {
    let fds = fd.map(|fd| [fd.as_raw_fd()]);
    let rights = fds.as_ref().map(|fds| ControlMessage::ScmRights(fds));
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights.as_slice(),
        MsgFlags::MSG_NOSIGNAL,
        None,
    )
}

/// Receives up to `bytes.len()` bytes, and a descriptor if one came with them. 0 bytes: hang-up.
pub(super) fn receive_with_fd(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
) -> nix::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let mut received = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            for fd in fds {
                // SAFETY: the kernel has just installed this descriptor for us alone.
                received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, received))
}

/// Waits for a child of this process, whatever signals come.
pub(super) fn wait_for(child: Pid) -> nix::Result<WaitStatus> {
    loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// Whether the kernel gives an executable capabilities of its own (capabilities(7)).
pub(super) fn has_file_capabilities(program: &Path) -> bool {
    let none = std::ptr::null_mut();
    // SAFETY: both names are C strings for the time of the call; size 0 asks for the length only.
    let length = program.with_nix_path(|program| unsafe {
        libc::getxattr(program.as_ptr(), c"security.capability".as_ptr(), none, 0)
    });
    length.is_ok_and(|length| length > 0)
}

/// A second descriptor of the same open file, closed on exec.
pub(super) fn duplicate(fd: impl AsFd) -> std::io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}
