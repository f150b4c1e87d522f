//! The image that was built, to where the command line wants it. What people look for by name, names and the files
//! that tell of the image, comes last: if anything fails there is none of it.

use std::io::{IsTerminal as _, Write};
use std::path::Path;

use anyhow::Context as _;
use mica_builder::archive::{self, Entry};
use mica_builder::epoch::Epoch;
use mica_builder::export::{self, Manner, Owners};
use mica_builder::image::{Descriptor, Image};
use mica_builder::product::Product;
use mica_builder::push::Form;
use mica_builder::reference::Reference;
use mica_fs::store::Store;
use serde_json::json;

use super::args::OutputArgs;
use super::output::{Archive, Files, ImageForm, Output, Place};
use crate::diagnostic::usage_error;
use crate::progress::Progress;

/// What came of the image in the end: of several, the last.
struct Delivered {
    descriptor: Descriptor,
    image: Image,
    names: Vec<Reference>,
}

/// Refuses, before anything is built, to write to a terminal what is not for people.
///
/// # Errors
/// If stdout is a terminal and gets an archive.
pub fn check_stdout(outputs: &[Output]) -> anyhow::Result<()> {
    let stdout = outputs
        .iter()
        .any(|output| output.place() == Some(&Place::Stdout));
    match stdout && std::io::stdout().is_terminal() {
        true => Err(usage_error(
            "an archive is not written to a terminal: redirect stdout, or give dest=",
        )),
        false => Ok(()),
    }
}

/// Delivers; files in a directory have `owners`. Returns the image as it was delivered.
///
/// # Errors
/// If something cannot be written; what was to be written whole is not there then.
pub fn deliver(
    store: &Store,
    (product, owners): (&Product, Owners),
    outputs: &[Output],
    args: &OutputArgs,
    progress: &Progress,
    push: Pusher<'_>,
) -> anyhow::Result<Image> {
    let mut delivery = Delivery {
        store,
        product,
        owners,
        progress,
        delivered: None,
        tags: Vec::new(),
        pushes: Vec::new(),
    };
    for output in outputs {
        match output {
            Output::Store(form) => delivery.store(form)?,
            Output::Registry(form) => delivery.registry(form)?,
            Output::Archive(archive) => delivery.archive(archive)?,
            Output::Files(files) => delivery.files(files)?,
            Output::Nothing => {}
        }
    }
    let pushes = std::mem::take(&mut delivery.pushes);
    for (name, image, form) in &pushes {
        let descriptor = push(image, name, *form)?;
        progress.note(&format!("pushed {} ({})", name.familiar(), descriptor.digest));
        // What the registry has is what others are told of.
        if let Some(delivered) = &mut delivery.delivered {
            delivered.descriptor = descriptor;
        }
    }
    for (name, image) in &delivery.tags {
        store.tag(&name.to_string(), &image.manifest_digest)?;
        progress.note(&format!("named {}", name.familiar()));
    }
    let image = delivery.delivered.as_ref().map_or(&product.image, |d| &d.image);
    progress.note(&format!("image {}", image.id()));
    if let Some(path) = &args.metadata_file {
        write_whole(path, &metadata(delivery.delivered.as_ref()))?;
    }
    if let Some(path) = &args.iidfile {
        write_whole(path, &image.id().to_string())?;
    }
    Ok(image.clone())
}

struct Delivery<'a> {
    store: &'a Store,
    product: &'a Product,
    owners: Owners,
    progress: &'a Progress,
    delivered: Option<Delivered>,
    tags: Vec<(Reference, Image)>,
    pushes: Vec<(Reference, Image, Form)>,
}

/// Pushes an image to a name; returns what the registry has.
pub type Pusher<'a> = &'a dyn Fn(&Image, &Reference, Form) -> anyhow::Result<Descriptor>;

impl Delivery<'_> {
    fn store(&mut self, form: &ImageForm) -> anyhow::Result<()> {
        let image = self
            .image(form)?
            .annotated(self.store, &form.annotations.manifest)?;
        if form.coding.is_some() && !form.push {
            self.progress
                .note("compression: the store keeps layers as they are; they are compressed when they leave");
        }
        self.store.add_image(&image.manifest_digest)?;
        self.tags
            .extend(form.names.iter().map(|name| (name.clone(), image.clone())));
        self.deliver(form, image)
    }

    /// An image that only registries get.
    fn registry(&mut self, form: &ImageForm) -> anyhow::Result<()> {
        let image = self.image(form)?;
        let image = image.annotated(self.store, &form.annotations.manifest)?;
        self.deliver(form, image)
    }

    fn deliver(&mut self, form: &ImageForm, image: Image) -> anyhow::Result<()> {
        if form.push {
            let pushed = form.pushed();
            let pushes = form
                .names
                .iter()
                .map(|name| (name.clone(), image.clone(), pushed));
            self.pushes.extend(pushes);
        }
        let size = self.store.read_blob(&image.manifest_digest, u64::MAX)?.len();
        let mut descriptor = Descriptor::new(image.manifest.media_type(), image.manifest_digest, size as u64);
        descriptor.platform = Some(image.config.platform());
        self.delivered = Some(Delivered {
            descriptor,
            image,
            names: form.names.clone(),
        });
        Ok(())
    }

    fn archive(&mut self, archive: &Archive) -> anyhow::Result<()> {
        let image = self.image(&archive.form)?;
        let names = archive.form.names.clone();
        let entry = [Entry {
            image: &image,
            names: names.clone(),
        }];
        let settings = archive.form.settings(archive.format);
        let mut written = match &archive.place {
            Place::Directory(path) => archive::write_layout(self.store, &entry, &settings, path)?,
            place => {
                let mut written = Vec::new();
                write_stream(place, |out| {
                    written = archive::write(self.store, &entry, &settings, out)?;
                    Ok(())
                })?;
                written
            }
        };
        if let Some(descriptor) = written.pop() {
            self.delivered = Some(Delivered {
                descriptor,
                image,
                names,
            });
        }
        Ok(())
    }

    fn files(&self, files: &Files) -> anyhow::Result<()> {
        let layers = self.product.image.layers();
        let time = self.product.epoch.map(Epoch::timestamp);
        match &files.place {
            Place::Directory(path) => {
                let mut path = path.clone();
                if files.by_platform {
                    path.push(self.product.image.config.platform().to_string().replace('/', "_"));
                }
                let manner = Manner {
                    owners: self.owners,
                    time,
                };
                let lost = export::root_directory(self.store, layers, &path, manner)
                    .with_context(|| format!("cannot write to {}", path.display()))?;
                for (count, what) in [
                    (lost.owners, "have another owner: only root can give files away"),
                    (lost.devices, "are left out: only root can make devices"),
                    (lost.attributes, "are without an extended attribute"),
                ] {
                    if count > 0 {
                        self.progress
                            .note(&format!("{}: {count} files {what}", path.display()));
                    }
                }
            }
            place => write_stream(place, |out| Ok(export::root_tar(self.store, layers, time, out)?))?,
        }
        Ok(())
    }

    /// The image in the form that is asked for, as far as its layers are concerned.
    fn image(&self, form: &ImageForm) -> anyhow::Result<Image> {
        match (form.rewrite_timestamp, self.product.epoch) {
            (false, _) => Ok(self.product.image.clone()),
            (true, Some(epoch)) => Ok(self.product.clamped(self.store, epoch)?),
            (true, None) => {
                self.progress
                    .note("rewrite-timestamp: there is no SOURCE_DATE_EPOCH, and so nothing to rewrite");
                Ok(self.product.image.clone())
            }
        }
    }
}

/// Has `write` write to stdout, or to a file that appears whole or not at all.
fn write_stream(
    place: &Place,
    write: impl FnOnce(&mut dyn Write) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    match place {
        Place::Stdout => {
            let mut stdout = std::io::stdout();
            write(&mut stdout)?;
            Ok(stdout.flush()?)
        }
        Place::File(path) | Place::Directory(path) => {
            archive::save_file(path, write).with_context(|| format!("cannot write {}", path.display()))
        }
    }
}

/// Writes a small file, whole or not at all.
fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    archive::save_file(path, |out| {
        Ok::<_, anyhow::Error>(out.write_all(text.as_bytes())?)
    })
    .with_context(|| format!("cannot write {}", path.display()))
}

/// What `--metadata-file` tells, with the keys of buildx.
fn metadata(delivered: Option<&Delivered>) -> String {
    let mut fields = serde_json::Map::new();
    if let Some(delivered) = delivered {
        fields.insert(
            "containerimage.config.digest".to_owned(),
            json!(delivered.image.id()),
        );
        fields.insert(
            "containerimage.descriptor".to_owned(),
            json!(delivered.descriptor),
        );
        fields.insert(
            "containerimage.digest".to_owned(),
            json!(delivered.descriptor.digest),
        );
        if !delivered.names.is_empty() {
            let names: Vec<_> = delivered.names.iter().map(Reference::to_string).collect();
            fields.insert("image.name".to_owned(), json!(names.join(",")));
        }
    }
    format!("{:#}\n", serde_json::Value::Object(fields))
}
