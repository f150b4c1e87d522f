//! A commit of a Git repository, as a layer with its files.
//!
//! The program `git` does the work, cut off from the configuration of the machine and of the user, and without hooks.
//! It may speak HTTP, SSH and its own protocol only, submodules included. Credentials reach it by its environment: they
//! stand on no command line, in no log and in no file.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use mica_fs::digest::DiffId;
use mica_fs::path::ImagePath;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::git_program::Git;
use super::git_url::{GitRepository, Transport};
use super::{Fetcher, RemoteError};
use crate::context::Context;
use crate::ignore::Ignore;
use crate::op::copy::{CopyError, Sources};
use crate::rootfs::{Rootfs, RootfsError};

/// The agent that `git` gets for SSH.
pub const SSH_AGENT: &str = "default";

/// Why a repository cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no `git`.
    #[error("the program git, which fetches repositories, is not installed")]
    NoProgram,
    /// It cannot be run.
    #[error("cannot run git")]
    Run(#[source] io::Error),
    /// It failed.
    #[error("{remote}: git {command} failed: {message}")]
    Failed {
        /// The repository.
        remote: String,
        /// What it was to do.
        command: String,
        /// The end of what it said.
        message: String,
    },
    /// A branch, a tag or a commit that is not there.
    #[error("{remote}: the repository does not contain ref {reference}")]
    NoReference {
        /// The repository.
        remote: String,
        /// As written.
        reference: String,
    },
    /// A directory that is not there.
    #[error("{remote}: there is no directory {directory} in commit {commit}")]
    NoDirectory {
        /// The repository.
        remote: String,
        /// As written.
        directory: String,
        /// The commit.
        commit: String,
    },
    /// A commit is to be fetched, and none is given.
    #[error("{remote}: fetch-by-commit requires a full commit as checksum")]
    NoCommit {
        /// The repository.
        remote: String,
    },
    /// The files that it wrote.
    #[error("cannot take in the files of the repository")]
    Files(#[source] io::Error),
    /// The layer of the files.
    #[error("cannot take in the files of the repository")]
    Copy(#[from] CopyError),
    /// The layer of the files.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
}

impl GitError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoProgram => Some("install the package git".to_owned()),
            Self::NoReference { .. } => Some("name a branch, a tag, or all 40 digits of a commit".to_owned()),
            Self::Failed { message, .. } if message.contains("Permission denied (publickey") => Some(
                "give the build your SSH agent by --ssh default, and the agent your key by ssh-add"
                    .to_owned(),
            ),
            Self::Failed { message, .. } if message.contains("could not read Username") => Some(
                "for a private repository give a token by --secret id=GIT_AUTH_TOKEN,env=VARIABLE".to_owned(),
            ),
            _ => None,
        }
    }
}

/// What a name stands for.
struct Resolved {
    commit: String,
    /// The full name of the branch or tag; `None` for a commit.
    name: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Record {
    layer: DiffId,
}

impl Fetcher<'_> {
    /// Fetches the files of a commit, unless they are there.
    pub(super) fn clone_of(&self, repository: &GitRepository) -> Result<DiffId, RemoteError> {
        let work = self.store.work_dir()?;
        let git = self.git(repository, work.path());
        let resolved = resolve(repository, &git)?;
        let keep = repository.keep_git_dir.unwrap_or(false) && repository.subdirectory.is_empty();
        let key = json!({
            "kind": "git",
            "commit": resolved.commit,
            "directory": repository.subdirectory,
            "submodules": repository.submodules,
            // What .git says besides.
            "git": keep.then(|| json!([repository.remote, resolved.name])),
        });
        if let Some(record) = self.recall(&key, |record: &Record| record.layer)? {
            return Ok(record.layer);
        }
        let tree = work.path().join("tree");
        fs::create_dir(&tree).map_err(GitError::Files)?;
        check_out(repository, &resolved, &git, &tree)?;
        let time = git.run(&tree, &["show", "--no-patch", "--format=%ct", &resolved.commit])?;
        if keep {
            tidy(&tree.join(".git")).map_err(GitError::Files)?;
        }
        let time = time.trim().parse().unwrap_or(0);
        level(&tree, time, keep).map_err(GitError::Files)?;
        let layer = self.layer_of(repository, &resolved.commit, &tree)?;
        self.remember(&key, &Record { layer }, layer)?;
        Ok(layer)
    }

    /// `git` with what it needs for the repository: the credentials, the agent.
    fn git<'h>(&'h self, repository: &GitRepository, home: &'h Path) -> Git<'h> {
        let mut git = Git::new(&repository.remote, home, self.stopped);
        match repository.transport {
            Transport::Http => {
                if let Some(header) = self.git_authorization(repository) {
                    let scheme = repository.remote.split("://").next().unwrap_or("https");
                    let scope = format!("http.{scheme}://{}/.extraHeader", repository.host);
                    git.configure(&scope, format!("Authorization: {header}"));
                }
            }
            Transport::Ssh => {
                let known_hosts = self.store.root().join("known_hosts");
                git.use_ssh(
                    &known_hosts,
                    self.agents.get(SSH_AGENT).map(|path| path.as_path()),
                );
            }
            Transport::Git => {}
        }
        git
    }

    /// The value of the `Authorization` header: from the secrets that BuildKit names so, or from the URL.
    fn git_authorization(&self, repository: &GitRepository) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let secret = |name: String| self.secret(&name).map(text);
        let basic = |token: String| {
            let pair = format!("x-access-token:{token}");
            format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        let host = &repository.host;
        secret(format!("GIT_AUTH_HEADER.{host}"))
            .or_else(|| secret(format!("GIT_AUTH_TOKEN.{host}")).map(basic))
            .or_else(|| secret("GIT_AUTH_HEADER".to_owned()))
            .or_else(|| secret("GIT_AUTH_TOKEN".to_owned()).map(basic))
            .or_else(|| repository.authorization.as_ref().map(|value| text(value.bytes())))
    }

    fn layer_of(&self, repository: &GitRepository, commit: &str, tree: &Path) -> Result<DiffId, GitError> {
        let context = Context::new(tree, Ignore::default()).map_err(GitError::Files)?;
        let none = Ignore::default();
        let missing = || GitError::NoDirectory {
            remote: repository.remote.clone(),
            directory: repository.subdirectory.clone(),
            commit: commit.to_owned(),
        };
        let sources = match Sources::one(&context, &repository.subdirectory, &none, &repository.remote) {
            Err(CopyError::Missing { .. }) => return Err(missing()),
            found => found?,
        };
        let is_directory = |one: &crate::op::copy::Selected| one.kind() == mica_fs::layer::Kind::Directory;
        if !sources.selected().iter().all(is_directory) {
            return Err(missing());
        }
        let rootfs = Rootfs::prepare(self.store, &[], Vec::new())?;
        sources.place_whole(rootfs.overlay(), &ImagePath::root())?;
        Ok(rootfs.commit()?.diff_id())
    }
}

/// Whether a text is a whole commit: SHA-1 or SHA-256.
fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Finds the commit, and compares it with the one that is expected.
fn resolve(repository: &GitRepository, git: &Git<'_>) -> Result<Resolved, RemoteError> {
    let remote = || repository.remote.clone();
    let expected = repository
        .checksum
        .as_deref()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let reference = repository.reference.as_deref();
    if repository.fetch_by_commit && !reference.is_some_and(is_commit) {
        return match is_commit(&expected) {
            true => Ok(Resolved {
                commit: expected,
                name: None,
            }),
            false => Err(GitError::NoCommit { remote: remote() }.into()),
        };
    }
    let (found, tag) = match reference.filter(|name| is_commit(name)) {
        Some(commit) => {
            let commit = commit.to_ascii_lowercase();
            (Resolved { commit, name: None }, None)
        }
        None => {
            let name = reference.unwrap_or("HEAD");
            let peeled = format!("{name}^{{}}");
            let listed = git.run_anywhere(&["ls-remote", "--", &repository.remote, name, &peeled])?;
            pick(&listed, name).ok_or_else(|| GitError::NoReference {
                remote: remote(),
                reference: name.to_owned(),
            })?
        }
    };
    let matches = found.commit.starts_with(&expected) || tag.is_some_and(|tag| tag.starts_with(&expected));
    match matches {
        true => Ok(found),
        false => Err(RemoteError::Checksum {
            what: repository.remote.clone(),
            expected,
            found: found.commit,
        }),
    }
}

/// Of what `git ls-remote` lists: the commit of `name`, and the tag's own object for an annotated tag. A branch goes
/// before a tag of the same name.
fn pick(listed: &str, name: &str) -> Option<(Resolved, Option<String>)> {
    let object = |wanted: &str| {
        let mut lines = listed.lines().filter_map(|line| line.split_once('\t'));
        let found = lines
            .find(|(_, name)| *name == wanted)
            .map(|(object, _)| object.to_owned());
        found.filter(|object| is_commit(object))
    };
    if name == "HEAD" {
        let commit = object("HEAD")?;
        return Some((Resolved { commit, name: None }, None));
    }
    let full = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
    let name = ["refs/", "refs/heads/", "refs/tags/"]
        .map(full)
        .into_iter()
        .find(|name| object(name).is_some())?;
    let own = object(&name)?;
    let (commit, tag) = match object(&format!("{name}^{{}}")) {
        Some(commit) => (commit, Some(own)),
        None => (own, None),
    };
    let name = Some(name);
    Some((Resolved { commit, name }, tag))
}

/// Fetches the commit, as little besides as the server lets, and writes its files to `tree`.
fn check_out(
    repository: &GitRepository,
    resolved: &Resolved,
    git: &Git<'_>,
    tree: &Path,
) -> Result<(), GitError> {
    let commit = resolved.commit.as_str();
    let format = match commit.len() {
        64 => "--object-format=sha256",
        _ => "--object-format=sha1",
    };
    git.run(tree, &["init", "--quiet", "--template=", format])?;
    git.run(tree, &["remote", "add", "origin", &repository.remote])?;
    let has_it = || {
        git.run(tree, &["cat-file", "-e", &format!("{commit}^{{commit}}")])
            .is_ok()
    };
    let mut result = Ok(());
    // The name is what any server gives; the commit is what it was when it was looked up; at last, everything.
    for wanted in resolved.name.as_deref().into_iter().chain([commit]) {
        result = fetch(git, tree, &[wanted]);
        if has_it() {
            break;
        }
    }
    if !has_it() && !git.is_stopped() {
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        match git.run(tree, &[&["fetch", "--quiet", "origin"], &all[..]].concat()) {
            Ok(_) if has_it() => result = Ok(()),
            Ok(_) => {
                return Err(GitError::NoReference {
                    remote: repository.remote.clone(),
                    reference: commit.to_owned(),
                });
            }
            Err(error) => return Err(result.err().unwrap_or(error)),
        }
    }
    if !has_it() {
        result?;
    }
    git.run(tree, &["checkout", "--quiet", "--force", "--detach", commit])?;
    if let Some(name) = &resolved.name {
        git.run(tree, &["update-ref", name, commit])?;
    }
    if repository.submodules && tree.join(".gitmodules").exists() {
        let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
        shallow(|depth| git.run(tree, &[&update[..], depth].concat()))?;
    }
    Ok(())
}

fn fetch(git: &Git<'_>, tree: &Path, wanted: &[&str]) -> Result<(), GitError> {
    let fetch = ["fetch", "--quiet", "--no-tags"];
    shallow(|depth| git.run(tree, &[&fetch[..], depth, &["origin"], wanted].concat())).map(|_| ())
}

/// Does something without history, or with it where the server cannot do without.
fn shallow(attempt: impl Fn(&[&str]) -> Result<String, GitError>) -> Result<String, GitError> {
    match attempt(&["--depth=1"]) {
        Err(GitError::Failed { message, .. })
            if message.contains("shallow") || message.contains("--depth") =>
        {
            attempt(&[])
        }
        result => result,
    }
}

/// Removes what a `.git` has of its making.
fn tidy(directory: &Path) -> io::Result<()> {
    for name in ["FETCH_HEAD", "ORIG_HEAD"] {
        match fs::remove_file(directory.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Gives every file the time of the commit, and the mode that Git has for it, so that neither the clock nor the umask
/// is seen. Without `keep`, removes each `.git`.
fn level(directory: &Path, time: i64, keep: bool) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if entry.file_name() == ".git" {
            match (keep, kind.is_dir()) {
                (true, _) => continue,
                (false, true) => fs::remove_dir_all(&path)?,
                (false, false) => fs::remove_file(&path)?,
            }
            continue;
        }
        if kind.is_dir() {
            level(&path, time, keep)?;
        }
        if !kind.is_symlink() {
            let executable = kind.is_dir() || entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        let time = TimeSpec::new(time, 0);
        let at = File::open(directory)?;
        let name = entry.file_name();
        utimensat(
            &at,
            name.as_os_str(),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_among_what_is_listed() {
        let [a, b, c] = ["a", "b", "c"].map(|digit| digit.repeat(40));
        let listed = format!("{a}\trefs/heads/x\n{b}\trefs/tags/x\n{c}\trefs/tags/x^{{}}\n");
        let of = |name: &str| pick(&listed, name).map(|(found, tag)| (found.commit, found.name, tag));
        assert_eq!(of("x"), Some((a.clone(), Some("refs/heads/x".to_owned()), None)));
        let tag = Some((c.clone(), Some("refs/tags/x".to_owned()), Some(b.clone())));
        assert_eq!(of("refs/tags/x"), tag);
        assert_eq!(of("tags/x"), tag);
        assert_eq!(of("y"), None);
        let head = pick(&format!("{a}\tHEAD\n"), "HEAD").map(|(found, _)| found.commit);
        assert_eq!(head, Some(a));
        assert!(pick("nonsense", "x").is_none());
    }
}
