//! `mica login`.

use std::process::ExitCode;
use std::sync::Arc;

use mica_builder::registry::Password;
use mica_builder::registry::credentials::{Login, Stored};
use mica_builder::solver::Stop;

use crate::commands::build::with_hint;
use crate::config::Context;
use crate::diagnostic::{usage_error, warn};
use crate::prompt;
use crate::registries::Options;
use crate::signals;

/// Log in to a registry
///
/// The registry is asked whether it knows the user. Then the credentials are kept where docker keeps them, in
/// ~/.docker/config.json or with the program that is named there, for mica and docker alike.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica login\n  \
    mica login -u me quay.io\n  \
    pass show registry | mica login -u me --password-stdin registry.example.com:5000")]
pub struct Args {
    /// The user's name; asked for without it
    #[arg(long, short, value_name = "NAME")]
    username: Option<String>,

    /// The password; others can see it in the list of processes
    #[arg(long, short, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Read the password from stdin
    #[arg(long, requires = "username")]
    password_stdin: bool,

    #[command(flatten)]
    registry: Options,

    /// The registry: HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    server: String,
}

/// Logs in, and keeps the credentials.
///
/// # Errors
/// If the registry does not know the user, or the credentials cannot be kept; nothing was changed then.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let registry = host(&args.server)?;
    let user = match args.username {
        Some(user) => user,
        None => prompt::line("Username: ")?,
    };
    if user.is_empty() {
        return Err(usage_error("a login needs a user"));
    }
    let password = match (args.password, args.password_stdin) {
        (Some(password), _) => {
            warn("a password on the command line can be seen by others: better use --password-stdin");
            Password::new(password)
        }
        (None, true) => prompt::password_of_stdin()?,
        (None, false) => prompt::password("Password: ")?,
    };
    let stop = Arc::new(Stop::default());
    let client = args.registry.client(&stop)?;
    let login = Login::User(user, password);
    let kept = signals::stopping_soon(&stop, || client.log_in(&registry, &login))?;
    let kept = kept.map_err(|e| with_hint(e.hint(), e))?;
    let stored = client.settings().credentials.keep(&registry, &kept);
    match stored.map_err(|e| with_hint(e.hint(), e))? {
        Stored::File(path) => warn(&format!(
            "the credentials are in {}, not encrypted",
            path.display()
        )),
        Stored::Helper(_) => {}
    }
    context.print("Login Succeeded\n")?;
    Ok(ExitCode::SUCCESS)
}

/// The host of what a person calls a registry: also a URL, as docker takes it.
pub fn host(server: &str) -> anyhow::Result<String> {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split('/').next().unwrap_or_default();
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err(usage_error(format!(
            "{server:?} is no registry: write HOST[:PORT]"
        )));
    }
    Ok(match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_have_many_names() {
        for (text, registry) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost:5000/x", "localhost:5000"),
        ] {
            assert_eq!(host(text).unwrap(), registry);
        }
        assert!(host("").is_err());
        assert!(host("https://").is_err());
    }
}
