//! `fusermount3`, the set-user-ID program that mounts for users without privileges.
//!
//! It opens `/dev/fuse`, mounts, and sends the descriptor over the socket whose number is in `_FUSE_COMMFD`
//! (libfuse, `util/fusermount.c`). The socket is passed as standard input, so that no descriptor has to be
//! made inheritable in a process with threads.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

use super::{MountError, MountOptions, Permissions};
use crate::sys::fd;

/// The names of the helper: libfuse 3's, then that of systems that only have libfuse 2's.
const PROGRAMS: [&str; 2] = ["fusermount3", "fusermount"];

/// Has the helper mount on `directory`; returns the descriptor to serve.
pub(super) fn mount(directory: &Path, options: &MountOptions) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Mount {
        path: directory.to_owned(),
        source,
    };
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let theirs = OwnedFd::from(theirs);
    let mut found = Err(MountError::NoHelper);
    for program in PROGRAMS {
        let socket = theirs.try_clone().map_err(failed)?;
        let spawned = Command::new(program)
            .arg("-o")
            .arg(option_text(options))
            .arg("--")
            .arg(directory)
            .env("_FUSE_COMMFD", "0")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        match spawned {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            spawned => {
                found = spawned.map_err(failed);
                break;
            }
        }
    }
    let child = found?;
    // With this end open, a helper that fails would leave us waiting.
    drop(theirs);
    let device = receive(&ours).map_err(failed)?;
    let output = child.wait_with_output().map_err(failed)?;
    device.ok_or_else(|| MountError::Helper {
        path: directory.to_owned(),
        message: said(&output),
    })
}

fn option_text(options: &MountOptions) -> String {
    let mut text = String::from(if options.writable { "rw" } else { "ro" });
    text.push_str(",nosuid,nodev,subtype=mica,fsname=");
    for character in options.name.chars().filter(|c| !c.is_control()) {
        // A comma would end the option, and a backslash quotes.
        if matches!(character, ',' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    if options.allow_other {
        text.push_str(",allow_other");
    }
    if matches!(options.permissions, Permissions::Kernel) {
        text.push_str(",default_permissions");
    }
    text
}

/// The descriptor that comes over `socket`; `None` if the other end was closed without sending one.
fn receive(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::Error::EINTR) => {}
            result => break result?,
        }
    };
    let mut received = message.cmsgs()?.filter_map(|message| match message {
        ControlMessageOwned::ScmRights(numbers) => Some(numbers),
        _ => None,
    });
    Ok(received
        .next()
        .and_then(|numbers| numbers.first().copied())
        .map(fd::received))
}

/// Has the helper unmount `directory`.
pub(super) fn unmount(directory: &Path, lazily: bool) -> Result<(), MountError> {
    let failed = |source| MountError::Unmount {
        path: directory.to_owned(),
        source,
    };
    for program in PROGRAMS {
        let mut command = Command::new(program);
        command.arg("-u").env("LC_ALL", "C").stdin(Stdio::null());
        if lazily {
            command.arg("-z");
        }
        match command.arg("--").arg(directory).output() {
            Ok(output) if output.status.success() => return Ok(()),
            Ok(output) if said(&output).contains("busy") => {
                return Err(MountError::Busy {
                    path: directory.to_owned(),
                });
            }
            Ok(output) => return Err(failed(io::Error::other(said(&output)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Err(MountError::NoHelper)
}

/// What the helper wrote to its standard error, on one line and without its own name.
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let text = lines.join("; ");
    let text = PROGRAMS
        .iter()
        .find_map(|name| text.strip_prefix(&format!("{name}: ")))
        .unwrap_or(&text);
    match text {
        "" => format!("it ended with {}", output.status),
        text => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_text_quotes_the_name() {
        let options = MountOptions {
            writable: false,
            write_through: false,
            traced: false,
            permissions: Permissions::Kernel,
            allow_other: true,
            owner: None,
            no_dev: true,
            no_suid: true,
            name: "a,b\\c\n".to_owned(),
        };
        assert_eq!(
            option_text(&options),
            r"ro,nosuid,nodev,subtype=mica,fsname=a\,b\\c,allow_other,default_permissions"
        );
    }
}
