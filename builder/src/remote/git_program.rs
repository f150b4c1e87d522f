//! Running `git`.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::git::GitError;

/// What of this process's environment `git` sees.
const INHERITED: [&str; 9] = [
    "PATH",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
];
/// How much of what it says in the end is shown, in lines.
const SHOWN: usize = 8;

/// `git` for one repository.
pub(super) struct Git<'a> {
    remote: String,
    home: &'a Path,
    config: Vec<(String, String)>,
    env: Vec<(&'static str, String)>,
    stopped: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Git<'a> {
    /// `git` for `remote`, with a home directory of its own.
    pub fn new(remote: &str, home: &'a Path, stopped: &'a (dyn Fn() -> bool + Sync)) -> Self {
        let config = [
            ("core.hooksPath", "/dev/null"),
            ("core.logAllRefUpdates", "false"),
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("init.defaultBranch", "master"),
            ("advice.detachedHead", "false"),
            // The build may own the checkout in the eyes of its user namespace only.
            ("safe.directory", "*"),
        ];
        Self {
            remote: remote.to_owned(),
            home,
            config: config
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            env: Vec::new(),
            stopped,
        }
    }

    /// Sets an option for every command, by the environment: the value is on no command line.
    pub fn configure(&mut self, name: &str, value: String) {
        self.config.push((name.to_owned(), value));
    }

    /// Lets it use SSH: with the keys of `agent` alone, and as the user the host keys of `known_hosts`, where new ones
    /// are noted, and of `~/.ssh/known_hosts`.
    pub fn use_ssh(&mut self, known_hosts: &Path, agent: Option<&Path>) {
        let quoted = |path: &Path| format!("\"{}\"", path.display());
        let mut files = quoted(known_hosts);
        if let Some(home) = std::env::var_os("HOME") {
            files = files + " " + &quoted(&Path::new(&home).join(".ssh/known_hosts"));
        }
        let files = files.replace('\'', r"'\''");
        self.env.push((
            "GIT_SSH_COMMAND",
            format!(
                "ssh -F /dev/null -o BatchMode=yes -o IdentityFile=none -o StrictHostKeyChecking=accept-new \
                 -o ConnectTimeout=30 -o 'UserKnownHostsFile={files}'"
            ),
        ));
        if let Some(agent) = agent {
            self.env.push(("SSH_AUTH_SOCK", agent.display().to_string()));
        }
    }

    /// Whether the build was stopped.
    pub fn is_stopped(&self) -> bool {
        (self.stopped)()
    }

    /// Runs a command that needs no repository.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn run_anywhere(&self, args: &[&str]) -> Result<String, GitError> {
        self.run(self.home, args)
    }

    /// Runs a command in `directory`, and returns what it writes to stdout.
    ///
    /// # Errors
    /// [`GitError`].
    pub fn run(&self, directory: &Path, args: &[&str]) -> Result<String, GitError> {
        let mut child = self
            .command(directory, args)
            .spawn()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => GitError::NoProgram,
                _ => GitError::Run(e),
            })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) = thread::scope(|scope| {
            let stdout = scope.spawn(|| read(stdout));
            let stderr = scope.spawn(|| read(stderr));
            let status = self.wait(&mut child);
            (
                status,
                stdout.join().unwrap_or_default(),
                stderr.join().unwrap_or_default(),
            )
        });
        match status.map_err(GitError::Run)?.success() {
            true => Ok(stdout),
            false => Err(GitError::Failed {
                remote: self.remote.clone(),
                command: args.first().copied().unwrap_or_default().to_owned(),
                message: match self.is_stopped() {
                    true => "the build was stopped".to_owned(),
                    false => last_lines(&stderr),
                },
            }),
        }
    }

    fn command(&self, directory: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.env_clear();
        command.envs(
            INHERITED
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        // libcurl, which git fetches with, does not know this variable by itself.
        command.envs(std::env::var_os("SSL_CERT_FILE").map(|file| ("GIT_SSL_CAINFO", file)));
        command.envs([
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", "http:https:ssh:git"),
        ]);
        command
            .env("HOME", self.home)
            .env("GIT_CEILING_DIRECTORIES", self.home);
        command.env("GIT_CONFIG_COUNT", self.config.len().to_string());
        for (number, (name, value)) in self.config.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command.args(args).current_dir(directory);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Of its own, so that its helpers can be stopped with it.
        command.process_group(0);
        command
    }

    /// Waits for its end; kills it and its helpers when the build is stopped.
    fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.is_stopped() {
                let group = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
                killpg(group, Signal::SIGKILL)?;
                return child.wait();
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

fn read(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What came before an error is all there is to show.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sees_nothing_of_the_user() {
        let home = tempfile::tempdir().unwrap();
        let mut git = Git::new("https://example.com/x.git", home.path(), &|| false);
        git.configure(
            "http.https://example.com/.extraHeader",
            "Authorization: s3cret".to_owned(),
        );
        let listed = match git.run_anywhere(&["config", "--list", "--show-scope"]) {
            Err(GitError::NoProgram) => return,
            listed => listed.unwrap(),
        };
        assert!(listed.contains("core.hookspath=/dev/null"), "{listed}");
        assert!(
            listed.lines().all(|line| line.starts_with("command\t")),
            "{listed}"
        );
        let command = format!("{:?}", git.command(home.path(), &["fetch"]).get_args());
        assert!(!command.contains("s3cret"), "{command}");
    }

    #[test]
    fn its_last_words_are_reported() {
        let home = tempfile::tempdir().unwrap();
        let git = Git::new("https://example.com/x.git", home.path(), &|| false);
        match git.run_anywhere(&["cat-file", "-e", "HEAD"]) {
            Err(GitError::NoProgram) => {}
            Err(GitError::Failed { message, command, .. }) => {
                assert!(message.contains("not a git repository"), "{message}");
                assert_eq!(command, "cat-file");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn it_is_stopped_with_the_build() {
        let home = tempfile::tempdir().unwrap();
        let git = Git::new("https://example.com/x.git", home.path(), &|| true);
        match git.run_anywhere(&["-c", "alias.wait=!sleep 100", "wait"]) {
            Err(GitError::NoProgram) => {}
            Err(GitError::Failed { message, .. }) => assert_eq!(message, "the build was stopped"),
            other => panic!("{other:?}"),
        }
    }
}
