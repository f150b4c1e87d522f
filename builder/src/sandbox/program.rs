//! This program as something that a step's processes may see and cannot change.
//!
//! A step's init runs it, and /proc/1/exe leads there from inside: opened for writing, it would give
//! the step's root user the program of the machine's (CVE-2019-5736). So the launcher is executed
//! from a file that cannot be written, whoever asks: on a read-only mount of its own, or in memory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::tree::{Tree, attribute};

/// The running program, even if its file has been replaced since.
const EXECUTABLE: &str = "/proc/self/exe";

/// A descriptor through which this program can be executed and not be written. Closed on exec.
#[derive(Debug)]
pub(super) struct Program(File);

impl Program {
    /// This process's only one, made at the first call.
    pub(super) fn get() -> io::Result<&'static Self> {
        static PROGRAM: OnceLock<Program> = OnceLock::new();
        match PROGRAM.get() {
            Some(program) => Ok(program),
            None => {
                // Its file may have been replaced, or its mount be one that cannot be cloned.
                let program = Self::on_read_only_mount().or_else(|_| Self::in_memory())?;
                Ok(PROGRAM.get_or_init(|| program))
            }
        }
    }

    /// What `execve(2)` takes while the descriptor is open.
    pub(super) fn path(&self) -> PathBuf {
        path_of(self.0.as_fd())
    }

    /// The descriptor is opened anew, and that of the tree closed: the mount then belongs to no
    /// namespace, so that nobody can make it writable again (mount_setattr(2) refuses such).
    ///
    /// The file is looked up by its name, since /proc/self/exe itself stands for the mount in the
    /// namespace where the program was started, which is not this one.
    fn on_read_only_mount() -> io::Result<Self> {
        let tree = Tree::copy_of_one(&fs::read_link(EXECUTABLE)?)?;
        tree.set(attribute::READ_ONLY)?;
        let program = reopen(tree.as_fd())?;
        let (found, running) = (program.0.metadata()?, fs::metadata(EXECUTABLE)?);
        if (found.dev(), found.ino()) != (running.dev(), running.ino()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(program)
    }

    fn in_memory() -> io::Result<Self> {
        let mut copy = File::from(memfd_create(
            c"mica",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )?);
        io::copy(&mut File::open(EXECUTABLE)?, &mut copy)?;
        let seals =
            SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(seals))?;
        reopen(copy.as_fd())
    }
}

fn reopen(fd: BorrowedFd<'_>) -> io::Result<Program> {
    let mut options = OpenOptions::new();
    // To execute a file one need not be able to read it.
    options.read(true).custom_flags(libc::O_PATH);
    options.open(path_of(fd)).map(Program)
}

fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_copy_in_memory_runs_and_cannot_be_written() {
        let program = Program::in_memory().unwrap();
        let output = Command::new(program.path()).arg("--list").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let refused = OpenOptions::new().write(true).open(program.path());
        let written = refused.and_then(|mut file| file.write(b"x"));
        assert!(written.is_err());
    }
}
