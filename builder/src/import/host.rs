//! Programs of this machine as the content of an image: the programs, whatever they need to start, and the few
//! files that every program takes for granted.
//!
//! Paths stay what they are here, and symbolic links on the way are kept, so `/bin/sh -> dash` below
//! `/bin -> usr/bin` looks the same inside. Everything belongs to root inside.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata as HostMetadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Metadata, Timestamp};
use mica_fs::path::ImagePath;

use super::ImportError;
use super::elf::Elf;
use super::linker::{CACHE, Linker};
use super::program::{find_program, is_shim, script_words};

#[cfg(test)]
mod tests;

/// The most symbolic links on the way to one file, as in the kernel.
const LINK_LIMIT: u32 = 40;
/// How often a script's interpreter may be a script itself, as in the kernel.
const SCRIPT_DEPTH: u32 = 4;

/// Directories that every image has, with their modes.
const DIRECTORIES: [(&str, u32); 9] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("proc", 0o755),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o755),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/tmp", 0o1777),
];

/// Files that every image has. What the machine has under these names stays outside: it is about its own users.
const FILES: [(&str, &str); 3] = [
    (
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    ),
];

/// Why a program of this machine cannot be brought along.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// It is nowhere on the search path.
    #[error("there is no program {program:?} in the directories of PATH")]
    NotFound {
        /// The program that was asked for.
        program: String,
    },
    /// It cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is neither machine code nor a script.
    #[error("{path} is no program: neither an ELF file nor a script with an interpreter (#!)")]
    NotAProgram {
        /// The file.
        path: PathBuf,
    },
    /// It is a stand-in that starts the real program.
    #[error("{path} is no program itself: a version manager's shim looks for the real one when it is run")]
    Shim {
        /// The file.
        path: PathBuf,
    },
    /// A library cannot be found.
    #[error(
        "{program} needs the library {library}, which this machine does not have (wanted by {needed_by})"
    )]
    MissingLibrary {
        /// The program.
        program: PathBuf,
        /// The name of the library.
        library: String,
        /// The file that wants it.
        needed_by: PathBuf,
    },
    /// Too many symbolic links, or scripts that are run by scripts.
    #[error("{path} leads through too many symbolic links or interpreters")]
    Loop {
        /// The file.
        path: PathBuf,
    },
    /// A name that an image cannot have.
    #[error("{path} cannot be stored in an image")]
    Name {
        /// The file.
        path: PathBuf,
    },
}

impl HostError {
    /// What can be done about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Shim { path } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                Some(format!(
                    "give the path of the program: `pyenv which {name}` or the like says it, or take the system's \
                     /usr/bin/{name}"
                ))
            }
            Self::MissingLibrary { .. } => Some("does the program start on this machine?".to_owned()),
            _ => None,
        }
    }
}

/// A node to be.
enum Node {
    Directory { mode: u32, mtime: Timestamp },
    Symlink { target: Vec<u8>, mtime: Timestamp },
    File { host: PathBuf },
    Text(&'static str),
}

/// Files of this machine, gathered for an image.
pub struct Host {
    nodes: BTreeMap<ImagePath, Node>,
    linker: Linker,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// The directories and files that every image has, and nothing else yet.
    pub fn new() -> Self {
        let mut nodes = BTreeMap::new();
        for (path, mode) in DIRECTORIES {
            let mtime = Timestamp::default();
            nodes.insert(fixed(path), Node::Directory { mode, mtime });
        }
        for (path, text) in FILES {
            nodes.insert(fixed(path), Node::Text(text));
        }
        Self {
            nodes,
            linker: Linker::new(),
        }
    }

    /// Adds a program, by its path or as found in `search_path` (in the form of PATH), and what it needs to
    /// start: its dynamic linker and libraries, or its interpreter if it is a script. Returns where it is.
    ///
    /// # Errors
    /// [`HostError`] if it is none, or something that it needs is not there.
    pub fn program(&mut self, program: &OsStr, search_path: &OsStr) -> Result<PathBuf, HostError> {
        let path = find_program(program, search_path)?;
        self.executable(&path, search_path, SCRIPT_DEPTH)?;
        self.directories_by_their_old_names()?;
        Ok(path)
    }

    /// Adds a file or a directory with all that is in it; of libraries and programs in it also the libraries
    /// that they need, as far as this machine has them.
    ///
    /// # Errors
    /// [`HostError`] if something cannot be read.
    pub fn include(&mut self, path: &Path) -> Result<(), HostError> {
        let path = absolute(path)?;
        let (real, metadata) = self.take(&path)?;
        match metadata.is_dir() {
            true => self.tree(&real),
            false => self.libraries_of(&real).map(|_| ()),
        }
    }

    /// Adds `/bin -> usr/bin` and the like, where this machine has them: PATH finds a shell in `/usr/bin`, but
    /// everyone calls it `/bin/sh`.
    fn directories_by_their_old_names(&mut self) -> Result<(), HostError> {
        for name in ["/bin", "/sbin"].map(Path::new) {
            if name.is_symlink() {
                self.take(name)?;
            }
        }
        Ok(())
    }

    fn tree(&mut self, top: &Path) -> Result<(), HostError> {
        let mut todo = vec![top.to_owned()];
        while let Some(directory) = todo.pop() {
            let error = |source| HostError::Read {
                path: directory.clone(),
                source,
            };
            for entry in fs::read_dir(&directory).map_err(error)? {
                let path = entry.map_err(error)?.path();
                let metadata = self.take_one(&path)?;
                if metadata.is_dir() {
                    todo.push(path);
                } else if metadata.is_file() {
                    self.libraries_of(&path)?;
                }
            }
        }
        Ok(())
    }

    fn executable(&mut self, path: &Path, search_path: &OsStr, depth: u32) -> Result<(), HostError> {
        let (real, _) = self.take(path)?;
        if let Some(missing) = self.libraries_of(&real)? {
            return match missing.into_iter().next() {
                None => Ok(()),
                Some(missing) => Err(HostError::MissingLibrary {
                    program: path.to_owned(),
                    library: missing.library,
                    needed_by: missing.needed_by,
                }),
            };
        }
        let (interpreter, arguments) = script_words(&real)?.ok_or_else(|| HostError::NotAProgram {
            path: path.to_owned(),
        })?;
        if is_shim(path, &real)? {
            return Err(HostError::Shim {
                path: path.to_owned(),
            });
        }
        let depth = depth.checked_sub(1).ok_or_else(|| HostError::Loop {
            path: path.to_owned(),
        })?;
        let interpreter = PathBuf::from(&interpreter);
        self.executable(&interpreter, search_path, depth)?;
        // `#!/usr/bin/env python3` needs python3 as well.
        if interpreter.file_name() == Some(OsStr::new("env"))
            && let Some(program) = arguments.iter().find(|word| !word.as_bytes().starts_with(b"-"))
        {
            let program = find_program(program, search_path)?;
            self.executable(&program, search_path, depth)?;
        }
        Ok(())
    }

    /// Adds the libraries that an ELF file needs, and says which are missing; `None` if it is no ELF file.
    fn libraries_of(&mut self, path: &Path) -> Result<Option<Vec<super::linker::Missing>>, HostError> {
        let error = |source| HostError::Read {
            path: path.to_owned(),
            source,
        };
        let elf = match File::open(path).and_then(|file| Elf::read(&file)) {
            Ok(Some(elf)) => elf,
            Ok(None) => return Ok(None),
            // A damaged file within an included directory is somebody's test data.
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(e) => return Err(error(e)),
        };
        let (files, missing) = self.linker.closure(path, elf);
        if !files.is_empty() && Path::new(CACHE).is_file() {
            // ld.so knows only few directories without its cache.
            self.take(Path::new(CACHE))?;
        }
        for file in files {
            self.take(&file)?;
        }
        for library in &missing {
            tracing::debug!(library = library.library, by = %library.needed_by.display(), "library not found");
        }
        Ok(Some(missing))
    }

    /// Adds what lies at `path`, with the directories and the symbolic links that lead there. Returns where that
    /// is in the end.
    fn take(&mut self, path: &Path) -> Result<(PathBuf, HostMetadata), HostError> {
        let mut todo: Vec<OsString> = components(path);
        let mut real = PathBuf::from("/");
        let mut links = 0;
        let mut metadata = None;
        while let Some(name) = todo.pop() {
            if name == ".." {
                real.pop();
                continue;
            }
            let here = real.join(&name);
            let found = self.take_one(&here)?;
            if !found.is_symlink() {
                real = here;
                metadata = Some(found);
                continue;
            }
            links += 1;
            if links > LINK_LIMIT {
                return Err(HostError::Loop {
                    path: path.to_owned(),
                });
            }
            let target = fs::read_link(&here).map_err(|source| HostError::Read { path: here, source })?;
            if target.is_absolute() {
                real = PathBuf::from("/");
            }
            todo.extend(components(&target));
        }
        let metadata = match metadata {
            Some(metadata) if todo.is_empty() => metadata,
            _ => fs::metadata(&real).map_err(|source| HostError::Read {
                path: real.clone(),
                source,
            })?,
        };
        Ok((real, metadata))
    }

    /// Adds the one node at `path`, whose directory is added already.
    fn take_one(&mut self, path: &Path) -> Result<HostMetadata, HostError> {
        let error = |source| HostError::Read {
            path: path.to_owned(),
            source,
        };
        let metadata = fs::symlink_metadata(path).map_err(error)?;
        let inside = ImagePath::clean(path.as_os_str().as_bytes()).map_err(|_| HostError::Name {
            path: path.to_owned(),
        })?;
        let mtime = mtime_of(&metadata);
        let file_type = metadata.file_type();
        let node = if file_type.is_dir() {
            Node::Directory {
                mode: metadata.mode() & 0o7777,
                mtime,
            }
        } else if file_type.is_symlink() {
            let target = fs::read_link(path).map_err(error)?.into_os_string().into_vec();
            Node::Symlink { target, mtime }
        } else if file_type.is_file() {
            Node::File {
                host: path.to_owned(),
            }
        } else {
            let kind = if file_type.is_socket() {
                "socket"
            } else {
                "device or pipe"
            };
            tracing::debug!(path = %path.display(), kind, "left out");
            return Ok(metadata);
        };
        // What every image has stays as it is.
        self.nodes.entry(inside).or_insert(node);
        Ok(metadata)
    }

    /// Writes everything into a layer, sorted by path.
    pub(super) fn write(&self, writer: &mut LayerWriter) -> Result<(), ImportError> {
        let mut hard_links: HashMap<(u64, u64), &ImagePath> = HashMap::new();
        for (path, node) in &self.nodes {
            let write = |source| ImportError::Write { source };
            let metadata = |mode, mtime| Metadata {
                mode,
                mtime,
                ..Metadata::default()
            };
            match node {
                Node::Directory { mode, mtime } => {
                    writer
                        .add(path, &metadata(*mode, *mtime), NewNode::Directory)
                        .map_err(write)?;
                }
                Node::Symlink { target, mtime } => {
                    writer
                        .add(path, &metadata(0o777, *mtime), NewNode::Symlink(target))
                        .map_err(write)?;
                }
                Node::Text(text) => {
                    let node = NewNode::File {
                        size: text.len() as u64,
                        content: &mut text.as_bytes(),
                    };
                    writer
                        .add(path, &metadata(0o644, Timestamp::default()), node)
                        .map_err(write)?;
                }
                Node::File { host } => {
                    let error = |source| ImportError::HostFile {
                        path: host.clone(),
                        source,
                    };
                    let mut file = File::open(host).map_err(error)?;
                    let found = file.metadata().map_err(error)?;
                    let known =
                        (found.nlink() > 1).then(|| hard_links.insert((found.dev(), found.ino()), path));
                    if let Some(Some(target)) = known {
                        writer.hard_link(path, target).map_err(write)?;
                        continue;
                    }
                    let node = NewNode::File {
                        size: found.len(),
                        content: &mut file,
                    };
                    let metadata = metadata(found.mode() & 0o7777, mtime_of(&found));
                    writer.add(path, &metadata, node).map_err(write)?;
                }
            }
        }
        Ok(())
    }
}

/// A path that is written in this file.
fn fixed(path: &'static str) -> ImagePath {
    ImagePath::clean(path.as_bytes()).expect("the constant paths are proper ones")
}

fn mtime_of(metadata: &HostMetadata) -> Timestamp {
    Timestamp {
        seconds: metadata.mtime(),
        nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// The components of a path, last one first; `.` is left out.
fn components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf, HostError> {
    std::path::absolute(path).map_err(|source| HostError::Read {
        path: path.to_owned(),
        source,
    })
}
