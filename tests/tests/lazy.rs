//! Images that are read in their registry, without being pulled.

use mica_tests::archive::{Members, Packed, Tar};
use mica_tests::command::{tool, wait_until};
use mica_tests::proxy::{Exchange, Fault, Kind};
use mica_tests::registry::{Access, PASSWORD, Transport, USER};
use mica_tests::stargz::estargz;
use mica_tests::{Proxy, Registry, Scene, machine};
use serde_json::json;

/// Bytes that no compression makes much smaller, the same for the same seed.
fn noise(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 4);
    while bytes.len() < size {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&(state >> 8).to_le_bytes()[..3]);
    }
    bytes.truncate(size);
    bytes
}

/// A registry with an image, a proxy that counts, and a scene whose store is empty.
struct Shelf {
    scene: Scene,
    proxy: Proxy,
    _registry: Registry,
}

impl Shelf {
    /// Puts an image of these layers, bottom layer first, into the registry as `app`. `None` if this machine cannot.
    fn of(layers: &[Packed]) -> Option<Self> {
        Self::copied(layers, &[])
    }

    /// The same, changed by skopeo as these options say.
    fn copied(layers: &[Packed], options: &[&str]) -> Option<Self> {
        machine::programs(&["skopeo"])?;
        let registry = Registry::start()?;
        let scene = Scene::new();
        scene.write("app.tar", Members::oci_of("app", layers).pack());
        let to = format!("docker://{}", registry.name("app"));
        tool("skopeo", scene.directory())
            .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
            .args(options)
            .args(["oci-archive:app.tar", &to])
            .ok();
        let proxy = Proxy::before(&registry);
        Some(Self {
            scene,
            proxy,
            _registry: registry,
        })
    }

    fn name(&self) -> String {
        self.proxy.name("app")
    }

    /// The content of a file.
    fn cat(&self, path: &str) -> Vec<u8> {
        self.scene.mica(["cat", &self.name(), path]).ok().stdout
    }

    /// The requests for layers since the last time, and the bytes that came for them.
    fn blobs(&self) -> (Vec<Exchange>, u64) {
        let log = self.proxy.log();
        self.proxy.clear_log();
        let layers: Vec<_> = log
            .into_iter()
            // Configurations are smaller than any layer here.
            .filter(|exchange| {
                exchange.kind() == Kind::Blob && exchange.range.is_some() || exchange.received > 2000
            })
            .collect();
        let bytes = layers.iter().map(|exchange| exchange.received).sum();
        (layers, bytes)
    }
}

/// Three layers of which each has a large file and a small one.
fn files() -> [Vec<(&'static str, Vec<u8>)>; 3] {
    [
        vec![
            ("etc/low", b"low\n".to_vec()),
            ("usr/big", noise(1 << 20, 1)),
            ("etc/both", b"below\n".to_vec()),
        ],
        vec![("usr/mid", noise(1 << 20, 2)), ("etc/both", b"above\n".to_vec())],
        vec![
            ("opt/top", b"top\n".to_vec()),
            ("opt/big", noise(3 << 20, 3)),
            ("opt/last", b"last\n".to_vec()),
        ],
    ]
}

fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let add = |tar: Tar, (name, content): &(&str, Vec<u8>)| tar.file(name, content);
    files.iter().fold(Tar::new(), add).bytes()
}

fn plain() -> Vec<Packed> {
    files().iter().map(|files| gzip(&tar(files))).collect()
}

/// As image builders do it.
fn gzip(tar: &[u8]) -> Packed {
    Packed::gzip_at(tar, flate2::Compression::new(6))
}

fn stargz(files: &[(&str, Vec<u8>)]) -> Packed {
    let files: Vec<_> = files
        .iter()
        .map(|(name, content)| (*name, &content[..]))
        .collect();
    estargz(&files, 1 << 20, |_| ())
}

/// The image in each form that a registry may have it in.
fn shelves() -> Vec<(&'static str, Shelf)> {
    let stargz: Vec<_> = files().iter().map(|files| stargz(files)).collect();
    let chunked = ["--dest-compress-format", "zstd:chunked"];
    [
        ("gzip", Shelf::of(&plain())),
        ("eStargz", Shelf::of(&stargz)),
        ("zstd:chunked", Shelf::copied(&plain(), &chunked)),
    ]
    .into_iter()
    .filter_map(|(what, shelf)| Some((what, shelf?)))
    .collect()
}

#[test]
fn files_are_read_where_they_are() {
    for (what, shelf) in shelves() {
        assert_eq!(shelf.cat("/opt/top"), b"top\n", "{what}");
        assert_eq!(shelf.cat("/etc/both"), b"above\n", "{what}");
        assert!(shelf.cat("/usr/big") == noise(1 << 20, 1), "{what}");
        assert!(shelf.cat("/opt/big") == noise(3 << 20, 3), "{what}");
        let listed = shelf.scene.mica(["ls", "-R", &shelf.name()]).ok().stdout();
        let expected = "etc\netc/both\netc/low\nopt\nopt/big\nopt/last\nopt/top\nusr\nusr/big\nusr/mid\n";
        assert_eq!(listed, expected, "{what}");
        shelf
            .scene
            .mica(["cp", &format!("{}:/etc", shelf.name()), "out"])
            .ok();
        assert_eq!(shelf.scene.read("out/low"), "low\n", "{what}");
        assert!(shelf.scene.images().is_empty(), "{what}: nothing was pulled");
        shelf
            .scene
            .mica(["cat", &shelf.name(), "/none"])
            .fails()
            .says("/none");
        shelf.scene.is_clean();
    }
}

#[test]
fn what_lies_high_needs_nothing_below() {
    for (what, shelf) in shelves() {
        shelf
            .scene
            .mica(["ls", "-l", &shelf.name(), "/opt/last"])
            .ok()
            .says("opt/last");
        let (asked, _) = shelf.blobs();
        let layers: std::collections::BTreeSet<_> = asked.iter().map(|exchange| &exchange.path).collect();
        assert_eq!(layers.len(), 1, "{what}: {asked:#?}");
        // What is shown of the image itself is not in any layer.
        shelf.scene.mica(["history", &shelf.name()]).ok().says("by hand");
        shelf
            .scene
            .mica(["inspect", &shelf.name()])
            .ok()
            .says("PATH=/bin");
        assert_eq!(shelf.blobs().0.len(), 0, "{what}");
    }
}

#[test]
fn a_table_of_contents_spares_the_first_pass() {
    for (what, shelf) in shelves().into_iter().filter(|(what, _)| *what != "gzip") {
        assert_eq!(shelf.cat("/opt/last"), b"last\n", "{what}");
        let (asked, bytes) = shelf.blobs();
        assert!(bytes < 300_000, "{what}: {bytes} bytes in {asked:#?}");
    }
}

#[test]
fn a_second_look_fetches_little() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    assert_eq!(shelf.cat("/opt/last"), b"last\n");
    let first = shelf.blobs().1;
    assert!(first > 3 << 20, "{first}: the layer was read once");
    assert_eq!(shelf.cat("/opt/last"), b"last\n");
    assert_eq!(shelf.blobs().1, 0, "what was read is kept");
    assert_eq!(shelf.cat("/opt/top"), b"top\n");
    let (asked, bytes) = shelf.blobs();
    assert_eq!(asked.len(), 1, "{asked:#?}");
    assert!(bytes < 5 << 19, "{bytes}");
    shelf.scene.mica(["df"]).ok().says("Read from registries");
    shelf.scene.mica(["prune", "--all", "--force"]).ok();
    assert!(
        !shelf
            .scene
            .store()
            .join("remote")
            .read_dir()
            .expect("there")
            .any(|_| true)
    );
    assert_eq!(shelf.cat("/opt/top"), b"top\n");
}

/// Of a large image a small file costs less than a twentieth of the bytes: with a table of contents at once, else from
/// the second look on.
#[test]
fn a_file_of_a_large_image_costs_few_bytes() {
    let long = std::env::var_os("MICA_TEST_LONG").is_some();
    let (count, size) = if long { (16, 64 << 20) } else { (4, 16 << 20) };
    let mut files: Vec<(String, Vec<u8>)> = (0..count)
        .map(|n| (format!("data/{n}"), noise(size, n + 1)))
        .collect();
    files.insert(2, ("data/wanted".to_owned(), b"found\n".to_vec()));
    let tar = files
        .iter()
        .fold(Tar::new(), |tar, (name, content)| tar.file(name, content));
    let pairs: Vec<_> = files
        .iter()
        .map(|(name, content)| (&name[..], &content[..]))
        .collect();
    // Noise is stored at any level.
    let stored = Packed::gzip_at(&tar.bytes(), flate2::Compression::none());
    for packed in [stored, estargz(&pairs, 4 << 20, |_| ())] {
        let whole = packed.blob.len() as u64;
        let has_table = !packed.annotations.is_null();
        let Some(shelf) = Shelf::of(&[packed]) else { return };
        if !has_table {
            shelf.scene.mica(["ls", &shelf.name(), "/data/wanted"]).ok();
            shelf.blobs();
        }
        assert_eq!(shelf.cat("/data/wanted"), b"found\n");
        let bytes = shelf.proxy.received(Kind::Blob) + shelf.proxy.received(Kind::Manifest);
        assert!(bytes * 20 < whole, "{bytes} of {whole}, table: {has_table}");
    }
}

#[test]
fn a_registry_without_ranges_gives_whole_layers() {
    for (what, shelf) in shelves() {
        shelf.proxy.fault("GET", "/blobs/", u32::MAX, Fault::IgnoreRange);
        assert_eq!(shelf.cat("/opt/last"), b"last\n", "{what}");
        shelf.blobs();
        assert_eq!(shelf.cat("/opt/top"), b"top\n", "{what}");
        assert_eq!(shelf.blobs().0.len(), 0, "{what}: the layer is in the store");
    }
}

#[test]
fn a_table_that_cannot_be_believed_is_not() {
    let files = files();
    let files: Vec<_> = files[2]
        .iter()
        .map(|(name, content)| (*name, &content[..]))
        .collect();
    let spoiled = |key: &'static str, value: serde_json::Value| {
        estargz(&files, 1 << 20, move |table| table["entries"][1][key] = value)
    };
    let mut other_digest = estargz(&files, 1 << 20, |_| ());
    other_digest.annotations = json!({
        "containerd.io/snapshot/stargz/toc.digest": format!("sha256:{}", "0".repeat(64)),
    });
    for packed in [
        other_digest,
        spoiled("offset", json!(u64::MAX)),
        spoiled("name", json!("../../escape")),
        spoiled("size", json!(u64::MAX)),
        spoiled("chunkSize", json!(3)),
        estargz(&files, 1 << 20, |table| *table = json!("none")),
    ] {
        let Some(shelf) = Shelf::of(&[packed]) else { return };
        // The whole layer says what is in it.
        let read = shelf.scene.mica(["cat", &shelf.name(), "/opt/last"]);
        let read = read.env("MICA_LOG", "warn").ok();
        assert_eq!(read.stdout(), "last\n");
        read.says("table of contents is of no use");
        assert!(shelf.cat("/opt/big") == noise(3 << 20, 3));
    }
    // One that names other bytes is believed, but not what comes for it.
    let liar = spoiled("chunkDigest", json!(format!("sha256:{}", "0".repeat(64))));
    let Some(shelf) = Shelf::of(&[liar]) else { return };
    shelf
        .scene
        .mica(["cat", &shelf.name(), "/opt/big"])
        .fails()
        .says("damaged");
    assert_eq!(shelf.cat("/opt/last"), b"last\n");
}

#[test]
fn damage_on_the_way_is_noticed_and_mended() {
    for (what, shelf) in shelves() {
        shelf.cat("/opt/last");
        shelf.proxy.fault("GET", "/blobs/", 2, Fault::Corrupt(1000));
        assert!(shelf.cat("/opt/big") == noise(3 << 20, 3), "{what}");
    }
    let Some(shelf) = Shelf::of(&plain()) else { return };
    shelf.cat("/opt/last");
    shelf
        .proxy
        .fault("GET", "/blobs/", u32::MAX, Fault::Corrupt(1000));
    shelf.scene.mica(["cat", &shelf.name(), "/opt/big"]).fails();
    shelf.proxy.heal();
    assert!(
        shelf.cat("/opt/big") == noise(3 << 20, 3),
        "nothing wrong was kept"
    );
}

#[test]
fn a_first_pass_that_is_killed_leaves_nothing_half() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    shelf
        .proxy
        .fault("GET", "/blobs/", u32::MAX, Fault::Slow(1 << 20));
    let reading = shelf.scene.mica(["cat", &shelf.name(), "/opt/last"]).start();
    let work = shelf.scene.store().join("work");
    wait_until("the pass has begun", || {
        work.read_dir().is_ok_and(|mut entries| entries.next().is_some())
    });
    reading.signal(nix::sys::signal::Signal::SIGKILL);
    reading.wait();
    shelf.proxy.heal();
    assert!(!shelf.scene.store().join("remote").exists());
    // Several at once may make the same.
    let readers: Vec<_> = (0..3)
        .map(|_| shelf.scene.mica(["cat", &shelf.name(), "/opt/last"]).start())
        .collect();
    for reader in readers {
        assert_eq!(reader.wait().stdout(), "last\n");
    }
    shelf.scene.is_clean();
}

#[test]
fn what_is_in_neither_place_is_an_error() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    let absent = shelf.proxy.name("other");
    for command in ["ls", "history", "inspect"] {
        let failed = shelf.scene.mica([command, &absent]).fails();
        failed.says("no such image").says("404");
    }
    shelf
        .scene
        .mica(["ls", "0123456789ab"])
        .fails()
        .says("no such image")
        .lacks("caused by");
    shelf
        .scene
        .mica(["ls", "Not/A/Name"])
        .fails()
        .says("invalid image name");
    assert_eq!(shelf.blobs().0.len(), 0);
}

#[test]
fn layers_of_the_store_are_read_there() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    // Another image in the store has the same top layer.
    let own = Members::docker("own", &[tar(&files()[2])]);
    shelf.scene.write("own.tar", own.pack());
    shelf.scene.mica(["load", "-i", "own.tar"]).ok();
    assert_eq!(shelf.cat("/opt/last"), b"last\n");
    assert_eq!(shelf.blobs().0.len(), 0);
}

/// Runs a script in a mount of the image. It finds the mount in $M.
fn in_mount(shelf: &Shelf, script: &str) -> mica_tests::Run {
    let script = format!("M=$MICA_MOUNT; {script}");
    shelf
        .scene
        .mica(["mount", &shelf.name(), "--", "sh", "-euc", &script])
}

#[test]
fn an_image_is_mounted_where_it_is() {
    for (what, shelf) in shelves() {
        let script =
            "cat $M/opt/last $M/etc/both; ls $M/usr; cmp $M/usr/big $M/usr/big; sha256sum < $M/opt/big";
        let seen = in_mount(&shelf, script).ok().stdout();
        let sum = mica_tests::archive::sha256(&noise(3 << 20, 3));
        assert_eq!(seen, format!("last\nabove\nbig\nmid\n{sum}  -\n"), "{what}");
        shelf.blobs();
        // Several readers at once need each byte once.
        let script = "for i in 1 2 3 4; do cat $M/usr/mid $M/opt/big | sha256sum > $TMPDIR/$i & done; wait
            cat $TMPDIR/[1-4] | sort -u | wc -l";
        assert_eq!(in_mount(&shelf, script).ok().answer(), "1", "{what}");
        assert!(
            shelf.blobs().1 < 3 << 20,
            "{what}: only what no mount had read before"
        );
        let changed = shelf
            .scene
            .mica(["mount", "--rw", &shelf.name(), "--", "sh", "-euc"]);
        let script = "cd $MICA_MOUNT; echo more >> etc/low; cat etc/low; mv usr/mid etc; rm opt/big; ls opt";
        assert_eq!(
            changed.arg(script).ok().stdout(),
            "low\nmore\nlast\ntop\n",
            "{what}"
        );
        shelf.scene.is_clean();
    }
}

#[test]
fn a_mount_survives_its_network() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    shelf.scene.mica(["ls", "-R", &shelf.name()]).ok();
    let script = "cat $M/opt/last; touch begun; while [ ! -e off ]; do sleep 0.05; done
        cat $M/opt/big > /dev/null && exit 3
        cat $M/opt/last; touch ready; while [ ! -e go ]; do sleep 0.05; done; sha256sum < $M/opt/big";
    let mount = in_mount(&shelf, script).start();
    wait_until("it is mounted", || shelf.scene.path("begun").exists());
    shelf.proxy.fault(
        "GET",
        "/blobs/",
        u32::MAX,
        Fault::Answer("404 Not Found", Vec::new()),
    );
    shelf.scene.write("off", "");
    wait_until("the read has failed", || shelf.scene.path("ready").exists());
    shelf.proxy.heal();
    shelf.scene.write("go", "");
    let sum = mica_tests::archive::sha256(&noise(3 << 20, 3));
    let seen = mount.wait();
    assert_eq!(
        seen.stdout(),
        format!("last\nlast\n{sum}  -\n"),
        "{}",
        seen.describe()
    );
    seen.says("Input/output error");
    shelf.scene.is_clean();
}

#[test]
fn changes_of_an_image_that_is_not_there_are_not_kept() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    let upper = shelf
        .scene
        .mica(["mount", "--rw", "--upper", "u", &shelf.name(), "--", "true"]);
    upper.fails().says("mica pull");
}

#[test]
fn reading_takes_the_options_of_pulling() {
    if machine::programs(&["skopeo"]).is_none() {
        return;
    }
    let Some(registry) = Registry::with(Access::Basic, Transport::Tls) else {
        return;
    };
    let scene = Scene::new();
    scene.write("app.tar", Members::oci_of("app", &plain()).pack());
    let name = registry.name("app");
    let creds = format!("{USER}:{PASSWORD}");
    tool("skopeo", scene.directory())
        .args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"])
        .args([
            "--dest-creds",
            &creds,
            "oci-archive:app.tar",
            &format!("docker://{name}"),
        ])
        .ok();
    let read = ["cat", &name, "/opt/top"];
    scene.mica(read).fails().says("certificate");
    scene
        .mica(read)
        .arg("--tls-verify=false")
        .fails()
        .says("mica login");
    scene.mkdir("out");
    let destination = scene.path("out").display().to_string();
    let commands: [&[&str]; 10] = [
        &["cat", &name, "/opt/top"],
        &["ls", &name, "/opt"],
        &["cp", &format!("{name}:/opt/top"), &destination],
        &["diff", &name],
        &["inspect", &name],
        &["history", &name],
        &["log", &name, "/opt/top"],
        &["blame", &name, "/opt"],
        &["analyze", &name],
        &[
            "mount",
            &name,
            "--tls-verify=false",
            "--creds",
            &creds,
            "--",
            "true",
        ],
    ];
    for command in commands {
        let options: &[&str] = match command[0] {
            "mount" => &[],
            _ => &["--tls-verify=false", "--creds", &creds],
        };
        scene.mica(command).args(options).ok();
    }
    assert_eq!(scene.read("out/top"), "top\n");
    scene
        .mica([
            "login",
            "--tls-verify=false",
            "--authfile",
            "auth.json",
            "-u",
            USER,
        ])
        .args(["-p", PASSWORD, &registry.host()])
        .ok();
    scene
        .mica(read)
        .args(["--tls-verify=false", "--authfile", "auth.json"])
        .ok();
    assert_eq!(scene.images(), Vec::<String>::new());
}

#[test]
fn instructions_are_known_of_images_elsewhere() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    let (scene, name) = (&shelf.scene, shelf.name());
    let versions = scene
        .mica(["log", "--format", "json", &name, "/etc/both"])
        .ok()
        .json_lines();
    assert_eq!(versions.len(), 2, "{versions:?}");
    assert!(
        versions
            .iter()
            .all(|version| version.to_string().contains("by hand")),
        "{versions:?}"
    );
    let blamed = scene.mica(["blame", "--format", "json", &name, "/opt/top"]).ok();
    blamed.says("by hand");
    scene
        .mica(["log", "--show", "1", &name, "/etc/both"])
        .ok()
        .says("below");
    scene.mica(["analyze", &name]).ok();
}

#[test]
fn changes_of_an_image_elsewhere_become_an_image() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    if machine::can_mount().is_none() || !shelf.scene.is_root() {
        return;
    }
    let (scene, name) = (&shelf.scene, shelf.name());
    let directory = scene.mkdir("m").display().to_string();
    scene.mica(["mount", "--rw", &name, &directory]).ok();
    // A server that needs the network is not restricted to the store.
    let mounts = scene.mica(["mounts", "--format", "json"]).ok().json_lines();
    let status = std::fs::read_to_string(format!("/proc/{}/status", mounts[0]["Pid"])).expect("it lives");
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    scene.shell("echo changed > m/etc/both; rm m/opt/big").ok();
    scene.mica(["commit", &directory, "mine:1"]).ok();
    scene.mica(["umount", &directory]).ok();
    assert_eq!(scene.cat("mine:1", "/etc/both"), "changed\n");
    assert_eq!(scene.cat("mine:1", "/opt/top"), "top\n");
    scene.mica(["ls", "mine:1", "/opt/big"]).fails();
    let images = scene.images();
    assert!(
        images.iter().all(|image| !image.contains("/app")),
        "the image below has no name: {images:?}"
    );
    // Nothing is read elsewhere any more.
    shelf
        .proxy
        .fault("*", "/v2/", 99, Fault::Answer("403 Forbidden", vec![]));
    scene.mica(["save", "-o", "mine.tar", "mine:1"]).ok();
    scene.mica(["fsck"]).ok();
    scene.is_clean();
}

#[test]
fn what_is_kept_of_layers_elsewhere_is_checked() {
    let Some(shelf) = Shelf::of(&plain()) else { return };
    let scene = &shelf.scene;
    assert_eq!(shelf.cat("/opt/last"), b"last\n");
    scene
        .mica(["fsck"])
        .ok()
        .says("what is kept of 1 layers in registries");
    let kept = scene.shell("echo store/remote/*").ok().answer();
    let spoil = |file: &str, at: u64| {
        let path = scene.path(&format!("{kept}/{file}"));
        let mut bytes = std::fs::read(&path).expect("it is kept");
        let at = usize::try_from(at).expect("small").min(bytes.len() - 1);
        bytes[at] ^= 0x55;
        std::fs::write(&path, bytes).expect("written");
    };
    for (file, at) in [("data", u64::MAX), ("chunks", 70), ("index", 100)] {
        spoil(file, at);
        scene.mica(["fsck"]).exits(1).says("in a registry is no good");
        scene.mica(["fsck", "--repair"]).ok().says("mended");
        scene.mica(["fsck"]).ok().says(" 0 problems");
        assert_eq!(shelf.cat("/opt/last"), b"last\n", "{file}");
    }
}
