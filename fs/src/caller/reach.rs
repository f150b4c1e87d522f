//! Whether a process may use a file, and can come to it at all.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::Credential;
use crate::layer::Kind;
use crate::overlay::{Above, Error, Ino, Overlay};

const EXECUTE: u32 = libc::X_OK as u32;

impl Credential {
    /// Whether it may use a node in the ways of `wanted` (a sum of `R_OK`, `W_OK`, `X_OK`).
    ///
    /// # Errors
    /// [`Error::Stale`].
    pub fn may_use(&self, overlay: &Overlay, ino: Ino, wanted: u32) -> Result<bool, Error> {
        let (attr, _) = overlay.attr_at_hand(ino)?;
        let list = overlay.access_list(ino)?;
        let is_directory = attr.kind == Kind::Directory;
        Ok(self.may(
            wanted,
            is_directory,
            (attr.mode, list.as_ref()),
            (attr.uid, attr.gid),
        ))
    }

    /// Whether the process `pid` with this credential may search the directories that lead to a node: those from the
    /// root, or from what it has open or works in.
    pub fn reaches(&self, overlay: &Overlay, pid: u32, ino: Ino) -> bool {
        if self.overrides_permissions() {
            return true;
        }
        let Ok(above) = overlay.above(ino) else {
            return false;
        };
        let closed = |directory: &Above| {
            let permissions = (directory.mode, directory.list.as_ref());
            !self.may(EXECUTE, true, permissions, (directory.uid, directory.gid))
        };
        // The first is the node itself.
        match above.iter().skip(1).position(closed) {
            None => true,
            Some(at) => {
                let starts = above.get(..=at).unwrap_or_default();
                let held = held_paths(pid);
                starts.iter().any(|start| held.contains(&start.path))
            }
        }
    }
}

/// What a process has open, works in and has as its root, by the paths that the kernel tells: nothing is asked of the
/// mount, since a thread that serves it must not wait for it.
fn held_paths(pid: u32) -> Vec<Vec<u8>> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten();
    let files = files.filter_map(Result::ok).map(|entry| entry.path());
    files
        .chain([process.join("cwd"), process.join("root")])
        .filter_map(|link| std::fs::read_link(link).ok())
        .map(|path| path.into_os_string().into_vec())
        .collect()
}
