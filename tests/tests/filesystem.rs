//! The suites that the field tests filesystems with, on real mounts, in each uid mode: pjdfstest (POSIX semantics of
//! system calls), fsx (file data against a model), stress-ng (everything at once, with verification).
//!
//! There is no list of expected failures. What fails on a filesystem of the kernel in the same place, since the place
//! forbids it (a user namespace has no device nodes), is not asked of ours.

use std::collections::BTreeSet;

use mica_tests::way::Ground;
use mica_tests::{Outcome, Way, machine};

/// Everyone gets all rights over devices and set-user-ID bits that the way has to give.
const OPTIONS: &str = "--dev --suid";

mod pjdfstest {
    use super::*;

    const CONFIGURATION: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = REMOUNT
expected_failures = []
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

    /// What the suite said, by test.
    #[derive(Default)]
    struct Report {
        passed: BTreeSet<String>,
        failed: BTreeSet<String>,
        skipped: BTreeSet<String>,
    }

    impl Report {
        /// Lines of `NAME ok`, `NAME FAILED` or `NAME skipped`, coloured, with details between them.
        fn of(outcome: &Outcome) -> Self {
            let mut report = Self::default();
            for line in outcome.stdout().lines() {
                let plain = without_colour(line);
                let mut words = plain.split_whitespace();
                let (Some(name), Some(verdict), None) = (words.next(), words.next(), words.next()) else {
                    continue;
                };
                let set = match verdict {
                    "ok" => &mut report.passed,
                    "FAILED" => &mut report.failed,
                    "skipped" => &mut report.skipped,
                    _ => continue,
                };
                set.insert(name.to_owned());
            }
            let ended = outcome.stdout().contains("Summary:");
            assert!(ended, "the suite broke off\n{}", outcome.describe());
            report
        }
    }

    fn without_colour(line: &str) -> String {
        let mut parts = line.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + part.split_once('m').map_or("", |(_, rest)| rest)
        })
    }

    /// Where the suite runs.
    struct Suite<'a> {
        ground: &'a Ground,
        program: String,
    }

    impl Suite<'_> {
        /// Runs the tests whose names have `pattern` in `directory`, the mount or a tmpfs beside it; the other of the
        /// two is the second filesystem for what must not cross a border.
        fn run(&self, directory: &str, pattern: &str) -> Report {
            let remount = pattern == READ_ONLY;
            let configuration = CONFIGURATION.replace("REMOUNT", &remount.to_string());
            self.ground.scene.write("pjdfstest.toml", configuration);
            let program = &self.program;
            // mount(8) would look for a program that remounts by the type of the filesystem.
            let script = match self.ground.way {
                Way::Helper => format!("{program} -c pjdfstest.toml -p $PWD/{directory} {pattern} || true"),
                Way::Root | Way::Namespace => format!(
                    "mkdir -p tmpfs bin; mount -t tmpfs -o mode=755 tmpfs tmpfs\n\
                     printf '#!/bin/sh\\nexec /bin/mount -i \"$@\"\\n' > bin/mount; chmod +x bin/mount\n\
                     second=tmpfs; [ {directory} = m ] || second=m\n\
                     PATH=$PWD/bin:$PATH {program} -c pjdfstest.toml -p $PWD/{directory} -s $PWD/$second {pattern} || true\n\
                     umount tmpfs"
                ),
            };
            Report::of(&self.ground.ok("base", OPTIONS, &script))
        }
    }

    /// The tests that make the filesystem read-only meanwhile. They run apart: others leave files open.
    const READ_ONLY: &str = "erofs";

    fn check(way: Way, least: usize) {
        let Some(program) = machine::suite("pjdfstest") else {
            return;
        };
        for ground in Way::grounds(&[way]) {
            let suite = Suite {
                program: ground.install(&program),
                ground: &ground,
            };
            let mut ours = suite.run("m", "");
            // In a namespace the kernel refuses what needs rights over the machine, as a device node, whatever the
            // filesystem: what fails there on tmpfs as well says nothing about ours.
            let impossible = match way {
                Way::Namespace => suite.run("tmpfs", "").failed,
                Way::Root | Way::Helper => BTreeSet::new(),
            };
            if way == Way::Root {
                let read_only = suite.run("m", READ_ONLY);
                ours.passed.extend(read_only.passed);
                ours.failed.extend(read_only.failed);
            }
            let failed: Vec<_> = ours.failed.difference(&impossible).collect();
            assert!(
                failed.is_empty(),
                "{} failed as {way:?}: {failed:#?}",
                failed.len()
            );
            let skipped: Vec<_> = ours.skipped.difference(&ours.passed).collect();
            assert!(
                ours.passed.len() >= least,
                "only {} passed as {way:?}; skipped: {skipped:#?}",
                ours.passed.len()
            );
            ground.scene.is_clean();
        }
    }

    // Of 398. The one that root leaves out makes as many links as the filesystem says it can have, which FUSE cannot
    // say; a namespace has no device nodes, and a user can become nobody else.
    #[test]
    fn as_root() {
        check(Way::Root, 397);
    }

    #[test]
    fn in_a_user_namespace() {
        check(Way::Namespace, 330);
    }

    #[test]
    fn as_a_user() {
        check(Way::Helper, 250);
    }
}

mod fsx {
    use super::*;

    /// Which operations, on how large a file. The names are for messages.
    const CONFIGURATIONS: [(&str, &str); 4] = [
        (
            "all",
            "flen = 1048576\n\
             [weights]\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ntruncate = 5\nclose_open = 1\n\
             invalidate = 1\nfsync = 0.3\nfdatasync = 0.3\nposix_fallocate = 2\npunch_hole = 2\nsendfile = 2\n\
             posix_fadvise = 1\ncopy_file_range = 2\n",
        ),
        // Around the size up to which a file is kept in memory.
        (
            "small",
            "flen = 40000\n[opsize]\nmin = 1\nmax = 8000\n\
             [weights]\nread = 10\nwrite = 10\nmapread = 5\nmapwrite = 5\ntruncate = 10\nclose_open = 2\n\
             invalidate = 1\nfsync = 0.1\nposix_fallocate = 2\npunch_hole = 2\n",
        ),
        (
            "large",
            "flen = 16777216\n[opsize]\nmin = 1\nmax = 1048576\n\
             [weights]\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ntruncate = 2\nclose_open = 2\n",
        ),
        // The file keeps its size, so that an inherited one is changed in its places only.
        (
            "in-place",
            "blockmode = true\n\
             [weights]\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ntruncate = 0\nclose_open = 0\n\
             invalidate = 1\nfsync = 0.1\nsendfile = 1\nposix_fadvise = 1\ncopy_file_range = 1\n",
        ),
    ];
    /// Otherwise each write by a mapping waits for the disk, and the kernel has nothing left to hold back.
    const UNSYNCED: &str = "nomsyncafterwrite = true\n";

    /// Bytes in an inherited file.
    const SIZE: u32 = 300_001;

    fn check(way: Way, seeds: u32) {
        let Some(program) = machine::suite("fsx") else {
            return;
        };
        let (seeds, operations) = machine::either((seeds, 4000), (60, 40_000));
        for ground in Way::grounds(&[way]) {
            let program = ground.install(&program);
            let scene = &ground.scene;
            // Neither zeros nor a whole number of pages.
            let bytes: Vec<u8> = (0..SIZE)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
                .collect();
            scene.write("ctx/inherited", bytes);
            let names = CONFIGURATIONS.map(|(name, _)| name).join(" ");
            let dockerfile = format!(
                "FROM base\nCOPY --chmod=666 inherited /\n\
                 RUN mkdir -m 777 fresh inherit && for name in {names}; do for seed in $(seq {seeds}); do \
                 cp -p inherited inherit/$name-$seed; done; done\n"
            );
            scene.build(&dockerfile, ["-t", "app"]).ok();
            scene.mkdir("logs");
            let mut script = String::new();
            for (name, configuration) in CONFIGURATIONS {
                scene.write(&format!("fsx-{name}.toml"), UNSYNCED.to_owned() + configuration);
                // A large operation moves as much as thirty small ones.
                let operations = if name == "large" {
                    operations / 30
                } else {
                    operations
                };
                for seed in 1..=seeds {
                    for kind in ["fresh", "inherit"] {
                        let file = format!("m/{kind}/{name}-{seed}");
                        script += &format!(
                            "[ -e {file} ] || truncate -s {SIZE} {file}\n\
                             {program} -q -S {seed} -N {operations} -f fsx-{name}.toml -P logs {file} >logs/last 2>&1 || \
                             {{ echo FAILED {file}; cat logs/last; }}\n\
                             rm {file}\n"
                        );
                    }
                }
            }
            let outcome = ground.ok("app", OPTIONS, &script);
            outcome.lacks("FAILED");
            scene.is_clean();
        }
    }

    #[test]
    fn as_root() {
        check(Way::Root, 3);
    }

    #[test]
    fn in_a_user_namespace() {
        check(Way::Namespace, 1);
    }

    #[test]
    fn as_a_user() {
        check(Way::Helper, 1);
    }
}

mod stress_ng {
    use super::*;

    /// Those of the class `filesystem`, and of memory mapped from files, that work on files of a directory; others
    /// of the class look at the machine: `/proc`, devices, mounts.
    const STRESSORS: &str = "access chattr chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate \
                             fcntl fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags \
                             inotify io iomix lease link locka lockf lockofd metamix mknod mmap mmapfiles mmapmany open \
                             rename seek symlink sync-file touch unlink utime verity xattr";

    fn check(way: Way) {
        if machine::programs(&["stress-ng"]).is_none() {
            return;
        }
        let (alone, together) = machine::either((0, 10), (5, 120));
        // On a mount of `fusermount3` its only user may do everything, so who may do what is no question there.
        let about_permissions = |name: &&str| matches!(*name, "access" | "chown");
        let stressors = STRESSORS.split_whitespace();
        let stressors: Vec<_> = stressors
            .filter(|name| way != Way::Helper || !about_permissions(name))
            .collect();
        let stressors = stressors.join(" ");
        let script = format!(
            "mkdir -m 777 m/stress; known=\" $(stress-ng --stressors) \"; all=\n\
             stress() {{\n\
               status=0; stress-ng \"$@\" --verify --temp-path m/stress >log 2>&1 || status=$?\n\
               case $status in 0|3|4) ;; *) echo \"FAILED $*: $status\"; cat log;; esac\n\
             }}\n\
             for name in {stressors}; do case \"$known\" in *\" $name \"*)\n\
               all=\"$all --$name 1\"; [ {alone} = 0 ] || stress --$name 2 --timeout {alone}s\n\
             esac; done\n\
             stress $all --timeout {together}s\n\
             grep successful log\n\
             rm -r m/stress"
        );
        for ground in Way::grounds(&[way]) {
            ground
                .ok("base", OPTIONS, &script)
                .lacks("FAILED")
                .says("successful run completed");
            ground.scene.is_clean();
        }
    }

    #[test]
    fn as_root() {
        check(Way::Root);
    }

    #[test]
    fn in_a_user_namespace() {
        check(Way::Namespace);
    }

    #[test]
    fn as_a_user() {
        check(Way::Helper);
    }
}
