//! Which files a program needs to start: what ld.so would find on this machine (ld.so(8)).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::elf::Elf;

/// Where glibc and musl look without being told.
const DEFAULT_DIRECTORIES: [&str; 5] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib"];

pub(super) const CACHE: &str = "/etc/ld.so.cache";
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const CACHE_HEADER: usize = 48;
const CACHE_ENTRY: usize = 24;

/// The search for libraries.
pub(super) struct Linker {
    /// From a library's name to the files that `ldconfig` found.
    cache: HashMap<Vec<u8>, Vec<PathBuf>>,
}

/// A library that is nowhere to be found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) library: String,
    pub(super) needed_by: PathBuf,
}

/// An object on its way into the process, with those that brought it in.
struct Object {
    path: PathBuf,
    elf: Elf,
    /// The RPATHs of the objects that brought this one in, nearest first, with the directories they stand in.
    inherited: Vec<(PathBuf, Vec<u8>)>,
}

impl Linker {
    /// Reads this machine's cache of libraries; without one the default directories remain.
    pub(super) fn new() -> Self {
        let cache = fs::read(CACHE)
            .ok()
            .and_then(|bytes| parse_cache(&bytes))
            .unwrap_or_default();
        Self { cache }
    }

    /// The files that `path`, an ELF file, needs: its dynamic linker and libraries, and theirs.
    pub(super) fn closure(&self, path: &Path, elf: Elf) -> (Vec<PathBuf>, Vec<Missing>) {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut missing = Vec::new();
        files.extend(
            elf.interpreter
                .as_deref()
                .map(|path| PathBuf::from(OsStr::from_bytes(path))),
        );
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut todo = vec![Object {
            path: path.to_owned(),
            elf,
            inherited: Vec::new(),
        }];
        while let Some(object) = todo.pop() {
            for name in &object.elf.needed {
                // ld.so loads one library of a name, whoever asks for it.
                if seen.contains(name) {
                    continue;
                }
                seen.push(name.clone());
                match self.find(name, &object) {
                    Some((path, elf)) => {
                        files.push(path.clone());
                        todo.push(object.bring_in(path, elf));
                    }
                    None => missing.push(Missing {
                        library: String::from_utf8_lossy(name).into_owned(),
                        needed_by: object.path.clone(),
                    }),
                }
            }
        }
        (files, missing)
    }

    fn find(&self, name: &[u8], object: &Object) -> Option<(PathBuf, Elf)> {
        let usable = |path: PathBuf| {
            let elf = File::open(&path).ok().and_then(|file| Elf::read(&file).ok()?)?;
            (elf.machine == object.elf.machine).then_some((path, elf))
        };
        if name.contains(&b'/') {
            return usable(PathBuf::from(OsStr::from_bytes(name)));
        }
        let name_of = |directory: PathBuf| directory.join(OsStr::from_bytes(name));
        object
            .search_path()
            .into_iter()
            .map(name_of)
            .chain(self.cache.get(name).into_iter().flatten().cloned())
            .chain(default_directories().into_iter().map(name_of))
            .find_map(usable)
    }
}

impl Object {
    fn directory(&self) -> PathBuf {
        self.path.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// The directories that the object itself asks for: RUNPATH, or else its own RPATH and those above it.
    fn search_path(&self) -> Vec<PathBuf> {
        if let Some(runpath) = &self.elf.runpath {
            return expand(runpath, &self.directory());
        }
        let own = self
            .elf
            .rpath
            .iter()
            .flat_map(|rpath| expand(rpath, &self.directory()));
        let inherited = self
            .inherited
            .iter()
            .flat_map(|(directory, rpath)| expand(rpath, directory));
        own.chain(inherited).collect()
    }

    fn bring_in(&self, path: PathBuf, elf: Elf) -> Self {
        let own = match (&self.elf.runpath, &self.elf.rpath) {
            (None, Some(rpath)) => Some((self.directory(), rpath.clone())),
            _ => None,
        };
        Self {
            path,
            elf,
            inherited: own.into_iter().chain(self.inherited.iter().cloned()).collect(),
        }
    }
}

/// The directories of a RPATH or RUNPATH; `$ORIGIN` is where the object lies, `$LIB` what glibc makes of it.
fn expand(path: &[u8], origin: &Path) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(path);
    let origin = origin.to_string_lossy();
    text.split(':')
        .filter(|part| !part.is_empty())
        .map(|part| part.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))
        .flat_map(|part| match part.contains("LIB") {
            true => ["lib", "lib64"]
                .map(|lib| part.replace("${LIB}", lib).replace("$LIB", lib))
                .to_vec(),
            false => vec![part],
        })
        .map(PathBuf::from)
        .collect()
}

/// Debian's loaders know the directories of their architecture as well.
fn default_directories() -> Vec<PathBuf> {
    let triplet = format!("{}-linux-gnu", std::env::consts::ARCH);
    let multiarch = ["/lib", "/usr/lib"].map(|directory| Path::new(directory).join(&triplet));
    multiarch
        .into_iter()
        .chain(DEFAULT_DIRECTORIES.map(PathBuf::from))
        .collect()
}

/// Reads what `ldconfig` wrote (glibc, `sysdeps/generic/dl-cache.h`, the format since 2.2): a header with the
/// number of entries, then entries of flags, name, path, OS version and hardware capabilities.
fn parse_cache(bytes: &[u8]) -> Option<HashMap<Vec<u8>, Vec<PathBuf>>> {
    // Older systems put the new format behind an old one.
    let start = bytes
        .windows(CACHE_MAGIC.len())
        .position(|window| window == CACHE_MAGIC)?;
    let cache = bytes.get(start..)?;
    let number = |at: usize| Some(u32::from_ne_bytes(cache.get(at..at + 4)?.try_into().ok()?) as usize);
    let string = |at: usize| cache.get(at..)?.split(|&b| b == 0).next();
    let mut libraries: HashMap<Vec<u8>, Vec<PathBuf>> = HashMap::new();
    for i in 0..number(20)? {
        let entry = i.checked_mul(CACHE_ENTRY)?.checked_add(CACHE_HEADER)?;
        let (name, path) = (string(number(entry + 4)?)?, string(number(entry + 8)?)?);
        let needs_capabilities = cache.get(entry + 16..entry + 24)?.iter().any(|&b| b != 0);
        // A library for special processors would not run on every machine that the image comes to.
        if !needs_capabilities {
            let path = PathBuf::from(OsStr::from_bytes(path));
            libraries.entry(name.to_vec()).or_default().push(path);
        }
    }
    Some(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_starts_with_what_is_found() {
        let path = std::env::current_exe().unwrap();
        let elf = Elf::read(&File::open(&path).unwrap()).unwrap().unwrap();
        let (files, missing) = Linker::new().closure(&path, elf);
        assert_eq!(missing, []);
        assert!(files.iter().all(|file| file.is_file()), "{files:?}");
        assert!(
            files.iter().any(|file| file.to_string_lossy().contains("libc.")),
            "{files:?}"
        );
    }

    #[test]
    fn origin_is_where_the_object_lies() {
        let expected = [PathBuf::from("/opt/a/../lib")];
        assert_eq!(expand(b"$ORIGIN/../lib:", Path::new("/opt/a")), expected);
        assert_eq!(
            expand(b"/x/$LIB", Path::new("/")),
            [PathBuf::from("/x/lib"), "/x/lib64".into()]
        );
    }

    #[test]
    fn a_damaged_cache_is_no_cache() {
        assert!(parse_cache(b"").is_none());
        let mut bytes = CACHE_MAGIC.to_vec();
        bytes.extend([255; 40]);
        assert!(parse_cache(&bytes).is_none());
    }
}
