//! What a member's name says in a layer: a path, or a whiteout (OCI image specification, "Whiteouts").

use super::Problem;
use crate::layer::marker::{MalformedWhiteout, Marker, WHITEOUT};
use crate::path::{ImagePath, InvalidPath};

/// The longest path in bytes that Linux takes (`PATH_MAX` counts the NUL).
pub(super) const PATH_MAX: usize = 4095;

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Something lies here.
    Node(ImagePath),
    /// This is removed from the layers below.
    Whiteout(ImagePath),
    /// This directory hides what the layers below have in it.
    Opaque(ImagePath),
    /// Bookkeeping of aufs, which means nothing outside of it.
    Ignored,
}

pub(super) fn place(name: &[u8]) -> Result<Place, Problem> {
    if name.len() > PATH_MAX {
        return Err(Problem::LongPath);
    }
    if name.first() == Some(&b'/') {
        return Err(Problem::Path(InvalidPath::Absolute));
    }
    let components: Vec<&[u8]> = name
        .split(|&b| b == b'/')
        .filter(|c| !matches!(*c, b"" | b"."))
        .collect();
    let Some(at) = components.iter().position(|c| c.starts_with(WHITEOUT)) else {
        return ImagePath::from_member(name)
            .map(Place::Node)
            .map_err(Problem::Path);
    };
    let directory = components[..at].join(&b'/');
    let last = at + 1 == components.len();
    match Marker::of(components[at])? {
        Some(Marker::Ignored) => Ok(Place::Ignored),
        Some(Marker::Opaque) if last => ImagePath::from_member(&directory)
            .map(Place::Opaque)
            .map_err(Problem::Path),
        Some(Marker::Whiteout(removed)) if last => {
            let slash = &b"/"[usize::from(directory.is_empty())..];
            ImagePath::from_member(&[&directory, slash, removed].concat())
                .map(Place::Whiteout)
                .map_err(Problem::Path)
        }
        _ => Err(MalformedWhiteout.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::clean(text.as_bytes()).expect("a valid path")
    }

    #[test]
    fn names_are_placed() {
        for (name, expected) in [
            ("./a/b/", Place::Node(path("/a/b"))),
            ("./", Place::Node(path("/"))),
            ("a/.wh.b", Place::Whiteout(path("/a/b"))),
            ("./.wh.b", Place::Whiteout(path("/b"))),
            (".wh..hidden", Place::Whiteout(path("/.hidden"))),
            ("a/.wh..wh..opq", Place::Opaque(path("/a"))),
            (".wh..wh..opq", Place::Opaque(path("/"))),
            (".wh..wh.plnk/12.34", Place::Ignored),
            (".wh..wh.aufs", Place::Ignored),
            ("a/.whatever", Place::Node(path("/a/.whatever"))),
        ] {
            assert_eq!(place(name.as_bytes()).ok(), Some(expected), "{name}");
        }
        let long = "x".repeat(255);
        assert_eq!(
            place(format!(".wh.{long}").as_bytes()).ok(),
            Some(Place::Whiteout(path(&long)))
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        for name in [
            "a/.wh.",
            ".wh...",
            ".wh..",
            ".wh./..",
            ".wh.x/y",
            ".wh..wh..opq/x",
        ] {
            assert!(
                matches!(place(name.as_bytes()), Err(Problem::Whiteout(_))),
                "{name}"
            );
        }
        for name in ["/a", "a/../b", "../.wh.x", "a\0b", &"x".repeat(256)] {
            assert!(matches!(place(name.as_bytes()), Err(Problem::Path(_))), "{name}");
        }
        assert!(matches!(place(&b"x/".repeat(3000)), Err(Problem::LongPath)));
    }
}
