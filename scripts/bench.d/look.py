"""Looking into a large image: 100,000 files in 40 layers, each question by a process of its own."""
import fcntl, hashlib, io, json, os, pty, select, signal, statistics, struct, subprocess, tarfile, tempfile, termios, time

FILES, LAYERS = 100_000, 40
IMAGE = "bench/look:40"
# What each is to take at most, in seconds.
GOAL = 1.0


def layer_tars():
    """The tars of the layers, bottom first: three quarters of the files in the lowest, the rest over the others, each of
    which also changes, duplicates and deletes some of what lies below."""
    lowest, each = FILES * 3 // 4, FILES // 4 // (LAYERS - 1)
    name = lambda n: f"srv/part{n % 40:02d}/dir{n // 40 % 50:02d}/file{n:06d}"
    for layer in range(LAYERS):
        names = range(lowest) if layer == 0 else range(lowest + (layer - 1) * each, lowest + layer * each)
        with io.BytesIO() as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            made = set()
            for n in names:
                add(tar, name(n), f"{n} in layer {layer}\n", made=made)
            for n in range(200 if layer else 0):
                below = (layer * 977 + n * 131) % lowest
                if n % 3 == 0:
                    add(tar, name(below), f"changed by layer {layer}\n", made=made)
                elif n % 3 == 1:
                    add(tar, name(below), f"{below} in layer 0\n", mode=0o600, made=made)
                else:
                    directory, file = name(below).rsplit("/", 1)
                    add(tar, f"{directory}/.wh.{file}", "", made=made)
            tar.close()
            yield out.getvalue()


def add(tar, name, text, made, mode=0o644):
    parts = name.split("/")
    for depth in range(1, len(parts)):
        directory = "/".join(parts[:depth])
        if directory not in made:
            made.add(directory)
            info = tarfile.TarInfo(directory)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_600_000_000
            tar.addfile(info)
    if name in made:
        return
    made.add(name)
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(text), mode, 1_600_000_000
    tar.addfile(info, io.BytesIO(text.encode()))


def make(mica):
    """Loads the image into the store, unless it is there."""
    if subprocess.run([*mica, "inspect", IMAGE], capture_output=True).returncode == 0:
        return
    print(f"making an image of {FILES} files in {LAYERS} layers", flush=True)
    tars = list(layer_tars())
    ids = ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in tars]
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                         "rootfs": {"type": "layers", "diff_ids": ids},
                         "history": [{"created_by": f"RUN make part {n}"} for n in range(LAYERS)]})
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [IMAGE],
                            "Layers": [f"{n}.tar" for n in range(LAYERS)]}])
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            members = [("config.json", config.encode()), ("manifest.json", manifest.encode())]
            for name, data in members + [(f"{n}.tar", tar) for n, tar in enumerate(tars)]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        file.flush()
        subprocess.run([*mica, "load", "-q", "-i", file.name], check=True, stdout=subprocess.DEVNULL)


def first_screen(command):
    """From the start of the interface until its last line is drawn; it is quit then."""
    started = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    seen = b""
    try:
        while b"q quit" not in seen:
            if not select.select([terminal], [], [], 30)[0]:
                raise RuntimeError(f"nothing was drawn: {seen[-500:]!r}")
            seen += os.read(terminal, 1 << 16)
        taken = time.perf_counter() - started
        os.write(terminal, b"q")
        drain(terminal)
        if os.waitpid(child, 0)[1] != 0:
            raise RuntimeError(f"it failed: {seen[-500:]!r}")
        return taken
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(terminal)


def drain(terminal):
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:
        # The program has closed the terminal.
        pass


def measure(mica, reps):
    """Medians of all questions, as a table."""
    make(mica)
    path = "/srv/part17/dir20/file000817"
    questions = [
        ("diff of the highest two layers", ["diff", f"{IMAGE}@layer:39", IMAGE], {1}),
        ("diff with the lowest layer", ["diff", f"{IMAGE}@layer:1", IMAGE], {1}),
        ("diff with nothing: all files", ["diff", f"{IMAGE}@layer:0", IMAGE], {1}),
        ("log of a file", ["log", IMAGE, path], {0}),
        ("log of a directory", ["log", IMAGE, "/srv"], {0}),
        ("blame of a directory", ["blame", IMAGE, "/srv/part17"], {0}),
        ("blame of all files", ["blame", "-R", IMAGE], {0}),
        ("analyze", ["analyze", IMAGE], {0}),
    ]
    rows = []
    for name, arguments, expected in questions:
        times = []
        for _ in range(reps):
            started = time.perf_counter()
            done = subprocess.run([*mica, *arguments], stdout=subprocess.DEVNULL)
            times.append(time.perf_counter() - started)
            if done.returncode not in expected:
                raise RuntimeError(f"mica {' '.join(arguments)}: exit status {done.returncode}")
        rows.append((name, times))
    rows.append(("explore: first screen", [first_screen([*mica, "explore", IMAGE]) for _ in range(reps)]))
    lines = ["| question | median | most | goal |", "|---|---|---|---|"]
    for name, times in rows:
        lines.append(f"| {name} | {statistics.median(times):.3f} s | {max(times):.3f} s | {GOAL:.0f} s |")
    return "\n".join(lines) + "\n"
