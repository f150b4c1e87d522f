"""Push and pull of an image of 500 MB, mica beside other tools, with docker-registry on the loopback interface."""
import contextlib, hashlib, io, json, os, random, shutil, statistics, subprocess, sys, tarfile, tempfile, time

HOST = "127.0.0.1:5577"
NAME = f"{HOST}/bench/image:1"
FIRST = "first"
PUSHER = "skopeo + umoci"
FILES, FILE = 25, 20 << 20

# What mica is to reach at most, in seconds, with noise.
GOALS = {"push": 1.5, "push again": 0.05, "pull to the first file": 1.2}


def noise(n):
    """What cannot be compressed, as media and archives cannot."""
    return random.Random(n).randbytes(FILE)


def mixed(n):
    """Half noise, half words: about as compressible as programs are."""
    bytes_, words = noise(n), b"the quick brown fox jumps over the lazy dog; " * 3
    return b"".join(bytes_[i:i + 64] + words[i % 45:i % 45 + 64] for i in range(0, FILE // 2, 64))


def layer(number, files):
    """The tar of one layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000 + number
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def layers(content, count):
    for number in range(count):
        files = [(f"data/{n:02d}", content(n)) for n in range(number, FILES, count)]
        if number == 0:
            files.append((FIRST, b"found\n"))
        yield layer(number, files)


def make_layout(path, tars):
    """An OCI image layout with the layers as plain tars: who pushes them has to compress them."""
    blobs = f"{path}/blobs/sha256"
    os.makedirs(blobs)

    def blob(kind, data):
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{blobs}/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    parts = [blob("layer.v1.tar", tar) for tar in tars]
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["/first"]},
              "rootfs": {"type": "layers", "diff_ids": [part["digest"] for part in parts]}}
    config = blob("config.v1+json", json.dumps(config).encode())
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config, "layers": parts}
    manifest = blob("manifest.v1+json", json.dumps(manifest).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": NAME}
    for name, value in (("index.json", {"schemaVersion": 2, "manifests": [manifest]}),
                        ("oci-layout", {"imageLayoutVersion": "1.0.0"})):
        with open(f"{path}/{name}", "w") as file:
            json.dump(value, file)


class Tool:
    """How a tool is told. `{s}` is a directory of its own, `{layout}` an OCI image layout."""

    def __init__(self, load, push, pull, needs=(), after=None):
        self.load, self.push, self.pull, self.needs, self.after = load, push, pull, needs, after


def tools(mica):
    store = "--root {s}/root --runroot {s}/run --storage-driver overlay"
    insecure = "skopeo --insecure-policy copy -q"
    known = {
        "mica": Tool(f"{mica} --root {{s}} load -q -i {{layout}}",
                     f"{mica} --root {{s}} push -q {NAME}",
                     f"{mica} --root {{s}} pull -q {NAME} && {mica} --root {{s}} mount {NAME} -- "
                     f"sh -c 'cat $MICA_MOUNT/{FIRST}'"),
        PUSHER: Tool("true",
                               f"{insecure} --dest-tls-verify=false oci:{{layout}}:{NAME} docker://{NAME}",
                               f"{insecure} --src-tls-verify=false docker://{NAME} oci:{{s}}/layout:1 && "
                               f"umoci unpack --image {{s}}/layout:1 {{s}}/bundle && cat {{s}}/bundle/rootfs/{FIRST}",
                               ("skopeo", "umoci")),
    }
    for name, first in (
            ("podman", f'podman {store} image mount {NAME}'),
            ("buildah", f'buildah {store} mount $(buildah {store} from --pull=false {NAME})')):
        own = f"{name} {store}"
        known[name] = Tool(f"{own} pull -q oci:{{layout}}:{NAME} > {{s}}/id && {own} tag $(cat {{s}}/id) {NAME}",
                           f"{own} push -q --tls-verify=false {NAME} docker://{NAME}",
                           f"{own} pull -q --tls-verify=false {NAME} && m=$({first}) && cat $m/{FIRST}",
                           (name,), "umount -l {s}/root/overlay/*/merged {s}/root/overlay")
    for name in list(known):
        if missing := [program for program in known[name].needs if not shutil.which(program)]:
            print(f"left out: {name}, since {missing[0]} is not installed", file=sys.stderr)
            del known[name]
    if PUSHER not in known:
        sys.exit("scripts/bench registry needs skopeo and umoci")
    return known


class Bench:
    def __init__(self, mica, start_registry, work):
        self.start_registry = start_registry
        self.directory = tempfile.mkdtemp(dir=work)
        self.tools = tools(mica)
        # (what, tool) -> [(seconds, peak memory in kB)]
        self.results = {}

    def run(self, tool, command, expected=None, what=None):
        """Runs a command of a tool to its end, and notes its time and the most memory that a process of it had."""
        command = command.format(s=self.store(tool), layout=f"{self.directory}/layout")
        os.sync()
        started = time.perf_counter()
        # This program's own size would count as that of what it starts, so another one starts it.
        done = subprocess.run(["/usr/bin/time", "-q", "-f", "%M", "-o", f"{self.directory}/memory", "sh", "-c", command],
                              capture_output=True, text=True, cwd=self.directory)
        taken = time.perf_counter() - started
        if done.returncode or (expected and expected not in done.stdout.splitlines()):
            sys.exit(f"{command}\nfailed: {done.stdout}{done.stderr}")
        if what:
            with open(f"{self.directory}/memory") as file:
                self.results.setdefault((what, tool), []).append((taken, int(file.read())))

    def store(self, tool):
        return f"{self.directory}/{tool.split()[0]}"

    def fresh(self, tool):
        self.forget(tool)
        os.mkdir(self.store(tool))

    def forget(self, tool):
        if after := self.tools[tool].after:
            subprocess.run(after.format(s=self.store(tool)), shell=True, capture_output=True)
        shutil.rmtree(self.store(tool), ignore_errors=True)

    def image(self, content, count, suffix, reps):
        """Measures one image so many times; who comes first changes with each round. All pull what skopeo has pushed."""
        shutil.rmtree(f"{self.directory}/layout", ignore_errors=True)
        make_layout(f"{self.directory}/layout", layers(content, count))
        with self.registry("source", fresh=True):
            self.run(PUSHER, self.tools[PUSHER].push)
        for rep in range(reps):
            names = list(self.tools)
            for tool in names[rep % len(names):] + names[:rep % len(names)]:
                self.round(tool, suffix)

    def round(self, tool, suffix):
        about = self.tools[tool]
        self.fresh(tool)
        self.run(tool, about.load)
        with self.registry("target", fresh=True):
            self.run(tool, about.push, what=f"push{suffix}")
            self.run(tool, about.push, what=f"push again{suffix}")
        self.fresh(tool)
        with self.registry("source"):
            self.run(tool, about.pull, "found", f"pull to the first file{suffix}")
        self.forget(tool)

    @contextlib.contextmanager
    def registry(self, name, fresh=False):
        """A registry with its storage in the directory `name`."""
        directory = f"{self.directory}/{name}"
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
            os.mkdir(directory)
        server = self.start_registry(directory)
        try:
            yield
        finally:
            server.terminate()
            server.wait()

    def table(self):
        names = list(self.tools)
        lines = [f"| seconds (median), × mica, peak memory | {' | '.join(names)} | goal |",
                 "|---" * (len(names) + 2) + "|"]
        for what in dict.fromkeys(what for what, _ in self.results):
            middle = {name: statistics.median(s for s, _ in self.results[what, name]) for name in names}
            peak = {name: max(kb for _, kb in self.results[what, name]) / 1024 for name in names}
            ratio = {name: "" if name == "mica" else f" ({middle[name] / middle['mica']:.1f}×)" for name in names}
            cells = [f"{middle[name]:.3f}{ratio[name]}, {peak[name]:.0f} MB" for name in names]
            lines.append(f"| {what} | {' | '.join(cells)} | {GOALS.get(what, '')} |")
        return "\n".join(lines) + "\n"


def measure(mica, start_registry, work, reps):
    """Two images of 500 MB: one layer of noise, as the goals are for, and fewer times five layers that can be compressed."""
    bench = Bench(mica, start_registry, work)
    try:
        bench.image(noise, 1, "", reps)
        bench.image(mixed, 5, ", 5 layers of programs", (reps + 2) // 3)
        return bench.table()
    finally:
        for tool in bench.tools:
            bench.forget(tool)
        shutil.rmtree(bench.directory, ignore_errors=True)
