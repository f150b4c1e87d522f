//! What can go wrong with a registry.

use std::path::PathBuf;
use std::time::Duration;

use mica_fs::digest::Digest;
use serde::Deserialize;

use super::config::ConfigError;
use super::credentials::CredentialsError;
use crate::http::{Cause, HttpError, is_passing_status, reason};

/// Why a registry did not give, or take, what it should.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// No answer.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The file of registries.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A certificate of `certs.d`.
    #[error("cannot use the certificate {path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The configuration blocks it.
    #[error("{name} is blocked by registries.conf")]
    Blocked {
        /// The repository or registry.
        name: String,
    },
    /// The registry answered, but not with what was asked for.
    #[error("{about}: {server} answered {status}{}{}", reason(*status), said(complaints))]
    Refused {
        /// What was asked for: `the manifest of busybox:latest`.
        about: String,
        /// The host that answered.
        server: String,
        /// The status code.
        status: u16,
        /// What the registry says of it.
        complaints: Vec<Complaint>,
        /// Whether credentials were sent.
        has_login: bool,
        /// How long the registry asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Not what the distribution specification says.
    #[error("{about}: {server} gave an answer that makes no sense: {reason}")]
    Protocol {
        /// What was asked for.
        about: String,
        /// The host that answered.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// Other bytes than were asked for.
    #[error("{about}: {server} gave bytes with the digest {found} instead of {expected}")]
    Digest {
        /// What was asked for.
        about: String,
        /// The host that answered.
        server: String,
        /// The digest that was asked for.
        expected: Digest,
        /// That of what came.
        found: Digest,
    },
    /// Another number of bytes than were asked for.
    #[error("{about}: {server} has {found} bytes, where the manifest says {expected}")]
    Size {
        /// What was asked for.
        about: String,
        /// The host that answered.
        server: String,
        /// The number that the manifest says.
        expected: u64,
        /// The number that the server announces.
        found: u64,
    },
    /// The server sends whole blobs only.
    #[error("{server} gives no parts of a blob")]
    NoRanges {
        /// The host that answered.
        server: String,
    },
    /// Credentials, or a token, would go over the network for all to see.
    #[error("{server} wants credentials over plain HTTP")]
    Exposed {
        /// The host that asked.
        server: String,
    },
}

/// What a registry says of a request that it refuses (distribution specification, "Error Codes").
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Complaint {
    /// `MANIFEST_UNKNOWN`, `UNAUTHORIZED` ...
    #[serde(default)]
    pub code: String,
    /// A text for people.
    #[serde(default)]
    pub message: String,
}

fn said(complaints: &[Complaint]) -> String {
    let texts: Vec<String> = complaints
        .iter()
        .map(
            |complaint| match (complaint.code.as_str(), complaint.message.as_str()) {
                (code, "") => code.to_owned(),
                (_, message) => message.to_owned(),
            },
        )
        .filter(|text| !text.is_empty())
        .collect();
    match texts.is_empty() {
        true => String::new(),
        false => format!(": {}", texts.join("; ")),
    }
}

/// Reads the body of a refusal: the specification's form, or that of token servers.
pub(super) fn complaints(body: &[u8]) -> Vec<Complaint> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        errors: Vec<Complaint>,
        details: Option<String>,
        message: Option<String>,
    }
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return Vec::new();
    };
    let other = body.details.or(body.message).map(|message| Complaint {
        code: String::new(),
        message,
    });
    let mut all: Vec<_> = body.errors.into_iter().chain(other).take(4).collect();
    for complaint in &mut all {
        // It comes from elsewhere and goes to a terminal.
        complaint.message.retain(|c| !c.is_control());
        complaint.code.retain(|c| !c.is_control());
    }
    all
}

impl RegistryError {
    /// Whether another attempt may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Http(error) => error.is_passing(),
            Self::Refused { status, .. } => is_passing_status(*status),
            _ => false,
        }
    }

    /// Whether a transfer broke off that had begun.
    pub fn is_broken_off(&self) -> bool {
        matches!(self, Self::Http(HttpError::Body { .. }))
    }

    /// Whether the registry says that there is no such thing.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Http(error) => Self::connection_hint(error),
            Self::Credentials(error) => error.hint(),
            Self::Refused {
                status, has_login, ..
            } => refusal_hint(*status, *has_login).map(str::to_owned),
            Self::Blocked { .. } => Some("see docs/registries.md for what the file says".to_owned()),
            Self::Exposed { .. } => {
                Some("use --tls-verify=false if the network between is yours alone".to_owned())
            }
            Self::Digest { .. } | Self::Size { .. } => Some(
                "the registry, or something on the way, is broken: try again, or another registry".to_owned(),
            ),
            _ => None,
        }
    }

    fn connection_hint(error: &HttpError) -> Option<String> {
        Some(match error.cause() {
            Some(Cause::Certificate) => {
                "if the registry has a certificate of its own, put its authority into certs.d/HOST/ca.crt \
                 (docs/registries.md), or use --tls-verify=false"
            }
            Some(Cause::NoTls) => {
                "the registry does not speak TLS: use --tls-verify=false, or `insecure = true` in registries.conf"
            }
            Some(Cause::Alert) => {
                "the registry may want a certificate of yours: certs.d/HOST/NAME.cert and NAME.key"
            }
            Some(Cause::UnknownHost) => "check the registry's name and your network",
            Some(Cause::Connection) => "check the registry's name and port, and that it runs",
            None => return error.hint().map(str::to_owned),
        }
        .to_owned())
    }
}

fn refusal_hint(status: u16, has_login: bool) -> Option<&'static str> {
    Some(match (status, has_login) {
        (401 | 403, false) => "if it is private, log in first: `mica login REGISTRY`",
        (401 | 403, true) => {
            "the credentials that were sent do not allow it: log in as another user by `mica login`"
        }
        (404, false) => "check the name and the tag; if it is private, log in first: `mica login REGISTRY`",
        (404, true) => "check the name and the tag",
        (429, false) => {
            "the registry limits how much is asked of it: wait, or log in, which may raise the limit"
        }
        (429, true) => "the registry limits how much is asked of it: wait",
        (500.., _) => "the registry is in trouble: try again later",
        _ => return None,
    })
}
