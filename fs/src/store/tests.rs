use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::digest::Digest;
use crate::layer::Timestamp;
use crate::layer::writer::{LayerWriter, NewNode};
use crate::layer::{INDEX_FILE, Metadata, TAR_FILE};
use crate::path::ImagePath;

mod downloads;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("store")).expect("opened");
    (dir, store)
}

/// Publishes a layer with one file.
fn publish(store: &Store, content: &str) -> Arc<Layer> {
    let work = store.work_dir().expect("a directory");
    let mut writer = LayerWriter::new(work.path()).expect("started");
    let node = NewNode::File {
        size: content.len() as u64,
        content: &mut content.as_bytes(),
    };
    let path = ImagePath::clean(b"/f").expect("a path");
    writer.add(&path, &Metadata::default(), node).expect("added");
    let written = writer.finish().expect("finished");
    store.publish_layer(work, &written).expect("published")
}

fn manifest(store: &Store, text: &str) -> Digest {
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","x":"{text}"}}"#
    );
    store.put_blob(json.as_bytes()).expect("stored")
}

const KEEP_NOTHING: Policy = Policy {
    keep_cache_mounts: false,
    keep_unnamed: false,
    cache_age: Duration::from_secs(3600),
    cache_bytes: 0,
    dry_run: false,
};

fn prune(store: &Store, layers: &[DiffId], policy: &Policy) -> Pruned {
    let reach = |_: &Digest| {
        Ok(Reach {
            blobs: Vec::new(),
            layers: layers.to_vec(),
        })
    };
    store.prune(&reach, policy).expect("pruned")
}

fn work_is_empty(store: &Store) -> bool {
    fs::read_dir(store.root().join("work")).expect("read").count() == 0
}

#[test]
fn blobs_are_verified() {
    let (_dir, store) = store();
    let digest = store.put_blob(b"some bytes").expect("stored");
    assert_eq!(digest, Digest::of(b"some bytes"));
    assert_eq!(store.read_blob(&digest, 100).expect("read"), b"some bytes");
    assert!(matches!(
        store.read_blob(&digest, 9),
        Err(StoreError::TooLarge { size: 10, .. })
    ));
    let other = Digest::of(b"other");
    assert!(matches!(
        store.read_blob(&other, 9),
        Err(StoreError::NoBlob { .. })
    ));
    let import = |bytes: &[u8], size| store.import_blob(&mut &bytes[..], Some((other, size)));
    assert!(matches!(import(b"wrong", 5), Err(StoreError::Digest { .. })));
    assert!(matches!(
        import(b"other", 4),
        Err(StoreError::Size {
            expected: 4,
            found: 5,
            ..
        })
    ));
    assert!(matches!(import(b"oth", 5), Err(StoreError::Size { .. })));
    assert!(!store.has_blob(&other) && work_is_empty(&store));
    assert_eq!(import(b"other", 5).expect("imported"), (other, 5));
    fs::write(store.blob_path(&other), b"0ther").expect("damaged");
    assert!(matches!(
        store.read_blob(&other, 9),
        Err(StoreError::Digest { .. })
    ));
}

#[test]
fn layers_are_published_once_and_shared() {
    let (_dir, store) = store();
    let layer = publish(&store, "content");
    let again = publish(&store, "content");
    assert!(Arc::ptr_eq(&layer, &again));
    assert!(work_is_empty(&store));
    let id = layer.diff_id();
    let tar = fs::read(store.layer_path(&id).join(TAR_FILE)).expect("read");
    assert_eq!(store.read_blob(&id.0, 1 << 20).expect("a blob"), tar);
    let absent = DiffId(Digest::of(b""));
    assert!(matches!(store.layer(&absent), Err(StoreError::NoLayer { .. })));
    let (_dir, elsewhere) = self::store();
    assert!(matches!(
        elsewhere.import_layer(&mut tar.as_slice(), Some(absent)),
        Err(StoreError::Digest { .. })
    ));
    assert!(elsewhere.import_layer(&mut &tar[..700], None).is_err());
    assert!(work_is_empty(&elsewhere) && !elsewhere.has_layer(&id));
    let taken = elsewhere
        .import_layer(&mut tar.as_slice(), Some(id))
        .expect("taken in");
    assert_eq!(taken.diff_id(), id);
}

#[test]
fn names_move_and_index_json_follows() {
    let (_dir, store) = store();
    let (one, two) = (manifest(&store, "1"), manifest(&store, "2"));
    store.tag("docker.io/library/a:latest", &one).expect("tagged");
    store.tag("docker.io/library/b:latest", &one).expect("tagged");
    store.tag("docker.io/library/a:latest", &two).expect("tagged");
    store.add_image(&two).expect("added");
    assert_eq!(
        store.resolve("docker.io/library/a:latest").expect("read"),
        Some(two)
    );
    assert_eq!(store.resolve("docker.io/library/c:latest").expect("read"), None);
    assert!(store.untag("docker.io/library/b:latest").expect("untagged"));
    assert!(!store.untag("docker.io/library/b:latest").expect("untagged"));
    let images = store.images().expect("read");
    let of = |digest| images.iter().find(|i| i.manifest == digest).expect("an image");
    assert!(of(one).names.is_empty());
    assert_eq!(of(two).names, ["docker.io/library/a:latest"]);
    let entries = layout::read(store.root()).expect("read");
    assert_eq!(entries.len(), 2);
    assert!(
        entries
            .iter()
            .any(|(d, name)| d.digest == two && name.as_deref() == Some("docker.io/library/a:latest"))
    );
    assert!(matches!(
        store.tag("x", &Digest::of(b"")),
        Err(StoreError::NoBlob { .. })
    ));
    assert!(store.remove_image(&two).expect("removed"));
    assert_eq!(store.resolve("docker.io/library/a:latest").expect("read"), None);
    assert_eq!(layout::read(store.root()).expect("read").len(), 1);
}

#[test]
fn skopeo_reads_the_directory() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        // The end-to-end tests need skopeo and say so; here it is one more witness.
        return;
    }
    let (_dir, store) = store();
    let layer = publish(&store, "content");
    let id = layer.diff_id();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{id}"]}}}}"#
    );
    let config_digest = store.put_blob(config.as_bytes()).expect("stored");
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},
        "layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{id}","size":{}}}]}}"#,
        config.len(),
        layer.index().tar_size()
    );
    let manifest = store.put_blob(json.as_bytes()).expect("stored");
    let name = "docker.io/library/hello:latest";
    store.tag(name, &manifest).expect("tagged");
    let output = Command::new("skopeo")
        .arg("inspect")
        .arg(format!("oci:{}:{name}", store.root().display()))
        .output()
        .expect("skopeo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains(&id.to_string()));
}

#[test]
fn the_cache_forgets_what_lost_its_layers() {
    let (_dir, store) = store();
    let id = publish(&store, "content").diff_id();
    let key = Digest::of(b"key");
    assert_eq!(store.cache_get(&key).expect("read"), None);
    store.cache_put(&key, "{}", &[id, id]).expect("stored");
    store.cache_put(&key, r#"{"a":1}"#, &[id]).expect("stored");
    assert_eq!(
        store.cache_get(&key).expect("read").as_deref(),
        Some(r#"{"a":1}"#)
    );
    fs::remove_dir_all(store.layer_path(&id)).expect("removed");
    assert_eq!(store.cache_get(&key).expect("read"), None);
}

#[test]
fn prune_keeps_what_is_needed() {
    let (_dir, store) = store();
    let [named, cached, leased, lost] =
        ["named", "cached", "leased", "lost"].map(|c| publish(&store, c).diff_id());
    let image = manifest(&store, "named");
    let unnamed = manifest(&store, "unnamed");
    store.tag("docker.io/library/a:latest", &image).expect("tagged");
    store.add_image(&unnamed).expect("added");
    store
        .cache_put(&Digest::of(b"key"), "{}", &[named, cached])
        .expect("stored");
    let root = store.root().to_owned();
    // What this store object has published is held as long as it lives.
    assert!(prune(&store, &[named], &KEEP_NOTHING).layers.is_empty());
    drop(store);
    let store = Store::open(&root).expect("opened");
    let lease = store.lease(&[leased]).expect("leased");
    let policy = Policy {
        cache_bytes: u64::MAX,
        dry_run: true,
        ..KEEP_NOTHING
    };
    let foreseen = prune(&store, &[named], &policy);
    assert!(store.has_layer(&lost) && store.has_blob(&unnamed));
    let pruned = prune(
        &store,
        &[named],
        &Policy {
            dry_run: false,
            ..policy
        },
    );
    assert_eq!(pruned, foreseen);
    assert_eq!((pruned.images, pruned.blobs), (vec![unnamed], vec![unnamed]));
    assert_eq!((pruned.layers, pruned.cache_records), (vec![lost], 0));
    assert!(pruned.bytes > 0 && !store.has_layer(&lost) && !store.has_blob(&lost.0));
    drop(lease);
    let pruned = prune(&store, &[named], &KEEP_NOTHING);
    let mut gone = vec![cached, leased];
    gone.sort();
    assert_eq!((pruned.layers, pruned.cache_records), (gone, 1));
    assert!(store.has_layer(&named) && store.has_blob(&named.0) && store.has_blob(&image));
    assert_eq!(store.images().expect("read").len(), 1);
    let usage = store.usage().expect("counted");
    assert_eq!((usage.images, usage.layers.count, usage.blobs.count), (1, 1, 1));
}

#[test]
fn nothing_is_pruned_when_an_image_cannot_be_read() {
    let (_dir, store) = store();
    let image = manifest(&store, "x");
    store.tag("a", &image).expect("tagged");
    let root = store.root().to_owned();
    drop(store);
    let store = Store::open(&root).expect("opened");
    let refused = store.prune(&|_| Err("damaged".into()), &KEEP_NOTHING);
    assert!(matches!(refused, Err(StoreError::Reach { .. })));
    assert!(store.has_blob(&image));
}

#[test]
fn damage_is_found_and_mended() {
    let (_dir, store) = store();
    let [whole, no_index, flipped] = ["whole", "no index", "flipped"].map(|c| publish(&store, c).diff_id());
    let image = manifest(&store, "x");
    store.tag("a", &image).expect("tagged");
    let at = |id: &DiffId, file| store.layer_path(id).join(file);
    fs::remove_file(at(&no_index, INDEX_FILE)).expect("removed");
    fs::remove_file(store.blob_path(&no_index.0)).expect("removed");
    let index = OpenOptions::new()
        .write(true)
        .open(at(&flipped, INDEX_FILE))
        .expect("opened");
    index.write_all_at(b"\xff", 300).expect("written");
    let report = store
        .fsck(&FsckOptions {
            repair: true,
            ..FsckOptions::default()
        })
        .expect("checked");
    assert_eq!((report.layers, report.blobs, report.problems.len()), (3, 1, 3));
    let report = store.fsck(&FsckOptions::default()).expect("checked");
    assert_eq!(report.problems, []);
    let tar = OpenOptions::new()
        .write(true)
        .open(at(&whole, TAR_FILE))
        .expect("opened");
    tar.write_all_at(b"\xff", 600).expect("written");
    fs::write(store.blob_path(&image), b"{}").expect("written");
    let report = store.fsck(&FsckOptions::default()).expect("checked");
    assert!(
        matches!(report.problems[..], [
        Problem::Blob { digest, .. },
        Problem::Tar { diff_id, .. },
    ] if digest == image && diff_id == whole),
        "{:?}",
        report.problems
    );
}

#[test]
fn the_catalog_is_made_anew() {
    let (_dir, store) = store();
    let (one, two) = (manifest(&store, "1"), manifest(&store, "2"));
    store.tag("a", &one).expect("tagged");
    store.add_image(&two).expect("added");
    let root = store.root().to_owned();
    drop(store);
    for suffix in ["", "-wal", "-shm"] {
        fs::write(root.join(format!("mica.db{suffix}")), b"no database at all").expect("written");
    }
    let store = Store::open(&root).expect("opened");
    let refused = store.images().expect_err("damaged").to_string();
    assert!(refused.contains("fsck --rebuild"), "{refused}");
    let options = FsckOptions {
        rebuild_catalog: true,
        ..FsckOptions::default()
    };
    assert_eq!(store.fsck(&options).expect("checked").problems, []);
    assert_eq!(store.resolve("a").expect("read"), Some(one));
    assert_eq!(store.images().expect("read").len(), 2);
}

#[test]
fn another_version_is_refused() {
    let (_dir, store) = store();
    let root = store.root().to_owned();
    store.with_catalog(|_| Ok(())).expect("opened");
    drop(store);
    let database = rusqlite::Connection::open(root.join("mica.db")).expect("opened");
    database.pragma_update(None, "user_version", 99).expect("updated");
    let store = Store::open(&root).expect("opened");
    assert!(matches!(
        store.images(),
        Err(StoreError::Version { found: 99, .. })
    ));
    fs::write(root.join("store.json"), br#"{"version":2}"#).expect("written");
    assert!(matches!(
        Store::open(&root),
        Err(StoreError::Version {
            found: 2,
            known: 1,
            ..
        })
    ));
    fs::write(root.join("store.json"), b"{").expect("written");
    assert!(matches!(Store::open(&root), Err(StoreError::Json { .. })));
}

#[test]
fn work_of_the_dead_is_swept_and_of_the_living_is_not() {
    let (_dir, store) = store();
    let alive = store.work_dir().expect("a directory");
    let dead = store.root().join("work/1-dead");
    fs::create_dir_all(dead.join("deep/er")).expect("created");
    fs::write(dead.join("deep/er/file"), b"x").expect("written");
    let _second = Store::open(store.root()).expect("opened");
    assert!(alive.path().is_dir() && !dead.exists());
    let path = alive.path().to_owned();
    drop(alive);
    assert!(!path.exists());
}

#[test]
fn the_store_is_private() {
    let (_dir, store) = store();
    for directory in ["", "layers", "blobs/sha256", "work"] {
        let metadata = fs::metadata(store.root().join(directory)).expect("there");
        assert_eq!(metadata.permissions().mode() & 0o777, 0o700, "{directory}");
    }
}

#[test]
fn a_full_disk_is_named() {
    let full = io::Error::from_raw_os_error(libc::ENOSPC);
    let said = StoreError::io("write", Path::new("/store/x"), full).to_string();
    assert!(
        said.contains("/store/x") && said.contains("full") && said.contains("mica prune"),
        "{said}"
    );
}

#[test]
#[allow(clippy::print_stderr)] // A test that is left out says so.
fn privileged_a_full_disk_leaves_the_store_as_it_was() {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: a tmpfs, which stands for a full disk, is root's to mount");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    mount(
        Some("tmpfs"),
        dir.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=4m"),
    )
    .expect("mounted");
    let checked = std::panic::catch_unwind(|| {
        let store = Store::open(&dir.path().join("store")).expect("opened");
        let image = manifest(&store, "x");
        store.tag("a", &image).expect("tagged");
        let mut endless = io::repeat(7);
        assert!(matches!(
            store.import_blob(&mut endless, None),
            Err(StoreError::Full { .. })
        ));
        let tar = layer_of(8 << 20);
        assert!(matches!(
            store.import_layer(&mut tar.as_slice(), None),
            Err(StoreError::Full { .. })
        ));
        assert!(work_is_empty(&store));
        assert_eq!(store.fsck(&FsckOptions::default()).expect("checked").problems, []);
        store.tag("b", &image).expect("there is room again");
    });
    umount2(dir.path(), MntFlags::MNT_DETACH).expect("unmounted");
    assert!(checked.is_ok());
}

/// The tar of a layer with one file of that size.
fn layer_of(size: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    let mut writer = LayerWriter::new(dir.path()).expect("started");
    let node = NewNode::File {
        size: size as u64,
        content: &mut io::repeat(7),
    };
    let path = ImagePath::clean(b"/f").expect("a path");
    writer.add(&path, &Metadata::default(), node).expect("added");
    writer.finish().expect("finished");
    fs::read(dir.path().join(TAR_FILE)).expect("read")
}

struct Failing;

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("the line is dead"))
    }
}

#[test]
fn a_failing_stream_leaves_nothing() {
    let (_dir, store) = store();
    let mut stream = b"abc".chain(Failing);
    assert!(matches!(
        store.import_blob(&mut stream, None),
        Err(StoreError::Incoming { bytes: 3, .. })
    ));
    assert!(store.import_layer(&mut b"abc".chain(Failing), None).is_err());
    assert!(work_is_empty(&store));
}

/// What several processes do at once to one store: the same objects and names of their own.
fn busy(root: &Path, who: &str) {
    let store = Store::open(root).expect("opened");
    for n in 0..10 {
        let layer = publish(&store, &format!("shared {n}"));
        let image = manifest(&store, &format!("{who} {n}"));
        store.tag(&format!("{who}:{n}"), &image).expect("tagged");
        store.tag("contended:latest", &image).expect("tagged");
        store
            .cache_put(&Digest::of(who.as_bytes()), "{}", &[layer.diff_id()])
            .expect("stored");
        prune(
            &store,
            &[],
            &Policy {
                keep_unnamed: true,
                ..KEEP_NOTHING
            },
        );
        assert!(store.has_layer(&layer.diff_id()) && store.has_blob(&image));
    }
}

const CHILD: &str = "MICA_STORE_TEST_ROOT";

/// The other half of `processes_share_a_store`, which runs it in processes of their own; by itself it does nothing.
#[test]
fn child() {
    if let Some(root) = std::env::var_os(CHILD) {
        busy(Path::new(&root), &format!("process-{}", std::process::id()));
    }
}

#[test]
fn processes_share_a_store() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = std::env::current_exe().expect("this program");
    let mut children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(&program)
                .args(["store::tests::child", "--exact", "--quiet"])
                .env(CHILD, dir.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .expect("started")
        })
        .collect();
    std::thread::scope(|scope| {
        for n in 0..2 {
            let root = dir.path();
            scope.spawn(move || busy(root, &format!("thread-{n}")));
        }
    });
    for child in &mut children {
        assert!(child.wait().expect("waited").success());
    }
    let store = Store::open(dir.path()).expect("opened");
    let images = store.images().expect("read");
    let names = images.iter().flat_map(|i| &i.names).count();
    assert_eq!((images.len(), names), (50, 51));
    let listed = layout::read(store.root()).expect("read");
    assert_eq!(listed.iter().filter(|(_, name)| name.is_some()).count(), 51);
    assert_eq!(store.fsck(&FsckOptions::default()).expect("checked").problems, []);
    assert!(work_is_empty(&store));
}

#[test]
fn prune_takes_the_cache_mounts_that_nobody_uses() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Store::open(&directory.path().join("store")).expect("opened");
    assert!(!store.has_cache_mounts().expect("read"));
    let make = |name: &[u8]| {
        let path = store.root().join("cache-mounts").join(Digest::of(name).hex());
        fs::create_dir_all(path.join("0")).expect("made");
        fs::write(path.join("0/file"), "x").expect("written");
        (fs::File::create(path.join("0.lock")).expect("made"), path)
    };
    let (lock, used) = make(b"used");
    let (_, free) = make(b"free");
    lock.lock_shared().expect("locked");
    let kept = Policy {
        keep_cache_mounts: true,
        ..KEEP_NOTHING
    };
    assert_eq!(prune(&store, &[], &kept).cache_mounts, 0);
    let pruned = prune(&store, &[], &KEEP_NOTHING);
    assert!(pruned.cache_mounts == 1 && pruned.bytes > 0);
    assert!(used.join("0/file").exists() && !free.exists());
    assert!(work_is_empty(&store) && store.has_cache_mounts().expect("read"));
}

fn lineage(command: &str, trace: &[u8], seconds: i64) -> Lineage {
    Lineage {
        command: Digest::of(command.as_bytes()),
        step: Digest::of(b"step"),
        trace: Some(Digest::of(trace)),
        made: Timestamp::from_seconds(seconds),
    }
}

#[test]
fn records_are_found_by_their_command_and_step() {
    let (_dir, store) = store();
    let put = |key: &str, command, trace: &[u8], made| {
        let lineage = lineage(command, trace, made);
        let put = store.cache_put_traced(&Digest::of(key.as_bytes()), key, &[], &lineage, Some(trace));
        put.expect("stored");
    };
    put("a", "make", b"one", 1);
    put("b", "make", b"two", 3);
    put("c", "make", b"one", 2);
    put("d", "other", b"one", 4);
    let found = |most| {
        let found = store.cache_of_command(&Digest::of(b"make"), most).expect("read");
        found.into_iter().map(|(record, _)| record).collect::<Vec<_>>()
    };
    assert_eq!(found(9), ["b", "c"], "the newest of each trace, the newest first");
    assert_eq!(found(1), ["b"]);
    let step = store.cache_of_step(&Digest::of(b"step")).expect("read");
    assert_eq!(step.as_deref(), Some("d"));
    let trace = |bytes: &[u8]| store.trace(&Digest::of(bytes)).expect("read");
    assert_eq!(trace(b"two").as_deref(), Some(&b"two"[..]));
    // A trace goes with the last record that names it, and counts as room that the cache takes.
    assert_eq!(store.usage().expect("told").cache.bytes, 4 + 6);
    store.cache_put(&Digest::of(b"b"), "b", &[]).expect("replaced");
    prune(&store, &[], &KEEP_NOTHING);
    assert_eq!((trace(b"two"), trace(b"one").is_some()), (None, true));
}

#[test]
fn a_trace_that_is_not_there_is_not_named() {
    let (_dir, store) = store();
    let lineage = lineage("make", b"one", 1);
    let put = store.cache_put_traced(&Digest::of(b"a"), "a", &[], &lineage, None);
    put.expect("stored");
    assert_eq!(store.cache_of_command(&lineage.command, 9).expect("read"), []);
    assert!(store.cache_of_step(&lineage.step).expect("read").is_some());
}

#[test]
fn a_catalog_of_the_first_version_is_taken_over() {
    let (_dir, store) = store();
    store.cache_put(&Digest::of(b"a"), "a", &[]).expect("stored");
    let root = store.root().to_owned();
    drop(store);
    let database = rusqlite::Connection::open(root.join(catalog::FILE)).expect("opened");
    let older = "
        DROP INDEX cache_by_command; DROP INDEX cache_by_step; DROP INDEX cache_by_trace;
        ALTER TABLE cache DROP COLUMN command; ALTER TABLE cache DROP COLUMN step;
        ALTER TABLE cache DROP COLUMN trace; ALTER TABLE cache DROP COLUMN made;
        DROP TABLE traces; DROP TABLE blob_sources; DROP TABLE compressed;
        PRAGMA user_version = 1;
    ";
    database.execute_batch(older).expect("taken back");
    drop(database);
    let store = Store::open(&root).expect("migrated");
    assert_eq!(
        store.cache_get(&Digest::of(b"a")).expect("read").as_deref(),
        Some("a")
    );
    let put = store.cache_put_traced(&Digest::of(b"b"), "b", &[], &lineage("x", b"t", 1), Some(b"t"));
    put.expect("stored");
}
