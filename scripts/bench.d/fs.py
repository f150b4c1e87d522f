"""The runs of `scripts/bench fs`: fsbench's workloads and those that it lacks, with the requests that each costs.

One process of this runs one mode: `root`, or `rootless` in a user namespace of its own, where mounts have what an
unprivileged user's have. What was measured is kept in a file after each step, so a run that was interrupted goes on,
and a later one adds repetitions.
"""
import argparse, ctypes, glob, hashlib, importlib.util, json, os, shutil, statistics, struct, subprocess, sys, time

# The workloads that say most about a layered filesystem: a repetition in both modes takes about ten minutes.
USUAL = ("tree,tar,read,write,small,untar,copyup,copyup-big,chmod-big,chown-big,rename,dpkg60,compile,rust,git,python,"
         "node,layers1,layers8,layers64,layers500")

# How many times the kernel's time is the most that mica may take.
BARS = {
    "tree_find_cold": 1.3, "tree_find_warm": 1.05, "tar_cold": 1.3, "tar_warm": 1.3, "write1g": 1.5,
    "write128m_by_4k": 1.3, "create20k": 2, "stat20k": 1.1, "openread20k": 1.3, "unlink20k": 2, "untar10k": 1.5,
    "rmtree10k": 2, "compile_cold": 1, "compile_warm": 1, "rust_cold": 1, "read1g_warm": 1.1, "copyup2000": 0.7,
    "chmod512m": 0.01, "chown512m": 0.01, "rename_dir": 0.01, "dpkg60": 1.3, "find_500": 1,
}
# The most that mica may take, in seconds or MiB.
LIMITS = {"mount_500": 0.02, "ls_first_500": 0.01, "rss_after_find_MiB": 20}

# Sixty packages of many small files.
PACKAGES = """
    libalgorithm-diff-perl libarchive-cpio-perl libauthen-sasl-perl libb-hooks-op-check-perl libcapture-tiny-perl
    libclass-accessor-perl libclass-inspector-perl libclass-method-modifiers-perl libclone-perl libconfig-tiny-perl
    libconvert-binhex-perl libcrypt-ssleay-perl libdata-dump-perl libdata-optlist-perl libdate-manip-perl
    libdatetime-perl libdatetime-locale-perl libdatetime-timezone-perl libdevel-globaldestruction-perl
    libdevel-stacktrace-perl libdpkg-perl libemail-date-format-perl libencode-locale-perl liberror-perl
    libexception-class-perl libexporter-tiny-perl libfile-basedir-perl libfile-desktopentry-perl libfile-listing-perl
    libfile-mimeinfo-perl libfile-which-perl libfont-afm-perl libhtml-form-perl libhtml-format-perl
    libhtml-parser-perl libhtml-tagset-perl libhtml-tree-perl libhttp-cookies-perl libhttp-daemon-perl
    libhttp-date-perl libhttp-message-perl libhttp-negotiate-perl libimport-into-perl libio-html-perl
    libio-socket-ssl-perl libio-string-perl libipc-system-simple-perl libjson-perl liblist-moreutils-perl
    liblwp-mediatypes-perl libmailtools-perl libmime-tools-perl libmodule-runtime-perl libmoo-perl
    libnet-http-perl libnet-ssleay-perl libparams-util-perl libtext-csv-perl libwww-perl libyaml-perl
""".split()


def load_fsbench(directory):
    spec = importlib.util.spec_from_file_location("fsbench", f"{directory}/fsbench.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fsbench"] = module
    spec.loader.exec_module(module)
    return module


# --- fixtures ---------------------------------------------------------------------------------------------------

def shell(command):
    subprocess.run(["/bin/bash", "-ec", command], check=True)


def make_packages(cache):
    directory = f"{cache}/debs60"
    if len(glob.glob(f"{directory}/*.deb")) < len(PACKAGES):
        os.makedirs(directory, exist_ok=True)
        shell(f"cd {directory}; apt-get download -qq {' '.join(PACKAGES)}")


def make_extra(cache):
    """`extra`: the eight layers of the root filesystem, one with a git checkout, one with node, one with Rust."""
    extra = f"{cache}/extra"
    if os.path.exists(f"{extra}/.done"):
        return
    shutil.rmtree(extra, ignore_errors=True)
    os.makedirs(extra)
    for layer in range(8):
        # No hard links to the others: a workload picks the files that have one name.
        shell(f"cp -a {cache}/rootfs8/{layer} {extra}/{layer}")
    checkout = f"{extra}/8/srv"
    shell(f"""
        mkdir -p {checkout}; tar xf {cache}/tree.tar -C {checkout}; cd {checkout}/linux-source-6.1
        git init -q; git config core.checkStat minimal; git config core.trustctime false; git config gc.auto 0
        git add -A; git -c user.name=b -c user.email=b@b commit -qm all; sleep 1.1; git status --porcelain
    """)
    node = f"{extra}/9/usr"
    os.makedirs(f"{node}/bin")
    os.makedirs(f"{node}/lib")
    if shutil.which("node"):
        shell(f"cp -L $(command -v node) {node}/bin/node; cp -a $(dirname $(readlink -f $(command -v npm)))/.. {node}/lib/npm")
    rust = f"{extra}/10/opt/rust"
    root = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True).stdout.strip()
    os.makedirs(f"{rust}/bin")
    shell(f"cp {root}/bin/rustc {root}/bin/cargo {rust}/bin/; cp -a {root}/lib {rust}/lib")
    open(f"{extra}/.done", "w").close()


def fixtures(cache, fsbench, workloads):
    subprocess.run([sys.executable, f"{fsbench}/mkfixtures.py", "--cache", cache], check=True)
    if "dpkg60" in workloads:
        make_packages(cache)
    if {"git", "node", "rust"} & set(workloads):
        make_extra(cache)


# --- workloads that fsbench lacks --------------------------------------------------------------------------------

PATH = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


def chown_big(b, m, t, c):
    path = m.mnt + "/big512m"
    b.rd(m.layers[0] + "/big512m")
    t("chown512m", lambda: os.chown(path, 1, 1))


def dpkg60(b, m, t, c):
    b.run(f"mount --bind {c}/debs60 {m.mnt}/mnt")
    unpack = f"{PATH} dpkg --force-unsafe-io --force-depends --unpack /mnt/*.deb"
    t("dpkg60", lambda: b.run(f"chroot {m.mnt} sh -c '{unpack}'"))
    b.run(f"umount {m.mnt}/mnt")


def git(b, m, t, c):
    status = lambda: b.run(f"git -c safe.directory='*' -C {m.mnt}/srv/linux-source-6.1 status --porcelain")
    t("git_status_cold", status)
    t("git_status_warm", status)


def node(b, m, t, c):
    npm = lambda: b.run(f"chroot {m.mnt} /usr/bin/node /usr/lib/npm/bin/npm-cli.js --version")
    t("npm_cold", npm)
    t("npm10_warm", lambda: [npm() for _ in range(10)])


def rust(b, m, t, c):
    for crate in range(4):
        source = f"{m.mnt}/crates/c{crate}/src"
        os.makedirs(source)
        with open(f"{source}/lib.rs", "w") as file:
            for number in range(150):
                file.write(f"pub fn f{number}(v: &[u64]) -> Vec<String> {{ v.iter().map(|x| (x ^ {number}).to_string()).collect() }}\n")
        with open(f"{m.mnt}/crates/c{crate}/Cargo.toml", "w") as file:
            file.write(f'[package]\nname = "c{crate}"\nversion = "0.1.0"\nedition = "2021"\n')
    with open(f"{m.mnt}/crates/Cargo.toml", "w") as file:
        file.write('[workspace]\nmembers = ["c*"]\nresolver = "2"\n')
    b.drop()
    # Without /proc the loader does not find what lies beside a program.
    build = (f"{PATH}:/opt/rust/bin LD_LIBRARY_PATH=/opt/rust/lib HOME=/root "
             "cargo build --offline --quiet --manifest-path /crates/Cargo.toml")
    # Device nodes of a mount in a user namespace do not work.
    null = f"{m.mnt}/dev/null"
    b.run(f"mount --bind /dev/null {null}")
    try:
        t("rust_cold", lambda: b.run(f"chroot {m.mnt} sh -c '{build}'"))
    finally:
        b.run(f"umount {null}", check=False)


OWN = {"chown-big": ("big", chown_big), "dpkg60": ("rootfs8", dpkg60), "git": ("extra", git), "node": ("extra", node),
       "rust": ("extra", rust)}


# --- counting requests -------------------------------------------------------------------------------------------

class Requests:
    """How many requests the kernel sends to all FUSE servers: its tracepoint, one counter a processor."""
    PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}

    def __init__(self):
        self.files = []
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            number = next(int(open(f"{d}/events/fuse/fuse_request_send/id").read())
                          for d in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
                          if os.path.exists(f"{d}/events/fuse/fuse_request_send/id"))
            call = self.PERF_EVENT_OPEN[os.uname().machine]
        except (StopIteration, KeyError, OSError):
            return
        attributes = struct.pack("IIQ", 2, 128, number).ljust(128, b"\0")
        for processor in range(os.cpu_count()):
            file = libc.syscall(call, attributes, -1, processor, -1, 8)
            if file >= 0:
                self.files.append(file)

    def count(self):
        return sum(struct.unpack("Q", os.read(file, 8))[0] for file in self.files)


# --- a mode --------------------------------------------------------------------------------------------------------

def run_mode(options):
    b = load_fsbench(options.fsbench)
    requests = Requests()
    if options.mode == "rootless":
        b.enter_userns()
    for definition in options.define:
        name, template = definition.split("=", 1)
        b.SYSTEMS[name] = template
    for definition in options.define_umount:
        name, template = definition.split("=", 1)
        b.UMOUNT[name] = template
    known = dict(b.WORKLOADS)
    for name, (kind, work) in OWN.items():
        known[name] = (kind, lambda m, t, c, work=work: work(b, m, t, c))

    def layers(kind):
        if kind == "extra":
            return [f"{options.cache}/extra/{i}" for i in reversed(range(11))]
        return b.layerset(kind, options.cache)

    systems = options.systems.split(",")
    scratch = f"{options.scratch}/{options.mode}"
    os.makedirs(scratch, exist_ok=True)
    os.umask(0o022)
    if options.verify:
        bad = b.verify(systems, options.cache, scratch)
        if bad:
            sys.exit(f"wrong trees: {bad}")
    results = load(options.json)
    mine = results["modes"].setdefault(options.mode, {})

    def once(workload, system):
        kind, work = known[workload]
        mount = b.Mount(system, layers(kind), scratch)
        timer = Timer(b, mount, requests, system != "kernel")
        error = None
        try:
            b.drop()
            took = mount.up()
            if workload.startswith("layers"):
                timer.put("mount_" + workload[6:], took)
            b.drop()
            work(mount, timer, options.cache)
        except Exception as e:
            error = str(e) or repr(e)
            print(f"  failed: {workload} {system}: {error}", flush=True)
        finally:
            mount.down()
        shown = " ".join(f"{name}={value['is']:.3f}" for name, value in timer.metrics.items())
        print(f"  {options.mode} {workload:10s} {system:20s} {shown}", flush=True)
        return {"metrics": timer.metrics, "error": error}

    for repetition in range(options.reps):
        for workload in options.workloads.split(","):
            done = mine.setdefault(workload, {})
            rotated = systems[repetition % len(systems):] + systems[:repetition % len(systems)]
            wanted = [s for s in rotated if len(done.get(s, [])) <= repetition]
            if wanted:
                b.prime(layers(known[workload][0]))
            for system in wanted:
                done.setdefault(system, []).append(once(workload, system))
                store(options.json, results)


class Timer:
    """Times a step; with it the processor time of the server and the requests to it."""

    def __init__(self, b, mount, requests, is_fuse):
        self.b, self.mount, self.requests, self.is_fuse = b, mount, requests, is_fuse
        self.metrics = {}

    def __call__(self, name, step):
        processor, count = self.mount.cpu(), self.requests.count()
        started = time.perf_counter()
        step()
        value = {"is": time.perf_counter() - started}
        if self.is_fuse:
            value["cpu"] = self.mount.cpu() - processor
            if self.requests.files:
                value["requests"] = self.requests.count() - count
        self.metrics[name] = value

    def put(self, name, value):
        if value is not None:
            self.metrics[name] = {"is": value}


# --- results -------------------------------------------------------------------------------------------------------

def load(path):
    if os.path.exists(path):
        with open(path) as file:
            return json.load(file)
    return {"modes": {}}


def store(path, results):
    with open(path + ".new", "w") as file:
        json.dump(results, file, indent=1)
    os.replace(path + ".new", path)


def fingerprint(programs):
    """What the results depend on besides the machine: others are not added to them."""
    digest = hashlib.sha256(os.uname().release.encode())
    for program in programs:
        with open(program, "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:16]


def table(results, systems):
    lines = []
    for mode, workloads in results["modes"].items():
        shown = {"root": "As root", "rootless": "In a user namespace, as rootless builds run"}[mode]
        counts = sorted({len(runs[s]) for runs in workloads.values() for s in systems if s in runs}) or [0]
        times = "-".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
        lines += [f"{shown}, medians of {times}:", "", "| metric | bar | " + " | ".join(systems) + " |", "|---" * (len(systems) + 2) + "|"]
        failed = []
        for workload, runs in workloads.items():
            names = list(dict.fromkeys(n for s in systems for run in runs.get(s, []) for n in run["metrics"]))
            for name in names:
                lines.append(row(name, {s: [r["metrics"][name] for r in runs.get(s, []) if name in r["metrics"]]
                                        for s in systems}, systems))
            failed += [f"- {workload} fails on {s}: {run['error']}" for s in systems for run in runs.get(s, []) if run["error"]]
        lines += [""] + list(dict.fromkeys(failed)) + ([""] if failed else [])
    return "\n".join(lines)


def row(name, runs, systems):
    unit = " MiB" if name.endswith("_MiB") else "" if name.endswith("_n") else " s"
    middle = {s: statistics.median(run["is"] for run in runs[s]) for s in systems if runs[s]}
    base = middle.get(systems[0])
    bar = f"x{BARS[name]}" if name in BARS else f"{LIMITS[name]}{unit}" if name in LIMITS else ""
    cells = []
    for system in systems:
        if system not in middle:
            cells.append("-")
            continue
        value = middle[system]
        cell = f"{value:.0f}" if name.endswith("_n") else f"{value:.1f}{unit}" if name.endswith("_MiB") else f"{value:.3f}"
        missed = name in LIMITS and value > LIMITS[name]
        if system != systems[0] and unit == " s" and base:
            ratio = value / base
            missed |= name in BARS and ratio > BARS[name]
            cell += f" **x{ratio:.2f}**"
        if system == "mica" and missed:
            cell += " missed"
        for key, form in (("cpu", "cpu {:.2f}"), ("requests", "{:,.0f} req")):
            values = [run[key] for run in runs[system] if key in run]
            if values and statistics.median(values) > 0:
                cell += ", " + form.format(statistics.median(values))
        cells.append(cell)
    return f"| {name} | {bar} | " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("mode", "fsbench", "systems", "workloads", "cache", "scratch", "json"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--reps", type=int, required=True)
    parser.add_argument("--define", action="append", default=[])
    parser.add_argument("--define-umount", action="append", default=[])
    parser.add_argument("--verify", action="store_true")
    run_mode(parser.parse_args())


if __name__ == "__main__":
    main()
