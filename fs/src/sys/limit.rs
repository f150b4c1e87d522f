//! The resource limit in which a process carries the number of its credential.

use std::io;

/// The soft RLIMIT_LOCKS of a process or thread. The kernel has had no use for it since Linux 2.4: a child inherits
/// it, and exec keeps it.
pub(crate) fn locks(pid: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    prlimit(pid, None, Some(&mut limit))?;
    Ok(limit.rlim_cur)
}

/// Sets it. The hard limit stays without bounds, so that it can be set again.
pub(crate) fn set_locks(pid: u32, value: u64) -> io::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: value,
        rlim_max: libc::RLIM64_INFINITY,
    };
    prlimit(pid, Some(&limit), None)
}

fn prlimit(pid: u32, new: Option<&libc::rlimit64>, old: Option<&mut libc::rlimit64>) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let old = old.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: each pointer is null or that of a reference which lives through the call.
    match unsafe { libc::prlimit64(pid, libc::RLIMIT_LOCKS, new, old) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
