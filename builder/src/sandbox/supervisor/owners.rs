//! chown(2) and its kin: changes of metadata that the kernel cannot make here.

use std::sync::PoisonError;

use mica_fs::caller::{Capability, Credential};
use mica_fs::overlay::{Attr, Changes};
use nix::errno::Errno;

use super::Supervisor;
use super::call::{Answer, Call, Decision};
use super::places::{Place, Seen};

/// Whom the kernel shows as the owner of what belongs to somebody outside: of devices in /dev, of much in /proc.
const NOBODY: u32 = 65534;

impl Supervisor {
    /// chown, lchown, fchown, fchownat.
    pub(super) fn change_owner(&self, call: &Call<'_>) -> Decision {
        let (place, uid, gid) = match call.name {
            "chown" => (
                Place::path(call.read_path(call.argument(0))?, true)?,
                call.id(1),
                call.id(2),
            ),
            "lchown" => (
                Place::path(call.read_path(call.argument(0))?, false)?,
                call.id(1),
                call.id(2),
            ),
            "fchown" => (Place::descriptor(call.int(0)), call.id(1), call.id(2)),
            _ => {
                let flags = call.int(4);
                if flags & !(libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) != 0 {
                    return Err(Errno::EINVAL);
                }
                let path = call.read_path(call.argument(1))?;
                (Place::at(call.int(0), path, flags)?, call.id(2), call.id(3))
            }
        };
        let Ok(seen) = self.identify(call, &place) else {
            return Ok(Answer::Continue);
        };
        let caller = self.caller(call);
        call.must_be_pending()?;
        let Some(node) = self.node(&seen) else {
            return self.change_foreign_owner(&caller, &seen, uid, gid);
        };
        let attr = node.attr()?;
        if !node.is_reached_by(&caller, call.pid) {
            return Err(Errno::EACCES);
        }
        if !may_give(&caller, &attr, uid, gid) {
            return Err(Errno::EPERM);
        }
        let changes = Changes {
            uid,
            gid,
            ..Changes::default()
        };
        let before = attr.mode;
        let after = node
            .tree
            .overlay
            .set_attr(node.ino, &changes)
            .map_err(|error| Errno::from_raw(error.errno()))?;
        if before != after.mode {
            node.tree.kernel.forget_attributes(node.ino);
        }
        Ok(Answer::Value(0))
    }

    /// A filesystem that keeps one owner only: the others are remembered here, for this step.
    fn change_foreign_owner(
        &self,
        caller: &Credential,
        seen: &Seen,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Decision {
        if !caller.has(Capability::Chown) {
            return Err(Errno::EPERM);
        }
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = foreign.entry(seen.identity()).or_default();
        *owner = (uid.unwrap_or(owner.0), gid.unwrap_or(owner.1));
        Ok(Answer::Value(0))
    }

    /// Whom a file of a filesystem that is not ours belongs to, if the kernel would tell it wrongly.
    pub(super) fn foreign_owner(&self, seen: &Seen) -> Option<(u32, u32)> {
        let foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        let set = foreign.get(&seen.identity()).copied();
        let is_nobodys = seen.0.stx_uid == NOBODY || seen.0.stx_gid == NOBODY;
        set.or(is_nobodys.then_some((0, 0)))
    }
}

/// chown(2): root gives to anybody; an owner keeps it, and gives it to a group of its own.
fn may_give(caller: &Credential, attr: &Attr, uid: Option<u32>, gid: Option<u32>) -> bool {
    let is_owner = caller.user.filesystem == attr.uid;
    caller.has(Capability::Chown)
        || uid.is_none_or(|uid| is_owner && uid == attr.uid)
            && gid.is_none_or(|gid| is_owner && (gid == attr.gid || caller.is_in_group(gid)))
}
