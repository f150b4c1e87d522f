//! What the tests on real mounts share.
#![allow(clippy::print_stderr)]

use std::path::Path;

use mica_fs::mount::{MountOptions, Permissions};
use mica_fs::path::ImagePath;

pub type Outcome = Fallible<()>;
pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Whether this process can mount; says why not.
pub fn can_mount() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/fuse").exists() {
        "no /dev/fuse"
    } else {
        return true;
    };
    eprintln!("skipped: {reason}");
    false
}

pub fn path(text: &str) -> ImagePath {
    ImagePath::clean(text.as_bytes()).unwrap_or_default()
}

/// A mount for every user, on which the kernel checks permissions.
pub fn options(writable: bool) -> MountOptions {
    MountOptions {
        writable,
        write_through: false,
        traced: false,
        permissions: Permissions::Kernel,
        allow_other: true,
        owner: None,
        no_dev: true,
        no_suid: false,
        name: "test".to_owned(),
    }
}
