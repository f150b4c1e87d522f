//! Processes that play mica for a case: to be killed, or to have their streams watched.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio as Streams};
use std::time::{Duration, Instant};

use mica_builder::sandbox::{Running, Spec, Stdin, Stdio, UserNs, enter};

/// The first argument of a helper; then what it does, the root filesystem, a script.
pub const HELPER_ARG: &str = "__helper";

pub fn main(args: &[&str]) -> ExitCode {
    let [what, rootfs, script] = args else {
        return ExitCode::FAILURE;
    };
    enter(UserNs::Auto).expect("the namespaces can be entered");
    let spec = Spec::new(rootfs, ["/bin/sh", "-c", script]);
    match *what {
        "streams" => {
            let mut running = spec.spawn(Stdio::Piped(Stdin::Inherit)).expect("started");
            pass_on(&mut running);
            let exit = running.wait().expect("waited for");
            ExitCode::from(u8::try_from(exit.status()).unwrap_or(u8::MAX))
        }
        "pass-on" => {
            let mut running = spec.spawn(Stdio::Piped(Stdin::Null)).expect("started");
            pass_on(&mut running);
            ExitCode::SUCCESS
        }
        _ => ExitCode::FAILURE,
    }
}

fn pass_on(running: &mut Running) {
    let (mut out, _err) = running.take_output().expect("pipes");
    io::copy(&mut out, &mut io::stdout()).expect("copied");
}

/// Starts a helper whose stdin and stdout are pipes.
pub fn start(what: &str, rootfs: &Path, script: &str) -> Child {
    Command::new("/proc/self/exe")
        .args([HELPER_ARG, what])
        .arg(rootfs)
        .arg(script)
        .stdin(Streams::piped())
        .stdout(Streams::piped())
        .spawn()
        .expect("the test binary can be executed")
}

/// Reads one line of a helper's output.
pub fn line(child: &mut Child) -> String {
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    line
}

/// Gives a helper its input, and nothing after it.
pub fn feed(child: &mut Child, text: &str) {
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(text.as_bytes())
        .expect("written");
}

/// The processes that have `marker` as an argument.
pub fn processes_with(marker: &str) -> Vec<String> {
    let directory = fs::read_dir("/proc").expect("/proc");
    let names = directory.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| {
            let line = fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0)
                .any(|argument| argument == marker.as_bytes())
        })
        .collect()
}

/// Waits for `condition`, which must come true soon.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(5));
    }
}
