//! A system call that waits for its answer: who made it, its arguments, the memory they point to.

use std::ffi::CString;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use mica_fs::caller::{Callers, Credential};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::super::seccomp::bpf::Architecture;
use super::super::sys;

/// The longest path the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;

/// What the caller gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel executes the call.
    Continue,
    /// The call returns this.
    Value(i64),
    /// The call fails.
    Error(Errno),
}

/// What a handler decided; an error is the call's.
pub(super) type Decision = Result<Answer, Errno>;

/// A call.
pub(super) struct Call<'a> {
    /// Its name, without the `32` of those with 32-bit ids.
    pub name: &'static str,
    /// Whose numbers and structures.
    pub architecture: Architecture,
    /// The thread that made it, as mica sees it.
    pub pid: u32,
    /// By whom it was made; `None` for whoever still prepares the command.
    pub caller: Option<Arc<Credential>>,
    arguments: [u64; 6],
    listener: BorrowedFd<'a>,
    id: u64,
}

impl<'a> Call<'a> {
    /// `None` if it is none that the filter should have held up.
    pub fn new(request: &libc::seccomp_notif, listener: BorrowedFd<'a>, callers: &Callers) -> Option<Self> {
        let architecture = Architecture::of_audit(request.data.arch)?;
        let number = u32::try_from(request.data.nr).ok()?;
        let name = architecture.name(number)?;
        Some(Self {
            name: name.strip_suffix("32").unwrap_or(name),
            architecture,
            pid: request.pid,
            caller: callers.given(request.pid),
            arguments: request.data.args,
            listener,
            id: request.id,
        })
    }

    /// An argument in full width; past the last, 0.
    pub fn argument(&self, index: usize) -> u64 {
        self.arguments.get(index).copied().unwrap_or_default()
    }

    /// An int.
    pub fn int(&self, index: usize) -> i32 {
        self.argument(index) as i32
    }

    /// An id, a mode, a mask.
    pub fn unsigned(&self, index: usize) -> u32 {
        self.argument(index) as u32
    }

    /// An id, or `None` for -1.
    pub fn id(&self, index: usize) -> Option<u32> {
        Some(self.unsigned(index)).filter(|id| *id != u32::MAX)
    }

    fn process(&self) -> Result<Pid, Errno> {
        i32::try_from(self.pid)
            .map(Pid::from_raw)
            .map_err(|_| Errno::ESRCH)
    }

    /// That the call still waits, to be asked before anything is done for it.
    pub fn must_be_pending(&self) -> Result<(), Errno> {
        match sys::call_is_pending(self.listener, self.id) {
            true => Ok(()),
            false => Err(Errno::ESRCH),
        }
    }

    /// Memory of the caller; of another process, if the call does not wait any more.
    pub fn read(&self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; length];
        if length == 0 {
            return Ok(bytes);
        }
        let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        let got = process_vm_readv(
            self.process()?,
            &mut [IoSliceMut::new(&mut bytes)],
            &[RemoteIoVec { base, len: length }],
        )?;
        match got == length {
            true => Ok(bytes),
            false => Err(Errno::EFAULT),
        }
    }

    /// Unsigned numbers of 32 bits.
    pub fn read_words(&self, address: u64, count: usize) -> Result<Vec<u32>, Errno> {
        let bytes = self.read(address, count * 4)?;
        let (words, _) = bytes.as_chunks::<4>();
        Ok(words.iter().map(|word| u32::from_ne_bytes(*word)).collect())
    }

    /// A path.
    pub fn read_path(&self, address: u64) -> Result<CString, Errno> {
        let mut path = Vec::new();
        // What lies on the next page may not be there: nothing past the NUL is asked for beyond a page.
        while path.len() < PATH_MAX {
            let at = address + path.len() as u64;
            let rest = 4096 - (at % 4096) as usize;
            let piece = self.read(at, rest.min(PATH_MAX - path.len()))?;
            match piece.iter().position(|byte| *byte == 0) {
                Some(end) => {
                    path.extend_from_slice(&piece[..end]);
                    return CString::new(path).map_err(|_| Errno::EFAULT);
                }
                None => path.extend_from_slice(&piece),
            }
        }
        Err(Errno::ENAMETOOLONG)
    }

    /// Writes to the caller's memory.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let base = usize::try_from(address).map_err(|_| Errno::EFAULT)?;
        self.must_be_pending()?;
        let remote = RemoteIoVec {
            base,
            len: bytes.len(),
        };
        match process_vm_writev(self.process()?, &[IoSlice::new(bytes)], &[remote])? {
            written if written == bytes.len() => Ok(()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Writes unsigned numbers of 32 bits.
    pub fn write_words(&self, address: u64, words: &[u32]) -> Result<(), Errno> {
        let bytes: Vec<_> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.write(address, &bytes)
    }
}
