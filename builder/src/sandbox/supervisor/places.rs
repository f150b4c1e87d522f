//! Where a path of a step's process leads.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use mica_fs::caller::Credential;
use mica_fs::overlay::{Attr, Ino};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, makedev};

use super::call::Call;
use super::{Supervisor, VirtualTree};
use crate::sandbox::sys;

/// How a call names a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The descriptor of the directory that a relative path begins at, or of the file itself if the path is empty;
    /// `AT_FDCWD` for the working directory.
    pub directory: i32,
    /// The path.
    pub path: CString,
    /// Whether a symbolic link at its end is followed.
    pub follow: bool,
}

impl Place {
    /// What a descriptor stands for.
    pub fn descriptor(number: i32) -> Self {
        Self {
            directory: number,
            path: CString::default(),
            follow: true,
        }
    }

    /// A path from the working directory.
    ///
    /// # Errors
    /// ENOENT if it is empty.
    pub fn path(path: CString, follow: bool) -> Result<Self, Errno> {
        let flags = match follow {
            true => 0,
            false => libc::AT_SYMLINK_NOFOLLOW,
        };
        Self::at(libc::AT_FDCWD, path, flags)
    }

    /// As the calls with `at` in their names have it.
    ///
    /// # Errors
    /// ENOENT if the path is empty and is not said to be by `AT_EMPTY_PATH`. Of flags that do not exist the kernel tells.
    pub fn at(directory: i32, path: CString, flags: i32) -> Result<Self, Errno> {
        if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
            return Err(Errno::ENOENT);
        }
        Ok(Self {
            directory,
            // What is open is no symbolic link to be followed; its entry in /proc is.
            follow: path.is_empty() || flags & libc::AT_SYMLINK_NOFOLLOW == 0,
            path,
        })
    }
}

/// A node of one of our filesystems.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub tree: &'a VirtualTree,
    pub ino: Ino,
}

impl Node<'_> {
    /// Its attributes; size and space may be missing.
    pub fn attr(&self) -> Result<Attr, Errno> {
        self.attr_at_hand().map(|(attr, _)| attr)
    }

    /// Its attributes, and whether all of them are there: [`Overlay::attr_at_hand`](mica_fs::overlay::Overlay).
    pub fn attr_at_hand(&self) -> Result<(Attr, bool), Errno> {
        let attr = self.tree.overlay.attr_at_hand(self.ino);
        attr.map_err(|error| Errno::from_raw(error.errno()))
    }

    /// Whether a process may use it in the ways of `wanted` (a sum of `R_OK`, `W_OK`, `X_OK`).
    pub fn allows(&self, caller: &Credential, wanted: u32) -> Result<bool, Errno> {
        let may = caller.may_use(&self.tree.overlay, self.ino, wanted);
        may.map_err(|error| Errno::from_raw(error.errno()))
    }

    /// Whether a process may search the directories that lead to it.
    pub fn is_reached_by(&self, caller: &Credential, pid: u32) -> bool {
        caller.reaches(&self.tree.overlay, pid, self.ino)
    }
}

/// What the kernel told about a file.
pub(super) struct Seen(pub libc::statx);

impl Seen {
    /// What statx(2) with these flags and this mask tells about an open file.
    pub fn of(file: impl AsFd, flags: i32, mask: u32) -> Result<Self, Errno> {
        sys::statx(file.as_fd(), c"", flags | libc::AT_EMPTY_PATH, mask).map(Self)
    }

    /// Its device and its inode.
    pub fn identity(&self) -> (u64, u64) {
        let Self(told) = self;
        (
            makedev(told.stx_dev_major.into(), told.stx_dev_minor.into()),
            told.stx_ino,
        )
    }
}

/// A name by which the thread finds the same file.
enum Found {
    /// From a directory of mica's.
    Below(CString),
    /// From the thread's root, which is the step's; the path is absolute.
    Absolute(CString),
    /// From another root that the process has given itself.
    Within(OwnedFd, CString),
}

impl Supervisor {
    /// The file that a process means by a place. This takes no word of whoever serves the file.
    pub(super) fn identify(&self, call: &Call<'_>, place: &Place) -> Result<Seen, Errno> {
        self.look(call, place, libc::AT_STATX_DONT_SYNC, libc::STATX_INO)
    }

    /// What the kernel tells this thread about what a process means by a place: statx(2) with these `flags` about how
    /// fresh it is to be, and this mask.
    pub(super) fn look(&self, call: &Call<'_>, place: &Place, flags: i32, mask: u32) -> Result<Seen, Errno> {
        if self.shows_others {
            return Seen::of(self.open_within_step(call, place)?, flags, mask);
        }
        let at_end = match place.follow {
            true => 0,
            false => libc::AT_SYMLINK_NOFOLLOW,
        };
        match self.find(call, place)? {
            // To an absolute path the directory does not matter.
            Found::Below(path) | Found::Absolute(path) => {
                sys::statx(self.processes.as_fd(), &path, flags | at_end, mask).map(Seen)
            }
            Found::Within(root, path) => Seen::of(open_within(&root, &path, place.follow)?, flags, mask),
        }
    }

    /// A descriptor of what a process means by a place, for nothing but to ask about it.
    pub(super) fn open_place(&self, call: &Call<'_>, place: &Place) -> Result<OwnedFd, Errno> {
        if self.shows_others {
            return self.open_within_step(call, place);
        }
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_NOFOLLOW, !place.follow);
        match self.find(call, place)? {
            Found::Below(path) => openat(&self.processes, path.as_c_str(), flags, Mode::empty()),
            Found::Absolute(path) => openat(AT_FDCWD, path.as_c_str(), flags, Mode::empty()),
            Found::Within(root, path) => open_within(&root, &path, place.follow),
        }
    }

    /// The same where the step's /proc shows processes outside, through whose links (root, cwd, fd) this thread could go
    /// and the step could not: ELOOP at all such links but those that the process itself begins at.
    fn open_within_step(&self, call: &Call<'_>, place: &Place) -> Result<OwnedFd, Errno> {
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let own = |link: &str| openat(&self.processes, link, flags, Mode::empty());
        let path = place.path.as_bytes();
        let itself = of_itself(place).and_then(|rest| String::from_utf8(rest).ok());
        let start = match (path.first(), place.directory) {
            (Some(b'/'), _) if itself.is_some() => {
                let itself = itself.unwrap_or_default();
                let is_file = itself
                    .strip_prefix("fd/")
                    .is_some_and(|number| !number.contains('/'));
                return match is_file && place.follow {
                    true => own(&format!("{}/{itself}", call.pid)),
                    false => Err(Errno::ELOOP),
                };
            }
            (Some(b'/'), _) => own(&format!("{}/root", call.pid))?,
            (_, libc::AT_FDCWD) => own(&format!("{}/cwd", call.pid))?,
            (_, number) => own(&format!("{}/fd/{number}", call.pid))?,
        };
        if path.is_empty() {
            return Ok(start);
        }
        flags.set(OFlag::O_NOFOLLOW, !place.follow);
        let resolve = match path.first() {
            Some(b'/') => ResolveFlag::RESOLVE_IN_ROOT,
            _ => ResolveFlag::empty(),
        };
        let how = OpenHow::new()
            .flags(flags)
            .resolve(resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(start.as_fd(), place.path.as_c_str(), how)
    }

    /// The node that this is; `None` if it is of a filesystem that is not ours.
    pub(super) fn node(&self, seen: &Seen) -> Option<Node<'_>> {
        let (device, ino) = seen.identity();
        let tree = self.ids.trees.iter().find(|tree| tree.device == device)?;
        Some(Node { tree, ino: Ino(ino) })
    }

    /// The node that a process means by a place; `None` of what is not there or not on our filesystems.
    ///
    /// # Errors
    /// EACCES if the process may not search the directories that lead to it.
    pub(super) fn reached(
        &self,
        call: &Call<'_>,
        caller: &Credential,
        place: &Place,
    ) -> Result<Option<Node<'_>>, Errno> {
        let Ok(seen) = self.identify(call, place) else {
            return Ok(None);
        };
        match self.node(&seen) {
            Some(node) if !node.is_reached_by(caller, call.pid) => Err(Errno::EACCES),
            found => Ok(found),
        }
    }

    fn find(&self, call: &Call<'_>, place: &Place) -> Result<Found, Errno> {
        let pid = call.pid;
        let path = place.path.as_bytes();
        let own = |text: &str, rest: &[u8]| {
            CString::new([format!("{pid}/{text}").as_bytes(), rest].concat()).map_err(|_| Errno::ENOENT)
        };
        if path.first() == Some(&b'/') {
            // This thread is no process of the step's /proc, and so has no `self` there.
            if let Some(rest) = of_itself(place) {
                return own("", &rest).map(Found::Below);
            }
            return match self.other_root(pid)? {
                None => Ok(Found::Absolute(place.path.clone())),
                Some(root) => Ok(Found::Within(root, place.path.clone())),
            };
        }
        let start = match place.directory {
            libc::AT_FDCWD => "cwd".to_owned(),
            number => format!("fd/{number}"),
        };
        match path {
            [] => own(&start, b"").map(Found::Below),
            _ => own(&start, &[b"/", path].concat()).map(Found::Below),
        }
    }

    /// The root directory of a process, if it is another than the step's.
    fn other_root(&self, pid: u32) -> Result<Option<OwnedFd>, Errno> {
        if !self.has_other_roots.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let link = format!("{pid}/root");
        if readlinkat(&self.processes, link.as_str())?.as_encoded_bytes() == b"/" {
            return Ok(None);
        }
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        openat(&self.processes, link.as_str(), flags, Mode::empty()).map(Some)
    }
}

/// What a path to a file of the process itself means below its directory in /proc.
pub(super) fn of_itself(place: &Place) -> Option<Vec<u8>> {
    let path = place.path.as_bytes();
    for link in [&b"/proc/self"[..], b"/proc/thread-self"] {
        match path.strip_prefix(link) {
            Some([]) if place.follow => return Some(Vec::new()),
            Some([b'/', rest @ ..]) => return Some(rest.to_vec()),
            _ => {}
        }
    }
    match path {
        b"/dev/stdin" => Some(b"fd/0".to_vec()),
        b"/dev/stdout" => Some(b"fd/1".to_vec()),
        b"/dev/stderr" => Some(b"fd/2".to_vec()),
        _ => path.strip_prefix(b"/dev/fd/").map(|rest| [b"fd/", rest].concat()),
    }
}

fn open_within(root: &OwnedFd, path: &CStr, follow: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    flags.set(OFlag::O_NOFOLLOW, !follow);
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
    openat2(root.as_fd(), path, how)
}
