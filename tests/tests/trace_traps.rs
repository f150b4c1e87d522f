//! Programs that would deceive a cache which looks at less than they do: for each a change that it must notice, beside
//! many that it must not.

use mica_tests::Scene;
use mica_tests::changes::{Change, Step, Traced, tools};

/// The sources: all that the steps look at.
const SOURCES: &str = r#"
mkdir -p ctx/src ctx/owned && cd ctx/src
mkdir make python lib find ls tar stat bin1 bin2 mmap opath glob exec hard chain chain/real parent parent/d own full append mode own/sub
echo one > make/in; printf 'out: in\n\tcp in out\n' > make/Makefile
echo 'import helper; print(helper.ANSWER)' > python/main.py; echo 'ANSWER = 1' > python/helper.py
echo not a library > lib/libx.so.1
mkdir find/deep; echo one > find/deep/file
echo one > ls/file; echo one > tar/file
printf '#!/bin/sh\necho one\n' | tee stat/tool exec/run bin2/tool > /dev/null
chmod 755 stat/tool exec/run bin2/tool
echo other > bin1/other
echo one > mmap/data; echo one > opath/file; echo one > glob/a.txt; echo one > own/other
echo one > hard/a; ln hard/a hard/b
echo one > chain/real/data; echo two > chain/real/more; ln -s second chain/first; ln -s real/data chain/second
echo one > parent/d/file; echo x > full/x; echo one > append/log; echo one > mode/file
echo one > unread; echo one > xattr; echo one > ../owned/file
"#;

const INSTRUCTIONS: &str = "\
COPY src /src
COPY --from=owned /owned /owned
RUN touch -d @5 /marked && python3 -c \"import os; os.setxattr('/marked', 'user.x', open('/src/xattr', 'rb').read())\"";

const STEPS: [Step; 24] = [
    ("make", "cd /src/make && make"),
    (
        "python",
        "python3 /src/python/main.py && ls /src/python/__pycache__",
    ),
    ("ldconfig", "ldconfig -C /cache -n /src/lib"),
    ("find", "find /src/find > /list"),
    ("ls", "ls -l /src/ls > /list"),
    ("tar", "tar --create --newer=2020-01-01 --file=/made.tar /src/tar"),
    ("stat", "if [ -x /src/stat/tool ]; then echo yes > /said; fi"),
    ("search", "PATH=/src/bin1:/src/bin2:$PATH; tool > /said"),
    (
        "mmap",
        "python3 -c \"import mmap; f = open('/src/mmap/data'); print(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[:])\" \
         > /said",
    ),
    (
        "opath",
        "python3 -c \"import os; print(os.fstat(os.open('/src/opath/file', os.O_PATH)).st_size)\" > /said",
    ),
    ("glob", "cd /src/glob && echo *.txt > /said"),
    ("script", "/src/exec/run > /said"),
    ("loader", "cd /src && /bin/sh exec/run > /said"),
    ("hard", "stat -c %h /src/hard/a > /said"),
    ("chain", "cat /src/chain/first > /said"),
    ("parent", "mv /src/parent /moved && ls /moved/d/file"),
    (
        "xattr",
        "python3 -c \"import os; print(os.getxattr('/marked', 'user.x'))\" > /said",
    ),
    (
        "own",
        "echo new > /src/own/new && cat /src/own/new && ls /src/own",
    ),
    ("rmdir", "rmdir /src/full || echo not empty > /said"),
    ("append", "echo more >> /src/append/log"),
    ("chmod", "chmod 600 /src/mode/file"),
    ("owner", "stat -c %u /owned/file > /said"),
    (
        "replace",
        "rm -rf /src/full && mkdir /src/full && echo new > /src/full/y",
    ),
    ("nothing", "echo nothing > /said"),
];

const CHANGES: [Change; 8] = [
    Change {
        name: "a new checkout, and what nobody reads",
        script: "echo two > src/unread; echo new > src/bin1/more; echo new > src/mode/more; echo new > src/append/more",
        args: &[],
        misses: &[],
    },
    Change {
        name: "contents of the same size",
        script: "cd src; echo two > make/in; echo 'ANSWER = 2' > python/helper.py; echo two > mmap/data; \
                 echo two > chain/real/data; echo two > append/log; echo two > mode/file; echo two > glob/a.txt; \
                 echo two > find/deep/file",
        args: &[],
        misses: &["make", "python", "mmap", "chain", "append", "chmod"],
    },
    Change {
        name: "more contents of the same size",
        script: "cd src; printf '#!/bin/sh\\necho two\\n' > exec/run; printf '#!/bin/sh\\necho two\\n' > bin2/tool; \
                 echo two > tar/file; echo two > ls/file; echo two > parent/d/file; echo NOT a library > lib/libx.so.1",
        args: &[],
        misses: &["script", "loader", "search", "tar", "ls", "parent", "ldconfig"],
    },
    Change {
        name: "modes",
        script: "cd src; chmod 600 ls/file stat/tool; chmod 700 parent/d; chmod 777 unread",
        args: &[],
        misses: &["ls", "stat", "parent"],
    },
    Change {
        name: "an owner",
        script: "true",
        args: &["--build-arg=OWNER=7"],
        misses: &["owner"],
    },
    Change {
        name: "new names in directories that are listed",
        script: "cd src; touch find/deep/new glob/b.txt ls/new python/new.py lib/new parent/d/new tar/new own/sub/new",
        args: &[],
        misses: &["find", "glob", "ls", "python", "ldconfig", "parent", "tar"],
    },
    Change {
        name: "names where there was none",
        script: "cd src; cp -p bin2/tool bin1/tool; cp -p make/Makefile make/GNUmakefile; touch own/new; rm full/x",
        args: &[],
        misses: &["search", "make", "own", "rmdir", "replace"],
    },
    Change {
        name: "links, sizes and attributes",
        script: "cd src; cp hard/a hard/c; mv hard/c hard/b; ln -sfn real/more chain/second; echo longer > opath/file; \
                 echo two > xattr",
        args: &[],
        misses: &["hard", "chain", "opath", "xattr"],
    },
];

#[test]
fn programs_that_look_in_every_way_are_executed_if_what_they_look_at_has_changed() {
    let Some(scene) = Scene::with_base() else { return };
    if tools(&scene).is_none() {
        return;
    }
    scene.shell(SOURCES).ok();
    let traced = Traced::begin(&scene, INSTRUCTIONS, &STEPS);
    for change in &CHANGES {
        traced.check(change);
    }
    traced.verify();
}
