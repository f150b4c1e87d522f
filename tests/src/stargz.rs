//! Layers in the format eStargz, written as its specification has it (stargz-snapshotter, docs/estargz.md).

use serde_json::{Value, json};

use crate::archive::{Packed, Tar, gzip, sha256};

const BLOCK: usize = 512;

/// Makes a layer of these files, their content cut into chunks of this size. `change` may spoil the table of contents.
pub fn estargz(files: &[(&str, &[u8])], chunk: usize, change: impl FnOnce(&mut Value)) -> Packed {
    let mut layer = Writer::default();
    let mut entries = Vec::new();
    for (name, content) in files.iter().chain(&[(".no.prefetch.landmark", &[0xf_u8][..])]) {
        let tar = Tar::new().file(name, content).bytes();
        layer.pending.extend_from_slice(&tar[..BLOCK]);
        if content.is_empty() {
            entries.push(json!({"name": name, "type": "reg", "mode": 0o644}));
        }
        for (number, piece) in content.chunks(chunk).enumerate() {
            layer.flush();
            let mut entry = json!({
                "name": name,
                "type": if number == 0 { "reg" } else { "chunk" },
                "offset": layer.blob.len(),
                "chunkOffset": number * chunk,
                "chunkSize": piece.len(),
                "chunkDigest": format!("sha256:{}", sha256(piece)),
            });
            if number == 0 {
                entry["mode"] = json!(0o644);
                entry["size"] = json!(content.len());
                entry["modtime"] = json!("2023-11-14T22:13:20Z");
                entry["digest"] = json!(format!("sha256:{}", sha256(content)));
            }
            entries.push(entry);
            layer.pending.extend_from_slice(piece);
            layer.flush();
        }
        let padding = content.len().next_multiple_of(BLOCK) - content.len();
        layer.pending.resize(layer.pending.len() + padding, 0);
    }
    layer.flush();
    let mut table = json!({"version": 1, "entries": entries});
    change(&mut table);
    layer.finish(&table.to_string())
}

/// A blob of gzip members.
#[derive(Default)]
struct Writer {
    tar: Vec<u8>,
    blob: Vec<u8>,
    /// What goes into the next member.
    pending: Vec<u8>,
}

impl Writer {
    /// Ends a member.
    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.blob.extend_from_slice(&gzip(&self.pending));
            self.tar.append(&mut self.pending);
        }
    }

    /// Adds the table and the footer.
    fn finish(mut self, table: &str) -> Packed {
        let offset = self.blob.len();
        self.pending = Tar::new().file("stargz.index.json", table).bytes();
        self.flush();
        self.blob
            .extend_from_slice(&[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 26, 0, b'S', b'G', 22, 0]);
        self.blob
            .extend_from_slice(format!("{offset:016x}STARGZ").as_bytes());
        self.blob
            .extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
        Packed {
            diff_id: sha256(&self.tar),
            blob: self.blob,
            suffix: "+gzip",
            annotations: json!({
                "containerd.io/snapshot/stargz/toc.digest": format!("sha256:{}", sha256(table.as_bytes())),
            }),
        }
    }
}
