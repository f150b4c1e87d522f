"""A load on a SQLite database, by many processes in place.

database.py make DB MEGABYTES
database.py load DB MODEL SEED JOURNAL TRANSACTIONS   all that was committed is in the file MODEL afterwards
database.py check DB MODEL                            the database is sound, and holds what the model does
"""

import hashlib, json, os, random, sqlite3, sys, time, traceback

WRITERS = 3
TOTAL = 1000


def connect(path, mapped=False, synchronous="normal"):
    c = sqlite3.connect(path, timeout=120, isolation_level=None)
    c.execute(f"pragma synchronous={synchronous}")
    c.execute(f"pragma mmap_size={256 << 20 if mapped else 0}")
    c.execute("pragma cache_size=50")
    return c


def digest(row):
    number, amount, blob = row
    return hashlib.sha256(b"%d %d " % (number, amount) + blob).hexdigest()


def make(path, megabytes):
    c = connect(path)
    c.execute("pragma auto_vacuum=incremental")
    c.execute("create table t (k integer primary key, amount int, v blob)")
    c.execute("create index amounts on t (amount, k)")
    c.execute("begin")
    chance = random.Random(0)
    rows = megabytes * 1000
    c.executemany("insert into t values (?, ?, ?)", ((k, TOTAL, chance.randbytes(1000)) for k in range(rows)))
    c.execute("commit")


def change(c, chance, writer, rows):
    """One transaction on the writer's own rows: each kind of change keeps the sum of the amounts."""
    mine = [k * WRITERS + writer for k in chance.sample(range(rows // WRITERS), 20)]
    for k in mine[:15]:
        c.execute("update t set v = ? where k = ?", (chance.randbytes(chance.choice([10, 1000, 1000, 6000])), k))
    there = [k for k in mine[15:] if c.execute("select 1 from t where k = ?", (k,)).fetchone()]
    if len(there) >= 3:
        give, take, goes = there[:3]
        c.execute("update t set amount = amount - 7 where k = ?", (give,))
        c.execute("update t set amount = amount + 7 where k = ?", (take,))
        amount, = c.execute("select amount from t where k = ?", (goes,)).fetchone()
        c.execute("delete from t where k = ?", (goes,))
        c.execute("update t set amount = amount + ? where k = ?", (amount, take))


def write(path, seed, writer, transactions, rows):
    chance = random.Random(seed * 100 + writer)
    # To wait for the disk is slow, and to hold back as much as possible is hard on the filesystem.
    c = connect(path, mapped=writer == 0, synchronous="off" if seed % 3 else "normal")
    for n in range(transactions):
        c.execute("begin immediate")
        change(c, chance, writer, rows)
        # What is rolled back was written in place, and is written back.
        c.execute("rollback" if chance.random() < 0.1 else "commit")
        if writer == 0 and n % 10 == 5:
            # Readers that never pause would keep it waiting: then it stays undone.
            c.execute("pragma busy_timeout=100")
            c.execute("pragma wal_checkpoint(truncate)").fetchall()
            c.execute("pragma busy_timeout=120000")
            c.execute("pragma incremental_vacuum(100)").fetchall()
    if writer == 1:
        c.execute("vacuum")


def read(path, mapped, expected, end):
    c = connect(path, mapped)
    while not os.path.exists(end):
        total, = c.execute("select sum(amount) from t").fetchone()
        assert total == expected, f"a reader sees {total} instead of {expected}"
        c.execute("select sum(length(v)) from t where k % 7 = 0").fetchone()
        time.sleep(0.02)


def forget_pages(path, end):
    """Memory pressure on these files alone: the kernel writes their pages back and drops them, again and again. With
    databases of their full size every two seconds on the whole machine, where that is allowed: all others on it lose
    their pages, too."""
    long = os.environ.get("MICA_TEST_LONG")
    everything = long and os.access("/proc/sys/vm/drop_caches", os.W_OK)
    last = time.monotonic()
    while not os.path.exists(end):
        for name in [path, path + "-wal", path + "-journal"]:
            try:
                fd = os.open(name, os.O_RDONLY)
            except FileNotFoundError:
                continue
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
        if everything and time.monotonic() - last > 2:
            with open("/proc/sys/vm/drop_caches", "w") as f:
                f.write("1")
            last = time.monotonic()
        time.sleep(0.1 if long else 0.005)


def load(path, model, seed, journal, transactions):
    c = connect(path)
    assert c.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    rows, = c.execute("select count(*) from t").fetchone()
    expected, = c.execute("select sum(amount) from t").fetchone()
    c.close()
    end = model + ".end"

    def fork(work, *arguments):
        pid = os.fork()
        if pid:
            return pid
        try:
            work(*arguments)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    writers = [fork(write, path, seed, writer, transactions, rows) for writer in range(WRITERS)]
    others = [fork(read, path, mapped, expected, end) for mapped in [False, True]]
    if seed % 2:
        others.append(fork(forget_pages, path, end))
    succeeded = [os.waitpid(pid, 0)[1] == 0 for pid in writers]
    open(end, "w").close()
    succeeded += [os.waitpid(pid, 0)[1] == 0 for pid in others]
    os.unlink(end)
    assert all(succeeded), "a process failed"
    with open(model, "w") as f:
        json.dump(replay(seed, transactions, rows), f)
    check(path, model)


def replay(seed, transactions, rows):
    """The rows that must be there: each writer's changes depend on its own rows alone, so they are made again, one
    writer after the other, in a database in memory."""
    c = sqlite3.connect(":memory:", isolation_level=None)
    sqlite3.connect(os.environ["ORIGINAL"]).backup(c)
    for writer in range(WRITERS):
        chance = random.Random(seed * 100 + writer)
        for _ in range(transactions):
            c.execute("begin")
            change(c, chance, writer, rows)
            c.execute("rollback" if chance.random() < 0.1 else "commit")
    return {str(row[0]): digest(row) for row in c.execute("select k, amount, v from t")}


def check(path, model):
    with open(model) as f:
        expected = json.load(f)
    for mapped in [False, True]:
        c = connect(path, mapped)
        assert c.execute("pragma integrity_check").fetchall() == [("ok",)], "the database is damaged"
        rows = {str(row[0]): digest(row) for row in c.execute("select k, amount, v from t")}
        wrong = [k for k in expected.keys() | rows.keys() if expected.get(k) != rows.get(k)]
        assert not wrong, f"{len(wrong)} rows of {len(expected)} are not what was committed: {wrong[:10]}"
        c.close()


command, *arguments = sys.argv[1:]
if command == "make":
    make(arguments[0], int(arguments[1]))
elif command == "load":
    load(arguments[0], arguments[1], int(arguments[2]), arguments[3], int(arguments[4]))
else:
    check(*arguments)
