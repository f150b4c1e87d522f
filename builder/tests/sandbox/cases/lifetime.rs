//! How a command starts, is signalled and ends, and what ends with it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;

use mica_builder::sandbox::terminal::{Size, relay};
use mica_builder::sandbox::{Exit, Spec, Stdin, Stdio};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::helpers::{eventually, feed, line, processes_with, start};
use crate::world::{World, populate, run};

pub fn init_leads_nowhere(world: &World) {
    assert_eq!(world.sh("echo $$"), "2\n");
    let program = std::env::current_exe().unwrap();
    let before = fs::metadata(&program).unwrap().mtime();
    let ran = run(&world.script(
        "grep -E 'Name|CapEff' /proc/1/status; stat -Lc %i / /proc/1/root /proc/1/cwd; \
         wc -c < /proc/1/environ; touch /proc/1/exe && echo touched; chmod 777 /proc/1/exe && echo changed; \
         echo x >> /proc/1/exe && echo written; \
         kill -9 1; for fd in /proc/1/fd/*; do readlink $fd; done",
    ))
    .unwrap();
    let mut seen = ran.stdout.lines();
    assert_eq!(seen.next(), Some("Name:\tmica-init"));
    assert_eq!(seen.next(), Some("CapEff:\t0000000000000020"));
    let root = seen.next();
    assert_eq!((seen.next(), seen.next()), (root, root), "{ran:?}");
    assert_eq!(seen.next(), Some("0"));
    for target in seen {
        let own = ["socket:[", "pipe:[", "anon_inode:["];
        let harmless = target == "/dev/null" || own.iter().any(|kind| target.starts_with(kind));
        assert!(harmless, "{target}");
    }
    // To open it for writing fails sooner: the program is running.
    let refused = ran.stderr.matches("ead-only file system").count();
    assert_eq!(refused, 2, "{}", ran.stderr);
    assert_eq!(fs::metadata(&program).unwrap().mtime(), before);
}

pub fn everything_can_be_listed(world: &World) {
    for list in ["find / > /dev/null", "ls -R / > /dev/null"] {
        // Without a shell's child in between, which may end while its directory in /proc is read.
        let ran = run(&world.script(&format!("exec {list}"))).unwrap();
        assert!(ran.exit.success(), "{list}: {ran:?}");
    }
}

pub fn orphans_are_reaped(world: &World) {
    // Each orphan is adopted by init when its parent has ended.
    let script = "for i in $(seq 20); do (sh -c 'exit 1' &); done; \
                  while grep -q '^State:.Z' /proc/[0-9]*/status 2>&-; do sleep 0.01; done; \
                  while [ $(ls -d /proc/[0-9]* | wc -l) -gt 4 ]; do sleep 0.01; done";
    world.sh(script);
}

pub fn exits_and_signals(world: &World) {
    for code in [0, 1, 42, 255] {
        let ran = run(&world.script(&format!("exit {code}"))).unwrap();
        assert_eq!(ran.exit, Exit::Code(code));
    }
    for signal in [1, 2, 9, 13, 15] {
        let ran = run(&world.script(&format!("kill -{signal} $$"))).unwrap();
        assert_eq!(ran.exit, Exit::Signal(signal));
        assert_eq!(ran.exit.status(), 128 + signal);
    }
}

pub fn programs_that_cannot_run(world: &World) {
    let rootfs = world.rootfs();
    let script = |name: &str, text: &str, mode| {
        fs::write(rootfs.join(name), text).unwrap();
        fs::set_permissions(rootfs.join(name), PermissionsExt::from_mode(mode)).unwrap();
    };
    script("bin/plain", "#!/bin/sh\n", 0o644);
    script("bin/lost", "#!/no/such/shell\n", 0o755);
    script("bin/text", "echo no first line\n", 0o755);
    for (program, code, words) in [
        ("nothing", 127, "exec nothing: executable file not found in $PATH"),
        (
            "/bin/nothing",
            127,
            "exec /bin/nothing: no such file or directory",
        ),
        (
            "lost",
            127,
            "interpreter or loader that /bin/lost names does not exist",
        ),
        ("/bin/plain", 126, "exec /bin/plain: permission denied"),
        ("plain", 126, "exec plain: permission denied"),
        ("text", 126, "exec format error"),
        ("/bin", 126, "exec /bin: is a directory"),
    ] {
        let ran = run(&Spec::new(&rootfs, [program])).unwrap();
        assert_eq!(ran.exit, Exit::Code(code), "{program}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{program}: {}", ran.stderr);
    }
    // The image's PATH decides, not mica's.
    let mut elsewhere = Spec::new(&rootfs, ["true"]);
    elsewhere.env = vec![("PATH".into(), "/app".into())];
    assert_eq!(run(&elsewhere).unwrap().exit, Exit::Code(127));
}

pub fn nothing_is_left_behind(world: &World) {
    let marker = format!("1000{}", std::process::id());
    let mounted = world.outside("mounted");
    fs::create_dir(&mounted).unwrap();
    let none = MsFlags::empty();
    mount(Some("none"), &mounted, Some("tmpfs"), none, None::<&str>).unwrap();
    populate(&mounted);
    let script = format!(
        "trap '' HUP TERM; sleep {marker} & setsid sleep {marker} & (setsid sh -c \
         'sleep {marker} > /tmp/out' &); cd /tmp; exec sleep 0"
    );
    let ran = run(&Spec::new(&mounted, ["/bin/sh", "-c", &script])).unwrap();
    // Neither is a matter of time: `wait` promises both.
    assert_eq!(processes_with(&marker), Vec::<String>::new());
    umount(&mounted).expect("nothing holds the root filesystem");
    assert_eq!(ran.exit, Exit::Code(0));
}

pub fn signals_are_passed_on(world: &World) {
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done";
    let mut running = world.script(script).spawn(Stdio::Piped(Stdin::Null)).unwrap();
    let (out, _err) = running.take_output().unwrap();
    BufReader::new(out).read_line(&mut String::new()).unwrap();
    let signaller = running.signaller().unwrap();
    let sender = thread::spawn(move || signaller.signal(libc::SIGTERM));
    assert_eq!(running.wait().unwrap(), Exit::Code(42));
    sender.join().unwrap();
    // From inside: init passes on what its children send it.
    assert_eq!(
        run(&world.script("kill -USR1 1; sleep 1000")).unwrap().exit,
        Exit::Signal(10)
    );
}

pub fn the_end_of_init_is_noticed(world: &World) {
    let marker = format!("4000{}", std::process::id());
    let running = world
        .script(&format!("exec sleep {marker}"))
        .spawn(Stdio::Piped(Stdin::Null))
        .unwrap();
    eventually("a sleeper", || processes_with(&marker).len() == 1);
    let status = fs::read_to_string(format!("/proc/{}/status", processes_with(&marker)[0])).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t"));
    let init = parent.unwrap().parse().unwrap();
    kill(Pid::from_raw(init), Signal::SIGKILL).unwrap();
    let error = running.wait().unwrap_err();
    assert!(error.to_string().contains("exit status: 137"), "{error}");
    assert_eq!(processes_with(&marker), Vec::<String>::new());
}

pub fn dropping_kills(world: &World) {
    let marker = format!("2000{}", std::process::id());
    let script = format!("sleep {marker} & echo ready; sleep {marker}");
    let mut running = world.script(&script).spawn(Stdio::Piped(Stdin::Null)).unwrap();
    let (out, _err) = running.take_output().unwrap();
    BufReader::new(out).read_line(&mut String::new()).unwrap();
    eventually("two sleepers", || processes_with(&marker).len() == 2);
    drop(running);
    assert_eq!(processes_with(&marker), Vec::<String>::new());
}

pub fn killing_mica_kills_all(world: &World) {
    let marker = format!("3000{}", std::process::id());
    let script = format!(
        "trap '' HUP INT TERM; sleep {marker} & setsid sleep {marker} & echo ready; \
         while :; do sleep {marker}; done"
    );
    let mut mica = start("pass-on", &world.rootfs(), &script);
    assert_eq!(line(&mut mica), "ready\n");
    eventually("three sleepers", || processes_with(&marker).len() >= 3);
    mica.kill().unwrap();
    mica.wait().unwrap();
    let rootfs = world.rootfs();
    let mentions = |file: &Path| {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.contains(rootfs.to_str().unwrap())
    };
    eventually("the end of all", || {
        let mut processes = fs::read_dir("/proc").unwrap().flatten();
        processes_with(&marker).is_empty()
            && !processes.any(|process| mentions(&process.path().join("mountinfo")))
    });
}

pub fn streams_are_passed_on(world: &World) {
    let mut mica = start("streams", &world.rootfs(), "cat; exit 7");
    feed(&mut mica, "in and out");
    let output = mica.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"in and out");
    assert_eq!(output.status.code(), Some(7));
}

pub fn many_at_once(world: &World) {
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || {
                for _ in 0..3 {
                    assert_eq!(world.sh(&format!("echo {number} $$")), format!("{number} 2\n"));
                }
            });
        }
    });
}

pub fn a_terminal(world: &World) {
    let size = Size {
        rows: 31,
        columns: 97,
    };
    let mut running = world
        .script("tty; stty size; [ -c /dev/console ]")
        .spawn(Stdio::Terminal(size))
        .unwrap();
    let master = running.take_terminal().unwrap();
    let mut shown = Vec::new();
    relay(master, None, &mut shown).unwrap();
    assert_eq!(String::from_utf8_lossy(&shown), "/dev/pts/0\r\n31 97\r\n");
    assert_eq!(running.wait().unwrap(), Exit::Code(0));

    // An interrupt that is typed becomes a signal by the line discipline.
    let mut running = world
        .script("echo ready; exec sleep 1000")
        .spawn(Stdio::Terminal(size))
        .unwrap();
    let mut master = fs::File::from(running.take_terminal().unwrap());
    master.read_exact(&mut [0; 7]).unwrap();
    master.write_all(b"\x03").unwrap();
    assert_eq!(running.wait().unwrap(), Exit::Signal(libc::SIGINT));
}
