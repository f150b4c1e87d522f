//! Filters of system calls: which of them a step can make, and which mica answers in the kernel's place.

pub mod bpf;
mod emulate;
mod numbers;
pub mod profile;

use std::os::fd::OwnedFd;

use nix::errno::Errno;

pub use bpf::Filter;

use super::{Answered, sys};
use bpf::{Action, Architecture, Table};

/// The filter of a step some of whose calls mica answers; what `profile` says of all else, or nothing.
pub fn supervised(profile: Option<Filter>, answered: Answered) -> Filter {
    let mut filter = profile.unwrap_or_else(|| {
        let tables = Architecture::NATIVE.iter();
        Filter::new(
            tables
                .map(|architecture| Table::new(*architecture, Action::Allow))
                .collect(),
        )
    });
    emulate::add_to(&mut filter, answered);
    filter
}

/// Puts this process, which must have one thread, and all its descendants under `filter`. Gives the descriptor at
/// which calls with [`Action::Notify`] are answered, if there are such.
///
/// It is to be called while the process has CAP_SYS_ADMIN in its user namespace: so no_new_privs need not be set,
/// and set-user-ID programs work.
///
/// # Errors
/// What seccomp(2) says; EINVAL also for a filter that is too long.
pub fn install(filter: &Filter) -> Result<Option<OwnedFd>, Errno> {
    let program = filter.program().ok_or(Errno::EINVAL)?;
    if !filter.notifies() {
        return sys::seccomp(&program.as_fprog(), 0).map(drop).map(|()| None);
    }
    // A call that is being answered is not given up for a signal that does not kill, since it cannot be begun anew
    // when half done; Linux before 5.19 knows no such mercy.
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match sys::seccomp(
        &program.as_fprog(),
        listen | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    ) {
        Err(Errno::EINVAL) => sys::seccomp(&program.as_fprog(), listen),
        installed => installed,
    }
}
