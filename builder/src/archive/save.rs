//! Writing archives and layouts: the same images give the same bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;

use flate2::write::GzEncoder;
use mica_fs::digest::{DiffId, Digest, Hashing, Verifying};
use mica_fs::store::{Store, WorkDir};

use super::SaveError;
use super::docker::{DockerImage, MANIFEST_JSON};
use super::names::{IMAGE_NAME, REF_NAME};
use super::source::blob_name;
use crate::image::{self, Descriptor, Image, Index, MANIFEST_LIMIT, Manifest, OCI_LAYER};
use crate::reference::Reference;

/// The content of `oci-layout` (OCI image specification, "oci-layout file").
const OCI_LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// gzip's own default, which Docker's tools use as well.
const GZIP_LEVEL: u32 = 6;
/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// The form of an archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArchiveFormat {
    /// For `docker load`: the layers are not compressed, unless asked for.
    Docker,
    /// For OCI's tools: the manifest and the layers are as they came, so that digests stay.
    Oci,
}

/// How the layers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// As plain tars.
    None,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}

/// An image that is to be written, with the names that the archive gives it.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The image.
    pub image: &'a Image,
    /// Its names; those without a tag are left out.
    pub names: Vec<Reference>,
}

/// Writes an archive of these images to `out`. `compression` is what the format says if it is `None`.
///
/// # Errors
/// [`SaveError`]; what was written by then is no whole archive.
pub fn write(
    store: &Store,
    entries: &[Entry<'_>],
    format: ArchiveFormat,
    compression: Option<Compression>,
    out: &mut dyn Write,
) -> Result<(), SaveError> {
    let mut layout = Layout::new(store, entries, format, compression)?;
    layout.write_tar(store, out)
}

/// Writes an OCI image layout of these images as the directory `directory`, which must not exist or be empty.
///
/// # Errors
/// [`SaveError`]; nothing is left in `directory`'s place then, unless it was there before.
pub fn write_layout(
    store: &Store,
    entries: &[Entry<'_>],
    compression: Option<Compression>,
    directory: &Path,
) -> Result<(), SaveError> {
    let error = |source| SaveError::Write {
        path: directory.to_owned(),
        source,
    };
    let layout = Layout::new(store, entries, ArchiveFormat::Oci, compression)?;
    let beside = tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .tempdir_in(parent_of(directory))
        .map_err(error)?;
    layout.write_directory(store, beside.path())?;
    // rename(2) replaces an empty directory, and no other.
    fs::rename(beside.path(), directory).map_err(error)?;
    // It is not ours to remove any more.
    let _ = beside.keep();
    Ok(())
}

/// Has `write` write a file that appears at `path` whole or not at all. Something at `path` that is no regular file,
/// such as a pipe or `/dev/stdout`, is written to directly.
///
/// # Errors
/// What `write` fails with, or [`SaveError::Write`].
pub fn save_file<E: From<SaveError>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<(), E> {
    let error = |source| SaveError::Write {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = BufWriter::new(File::options().write(true).open(path).map_err(error)?);
        write(&mut out)?;
        return Ok(out.flush().map_err(error)?);
    }
    let file = tempfile::Builder::new()
        .prefix(".mica-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
        .tempfile_in(parent_of(path))
        .map_err(error)?;
    let mut out = BufWriter::with_capacity(256 << 10, file);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| error(e.into_error()))?;
    file.as_file().sync_all().map_err(error)?;
    file.persist(path).map_err(|e| error(e.error))?;
    Ok(())
}

/// The directory that a file is in.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where the bytes of a blob come from.
enum Blob {
    Bytes(Vec<u8>),
    /// The store has it under its digest.
    Stored {
        size: u64,
    },
    /// It was compressed for this archive.
    Compressed {
        file: File,
        size: u64,
    },
}

impl Blob {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stored { size } | Self::Compressed { size, .. } => *size,
        }
    }
}

/// All that an archive is made of.
struct Layout {
    /// Files at the top, sorted by name.
    files: BTreeMap<&'static str, Vec<u8>>,
    blobs: BTreeMap<Digest, Blob>,
    /// Holds the compressed layers.
    _work: WorkDir,
}

impl Layout {
    fn new(
        store: &Store,
        entries: &[Entry<'_>],
        format: ArchiveFormat,
        compression: Option<Compression>,
    ) -> Result<Self, SaveError> {
        let compression = compression.or(match format {
            ArchiveFormat::Docker => Some(Compression::None),
            ArchiveFormat::Oci => None,
        });
        let work = store.work_dir()?;
        let mut writer = Collector {
            store,
            work: &work,
            compression,
            compressed: BTreeMap::new(),
            blobs: BTreeMap::new(),
            index: Vec::new(),
            docker: Vec::new(),
        };
        for entry in entries {
            writer.add(entry)?;
        }
        let files = BTreeMap::from([
            ("oci-layout", OCI_LAYOUT.to_vec()),
            ("index.json", image::to_json(&Index::new(writer.index))),
            (MANIFEST_JSON, image::to_json(&writer.docker)),
        ]);
        Ok(Self {
            files,
            blobs: writer.blobs,
            _work: work,
        })
    }

    fn write_tar(&mut self, store: &Store, out: &mut dyn Write) -> Result<(), SaveError> {
        let error = |source| SaveError::Write {
            path: "the archive".into(),
            source,
        };
        let mut tar = tar::Builder::new(out);
        for directory in ["blobs/", "blobs/sha256/"] {
            tar.append_data(&mut header(tar::EntryType::Directory, 0), directory, io::empty())
                .map_err(error)?;
        }
        for (name, bytes) in &self.files {
            let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
            tar.append_data(&mut header, name, &bytes[..]).map_err(error)?;
        }
        for (digest, blob) in &mut self.blobs {
            let mut header = header(tar::EntryType::Regular, blob.size());
            let name = blob_name(digest);
            match blob {
                Blob::Bytes(bytes) => tar.append_data(&mut header, name, &bytes[..]).map_err(error)?,
                Blob::Stored { size } => {
                    let file = Verifying::new(store.open_blob(digest)?, *digest, *size);
                    tar.append_data(&mut header, name, file).map_err(error)?;
                }
                Blob::Compressed { file, .. } => {
                    file.rewind().map_err(error)?;
                    tar.append_data(&mut header, name, file).map_err(error)?;
                }
            }
        }
        tar.into_inner().and_then(|out| out.flush()).map_err(error)
    }

    fn write_directory(self, store: &Store, directory: &Path) -> Result<(), SaveError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| SaveError::Write { path, source }
        };
        let blobs = directory.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(error(&blobs))?;
        for (name, bytes) in &self.files {
            let path = directory.join(name);
            fs::write(&path, bytes).map_err(error(&path))?;
        }
        for (digest, blob) in self.blobs {
            let path = blobs.join(digest.hex());
            let mut reader: Box<dyn Read> = match blob {
                Blob::Bytes(bytes) => Box::new(io::Cursor::new(bytes)),
                Blob::Stored { size } => Box::new(Verifying::new(store.open_blob(&digest)?, digest, size)),
                Blob::Compressed { mut file, .. } => {
                    file.rewind().map_err(error(&path))?;
                    Box::new(file)
                }
            };
            let mut file = File::create(&path).map_err(error(&path))?;
            io::copy(&mut reader, &mut file).map_err(error(&path))?;
        }
        Ok(())
    }
}

/// A header without owner, time or anything else of this machine.
fn header(kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

/// Gathers the images' blobs and tables of contents.
struct Collector<'a> {
    store: &'a Store,
    work: &'a WorkDir,
    compression: Option<Compression>,
    /// The layers that were compressed already.
    compressed: BTreeMap<DiffId, Descriptor>,
    blobs: BTreeMap<Digest, Blob>,
    index: Vec<Descriptor>,
    docker: Vec<DockerImage>,
}

impl Collector<'_> {
    fn add(&mut self, entry: &Entry<'_>) -> Result<(), SaveError> {
        let image = entry.image;
        let layers = self.layers(image)?;
        let config = &image.manifest.config;
        self.blobs
            .insert(config.digest, Blob::Stored { size: config.size });
        self.docker.push(DockerImage {
            config: blob_name(&config.digest),
            repo_tags: (!entry.names.is_empty())
                .then(|| entry.names.iter().map(Reference::familiar).collect()),
            layers: Some(layers.iter().map(|layer| blob_name(&layer.digest)).collect()),
        });
        let as_it_came = layers
            .iter()
            .map(|l| l.digest)
            .eq(image.manifest.layers.iter().map(|l| l.digest));
        let (media_type, bytes) = match as_it_came {
            true => {
                let bytes = self.store.read_blob(&image.manifest_digest, MANIFEST_LIMIT)?;
                (image.manifest.media_type().to_owned(), bytes)
            }
            false => {
                let manifest = Manifest::new(
                    Descriptor::new(image::OCI_CONFIG, config.digest, config.size),
                    layers,
                );
                (image::OCI_MANIFEST.to_owned(), image::to_json(&manifest))
            }
        };
        let mut descriptor = Descriptor::new(&media_type, Digest::of(&bytes), bytes.len() as u64);
        descriptor.platform = (!image.config.os.is_empty()).then(|| image.config.platform());
        self.blobs.insert(descriptor.digest, Blob::Bytes(bytes));
        self.list(descriptor, &entry.names);
        Ok(())
    }

    /// One entry of the index for each name, or one without a name.
    fn list(&mut self, descriptor: Descriptor, names: &[Reference]) {
        for name in names {
            let mut named = descriptor.clone();
            named.annotations = Some(BTreeMap::from([
                (IMAGE_NAME.to_owned(), name.to_string()),
                (REF_NAME.to_owned(), name.tag().unwrap_or("latest").to_owned()),
            ]));
            self.index.push(named);
        }
        if names.is_empty() {
            self.index.push(descriptor);
        }
    }

    /// The image's layers as they are to be written.
    fn layers(&mut self, image: &Image) -> Result<Vec<Descriptor>, SaveError> {
        let came = image.manifest.layers.iter();
        image
            .layers()
            .iter()
            .zip(came)
            .map(|(id, came)| match self.compression {
                None if self.store.has_blob(&came.digest) => {
                    self.blobs.insert(came.digest, Blob::Stored { size: came.size });
                    Ok(came.clone())
                }
                None | Some(Compression::None) => self.plain(id),
                Some(compression) => self.compress(id, compression),
            })
            .collect()
    }

    fn plain(&mut self, id: &DiffId) -> Result<Descriptor, SaveError> {
        let size = self.store.layer(id)?.index().tar_size();
        self.blobs.insert(id.0, Blob::Stored { size });
        Ok(Descriptor::new(OCI_LAYER, id.0, size))
    }

    fn compress(&mut self, id: &DiffId, compression: Compression) -> Result<Descriptor, SaveError> {
        if let Some(known) = self.compressed.get(id) {
            return Ok(known.clone());
        }
        let error = |source| SaveError::Layer { layer: *id, source };
        let size = self.store.layer(id)?.index().tar_size();
        let mut plain = Verifying::new(self.store.open_blob(&id.0)?, id.0, size);
        let file = tempfile::tempfile_in(self.work.path()).map_err(error)?;
        let (file, digest, size, suffix) = compress_into(&mut plain, file, compression).map_err(error)?;
        self.blobs.insert(digest, Blob::Compressed { file, size });
        let descriptor = Descriptor::new(&format!("{OCI_LAYER}{suffix}"), digest, size);
        self.compressed.insert(*id, descriptor.clone());
        Ok(descriptor)
    }
}

/// Compresses `plain` into `file`: the file, the digest and the size of what is in it, and the suffix of its media type.
fn compress_into(
    plain: &mut dyn Read,
    file: File,
    compression: Compression,
) -> io::Result<(File, Digest, u64, &'static str)> {
    let out = Hashing::new(BufWriter::with_capacity(256 << 10, file));
    let (out, suffix) = match compression {
        Compression::None => {
            let mut out = out;
            io::copy(plain, &mut out)?;
            (out, "")
        }
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            io::copy(plain, &mut encoder)?;
            (encoder.finish()?, "+gzip")
        }
        Compression::Zstd => {
            let mut encoder = zstd::Encoder::new(out, ZSTD_LEVEL)?;
            encoder.include_checksum(true)?;
            io::copy(plain, &mut encoder)?;
            (encoder.finish()?, "+zstd")
        }
    };
    let (buffer, digest, size) = out.finish();
    Ok((
        buffer.into_inner().map_err(|e| e.into_error())?,
        digest,
        size,
        suffix,
    ))
}
