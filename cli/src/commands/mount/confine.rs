//! What a server may reach: the store. A fault in the code that serves an image's layers shall open nothing else of the
//! machine, where the kernel has Landlock (landlock(7)).

use std::error::Error;
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, PathFd,
    RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, Scope, make_bitflags,
};

/// The newest restrictions that are known: those that the kernel does not have are left out.
const NEWEST: ABI = ABI::V10;

/// Takes from this thread, and from those that it starts from now on, for good: files outside of `store`, network,
/// sockets and signals of other processes, looking into them, mounting and unmounting, and the privileges that programs
/// give. To be called while there is no other thread. What the kernel cannot take stays.
pub fn to_store(store: &Path) {
    match restrict(store) {
        Ok(RestrictionStatus {
            ruleset, landlock, ..
        }) => {
            tracing::debug!(
                ?ruleset,
                ?landlock,
                "the server of the mount is restricted to its store"
            );
        }
        Err(error) => tracing::warn!(%error, "the server of the mount cannot be restricted to its store"),
    }
}

fn restrict(store: &Path) -> Result<RestrictionStatus, Box<dyn Error>> {
    let restricted = Ruleset::default()
        // Before Linux 5.19 a restricted process moves no file from one directory to another, as the store does: then
        // it is not restricted at all.
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new(store)?, files()))?
        // Each thread that serves has a descriptor of its own, which it makes of another by ioctl(2).
        .add_rule(PathBeneath::new(PathFd::new("/dev/fuse")?, device()))?
        .restrict_self()?;
    Ok(restricted)
}

/// What a server does in its store. It runs nothing there, and nodes of devices would be a way out.
fn files() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | WriteFile | Truncate | ReadDir | MakeReg | MakeDir | MakeSym | RemoveFile | RemoveDir | Refer
    })
}

fn device() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | IoctlDev})
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::ErrorKind;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;
    use std::thread;

    use landlock::LandlockStatus;
    use nix::sys::signal::kill;
    use nix::unistd::getppid;

    use super::*;

    /// What a thread can do that was restricted to a store, and the version of Landlock; `None` without Landlock.
    // A test's stderr is where its runner shows that it was left out.
    #[allow(clippy::print_stderr)]
    fn restricted<T: Send>(store: &Path, attempt: impl FnOnce() -> T + Send) -> Option<(T, ABI)> {
        // The restriction is the thread's alone, and goes with it.
        let in_thread = || match restrict(store).expect("the kernel does what it can").landlock {
            LandlockStatus::Available { effective_abi, .. } if effective_abi >= ABI::V2 => {
                Some((attempt(), effective_abi))
            }
            status => {
                eprintln!("skipped: this kernel's Landlock does not suffice ({status:?})");
                None
            }
        };
        thread::scope(|scope| scope.spawn(in_thread).join().expect("it does not panic"))
    }

    #[test]
    fn the_store_stays_usable() {
        let store = tempfile::tempdir().expect("a directory");
        let path = store.path().to_owned();
        let attempt = || -> std::io::Result<String> {
            fs::create_dir_all(path.join("a/b"))?;
            fs::create_dir(path.join("c"))?;
            fs::write(path.join("a/b/f"), "much")?;
            fs::write(path.join("a/b/f"), "text")?;
            fs::rename(path.join("a/b/f"), path.join("c/f"))?;
            fs::hard_link(path.join("c/f"), path.join("a/f"))?;
            std::os::unix::fs::symlink("f", path.join("c/l"))?;
            File::open(&path)?.sync_all()?;
            let text = fs::read_to_string(path.join("c/l"))?;
            fs::remove_dir_all(path.join("a"))?;
            Ok(text)
        };
        let Some((text, _)) = restricted(store.path(), attempt) else {
            return;
        };
        assert_eq!(text.expect("all is allowed"), "text");
    }

    #[test]
    fn nothing_else_is_reached() {
        let store = tempfile::tempdir().expect("a directory");
        let other = tempfile::tempdir().expect("a directory");
        fs::write(store.path().join("mine"), "").expect("written");
        fs::write(other.path().join("file"), "").expect("written");
        let attempt = || {
            let way = store.path().join("way");
            std::os::unix::fs::symlink(other.path().join("file"), &way).expect("it is in the store");
            [
                File::open("/etc/passwd").err(),
                File::open(other.path().join("file")).err(),
                File::open(way).err(),
                fs::read_dir("/").err(),
                fs::write(other.path().join("new"), "").err(),
                fs::remove_file(other.path().join("file")).err(),
                fs::hard_link(other.path().join("file"), store.path().join("link")).err(),
                fs::rename(store.path().join("mine"), other.path().join("mine")).err(),
                File::open(format!("/proc/{}/environ", getppid())).err(),
                Command::new("/bin/true").spawn().err(),
            ]
        };
        let Some((errors, _)) = restricted(store.path(), attempt) else {
            return;
        };
        for (number, error) in errors.into_iter().enumerate() {
            let kind = error.map(|error| error.kind());
            // A link to another directory that is not allowed is one to another filesystem.
            let refused = [ErrorKind::PermissionDenied, ErrorKind::CrossesDevices];
            assert!(
                kind.is_some_and(|kind| refused.contains(&kind)),
                "{number}: {kind:?}"
            );
        }
        assert!(other.path().join("file").exists());
    }

    #[test]
    fn other_processes_are_not_reached() {
        let store = tempfile::tempdir().expect("a directory");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("it is bound");
        let name = SocketAddr::from_abstract_name(format!("mica-{}", std::process::id())).expect("a name");
        let _abstract = UnixListener::bind_addr(&name).expect("nobody has the name");
        let attempt = || {
            (
                TcpStream::connect(address).is_ok(),
                TcpListener::bind("127.0.0.1:0").is_ok(),
                UnixStream::connect_addr(&name).is_ok(),
                kill(getppid(), None).is_ok(),
            )
        };
        let Some(((connects, binds, finds, signals), abi)) = restricted(store.path(), attempt) else {
            return;
        };
        let (has_net, has_scopes) = (abi >= ABI::V4, abi >= ABI::V6);
        assert_eq!((connects, binds), (!has_net, !has_net));
        assert_eq!((finds, signals), (!has_scopes, !has_scopes));
    }
}
