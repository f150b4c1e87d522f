"""What a program may do to a filesystem, each by a function of its own: posix.py DIRECTORY [many entries] [many links].

DIRECTORY is on the filesystem, with the tree `lower` of an image in it (see posix.rs). For each function one line:
`ok NAME`, or `FAILED NAME` and why.
"""

import contextlib, ctypes, errno, fcntl, mmap, os, shutil, socket, stat, struct, subprocess, sys, threading, time
import traceback

ROOT = os.path.abspath(sys.argv[1])
MANY = int(sys.argv[2])
LINKS = int(sys.argv[3])
LOWER = ROOT + "/lower"
SIZE = 300_001
PATTERN = bytes((n * 7 + n // 256) % 251 for n in range(SIZE))
libc = ctypes.CDLL(None, use_errno=True)
PAGE = 4096


def fails(error, call, *args, **kwargs):
    """The call must fail with this errno."""
    try:
        call(*args, **kwargs)
    except OSError as e:
        assert e.errno == error, f"{errno.errorcode.get(e.errno, e.errno)} instead of {errno.errorcode[error]}"
        return
    raise AssertionError(f"it succeeded instead of {errno.errorcode[error]}")


def system_call(function, *args):
    result = function(*args)
    if result < 0:
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
    return result


def renameat2(old, new, flags):
    return system_call(libc.renameat2, -100, old.encode(), -100, new.encode(), flags)


def fallocate(fd, mode, offset, length):
    c = ctypes.c_long
    return system_call(libc.fallocate, fd, mode, c(offset), c(length))


def put(path, data):
    with open(path, "wb") as f:
        f.write(data)


def get(path):
    with open(path, "rb") as f:
        return f.read()


@contextlib.contextmanager
def opened(path, flags, mode=0o666):
    fd = os.open(path, flags, mode)
    try:
        yield fd
    finally:
        os.close(fd)


def child(work):
    """Runs work in a process of its own; a function that waits for its success."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def join():
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the other process failed"

    return join


def o_tmpfile():
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP, e
    else:
        os.write(fd, b"x")
        os.close(fd)
    assert os.listdir(".") == []


def rename_flags():
    put("a", b"a")
    os.makedirs("d/e")
    fails(errno.EEXIST, renameat2, "a", "d", 1)
    renameat2("a", "new", 1)
    renameat2("new", "d", 2)
    assert get("d") == b"a" and os.listdir("new") == ["e"]
    renameat2(LOWER + "/exchanged", "d", 2)
    assert get(LOWER + "/exchanged") == b"a" and sorted(os.listdir("d")) == ["x", "y"]
    fails(errno.ENOENT, renameat2, "d", "none", 2)
    for bad in [4, 1 | 2, 8]:
        fails(errno.EINVAL, renameat2, "d", "f", bad)
    fails(errno.EINVAL, renameat2, "new", "new/e/f", 0)
    fails(errno.EINVAL, renameat2, "new", "new/e", 2)


def lower_directory_moves():
    before = os.stat(LOWER + "/tree/deep/file")
    os.rename(LOWER + "/tree", "moved")
    after = os.stat("moved/deep/file")
    assert before.st_ino == after.st_ino and get("moved/deep/file") == b"deep\n"
    assert not os.path.exists(LOWER + "/tree")
    os.mkdir(LOWER + "/tree")
    assert os.listdir(LOWER + "/tree") == []
    fails(errno.ENOTEMPTY, os.rename, LOWER + "/tree", "moved")
    os.rename("moved/deep", LOWER + "/tree/back")
    assert get(LOWER + "/tree/back/file") == b"deep\n" and os.listdir("moved") == []


def removed_directory_comes_back_empty():
    shutil.rmtree(LOWER + "/again")
    os.mkdir(LOWER + "/again")
    assert os.listdir(LOWER + "/again") == []
    fails(errno.ENOENT, os.stat, LOWER + "/again/deep")
    put(LOWER + "/again/deep", b"now a file")
    assert os.listdir(LOWER + "/again") == ["deep"]


def hard_links_over_copy_up():
    a, b = LOWER + "/linked-a", LOWER + "/linked-b"
    assert os.stat(a).st_nlink == 2 and os.path.samefile(a, b)
    with open(a, "r+b") as f:
        f.write(b"changed")
    assert get(b).startswith(b"changed") and os.path.samefile(a, b)
    os.link(b, "c")
    os.unlink(a)
    assert os.stat("c").st_nlink == 2 and os.path.samefile(b, "c")
    os.chmod("c", 0o600)
    assert stat.S_IMODE(os.stat(b).st_mode) == 0o600


def many_hard_links():
    put("f", b"x")
    for n in range(LINKS - 1):
        os.link("f", f"l{n}")
    assert os.stat("f").st_nlink == LINKS
    if LINKS == 65000:
        fails(errno.EMLINK, os.link, "f", "more")
    for n in range(LINKS - 1):
        os.unlink(f"l{n}")
    assert os.stat("f").st_nlink == 1


def unlinked_files_live_while_open():
    put("new", PATTERN)
    for path in ["new", LOWER + "/unlinked"]:
        with opened(path, os.O_RDWR) as fd:
            os.unlink(path)
            assert os.fstat(fd).st_nlink == 0
            assert os.pread(fd, SIZE, 0) == PATTERN
            os.pwrite(fd, b"more", SIZE)
            os.ftruncate(fd, SIZE + 2)
            os.fchmod(fd, 0o640)
            assert os.pread(fd, 10, SIZE) == b"mo" and os.fstat(fd).st_size == SIZE + 2
            assert get(f"/proc/self/fd/{fd}")[SIZE:] == b"mo"
            put(path, b"another")
            assert os.pread(fd, 4, 0) == PATTERN[:4] and get(path) == b"another"


def removed_directories():
    os.mkdir("d")
    with opened("d", os.O_DIRECTORY) as fd:
        os.rmdir("d")
        assert os.listdir(fd) == []
        fails(errno.ENOENT, os.open, "f", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        fails(errno.ENOENT, os.mkdir, "e", dir_fd=fd)


def working_directory_moves():
    os.makedirs("a/b")
    os.chdir("a/b")
    os.rename("../../a", "../../c")
    assert os.getcwd().endswith("/c/b"), os.getcwd()
    put("../f", b"1")
    os.chdir("../..")
    assert get("c/f") == b"1"


def appends_of_two_processes():
    for path in ["new", LOWER + "/appended"]:
        before = get(path) if os.path.exists(path) else b""

        def work(letter):
            with opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as fd:
                for n in range(400):
                    os.write(fd, letter * (n % 90 + 1) + b"\n")

        for join in [child(lambda: work(b"a")), child(lambda: work(b"b"))]:
            join()
        data = get(path)
        assert data.startswith(before)
        lines = data[len(before):].split(b"\n")[:-1]
        for letter in b"ab":
            own = [line for line in lines if line[0] == letter]
            assert own == [bytes([letter]) * (n % 90 + 1) for n in range(400)]
        assert len(lines) == 800


def direct_io():
    for path in ["new", LOWER + "/direct"]:
        if path == "new":
            put(path, PATTERN)
        try:
            fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        except OSError as e:
            assert e.errno == errno.EINVAL, e
            continue
        buffer = mmap.mmap(-1, 2 * PAGE)
        assert os.preadv(fd, [buffer], PAGE) == 2 * PAGE
        assert buffer[:] == PATTERN[PAGE:3 * PAGE]
        buffer[:] = b"d" * (2 * PAGE)
        assert os.pwritev(fd, [buffer], 2 * PAGE) == 2 * PAGE
        expected = PATTERN[:2 * PAGE] + b"d" * (2 * PAGE) + PATTERN[4 * PAGE:]
        assert get(path) == expected, "buffered reads see direct writes"
        with open(path, "r+b") as f:
            f.seek(3 * PAGE)
            f.write(b"e" * PAGE)
        assert os.preadv(fd, [buffer], 2 * PAGE) == 2 * PAGE
        assert buffer[:] == b"d" * PAGE + b"e" * PAGE, "direct reads see buffered writes"
        os.close(fd)


def shared_mappings():
    put("new", PATTERN)
    for path in ["new", LOWER + "/mapped"]:
        with opened(path, os.O_RDONLY) as early:
            old = mmap.mmap(early, SIZE, mmap.MAP_SHARED, mmap.PROT_READ)
            assert old[:100] == PATTERN[:100]
            private = mmap.mmap(early, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            private[PAGE:PAGE + 3] = b"own"
            with opened(path, os.O_RDWR) as fd:
                new = mmap.mmap(fd, SIZE)
                new[0:5] = b"first"
                assert old[:5] == b"first", "a mapping from before the copy-up sees what is written"
                assert os.pread(early, 5, 0) == b"first"
                os.pwrite(fd, b"second", 200_000)
                assert old[200_000:200_006] == b"second" == new[200_000:200_006]

                def other():
                    with opened(path, os.O_RDWR) as mine:
                        mapping = mmap.mmap(mine, SIZE)
                        assert mapping[:5] == b"first"
                        mapping[100_000:100_005] = b"other"

                child(other)()
                assert old[100_000:100_005] == b"other"
                new.flush()
                assert private[PAGE:PAGE + 3] == b"own" and old[PAGE:PAGE + 3] == PATTERN[PAGE:PAGE + 3]
                os.ftruncate(fd, 2 * PAGE)
                os.ftruncate(fd, SIZE)
                assert old[3 * PAGE:3 * PAGE + 10] == bytes(10), "what was cut off is zeros"


def allocation():
    KEEP, PUNCH, COLLAPSE, ZERO, INSERT = 1, 2, 8, 16, 32
    put("new", PATTERN)
    for path in ["new", LOWER + "/allocated"]:
        with opened(path, os.O_RDWR) as fd:
            expected = bytearray(PATTERN)
            fallocate(fd, PUNCH | KEEP, 10_000, 100_000)
            expected[10_000:110_000] = bytes(100_000)
            assert get(path) == expected
            fallocate(fd, ZERO, SIZE - 10, 1000)
            expected[SIZE - 10:] = bytes(1000)
            assert get(path) == expected
            fallocate(fd, KEEP, SIZE, 500_000)
            assert os.fstat(fd).st_size == len(expected)
            fallocate(fd, ZERO | KEEP, 5, 5)
            expected[5:10] = bytes(5)
            os.posix_fallocate(fd, 0, 400_000)
            expected += bytes(400_000 - len(expected))
            assert get(path) == expected
            for mode in [COLLAPSE, INSERT]:
                fails(errno.EOPNOTSUPP, fallocate, fd, mode, 0, PAGE)
            fails(errno.EINVAL, fallocate, fd, 0, 0, 0)
            assert get(path) == expected


def holes():
    put("new", b"")
    os.truncate("new", 10 << 20)
    with open("new", "r+b") as f:
        f.seek(5 << 20)
        f.write(b"x" * 100_000)
    for path, data in [("new", get("new")), (LOWER + "/sparse", get(LOWER + "/sparse"))]:
        covered = bytearray(len(data))
        with opened(path, os.O_RDONLY) as fd:
            at = 0
            with contextlib.suppress(OSError):
                while True:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                    end = os.lseek(fd, at, os.SEEK_HOLE)
                    covered[at:end] = data[at:end]
                    at = end
            fails(errno.ENXIO, os.lseek, fd, len(data), os.SEEK_DATA)
        assert covered == data, "a piece of data is not found"
        for how in ["always", "auto", "never"]:
            subprocess.run(["cp", f"--sparse={how}", path, "copy"], check=True)
            assert get("copy") == data


def copy_file_range():
    put("new", b"n" * 100)
    with opened(LOWER + "/plain", os.O_RDONLY) as source, opened("new", os.O_RDWR) as target:
        done = 0
        while n := os.copy_file_range(source, target, 100_000, done, done + 50):
            done += n
        assert done == SIZE
        assert get("new") == b"n" * 50 + PATTERN
        assert os.copy_file_range(target, target, 1000, 50, 200_000) == 1000
        assert os.pread(target, 1000, 200_000) == PATTERN[:1000]
        fails(errno.EINVAL, os.copy_file_range, target, target, 1000, 0, 500)
    assert get(LOWER + "/plain") == PATTERN


def sendfile_and_splice():
    with opened(LOWER + "/plain", os.O_RDONLY) as source, opened("new", os.O_RDWR | os.O_CREAT) as target:
        done = 0
        while n := os.sendfile(target, source, done, 70_000):
            done += n
        assert get("new") == PATTERN
        reader, writer = os.pipe()
        os.splice(source, writer, 5000, offset_src=123)
        os.splice(reader, target, 5000, offset_dst=7)
        assert get("new")[7:5007] == PATTERN[123:5123]


def locks():
    for path in ["new", LOWER + "/plain"]:
        with open(path, "ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)

            def other():
                with open(path, "ab") as mine:
                    fails(errno.EWOULDBLOCK, fcntl.flock, mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

            child(other)()
            fcntl.flock(f, fcntl.LOCK_UN)
            fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)

            def other():
                with open(path, "r+b") as mine:
                    fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)
                    fails(errno.EAGAIN, fcntl.lockf, mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 14)

            child(other)()
            # One that waits gets it.
            join = child(lambda: fcntl.lockf(open(path, "r+b"), fcntl.LOCK_EX, 10, 5))
            time.sleep(0.05)
            fcntl.lockf(f, fcntl.LOCK_UN, 10, 5)
            join()


def statx():
    # Whether a birth time is told depends on the protocol that the server speaks; a wrong one must not be.
    put("f", b"")
    buffer = ctypes.create_string_buffer(256)

    def born():
        system_call(libc.statx, -100, b"f", 0, 0xFFF, buffer)
        mask = struct.unpack_from("I", buffer, 0)[0]
        assert mask & 0x7FF == 0x7FF
        return struct.unpack_from("qI", buffer, 80) if mask & 0x800 else None

    before = born()
    put("f", b"x")
    os.utime("f", (5, 5))
    assert born() == before
    if before:
        assert abs(before[0] - time.time()) < 60


def extended_attributes():
    root = os.geteuid() == 0
    names = ["user.mine", "user.overlay.opaque", "user.overlay.redirect"]
    # trusted.* is for root of the machine alone.
    try:
        os.setxattr(".", "trusted.mine", b"1")
        names += ["trusted.overlay.opaque", "trusted.overlay.whiteout", "trusted.mine"]
    except PermissionError:
        pass
    os.mkdir("dir")
    put("new", b"x")
    for path in ["new", "dir", LOWER + "/plain", LOWER + "/exchanged-dir"]:
        for name in names:
            os.setxattr(path, name, b"y")
            assert os.getxattr(path, name) == b"y" and name in os.listxattr(path)
        fails(errno.EEXIST, os.setxattr, path, names[0], b"z", os.XATTR_CREATE)
        fails(errno.ENODATA, os.setxattr, path, "user.none", b"z", os.XATTR_REPLACE)
        os.setxattr(path, names[0], bytes(range(256)) * 200)
        assert os.getxattr(path, names[0]) == bytes(range(256)) * 200
        fails(errno.ENODATA, os.getxattr, path, "user.none")
        fails(errno.ERANGE, os.setxattr, path, "user." + "n" * 251, b"")
        os.setxattr(path, "user." + "n" * 250, b"")
        fails(errno.E2BIG, os.setxattr, path, "user.big", bytes(65_537))
        os.setxattr(path, "user.big", bytes(65_536))
        for name in names + ["user.big", "user." + "n" * 250]:
            os.removexattr(path, name)
        fails(errno.ENODATA, os.removexattr, path, names[0])
        assert os.listxattr(path) == [], os.listxattr(path)
    assert os.listdir("dir") == [] and sorted(os.listdir(LOWER + "/exchanged-dir")) == ["x", "y"]
    assert get(LOWER + "/with-xattr") == b"data\n"


def access_control_lists():
    # Either they work, or they are refused: never stored without effect.
    put("f", b"")
    entry = struct.pack("<IHHIHHIHHI", 2, 1, 6, 0xFFFFFFFF, 4, 4, 0xFFFFFFFF, 0x20, 0, 0xFFFFFFFF)
    try:
        os.setxattr("f", "system.posix_acl_access", entry)
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP, e
        assert os.listxattr("f") == []
    else:
        assert stat.S_IMODE(os.stat("f").st_mode) == 0o640
    put("g", b"")
    os.chmod("g", 0o751)
    subprocess.run(["cp", "-p", "g", "h"], check=True)
    assert stat.S_IMODE(os.stat("h").st_mode) == 0o751


def file_capabilities():
    if os.geteuid() != 0:
        return
    put("f", b"x")
    capability = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    for change in [lambda: put("f", b"y"), lambda: os.chown("f", 1, 1), lambda: os.truncate("f", 5)]:
        os.setxattr("f", "security.capability", capability)
        assert os.getxattr("f", "security.capability")[4:8] == capability[4:8]
        change()
        fails(errno.ENODATA, os.getxattr, "f", "security.capability")


def sparse_files():
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        os.pwrite(fd, b"end", (1 << 30) - 3)
        os.fsync(fd)
        info = os.fstat(fd)
        assert info.st_size == 1 << 30 and info.st_blocks * 512 < 1 << 20, info.st_blocks
        assert os.pread(fd, 10, 1 << 29) == bytes(10)


def beyond_four_gigabytes():
    with opened("f", os.O_RDWR | os.O_CREAT) as fd:
        for at in [(4 << 30) - 2, 5 << 30, (1 << 40) + 1]:
            os.pwrite(fd, b"%020d" % at, at)
        for at in [(4 << 30) - 2, 5 << 30, (1 << 40) + 1]:
            assert os.pread(fd, 20, at) == b"%020d" % at
        assert os.pread(fd, 20, 1 << 30) == bytes(20)
        os.ftruncate(fd, (4 << 30) + 4)
        assert os.fstat(fd).st_size == (4 << 30) + 4
        assert os.pread(fd, 20, (4 << 30) - 2) == (b"%020d" % ((4 << 30) - 2))[:6]


def long_names_and_paths():
    for name in ["n" * 255, "ü" * 127 + "x", "\n\t\\'\" *?"]:
        put(name, b"1")
        os.rename(name, name[:-1] + "y")
        assert name[:-1] + "y" in os.listdir(".")
        os.unlink(name[:-1] + "y")
    raw = bytes(range(1, 255)).replace(b"/", b"")
    put(raw, b"raw")
    assert os.listdir(b".") == [raw]
    os.unlink(raw)
    fails(errno.ENAMETOOLONG, os.mkdir, "n" * 256)
    fails(errno.ENAMETOOLONG, os.stat, "n" * 256)
    top = os.getcwd()
    deep = top
    # PATH_MAX counts the NUL.
    while len(deep) + 201 < 4095:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
        deep += "/" + "d" * 200
    last = "e" * (4095 - len(deep) - 1)
    put(last, b"far")
    os.chdir(top)
    path = deep + "/" + last
    assert len(path) == 4095 and get(path) == b"far"
    fails(errno.ENAMETOOLONG, os.stat, path + "x")
    os.symlink("t" * 4095, "link")
    assert os.readlink("link") == "t" * 4095


def large_directory_changes_while_it_is_listed():
    os.mkdir("d")
    for n in range(MANY):
        os.close(os.open(f"d/stays{n}", os.O_CREAT | os.O_WRONLY))
    end = threading.Event()

    def change():
        n = 0
        while not end.wait(0.0002):
            os.close(os.open(f"d/comes{n}", os.O_CREAT | os.O_WRONLY))
            if n % 3 == 0:
                os.rename(f"d/comes{n}", f"d/moves{n}")
            elif n % 3 == 1:
                os.unlink(f"d/comes{n}")
            n += 1

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(2):
            names = os.listdir("d")
            assert len(names) == len(set(names)), "a name is listed twice"
            stays = sum(name.startswith("stays") for name in names)
            assert stays == MANY, f"{stays} of {MANY} names are listed"
    finally:
        end.set()
        changer.join()
    # Removing what one lists, as rm does.
    with os.scandir("d") as entries:
        for entry in entries:
            os.unlink(entry)
    assert os.listdir("d") == []
    os.rmdir("d")


def directory_changes_by_what_is_listed():
    # Each name that is read makes another; the reader comes to an end.
    os.mkdir("d")
    for n in range(3000):
        put(f"d/{n}", b"")
    with os.scandir("d") as entries:
        seen = 0
        for entry in entries:
            os.rename(entry.path, entry.path + ".renamed")
            put(entry.path + ".new", b"")
            seen += 1
            assert seen < 20_000, "the listing has no end"
    assert len(os.listdir("d")) == 2 * seen


def notifications():
    fd = system_call(libc.inotify_init1, 0)
    system_call(libc.inotify_add_watch, fd, b".", 0xFFF)
    put("f", b"1")
    os.rename("f", "g")
    os.chmod("g", 0o600)
    os.unlink("g")
    masks, data = 0, os.read(fd, 65536)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        masks |= mask
        data = data[16 + length:]
    os.close(fd)
    for bit in [0x100, 0x2, 0x8, 0x40, 0x80, 0x4, 0x200]:
        assert masks & bit, f"no event {bit:#x} in {masks:#x}"


def programs_just_written():
    busybox = LOWER + "/busybox"
    for source in [busybox, shutil.which("true")]:
        shutil.copyfile(source, "true")
        os.chmod("true", 0o755)
        subprocess.run(["./true"], check=True)
    put("script", b"#!/bin/sh\necho $1 $1\n")
    os.chmod("script", 0o755)
    assert subprocess.run(["./script", "a"], capture_output=True, check=True).stdout == b"a a\n"
    put("script", b"#!/bin/sh\necho new $1\n")
    assert subprocess.run(["./script", "a"], capture_output=True, check=True).stdout == b"new a\n"
    shutil.copyfile(shutil.which("sleep"), "running")
    os.chmod("running", 0o755)
    process = subprocess.Popen(["./running", "60"])
    try:
        fails(errno.ETXTBSY, os.open, "running", os.O_WRONLY)
        os.unlink("running")
        put("running", b"another file")
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def times():
    put("new", b"x")
    for path in ["new", LOWER + "/plain", LOWER + "/exchanged-dir"]:
        for ns in [1, 1_234_567_890_123_456_789, 4_102_444_800_000_000_001, -1_500_000_001]:
            os.utime(path, ns=(ns + 7, ns))
            info = os.stat(path)
            assert (info.st_atime_ns, info.st_mtime_ns) == (ns + 7, ns), (info.st_atime_ns, info.st_mtime_ns, ns)
        assert abs(os.stat(path).st_ctime - time.time()) < 5
    os.utime("new", ns=(5, 5))
    with open("new", "ab") as f:
        assert os.fstat(f.fileno()).st_mtime_ns == 5, "opening is no change"
        f.write(b"y")
        f.flush()
        assert abs(os.fstat(f.fileno()).st_mtime - time.time()) < 5
        os.utime("new", ns=(6, 6))
    assert os.stat("new").st_mtime_ns == 6, "closing is no change"
    get("new")
    assert os.stat("new").st_atime_ns == 6, "reading changes no time"
    os.utime(".", ns=(7, 7))
    os.mkdir("d")
    assert os.stat(".").st_mtime_ns > 7


def inode_numbers_stay():
    path = LOWER + "/numbered"
    before = os.stat(path)
    assert before.st_ino > 1
    with open(path, "ab") as f:
        f.write(b"x")
        assert os.fstat(f.fileno()).st_ino == before.st_ino
    os.rename(path, "moved")
    assert (os.stat("moved").st_ino, os.stat("moved").st_dev) == (before.st_ino, before.st_dev)
    with os.scandir(".") as entries:
        assert [entry.inode() for entry in entries] == [before.st_ino]
    os.mkdir("d")
    os.rename("moved", "d/again")
    assert os.stat("d/again").st_ino == before.st_ino


def space():
    put("f", PATTERN)
    os.sync()
    used = int(subprocess.run(["du", "-sB1", "f"], capture_output=True, check=True).stdout.split()[0])
    assert SIZE <= used < 2 * SIZE, used
    used = int(subprocess.run(["du", "-sB1", LOWER], capture_output=True, check=True).stdout.split()[0])
    assert used > SIZE
    space = os.statvfs(".")
    assert 0 < space.f_bavail <= space.f_bfree <= space.f_blocks and space.f_namemax == 255
    subprocess.run(["df", "."], check=True, stdout=subprocess.DEVNULL)


def special_files():
    os.mkfifo("fifo")
    join = child(lambda: put("fifo", b"through"))
    assert get("fifo") == b"through"
    join()
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    server.accept()[0].send(b"hello")
    assert client.recv(10) == b"hello" and stat.S_ISSOCK(os.stat("socket").st_mode)
    server.close()
    client.close()
    with contextlib.suppress(PermissionError):
        os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod("zero", stat.S_IFCHR | 0o666, os.makedev(0, 0))
        os.mknod("block", stat.S_IFBLK | 0o666, os.makedev(259, 300))
        assert os.stat("zero").st_rdev == 0 and os.stat("block").st_rdev == os.makedev(259, 300)
        assert get("null") == b""


def truncation():
    path = LOWER + "/truncated"
    with opened(path, os.O_RDONLY) as early:
        with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
            assert os.fstat(early).st_size == 0 and os.pread(early, 5, 0) == b""
            os.write(fd, b"new")
        assert os.pread(early, 5, 0) == b"new"
    os.truncate(path, 100_000)
    assert get(path) == b"new" + bytes(99_997)
    os.truncate(path, 2)
    os.truncate(path, 5)
    assert get(path) == b"ne" + bytes(3)
    fails(errno.EISDIR, os.truncate, ".", 0)


def metadata_of_lower_files():
    path = LOWER + "/owned"
    os.chmod(path, 0o4755 if os.geteuid() == 0 else 0o755)
    if os.geteuid() == 0:
        os.chown(path, 12, 34)
        info = os.stat(path)
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (12, 34, 0o755)
        os.lchown(LOWER + "/symlink", 5, 6)
        assert os.lstat(LOWER + "/symlink").st_uid == 5
    assert get(path) == PATTERN


def syncing():
    for path in ["new", LOWER + "/plain"]:
        with opened(path, os.O_RDWR | os.O_CREAT | os.O_SYNC) as fd:
            os.pwrite(fd, b"s", 0)
            os.fsync(fd)
            os.fdatasync(fd)
            system_call(libc.syncfs, fd)
    with opened(".", os.O_DIRECTORY) as fd:
        os.fsync(fd)


def path_descriptors():
    with opened(LOWER + "/owned", os.O_PATH) as fd:
        assert os.fstat(fd).st_size == SIZE
        fails(errno.EBADF, os.read, fd, 1)
        with open(f"/proc/self/fd/{fd}", "rb") as f:
            assert f.read(10) == PATTERN[:10]
    with opened(".", os.O_DIRECTORY) as fd:
        os.mkdir("d", dir_fd=fd)
        os.symlink("d", "l", dir_fd=fd)
        assert os.stat("l", dir_fd=fd).st_ino == os.stat("d").st_ino
        fails(errno.ELOOP, os.open, "l", os.O_NOFOLLOW)
    os.symlink("loop", "loop")
    fails(errno.ELOOP, os.stat, "loop")


def exclusive_creation():
    ends = []

    def work():
        won = 0
        for n in range(200):
            try:
                os.close(os.open(f"f{n}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                won += 1
            except FileExistsError:
                pass
        ends.append(won)

    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert sum(ends) == 200, ends


HELPERS = [fails, system_call, renameat2, fallocate, put, get, opened, child]
CHECKS = [value for value in list(globals().values()) if type(value) is type(fails) and value not in HELPERS]

for check in CHECKS:
    name = check.__name__
    directory = f"{ROOT}/scratch/{name}"
    os.makedirs(directory)
    os.chdir(directory)
    try:
        check()
        print("ok", name, flush=True)
    except BaseException:
        print("FAILED", name, traceback.format_exc(), flush=True)
    os.chdir(ROOT)
