//! How commands reach registries: the options that they share.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use mica_builder::pull::When;
use mica_builder::registry::{Client, Credentials, Password, Settings, credentials::Login};
use mica_builder::solver::Stop;

use crate::commands::build::with_hint;
use crate::diagnostic::{usage_error, warn};

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PullWhen {
    /// Always: what its registry has counts
    #[value(aliases = ["true", "1", "newer", "ifnewer"])]
    Always,
    /// If the store has none of that name
    #[default]
    #[value(aliases = ["false", "0", "ifmissing"])]
    Missing,
    /// Never
    Never,
}

impl From<PullWhen> for When {
    fn from(when: PullWhen) -> Self {
        match when {
            PullWhen::Always => Self::Always,
            PullWhen::Missing => Self::Missing,
            PullWhen::Never => Self::Never,
        }
    }
}

/// The options of every command that speaks to registries.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Registry options")]
pub struct Options {
    /// Whether to check certificates and refuse plain HTTP [default: as registries.conf says, else true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,

    /// Plain HTTP will do: --tls-verify=false
    #[arg(long, conflicts_with = "tls_verify")]
    plain_http: bool,

    /// The file with credentials, instead of Docker's config.json and podman's auth.json
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,

    /// Credentials for this command alone; others can see them in the list of processes
    #[arg(long, value_name = "USER[:PASSWORD]", conflicts_with = "authfile")]
    creds: Option<String>,

    /// A directory with certificates: authorities as *.crt, one of yours as NAME.cert and NAME.key
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
}

impl Options {
    /// Those of one side of a copy.
    pub fn of_side(
        tls_verify: Option<bool>,
        authfile: Option<PathBuf>,
        creds: Option<String>,
        cert_dir: Option<PathBuf>,
    ) -> Self {
        Self {
            tls_verify,
            plain_http: false,
            authfile: authfile.filter(|_| creds.is_none()),
            creds,
            cert_dir,
        }
    }

    /// What a client is to be told.
    ///
    /// # Errors
    /// A file of configuration that is damaged, or options that make no sense.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let variable = |name: &str| env::var_os(name).map(PathBuf::from);
        let mut settings =
            Settings::of_user(self.authfile.clone(), &variable).map_err(|e| with_hint(e.hint(), e))?;
        settings.config.verify_tls = match (self.tls_verify, self.plain_http) {
            (None, true) => Some(false),
            (verify, _) => verify,
        };
        settings.only_certificates = self.cert_dir.clone();
        if let Some(text) = &self.creds {
            let (user, password) = match text.split_once(':') {
                Some((user, password)) => {
                    warn("a password on the command line can be seen by others: better use `mica login`");
                    (user, Password::new(password))
                }
                None => (text.as_str(), crate::prompt::password("Password: ")?),
            };
            if user.is_empty() {
                return Err(usage_error("--creds needs a user"));
            }
            settings.credentials = Credentials::given(Login::User(user.to_owned(), password));
        }
        Ok(settings)
    }

    /// A client that gives up when `stop` says so.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn client(&self, stop: &Arc<Stop>) -> anyhow::Result<Client> {
        let looked_at = stop.clone();
        let client = Client::new(self.settings()?, Arc::new(move || looked_at.is_stopped()));
        stop.when_stopped(client.interrupter());
        Ok(client)
    }
}
