//! execve(2): set-user-ID and set-group-ID programs, and what an exec makes of capabilities.

use mica_fs::caller::Credential;
use mica_fs::layer::Kind;
use mica_fs::overlay::Attr;
use nix::errno::Errno;

use super::call::{Answer, Call, Decision};
use super::places::{Node, Place};
use super::{Supervisor, refused};

const EXECUTE: u32 = libc::X_OK as u32;

impl Supervisor {
    /// execve, execveat. The kernel does it; before, the process becomes who it then is.
    pub(super) fn execute(&self, call: &Call<'_>) -> Decision {
        let Some(caller) = &call.caller else {
            return Ok(Answer::Continue);
        };
        let place = match call.name {
            "execve" => Place::path(call.read_path(call.argument(0))?, true)?,
            _ => self.place_at(call, call.int(4))?,
        };
        let Ok(seen) = self.identify(call, &place) else {
            return Ok(Answer::Continue);
        };
        let node = self.node(&seen);
        let attr = node.map(|node| node.attr()).transpose()?;
        if let (Some(attr), Some(node)) = (&attr, node) {
            if !node.allows(caller, EXECUTE)? || !node.is_reached_by(caller, call.pid) {
                return Err(Errno::EACCES);
            }
            if attr.kind == Kind::Directory || attr.mode & 0o111 == 0 {
                return Ok(Answer::Continue);
            }
        }
        let mut next = after_exec(caller, node.zip(attr.as_ref()));
        if gains(caller, &next) && self.process_field(call.pid, "NoNewPrivs:").as_deref() == Some("1") {
            next = caller.executing_without_gain();
        }
        if next != **caller {
            call.must_be_pending()?;
            self.ids
                .callers
                .give(call.pid, next)
                .map_err(|error| refused(&error))?;
        }
        Ok(Answer::Continue)
    }
}

/// Whether a process is more after an exec than before.
fn gains(before: &Credential, after: &Credential) -> bool {
    let ids = |credential: &Credential| (credential.user.effective, credential.group.effective);
    ids(before) != ids(after) || after.permitted & !before.permitted != 0
}

fn after_exec(caller: &Credential, program: Option<(Node<'_>, &Attr)>) -> Credential {
    // A script runs as its caller, whatever its mode.
    let set = program
        .filter(|(node, program)| program.mode & (libc::S_ISUID | libc::S_ISGID) != 0 && !is_script(node));
    let set = set.map(|(_, program)| program);
    let user = set.filter(|program| program.mode & libc::S_ISUID != 0);
    // Without the group's right to execute, the bit means something else: inode(7).
    let with_group = libc::S_ISGID | libc::S_IXGRP;
    let group = set.filter(|program| program.mode & with_group == with_group);
    caller.executing(user.map(|attr| attr.uid), group.map(|attr| attr.gid))
}

fn is_script(program: &Node<'_>) -> bool {
    let mut start = [0; 2];
    let read = program.tree.overlay.read(program.ino, 0, &mut start);
    read.is_ok_and(|count| count == 2) && start == *b"#!"
}
