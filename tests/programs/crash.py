"""A load whose server is killed, and what must be left of it.

crash.py write DIRECTORY LOG ROUND   changes files until the filesystem goes away; notes in LOG what was synced
crash.py check DIRECTORY LOG         what LOG notes as synced is there

A line of LOG is written after fsync(2) has returned, or, with the word `try`, before something is begun that may or
may not be there after a crash.
"""

import os, random, struct, sys

BLOCK = 4096
VERSIONED = ["new", "inherited"]


def pattern(name, start, end):
    cycle = bytes((n * 31 + sum(name.encode())) % 253 for n in range(253))
    return (cycle * (end // 253 + 1))[start:end]


def block(name, number, version):
    return struct.pack("<8sQQ", name.encode()[:8], number, version) * 170 + bytes(BLOCK - 170 * 24)


def content(name, version):
    """What replaces a file: now small, now large."""
    return b"%d\n" % version + pattern(name + str(version), 0, [10, 3000, 16384, 60_000][version % 4])


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Writer:
    def __init__(self, directory, log, round):
        os.chdir(directory)
        self.log = open(log, "a")
        self.chance = random.Random(round)
        self.version = round * 1_000_000
        self.dirty = {name: {} for name in VERSIONED}

    def note(self, *words):
        self.log.write(" ".join(map(str, words)) + "\n")
        self.log.flush()

    def run(self):
        steps = [self.append, self.overwrite, self.replace, self.remove, self.describe, self.make, self.move]
        while True:
            self.version += 1
            self.chance.choice(steps)()

    def append(self):
        name = "append" + str(self.chance.randrange(3))
        with open(name, "ab") as f:
            start = f.seek(0, 2)
            end = start + self.chance.choice([1, 100, 5000, 30_000])
            f.write(pattern(name, start, end))
            f.flush()
            if self.chance.random() < 0.5:
                os.fsync(f.fileno())
                self.note("append", name, end)

    def overwrite(self):
        name = self.chance.choice(VERSIONED)
        with open(name, "r+b" if os.path.exists(name) else "w+b") as f:
            for _ in range(self.chance.randrange(1, 20)):
                number = self.chance.randrange(200)
                f.seek(number * BLOCK)
                f.write(block(name, number, self.version))
                self.dirty[name][number] = self.version
            f.flush()
            if self.chance.random() < 0.3:
                os.fsync(f.fileno())
                for number, version in self.dirty[name].items():
                    self.note("block", name, number, version)
                self.dirty[name] = {}

    def replace(self):
        name = "replace" + str(self.chance.randrange(4))
        with open(name + ".new", "wb") as f:
            f.write(content(name, self.version))
            f.flush()
            os.fsync(f.fileno())
        os.rename(name + ".new", name)
        sync(".")
        self.note("replace", name, self.version)

    def remove(self):
        name = "replace" + str(self.chance.randrange(4))
        if os.path.exists(name):
            self.note("try", name)
            os.unlink(name)
            sync(".")
            self.note("remove", name, self.version)

    def describe(self):
        name = "append" + str(self.chance.randrange(3))
        if os.path.exists(name):
            os.setxattr(name, "user.version", str(self.version).encode())
            os.chmod(name, 0o600 | self.version % 64)
            sync(name)
            self.note("describe", name, self.version)

    def make(self):
        path = f"tree/{self.chance.randrange(9)}/{self.chance.randrange(9)}"
        if not os.path.exists(path):
            os.makedirs(path)
            os.symlink(path, f"{path}/link")
            sync(path)
            self.note("make", path)

    def move(self):
        # A directory of the image, there and back.
        old, new = ("lower", "moved") if os.path.exists("lower") else ("moved", "lower")
        self.note("try", "move")
        os.rename(old, new)
        sync(".")
        self.note("move", new)


def check(directory, log):
    os.chdir(directory)
    size, blocks, replaced, described, made, moved = {}, {}, {}, {}, [], None
    with open(log) as f:
        for line in f:
            kind, name, *rest = line.split()
            if kind == "append":
                size[name] = int(rest[0])
            elif kind == "block":
                blocks[name, int(rest[0])] = int(rest[1])
            elif kind == "describe":
                described[name] = int(rest[0])
            elif kind == "make":
                made.append(name)
            elif kind == "move":
                moved = name
            elif (kind, name) == ("try", "move"):
                moved = None
            elif kind == "try":
                replaced[name] = (replaced[name][0], True) if name in replaced else (0, True)
            else:
                replaced[name] = (int(rest[0]), kind == "remove")
    for name, least in size.items():
        with open(name, "rb") as f:
            data = f.read()
        assert len(data) >= least, f"{name} has {len(data)} bytes of {least}"
        assert data[:least] == pattern(name, 0, least), f"the content of {name}"
    for (name, number), least in blocks.items():
        with open(name, "rb") as f:
            f.seek(number * BLOCK)
            data = f.read(BLOCK)
        version = struct.unpack_from("<8sQQ", data)[2]
        assert data == block(name, number, version), f"block {number} of {name} is torn"
        assert version >= least, f"block {number} of {name} has version {version}, {least} was synced"
    for name, (least, may_be_gone) in replaced.items():
        if not os.path.exists(name):
            assert may_be_gone, f"{name} is gone"
            continue
        with open(name, "rb") as f:
            data = f.read()
        version = int(data.split(b"\n")[0])
        assert data == content(name, version), f"{name} is not what replaced it"
        assert version >= least, f"{name} has version {version}, {least} was synced"
    for name, least in described.items():
        assert int(os.getxattr(name, "user.version")) >= least, f"the attribute of {name}"
    for path in made:
        assert os.readlink(f"{path}/link") == path
    assert os.path.exists("lower") != os.path.exists("moved"), "the directory is in one place"
    if moved:
        assert os.path.exists(moved), f"it was moved to {moved}"
    with open(("lower" if os.path.exists("lower") else "moved") + "/file") as f:
        assert f.read() == "of the image\n"
    # Everything can be read, whatever was synced.
    for top, _, names in os.walk("."):
        for name in names:
            if not os.path.islink(f"{top}/{name}"):
                with open(f"{top}/{name}", "rb") as f:
                    f.read()


if sys.argv[1] == "write":
    try:
        Writer(sys.argv[2], sys.argv[3], int(sys.argv[4])).run()
    except OSError as error:
        # ENOTCONN, ECONNABORTED or EIO: the server is gone.
        print("ended by", error)
else:
    check(sys.argv[2], sys.argv[3])
