//! A forest as a file system that fuser can serve. It is read-only: the kernel refuses every change by itself.

use std::ffi::OsStr;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    AccessFlags, Errno, FileHandle, Filesystem, Generation, INodeNo, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyXattr, Request,
};

use super::translate::{self, file_type};
use super::{
    Counters, FOREVER, RequestKind, Settings, attributes, data, entry, errno, negotiate, xattr_value,
};
use crate::forest::Forest;
use crate::overlay::{Error, Ino, Seek};

pub(crate) struct ForestAdapter {
    forest: Arc<Forest>,
    requests: Arc<Counters>,
}

impl ForestAdapter {
    pub(crate) fn new(forest: Arc<Forest>) -> Self {
        Self {
            forest,
            requests: Arc::default(),
        }
    }

    /// The counts of the requests that it answers.
    pub(crate) fn requests(&self) -> Arc<Counters> {
        Arc::clone(&self.requests)
    }
}

impl Filesystem for ForestAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(
            config,
            Settings {
                writeback: false,
                // Entries are looked up one by one: a listing makes no part of the forest.
                traced: true,
                acls: false,
                masks: false,
                owner: None,
            },
        )
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.requests.add(RequestKind::Lookup);
        match self.forest.lookup(Ino(parent.0), name.as_bytes()) {
            Err(Error::NotFound) => reply.entry(&FOREVER, &translate::ABSENT, Generation(0)),
            result => entry(reply, result),
        }
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.requests.add(RequestKind::Forget);
        self.forest.forget(Ino(ino.0), count);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        self.requests.add(RequestKind::GetAttr);
        attributes(reply, self.forest.attr(Ino(ino.0)));
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.requests.add(RequestKind::ReadLink);
        match self.forest.read_link(Ino(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.requests.add(RequestKind::Open);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.requests.add(RequestKind::OpenDir);
        reply.error(Errno::ENOSYS);
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.requests.add(RequestKind::Flush);
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
        self.requests.add(RequestKind::Read);
        data::read_by(size, reply, |buffer| self.forest.read(Ino(ino.0), offset, buffer));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.requests.add(RequestKind::ReadDir);
        let result = self.forest.read_dir(Ino(ino.0), offset, &mut |entry| {
            let name = OsStr::from_bytes(entry.name);
            match reply.add(INodeNo(entry.ino.0), entry.next, file_type(entry.kind), name) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.requests.add(RequestKind::StatFs);
        let fs = self.forest.stat_fs();
        reply.statfs(
            fs.blocks,
            0,
            0,
            fs.files,
            0,
            fs.block_size,
            fs.name_max,
            fs.block_size,
        );
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.requests.add(RequestKind::GetXattr);
        if name.as_bytes().starts_with(b"system.posix_acl_") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        xattr_value(reply, size, self.forest.xattr(Ino(ino.0), name.as_bytes()));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.requests.add(RequestKind::ListXattr);
        let shown = |name: &Vec<u8>| {
            !name.starts_with(b"system.posix_acl_") && (request.uid() == 0 || !name.starts_with(b"trusted."))
        };
        let names = self.forest.xattr_names(Ino(ino.0)).map(|names| {
            let shown = names.into_iter().filter(shown);
            shown.flat_map(|name| name.into_iter().chain([0])).collect()
        });
        xattr_value(reply, size, names);
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        self.requests.add(RequestKind::Access);
        reply.error(Errno::ENOSYS);
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
        self.requests.add(RequestKind::LSeek);
        data::seek_by(offset, whence, reply, |offset, what: Seek| {
            self.forest.seek(Ino(ino.0), offset, what)
        });
    }
}
