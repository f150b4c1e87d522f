"""The cache by trace: rebuilds after a change that a step does not read, what recording costs, and what it keeps."""
import os, resource, shutil, sqlite3, statistics, subprocess, tempfile, time

FILES = 20_000
SOURCES = 60
PACKAGES = ["nginx-light", "openssh-server", "sudo"]
# What each is to take at most; a rebuild of the peer at least this often as long.
GOALS = {"rebuild": "0.10 s", "peer": "x10", "check": "0.02 s", "record": "x1.05", "kept": "50 MB"}
TOOLS = ["sh", "find", "sleep", "cat", "cp", "mkdir", "seq", "date", "rm"]
COMPILER = ["gcc", "make", "as", "ld"]


def measure(mica, work, reps, debian):
    """Rows of a table; `mica` is the program without a store, `debian` an archive of a small Debian or None."""
    work = tempfile.mkdtemp(dir=work, prefix="cached.")
    run = [mica, "--root", os.path.join(work, "store")]
    try:
        tools(run, "tools", TOOLS)
        rows = [*rebuild(run, work, reps), *check(run, work, reps), *record(run, work, reps), *compile(run, work, reps),
                *install(run, work, reps, debian), *kept(run, work)]
    finally:
        # buildah leaves its storage mounted on itself.
        subprocess.run(["umount", "-l", f"{work}/buildah/root/overlay"], capture_output=True)
        shutil.rmtree(work)
    lines = ["| | median | least | most | goal |", "|---|---|---|---|---|"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def tools(run, name, programs, *args):
    subprocess.run([*run, "import", "--host", *programs, *args, "-t", name], check=True, stdout=subprocess.DEVNULL)


def project(work, name, dockerfile, files):
    context = os.path.join(work, name)
    os.makedirs(context, exist_ok=True)
    for path, text in {"Dockerfile": dockerfile, **files}.items():
        os.makedirs(os.path.dirname(os.path.join(context, path)), exist_ok=True)
        with open(os.path.join(context, path), "w") as file:
            file.write(text)
    return context


def build(run, context, *args, tag="bench"):
    start = time.monotonic()
    done = subprocess.run([*run, "build", "--progress=plain", "-t", tag, *args, context], check=True,
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
    peer = buildah(run, work)
    if peer:
        subprocess.run([*peer, context], check=True, capture_output=True)
    times, peers = [], []
    for n in range(reps):
        project(work, "rebuild", text, {"src/module7.txt": f"changed {n}\n"})
        seconds, log = build(run, context)
        assert log.count("unchanged inputs") >= 2, log
        times.append(seconds)
        if peer:
            start = time.monotonic()
            subprocess.run([*peer, context], check=True, capture_output=True)
            peers.append(time.monotonic() - start)
    rows = [row("rebuild after a one-line change, `COPY . .` before a RUN of 3 s", times, GOALS["rebuild"])]
    if peers:
        ratio = statistics.median(peers) / statistics.median(times)
        rows += [row("the same by buildah", peers, ""), ["buildah : mica", f"x{ratio:.0f}", "", "", GOALS["peer"]]]
    return rows


def buildah(run, work):
    """buildah's command to build, in a store of its own with the image `tools`; None where it is not installed."""
    if not shutil.which("buildah"):
        print("left out: buildah is not installed")
        return None
    archive = os.path.join(work, "tools.tar")
    subprocess.run([*run, "save", "tools", "-o", archive], check=True, stdout=subprocess.DEVNULL)
    os.environ.setdefault("BUILDAH_ISOLATION", "chroot")
    program = ["buildah", "--root", f"{work}/buildah/root", "--runroot", f"{work}/buildah/run", "--storage-driver", "overlay"]
    subprocess.run([*program, "pull", "-q", f"docker-archive:{archive}"], check=True, stdout=subprocess.DEVNULL)
    return [*program, "build", "--layers", "--pull=never", "-t", "bench"]


def check(run, work, reps):
    """How much longer a build takes for the check of a read set of 20,000 paths."""
    files = {f"tree/{n // 200}/file{n}": "" for n in range(FILES)}
    text = "FROM tools\nCOPY tree /tree\nCOPY other /other\nRUN %s\n"
    commands = {"small": "cat /bin/none || true", "large": "find /tree -size +1"}
    contexts = {name: project(work, name, text % command, {**files, "other": "0\n"}) for name, command in commands.items()}
    for context in contexts.values():
        build(run, context)
    times = {name: [] for name in commands}
    for n in range(reps):
        for name, context in contexts.items():
            project(work, name, text % commands[name], {"other": f"changed {n}\n"})
            seconds, log = build(run, context)
            assert log.count("unchanged inputs") == 1, log
            times[name].append(seconds)
    longer = [large - small for large, small in zip(times["large"], times["small"])]
    return [row("check of a read set of 20,000 paths", longer, GOALS["check"])]


def record(run, work, reps):
    """A command that reads 5,000 files, lists, and writes 2,000."""
    files = {f"tree/{n // 100}/file{n}": f"{n}\n" * 50 for n in range(5_000)}
    command = "find /tree -type f -exec cat {} + > /all; mkdir /new; for n in $(seq 2000); do echo $n > /new/$n; done"
    build(run, project(work, "read", "FROM tools\nCOPY tree /tree\n", files), tag="read")
    context = project(work, "record", f"FROM read\nRUN {command}\n", {})
    return recorded(run, context, reps, "a RUN that reads 5,000 files and writes 2,000", "")


def compile(run, work, reps):
    """make of many C files."""
    library = subprocess.run(["gcc", "-print-file-name=libc.so"], capture_output=True, text=True).stdout.strip()
    cc1 = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(library) or not os.path.isabs(cc1):
        print("left out: a compile, since there is no gcc")
        return []
    directories = [os.path.dirname(cc1), "/usr/include"]
    # The linker needs the parts of the C library that no program names.
    parts = [os.path.join(os.path.dirname(library), part)
             for part in ("libc.so", "libc_nonshared.a", "crt1.o", "Scrt1.o", "crti.o", "crtn.o", "libm.so.6")]
    included = [word for path in [*directories, *parts] for word in ("--include", path)]
    tools(run, "compiler", [*TOOLS, *COMPILER, cc1], *included)
    function = "int f%d_%d(int x) { char b[64]; snprintf(b, sizeof b, \"%%d\", x + %d); return (int)strlen(b) * x; }\n"
    head = "#include <stdio.h>\n#include <string.h>\n#include <stdlib.h>\n#include <unistd.h>\n#include <pthread.h>\n"
    files = {f"src/f{n}.c": head + "".join(function % (n, m, m) for m in range(30)) for n in range(SOURCES)}
    files["src/main.c"] = "int main(void) { return 0; }\n"
    files["src/Makefile"] = ("OBJ := $(patsubst %.c,%.o,$(wildcard *.c))\nprog: $(OBJ)\n\tgcc -o $@ $(OBJ)\n"
                             "%.o: %.c\n\tgcc -O1 -c -o $@ $<\n")
    context = project(work, "compile", "FROM compiler\nCOPY src /src\nRUN make -C /src -j2\n", files)
    return recorded(run, context, reps, f"compiling {SOURCES} files of C", GOALS["record"])


def install(run, work, reps, debian):
    """apt-get install of packages that lie there."""
    if debian is None:
        print("left out: apt-get install, since there is no archive of a Debian")
        return []
    with open(debian, "rb") as archive:
        loaded = subprocess.run([*run, "load"], stdin=archive, check=True, capture_output=True, text=True).stdout
    image = loaded.split()[-1]
    debs = packages(run, image, os.path.join(work, "install", "debs"), PACKAGES)
    if debs is None:
        return []
    build(run, project(work, "install", f"FROM {image}\nCOPY debs /debs\n", {}), tag="debs")
    command = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /debs/*.deb"
    context = project(work, "installed", f"FROM debs\nRUN {command}\n", {})
    return recorded(run, context, reps, f"apt-get install of {len(os.listdir(debs))} packages", GOALS["record"])


def packages(run, image, debs, names):
    """The directory `debs` with these packages and what the image lacks for them, from where this machine has its
    packages; None if they cannot be had."""
    os.makedirs(os.path.join(debs, "partial"))
    with tempfile.NamedTemporaryFile() as status:
        subprocess.run([*run, "cat", f"{image}:/var/lib/dpkg/status"], check=True, stdout=status)
        settings = {"Dir::State::status": status.name, "Dir::Cache::archives": debs, "Debug::NoLocking": "1",
                    "APT::Sandbox::User": "root", "APT::Install-Recommends": "0"}
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        done = subprocess.run(["apt-get", *options, "install", "-y", "--download-only", *names], capture_output=True, text=True)
    if done.returncode != 0:
        print(f"left out: apt-get install, since its packages cannot be had: {done.stderr}")
        return None
    os.rmdir(os.path.join(debs, "partial"))
    return debs


def recorded(run, context, reps, what, goal):
    """A build with traces and without, in turn; the ratio is that of each pair. Processor time is told too, since it
    depends less on what else the machine does."""
    times = {"trace": [], "content": []}
    for n in range(reps + 1):
        # Neither always comes after the other.
        for mode in sorted(times, reverse=n % 2 == 0):
            before = processor()
            seconds, _ = build(run, context, "--no-cache", f"--cache={mode}")
            times[mode].append((seconds, processor() - before))
    rows = [row(f"{what}, `--cache={mode}`", [seconds for seconds, _ in values[1:]], "") for mode, values in times.items()]
    for which, name in enumerate(("recording", "recording, in processor time")):
        pairs = zip(times["trace"][1:], times["content"][1:])
        ratios = sorted(trace[which] / content[which] for trace, content in pairs)
        rows.append([name, *(f"x{r:.3f}" for r in (statistics.median(ratios), ratios[0], ratios[-1])), goal])
    return rows


def processor():
    """The processor time of all that was waited for so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def kept(run, work):
    """What a hundred builds of a project keep of read sets, cache records, and what `mica why` compares."""
    store = run[-1]

    def size():
        queries = ("SELECT sum(length(trace)) FROM traces", "SELECT sum(length(record)) FROM cache")
        with sqlite3.connect(os.path.join(store, "mica.db")) as database:
            rows = sum(database.execute(query).fetchone()[0] or 0 for query in queries)
        files = (os.path.join(at, name) for at, _, names in os.walk(os.path.join(store, "builds")) for name in names)
        return rows + sum(os.path.getsize(path) for path in files)

    files = {f"src/file{n}": f"{n}\n" for n in range(500)}
    text = "FROM tools\nCOPY src /src\n" + "".join(f"RUN find /src /bin -ls > /out{n}\n" for n in range(5))
    context = project(work, "kept", text, files)
    before = size()
    for n in range(100):
        project(work, "kept", text, {f"src/file{n}": f"changed {n}\n"})
        build(run, context)
    return [["records and read sets of 100 builds, 5 steps that read all", f"{(size() - before) / 1e6:.1f} MB", "", "",
             GOALS["kept"]]]
