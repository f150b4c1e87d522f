//! Any process of a build killed at any moment: no process, no mount, no connection of FUSE is left, and the store is
//! whole.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mica_tests::command::{Run, tool, wait_until};
use mica_tests::scene::{NO_SUBORDINATE_IDS, TUN};
use mica_tests::{Scene, base, leftovers, machine};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Builds with every kind of mount, network and user; a number makes each its own.
const DOCKERFILES: &[&str] = &[
    "\
FROM base
RUN --mount=type=cache,target=/c --mount=type=secret,id=key --mount=type=tmpfs,target=/t \\
    (sleep 71106 &); seq 1 20000 > /fNUMBER && mkdir /d && seq 1 200 | (cd /d; xargs touch) && \\
    cp /fNUMBER /c && cp /run/secrets/key /t && sleep 0.1
",
    "\
FROM base AS one
RUN --network=none (setsid sleep 71106 &); chown -R 1000:1000 /home; seq 1 20000 > /fNUMBER; sleep 0.1
FROM base AS two
USER user
RUN seq 1 20000 > /tmp/fNUMBER; sleep 0.1; stat /tmp/fNUMBER
FROM base
COPY --from=one /fNUMBER /one
COPY --from=two /tmp/fNUMBER /two
RUN --mount=type=bind,from=one,target=/m,rw rm /m/fNUMBER; cat /one /two > /both
",
    "\
FROM base
RUN cat /proc/net/route; seq 1 20000 > /fNUMBER; chown 7:7 /fNUMBER; sleep 0.1
RUN --mount=type=cache,target=/c,uid=5 cat /fNUMBER > /c/f; touch /gNUMBER; (sleep 71106 &)
",
];

/// A build of the `n`-th kind.
fn build(scene: &Scene, n: usize, kinds: usize) -> Run {
    let kind = n % kinds;
    let text = DOCKERFILES[kind].replace("NUMBER", &n.to_string());
    let network = ["--network=host", "--network=host", "--network=pasta"][kind];
    let build = scene.build(&text, [network, "--secret=id=key,src=secret", "-t", "perhaps"]);
    match n % 8 {
        0 => build.env("PATH", format!("{}:{USUAL}", scene.path(SLOW).display())),
        _ => build,
    }
}

const USUAL: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a helper that maps ids takes its time: it is usually done after two milliseconds, before it can be hit.
const SLOW: &str = "slow";
const SLOW_HELPER: &str = "#!/bin/sh\nsleep 0.03\nexec /usr/bin/newuidmap \"$@\"\n";

fn is_mapper(process: &leftovers::Descendant) -> bool {
    process.name.ends_with("/newuidmap") || process.name.ends_with("/newgidmap")
}

/// Kills one process of each build, whichever it is: mica, the helpers that map ids, the launcher of a step, its PID 1,
/// one of the command's, pasta. Answers how often which was hit, as the names of its parent and itself.
fn kill_any(scene: &Scene, times: usize, kinds: usize) -> BTreeMap<String, usize> {
    let mut random: u32 = 12_345;
    let mut next = |below: usize| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 8) as usize % below
    };
    let spans: Vec<_> = (0..kinds)
        .map(|n| {
            let begun = Instant::now();
            build(scene, n, kinds).ok();
            begun.elapsed()
        })
        .collect();
    let mut hits = BTreeMap::new();
    for n in kinds..kinds + times {
        let kept: BTreeSet<_> = leftovers::descendants().into_iter().map(|one| one.pid).collect();
        let family = || {
            let all = leftovers::descendants().into_iter();
            all.filter(|process| !kept.contains(&process.pid))
                .collect::<Vec<_>>()
        };
        let running = build(scene, n, kinds).start();
        let mica = running.pid();
        let family = if n % 8 == 0 {
            loop {
                let seen = family();
                if seen.len() > 3 || seen.iter().any(is_mapper) || running.has_ended() {
                    break seen;
                }
            }
        } else if n % 4 == 0 {
            // What begins with the first helper is short, and much.
            wait_until("mica is not alone", || family().len() > 1 || running.has_ended());
            thread::sleep(Duration::from_millis(next(20) as u64));
            family()
        } else {
            thread::sleep(spans[n % kinds] * next(1000) as u32 / 1000);
            family()
        };
        let mut names: Vec<_> = family.iter().map(|process| &process.name).collect();
        names.sort();
        names.dedup();
        // These two are always there.
        if n % 2 == 0 && names.len() > 2 {
            names.retain(|name| !["/mica", "mica/mica-keeper"].contains(&name.as_str()));
        }
        if let Some(mapper) = family.iter().find(|process| n % 8 == 0 && is_mapper(process)) {
            names = vec![&mapper.name];
        }
        let mut was_mica = false;
        if let Some(name) = names.get(next(names.len().max(1))) {
            let same: Vec<_> = family.iter().filter(|process| process.name == **name).collect();
            let victim = same[next(same.len())].pid;
            was_mica = victim == mica.as_raw();
            // It may have ended meanwhile.
            if kill(Pid::from_raw(victim), Signal::SIGKILL).is_ok() {
                *hits.entry((*name).clone()).or_default() += 1;
            }
        }
        wait_until("the build ends", || running.has_ended());
        let outcome = running.wait().lacks("panicked at");
        assert!(
            was_mica || outcome.status.code().is_some(),
            "{}",
            outcome.describe()
        );
        wait_until("the processes are gone", || {
            let left = leftovers::descendants().into_iter();
            left.filter(|process| !kept.contains(&process.pid)).count() == 0
        });
        wait_until("the mounts are gone", || scene.mounts().is_empty());
        wait_until("the connections are gone", || {
            leftovers::connections_without_mount().is_empty()
        });
        scene.mica(["fsck"]).ok();
        scene.is_clean();
    }
    hits
}

#[test]
// How often what was killed is what the test is to show.
#[allow(clippy::print_stderr)]
fn any_process_killed_at_any_moment_leaves_nothing() {
    if !machine::is_root() {
        return machine::skip(machine::Lack::Mendable, "only root sees all that is left");
    }
    // Whose parent is killed becomes a child of this process.
    prctl::set_child_subreaper(true).expect("every process may");
    let scenes = [
        Scene::as_root(),
        Scene::user_changed_by(TUN).inspect(base::load),
        Scene::user_changed_by(&format!("{NO_SUBORDINATE_IDS}{TUN}")).inspect(base::load),
    ];
    for (scene, mode) in scenes.into_iter().flatten().zip(["root", "subuid", "single"]) {
        scene.write("secret", "hidden\n");
        scene.write(&format!("{SLOW}/newuidmap"), SLOW_HELPER);
        let helper = fs::Permissions::from_mode(0o755);
        fs::set_permissions(scene.path(SLOW).join("newuidmap"), helper).expect("it is the test's");
        let pasta = machine::programs(&["pasta"]).is_some() && build(&scene, 2, 3).run().status.success();
        let kinds = if pasta { 3 } else { 2 };
        let hits = kill_any(&scene, machine::either(12, 200), kinds);
        eprintln!("{mode}, {kinds} kinds of builds: {hits:?}");
        if machine::is_long() {
            let mapper = (mode == "subuid").then_some("mica/newuidmap");
            let names = ["/mica", "mica/mica-init", "mica-init/mica-init", "mica-init/sh"];
            for name in names.into_iter().chain(mapper) {
                assert!(hits.contains_key(name), "{name} in {hits:?}");
            }
        }
        let whole = scene.build("FROM base\nRUN echo whole > /f\n", ["-t", "whole"]);
        whole.ok();
        assert_eq!(scene.cat("whole", "/f"), "whole\n", "{mode}");
    }
}

/// A thread of mica asks mica's own mount for the owners of its files: of those that answer it, none may die first.
/// In a container the first process may wait for nobody: who is left to it would stay for good.
#[test]
fn nobody_has_to_be_waited_for_after_a_build() {
    prctl::set_child_subreaper(true).expect("every process may");
    for scene in Scene::in_every_id_mode() {
        scene.build("FROM base\nRUN true\n", ["-t", "done"]).ok();
        scene.mica(["run", "--rm", "base", "true"]).ok();
        thread::sleep(Duration::from_millis(100));
        let ended = waitpid(None, Some(WaitPidFlag::WNOHANG));
        let nobody = matches!(ended, Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD));
        assert!(nobody, "as {}: {ended:?}", scene.who());
    }
}

#[test]
fn mica_killed_while_it_waits_for_its_own_mount_leaves_nothing() {
    let Some(scene) = Scene::as_plain_user() else {
        return;
    };
    let asking = "touch /f; chown 5 /f; for i in 1 2 3; do while true; do stat /f > /dev/null; done & done; sleep 71107";
    for _ in 0..machine::either(10, 100) {
        let running = scene.mica(["run", "--rm", "base", "sh", "-c", asking]).start();
        wait_until("the step runs", || {
            is_running("sleep 71107") || running.has_ended()
        });
        running.signal(Signal::SIGKILL);
        running.wait();
        wait_until("the step is gone", || !is_running("sleep 71107"));
    }
    scene.is_clean();
}

fn is_running(command: &str) -> bool {
    let processes = tool("ps", Path::new("/")).args(["-eo", "args"]).ok().stdout();
    processes.lines().any(|line| line == command)
}
