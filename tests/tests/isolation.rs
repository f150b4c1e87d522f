//! What a step may do, looked at from inside: capabilities, system calls, namespaces, privileges, networks, limits.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::thread;

use mica_tests::command::wait_until;
use mica_tests::machine::{self, Lack};
use mica_tests::scene::{NO_SUBORDINATE_IDS, TUN};
use mica_tests::{Scene, base};
use nix::sys::signal::Signal;

const EPERM: i32 = nix::libc::EPERM;
const ENOSYS: i32 = nix::libc::ENOSYS;

/// Calls of x86_64: name, number, the first arguments, and the errno that is expected; 0 if it succeeds.
const CALLS: &[(&str, u32, &str, i32)] = &[
    ("add_key", 248, "0, 0, 0, 0, 0", EPERM),
    ("bpf", 321, "0, 0, 0", EPERM),
    ("chroot", 161, "$root", 0),
    ("clone, a user namespace", 56, "0x10000011, 0, 0, 0, 0", EPERM),
    ("clone3", 435, "0, 0", ENOSYS),
    ("fsopen", 430, "$none, 0", EPERM),
    ("init_module", 175, "0, 0, 0", EPERM),
    ("io_uring_setup", 425, "1, 0", EPERM),
    ("kexec_load", 246, "0, 0, 0, 0", EPERM),
    ("keyctl", 250, "0, -3, 0, 0, 0", EPERM),
    ("mount", 165, "$none, $root, $none, 0, 0", EPERM),
    ("open_by_handle_at", 304, "0, 0, 0", EPERM),
    ("perf_event_open", 298, "0, 0, 0, 0, 0", EPERM),
    ("personality, its question", 135, "0xffffffff", 0),
    ("personality, no randomisation", 135, "0x40000", EPERM),
    ("pivot_root", 155, "$root, $root", EPERM),
    ("ptrace, TRACEME", 101, "0, 0, 0, 0", 0),
    ("reboot", 169, "0, 0, 0, 0", EPERM),
    ("setns", 308, "0, 0", EPERM),
    ("settimeofday", 164, "0, 0", EPERM),
    ("socket, AF_ALG", 41, "38, 5, 0", EPERM),
    ("socket, AF_VSOCK", 41, "40, 1, 0", EPERM),
    ("swapon", 167, "0, 0", EPERM),
    ("syslog", 103, "3, 0, 0", EPERM),
    ("umount2", 166, "$root, 0", EPERM),
    ("unshare, a user namespace", 272, "0x10000000", EPERM),
    ("userfaultfd", 323, "0", EPERM),
    ("one that there is not", 999, "0", ENOSYS),
];

/// A program for 32-bit x86 that calls bpf and exits with the errno:
/// `mov eax, 357; xor ebx, ebx; int 0x80; neg eax; mov ebx, eax; mov eax, 1; int 0x80`.
fn program_for_x86() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const CODE: &[u8] = b"\xb8\x65\x01\0\0\x31\xdb\xcd\x80\xf7\xd8\x89\xc3\xb8\x01\0\0\0\xcd\x80";
    let halves = |numbers: &[u16]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let words = |numbers: &[u32]| numbers.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<_>>();
    let size = 84 + CODE.len() as u32;
    [
        // The header of an executable for the machine 3, with one segment.
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        halves(&[2, 3]),
        words(&[1, BASE + 84, 52, 0, 0]),
        halves(&[52, 32, 1, 0, 0, 0]),
        words(&[1, 0, BASE, BASE, size, size, 5, 0x1000]),
        CODE.to_vec(),
    ]
    .concat()
}

#[test]
fn system_calls_answer_as_under_docker_s_profile() {
    if std::env::consts::ARCH != "x86_64" {
        return machine::skip(Lack::Unavoidable, "the numbers are those of x86_64");
    }
    if machine::programs(&["perl"]).is_none() {
        return;
    }
    for scene in Scene::in_every_id_mode() {
        scene.mica(["import", "--host", "perl", "sh", "-t", "tools"]).ok();
        let script = |(name, number, arguments, _): &(&str, u32, &str, i32)| {
            // A call may change the process, as chroot does.
            format!(
                "unless (fork) {{ $! = 0; syscall({number}, {arguments}); print \"{name}: \", $! + 0, \"\\n\"; exit }} wait;\n"
            )
        };
        let script: String = CALLS.iter().map(script).collect();
        scene.write(
            "ctx/calls.pl",
            format!("$| = 1; my ($root, $none) = (\"/\", \"none\");\n{script}"),
        );
        scene
            .build(
                "FROM tools\nCOPY calls.pl /\nRUN perl /calls.pl > /answers\n",
                ["-t", "called"],
            )
            .ok();
        let expected: String = CALLS
            .iter()
            .map(|(name, _, _, errno)| format!("{name}: {errno}\n"))
            .collect();
        assert_eq!(scene.cat("called", "/answers"), expected, "as {}", scene.who());

        scene.write("ctx/x86", program_for_x86());
        let run = "FROM base\nCOPY --chmod=755 x86 /\nRUN s=0; /x86 || s=$?; echo $s > /status\n";
        scene.build(run, ["-t", "x86"]).ok();
        match scene.cat("x86", "/status").trim() {
            "126" | "2" => machine::skip(Lack::Unavoidable, "this kernel runs no 32-bit programs"),
            status => assert_eq!(status, EPERM.to_string()),
        }
        scene.is_clean();
    }
}

#[test]
fn a_step_is_alone_in_its_namespaces() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = "\
FROM base
RUN for n in cgroup ipc mnt net pid uts user; do echo $n $(readlink /proc/self/ns/$n); done > /namespaces
RUN --network=none readlink /proc/self/ns/net > /net
RUN grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status > /status && cat /proc/mounts > /mounts
USER user
RUN grep -E '^(Cap|Groups)' /proc/self/status > /tmp/user && id -G > /tmp/groups && ! hostname other && ! chroot /
";
        scene.build(dockerfile, ["-t", "alone"]).ok();
        let outside = |name: &str| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).expect("the kernel has namespaces");
            link.display().to_string()
        };
        let cat = |path| scene.cat("alone", path);
        for line in cat("/namespaces").lines() {
            let (name, inside) = line.split_once(' ').expect("two words");
            let shared = name == "net" || (name == "user" && scene.is_root());
            assert_eq!(outside(name) == inside, shared, "{name} as {}", scene.who());
        }
        assert_ne!(cat("/net").trim(), outside("net"));
        assert_eq!(
            cat("/status"),
            "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
             CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n"
        );
        assert_eq!(cat("/tmp/groups"), "1000 2000\n", "as {}", scene.who());
        // With a single id the kernel knows nothing of users, and shows root.
        let (groups, of_user) = match scene.has_single_id() {
            true => ("", "00000000a80425fb"),
            false => ("1000 2000", "0000000000000000"),
        };
        assert_eq!(
            cat("/tmp/user"),
            format!(
                "Groups:\t{groups} \nCapInh:\t0000000000000000\nCapPrm:\t{of_user}\n\
                 CapEff:\t{of_user}\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"
            )
        );
        let mounts = cat("/mounts");
        for path in [
            "/proc/sys",
            "/proc/bus",
            "/proc/irq",
            "/proc/sysrq-trigger",
            "/sys",
        ] {
            let mount = mounts.lines().find(|line| line.split(' ').nth(1) == Some(path));
            let options = mount.and_then(|line| line.split(' ').nth(3)).unwrap_or_default();
            let is_there = Path::new(path).exists();
            assert!(!is_there || options.starts_with("ro,"), "{path}: {mount:?}");
        }
        for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"] {
            let is_masked = mounts.lines().any(|line| line.split(' ').nth(1) == Some(path));
            assert!(is_masked || !Path::new(path).exists(), "{path}");
        }
        scene.is_clean();
    }
}

#[test]
fn a_step_does_not_see_mounts_come_and_go_in_sys() {
    for scene in Scene::in_every_id_mode() {
        let dockerfile = "FROM base\nRUN ls -A /sys/class/bdi /sys/devices/virtual/bdi > /seen\n";
        scene.build(dockerfile, ["-t", "seen"]).ok();
        let empty = "/sys/class/bdi:\n\n/sys/devices/virtual/bdi:\n";
        assert_eq!(scene.cat("seen", "/seen"), empty, "as {}", scene.who());
    }
}

#[test]
fn privileges_are_given_up_on_request() {
    for scene in Scene::in_every_id_mode() {
        let status = ["base", "grep", "NoNewPrivs", "/proc/self/status"];
        let run = |options: &[&str]| {
            scene
                .mica(["run", "--rm"])
                .args(options)
                .args(status)
                .ok()
                .stdout()
        };
        assert_eq!(run(&[]), "NoNewPrivs:\t0\n");
        assert_eq!(run(&["--security-opt", "no-new-privileges"]), "NoNewPrivs:\t1\n");
        let dockerfile = "FROM base\nRUN grep NoNewPrivs /proc/self/status > /status\n";
        scene.build(dockerfile, ["-t", "free"]).ok();
        let given_up = ["--security-opt=no-new-privileges", "-t", "bound"];
        scene.rebuild(given_up).ok().lacks("CACHED [2/2]");
        assert_eq!(scene.cat("free", "/status"), "NoNewPrivs:\t0\n");
        assert_eq!(scene.cat("bound", "/status"), "NoNewPrivs:\t1\n");
    }
}

#[test]
fn an_insecure_step_must_be_allowed_and_is_then_free() {
    for scene in Scene::in_every_id_mode() {
        // A new mount namespace is what Docker's profile refuses.
        let step = "RUN --security=insecure mount -t tmpfs none /tmp && unshare -m true && \
                    grep Seccomp: /proc/self/status > /status";
        let dockerfile = format!("FROM base\n{step}\n");
        scene.build(&dockerfile, ["-q"]).fails().says("security.insecure");
        scene.rebuild(["--allow=security.insecure", "-t", "free"]).ok();
        // Without root a filter holds up the system calls that mica answers.
        let filtered = if scene.is_root() { 0 } else { 2 };
        let status = scene.cat("free", "/status");
        assert_eq!(status, format!("Seccomp:\t{filtered}\n"), "as {}", scene.who());
        scene.is_clean();
    }
}

/// What the user may read through a group is for mica to read, and not for what it runs.
#[test]
fn groups_of_the_user_are_mica_s_alone() {
    const GROUP: u32 = 50_400;
    let Some(mut scene) = Scene::as_user() else { return };
    if !machine::is_root() {
        return machine::skip(Lack::Mendable, "only root can make a user a member of a group");
    }
    scene.join(GROUP);
    let file = scene.write("ctx/shared", "of the group\n");
    chown(&file, Some(0), Some(GROUP)).expect("root may hand over a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("root may do so");
    let volume = format!("{}:/volume", file.display());
    let dockerfile = "\
FROM base
COPY shared /shared
RUN id -G > /groups && ! cat /volume
";
    scene.build(dockerfile, ["-t", "grouped", "-v", &volume]).ok();
    assert_eq!(scene.cat("grouped", "/shared"), "of the group\n");
    assert_eq!(scene.cat("grouped", "/groups"), "0\n");
}

/// A server on the machine's loopback interface that greets everyone.
fn greeter() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            // A visitor that goes early is no matter.
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from outside\n");
        }
    });
    port
}

/// The scenes in which pasta works: for a user it needs a device that everybody may open.
fn with_pasta() -> Vec<Scene> {
    if machine::programs(&["pasta"]).is_none() {
        return Vec::new();
    }
    let root = machine::is_root().then(Scene::as_root).flatten();
    let user = Scene::user_changed_by(TUN);
    let single = Scene::user_changed_by(&format!("{NO_SUBORDINATE_IDS}{TUN}"));
    let users = user.into_iter().chain(single).inspect(base::load);
    root.into_iter().chain(users).collect()
}

/// Connects to an address and port, and prints what comes; needs no module.
const CALLER: &str = r#"
my ($host, $port) = @ARGV;
alarm 3;
socket(S, 2, 1, 0) && connect(S, pack("S n C4 x8", 2, $port, split /[.]/, $host)) or die "no: $!\n";
syswrite(S, "GET / HTTP/1.0\r\n\r\n");
print while <S>;
"#;

/// Answers on a port of its own loopback interface, and calls itself.
const ANSWERER: &str = r#"
my $place = pack("S n C4 x8", 2, $ARGV[0], 127, 0, 0, 1);
socket(L, 2, 1, 0) && bind(L, $place) && listen(L, 1) or die "no: $!\n";
unless (fork) { accept(C, L); syswrite(C, "inside\n"); exit }
socket(S, 2, 1, 0) && connect(S, $place) or die "no: $!\n";
print while <S>;
"#;

/// The gateway of the default route in /proc/net/route, whose addresses are in the order of the network.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    let mut routes = routes
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let default = routes.find(|route| route.get(1) == Some(&"00000000"))?;
    let gateway = u32::from_str_radix(default.get(2)?, 16).ok()?;
    Some(Ipv4Addr::from(gateway.to_ne_bytes()))
}

#[test]
fn pasta_reaches_the_world_and_not_this_machine() {
    if machine::programs(&["perl"]).is_none() {
        return;
    }
    let port = greeter();
    for scene in with_pasta() {
        scene
            .mica(["import", "--host", "perl", "sh", "cat", "-t", "tools"])
            .ok();
        scene.write("ctx/call.pl", CALLER);
        scene.write("ctx/answer.pl", ANSWERER);
        scene.build("FROM tools\nCOPY *.pl /\n", ["-t", "caller"]).ok();
        let run = |network: &str, script: &str| {
            let args = ["run", "--rm", "--network", network, "caller", "sh", "-c", script];
            scene.mica(args).run()
        };
        let call = format!("perl /call.pl 127.0.0.1 {port}");
        let host = run("host", &call);
        assert!(host.has("hello from outside"), "{}", host.describe());
        let inside = run("pasta", &format!("{call}; cat /proc/net/route /etc/resolv.conf"));
        if inside.has("No external routable interface") {
            return machine::skip(Lack::Unavoidable, "this machine has no network");
        }
        let inside = inside
            .lacks("hello")
            .says("Connection refused")
            .says("nameserver 169.254.1.1");
        let outside = gateway(&inside.stdout()).expect("a way to the world");
        drop(run("pasta", &format!("perl /call.pl {outside} {port}")).lacks("hello"));

        // A server of its own does not clash with one outside, and builds have it too.
        let dockerfile =
            format!("FROM caller\nRUN perl /answer.pl {port} > /got && cat /proc/net/route > /routes\n");
        scene.build(&dockerfile, ["--network=pasta", "-t", "own"]).ok();
        assert_eq!(scene.cat("own", "/got"), "inside\n", "as {}", scene.who());
        assert!(gateway(&scene.cat("own", "/routes")).is_some());
        scene.is_clean();
        assert_eq!(pastas(&scene), Vec::<String>::new());
    }
}

/// The world behind the machine's network: greets over HTTP, and knows itself to be every name's address.
const WORLD: &str = r#"
use IO::Socket::INET;
use IO::Select;
my $web = IO::Socket::INET->new(Listen => 5, LocalPort => 8080, ReuseAddr => 1) or die "no: $!";
my $names = IO::Socket::INET->new(Proto => "udp", LocalPort => 53) or die "no: $!";
my $all = IO::Select->new($web, $names);
alarm 120;
while (my @ready = $all->can_read) {
    for my $one (@ready) {
        if ($one == $web) {
            my $client = $web->accept or next;
            sysread $client, my $request, 512;
            print $client "HTTP/1.0 200 OK\r\n\r\nhello from the world\n";
            close $client;
        } else {
            my $from = $names->recv(my $query, 512) or next;
            my ($id, $question) = (substr($query, 0, 2), substr($query, 12));
            $question = substr($question, 0, index($question, "\0") + 5);
            my $is_address = unpack("n", substr($question, -4)) == 1 ? 1 : 0;
            my $answer = $is_address ? pack("n n n N n C4", 0xc00c, 1, 1, 60, 4, 10, 77, 0, 1) : "";
            $names->send($id . pack("n5", 0x8180, 1, $is_address, 0, 0) . $question . $answer, 0, $from);
        }
    }
}
"#;

/// A machine of its own network namespace, with another one at the far end of a cable.
const CABLE: &str = "\
unshare --net perl world.pl > /dev/null 2>&1 & world=$!
trap 'kill $world' EXIT
until [ \"$(readlink /proc/$world/ns/net)\" != \"$(readlink /proc/self/ns/net)\" ]; do sleep 0.05; done
ip link set lo up
ip link add va type veth peer name vb netns $world
nsenter --target $world --net sh -c 'ip link set lo up; ip addr add 10.77.0.1/24 dev vb; ip link set vb up'
ip addr add 10.77.0.2/24 dev va; ip link set va up; ip route add default via 10.77.0.1
echo nameserver 10.77.0.1 > resolv.conf; mount --bind resolv.conf /etc/resolv.conf
";

#[test]
fn pasta_connects_outward_and_passes_names_on() {
    if machine::programs(&["pasta", "perl", "ip", "nsenter", "unshare"]).is_none() {
        return;
    }
    let Some(scene) = Scene::as_root() else { return };
    scene
        .mica(["import", "--host", "perl", "sh", "cat", "-t", "tools"])
        .ok();
    scene.write("ctx/call.pl", CALLER);
    let by_name = r#"my @found = gethostbyname "world.example"; print "address ", join(".", unpack "C4", $found[4]), "\n";"#;
    scene.write("ctx/find.pl", by_name);
    scene.build("FROM tools\nCOPY *.pl /\n", ["-t", "caller"]).ok();
    scene.write("world.pl", WORLD);
    scene.write(
        "script",
        format!(
            "set -eu\n{CABLE}\
             run() {{ '{}' run --rm --network=$1 caller sh -c \"$2\"; }}\n\
             run pasta 'perl /call.pl 10.77.0.1 8080; perl /find.pl; cat /etc/resolv.conf'\n\
             run none '! perl /call.pl 10.77.0.1 8080'\n",
            scene.program().display()
        ),
    );
    let run = scene
        .command("unshare")
        .args(["--net", "--mount", "sh", "script"])
        .run();
    if run.has("Operation not supported") || run.has("Unknown device type") {
        return machine::skip(Lack::Unavoidable, "this kernel has no veth");
    }
    let run = run
        .says("hello from the world")
        .says("address 10.77.0.1")
        .says("nameserver 169.254.1.1")
        .says("Network is unreachable");
    assert_eq!(run.count("hello from the world"), 1, "{}", run.describe());
    assert!(run.status.success(), "{}", run.describe());
    scene.is_clean();
}

#[test]
fn pasta_ends_with_mica_however_that_ends() {
    for scene in with_pasta() {
        let running = scene
            .mica(["run", "--rm", "--network=pasta", "base", "sleep", "1000"])
            .start();
        wait_until("pasta works", || {
            !pastas(&scene).is_empty() || running.has_ended()
        });
        if running.has_ended() {
            return machine::skip(Lack::Unavoidable, "this machine has no network");
        }
        running.signal(Signal::SIGKILL);
        drop(running.wait());
        wait_until("pasta has ended", || pastas(&scene).is_empty());
        scene.is_clean();
    }
}

/// The processes of pasta that a scene's commands left.
fn pastas(scene: &Scene) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    let temporary = scene.path("tmp").display().to_string();
    lines
        .filter(|line| line.contains("pasta") && line.contains(&temporary))
        .collect()
}

#[test]
fn a_missing_pasta_is_named_with_its_package() {
    let Some(scene) = Scene::changed_by(
        "for f in /usr/bin/pasta /usr/local/bin/pasta; do [ ! -e $f ] || mount --bind /dev/null $f; done\n",
    ) else {
        return;
    };
    base::load(&scene);
    scene
        .build("FROM base\nRUN --network=default true\n", ["--network=pasta"])
        .fails()
        .says("Dockerfile:2")
        .says("pasta")
        .says("apt-get install passt");
    scene
        .mica(["run", "--network=pasta", "base", "true"])
        .exits(125)
        .says("apt-get install passt");
    scene.is_clean();
}

/// Whether this machine has the controllers in the unified hierarchy, for root.
fn has_controllers() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    ["memory", "cpu", "pids"]
        .iter()
        .all(|name| controllers.split_whitespace().any(|found| found == *name))
}

#[test]
fn resources_are_limited_or_the_user_is_told() {
    let options = ["--memory=64m", "--cpus=0.5", "--pids-limit=20"];
    for scene in Scene::in_every_id_mode() {
        let dockerfile = "FROM base\nRUN for i in $(seq 30); do sleep 1 & done; wait\n";
        let built = scene.build(dockerfile, options).run();
        let run = scene
            .mica(["run", "--rm"])
            .args(options)
            .args(["base", "true"])
            .ok();
        if scene.is_root() && has_controllers() {
            drop(built.says("can't fork"));
            drop(run.lacks("nothing was limited"));
        } else if run.has("nothing was limited") {
            assert!(built.status.success(), "{}", built.describe());
            drop(
                built
                    .says("--memory, --cpus, --pids-limit: ")
                    .says("nothing was limited")
                    .says("systemd-run"),
            );
        }
        scene
            .mica(["run", "--memory", "x", "base", "true"])
            .exits(125)
            .says("64m");
        scene.is_clean();
    }
}
