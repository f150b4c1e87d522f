//! `mica explore` on a terminal of its own.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use mica_tests::Scene;
use mica_tests::archive::{Members, Tar};
use mica_tests::binary::mica;
use mica_tests::command::wait_until;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc::{ICANON, ISIG};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

const ROWS: usize = 30;
const COLUMNS: usize = 120;

/// The interface at work, and the other end of its terminal.
struct Interface {
    child: Child,
    terminal: File,
    /// The program's end, which tells the terminal's settings.
    own: OwnedFd,
    screen: Screen,
}

/// What a terminal shows after the few things that the interface sends to it.
struct Screen {
    cells: Vec<Vec<char>>,
    row: usize,
    column: usize,
    /// What came and is not complete yet.
    pending: String,
    bytes: Vec<u8>,
    /// Whether the program has left the screen that it drew on.
    is_left: bool,
}

impl Screen {
    fn new() -> Self {
        Self {
            cells: vec![vec![' '; COLUMNS]; ROWS],
            row: 0,
            column: 0,
            pending: String::new(),
            bytes: Vec::new(),
            is_left: false,
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        let valid = match std::str::from_utf8(&self.bytes) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let rest = self.bytes.split_off(valid);
        self.pending += &String::from_utf8_lossy(&self.bytes);
        self.bytes = rest;
        while let Some(c) = self.pending.chars().next() {
            if c == '\x1b' {
                // ESC [ parameters letter
                let is_end = |c: char| c.is_ascii_alphabetic();
                let Some(end) = self.pending.find(is_end) else {
                    return;
                };
                let sequence: String = self.pending.drain(..=end).collect();
                self.obey(&sequence);
                continue;
            }
            self.pending.drain(..c.len_utf8());
            if let Some(cell) = self
                .cells
                .get_mut(self.row)
                .and_then(|row| row.get_mut(self.column))
            {
                *cell = c;
            }
            self.column += 1;
        }
    }

    fn obey(&mut self, sequence: &str) {
        if sequence == "\x1b[?1049l" {
            self.is_left = true;
        }
        if let Some(place) = sequence
            .strip_prefix("\x1b[")
            .and_then(|rest| rest.strip_suffix('H'))
        {
            let mut numbers = place
                .split(';')
                .map(|number| number.parse::<usize>().unwrap_or(1) - 1);
            self.row = numbers.next().unwrap_or(0);
            self.column = numbers.next().unwrap_or(0);
        }
    }

    fn text(&self) -> String {
        let lines = self.cells.iter().map(|row| row.iter().collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Interface {
    fn start(scene: &Scene, image: &str) -> Self {
        let size = Winsize {
            ws_row: u16::try_from(ROWS).expect("it is small"),
            ws_col: u16::try_from(COLUMNS).expect("it is small"),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).expect("a terminal can be made");
        // The program must not hold the other end of its own terminal.
        fcntl(&pty.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a descriptor takes flags");
        let end = || Stdio::from(pty.slave.try_clone().expect("a descriptor can be copied"));
        let child = Command::new(mica())
            .args(["explore", image])
            .env("MICA_ROOT", scene.store())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("mica starts");
        Self {
            child,
            terminal: File::from(pty.master),
            own: pty.slave,
            screen: Screen::new(),
        }
    }

    /// Reads until the screen shows `text`.
    #[track_caller]
    fn shows(&mut self, text: &str) {
        self.reads_until(text, |screen| screen.text().contains(text));
    }

    /// Reads until it no longer does.
    #[track_caller]
    fn hides(&mut self, text: &str) {
        self.reads_until(text, |screen| !screen.text().contains(text));
    }

    #[track_caller]
    fn reads_until(&mut self, what: &str, is_so: impl Fn(&Screen) -> bool) {
        let mut buffer = [0; 4096];
        while !is_so(&self.screen) {
            let n = self.terminal.read(&mut buffer).unwrap_or(0);
            assert!(n > 0, "{what:?}: the screen stays\n{}", self.screen.text());
            self.screen.take(&buffer[..n]);
        }
    }

    fn types(&mut self, keys: &str) {
        self.terminal
            .write_all(keys.as_bytes())
            .expect("the terminal takes keys");
    }

    /// Whether the terminal is as a shell wants it.
    fn is_given_back(&self) -> bool {
        let flags = tcgetattr(&self.own).expect("the terminal is there").local_flags;
        flags.contains(LocalFlags::from_bits_truncate(ICANON | ISIG))
    }

    /// The exit status, once the screen has been left.
    fn ends(&mut self) -> Option<i32> {
        self.reads_until("the end", |screen| screen.is_left);
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scene() -> Scene {
    let scene = Scene::new();
    let layers = [
        Tar::new().directory("etc", 0o755).file("etc/conf", "first\n"),
        Tar::new()
            .directory("etc", 0o755)
            .file("etc/conf", "second content\n")
            .file("new", "new\n"),
    ];
    let archive = Members::docker("app", &layers.map(Tar::bytes));
    scene.mica(["load", "--quiet"]).stdin(archive.pack()).ok();
    scene
}

#[test]
fn keys_lead_through_layers_and_files() {
    let scene = scene();
    let mut interface = Interface::start(&scene, "app");
    interface.shows("q quit");
    assert!(!interface.is_given_back(), "the terminal is taken over");
    interface.types("/conf\r");
    interface.shows("match 1 of 1");
    interface.types("v");
    interface.shows("second content");
    interface.types("H");
    interface.shows("layer 1");
    // The last line: the file as it was in the first layer.
    interface.types("G\r");
    interface.shows("/etc/conf in layer 1");
    interface.shows("first");
    interface.types("\x1b");
    interface.hides("/etc/conf in layer 1");
    interface.types("q");
    assert_eq!(interface.ends(), Some(0));
    assert!(interface.is_given_back());
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let scene = scene();
    let mut interface = Interface::start(&scene, "app");
    interface.shows("q quit");
    let pid = i32::try_from(interface.child.id()).expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it lives");
    assert_eq!(interface.ends(), Some(128 + 15));
    assert!(interface.is_given_back());
}

#[test]
fn it_ends_with_its_terminal() {
    let scene = scene();
    let mut interface = Interface::start(&scene, "app");
    interface.shows("q quit");
    // Closing the other end hangs the terminal up; it is no controlling one here, so no signal says so.
    interface.terminal = File::open("/dev/null").expect("there is a null device");
    let interface = RefCell::new(interface);
    wait_until("the end of a program without a terminal", || {
        let child = &mut interface.borrow_mut().child;
        child.try_wait().expect("it is a child").is_some()
    });
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let scene = scene();
    scene
        .mica(["explore", "app"])
        .fails()
        .says("needs a terminal")
        .says("mica diff --tree");
}
