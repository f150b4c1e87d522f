//! The sandbox end to end: real namespaces, real processes, a root filesystem of busybox.
//!
//! Each case runs in a process of its own, since entering the namespaces is for the life of a
//! process, and twice: as root and as an unprivileged user with subordinate ids. When the tests are
//! run by root, the user is made for them, in a mount namespace where /etc/passwd and its like are
//! covered: the machine's are not touched. Run by another user, they run as that user.
//!
//! Speaks as much of libtest's language as `cargo test` and `cargo nextest` need.
#![allow(clippy::print_stdout)]

mod cases;
mod helpers;
mod world;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs, panic};

use mica_builder::sandbox::{INIT_ARG, IdMode, UserNs, enter, init_main};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;

use cases::{CASES, Case, Who};
use helpers::HELPER_ARG;
use world::World;

/// Runs one case in this process: `__case MODE NAME`.
const CASE_ARG: &str = "__case";
/// Becomes the unprivileged user, then runs the case: `__as-user MODE NAME`.
const AS_USER_ARG: &str = "__as-user";

const ROOT: &str = "root";
const ROOTLESS: &str = "rootless";

fn main() -> ExitCode {
    let args: Vec<String> = env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.get(1..).unwrap_or_default() {
        [INIT_ARG] => init_main(),
        [HELPER_ARG, rest @ ..] => helpers::main(rest),
        [CASE_ARG, mode, name] => run_here(mode, name),
        [AS_USER_ARG, mode, name] => as_user(mode, name),
        rest if rest.contains(&"--list") => list(rest),
        rest => run_all(rest),
    }
}

/// Every case in every mode, as (mode, case).
fn all() -> impl Iterator<Item = (&'static str, &'static Case)> {
    CASES.iter().flat_map(|case| {
        let root = (case.who == Who::Everyone).then_some((ROOT, case));
        let rootless = [(ROOTLESS, case)];
        root.into_iter().chain(rootless)
    })
}

fn list(args: &[&str]) -> ExitCode {
    if !args.contains(&"--ignored") {
        for (mode, case) in all() {
            println!("{mode}::{}: test", case.name);
        }
    }
    ExitCode::SUCCESS
}

fn run_all(args: &[&str]) -> ExitCode {
    let exact = args.contains(&"--exact");
    let filters: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (mode, case) in all() {
        let name = format!("{mode}::{}", case.name);
        let wanted = |filter: &str| {
            if exact {
                name == filter
            } else {
                name.contains(filter)
            }
        };
        if !filters.is_empty() && !filters.iter().any(|filter| wanted(filter)) {
            continue;
        }
        if let Some(reason) = obstacle(mode, case) {
            println!("test {name} ... skipped: {reason}");
            skipped += 1;
            continue;
        }
        let first = if mode == ROOTLESS && Uid::current().is_root() {
            AS_USER_ARG
        } else {
            CASE_ARG
        };
        let output = Command::new("/proc/self/exe")
            .args([first, mode, case.name])
            .output();
        let output = output.expect("the test binary can be executed");
        if output.status.success() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED ({})", output.status);
            io::stdout().write_all(&output.stdout).expect("stdout");
            io::stdout().write_all(&output.stderr).expect("stdout");
            failed += 1;
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

/// Why a case cannot be tested by this user on this machine.
fn obstacle(mode: &str, case: &Case) -> Option<String> {
    if world::busybox().is_none() {
        return Some("needs a static busybox (apt-get install busybox-static)".into());
    }
    if Uid::current().is_root() {
        let installed = |program| Path::new("/usr/bin").join(program).exists();
        let complete = ["newuidmap", "newgidmap", "setpriv"].into_iter().all(installed);
        return (mode == ROOTLESS && !complete).then(|| "needs uidmap and util-linux".into());
    }
    if mode == ROOT || matches!(case.who, Who::UserWithoutIds | Who::UserBehindMasks) {
        return Some("needs root".into());
    }
    IdMode::detect().err().map(|error| error.to_string())
}

fn run_here(mode: &str, name: &str) -> ExitCode {
    let case = CASES.iter().find(|case| case.name == name).expect("a known case");
    if case.who == Who::UserWithoutIds {
        (case.run)(&World::nowhere());
        return ExitCode::SUCCESS;
    }
    let entered = enter(UserNs::Auto).expect("the namespaces can be entered");
    let world = World::new(entered, mode == ROOTLESS);
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| (case.run)(&world)));
    // Even after a failure: the directory is world's to remove.
    drop(world);
    ExitCode::from(u8::from(outcome.is_err()))
}

/// The user's id and group, which no machine should have.
const USER: &str = "54321";

/// Makes the unprivileged user in a mount namespace, then runs the case as that user.
fn as_user(mode: &str, name: &str) -> ExitCode {
    let case = CASES.iter().find(|case| case.name == name).expect("a known case");
    let built = env::current_exe().expect("/proc is mounted");
    unshare(CloneFlags::CLONE_NEWNS).expect("root can make a mount namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("a private tree");
    let directory = world::temporary();
    let cover = |target: &str, text: String| {
        let file = directory.path().join(target.replace('/', "_"));
        fs::write(&file, text).expect("a temporary file");
        bind(&file, target);
    };
    let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    cover(
        "/etc/passwd",
        format!("{passwd}micatest:x:{USER}:{USER}::/:/bin/sh\n"),
    );
    let ids = if case.who == Who::UserWithoutIds {
        ""
    } else {
        "micatest:200000:65536\n"
    };
    cover("/etc/subuid", ids.to_owned());
    cover("/etc/subgid", ids.to_owned());
    if case.who == Who::UserBehindMasks {
        bind("/dev/null", "/proc/uptime");
    }
    // The user may not be able to reach the place where this program was built.
    let program = directory.path().join("program");
    fs::write(&program, "").expect("a temporary file");
    bind(&built, &program);
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).expect("own directory");

    let status = Command::new("setpriv")
        .args([
            "--reuid",
            USER,
            "--regid",
            USER,
            "--clear-groups",
            "--inh-caps=-all",
        ])
        .arg(&program)
        .args([CASE_ARG, mode, name])
        .current_dir("/")
        .process_group(0)
        .status()
        .expect("setpriv is installed");
    // A mount point cannot be removed.
    umount(&program).expect("mounted above");
    ExitCode::from(u8::from(!status.success()))
}

fn bind(source: impl AsRef<OsStr>, target: impl AsRef<OsStr>) {
    let (source, target) = (source.as_ref(), target.as_ref());
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .unwrap_or_else(|errno| panic!("bind {source:?} on {target:?}: {errno}"));
}
