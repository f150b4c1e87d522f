//! The names that mean something in a layer: whiteouts (OCI image specification, "Representing Changes").

/// Beginning of the name of a whiteout.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// The name in a directory that makes it opaque.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name says about the directory that it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker<'a> {
    /// This name is removed from the layers below.
    Whiteout(&'a [u8]),
    /// What the layers below have in the directory is hidden.
    Opaque,
    /// Bookkeeping of aufs, which means nothing outside of it.
    Ignored,
}

/// A name that begins as a whiteout's and names nothing to remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a malformed whiteout")]
pub struct MalformedWhiteout;

impl<'a> Marker<'a> {
    /// What the last component of a path says; `None` for a name like any other.
    ///
    /// # Errors
    /// [`MalformedWhiteout`].
    pub fn of(name: &'a [u8]) -> Result<Option<Self>, MalformedWhiteout> {
        let Some(removed) = name.strip_prefix(WHITEOUT) else {
            return Ok(None);
        };
        match removed {
            _ if name == OPAQUE => Ok(Some(Self::Opaque)),
            _ if removed.starts_with(WHITEOUT) => Ok(Some(Self::Ignored)),
            b"" | b"." | b".." => Err(MalformedWhiteout),
            _ => Ok(Some(Self::Whiteout(removed))),
        }
    }
}
