//! Archives made by hand, good and bad: layers, image archives, and what is wrong with them.

use std::io::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// The hexadecimal SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes compressed by gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes all");
    encoder.finish().expect("memory takes all")
}

/// A tar archive in the making; names are written as they are given, however bad.
pub struct Tar {
    builder: tar::Builder<Vec<u8>>,
}

impl Tar {
    /// An empty archive.
    pub fn new() -> Self {
        Self {
            builder: tar::Builder::new(Vec::new()),
        }
    }

    /// Adds a member of any type.
    #[must_use]
    pub fn member(mut self, kind: EntryType, name: &str, mode: u32, link: &str, content: &[u8]) -> Self {
        let mut header = Header::new_ustar();
        // Not by `set_path`, which refuses what these tests are about.
        let old = header.as_old_mut();
        assert!(
            name.len() <= old.name.len() && link.len() <= old.linkname.len(),
            "{name} or {link} is long"
        );
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(u64::try_from(content.len()).expect("a length is 64 bits"));
        header.set_cksum();
        self.builder.append(&header, content).expect("memory takes all");
        self
    }

    /// Adds a regular file.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.member(EntryType::Regular, name, 0o644, "", content.as_ref())
    }

    /// Adds a regular file with this mode.
    #[must_use]
    pub fn program(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.member(EntryType::Regular, name, 0o755, "", content.as_ref())
    }

    /// Adds a directory.
    #[must_use]
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.member(EntryType::Directory, name, mode, "", b"")
    }

    /// Adds a symlink.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.member(EntryType::Symlink, name, 0o777, target, b"")
    }

    /// Adds a hard link to an earlier member.
    #[must_use]
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.member(EntryType::Link, name, 0o755, target, b"")
    }

    /// The whole archive.
    pub fn bytes(self) -> Vec<u8> {
        self.builder.into_inner().expect("memory takes all")
    }
}

impl Default for Tar {
    fn default() -> Self {
        Self::new()
    }
}

/// The members of an image archive by name, to be spoiled before they are packed.
pub struct Members(pub Vec<(String, Vec<u8>)>);

impl Members {
    /// What `docker save` writes: uncompressed layers.
    pub fn docker(name: &str, layers: &[Vec<u8>]) -> Self {
        let packed: Vec<_> = layers.iter().map(|tar| Packed::gzip(tar)).collect();
        let config = config(&packed);
        let config_name = format!("{}.json", sha256(&config));
        let mut members = vec![(config_name.clone(), config)];
        let mut paths = Vec::new();
        for layer in layers {
            let path = format!("{}/layer.tar", sha256(layer));
            members.push((path.clone(), layer.clone()));
            paths.push(path);
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": paths }]);
        members.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        Self(members)
    }

    /// An OCI image layout, of layers compressed by gzip.
    pub fn oci(name: &str, layers: &[Vec<u8>]) -> Self {
        let packed = layers.iter().map(|tar| Packed::gzip(tar));
        Self::oci_of(name, &packed.collect::<Vec<_>>())
    }

    /// An OCI image layout of layers that are packed already.
    pub fn oci_of(name: &str, layers: &[Packed]) -> Self {
        let mut members = vec![layout_mark()];
        let mut blob = |kind: &str, bytes: Vec<u8>| add_blob(&mut members, kind, bytes);
        let config = blob("config.v1+json", config(layers));
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| {
                let mut descriptor = blob(&format!("layer.v1.tar{}", layer.suffix), layer.blob.clone());
                if !layer.annotations.is_null() {
                    descriptor["annotations"] = layer.annotations.clone();
                }
                descriptor
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest = blob("manifest.v1+json", manifest.to_string().into_bytes());
        manifest["annotations"] = json!({
            "io.containerd.image.name": name,
            "org.opencontainers.image.ref.name": name,
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        members.push(("index.json".to_owned(), index.to_string().into_bytes()));
        Self(members)
    }

    /// An OCI image layout of an index, with an image of one layer for each of these architectures.
    pub fn index(name: &str, images: &[(&str, Vec<u8>)]) -> Self {
        let mut members = vec![layout_mark()];
        let mut blob = |kind: &str, bytes: Vec<u8>| add_blob(&mut members, kind, bytes);
        let mut entries = Vec::new();
        for (architecture, tar) in images {
            let layer = Packed::gzip(tar);
            let mut config: Value =
                serde_json::from_slice(&config(std::slice::from_ref(&layer))).expect("it is JSON");
            config["architecture"] = json!(architecture);
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob("config.v1+json", config.to_string().into_bytes()),
                "layers": [blob("layer.v1.tar+gzip", layer.blob)],
            });
            let mut entry = blob("manifest.v1+json", manifest.to_string().into_bytes());
            entry["platform"] = json!({ "os": "linux", "architecture": architecture });
            entries.push(entry);
        }
        let inner = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        let mut listed = blob("index.v1+json", inner.to_string().into_bytes());
        listed["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [listed] });
        members.push(("index.json".to_owned(), index.to_string().into_bytes()));
        Self(members)
    }

    /// The content of the member whose name holds this text.
    ///
    /// # Panics
    /// If there is none.
    pub fn get_mut(&mut self, part: &str) -> &mut Vec<u8> {
        let found = self.0.iter_mut().find(|(name, _)| name.contains(part));
        &mut found.unwrap_or_else(|| panic!("no member {part}")).1
    }

    /// The archive.
    pub fn pack(&self) -> Vec<u8> {
        let add = |tar: Tar, (name, content): &(String, Vec<u8>)| tar.file(name, content);
        self.0.iter().fold(Tar::new(), add).bytes()
    }
}

/// A layer as it lies in a registry.
#[derive(Clone, Debug)]
pub struct Packed {
    /// SHA-256 of its tar, in hexadecimal.
    pub diff_id: String,
    /// Its bytes.
    pub blob: Vec<u8>,
    /// What its media type ends with: `+gzip`, or nothing.
    pub suffix: &'static str,
    /// The annotations of its descriptor; null for none.
    pub annotations: Value,
}

impl Packed {
    /// A tar compressed by gzip.
    pub fn gzip(tar: &[u8]) -> Self {
        Self::gzip_at(tar, flate2::Compression::fast())
    }

    /// The same at a level of one's own. At the lowest ones, a stream may be a single block of deflate.
    pub fn gzip_at(tar: &[u8], level: flate2::Compression) -> Self {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
        encoder.write_all(tar).expect("memory takes all");
        Self {
            diff_id: sha256(tar),
            blob: encoder.finish().expect("memory takes all"),
            suffix: "+gzip",
            annotations: Value::Null,
        }
    }
}

fn config(layers: &[Packed]) -> Vec<u8> {
    let ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("sha256:{}", layer.diff_id))
        .collect();
    let config: Value = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sh"] },
        "rootfs": { "type": "layers", "diff_ids": ids },
        "history": layers.iter().map(|_| json!({ "created_by": "by hand" })).collect::<Vec<_>>(),
    });
    config.to_string().into_bytes()
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The file that says that a directory is an OCI image layout.
fn layout_mark() -> (String, Vec<u8>) {
    let mark = br#"{"imageLayoutVersion":"1.0.0"}"#;
    ("oci-layout".to_owned(), mark.to_vec())
}

/// Adds a blob to a layout, and describes it.
fn add_blob(members: &mut Vec<(String, Vec<u8>)>, kind: &str, bytes: Vec<u8>) -> Value {
    let digest = sha256(&bytes);
    let descriptor = json!({
        "mediaType": format!("application/vnd.oci.image.{kind}"),
        "digest": format!("sha256:{digest}"),
        "size": bytes.len(),
    });
    members.push((format!("blobs/sha256/{digest}"), bytes));
    descriptor
}
