//! `--output`: where a build's result goes, and in what form.

use std::path::PathBuf;

use mica_builder::archive::{ArchiveFormat, Coding, Compression, Existing, Settings};
use mica_builder::image::MediaTypes;
use mica_builder::push;
use mica_builder::reference::Reference;

use super::annotation::Annotations;
use super::args::{ImageArgs, OutputArgs};
use super::fields::Fields;
use crate::commands::build::with_hint;
use crate::diagnostic::{hint, usage_error};

/// One place that the result goes to.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The store.
    Store(ImageForm),
    /// The registries that the names say, and not the store.
    Registry(ImageForm),
    /// An archive, or an OCI image layout.
    Archive(Archive),
    /// The image's files.
    Files(Files),
    /// Nowhere: what was built stays in the cache.
    Nothing,
}

/// How an image is written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ImageForm {
    /// Its names.
    pub names: Vec<Reference>,
    /// Its annotations.
    pub annotations: Annotations,
    /// Whether no file may be newer than SOURCE_DATE_EPOCH.
    pub rewrite_timestamp: bool,
    /// How its layers are compressed.
    pub coding: Option<Coding>,
    /// Whose media types it has.
    pub media_types: MediaTypes,
    /// Whether it goes to the registries that its names say as well.
    pub push: bool,
    /// Whether it gets no tags there.
    pub by_digest: bool,
}

/// An archive of the image.
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// OCI's or Docker's.
    pub format: ArchiveFormat,
    /// The image in it.
    pub form: ImageForm,
    /// Where it goes.
    pub place: Place,
}

/// The image's files.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// A file (for a tar), a directory, or stdout for a tar.
    pub place: Place,
    /// Whether they lie in a directory named after the platform.
    pub by_platform: bool,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Standard output.
    Stdout,
    /// A file.
    File(PathBuf),
    /// A directory.
    Directory(PathBuf),
}

impl ImageForm {
    /// The form in which it is pushed.
    pub fn pushed(&self) -> push::Form {
        push::Form {
            media_types: (self.media_types == MediaTypes::Docker).then_some(MediaTypes::Docker),
            naming: match self.by_digest {
                true => push::Naming::Digest,
                false => push::Naming::Name,
            },
            ..self.coding.unwrap_or(push::CODING).into()
        }
    }

    /// The settings of an archive of that form.
    pub fn settings(&self, format: ArchiveFormat) -> Settings {
        Settings {
            coding: self.coding,
            media_types: self.media_types,
            annotations: self.annotations.manifest.clone(),
            descriptor_annotations: self.annotations.descriptor.clone(),
            ..Settings::new(format)
        }
    }
}

/// The `type`s there are.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Image,
    Registry,
    Oci,
    Docker,
    Local,
    Tar,
    CacheOnly,
}

const KINDS: [(&str, Kind); 7] = [
    ("image", Kind::Image),
    ("oci", Kind::Oci),
    ("docker", Kind::Docker),
    ("local", Kind::Local),
    ("tar", Kind::Tar),
    ("cacheonly", Kind::CacheOnly),
    ("registry", Kind::Registry),
];

/// All places that the result goes to: the store if none is given.
///
/// # Errors
/// If an option is not understood, or asks for what there is not.
pub fn outputs(args: &OutputArgs, image: &ImageArgs) -> anyhow::Result<Vec<Output>> {
    let common = ImageForm {
        names: image
            .tag
            .iter()
            .map(|name| reference(name))
            .collect::<anyhow::Result<_>>()?,
        annotations: Annotations::parse(&image.annotation)?,
        ..ImageForm::default()
    };
    let texts = args.output.iter().filter(|text| !text.is_empty());
    let mut all = texts
        .map(|text| Output::parse(text, &common))
        .collect::<anyhow::Result<Vec<_>>>()?;
    if all.is_empty() || args.load == Some(true) {
        all.push(Output::Store(common.clone()));
    }
    if args.push == Some(true) {
        push(&mut all, common)?;
    }
    for (i, output) in all.iter().enumerate() {
        if output.form().is_some_and(|form| form.by_digest && !form.push) {
            return Err(usage_error("push-by-digest is for what is pushed: add push=true"));
        }
        if let Some(place) = output.place()
            && all[..i].iter().any(|other| other.place() == Some(place))
        {
            let shown = match place {
                Place::Stdout => "stdout".to_owned(),
                Place::File(path) | Place::Directory(path) => path.display().to_string(),
            };
            return Err(usage_error(format!("two outputs cannot both go to {shown}")));
        }
    }
    Ok(all)
}

/// `--push`: what goes into the store goes to registries as well; if nothing does, the image does.
fn push(outputs: &mut Vec<Output>, mut common: ImageForm) -> anyhow::Result<()> {
    let mut is_stored = false;
    for output in outputs.iter_mut() {
        if let Output::Store(form) | Output::Registry(form) = output {
            form.push = true;
            is_stored = true;
            needs_names(form, || usage_error("--push needs a name"))?;
        }
    }
    if !is_stored {
        common.push = true;
        needs_names(&common, || usage_error("--push needs a name"))?;
        outputs.push(Output::Registry(common));
    }
    Ok(())
}

fn needs_names(form: &ImageForm, error: impl Fn() -> anyhow::Error) -> anyhow::Result<()> {
    match form.push && form.names.is_empty() {
        true => Err(hint(error(), "say where to: --tag NAME")),
        false => Ok(()),
    }
}

impl Output {
    /// Reads one `--output`; `common` is what the other options say of every image.
    fn parse(text: &str, common: &ImageForm) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Files(Files {
                place: Place::Stdout,
                by_platform: false,
            }));
        }
        let is_path = text.starts_with(['.', '/']) && !text.contains(',');
        if is_path || !text.contains('=') {
            return Ok(Self::Files(Files {
                place: Place::Directory(text.into()),
                by_platform: false,
            }));
        }
        let mut fields = Fields::parse("--output", text)?;
        let kind = fields.choice("type", &KINDS)?;
        let Some(kind) = kind else {
            // A misspelt key says more than that one is missing.
            for key in ["dest", "name", "tar", "compression", "push"] {
                let _ = fields.text(key);
            }
            let missing = fields.wrong("it has no type=");
            fields.finish()?;
            return Err(missing);
        };
        let output = match kind {
            Kind::Registry => {
                let mut form = image(&mut fields, text, common)?;
                form.push = true;
                needs_names(&form, || fields.wrong("it needs name=NAME"))?;
                Self::Registry(form)
            }
            Kind::CacheOnly => Self::Nothing,
            Kind::Local => {
                let dest = fields.text("dest")?.filter(|dest| dest != "-");
                let dest = dest.ok_or_else(|| fields.wrong("type=local needs dest=DIRECTORY"))?;
                Self::Files(Files {
                    place: Place::Directory(dest.into()),
                    by_platform: fields.boolean("platform-split")? == Some(true),
                })
            }
            Kind::Tar => Self::Files(Files {
                place: dest(&mut fields)?.unwrap_or(Place::Stdout),
                by_platform: false,
            }),
            Kind::Image => {
                let form = image(&mut fields, text, common)?;
                needs_names(&form, || fields.wrong("it needs name=NAME"))?;
                // Images of the store are always ready to be used.
                for key in ["store", "unpack"] {
                    fields.boolean(key)?;
                }
                Self::Store(form)
            }
            Kind::Docker | Kind::Oci => {
                let format = match kind {
                    Kind::Docker => ArchiveFormat::Docker,
                    _ => ArchiveFormat::Oci,
                };
                let form = image(&mut fields, text, common)?;
                let as_tar = fields.boolean("tar")?.unwrap_or(true);
                let place = match (dest(&mut fields)?, as_tar) {
                    // What docker would load.
                    (None, true) if format == ArchiveFormat::Docker => {
                        fields.finish()?;
                        return Ok(Self::Store(form));
                    }
                    (place, true) => place.unwrap_or(Place::Stdout),
                    (Some(Place::File(path)), false) => Place::Directory(path),
                    (_, false) => return Err(fields.wrong("tar=false needs dest=DIRECTORY")),
                };
                Self::Archive(Archive { format, form, place })
            }
        };
        fields.finish()?;
        Ok(output)
    }

    /// The form of an image.
    fn form(&self) -> Option<&ImageForm> {
        match self {
            Self::Store(form) | Self::Registry(form) => Some(form),
            Self::Archive(archive) => Some(&archive.form),
            Self::Files(_) | Self::Nothing => None,
        }
    }

    /// Where it goes, unless that is the store or nowhere.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Archive(archive) => Some(&archive.place),
            Self::Files(files) => Some(&files.place),
            Self::Store(_) | Self::Registry(_) | Self::Nothing => None,
        }
    }
}

/// `dest=FILE`, or `dest=-` for stdout.
fn dest(fields: &mut Fields) -> anyhow::Result<Option<Place>> {
    Ok(fields.text("dest")?.map(|dest| match dest.as_str() {
        "-" => Place::Stdout,
        path => Place::File(path.into()),
    }))
}

/// What images of all types have.
fn image(fields: &mut Fields, text: &str, common: &ImageForm) -> anyhow::Result<ImageForm> {
    let mut form = common.clone();
    let names = fields.text("name")?.unwrap_or_default();
    for name in names.split(',').filter(|name| !name.is_empty()) {
        let name = reference(name)?;
        if !form.names.contains(&name) {
            form.names.push(name);
        }
    }
    form.push = fields.boolean("push")? == Some(true);
    form.by_digest = fields.boolean("push-by-digest")? == Some(true);
    let mut own = Annotations::default();
    own.add_fields(&format!("--output {text}"), fields.beginning_with("annotation"))?;
    form.annotations.extend(&own);
    form.rewrite_timestamp = fields.boolean("rewrite-timestamp")? == Some(true);
    form.coding = coding(fields)?;
    if fields.boolean("oci-mediatypes")? == Some(false) {
        form.media_types = MediaTypes::Docker;
    }
    let zstd = form
        .coding
        .is_some_and(|coding| coding.compression == Compression::Zstd);
    if form.media_types == MediaTypes::Docker && (zstd || !form.annotations.is_empty()) {
        return Err(
            fields.wrong("zstd and annotations need OCI's media types: leave oci-mediatypes=false out")
        );
    }
    Ok(form)
}

/// How layers are compressed, by the keys that docker has for it.
///
/// # Errors
/// A compression that there is not, or a level that it has not.
pub fn coding(fields: &mut Fields) -> anyhow::Result<Option<Coding>> {
    let choices = [
        ("gzip", Some(Compression::Gzip)),
        ("zstd", Some(Compression::Zstd)),
        ("uncompressed", Some(Compression::None)),
        ("estargz", None),
    ];
    let level = fields.text("compression-level")?;
    let existing = match fields.boolean("force-compression")? {
        Some(true) => Existing::Recode,
        _ => Existing::Keep,
    };
    let compression = match fields.choice("compression", &choices)? {
        Some(None) => {
            return Err(hint(
                fields.wrong("compression=estargz is not supported"),
                "it may be gzip, zstd or uncompressed",
            ));
        }
        Some(Some(compression)) => compression,
        // BuildKit's own default, to which a level would apply.
        None if level.is_some() || existing == Existing::Recode => Compression::Gzip,
        None => return Ok(None),
    };
    let level =
        match (level, compression.highest_level()) {
            (None, _) => None,
            (Some(_), None) => return Err(fields.wrong("what is not compressed has no compression-level")),
            (Some(text), Some(highest)) => {
                let level = text.parse().ok().filter(|level| *level <= highest);
                Some(level.ok_or_else(|| {
                    fields.wrong(format!("compression-level is a number from 0 to {highest}"))
                })?)
            }
        };
    Ok(Some(Coding {
        compression,
        level,
        existing,
    }))
}

/// A name.
///
/// # Errors
/// If it is none.
pub fn reference(name: &str) -> anyhow::Result<Reference> {
    Reference::parse(name).map_err(|e| with_hint(e.hint(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Output> {
        Output::parse(text, &ImageForm::default())
    }

    fn files(place: Place) -> Output {
        Output::Files(Files {
            place,
            by_platform: false,
        })
    }

    #[test]
    fn places_are_told_from_the_type() {
        assert_eq!(parse("-").unwrap(), files(Place::Stdout));
        assert_eq!(parse("out").unwrap(), files(Place::Directory("out".into())));
        assert_eq!(parse("./a=b").unwrap(), files(Place::Directory("./a=b".into())));
        assert_eq!(parse("type=tar,dest=-").unwrap(), files(Place::Stdout));
        assert_eq!(parse("type=tar,dest=f").unwrap(), files(Place::File("f".into())));
        assert_eq!(parse("type=cacheonly").unwrap(), Output::Nothing);
        assert!(matches!(parse("type=image").unwrap(), Output::Store(_)));
        assert!(matches!(parse("type=docker").unwrap(), Output::Store(_)));
        let layout = parse("type=oci,dest=d,tar=false").unwrap();
        assert_eq!(layout.place(), Some(&Place::Directory("d".into())));
        assert_eq!(parse("type=oci").unwrap().place(), Some(&Place::Stdout));
    }

    #[test]
    fn images_have_forms() {
        let Ok(Output::Archive(archive)) = parse(
            r#"type=oci,dest=f,"name=a,b:1",compression=zstd,compression-level=9,force-compression=true,rewrite-timestamp=1"#,
        ) else {
            panic!("an archive");
        };
        let form = archive.form;
        let names: Vec<_> = form.names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:1"]);
        assert!(form.rewrite_timestamp);
        let coding = Coding {
            compression: Compression::Zstd,
            level: Some(9),
            existing: Existing::Recode,
        };
        assert_eq!(form.coding, Some(coding));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "dest=x",
            "type=nonsense",
            "type=local",
            "type=local,dest=-",
            "type=local,dest=x,name=y",
            "type=oci,tar=false",
            "type=oci,dset=x",
            "type=oci,compression=lz4",
            "type=oci,compression=estargz",
            "type=oci,compression=gzip,compression-level=10",
            "type=oci,compression=uncompressed,compression-level=1",
            "type=oci,compression=zstd,oci-mediatypes=false",
            "type=image,push=true",
            "type=image,name=UPPER",
            "type=registry",
            "type=oci,annotation-index.a=b",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_store_is_where_images_go_unless_told_otherwise() {
        use clap::Parser as _;
        let parse = |args: &[&str]| {
            let all = ["mica", "build", "."].iter().chain(args);
            let cli = crate::args::Cli::try_parse_from(all).expect("arguments");
            let crate::args::Command::Build(args) = cli.command else {
                panic!("build");
            };
            outputs(&args.output, &args.image)
        };
        assert!(matches!(parse(&[]).unwrap()[..], [Output::Store(_)]));
        assert!(matches!(parse(&["-o", "out"]).unwrap()[..], [Output::Files(_)]));
        assert!(matches!(
            parse(&["-o", "out", "--load"]).unwrap()[..],
            [Output::Files(_), Output::Store(_)]
        ));
        assert!(parse(&["--push"]).is_err(), "without a name");
        assert!(parse(&["-o", "type=image,name=a,push-by-digest=true"]).is_err());
        assert!(parse(&["-o", "type=registry,name=a,push-by-digest=true"]).is_ok());
        assert!(matches!(&parse(&["--push", "-t", "a"]).unwrap()[..], [Output::Store(form)] if form.push));
        assert!(matches!(
            &parse(&["--push", "-t", "a", "-o", "out"]).unwrap()[..],
            [Output::Files(_), Output::Registry(form)] if form.push
        ));
        assert!(parse(&["--push=false"]).is_ok());
        assert!(parse(&["-o", "-", "-o", "type=oci"]).is_err(), "both to stdout");
    }
}
