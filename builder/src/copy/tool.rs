//! Images in the stores of other tools, by those tools' own export: their files are their own affair.

use std::fmt;
use std::io::{self, Read};
use std::process::{Child, Command, Stdio};
use std::thread;

use mica_fs::store::Store;

use super::CopyError;
use crate::archive::{self, Input};
use crate::image::{Image, Platform};
use crate::reference::Reference;

/// How much of a tool's complaint is told, in bytes.
const COMPLAINT: u64 = 4096;

/// Whose store it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// Docker's daemon.
    Docker,
    /// podman, buildah and skopeo, which share one.
    Containers,
}

impl Tool {
    /// The transport's name.
    pub fn transport(self) -> &'static str {
        match self {
            Self::Docker => "docker-daemon",
            Self::Containers => "containers-storage",
        }
    }

    /// What can be asked for an image, the best first: each writes an archive to stdout.
    fn exporters(self, image: &Named) -> Vec<Vec<String>> {
        let words = |before: &[&str], options: &[String], after: &[&str]| {
            let own = before.iter().chain(after).map(|word| (*word).to_owned());
            let mut words: Vec<String> = own.collect();
            words.splice(1..1, options.iter().cloned());
            words
        };
        let (options, name) = (&image.options[..], &*image.name);
        match self {
            Self::Docker => vec![words(&["docker", "save"], &[], &[name])],
            // podman writes an archive of either form to a pipe, buildah only Docker's.
            Self::Containers => vec![
                words(
                    &["podman", "save", "--quiet"],
                    options,
                    &["--format=oci-archive", name],
                ),
                words(
                    &["buildah", "push", "--quiet"],
                    options,
                    &[name, "docker-archive:/dev/stdout"],
                ),
            ],
        }
    }

    /// The name of an image, without what says where the store is.
    pub fn name(self, text: &str) -> &str {
        match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((_, name)) if self == Self::Containers => name,
            _ => text,
        }
    }

    /// Loads an image, for `platform` if one is asked for. It gets no name, and stays until a prune.
    ///
    /// # Errors
    /// [`CopyError`]; no image was added, then.
    pub fn load(self, store: &Store, text: &str, platform: Option<&Platform>) -> Result<Image, CopyError> {
        self.export(text, |stream| {
            Ok(archive::load_one(store, Input::Stream(stream), None, platform)?)
        })
    }

    /// Has `read` read an archive with the image `text` alone.
    ///
    /// # Errors
    /// What `read` fails with, unless the tool failed first.
    pub(super) fn export<T>(
        self,
        text: &str,
        read: impl FnOnce(&mut dyn Read) -> Result<T, CopyError>,
    ) -> Result<T, CopyError> {
        let image = Named::parse(self, text);
        for words in self.exporters(&image) {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            let pipes = command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            match pipes.spawn() {
                Ok(child) => return Exporting::new(words, child).finish(read),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    let command = words.join(" ");
                    return Err(CopyError::NotStarted { command, source });
                }
            }
        }
        let programs: Vec<String> = self
            .exporters(&image)
            .into_iter()
            .flat_map(|words| words.into_iter().next())
            .collect();
        Err(CopyError::NoTool {
            place: format!("{}:{text}", self.transport()),
            programs: programs.join(" or "),
        })
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.transport())
    }
}

/// An image in a tool's store.
struct Named {
    name: String,
    /// What tells podman and buildah where their store is.
    options: Vec<String>,
}

impl Named {
    /// Reads `[DRIVER@ROOT+RUNROOT]NAME`, as podman and skopeo write it; all in brackets may be left out.
    fn parse(tool: Tool, text: &str) -> Self {
        let store = text.strip_prefix('[').filter(|_| tool == Tool::Containers);
        let Some((store, name)) = store.and_then(|rest| rest.split_once(']')) else {
            let options = Vec::new();
            let name = tagged(text);
            return Self { name, options };
        };
        let (driver, directories) = match store.split_once('@') {
            Some((driver, directories)) => (Some(driver), directories),
            None => (None, store),
        };
        let (root, run) = match directories.split_once('+') {
            Some((root, run)) => (root, Some(run)),
            None => (directories, None),
        };
        let driver = driver.map(|driver| format!("--storage-driver={driver}"));
        let run = run.map(|run| format!("--runroot={run}"));
        let options = driver.into_iter().chain([format!("--root={root}")]).chain(run);
        Self {
            name: tagged(name),
            options: options.collect(),
        }
    }
}

/// The name with its tag: Docker exports all images of a name without one.
fn tagged(text: &str) -> String {
    match Reference::parse(text) {
        Ok(name)
            if name.digest().is_none()
                && !text.ends_with(&format!(":{}", name.tag().unwrap_or_default())) =>
        {
            format!("{text}:latest")
        }
        _ => text.to_owned(),
    }
}

/// A tool at work.
struct Exporting {
    command: String,
    child: Child,
}

impl Exporting {
    fn new(words: Vec<String>, child: Child) -> Self {
        let command = words.join(" ");
        Self { command, child }
    }

    fn finish<T>(mut self, read: impl FnOnce(&mut dyn Read) -> Result<T, CopyError>) -> Result<T, CopyError> {
        let (Some(stdout), Some(stderr)) = (self.child.stdout.take(), self.child.stderr.take()) else {
            return Err(self.failed(io::ErrorKind::BrokenPipe.into()));
        };
        let complaint = thread::spawn(move || complaint(stderr));
        let mut archive = ToEnd {
            stdout,
            is_at_end: false,
        };
        let result = read(&mut archive);
        let is_at_end = archive.is_at_end;
        // A tool that writes on ends by SIGPIPE.
        drop(archive);
        let status = self.child.wait().map_err(|error| self.failed(error))?;
        let complaint = complaint.join().unwrap_or_default();
        match is_at_end && !status.success() {
            true => Err(CopyError::Tool {
                command: self.command,
                status: status.to_string(),
                complaint,
            }),
            false => result,
        }
    }

    fn failed(&self, source: io::Error) -> CopyError {
        let command = self.command.clone();
        CopyError::NotStarted { command, source }
    }
}

/// What a tool says on stderr: the end of it is what matters.
fn complaint(mut stderr: impl Read) -> String {
    let mut text = Vec::new();
    // What was read before an error is all there is to tell.
    let _ = stderr.by_ref().take(COMPLAINT).read_to_end(&mut text);
    let _ = io::copy(&mut stderr, &mut io::sink());
    let text = String::from_utf8_lossy(&text);
    let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    last.unwrap_or_default().to_owned()
}

/// Knows whether all was read.
struct ToEnd<R> {
    stdout: R,
    is_at_end: bool,
}

impl<R: Read> Read for ToEnd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stdout.read(buffer)?;
        self.is_at_end |= n == 0 && !buffer.is_empty();
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_asked_for_one_image() {
        let words = |tool: Tool, text: &str| tool.exporters(&Named::parse(tool, text))[0].join(" ");
        assert_eq!(words(Tool::Docker, "app"), "docker save app:latest");
        assert_eq!(
            words(Tool::Docker, "localhost:5000/app:1"),
            "docker save localhost:5000/app:1"
        );
        let containers = |text| words(Tool::Containers, text);
        assert_eq!(
            containers("app:1"),
            "podman save --quiet --format=oci-archive app:1"
        );
        assert_eq!(
            containers("[vfs@/root+/run]app"),
            "podman --storage-driver=vfs --root=/root --runroot=/run save --quiet --format=oci-archive app:latest"
        );
        assert_eq!(
            containers("[/root]app"),
            "podman --root=/root save --quiet --format=oci-archive app:latest"
        );
    }
}
