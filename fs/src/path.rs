//! Paths inside an image.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// A path relative to an image's root: components joined by `/`, none of them empty, `.` or `..`, no NUL.
/// The root itself is the empty path. Bytes, since Linux names need not be UTF-8.
///
/// As no `..` can be expressed, joining two of them never leads out of the image.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ImagePath(Vec<u8>);

/// Why some bytes are no path inside an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// A `..` component.
    #[error("it has a `..` component")]
    Parent,
    /// It begins with `/` where a relative path is needed.
    #[error("it is absolute")]
    Absolute,
    /// A NUL byte.
    #[error("it has a NUL byte")]
    Nul,
    /// A component of more than 255 bytes, the limit of Linux (`NAME_MAX`).
    #[error("a component is longer than 255 bytes")]
    TooLong,
}

/// The longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;

impl ImagePath {
    /// The root of an image.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Reads a member name of a layer: relative, perhaps with a leading `./` or a trailing `/`.
    ///
    /// # Errors
    /// [`InvalidPath`] for absolute names and names with `..`: they have no place in a layer.
    pub fn from_member(name: &[u8]) -> Result<Self, InvalidPath> {
        if name.first() == Some(&b'/') {
            return Err(InvalidPath::Absolute);
        }
        Self::from_components(name)
    }

    /// Reads a path as a person gives it: absolute or relative, both from the image's root; `..` is
    /// resolved by text and never leads above the root.
    ///
    /// # Errors
    /// [`InvalidPath::Nul`] and [`InvalidPath::TooLong`].
    pub fn clean(path: &[u8]) -> Result<Self, InvalidPath> {
        let mut clean = Self::root();
        for component in path.split(|&b| b == b'/') {
            match component {
                b".." => {
                    clean = clean.parent().unwrap_or_default();
                }
                _ => clean.push_checked(component)?,
            }
        }
        Ok(clean)
    }

    fn from_components(path: &[u8]) -> Result<Self, InvalidPath> {
        let mut clean = Self::root();
        for component in path.split(|&b| b == b'/') {
            if component == b".." {
                return Err(InvalidPath::Parent);
            }
            clean.push_checked(component)?;
        }
        Ok(clean)
    }

    fn push_checked(&mut self, component: &[u8]) -> Result<(), InvalidPath> {
        if component.contains(&0) {
            return Err(InvalidPath::Nul);
        }
        if component.len() > NAME_MAX {
            return Err(InvalidPath::TooLong);
        }
        if !component.is_empty() && component != b"." {
            self.push(component);
        }
        Ok(())
    }

    /// Adds one component, which must be a proper name (a directory entry's).
    fn push(&mut self, name: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'/');
        }
        self.0.extend_from_slice(name);
    }

    /// The path of the entry `name` of this directory. `name` comes from a directory: it holds no `/`.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/') && name != b".." && name != b".");
        let mut path = self.clone();
        path.push(name);
        path
    }

    /// The directory that holds this path; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(parent, _)| parent)
    }

    /// The last component; `None` for the root.
    pub fn name(&self) -> Option<&[u8]> {
        self.0.rsplit(|&b| b == b'/').next().filter(|n| !n.is_empty())
    }

    /// Parent and last component; `None` for the root.
    pub fn split(&self) -> Option<(Self, &[u8])> {
        let name = self.name()?;
        let parent = self.0.len() - name.len();
        Some((Self(self.0[..parent.saturating_sub(1)].to_vec()), name))
    }

    /// The components, first to last.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        ancestor.is_root()
            || self
                .0
                .strip_prefix(ancestor.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The bytes, without a leading `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path for use with [`std::path::Path`], without a leading `/`.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Display for ImagePath {
    /// With a leading `/`, as seen inside the image; bytes that are no UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str) -> Result<String, InvalidPath> {
        ImagePath::from_member(name.as_bytes()).map(|p| p.to_string())
    }

    #[test]
    fn members_are_normalised() {
        assert_eq!(member("./a//b/").as_deref(), Ok("/a/b"));
        assert_eq!(member(".").as_deref(), Ok("/"));
        assert_eq!(member("a/./b").as_deref(), Ok("/a/b"));
    }

    #[test]
    fn members_cannot_escape() {
        assert_eq!(member("a/../../b"), Err(InvalidPath::Parent));
        assert_eq!(member("/etc/passwd"), Err(InvalidPath::Absolute));
        assert_eq!(member("a\0b"), Err(InvalidPath::Nul));
        assert_eq!(member(&"x".repeat(256)), Err(InvalidPath::TooLong));
    }

    #[test]
    fn clean_stays_inside() {
        let clean = |p: &str| ImagePath::clean(p.as_bytes()).map(|p| p.to_string());
        assert_eq!(clean("/../../etc/./x/..").as_deref(), Ok("/etc"));
        assert_eq!(clean("").as_deref(), Ok("/"));
    }

    #[test]
    fn parts() {
        let path = ImagePath::clean(b"/a/b").unwrap_or_default();
        assert_eq!(path.name(), Some(&b"b"[..]));
        assert_eq!(path.parent().map(|p| p.to_string()).as_deref(), Some("/a"));
        assert_eq!(ImagePath::root().parent(), None);
        assert!(path.starts_with(&ImagePath::root()));
        assert!(
            !ImagePath::clean(b"/ab")
                .unwrap_or_default()
                .starts_with(&path.parent().unwrap_or_default())
        );
    }
}
