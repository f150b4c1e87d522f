//! The cache by trace: a step whose inputs are the same is not executed again, whatever else has changed.
//!
//! Whether a step ran is told by what it made: it writes random bytes beside what it is about.

use mica_tests::Scene;

/// Builds `dockerfile` and returns what its step wrote to `/ran`.
fn ran(scene: &Scene, dockerfile: &str) -> String {
    scene.build(dockerfile, ["-t", "traced"]).ok();
    scene.cat("traced", "/ran")
}

const RAN: &str = "cat /proc/sys/kernel/random/uuid > /ran";

#[test]
fn a_step_that_did_not_read_what_changed_stays() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/lock", "one");
    scene.write("ctx/code", "one");
    let text = format!(
        "FROM base\nWORKDIR /app\nCOPY . .\nRUN wc -c lock && {RAN}\nRUN cat code > /copy\nENV A=b\n"
    );
    let first = ran(&scene, &text);
    scene.write("ctx/code", "two, and longer");
    let again = scene.build(&text, ["-t", "traced"]).ok();
    again.says(" CACHED (unchanged inputs: ");
    assert_eq!(
        scene.cat("traced", "/ran"),
        first,
        "nothing that it read has changed"
    );
    assert_eq!(scene.cat("traced", "/copy"), "two, and longer");
    scene.write("ctx/lock", "two");
    assert_ne!(ran(&scene, &text), first, "a file that it read has changed");
}

#[test]
fn what_several_layers_have_counts_once() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/a", "one");
    scene.write("ctx/b", "one");
    let text =
        "FROM base\nCOPY a b /src/\nRUN echo again >> /src/a; rm /home/user -r\nRUN cat /src/b > /dev/null\n";
    scene.build(text, ["-t", "traced"]).ok();
    scene.write("ctx/a", "two");
    let again = scene.build(text, ["-t", "traced"]).ok().says("#4 CACHED");
    scene.mkdir("m");
    let find = ["mount", "traced@3", "m", "--", "sh", "-c", "find m | wc -l"];
    let count = scene.mica(find).ok().stdout();
    again.says(&format!(" of {} files read)", count.trim()));
}

#[test]
fn what_was_made_on_nothing_is_not_taken_elsewhere() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/tool", "tool");
    let text = "FROM scratch AS tools\nCOPY tool /bin/\n\
                FROM base AS links\nRUN mkdir -p /usr/real && ln -s real /usr/link\n\
                FROM scratch AS made\nCOPY tool /usr/link/\n\
                FROM links\nCOPY --from=made / /made\nCOPY tool /usr/link/\n";
    scene.build(text, ["-t", "traced"]).ok();
    assert_eq!(
        scene.cat("traced", "/usr/real/tool"),
        "tool",
        "the link still leads there"
    );
}

#[test]
fn docker_s_semantics_can_be_had() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "one");
    let text = format!("FROM base\nCOPY code /code\nRUN {RAN}\n");
    let first = ran(&scene, &text);
    scene.write("ctx/code", "two");
    let build = || scene.rebuild(["--cache=content", "-t", "traced"]).ok();
    build();
    let second = scene.cat("traced", "/ran");
    assert_ne!(second, first, "the layer below it is another one");
    build().says("CACHED");
    assert_eq!(scene.cat("traced", "/ran"), second);
    scene.write("ctx/code", "one");
    build();
    assert_ne!(
        scene.cat("traced", "/ran"),
        first,
        "no result of the other way is taken"
    );
}

/// Dates all files of the context anew, as a fresh clone does.
fn clone_afresh(scene: &Scene) {
    scene.shell("sleep 0.02; find ctx -exec touch {} +").ok();
}

#[test]
fn a_fresh_clone_of_the_same_sources_hits() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/src/lock", "one");
    scene.write("ctx/src/code", "one");
    scene.shell("ln -s code ctx/src/link").ok();
    let text = format!("FROM base\nCOPY src /src\nRUN stat -c %y /src/lock /src/link /src > /times; {RAN}\n");
    let first = ran(&scene, &text);
    // Another file has changed, so that the files are copied again.
    scene.write("ctx/src/code", "two, and longer");
    clone_afresh(&scene);
    assert_eq!(
        ran(&scene, &text),
        first,
        "what it looked at is the same but for its time"
    );
    scene.write("ctx/src/lock", "two");
    assert_ne!(ran(&scene, &text), first);
    let changed = scene.cat("traced", "/times");
    scene.write("ctx/src/code", "three");
    clone_afresh(&scene);
    scene
        .build(&text.replace("RUN", "RUN true; "), ["-t", "traced"])
        .ok();
    assert_eq!(
        scene.cat("traced", "/times"),
        changed,
        "the changed file keeps its new time"
    );
    // Without traces every file has its own time.
    scene.build(&text, ["--cache=content", "-t", "traced"]).ok();
    assert_ne!(scene.cat("traced", "/times"), changed);
}

#[test]
fn a_changed_source_is_newer_than_what_was_made_of_the_old_one() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/a", "one");
    scene.write("ctx/b", "one");
    // What was made is kept in a cache, and is there still when the sources change.
    let text = "FROM base\nCOPY a b /\nRUN --mount=type=cache,target=/made for f in a b; do \
                case $(stat -c '%y %n' /$f /made/$f | sort | tail -n 1) in */made/*) ;; \
                *) cp /$f /made/$f; echo $f >> /done;; esac; done; cat /made/* > /all\n";
    scene.build(text, ["-t", "traced"]).ok();
    assert_eq!(scene.cat("traced", "/done"), "a\nb\n");
    scene.write("ctx/b", "two");
    // The checkout is older than what was made, as far as the unchanged file goes; the changed one is new.
    scene.shell("sleep 0.02; touch ctx/a ctx/b").ok();
    scene.build(text, ["-t", "traced"]).ok();
    assert_eq!(scene.cat("traced", "/done"), "b\n");
    assert_eq!(scene.cat("traced", "/all"), "onetwo");
}

#[test]
fn a_step_that_makes_what_it_made_before_stops_the_change() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "x # one\n");
    let text =
        format!("FROM base\nCOPY code /code\nRUN sed 's/ *#.*//' /code > /made\nRUN cat /made; {RAN}\n");
    let first = ran(&scene, &text);
    scene.write("ctx/code", "x # another remark\n");
    let again = scene.build(&text, ["-t", "traced"]).ok();
    assert_eq!(
        again.count(" DONE "),
        2,
        "the copy and the first command: {}",
        again.describe()
    );
    assert_eq!(scene.cat("traced", "/ran"), first);
    assert_eq!(scene.cat("traced", "/code"), "x # another remark\n");
    scene.write("ctx/code", "y # another remark\n");
    assert_ne!(ran(&scene, &text), first);
}

/// What was made before looks older than the change: a program that goes by times must not see that.
#[test]
fn what_was_made_before_is_not_shown_to_a_step_that_goes_by_times() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "x # one\n");
    let text = "FROM base\nCOPY code /code\nRUN sed 's/ *#.*//' /code > /made\n\
                RUN stat -c '%y %n' /code /made | sort | tail -n 1 | grep /made && cp /code /copy\n";
    scene.build(text, ["-t", "traced"]).ok();
    scene.write("ctx/code", "x # another remark\n");
    scene.build(text, ["-t", "traced"]).ok();
    assert_eq!(scene.cat("traced", "/copy"), "x # another remark\n");
    let stages = text
        .replace("FROM base", "FROM base AS first")
        .replace("RUN stat", "FROM first\nRUN stat");
    scene.build(&stages, ["-t", "traced"]).ok();
    scene.write("ctx/code", "x # a third remark\n");
    scene.build(&stages, ["-t", "traced"]).ok();
    assert_eq!(scene.cat("traced", "/copy"), "x # a third remark\n");
}

#[test]
fn hits_can_be_verified() {
    let Some(scene) = Scene::with_base() else { return };
    scene.write("ctx/code", "one");
    scene.write("ctx/other", "one");
    let steady = "FROM base\nCOPY . /src\nRUN cat /src/code > /copy; date +%s%N > /date\nWORKDIR /src\n";
    scene.build(steady, ["-t", "traced"]).ok();
    scene.write("ctx/other", "two");
    let verified = scene.build(steady, ["--verify-cache", "-t", "traced"]).ok();
    verified.says("unchanged inputs");
    // Names that are invented each time.
    let inventive = "FROM base\nRUN mkdir /d && mktemp -d /d/XXXXXX > /dev/null && echo kept > /d/kept\n";
    scene.build(inventive, ["-t", "traced"]).ok();
    scene
        .rebuild(["--verify-cache", "-t", "traced"])
        .ok()
        .says("CACHED");
    // What a command takes from outside is no input: here it makes the cache wrong.
    let dir = scene.mkdir("outside");
    scene.write("outside/file", "one");
    let volume = format!("--volume={}:/outside:ro", dir.display());
    let text = "FROM base\nRUN mkdir -p /d; cat /outside/file > /d/copy; echo same > /d/same\n\
                RUN mkdir /e; mktemp /e/XXXXXX > /dev/null\n";
    scene.build(text, [volume.as_str(), "-t", "traced"]).ok();
    scene.write("outside/file", "two");
    scene
        .rebuild([volume.as_str(), "-t", "traced"])
        .ok()
        .says("CACHED");
    scene.rebuild([volume.as_str(), "--verify-cache=0%"]).ok();
    let wrong = scene
        .rebuild([volume.as_str(), "--verify-cache=100%", "-t", "traced"])
        .fails();
    wrong.says("another result").says("is executed: /d/copy\n");
    scene
        .rebuild(["--verify-cache=101%"])
        .fails()
        .says("from 0 to 100");
}
