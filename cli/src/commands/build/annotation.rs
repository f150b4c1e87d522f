//! `--annotation`, and the `annotation` keys of `--output`.

use std::collections::BTreeMap;

use crate::diagnostic::{hint, usage_error};

/// Annotations by what they are put on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations {
    /// The image's manifest.
    pub manifest: BTreeMap<String, String>,
    /// Its descriptor in the index of an archive.
    pub descriptor: BTreeMap<String, String>,
}

impl Annotations {
    /// Reads `--annotation [KIND[,KIND]...:]NAME=VALUE` options, where a kind may have a platform: `manifest[linux/amd64]`.
    ///
    /// # Errors
    /// If one is not of the form, or for an index, which an image of one platform does not have.
    pub fn parse(options: &[String]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for text in options {
            let option = format!("--annotation {text}");
            let (key, value) = text
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| usage_error(format!("{option}: the form is NAME=VALUE or KIND:NAME=VALUE")))?;
            let (kinds, name) = match key.split_once(':') {
                // A name may have a colon; only a known word before it is a kind.
                Some((kinds, name)) if kinds.split(',').all(is_kind) => (kinds, name),
                _ => ("manifest", key),
            };
            for kind in kinds.split(',') {
                all.add(&option, kind, name, value)?;
            }
        }
        Ok(all)
    }

    /// Adds the fields of an `--output` that begin with `annotation`: `.NAME`, `-manifest.NAME`,
    /// `-manifest-descriptor[PLATFORM].NAME`.
    ///
    /// # Errors
    /// As [`Annotations::parse`].
    pub fn add_fields(&mut self, option: &str, fields: Vec<(String, String)>) -> anyhow::Result<()> {
        for (key, value) in fields {
            let wrong = || usage_error(format!("{option}: annotation{key} is not understood"));
            let (kind, name) = key.split_once('.').ok_or_else(wrong)?;
            let kind = match kind.strip_prefix('-') {
                Some(kind) => kind,
                None if kind.is_empty() => "manifest",
                None => return Err(wrong()),
            };
            self.add(option, kind, name, &value)?;
        }
        Ok(())
    }

    fn add(&mut self, option: &str, kind: &str, name: &str, value: &str) -> anyhow::Result<()> {
        let map = match bare(kind) {
            "manifest" => &mut self.manifest,
            "manifest-descriptor" => &mut self.descriptor,
            "index" | "index-descriptor" => {
                return Err(hint(
                    anyhow::anyhow!("{option}: an image of one platform has no index"),
                    "put the annotation on the manifest, or on the manifest-descriptor",
                ));
            }
            _ => {
                return Err(hint(
                    usage_error(format!("{option}: nothing is called {kind}")),
                    "an annotation is of the manifest or the manifest-descriptor",
                ));
            }
        };
        map.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Adds those of another, which win.
    pub fn extend(&mut self, other: &Self) {
        self.manifest.extend(other.manifest.clone());
        self.descriptor.extend(other.descriptor.clone());
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.manifest.is_empty() && self.descriptor.is_empty()
    }
}

/// A kind without its platform: images are of one.
fn bare(kind: &str) -> &str {
    match kind.split_once('[') {
        Some((bare, platform)) if platform.ends_with(']') => bare,
        _ => kind,
    }
}

fn is_kind(word: &str) -> bool {
    matches!(
        bare(word),
        "manifest" | "manifest-descriptor" | "index" | "index-descriptor"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Annotations> {
        Annotations::parse(&[text.to_owned()])
    }

    #[test]
    fn annotations_are_of_a_manifest_unless_they_say_so() {
        let pair = || [("a:b".to_owned(), "c=d".to_owned())].into();
        assert_eq!(parse("a:b=c=d").unwrap().manifest, pair());
        assert_eq!(parse("manifest:a:b=c=d").unwrap().manifest, pair());
        assert_eq!(parse("manifest[linux/amd64]:a:b=c=d").unwrap().manifest, pair());
        assert_eq!(parse("manifest-descriptor:a:b=c=d").unwrap().descriptor, pair());
        let both = parse("manifest,manifest-descriptor:a:b=c=d").unwrap();
        assert_eq!((both.manifest, both.descriptor), (pair(), pair()));
        for wrong in ["a", "=b", "index:a=b", "index-descriptor:a=b"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn outputs_have_annotations_as_well() {
        let fields = |key: &str| {
            let mut all = Annotations::default();
            all.add_fields("-o", vec![(key.to_owned(), "v".to_owned())])?;
            Ok::<_, anyhow::Error>(all)
        };
        assert_eq!(fields(".x.y").unwrap().manifest["x.y"], "v");
        assert_eq!(fields("-manifest[linux/amd64].x").unwrap().manifest["x"], "v");
        assert_eq!(fields("-manifest-descriptor.x").unwrap().descriptor["x"], "v");
        for wrong in ["", "x", "-index.x", "-nothing.x"] {
            assert!(fields(wrong).is_err(), "{wrong}");
        }
    }
}
