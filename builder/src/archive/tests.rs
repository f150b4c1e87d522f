use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use mica_fs::store::Store;

use super::*;
use crate::image::{Descriptor, Image, Index, Manifest, MediaTypes, OCI_CONFIG, OCI_LAYER, Platform};
use crate::reference::Reference;

/// A store of its own, and a way to write archives.
struct World {
    directory: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        Self { directory, store }
    }

    fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, LoadError> {
        load(&self.store, Input::Stream(&mut &archive[..]))
    }

    /// Loads what must be refused, and sees that nothing came of it.
    fn refuse(&self, archive: &[u8]) -> LoadError {
        let error = self.load(archive).unwrap_err();
        assert!(self.store.images().unwrap().is_empty());
        let usage = self.store.usage().unwrap();
        assert_eq!((usage.layers.count, usage.blobs.count), (0, 0), "{error}");
        error
    }
}

enum Part<'a> {
    File(&'a str, &'a [u8]),
    Link(&'a str, &'a str),
}
use Part::{File, Link};

fn tar_of(parts: &[Part<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        match part {
            File(name, bytes) => {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, *bytes).unwrap();
            }
            Link(name, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).unwrap();
            }
        }
    }
    tar.into_inner().unwrap()
}

fn layer(text: &str) -> Vec<u8> {
    tar_of(&[File("etc/motd", text.as_bytes())])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::of(layer)).collect();
    let value = serde_json::json!({
        "architecture": Platform::host().architecture, "os": "linux", "weird": 1,
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "config": {"Cmd": ["sh"]},
    });
    value.to_string().into_bytes()
}

/// The files of an OCI image layout, by name.
#[derive(Default)]
struct Oci {
    files: Vec<(String, Vec<u8>)>,
    index: Vec<Descriptor>,
}

impl Oci {
    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let digest = Digest::of(&bytes);
        let descriptor = Descriptor::new(media_type, digest, bytes.len() as u64);
        self.files.push((source::blob_name(&digest), bytes));
        descriptor
    }

    fn image(&mut self, text: &str) -> Descriptor {
        let tar = layer(text);
        let layer = self.blob(&format!("{OCI_LAYER}+gzip"), gzip(&tar));
        let config = self.blob(OCI_CONFIG, config(&[&tar]));
        let manifest = Manifest::new(config, vec![layer]);
        self.blob(crate::image::OCI_MANIFEST, crate::image::to_json(&manifest))
    }

    fn named(mut self, mut descriptor: Descriptor, name: &str) -> Self {
        descriptor.annotations = Some([(names::REF_NAME.to_owned(), name.to_owned())].into());
        self.index.push(descriptor);
        self
    }

    fn archive(&self) -> Vec<u8> {
        let index = crate::image::to_json(&Index::new(self.index.clone()));
        let mut parts: Vec<Part<'_>> = self.files.iter().map(|(name, bytes)| File(name, bytes)).collect();
        parts.push(File("index.json", &index));
        tar_of(&parts)
    }
}

fn one_image() -> Oci {
    let mut oci = Oci::default();
    let image = oci.image("hello");
    oci.named(image, "app:1")
}

/// An archive as Docker before version 25 writes it; the second layer is a link to the first one's file.
fn old_docker_archive() -> Vec<u8> {
    let tar = layer("hello");
    let config = config(&[&tar, &tar]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let manifest = serde_json::json!([{
        "Config": name, "RepoTags": ["old:1", "example.com/x/old:2"],
        "Layers": ["aaa/layer.tar", "bbb/layer.tar"],
    }]);
    tar_of(&[
        Link("bbb/layer.tar", "../aaa/layer.tar"),
        File("aaa/VERSION", b"1.0"),
        File("aaa/layer.tar", &tar),
        File(&name, &config),
        File("manifest.json", manifest.to_string().as_bytes()),
        File("repositories", b"{}"),
    ])
}

#[test]
fn an_oci_archive_keeps_its_digests() {
    let world = World::new();
    let archive = one_image();
    let loaded = world.load(&archive.archive()).unwrap();
    let [one] = &loaded[..] else { panic!("{loaded:?}") };
    assert_eq!(one.names, [Reference::parse("app:1").unwrap()]);
    assert_eq!(one.image.manifest_digest, archive.index[0].digest);
    assert_eq!(Image::find(&world.store, "app:1").unwrap(), one.image);
    assert!(world.store.has_blob(&one.image.manifest.layers[0].digest));
    assert!(world.store.has_layer(&one.image.layers()[0]));
    // Once more changes nothing, and a compressed archive is the same.
    assert_eq!(world.load(&archive.archive()).unwrap(), loaded);
    assert_eq!(World::new().load(&gzip(&archive.archive())).unwrap(), loaded);
}

#[test]
fn an_old_docker_archive_with_linked_layers() {
    let world = World::new();
    let archive = old_docker_archive();
    let loaded = world.load(&archive).unwrap();
    let image = &loaded[0].image;
    assert_eq!(loaded[0].names.len(), 2);
    assert_eq!(image.layers().len(), 2);
    assert_eq!(image.config.other["weird"], 1);
    assert_eq!(
        Image::find(&world.store, "example.com/x/old:2").unwrap().id(),
        image.id()
    );
    let zstd = zstd::encode_all(&archive[..], 1).unwrap();
    assert_eq!(World::new().load(&zstd).unwrap()[0].image.id(), image.id());
}

#[test]
fn the_platform_of_this_machine_is_chosen() {
    let mut oci = Oci::default();
    let mut index = Index::new(Vec::new());
    for (text, architecture) in [
        ("theirs", "mips"),
        ("ours", Platform::host().architecture.as_str()),
    ] {
        let mut descriptor = oci.image(text);
        let mut platform = Platform::host();
        platform.architecture = architecture.to_owned();
        platform.variant = None;
        descriptor.platform = Some(platform);
        index.manifests.push(descriptor);
    }
    let mut attestation = oci.blob("application/vnd.oci.image.manifest.v1+json", b"{}".to_vec());
    attestation.annotations = Some(
        [(
            "vnd.docker.reference.type".to_owned(),
            "attestation-manifest".to_owned(),
        )]
        .into(),
    );
    index.manifests.insert(0, attestation);
    let ours = index.manifests[2].digest;
    let nested = oci.blob(crate::image::OCI_INDEX, crate::image::to_json(&index));
    let archive = oci.named(nested, "multi:1").archive();
    assert_eq!(
        World::new().load(&archive).unwrap()[0].image.manifest_digest,
        ours
    );

    let mut oci = Oci::default();
    let mut descriptor = oci.image("theirs");
    descriptor.platform = index.manifests[1].platform.clone();
    let nested = oci.blob(
        crate::image::OCI_INDEX,
        crate::image::to_json(&Index::new(vec![descriptor])),
    );
    let error = World::new().refuse(&oci.named(nested, "x:1").archive());
    assert!(
        matches!(&error, LoadError::Platform { available, .. } if available == "linux/mips"),
        "{error}"
    );
}

#[test]
fn damaged_archives_leave_the_store_as_it_was() {
    let whole = one_image().archive();
    let world = World::new();
    for length in [1, 511, 600, 1500, whole.len() / 2] {
        world.refuse(&whole[..length]);
    }
    assert!(matches!(world.refuse(b""), LoadError::NotAnArchive { .. }));
    assert!(matches!(
        world.refuse(&[b'x'; 2048]),
        LoadError::NotAnArchive { .. }
    ));
    assert!(matches!(
        world.refuse(&tar_of(&[File("a", b"b")])),
        LoadError::NoManifest
    ));

    // Each blob in turn: another byte, and not there at all.
    for i in 0..3 {
        let mut oci = one_image();
        let last = oci.files[i].1.len() - 1;
        oci.files[i].1[last] ^= 1;
        let error = world.refuse(&oci.archive());
        assert!(matches!(error, LoadError::Digest { .. }), "{i}: {error}");
        let mut oci = one_image();
        oci.files.remove(i);
        let error = world.refuse(&oci.archive());
        assert!(matches!(error, LoadError::Missing { .. }), "{i}: {error}");
    }
    assert!(matches!(
        world.refuse(&tar_of(&[File(
            "manifest.json",
            b"[{\"Config\":\"../../etc/passwd\"}]"
        )])),
        LoadError::Missing { .. }
    ));
    assert!(matches!(
        world.refuse(&tar_of(&[File("index.json", b"{")])),
        LoadError::Invalid { .. }
    ));
    let mut loops = vec![File("manifest.json", b"[{\"Config\":\"a\"}]")];
    loops.extend([Link("a", "b"), Link("b", "a")]);
    assert!(matches!(world.refuse(&tar_of(&loops)), LoadError::Missing { .. }));
}

#[test]
fn what_is_saved_can_be_loaded() {
    let world = World::new();
    let loaded = world.load(&old_docker_archive()).unwrap().remove(0);
    let entry = Entry {
        image: &loaded.image,
        names: loaded.names.clone(),
    };
    let save = |format, compression: Option<Compression>| {
        let settings = Settings {
            coding: compression.map(Coding::from),
            ..Settings::new(format)
        };
        let mut archive = Vec::new();
        write(
            &world.store,
            std::slice::from_ref(&entry),
            &settings,
            &mut archive,
        )
        .unwrap();
        archive
    };
    for format in [ArchiveFormat::Docker, ArchiveFormat::Oci] {
        for compression in [
            None,
            Some(Compression::None),
            Some(Compression::Gzip),
            Some(Compression::Zstd),
        ] {
            let archive = save(format, compression);
            assert_eq!(archive, save(format, compression), "{format:?} {compression:?}");
            let again = World::new().load(&archive).unwrap().remove(0);
            assert_eq!(
                (again.image.id(), &again.names),
                (loaded.image.id(), &loaded.names)
            );
        }
    }
    assert!(save(ArchiveFormat::Oci, Some(Compression::Gzip)).len() < save(ArchiveFormat::Oci, None).len());

    let directory = world.directory.path().join("layout");
    let settings = Settings::new(ArchiveFormat::Oci);
    write_layout(&world.store, &[entry], &settings, &directory).unwrap();
    let other = World::new();
    let again = load(&other.store, Input::Path(&directory)).unwrap();
    assert_eq!(again[0].image.id(), loaded.image.id());
}

#[test]
fn media_types_levels_and_annotations_are_those_asked_for() {
    let world = World::new();
    let loaded = world.load(&old_docker_archive()).unwrap().remove(0);
    let entry = Entry {
        image: &loaded.image,
        names: loaded.names.clone(),
    };
    let saved = |settings: &Settings| {
        let mut archive = Vec::new();
        let written = write(&world.store, std::slice::from_ref(&entry), settings, &mut archive).unwrap();
        let again = World::new().load(&archive).unwrap().remove(0);
        assert_eq!(again.image.manifest_digest, written[0].digest);
        (again.image.manifest, written[0].clone())
    };
    let plain = Settings::new(ArchiveFormat::Oci);
    let (manifest, descriptor) = saved(&Settings {
        coding: Some(Compression::Gzip.into()),
        media_types: MediaTypes::Docker,
        ..plain.clone()
    });
    let docker = "application/vnd.docker";
    assert_eq!(
        descriptor.media_type,
        format!("{docker}.distribution.manifest.v2+json")
    );
    assert_eq!(
        manifest.config.media_type,
        format!("{docker}.container.image.v1+json")
    );
    let layer = format!("{docker}.image.rootfs.diff.tar.gzip");
    assert!(
        manifest.layers.iter().all(|l| l.media_type == layer),
        "{manifest:?}"
    );

    let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let (manifest, descriptor) = saved(&Settings {
        annotations: annotations.clone(),
        descriptor_annotations: annotations,
        ..plain.clone()
    });
    assert_eq!(manifest.other["annotations"], serde_json::json!({"a": "b"}));
    assert_eq!(descriptor.annotation("a"), Some("b"));

    // What came compressed stays so, unless it is to be compressed again.
    let coding = |existing| Coding {
        compression: Compression::Zstd,
        level: Some(1),
        existing,
    };
    let [kept, recoded] = [Existing::Keep, Existing::Recode].map(|existing| {
        let (manifest, _) = saved(&Settings {
            coding: Some(coding(existing)),
            ..plain.clone()
        });
        manifest.layers.iter().map(|l| l.digest).collect::<Vec<_>>()
    });
    let came: Vec<_> = loaded.image.manifest.layers.iter().map(|l| l.digest).collect();
    let made_here = |i: usize| came[i] == loaded.image.layers()[i].0;
    for i in 0..came.len() {
        assert_ne!(recoded[i], came[i]);
        assert_eq!(kept[i] == came[i], !made_here(i));
    }
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.tar");
    let failing = save_file::<SaveError>(&path, |out| {
        out.write_all(b"half").unwrap();
        let source = io::ErrorKind::StorageFull.into();
        let path = Path::new("x").to_owned();
        Err(SaveError::Write { path, source })
    });
    assert!(failing.is_err());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    save_file::<SaveError>(&path, |out| {
        out.write_all(b"whole").unwrap();
        Ok(())
    })
    .unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
}
