//! POSIX access control lists: acl(5). The kernel translates the ids in them before a filesystem sees them, and refuses
//! those that the user namespace does not have; so the calls that take and tell lists are answered here.

use mica_fs::caller::Capability;
use mica_fs::layer::Kind;
use mica_fs::overlay::SetXattr;
use nix::errno::Errno;
use nix::sys::statvfs::{FsFlags, fstatvfs};

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::{Node, Place};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";

/// `XATTR_SIZE_MAX` of linux/limits.h.
const MOST: u64 = 65_536;

impl Supervisor {
    /// getxattr, setxattr, removexattr and those with `l` or `f` before their names, where they are about a list.
    pub(super) fn list(&self, call: &Call<'_>) -> Decision {
        let Some(caller) = &call.caller else {
            return Ok(Answer::Continue);
        };
        let name = call.read_path(call.argument(1))?;
        let name = name.as_bytes();
        if name != ACCESS && name != DEFAULT {
            return Ok(Answer::Continue);
        }
        let (place, operation) = match (call.name.strip_prefix('f'), call.name.strip_prefix('l')) {
            (Some(operation), _) => (Place::descriptor(call.int(0)), operation),
            (_, Some(operation)) => (Place::path(call.read_path(call.argument(0))?, false)?, operation),
            _ => (Place::path(call.read_path(call.argument(0))?, true)?, call.name),
        };
        let Some(node) = self.reached(call, caller, &place)? else {
            return Ok(Answer::Continue);
        };
        let attr = node.attr()?;
        if attr.kind == Kind::Symlink {
            return Err(Errno::EOPNOTSUPP);
        }
        if operation == "getxattr" {
            return tell(call, &node, name);
        }
        let value = match operation {
            "setxattr" => new_value(call)?,
            _ => None,
        };
        if fstatvfs(self.open_place(call, &place)?)?
            .flags()
            .contains(FsFlags::ST_RDONLY)
        {
            return Err(Errno::EROFS);
        }
        if name == DEFAULT && attr.kind != Kind::Directory {
            return match value {
                Some(_) => Err(Errno::EACCES),
                None => Ok(Answer::Value(0)),
            };
        }
        if caller.user.filesystem != attr.uid && !caller.has(Capability::Fowner) {
            return Err(Errno::EPERM);
        }
        call.must_be_pending()?;
        let overlay = &node.tree.overlay;
        let changed = match value {
            Some(value) => overlay.set_xattr(node.ino, name, &value, SetXattr::Any),
            None => overlay.remove_xattr(node.ino, name),
        };
        let loses_set_group = !caller.is_in_group(attr.gid) && !caller.has(Capability::Fsetid);
        let changed = match name == ACCESS && loses_set_group {
            true => changed.and_then(|()| overlay.clear_set_group(node.ino)),
            false => changed,
        };
        node.tree.kernel.forget_attributes(node.ino);
        match changed {
            Ok(()) => Ok(Answer::Value(0)),
            Err(error) => Err(Errno::from_raw(error.errno())),
        }
    }
}

/// What getxattr(2) gives.
fn tell(call: &Call<'_>, node: &Node<'_>, name: &[u8]) -> Decision {
    let value = node.tree.overlay.xattr(node.ino, name);
    let value = value.map_err(|error| Errno::from_raw(error.errno()))?;
    let length = value.len() as u64;
    match call.argument(3) {
        0 => {}
        size if size < length => return Err(Errno::ERANGE),
        _ => call.write(call.argument(2), &value)?,
    }
    Ok(Answer::Value(length as i64))
}

/// What setxattr(2) is given; nothing takes the list away.
fn new_value(call: &Call<'_>) -> Result<Option<Vec<u8>>, Errno> {
    if call.int(4) & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    match call.argument(3) {
        0 => Ok(None),
        size if size > MOST => Err(Errno::E2BIG),
        size => call.read(call.argument(2), size as usize).map(Some),
    }
}
