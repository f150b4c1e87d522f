//! What a step does: its part of the cache key, and how it is executed. Each part of this module is one kind.

use mica_fs::overlay::{self, Attr, Changes, Follow, Ino, Overlay};
use mica_fs::path::ImagePath;

pub mod archive;
pub mod copy;
pub mod identity;
pub mod mount;
pub mod run;

/// Does something in directory `dir` that leaves the directory's modification time as it was: a file added by
/// COPY must not disturb a later step that only looked at its directory.
fn untimed(
    overlay: &Overlay,
    dir: Ino,
    change: impl FnOnce() -> Result<(), overlay::Error>,
) -> Result<(), overlay::Error> {
    let restore = Changes {
        mtime: Some(overlay.attr(dir)?.mtime),
        ..Changes::default()
    };
    change()?;
    overlay.set_attr(dir, &restore).map(|_| ())
}

/// The directory that holds `path`, and the last component.
fn place_of(overlay: &Overlay, path: &ImagePath) -> Result<(Ino, Vec<u8>), overlay::Error> {
    let (parent, name) = path.split().ok_or(overlay::Error::Exists)?;
    Ok((overlay.resolve(&parent, Follow::No)?.ino, name.to_vec()))
}

/// The node at `path`, no link followed; `None` if there is nothing.
fn lookup(overlay: &Overlay, path: &ImagePath) -> Result<Option<Attr>, overlay::Error> {
    match overlay.resolve(path, Follow::No) {
        Ok(attr) => Ok(Some(attr)),
        Err(overlay::Error::NotFound | overlay::Error::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}
