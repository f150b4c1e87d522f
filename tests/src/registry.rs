//! A registry for a test: Debian's `docker-registry` on the loopback interface, with a storage of its own.
//!
//! What may go wrong on the way to it is the business of [`Proxy`](crate::Proxy), which stands before one.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::archive::sha256;
use crate::{child, machine};

mod certificates;
mod tokens;

pub use certificates::Certificates;
pub use tokens::Tokens;

/// The user of registries that ask for one.
pub const USER: &str = "mica";
/// The user's password; it has a space, a colon and a `%`.
pub const PASSWORD: &str = "open: sesame 100%";
/// `USER` and bcrypt's digest of `PASSWORD`, as `htpasswd -B` writes them.
const HTPASSWD: &str = "mica:$2b$04$QG1pY2EgdGVzdHMgc2FsduiANxbxq0q3MWUL6gPMkYaOd98tSBHnG\n";

/// How long a server may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whom a registry lets in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Everyone.
    #[default]
    Open,
    /// [`USER`] with [`PASSWORD`], by HTTP's basic authentication.
    Basic,
    /// Who has a token of the test's own token server ([`Tokens`]).
    Token,
}

/// How a registry is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    /// Plain HTTP.
    #[default]
    Plain,
    /// TLS, with a certificate of an authority of the test's own.
    Tls,
    /// The same, and clients must have a certificate of that authority as well.
    MutualTls,
}

/// A running registry. It ends with the test.
pub struct Registry {
    port: u16,
    transport: Transport,
    child: Mutex<Option<Child>>,
    certificates: Option<Certificates>,
    tokens: Option<Tokens>,
    directory: TempDir,
}

impl Registry {
    /// A registry that everyone may use by plain HTTP. `None`, with a word on it, where there is no such server.
    pub fn start() -> Option<Self> {
        Self::with(Access::Open, Transport::Plain)
    }

    /// A registry that asks for this. `None`, with a word on it, where there is no such server.
    pub fn with(access: Access, transport: Transport) -> Option<Self> {
        machine::programs(&["docker-registry", "setpriv"])?;
        if access == Access::Token || transport != Transport::Plain {
            machine::programs(&["openssl"])?;
        }
        let directory = tempfile::Builder::new().prefix("mica-registry-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        let certificates =
            (transport != Transport::Plain).then(|| Certificates::make(&directory.path().join("tls")));
        let tokens = (access == Access::Token).then(|| Tokens::start(&directory.path().join("tokens")));
        let mut registry = Self {
            port: 0,
            transport,
            child: Mutex::new(None),
            certificates,
            tokens,
            directory,
        };
        // Another process may take the port before the server does.
        for _ in 0..20 {
            registry.port = free_port();
            fs::write(registry.config(), registry.configuration(access)).expect("the directory is ours");
            if registry.try_start() {
                return Some(registry);
            }
        }
        panic!("docker-registry does not start:\n{}", registry.log());
    }

    /// The host and the port, as they stand before a name: `127.0.0.1:20000`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A name in this registry: `127.0.0.1:20000/name`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// The certificates of a registry with TLS.
    ///
    /// # Panics
    /// If it has none.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("the registry uses TLS")
    }

    /// The token server of a registry that asks for tokens.
    ///
    /// # Panics
    /// If it does not.
    pub fn tokens(&self) -> &Tokens {
        self.tokens.as_ref().expect("the registry asks for tokens")
    }

    /// Kills the server, as a crash would: connections break.
    pub fn kill(&self) {
        let Some(mut child) = self.child().take() else {
            return;
        };
        child.kill().expect("the server is a child");
        child.wait().expect("a child can be waited for");
    }

    /// Starts it again after [`Registry::kill`], at the same port and with the same storage, uploads begun included.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.try_start() {
            assert!(
                Instant::now() < end,
                "the registry does not start again:\n{}",
                self.log()
            );
        }
    }

    /// The file with a blob's bytes, which a test may spoil.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        let blobs = self.storage().join("docker/registry/v2/blobs/sha256");
        blobs.join(&hex[..2]).join(hex).join("data")
    }

    /// The digests of all blobs, manifests included, sorted.
    pub fn blobs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for prefix in entries(&self.storage().join("docker/registry/v2/blobs/sha256")) {
            for blob in entries(&prefix) {
                let name = blob
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                found.push(format!("sha256:{name}"));
            }
        }
        found.sort();
        found
    }

    /// The digest of the manifest that a repository has under a tag.
    pub fn tagged(&self, repository: &str, tag: &str) -> Option<String> {
        let tags = self.repository(repository).join("_manifests/tags");
        // Absent if there is no such tag.
        fs::read_to_string(tags.join(tag).join("current/link")).ok()
    }

    /// The manifest that a repository has under a tag.
    ///
    /// # Panics
    /// If there is none.
    pub fn manifest(&self, repository: &str, tag: &str) -> serde_json::Value {
        let digest = self.tagged(repository, tag).expect("the registry has the tag");
        let bytes = fs::read(self.blob(&digest)).expect("the registry has the manifest");
        assert_eq!(format!("sha256:{}", sha256(&bytes)), digest);
        serde_json::from_slice(&bytes).expect("a manifest is JSON")
    }

    /// The bytes of each upload that a repository has begun and not completed.
    pub fn uploads(&self, repository: &str) -> Vec<u64> {
        let begun = entries(&self.repository(repository).join("_uploads"));
        let size = |upload: &PathBuf| fs::metadata(upload.join("data")).map_or(0, |data| data.len());
        begun.iter().map(size).collect()
    }

    /// What the server had to say.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn repository(&self, name: &str) -> PathBuf {
        self.storage().join("docker/registry/v2/repositories").join(name)
    }

    fn storage(&self) -> PathBuf {
        self.directory.path().join("storage")
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("config.yml")
    }

    fn configuration(&self, access: Access) -> String {
        let storage = self.storage();
        // The secret signs the state of uploads, which must outlive the server.
        let mut text = format!(
            "version: 0.1\n\
             log: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {storage:?}}}, delete: {{enabled: true}}}}\n\
             http:\n  addr: 127.0.0.1:{}\n  secret: of-the-tests\n",
            self.port
        );
        if let Some(certificates) = &self.certificates {
            text += &certificates.configuration(self.transport == Transport::MutualTls);
        }
        match access {
            Access::Open => {}
            Access::Basic => {
                let file = self.directory.path().join("htpasswd");
                fs::write(&file, HTPASSWD).expect("the directory is ours");
                // Where uploads go on is told as a path alone: clients must know both.
                text = text.replace("http:\n", "http:\n  relativeurls: true\n");
                text += &format!("auth: {{htpasswd: {{realm: tests, path: {file:?}}}}}\n");
            }
            Access::Token => text += &self.tokens().configuration(),
        }
        text
    }

    /// Whether the server started: it may find its port taken.
    fn try_start(&self) -> bool {
        let log = fs::File::options()
            .append(true)
            .create(true)
            .open(self.directory.path().join("log"));
        let mut command = child::bound("docker-registry");
        command
            .arg("serve")
            .arg(self.config())
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("the directory is ours"));
        command.process_group(0);
        let mut child = child::spawn(command).expect("the server is a program");
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if child.try_wait().expect("a child can be asked").is_some() {
                return false;
            }
            assert!(
                Instant::now() < end,
                "the registry does not listen:\n{}",
                self.log()
            );
            thread::sleep(Duration::from_millis(5));
        }
        // Whoever listens may be another process.
        thread::sleep(Duration::from_millis(5));
        let is_ours = child.try_wait().expect("a child can be asked").is_none();
        *self.child() = Some(child);
        is_ours
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("no holder panicked")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens at, outside of those that the kernel gives to clients: one of them could take the
/// port while the server is down.
fn free_port() -> u16 {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    let seed = nanoseconds ^ std::process::id().wrapping_mul(2_654_435_761);
    let candidates = (0..1000).map(|n| 12_000 + (seed.wrapping_add(n * 7919) % 20_000) as u16);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    candidates.into_iter().find(is_free).expect("some port is free")
}

/// The files of a directory, sorted; none if it is missing.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<_> = read
        .map(|entry| entry.expect("the directory can be read").path())
        .collect();
    paths.sort();
    paths
}
