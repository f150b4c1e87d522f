//! What a program's name means on this machine, and what a script says of its interpreter.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::host::{HostError, absolute};

/// The longest first line of a script.
const SHEBANG_LIMIT: u64 = 4096;

/// The file that a program's name or path means.
pub(super) fn find_program(program: &OsStr, search_path: &OsStr) -> Result<PathBuf, HostError> {
    if program.as_bytes().contains(&b'/') {
        return absolute(Path::new(program));
    }
    std::env::split_paths(search_path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(program))
        .find(|path| fs::metadata(path).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0))
        .ok_or_else(|| HostError::NotFound {
            program: program.to_string_lossy().into_owned(),
        })
}

/// The interpreter that a script's `#!` names and the words behind it; `None` if the file is no script.
pub(super) fn script_words(path: &Path) -> Result<Option<(OsString, Vec<OsString>)>, HostError> {
    let start = read_start(path, SHEBANG_LIMIT)?;
    let Some(rest) = start.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = rest.split(|&b| b == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .map(|word| OsStr::from_bytes(word).to_owned());
    Ok(words.next().map(|interpreter| (interpreter, words.collect())))
}

/// Whether a script only starts the version of a program that pyenv, rbenv, nodenv or asdf chooses.
pub(super) fn is_shim(path: &Path, real: &Path) -> Result<bool, HostError> {
    let in_shims = path.parent().and_then(Path::file_name) == Some(OsStr::new("shims"));
    if !in_shims {
        return Ok(false);
    }
    let start = read_start(real, SHEBANG_LIMIT)?;
    let text = String::from_utf8_lossy(&start);
    Ok(text.contains(" exec ") || text.contains("\nexec "))
}

fn read_start(path: &Path, limit: u64) -> Result<Vec<u8>, HostError> {
    let mut start = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut start))
        .map_err(|source| HostError::Read {
            path: path.to_owned(),
            source,
        })?;
    Ok(start)
}
