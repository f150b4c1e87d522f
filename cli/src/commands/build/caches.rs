//! `--cache-from` and `--cache-to`: the cache of a build from elsewhere, and for elsewhere.

use std::path::PathBuf;

use mica_builder::archive::Coding;
use mica_builder::cache::{self, Imports, Scope};
use mica_builder::image::Image;
use mica_builder::ledger::BuildRecord;
use mica_builder::product::Product;
use mica_builder::push::{CODING, Push};
use mica_builder::reference::Reference;
use mica_builder::registry::Client;
use mica_fs::store::Store;

use super::args::CacheArgs;
use super::fields::Fields;
use super::output;
use crate::commands::build::with_hint;
use crate::commands::push;
use crate::diagnostic::hint;
use crate::progress::transfer::Transfers;

/// The tag in a directory if none is given, as BuildKit has it.
const TAG: &str = "latest";

/// Where a cache comes from.
#[derive(Debug, PartialEq)]
enum From {
    Registry(Reference),
    Directory(PathBuf, String),
}

/// Where a cache goes.
#[derive(Debug, PartialEq)]
enum To {
    Registry(Reference),
    Directory(PathBuf, String),
    Inline,
}

/// One `--cache-to`.
#[derive(Debug, PartialEq)]
struct Export {
    to: To,
    scope: Scope,
    coding: Coding,
    ignore_error: bool,
    shown: String,
}

/// What the options ask for.
#[derive(Debug, Default)]
pub struct Caches {
    from: Vec<(String, From)>,
    to: Vec<Export>,
}

#[derive(Clone, Copy)]
enum Kind {
    Registry,
    Local,
    Inline,
    /// A service that only BuildKit speaks to.
    Service,
}

const KINDS: [(&str, Kind); 6] = [
    ("registry", Kind::Registry),
    ("local", Kind::Local),
    ("inline", Kind::Inline),
    ("gha", Kind::Service),
    ("s3", Kind::Service),
    ("azblob", Kind::Service),
];

impl Caches {
    /// Reads the options.
    ///
    /// # Errors
    /// If one is not understood, or asks for what there is not.
    pub fn parse(args: &CacheArgs) -> anyhow::Result<Self> {
        let mut caches = Self::default();
        for text in args.cache_from.iter().filter(|text| !text.is_empty()) {
            caches.from.push((text.clone(), from(text)?));
        }
        for text in args.cache_to.iter().filter(|text| !text.is_empty()) {
            caches.to.push(export(text)?);
        }
        Ok(caches)
    }

    /// Opens the caches that the build may take from, and what to tell of those that cannot be opened.
    pub fn open(&self, client: &Client) -> (Imports, Vec<String>) {
        let mut imports = Imports::default();
        let mut notes = Vec::new();
        for (text, from) in &self.from {
            let added = match from {
                From::Registry(reference) => imports.add_registry(client, reference),
                From::Directory(directory, tag) => imports.add_directory(directory, tag),
            };
            notes.push(match added {
                Ok(count) => format!("--cache-from {text}: {count} steps are known"),
                // As in docker: there is none before the first build.
                Err(error) => format!("--cache-from {text}: not used: {}", told(&error)),
            });
        }
        (imports, notes)
    }

    /// The product with its records in its image, if that is asked for.
    ///
    /// # Errors
    /// If the image cannot be written.
    pub fn inline(&self, store: &Store, build: &BuildRecord, product: Product) -> anyhow::Result<Product> {
        if !self.to.iter().any(|export| export.to == To::Inline) {
            return Ok(product);
        }
        let bundle = cache::gather(store, build, &product.image, Scope::Min)?;
        let image = cache::inline(store, bundle, &product.image, product.base.as_ref())?;
        Ok(Product { image, ..product })
    }

    /// Writes the cache to where it is wanted; returns what to tell of it.
    ///
    /// # Errors
    /// If it cannot be written, unless that is to be ignored.
    pub fn write(
        &self,
        store: &Store,
        client: &Client,
        (build, image): (&BuildRecord, &Image),
        transfers: &Transfers,
    ) -> anyhow::Result<Vec<String>> {
        let mut notes = Vec::new();
        for export in self.to.iter().filter(|export| export.to != To::Inline) {
            let written = export.write(store, client, (build, image), transfers);
            transfers.end();
            match written {
                Ok(count) => notes.push(format!("{}: {count} steps", export.shown)),
                Err(error) if export.ignore_error => {
                    notes.push(format!("{}: not written: {error:#}", export.shown));
                }
                Err(error) => return Err(error.context(format!("{}: the image is built", export.shown))),
            }
        }
        Ok(notes)
    }
}

impl Export {
    fn write(
        &self,
        store: &Store,
        client: &Client,
        (build, image): (&BuildRecord, &Image),
        transfers: &Transfers,
    ) -> anyhow::Result<usize> {
        let bundle = cache::gather(store, build, image, self.scope)?;
        let written = match &self.to {
            To::Registry(reference) => {
                let listener = |event| push::show(transfers, event);
                let push = Push::new(store, client, self.coding, &listener);
                cache::to_registry(&bundle, &push, reference)
            }
            To::Directory(directory, tag) => cache::to_directory(store, &bundle, self.coding, directory, tag),
            To::Inline => Ok(()),
        };
        written.map_err(|e| with_hint(e.hint(), e))?;
        Ok(bundle.records.len())
    }
}

/// An error and its causes on a line.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

fn reference(fields: &mut Fields) -> anyhow::Result<Reference> {
    let name = fields.text("ref")?;
    let name = name.ok_or_else(|| fields.wrong("type=registry needs ref=NAME"))?;
    output::reference(&name)
}

fn unsupported(fields: &Fields) -> anyhow::Error {
    hint(
        fields.wrong("only type=registry, local and inline are supported"),
        "use a registry or a directory: type=registry,ref=NAME or type=local",
    )
}

fn from(text: &str) -> anyhow::Result<From> {
    if !text.contains('=') {
        return Ok(From::Registry(output::reference(text)?));
    }
    let mut fields = Fields::parse("--cache-from", text)?;
    let kind = fields.choice("type", &KINDS)?;
    let from = match kind {
        Some(Kind::Registry) => From::Registry(reference(&mut fields)?),
        Some(Kind::Local) => {
            let src = fields.text("src")?;
            let src = src.ok_or_else(|| fields.wrong("type=local needs src=DIRECTORY"))?;
            let tag = fields.text("tag")?.unwrap_or_else(|| TAG.to_owned());
            From::Directory(src.into(), tag)
        }
        Some(Kind::Inline) => {
            return Err(hint(
                fields.wrong("an image brings its own cache"),
                "name the image: type=registry,ref=NAME",
            ));
        }
        Some(Kind::Service) => return Err(unsupported(&fields)),
        None => return Err(fields.wrong("it has no type=")),
    };
    fields.finish()?;
    Ok(from)
}

fn export(text: &str) -> anyhow::Result<Export> {
    let option = "--cache-to";
    if !text.contains('=') {
        return Ok(Export {
            to: To::Registry(output::reference(text)?),
            scope: Scope::Min,
            coding: CODING,
            ignore_error: false,
            shown: format!("{option} {text}"),
        });
    }
    let mut fields = Fields::parse(option, text)?;
    let to = match fields.choice("type", &KINDS)? {
        Some(Kind::Registry) => To::Registry(reference(&mut fields)?),
        Some(Kind::Local) => {
            let dest = fields.text("dest")?;
            let dest = dest.ok_or_else(|| fields.wrong("type=local needs dest=DIRECTORY"))?;
            let tag = fields.text("tag")?.unwrap_or_else(|| TAG.to_owned());
            To::Directory(dest.into(), tag)
        }
        Some(Kind::Inline) => To::Inline,
        Some(Kind::Service) => return Err(unsupported(&fields)),
        None => return Err(fields.wrong("it has no type=")),
    };
    let scopes = [("min", Scope::Min), ("max", Scope::Max)];
    let scope = fields.choice("mode", &scopes)?.unwrap_or_default();
    let ignore_error = fields.boolean("ignore-error")? == Some(true);
    let coding = output::coding(&mut fields)?.unwrap_or(CODING);
    // A cache is one image's manifest of OCI's types in any case.
    for key in ["image-manifest", "oci-mediatypes"] {
        fields.boolean(key)?;
    }
    fields.finish()?;
    Ok(Export {
        to,
        scope,
        coding,
        ignore_error,
        shown: format!("{option} {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_have_places() {
        let name = Reference::parse("a/b:c").unwrap();
        assert_eq!(from("a/b:c").unwrap(), From::Registry(name.clone()));
        assert_eq!(
            from("type=registry,ref=a/b:c").unwrap(),
            From::Registry(name.clone())
        );
        assert_eq!(
            from("type=local,src=d").unwrap(),
            From::Directory("d".into(), "latest".to_owned())
        );
        let to = export("type=registry,ref=a/b:c,mode=max,ignore-error=true,compression=zstd").unwrap();
        assert_eq!(
            (to.to, to.scope, to.ignore_error),
            (To::Registry(name), Scope::Max, true)
        );
        let to = export("type=local,dest=d,tag=t").unwrap();
        assert_eq!(
            (to.to, to.scope),
            (To::Directory("d".into(), "t".to_owned()), Scope::Min)
        );
        assert_eq!(export("type=inline").unwrap().to, To::Inline);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "type=gha",
            "type=local",
            "type=registry",
            "ref=a",
            "type=registry,ref=UP",
            "type=local,src=d,x=y",
        ] {
            assert!(from(wrong).is_err(), "{wrong}");
            assert!(export(wrong).is_err(), "{wrong}");
        }
        assert!(from("type=inline").is_err());
        assert!(export("type=local,dest=d,mode=most").is_err());
    }
}
