//! An image's files in a directory of this machine, which has all of them or none.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use mica_fs::digest::DiffId;
use mica_fs::overlay::Follow;
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use super::place::{Lost, Manner, place_as};
use super::{ExportError, merged};

/// Writes the merged root filesystem of a stack of layers into a directory of this machine, which is made if it is
/// not there. Files that are there are replaced, directories that are there are merged with; symbolic links that are
/// there are not followed. Returns what could not be kept.
///
/// # Errors
/// [`ExportError`]. Nothing was written then, unless the file system failed while complete files were put in place.
pub fn root_directory(
    store: &Store,
    layers: &[DiffId],
    directory: &Path,
    manner: Manner,
) -> Result<Lost, ExportError> {
    let overlay = merged(store, layers)?;
    let failed = |source| write_failed(directory, source);
    let exists = match fs::metadata(directory) {
        Ok(found) if found.is_dir() => true,
        Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(_) => false,
    };
    let beside = match (exists, directory.parent()) {
        // In it, since another directory may be on another disk.
        (true, _) => directory,
        (false, Some(parent)) if !parent.as_os_str().is_empty() => parent,
        (false, _) => Path::new("."),
    };
    fs::create_dir_all(beside).map_err(failed)?;
    let stage = tempfile::Builder::new()
        .prefix(".mica-")
        .tempdir_in(beside)
        .map_err(failed)?;
    let tree = stage.path().join("tree");
    let lost = place_as(&overlay, &ImagePath::root(), Follow::No, &tree, manner)?;
    match exists {
        true => merge(&tree, directory)?,
        false => fs::rename(&tree, directory).map_err(failed)?,
    }
    Ok(lost)
}

/// Moves what is in `from` into the directory `to`, whose own mode, owner and time stay. What cannot be put in the
/// place of what is there is found before anything is moved.
fn merge(from: &Path, to: &Path) -> Result<(), ExportError> {
    let mut moves: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut todo = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = todo.pop() {
        let failed = |source| write_failed(&to, source);
        // What is moved out of a read-only directory needs the right to write to it, which is thrown away then.
        fs::set_permissions(&from, Permissions::from_mode(0o700)).map_err(failed)?;
        for entry in fs::read_dir(&from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let target = to.join(entry.file_name());
            let is_directory = entry.file_type().map_err(failed)?.is_dir();
            match fs::symlink_metadata(&target) {
                Ok(there) if there.is_dir() && is_directory => todo.push((entry.path(), target)),
                Ok(there) if there.is_dir() => {
                    return Err(write_failed(&target, io::ErrorKind::IsADirectory.into()));
                }
                Ok(_) if is_directory => {
                    return Err(write_failed(&target, io::ErrorKind::NotADirectory.into()));
                }
                _ => moves.push((entry.path(), target)),
            }
        }
    }
    moves
        .into_iter()
        .try_for_each(|(from, to)| fs::rename(&from, &to).map_err(|e| write_failed(&to, e)))
}

fn write_failed(path: &Path, source: io::Error) -> ExportError {
    ExportError::Write {
        path: path.to_owned(),
        source,
    }
}
