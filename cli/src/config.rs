//! Where things lie, and what every command is given.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use mica_builder::sandbox::UserNs;
use mica_fs::store::Store;

use crate::args::Global;
use crate::render::Output;

/// What every command is given.
pub struct Context {
    root: PathBuf,
    userns: UserNs,
    store: OnceLock<Arc<Store>>,
}

impl Context {
    /// Finds out where the store lies; touches nothing. To be made before the process enters a user namespace,
    /// since the default depends on who runs it.
    ///
    /// # Errors
    /// If there is no home directory to put the store into, or the current directory is gone.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        let root = match &global.root {
            Some(root) => root.clone(),
            None => default_root(is_real_root(), |name| env::var_os(name))?,
        };
        let root = std::path::absolute(&root)
            .with_context(|| format!("cannot make an absolute path of {}", root.display()))?;
        Ok(Self {
            root,
            userns: global.userns.unwrap_or_default(),
            store: OnceLock::new(),
        })
    }

    /// How steps get the ids of the image.
    pub fn userns(&self) -> UserNs {
        self.userns
    }

    /// The directory of the store, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The store, opened at the first call, and made if there is none yet.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn store(&self) -> anyhow::Result<Arc<Store>> {
        if let Some(store) = self.store.get() {
            return Ok(Arc::clone(store));
        }
        let store = Store::open(&self.root)
            .with_context(|| format!("cannot open the image store {}", self.root.display()))?;
        Ok(Arc::clone(self.store.get_or_init(|| Arc::new(store))))
    }

    /// Writes `text` to stdout.
    ///
    /// # Errors
    /// If stdout cannot be written; a reader that has gone away ends the program quietly.
    pub fn print(&self, text: &str) -> anyhow::Result<()> {
        let mut output = self.output();
        output.write_all(text.as_bytes())?;
        output.flush()?;
        Ok(())
    }

    /// A buffered writer to stdout, for output of any length. To be flushed at the end.
    pub fn output(&self) -> Output {
        Output::new()
    }
}

/// Whether this process is root of the whole machine, rather than of a user namespace: someone who is mapped to
/// root by `unshare -r` or a rootless container has no right to /var/lib.
fn is_real_root() -> bool {
    nix::unistd::geteuid().is_root()
        && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_everything(&map))
}

/// Whether a uid_map is that of the initial user namespace.
fn maps_everything(uid_map: &str) -> bool {
    uid_map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn default_root(is_root: bool, var: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<PathBuf> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/mica"));
    }
    // The XDG base directory specification: relative paths are to be ignored.
    let absolute = |name| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|data| data.join("mica"))
        .context("neither MICA_ROOT, XDG_DATA_HOME nor HOME says where the store is to lie")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(is_root: bool, vars: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.into())
        };
        default_root(is_root, find).ok()
    }

    #[test]
    fn the_store_lies_where_the_user_may_write() {
        let home = ("HOME", "/home/u");
        assert_eq!(root_with(true, &[home]), Some("/var/lib/mica".into()));
        assert_eq!(
            root_with(false, &[home]),
            Some("/home/u/.local/share/mica".into())
        );
        assert_eq!(
            root_with(false, &[home, ("XDG_DATA_HOME", "/d")]),
            Some("/d/mica".into())
        );
        assert_eq!(
            root_with(false, &[home, ("XDG_DATA_HOME", "relative")]),
            Some("/home/u/.local/share/mica".into())
        );
        assert_eq!(root_with(false, &[]), None);
    }

    #[test]
    fn root_of_a_namespace_is_not_root() {
        assert!(maps_everything("         0          0 4294967295\n"));
        assert!(!maps_everything("0 1000 1\n"));
        assert!(!maps_everything("0 1000 1\n1 100000 65536\n"));
        assert!(!maps_everything(""));
    }
}
