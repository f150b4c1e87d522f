//! What an image is made of, and how two images differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::archive::hex;
use crate::scene::Scene;

/// Files that no two builds make alike: the start of their paths, or after a `*` the end, and why. All else of them is
/// compared: owner, mode, attributes.
pub type Random = (&'static str, &'static str);

/// An image in the store of a scene, which must outlive it.
pub struct Image {
    id: String,
    config: Value,
    layers: Vec<Layer>,
}

struct Layer {
    diff_id: String,
    tar: PathBuf,
}

/// A file of a layer.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    /// Type, mode, owner, device number, link, time and extended attributes.
    inode: String,
    /// The digest of its content.
    content: String,
}

impl Image {
    /// The image of this name.
    pub fn read(scene: &Scene, name: &str) -> Self {
        let shown = scene.mica(["inspect", name]).ok().json();
        let text = |value: &Value| value.as_str().expect("a digest").to_owned();
        let layers = shown[0]["RootFS"]["Layers"].as_array().expect("a list of layers");
        let layers = layers.iter().map(|diff_id| {
            let diff_id = text(diff_id);
            let hex = diff_id.strip_prefix("sha256:").expect("a digest of SHA-256");
            Layer {
                tar: scene.store().join("layers").join(hex).join("tar"),
                diff_id,
            }
        });
        Self {
            id: text(&shown[0]["Id"]),
            layers: layers.collect(),
            config: shown[0]["Config"].clone(),
        }
    }

    /// The other image, which `who` has made, must be the same, to the byte; where it is not, only the content of random
    /// files may be another.
    ///
    /// # Panics
    /// If it is another.
    #[track_caller]
    pub fn must_equal(&self, other: &Self, who: &str, random: &[Random]) {
        assert_eq!(self.config, other.config, "{who}");
        assert_eq!(self.layers.len(), other.layers.len(), "{who}");
        let (mut is_same, mut lines) = (true, Vec::new());
        for (number, (one, another)) in self.layers.iter().zip(&other.layers).enumerate() {
            if one.diff_id == another.diff_id {
                continue;
            }
            is_same = false;
            let (ours, theirs) = (entries(&one.tar), entries(&another.tar));
            let paths = ours.keys().chain(theirs.keys()).collect::<BTreeSet<_>>();
            let (known, mut excused) = (lines.len(), 0);
            for path in paths {
                let (here, there) = (ours.get(path), theirs.get(path));
                let inodes = [here, there].map(|entry| entry.map(|entry| &entry.inode));
                let is_random = random.iter().any(|(part, _)| match part.strip_prefix('*') {
                    Some(end) => path.ends_with(end),
                    None => path.starts_with(part),
                });
                if here == there {
                    continue;
                }
                match is_random && inodes[0] == inodes[1] {
                    true => excused += 1,
                    false => lines.push(format!("layer {number}: {path}\n  {here:?}\n  {there:?}")),
                }
            }
            if excused == 0 && lines.len() == known {
                lines.push(format!("layer {number}: the same files, written in another way"));
            }
        }
        assert!(lines.is_empty(), "{who}:\n{}", lines.join("\n"));
        assert!(
            !is_same || self.id == other.id,
            "{who}: {} is not {}",
            self.id,
            other.id
        );
    }
}

fn entries(tar: &Path) -> BTreeMap<String, Entry> {
    let file = File::open(tar).unwrap_or_else(|error| panic!("{}: {error}", tar.display()));
    let mut archive = tar::Archive::new(BufReader::new(file));
    let entries = archive.entries().expect("a tar");
    let describe = |mut entry: tar::Entry<'_, _>| {
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let attributes = entry.pax_extensions().expect("a tar").into_iter().flatten();
        let attributes = attributes.map(|attribute| {
            let attribute = attribute.expect("a header");
            let value = attribute.value_bytes().escape_ascii();
            (
                String::from_utf8_lossy(attribute.key_bytes()).into_owned(),
                value.to_string(),
            )
        });
        // The size of a random file may be another.
        let attributes: BTreeMap<_, _> = attributes.filter(|(key, _)| key != "size").collect();
        let header = entry.header();
        let link = entry.link_name_bytes().unwrap_or_default().into_owned();
        let inode = format!(
            "{:?} {:o} {}:{} {}:{} {} @{} {attributes:?}",
            header.entry_type(),
            header.mode().expect("a mode"),
            header.uid().expect("an owner"),
            header.gid().expect("a group"),
            header.device_major().expect("a number").unwrap_or_default(),
            header.device_minor().expect("a number").unwrap_or_default(),
            String::from_utf8_lossy(&link),
            header.mtime().expect("a time"),
        );
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match entry.read(&mut buffer).expect("the layer is whole") {
                0 => break,
                length => digest.update(&buffer[..length]),
            }
        }
        let content = hex(&digest.finalize());
        (path, Entry { inode, content })
    };
    entries.map(|entry| describe(entry.expect("a tar"))).collect()
}
