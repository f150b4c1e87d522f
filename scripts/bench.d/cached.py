"""The cache by trace: rebuilds after a change that a step does not read, what recording costs, and what it keeps."""
import os, shutil, sqlite3, statistics, subprocess, tempfile, time

FILES = 20_000
# What each is to take at most.
GOALS = {"rebuild": "0.10 s", "check": "0.02 s", "record": "x1.05", "kept": "50 MB"}
TOOLS = ["sh", "find", "sleep", "cat", "cp", "mkdir", "seq", "date"]


def measure(mica, work, reps):
    """Rows of a table; `mica` is the program without a store."""
    work = tempfile.mkdtemp(dir=work, prefix="cached.")
    run = [mica, "--root", os.path.join(work, "store")]
    try:
        subprocess.run([*run, "import", "--host", *TOOLS, "-t", "tools"], check=True, stdout=subprocess.DEVNULL)
        rows = [*rebuild(run, work, reps), *check(run, work, reps), *record(run, work, reps), *kept(run, work)]
    finally:
        shutil.rmtree(work)
    lines = ["| | median | least | most | goal |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def project(work, name, dockerfile, files):
    context = os.path.join(work, name)
    os.makedirs(context, exist_ok=True)
    for path, text in {"Dockerfile": dockerfile, **files}.items():
        os.makedirs(os.path.dirname(os.path.join(context, path)), exist_ok=True)
        with open(os.path.join(context, path), "w") as file:
            file.write(text)
    return context


def build(run, context, *args):
    start = time.monotonic()
    done = subprocess.run([*run, "build", "--progress=plain", "-t", "bench", *args, context], check=True,
                          capture_output=True, text=True)
    return time.monotonic() - start, done.stderr


def row(what, values, goal):
    return [what, *(f"{v:.3f} s" for v in (statistics.median(values), min(values), max(values))), goal]


def rebuild(run, work, reps):
    """A change of one line of the code, `COPY . .` before a command of 3 s that reads another file."""
    files = {f"src/module{n}.txt": f"{n}\n" * 20 for n in range(200)}
    text = "FROM tools\nWORKDIR /app\nCOPY . .\nRUN cat lock && sleep 3\nRUN cat lock\nCMD [\"cat\"]\n"
    context = project(work, "rebuild", text, {**files, "lock": "1\n"})
    build(run, context)
    times = []
    for n in range(reps + 1):
        project(work, "rebuild", text, {"src/module7.txt": f"changed {n}\n"})
        seconds, log = build(run, context)
        assert log.count("unchanged inputs") >= 2, log
        times.append(seconds)
    return [row("rebuild after a one-line change, `COPY . .` before a RUN of 3 s", times[1:], GOALS["rebuild"])]


def check(run, work, reps):
    """How much longer a build takes for the check of a read set of 20,000 paths."""
    files = {f"tree/{n // 200}/file{n}": "" for n in range(FILES)}
    text = "FROM tools\nCOPY tree /tree\nCOPY other /other\nRUN %s\n"
    times = {}
    for name, command in {"small": "cat /bin/none || true", "large": "find /tree -size +1"}.items():
        context = project(work, name, text % command, {**files, "other": "0\n"})
        build(run, context)
        times[name] = []
        for n in range(reps):
            project(work, name, text % command, {"other": f"changed {n}\n"})
            seconds, log = build(run, context)
            assert log.count("unchanged inputs") == 1, log
            times[name].append(seconds)
    least = min(times["small"])
    return [row("check of a read set of 20,000 paths", [t - least for t in times["large"]], GOALS["check"])]


def record(run, work, reps):
    """A command that reads 5,000 files, lists, and writes 2,000, with and without traces, in turn."""
    files = {f"tree/{n // 100}/file{n}": f"{n}\n" * 50 for n in range(5_000)}
    command = "find /tree -type f -exec cat {} + > /all; mkdir /new; for n in $(seq 2000); do echo $n > /new/$n; done"
    context = project(work, "record", f"FROM tools\nCOPY tree /tree\nRUN {command}\n", files)
    times = {"trace": [], "content": []}
    for _ in range(reps):
        for mode, values in times.items():
            values.append(build(run, context, "--no-cache", f"--cache={mode}")[0])
    ratio = statistics.median(times["trace"]) / statistics.median(times["content"])
    rows = [row(f"a build with `--cache={mode}`", values, "") for mode, values in times.items()]
    return [*rows, ["recording", f"x{ratio:.3f}", "", "", GOALS["record"]]]


def kept(run, work):
    """What a hundred builds of a project keep of read sets and records."""
    database = os.path.join(run[-1], "mica.db")
    size = lambda: sum(sqlite3.connect(database).execute(query).fetchone()[0] or 0 for query in (
        "SELECT sum(length(trace)) FROM traces", "SELECT sum(length(record)) FROM cache"))
    files = {f"src/file{n}": f"{n}\n" for n in range(500)}
    text = "FROM tools\nCOPY src /src\n" + "".join(f"RUN find /src /bin -ls > /out{n}\n" for n in range(5))
    context = project(work, "kept", text, files)
    before = size()
    for n in range(100):
        project(work, "kept", text, {f"src/file{n}": f"changed {n}\n"})
        build(run, context)
    return [["records and read sets of 100 builds, 5 steps that read all", f"{(size() - before) / 1e6:.1f} MB", "", "",
             GOALS["kept"]]]
