"""Many processes at once on one filesystem: together.py DIRECTORY PROCESSES OPERATIONS SEED

Each works in a directory of its own, where it sees what a model does, and in one that all share, where counts must
come out right.
"""

import json, os, random, sys, traceback

ROOT, PROCESSES, OPERATIONS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
NAMES = "abcdef"


def put(path, data, mode):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | mode, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def get(path):
    with open(path, "rb") as f:
        return f.read()


def alone(chance, model):
    name, other = chance.choice(NAMES), chance.choice(NAMES)
    what = chance.randrange(6)
    if what <= 1:
        model[name] = chance.randbytes(chance.choice([0, 10, 5000, 70_000]))
        put(name, model[name], os.O_TRUNC)
    elif name not in model:
        assert not os.path.lexists(name)
    elif what == 2:
        os.unlink(name)
        del model[name]
    elif what == 3 and name != other:
        os.rename(name, other)
        model[other] = model.pop(name)
    elif what == 4:
        at, data = chance.randrange(80_000), chance.randbytes(3000)
        with open(name, "r+b") as f:
            f.seek(at)
            f.write(data)
        old = model[name].ljust(at, b"\0")
        model[name] = old[:at] + data + old[at + len(data):]
    else:
        assert get(name) == model[name], f"{name} differs"
    assert sorted(os.listdir(".")) == sorted(model)


def share(chance, count):
    names = [f"../shared/{chance.choice(NAMES)}" for _ in range(2)]
    try:
        what = chance.randrange(6)
        if what <= 1:
            put(names[0], b"x", os.O_EXCL)
            count["made"] += 1
        elif what == 2:
            os.unlink(names[0])
            count["made"] -= 1
        elif what == 3:
            os.link(*names)
            count["made"] += 1
        elif what == 4:
            listed = os.listdir("../shared")
            assert len(listed) == len(set(listed))
        else:
            # Lines appended by all, none of which may be lost or torn.
            put("../log", b"%07d\n" % chance.randrange(10_000_000), os.O_APPEND)
            count["lines"] += 1
    except (FileExistsError, FileNotFoundError):
        pass


def work(number):
    chance = random.Random(SEED * 1000 + number)
    os.chdir(f"{ROOT}/own{number}")
    model, count = {}, {"made": 0, "lines": 0}
    for _ in range(OPERATIONS):
        chance.choice([lambda: alone(chance, model), lambda: share(chance, count)])()
    for name, data in model.items():
        assert get(name) == data, f"{name} differs in the end"
    with open("count", "w") as f:
        json.dump(count, f)


os.mkdir(ROOT + "/shared")
pids = []
for number in range(PROCESSES):
    os.mkdir(f"{ROOT}/own{number}")
    pids.append(os.fork())
    if pids[-1] == 0:
        try:
            work(number)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids), "a process failed"
counts = [json.loads(get(f"{ROOT}/own{number}/count")) for number in range(PROCESSES)]
inodes = [entry.inode() for entry in os.scandir(ROOT + "/shared")]
assert len(inodes) == sum(count["made"] for count in counts), "as many names as were made and not removed"
for entry in os.scandir(ROOT + "/shared"):
    assert os.stat(entry.path).st_nlink == inodes.count(entry.inode()), "names are counted"
lines = get(ROOT + "/log").split(b"\n")
assert len(lines) == 1 + sum(count["lines"] for count in counts), "a line was lost"
assert all(len(line) == 7 for line in lines[:-1]), "a line was torn"
