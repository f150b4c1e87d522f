//! FUSE requests to overlay calls, overlay errors to errno; nothing else is decided here.
//!
//! What is decided here is how much the kernel may do without asking:
//!
//! - Names, attributes and absent names are kept without a time limit: layers never change, and this server is
//!   the only writer.
//! - OPEN, OPENDIR, FLUSH and CREATE are answered with ENOSYS. From then on the kernel opens and closes files
//!   without a message and creates them by MKNOD; all I/O is addressed by inode, and there is nothing to
//!   release. The kernel still writes a file back when it is closed.
//! - A writable mount uses the writeback cache: the kernel owns size and times of a file being written, and
//!   brings them with SETATTR when it writes back.
//! - ATOMIC_O_TRUNC is never asked for: without OPEN messages the truncation would be lost.
//! - SETXATTR_EXT is never asked for: the protocol library reads the short form of the request.
//! - POSIX access control lists are checked by who checks permissions, the kernel or we. Then the umask is ours.
//! - Where the permissions are ours to check (`guard.rs`), all nodes are root's to the kernel. Whether a file may be
//!   opened is not asked here: whoever answers the callers' system calls sees to it.
//! - Locks are not negotiated, so that the kernel keeps them itself.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, Generation, INodeNo,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::caller::Callers;
use crate::overlay::{Attr, Changes, Error, Ino, NewKind, Overlay, Owner};

mod counts;
mod data;
mod forest;
mod guard;
mod negotiate;
mod sync;
mod translate;

pub(crate) use counts::Counters;
pub use counts::{RequestKind, Requests};
pub(crate) use forest::ForestAdapter;
pub(crate) use negotiate::Settings;

use guard::{Guard, Verdict};
use negotiate::negotiate;
use sync::Syncs;
use translate::{allocation, file_attr, new_kind, rename_mode, set_xattr_mode, timestamp, wanted_time};

/// How long the kernel may keep what it was told, where the answer never goes stale: 136 years.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The overlay as a file system that fuser can serve.
pub(crate) struct Adapter {
    overlay: Arc<Overlay>,
    settings: Settings,
    /// Who checks permissions; the kernel, or nobody, where `None`.
    guard: Option<Guard>,
    requests: Arc<Counters>,
    syncs: Syncs,
}

impl Adapter {
    pub(crate) fn new(overlay: Arc<Overlay>, callers: Option<Arc<Callers>>, settings: Settings) -> Self {
        Self {
            syncs: Syncs::new(Arc::clone(&overlay)),
            guard: callers.map(|callers| Guard::new(callers, Arc::clone(&overlay))),
            overlay,
            settings,
            requests: Arc::default(),
        }
    }

    /// The counts of the requests that it answers.
    pub(crate) fn requests(&self) -> Arc<Counters> {
        Arc::clone(&self.requests)
    }

    /// That a request has come.
    fn received(&self, kind: RequestKind) {
        self.requests.add(kind);
    }

    fn owner(&self, request: &Request) -> Owner {
        match (self.settings.owner, &self.guard) {
            (Some(owner), _) => owner,
            (None, Some(guard)) => guard.owner(request.pid()),
            (None, None) => Owner {
                uid: request.uid(),
                gid: request.gid(),
            },
        }
    }

    /// What the guard says, if there is one.
    fn check(&self, verdict: impl FnOnce(&Guard) -> Verdict) -> Verdict {
        self.guard.as_ref().map_or(Ok(()), verdict)
    }

    /// The attributes as the kernel gets them.
    fn shown(&self, attr: Result<Attr, Error>) -> Result<Attr, Error> {
        attr.map(|attr| match self.guard {
            // Whose node it is, the kernel could not express.
            Some(_) => Attr {
                uid: 0,
                gid: 0,
                ..attr
            },
            None => attr,
        })
    }

    fn create_node(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        kind: NewKind<'_>,
        (mode, umask): (u32, u32),
    ) -> Result<Attr, Errno> {
        self.check(|guard| guard.add(request.pid(), Ino(parent.0)))?;
        let owner = self.owner(request);
        let mode = (mode & 0o7777, umask);
        let created = self
            .overlay
            .create_masked(Ino(parent.0), name.as_bytes(), kind, mode, owner);
        self.shown(created).map_err(|error| errno(&error))
    }

    /// Whether an attribute is an access control list that cannot be kept: where the kernel does not decide by
    /// lists, it would take them for opaque attributes, and programs that copy modes by them would lose the mode.
    fn refuses(&self, name: &[u8]) -> bool {
        !self.settings.acls && name.starts_with(b"system.posix_acl_")
    }

    /// Whether setting a list takes the set-group-ID bit, as chmod(2) would: from who has no right to the group. The
    /// library hides the kernel's word on that, so other groups of the caller do not count.
    fn loses_set_group(&self, request: &Request, ino: INodeNo, name: &[u8]) -> bool {
        name == b"system.posix_acl_access"
            && request.uid() != 0
            && self
                .overlay
                .attr(Ino(ino.0))
                .is_ok_and(|attr| attr.mode & libc::S_ISGID != 0 && attr.gid != request.gid())
    }
}

/// The errno of an overlay error. An I/O error of the host is logged: its errno alone would hide the cause.
fn errno(error: &Error) -> Errno {
    let errno = error.errno();
    if errno == libc::EIO {
        tracing::error!(%error, "a file operation failed");
    }
    Errno::from_i32(errno)
}

fn entry(reply: ReplyEntry, result: Result<Attr, Error>) {
    made(reply, result.map_err(|error| errno(&error)));
}

fn made(reply: ReplyEntry, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&FOREVER, &file_attr(&attr), Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn attributes(reply: ReplyAttr, result: Result<Attr, Error>) {
    match result {
        Ok(attr) => reply.attr(&FOREVER, &file_attr(&attr)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Error>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// The protocol of attribute reads: size 0 asks for the length, and what does not fit is ERANGE.
fn xattr_value(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Error>) {
    match result {
        Err(error) => reply.error(errno(&error)),
        Ok(value) if size == 0 => reply.size(u32::try_from(value.len()).unwrap_or(u32::MAX)),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config, self.settings)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.received(RequestKind::Lookup);
        if let Err(refused) = self.check(|guard| guard.search(request.pid(), Ino(parent.0))) {
            return reply.error(refused);
        }
        match self.overlay.lookup(Ino(parent.0), name.as_bytes()) {
            // Inode 0 with a time makes the kernel remember that the name is absent.
            Err(Error::NotFound) => reply.entry(&FOREVER, &translate::ABSENT, Generation(0)),
            result => entry(reply, self.shown(result)),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.received(RequestKind::Forget);
        self.overlay.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.received(RequestKind::GetAttr);
        attributes(reply, self.shown(self.overlay.attr(Ino(ino.0))));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.received(RequestKind::SetAttr);
        // HANDLE_KILLPRIV_V2 leaves it to us to drop set-ID bits: always when the owner changes, and for a
        // truncation unless the caller has CAP_FSETID. The library hides the kernel's flag for the latter;
        // root has the capability, others have not.
        let chown = uid.is_some() || gid.is_some();
        let keeps = match &self.guard {
            Some(guard) => guard.keeps_set_id(request.pid()),
            None => request.uid() == 0,
        };
        let truncation = size.is_some() && !keeps;
        let mut changes = Changes {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(wanted_time),
            mtime: mtime.map(wanted_time),
            ctime: ctime.map(timestamp),
            kill_privileges: chown || truncation,
        };
        let ino = Ino(ino.0);
        if let Err(refused) =
            self.check(|guard| guard.change(request.pid(), ino, &mut changes, handle.is_some()))
        {
            return reply.error(refused);
        }
        attributes(reply, self.shown(self.overlay.set_attr(ino, &changes)));
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.received(RequestKind::ReadLink);
        match self.overlay.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        self.received(RequestKind::MkNod);
        match new_kind(mode, device) {
            Some(kind) => made(
                reply,
                self.create_node(request, parent, name, kind, (mode, umask)),
            ),
            None => reply.error(Errno::EINVAL),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.received(RequestKind::MkDir);
        let created = self.create_node(request, parent, name, NewKind::Directory, (mode, umask));
        made(reply, created);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        self.received(RequestKind::Symlink);
        let target = target.as_os_str().as_bytes();
        let created = self.create_node(request, parent, name, NewKind::Symlink(target), (0o777, 0));
        made(reply, created);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.received(RequestKind::Unlink);
        if let Err(refused) = self.check(|guard| guard.remove(request.pid(), Ino(parent.0), name)) {
            return reply.error(refused);
        }
        empty(reply, self.overlay.unlink(Ino(parent.0), name.as_bytes()));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.received(RequestKind::RmDir);
        if let Err(refused) = self.check(|guard| guard.remove(request.pid(), Ino(parent.0), name)) {
            return reply.error(refused);
        }
        empty(reply, self.overlay.rmdir(Ino(parent.0), name.as_bytes()));
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::Rename);
        let Some(mode) = rename_mode(flags) else {
            return reply.error(Errno::EINVAL);
        };
        let (from, to) = (Ino(parent.0), Ino(new_parent.0));
        let pid = request.pid();
        let allowed = self.check(|guard| {
            guard.remove(pid, from, name)?;
            guard.remove(pid, to, new_name)
        });
        if let Err(refused) = allowed {
            return reply.error(refused);
        }
        empty(
            reply,
            self.overlay
                .rename(from, name.as_bytes(), to, new_name.as_bytes(), mode),
        );
    }

    fn link(&self, request: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.received(RequestKind::Link);
        if let Err(refused) = self.check(|guard| guard.add(request.pid(), Ino(parent.0))) {
            return reply.error(refused);
        }
        let linked = self.overlay.link(Ino(ino.0), Ino(parent.0), name.as_bytes());
        entry(reply, self.shown(linked));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.received(RequestKind::Open);
        reply.error(Errno::ENOSYS);
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        self.received(RequestKind::Create);
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.received(RequestKind::Read);
        data::read(&self.overlay, Ino(ino.0), offset, size, reply);
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        self.received(RequestKind::Write);
        let kill_privileges = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        data::write(&self.overlay, Ino(ino.0), offset, data, kill_privileges, reply);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::Flush);
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::FSync);
        self.syncs.sync(Ino(ino.0), data_only, reply);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.received(RequestKind::OpenDir);
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.received(RequestKind::ReadDir);
        let result = self.overlay.read_dir(Ino(ino.0), offset, &mut |entry| {
            let kind = translate::file_type(entry.kind);
            match reply.add(
                INodeNo(entry.ino.0),
                entry.next,
                kind,
                OsStr::from_bytes(entry.name),
            ) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.received(RequestKind::ReadDirPlus);
        let result = self.overlay.read_dir(Ino(ino.0), offset, &mut |entry| {
            // The kernel takes no reference to the two dot entries, and to each other one that it is told.
            let dots = matches!(entry.name, b"." | b"..");
            let attr = match dots {
                true => translate::bare_directory(entry.ino),
                false => match self.shown(self.overlay.lookup(Ino(ino.0), entry.name)) {
                    Ok(attr) => file_attr(&attr),
                    // Removed since it was listed.
                    Err(_) => return ControlFlow::Continue(()),
                },
            };
            let name = OsStr::from_bytes(entry.name);
            let full = reply.add(attr.ino, entry.next, name, &FOREVER, &attr, Generation(0));
            if full && !dots {
                self.overlay.forget(Ino(attr.ino.0), 1);
            }
            match full {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::FSyncDir);
        self.syncs.sync(Ino(ino.0), data_only, reply);
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.received(RequestKind::StatFs);
        match self.overlay.stat_fs() {
            Ok(fs) => reply.statfs(
                fs.blocks,
                fs.free,
                fs.available,
                fs.files,
                fs.files_free,
                fs.block_size,
                fs.name_max,
                fs.block_size,
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::SetXattr);
        let name = name.as_bytes();
        if self.refuses(name) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        if let Err(refused) = self.check(|guard| guard.write_attribute(request.pid(), Ino(ino.0), name)) {
            return reply.error(refused);
        }
        let mode = set_xattr_mode(flags);
        let loses_set_group = self.loses_set_group(request, ino, name);
        empty(
            reply,
            self.overlay
                .set_xattr(Ino(ino.0), name, value, mode)
                .and_then(|()| match loses_set_group {
                    true => self.overlay.clear_set_group(Ino(ino.0)),
                    false => Ok(()),
                }),
        );
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.received(RequestKind::GetXattr);
        if self.refuses(name.as_bytes()) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let allowed = self.check(|guard| guard.read_attribute(request.pid(), Ino(ino.0), name.as_bytes()));
        if let Err(refused) = allowed {
            return reply.error(refused);
        }
        xattr_value(reply, size, self.overlay.xattr(Ino(ino.0), name.as_bytes()));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.received(RequestKind::ListXattr);
        let names = self.overlay.xattr_names(Ino(ino.0));
        // The protocol: each name ended by a NUL.
        xattr_value(
            reply,
            size,
            names.map(|names| {
                names
                    .iter()
                    // Where we check permissions, lists are told of by who answers the callers' system calls.
                    .filter(|name| self.guard.is_some() || !self.refuses(name))
                    // Only root sees them: xattr(7).
                    .filter(|name| request.uid() == 0 || !name.starts_with(b"trusted."))
                    .flat_map(|name| name.iter().copied().chain([0]))
                    .collect()
            }),
        );
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.received(RequestKind::RemoveXattr);
        if self.refuses(name.as_bytes()) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let allowed = self.check(|guard| guard.write_attribute(request.pid(), Ino(ino.0), name.as_bytes()));
        if let Err(refused) = allowed {
            return reply.error(refused);
        }
        empty(reply, self.overlay.remove_xattr(Ino(ino.0), name.as_bytes()));
    }

    fn access(&self, request: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        self.received(RequestKind::Access);
        match &self.guard {
            // Only sent without `default_permissions`, where everything is allowed: the kernel asks once.
            None => reply.error(Errno::ENOSYS),
            Some(guard) => {
                let wanted = mask.bits().unsigned_abs();
                match guard.access(request.pid(), Ino(ino.0), wanted) {
                    Ok(()) => reply.ok(),
                    Err(refused) => reply.error(refused),
                }
            }
        }
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        self.received(RequestKind::IoCtl);
        reply.error(Errno::ENOTTY);
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.received(RequestKind::FAllocate);
        match allocation(mode) {
            Some(how) => empty(reply, self.overlay.allocate(Ino(ino.0), how, offset, length)),
            None => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.received(RequestKind::LSeek);
        // The kernel passes this on without writing back first, so what we know of holes and of the size may be
        // old, and a program that copies by it would lose data. Unanswered, the kernel says that there are none.
        if self.settings.writeback {
            return reply.error(Errno::ENOSYS);
        }
        data::seek(&self.overlay, Ino(ino.0), offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        from: INodeNo,
        _from_handle: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.received(RequestKind::CopyFileRange);
        data::copy(
            &self.overlay,
            (Ino(from.0), from_offset),
            (Ino(to.0), to_offset),
            length,
            reply,
        );
    }
}
