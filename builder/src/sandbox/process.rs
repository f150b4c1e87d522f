//! From the prepared world to the command: streams, limits, identity, exec.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, stat, umask};
use nix::unistd::{
    Gid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execve, fchown, setgroups, setresgid, setresuid, setsid,
};

use super::error::{Failure, Step};
use super::{Credentials, DEFAULT_PATH, Spec, limits, sys};

/// The program was not found (as in POSIX `sh`).
const NOT_FOUND: i32 = 127;
/// The program cannot be executed.
const NOT_EXECUTABLE: i32 = 126;

/// What becomes of stdin, stdout and stderr.
#[derive(Debug)]
pub(super) enum Streams {
    /// This stdin; stdout and stderr stay.
    Stdin(OwnedFd),
    /// The slave end of a terminal, which also becomes the controlling one.
    Terminal(OwnedFd),
}

/// Everything of the command's process up to its exec.
pub(super) fn prepare(spec: &Spec, streams: Streams) -> Result<(), Failure> {
    let failed = |errno| Failure::new(Step::Process, "", errno);
    setsid().map_err(failed)?;
    let own_terminal = matches!(streams, Streams::Terminal(_));
    attach(streams).map_err(failed)?;
    if spec.user.uid != 0 {
        give_streams_to(&spec.user, own_terminal);
    }
    limit_files().map_err(failed)?;
    limits::set(&spec.limits.ulimits)?;
    sys::reset_signals();
    SigSet::empty().thread_set_mask().map_err(failed)?;
    umask(Mode::from_bits_truncate(0o022));
    sys::close_on_exec_from(3).map_err(failed)?;
    become_user(&spec.user)?;
    match spec.limits.no_new_privileges {
        true => prctl::set_no_new_privs().map_err(failed),
        false => Ok(()),
    }
}

fn attach(streams: Streams) -> Result<(), Errno> {
    match streams {
        Streams::Stdin(stdin) => dup2_stdin(stdin),
        Streams::Terminal(slave) => {
            sys::set_controlling_terminal(slave.as_fd())?;
            dup2_stdin(&slave)?;
            dup2_stdout(&slave)?;
            dup2_stderr(&slave)
        }
    }
}

/// Lets another user than root open /dev/stdout, /dev/stderr and its terminal again by name.
///
/// Files, devices and the terminal of the machine keep their owners. It is a convenience: where it is
/// refused, the streams themselves work all the same.
fn give_streams_to(user: &Credentials, own_terminal: bool) {
    let give = |fd: BorrowedFd<'_>| -> io::Result<()> {
        let kind = File::from(sys::duplicate(fd)?).metadata()?.file_type();
        if kind.is_fifo() || own_terminal {
            fchown(fd, Some(Uid::from_raw(user.uid)), None)?;
        }
        Ok(())
    };
    for fd in [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
        let _refused = give(fd);
    }
}

/// mica may have raised its own limit, and a huge one makes programs that close every possible
/// descriptor crawl.
fn limit_files() -> Result<(), Errno> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let sane = soft.clamp(1024, 1 << 20).min(hard);
    setrlimit(Resource::RLIMIT_NOFILE, sane, hard)?;
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, 0, hard)
}

/// For another user than root the kernel clears the capabilities on the way.
fn become_user(user: &Credentials) -> Result<(), Failure> {
    let failed = |errno| {
        let failure = Failure::new(Step::User, format!("{}:{}", user.uid, user.gid), errno);
        match errno {
            Errno::EINVAL => failure.hint(
                "an id is beyond those that this user namespace maps; \
                 give the user a larger range in /etc/subuid and /etc/subgid",
            ),
            Errno::EPERM => failure.hint("this user namespace does not allow setgroups"),
            _ => failure,
        }
    };
    let groups: Vec<_> = user.groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    setgroups(&groups).map_err(failed)?;
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)
}

/// Becomes the program; returns only if that is impossible, with the exit status that says so,
/// after a line on stderr.
pub(super) fn exec(spec: &Spec) -> i32 {
    let Some(program) = spec.args.first() else {
        return NOT_FOUND;
    };
    let (status, reason) = try_exec(spec, program);
    let message = format!("mica: exec {}: {reason}\n", program.display());
    // With no stderr there is nobody to tell.
    let _ = io::stderr().write_all(message.as_bytes());
    status
}

fn try_exec(spec: &Spec, program: &OsStr) -> (i32, String) {
    let c = |text: Vec<u8>| CString::new(text);
    let args: Result<Vec<_>, _> = spec.args.iter().map(|arg| c(arg.as_bytes().to_vec())).collect();
    let env: Result<Vec<_>, _> = spec.env.iter().map(|pair| c(variable(pair))).collect();
    let (Ok(args), Ok(env)) = (args, env) else {
        return (
            NOT_EXECUTABLE,
            "an argument or a variable contains a NUL byte".into(),
        );
    };
    let mut refused = None;
    for candidate in candidates(spec, program) {
        let Ok(path) = CString::new(candidate.into_vec()) else {
            continue;
        };
        let Err(errno) = execve(&path, &args, &env);
        let file = stat(path.as_c_str());
        let is_file = file.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        match errno {
            Errno::ENOENT if is_file => {
                let place = path.to_string_lossy();
                let reason = format!("the interpreter or loader that {place} names does not exist");
                return (NOT_FOUND, reason);
            }
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES if program != OsStr::from_bytes(path.to_bytes()) && !is_file => {}
            Errno::EACCES if !is_file && file.is_ok() => {
                refused = Some((NOT_EXECUTABLE, "is a directory".to_owned()));
            }
            Errno::EACCES => refused = Some((NOT_EXECUTABLE, "permission denied".to_owned())),
            Errno::ENOEXEC => {
                return (
                    NOT_EXECUTABLE,
                    "exec format error: a script without #!, or a program \
                     for another machine"
                        .into(),
                );
            }
            errno => return (NOT_EXECUTABLE, errno.desc().to_owned()),
        }
    }
    let absent = if program.as_bytes().contains(&b'/') {
        "no such file or directory"
    } else {
        "executable file not found in $PATH"
    };
    refused.unwrap_or_else(|| (NOT_FOUND, absent.to_owned()))
}

fn variable((name, value): &(OsString, OsString)) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

/// The paths to try, in order. An empty element of PATH is the working directory.
fn candidates(spec: &Spec, program: &OsStr) -> Vec<OsString> {
    if program.as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = spec.env.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map_or(OsStr::new(DEFAULT_PATH), |(_, value)| value.as_os_str());
    let join = |directory: &[u8]| {
        let directory = if directory.is_empty() { b"." } else { directory };
        OsString::from_vec([directory, b"/", program.as_bytes()].concat())
    };
    path.as_bytes().split(|byte| *byte == b':').map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: Option<&str>) -> Spec {
        let mut spec = Spec::new("/", ["tool"]);
        spec.env = path
            .map(|path| ("PATH".into(), path.into()))
            .into_iter()
            .collect();
        spec
    }

    #[test]
    fn a_bare_name_is_looked_up_in_the_images_path() {
        let found = candidates(&spec(Some("/a:/b::c")), OsStr::new("tool"));
        assert_eq!(found, ["/a/tool", "/b/tool", "./tool", "c/tool"]);
        assert_eq!(candidates(&spec(None), OsStr::new("tool")).len(), 6);
    }

    #[test]
    fn a_name_with_a_slash_is_taken_as_it_is() {
        assert_eq!(candidates(&spec(Some("/a")), OsStr::new("./tool")), ["./tool"]);
        assert!(candidates(&spec(Some("/a")), OsStr::new("")).is_empty());
    }
}
