//! Where archives write the names of their images.

use crate::image::Descriptor;
use crate::reference::Reference;

/// The annotation with the full name, as containerd and Docker since 25 write it.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// OCI's annotation: by the specification a mere tag, but many tools write a full name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The name that an entry of an OCI index gives to its image.
pub(crate) fn of_descriptor(descriptor: &Descriptor) -> Option<Reference> {
    let full = descriptor.annotation(IMAGE_NAME).and_then(tagged);
    let reference = || {
        descriptor
            .annotation(REF_NAME)
            // A mere tag says nothing about the repository.
            .filter(|text| text.contains(['/', ':']))
            .and_then(tagged)
    };
    full.or_else(reference)
}

/// The name in that text, if it is one that the store can keep.
pub(crate) fn tagged(text: &str) -> Option<Reference> {
    match Reference::parse(text) {
        Ok(reference) => reference.digest().is_none().then_some(reference),
        Err(error) => {
            tracing::warn!(%error, "the archive gives an image a name that is none");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mica_fs::digest::Digest;

    fn name(annotations: &[(&str, &str)]) -> Option<String> {
        let mut descriptor = Descriptor::new("", Digest::of(b""), 0);
        let pairs = annotations.iter().map(|&(k, v)| (k.to_owned(), v.to_owned()));
        descriptor.annotations = Some(pairs.collect());
        of_descriptor(&descriptor).map(|reference| reference.to_string())
    }

    #[test]
    fn the_full_name_wins() {
        let full = "docker.io/library/a:1";
        assert_eq!(
            name(&[(IMAGE_NAME, full), (REF_NAME, "1")]).as_deref(),
            Some(full)
        );
        assert_eq!(name(&[(REF_NAME, "a:1")]).as_deref(), Some(full));
        assert_eq!(name(&[(REF_NAME, "latest")]), None);
        assert_eq!(name(&[(IMAGE_NAME, "not a name")]), None);
    }
}
