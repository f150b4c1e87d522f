"""What a step costs in each of mica's id modes, and with buildah as root and rootless."""
import io, os, pwd, shutil, signal, statistics, subprocess, sys, tarfile, tempfile, time

from cached import packages

USER = "mica-bench"
# Its subordinate ids, far from those that systems give out.
SUBORDINATE = "1879048192-1879113727"
FILES = 20_000
PACKAGES = ["openssh-server"]
WORKLOADS = ["each further `RUN true`", "`apt-get install` of openssh-server, %s packages",
             "untar of 20,000 files of many owners", "five times `find -printf %u` over them"]
RUN, INSTALL, UNTAR, FIND = range(len(WORKLOADS))
COMMANDS = {
    INSTALL: "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends /debs/*.deb",
    UNTAR: "tar -xf /many.tar",
    FIND: "for n in 1 2 3 4 5; do find /many -printf '%u\\n' > /dev/null; done",
}
MODES = ["root", "subuid", "single"]
PEERS = ["buildah root", "buildah rootless"]
# Of which pairs, in which workloads, the ratio is told, and what it is to be at most.
PAIRS = [("subuid", "root", {workload: "1.05" for workload in range(len(WORKLOADS))}),
         ("single", "subuid", {INSTALL: "1.15", FIND: "1.5"})]


def measure(mica, work, reps, debian):
    """The table; `debian` is an archive of a small Debian."""
    if debian is None:
        print("left out: the id modes, since there is no archive of a Debian", file=sys.stderr)
        return None
    work = tempfile.mkdtemp(dir=work, prefix="modes.")
    os.chmod(work, 0o755)
    # What was made is removed then too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    try:
        make_user()
        systems = prepare(mica, work, debian)
        times = {name: [] for name in systems}
        for rep in range(reps):
            for name in order(rep, reps):
                if name in systems:
                    times[name].append(systems[name].round())
        count = len(os.listdir(f"{work}/context/debs"))
        return table(times, count, next((s.storage for s in systems.values() if isinstance(s, Buildah) and s.user), None))
    finally:
        # buildah's root leaves its storage mounted on itself.
        subprocess.run(["umount", "-l", f"{work}/root/buildah/overlay"], capture_output=True)
        remove_user()
        shutil.rmtree(work, ignore_errors=True)


def order(rep, reps):
    """Who is measured in which order: neighbours are compared, and neither always comes first. The peers once."""
    return (MODES if rep % 2 == 0 else MODES[::-1]) + (PEERS if rep == reps // 2 else [])


def make_user():
    # One of a run that was killed.
    remove_user()
    subprocess.run(["useradd", "--create-home", "--no-user-group", "--shell", "/bin/sh", USER], check=True)
    subprocess.run(["sed", "-i", f"/^{USER}:/d", "/etc/subuid", "/etc/subgid"], check=True)
    subprocess.run(["usermod", "--add-subuids", SUBORDINATE, "--add-subgids", SUBORDINATE, USER], check=True)


def remove_user():
    if subprocess.run(["id", USER], capture_output=True).returncode != 0:
        return
    # The mounts of a rootless buildah live on in its namespaces.
    subprocess.run(["pkill", "-KILL", "-U", USER])
    while subprocess.run(["pgrep", "-U", USER], stdout=subprocess.DEVNULL).returncode == 0:
        time.sleep(0.05)
    subprocess.run(["sed", "-i", f"/^{USER}:/d", "/etc/subuid", "/etc/subgid"], check=True)
    subprocess.run(["userdel", "--remove", USER], check=True, capture_output=True)


def prepare(mica, work, debian):
    """The systems by their names, each with the base image and those that the workloads begin from."""
    context = f"{work}/context"
    os.makedirs(context)
    shutil.copy(mica, f"{work}/mica")
    os.chmod(f"{work}/mica", 0o755)
    subprocess.run(["mknod", "-m", "666", f"{work}/fuse", "c", "10", "229"], check=True)
    many(f"{context}/many.tar")
    stores = {user: Store(work, user) for user in (None, USER)}
    base = None
    for store in stores.values():
        with open(debian, "rb") as archive:
            loaded = store.run([f"{work}/mica", "load"], stdin=archive, capture_output=True, text=True)
        base = loaded.stdout.split()[-1]
    root = [f"{work}/mica", "--root", f"{work}/root/store"]
    if packages(root, base, f"{context}/debs", PACKAGES) is None:
        sys.exit("without packages the id modes cannot be compared")
    systems = {name: Mica(work, name, stores[None if name == "root" else USER]) for name in MODES}
    if shutil.which("buildah"):
        for name, store in zip(PEERS, stores.values()):
            systems[name] = Buildah(work, store, debian)
    else:
        print("left out: buildah is not installed", file=sys.stderr)
    seen = set()
    for system in systems.values():
        # The modes of one user share the images.
        if system.images in seen:
            continue
        seen.add(system.images)
        first = f"FROM {system.base or base}\n"
        system.build(f"{first}COPY debs /debs\nCOPY many.tar /\n", "begin")
        system.build(f"{first}ADD many.tar /\n", "many")
    return systems


def many(path):
    """An archive of 20,000 small files of a thousand users."""
    with tarfile.open(path, "w") as tar:
        for number in range(FILES):
            if number % 100 == 0:
                directory = tarfile.TarInfo(f"many/{number // 100}")
                directory.type, directory.mode, directory.uid = tarfile.DIRTYPE, 0o755, number // 100
                tar.addfile(directory)
            content = f"{number}\n".encode() * 20
            file = tarfile.TarInfo(f"many/{number // 100}/file{number}")
            file.size, file.uid, file.gid = len(content), number % 1000, number * 7 % 500
            tar.addfile(file, io.BytesIO(content))


class Store:
    """Where a user's images lie; commands run as that user, with a /dev/fuse that everybody may open."""

    def __init__(self, work, user):
        self.work, self.user = work, user
        self.directory = f"{work}/{'user' if user else 'root'}"
        os.makedirs(f"{self.directory}/run")
        if user:
            entry = pwd.getpwnam(user)
            for path in (self.directory, f"{self.directory}/run"):
                os.chown(path, entry.pw_uid, entry.pw_gid)

    def run(self, command, environment=(), **options):
        become = ["setpriv", "--reuid", self.user, "--regid", str(pwd.getpwnam(self.user).pw_gid), "--init-groups"] if self.user else []
        home = f"HOME={self.directory}"
        settings = [home, f"MICA_ROOT={self.directory}/store", f"XDG_RUNTIME_DIR={self.directory}/run", "BUILDAH_ISOLATION=chroot"]
        mounted = 'mount --bind "$0" /dev/fuse && exec "$@"'
        whole = ["unshare", "--mount", "sh", "-c", mounted, f"{self.work}/fuse", *become, "env", *settings, *environment, *command]
        done = subprocess.run(whole, cwd=self.directory, **options)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} as {self.user or 'root'}: {done.stderr}")
        return done


class System:
    """Something that builds images."""

    def round(self):
        """Seconds of each workload."""
        one, more = (self.build("FROM begin\n" + "RUN true\n" * count, "bench") for count in (1, 1 + self.further))
        seconds = {RUN: (more - one) / self.further}
        for workload, command in COMMANDS.items():
            begin = "many" if workload == FIND else "begin"
            seconds[workload] = self.build(f"FROM {begin}\nRUN {command}\n", "bench")
        return seconds

    def build(self, dockerfile, tag):
        path = f"{self.work}/Dockerfile"
        with open(path, "w") as file:
            file.write(dockerfile)
        begun = time.monotonic()
        self.store.run([*self.command, "-t", tag, "-f", path, f"{self.work}/context"], self.environment,
                       capture_output=True, text=True)
        return time.monotonic() - begun


class Mica(System):
    # So many further RUNs tell what one takes.
    further = 20

    def __init__(self, work, mode, store):
        self.work, self.store, self.user, self.base = work, store, store.user, None
        self.images = ("mica", store.user)
        self.command = [f"{work}/mica", "build", "--no-cache"]
        self.environment = [f"MICA_USERNS={mode}"]


class Buildah(System):
    further = 3

    def __init__(self, work, store, debian):
        self.work, self.store, self.user = work, store, store.user
        self.images = ("buildah", store.user)
        self.storage, options = "overlay of the kernel", ["--storage-driver", "overlay"]
        if store.user and shutil.which("fuse-overlayfs"):
            self.storage = "fuse-overlayfs"
            options += ["--storage-opt", f"overlay.mount_program={shutil.which('fuse-overlayfs')}"]
        elif store.user:
            self.storage, options = "vfs", ["--storage-driver", "vfs"]
        program = ["buildah", "--root", f"{store.directory}/buildah", "--runroot", f"{store.directory}/run", *options]
        self.command, self.environment = [*program, "build", "--no-cache", "--layers", "--pull=never"], []
        pulled = self.store.run([*program, "pull", "-q", f"docker-archive:{debian}"], capture_output=True, text=True)
        self.base = pulled.stdout.strip()


def table(times, count, rootless):
    names = [name for name in MODES + PEERS if times.get(name)]
    shown = [name.replace("rootless", f"rootless ({rootless})") for name in names]
    lines = [f"| seconds (median) | {' | '.join(shown)} |", "|---" * (len(names) + 1) + "|"]
    titles = [title % count if "%s" in title else title for title in WORKLOADS]
    for workload, title in enumerate(titles):
        cells = [f"{statistics.median(t[workload] for t in times[name]):.3f}" for name in names]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += ["", "| ratio | median | least | most | bar |", "|---|---|---|---|---|"]
    for mode, to, bars in PAIRS:
        for workload, title in enumerate(titles):
            ratios = sorted(a[workload] / b[workload] for a, b in zip(times[mode], times[to]))
            cells = [f"x{ratio:.2f}" for ratio in (statistics.median(ratios), ratios[0], ratios[-1])]
            bar = f"x{bars[workload]}" if workload in bars else ""
            lines.append(f"| {mode} : {to}, {title} | {' | '.join(cells)} | {bar} |")
    return "\n".join(lines) + "\n"
