"""One small file out of an image of 1 GiB in a registry on the loopback interface: bytes and time, beside a full pull."""
import gzip, hashlib, json, os, random, shutil, socket, statistics, struct, subprocess, tarfile, tempfile, threading, time

PART, PARTS = 32 << 20, 32
WANTED = "data/wanted"


def content(n):
    """Half noise, half words: about as compressible as programs are."""
    source = random.Random(n)
    noise = source.randbytes(PART // 2)
    words = b"the quick brown fox jumps over the lazy dog; "
    return b"".join(noise[i:i + 64] + (words + words)[i % 45:i % 45 + 64] for i in range(0, len(noise), 64))


def files():
    for n in range(PARTS):
        if n == PARTS // 2:
            yield WANTED, b"found\n"
        yield f"data/part{n:02d}", content(n)


def header(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 1_600_000_000
    return info.tobuf(tarfile.USTAR_FORMAT)


class Layer:
    """A blob in the making, of gzip members; the tar that they are is hashed."""

    def __init__(self, path):
        self.file, self.tar, self.blob, self.size = open(path, "wb"), hashlib.sha256(), hashlib.sha256(), 0

    def raw(self, data):
        self.file.write(data)
        self.blob.update(data)
        self.size += len(data)

    def member(self, data):
        if data:
            self.tar.update(data)
            self.raw(gzip.compress(data, 6, mtime=0))

    def descriptor(self, directory, annotations):
        self.file.close()
        digest = self.blob.hexdigest()
        os.rename(self.file.name, f"{directory}/blobs/sha256/{digest}")
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": f"sha256:{digest}",
                "size": self.size, "annotations": annotations}


def plain(layer):
    """One gzip member, as image builders write it."""
    out = gzip.GzipFile(fileobj=Sink(layer), mode="wb", compresslevel=6, mtime=0)
    for name, data in files():
        for piece in (header(name, len(data)), data, bytes(-len(data) % 512)):
            layer.tar.update(piece)
            out.write(piece)
    layer.tar.update(bytes(1024))
    out.write(bytes(1024))
    out.close()
    return {}


class Sink:
    def __init__(self, layer):
        self.write = layer.raw

    def flush(self):
        pass


def estargz(layer):
    """The same with a table of contents (stargz-snapshotter, docs/estargz.md)."""
    entries, pending = [], b""
    for name, data in files():
        layer.member(pending + header(name, len(data)))
        whole = f"sha256:{hashlib.sha256(data).hexdigest()}"
        for offset in range(0, len(data), 4 << 20):
            piece = data[offset:offset + (4 << 20)]
            entry = {"name": name, "type": "chunk", "offset": layer.size, "chunkOffset": offset,
                     "chunkSize": len(piece), "chunkDigest": f"sha256:{hashlib.sha256(piece).hexdigest()}"}
            if offset == 0:
                entry |= {"type": "reg", "mode": 0o644, "size": len(data), "digest": whole}
            entries.append(entry)
            layer.member(piece)
        pending = bytes(-len(data) % 512)
    layer.member(pending)
    table = json.dumps({"version": 1, "entries": entries}).encode()
    offset = layer.size
    layer.member(header("stargz.index.json", len(table)) + table + bytes(-len(table) % 512) + bytes(1024))
    layer.raw(bytes([0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255]) + struct.pack("<H2sH", 26, b"SG", 22)
              + b"%016xSTARGZ" % offset + bytes([1, 0, 0, 255, 255]) + bytes(8))
    return {"containerd.io/snapshot/stargz/toc.digest": f"sha256:{hashlib.sha256(table).hexdigest()}"}


def push(make, name, work):
    """Makes the image as an OCI layout and copies it to the registry."""
    layout = f"{work}/layout"
    os.makedirs(f"{layout}/blobs/sha256")
    layer = Layer(f"{layout}/layer")
    layers = [layer.descriptor(layout, make(layer))]

    def blob(kind, value):
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{layout}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}.v1+json", "digest": f"sha256:{digest}", "size": len(data)}

    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = blob("config", {"architecture": architecture, "os": "linux", "config": {},
                             "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.tar.hexdigest()}"]}})
    manifest = blob("manifest", {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                 "config": config, "layers": layers})
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    for path, value in (("index.json", {"schemaVersion": 2, "manifests": [manifest]}),
                        ("oci-layout", {"imageLayoutVersion": "1.0.0"})):
        with open(f"{layout}/{path}", "w") as file:
            json.dump(value, file)
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false",
                    f"oci:{layout}:latest", f"docker://{name}"], check=True)
    shutil.rmtree(layout)


class Counter:
    """Passes connections on and counts the bytes that come back."""

    def __init__(self, upstream):
        self.upstream, self.bytes, self.listener = upstream, 0, socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(self.upstream)
            threading.Thread(target=self.copy, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self.copy, args=(server, client, True), daemon=True).start()

    def copy(self, source, target, counted):
        try:
            while data := source.recv(1 << 18):
                if counted:
                    self.bytes += len(data)
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            # A client that has seen enough goes away.
            pass


def measure(mica, start_registry, work, reps):
    """Medians of each way to the file, as a table."""
    directory = tempfile.mkdtemp(dir=work)
    registry = start_registry(directory)
    rows = []
    try:
        counter = Counter(("127.0.0.1", 5577))

        def look(name, arguments, store, forget):
            taken = []
            for _ in range(reps):
                if forget:
                    subprocess.run(f"rm -rf {store}{forget}", shell=True, check=True)
                before, started = counter.bytes, time.perf_counter()
                subprocess.run([mica, "--root", store, *arguments], check=True, stdout=subprocess.DEVNULL)
                taken.append((time.perf_counter() - started, counter.bytes - before))
            rows.append((name, *(statistics.median(values) for values in zip(*taken))))

        for make, kind in ((plain, "gzip"), (estargz, "eStargz")):
            image = f"{counter.host}/bench/{kind.lower()}"
            push(make, image, directory)
            look(f"{kind}: pull", ["pull", "-q", image], f"{directory}/pulled", "/")
            store = f"{directory}/{kind}"
            look(f"{kind}: a file, first look", ["cat", image, f"/{WANTED}"], store, "/")
            if kind == "gzip":
                # What was read is forgotten, what is known is not.
                look("gzip: a file, with the index", ["cat", image, f"/{WANTED}"], store, "/remote/*/[dh]a*")
            look(f"{kind}: the same file again", ["cat", image, f"/{WANTED}"], store, None)
    finally:
        registry.terminate()
        registry.wait()
        shutil.rmtree(directory, ignore_errors=True)
    whole = rows[0][2]
    lines = ["| | seconds (median) | MB from the registry | of a pull |", "|---|---|---|---|"]
    for name, seconds, size in rows:
        lines.append(f"| {name} | {seconds:.3f} | {size / 1e6:.1f} | {100 * size / whole:.2f} % |")
    return "\n".join(lines) + "\n"
