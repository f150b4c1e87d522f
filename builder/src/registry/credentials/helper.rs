//! Programs that keep secrets: `docker-credential-NAME get`, `store` and `erase`, as Docker speaks with them
//! (github.com/docker/docker-credential-helpers). Secrets go through pipes, never through arguments.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use super::{CredentialsError, Login, Password};

/// The user's name that stands for an identity token.
const TOKEN_USER: &str = "<token>";
/// What a program says if it has nothing.
const NOT_FOUND: &str = "credentials not found";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

pub(super) fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// What it has for a registry.
pub(super) fn get(name: &str, key: &str) -> Result<Option<Login>, CredentialsError> {
    let output = match call(name, "get", key.as_bytes()) {
        Ok(output) => output,
        Err(CredentialsError::Helper { reason, .. }) if reason.contains(NOT_FOUND) => return Ok(None),
        Err(error) => return Err(error),
    };
    // What it wrote may hold a secret, so no part of it is shown.
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|_| failed(name, "its answer is not valid JSON"))?;
    if answer.secret.is_empty() {
        return Ok(None);
    }
    let secret = Password::new(answer.secret);
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Login::Identity(secret),
        user => Login::User(user.to_owned(), secret),
    }))
}

pub(super) fn store(name: &str, key: &str, login: &Login) -> Result<(), CredentialsError> {
    let (user, secret) = match login {
        Login::User(user, password) => (user.as_str(), password),
        Login::Identity(token) | Login::Bearer(token) => (TOKEN_USER, token),
    };
    let text = json!({ "ServerURL": key, "Username": user, "Secret": secret.reveal() });
    call(name, "store", text.to_string().as_bytes()).map(drop)
}

pub(super) fn erase(name: &str, key: &str) -> Result<(), CredentialsError> {
    call(name, "erase", key.as_bytes()).map(drop)
}

fn failed(name: &str, reason: impl ToString) -> CredentialsError {
    CredentialsError::Helper {
        program: program(name),
        reason: reason.to_string(),
    }
}

fn call(name: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, CredentialsError> {
    if name.contains('/') {
        return Err(failed(name, "a program's name has no slash"));
    }
    let mut child = Command::new(program(name))
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| failed(name, e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not want to know says so itself.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|e| failed(name, e))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    // The protocol has errors on stdout.
    let said = String::from_utf8_lossy(&output.stdout);
    Err(match said.trim() {
        "" => failed(name, format!("it ended with {}", output.status)),
        said => failed(name, said),
    })
}
