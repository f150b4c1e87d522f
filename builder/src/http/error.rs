//! What can go wrong with a request.

use std::io;

use super::MAX_REDIRECTS;
use crate::url::UrlError;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// A URL that cannot be fetched.
    #[error("{url}: {source}")]
    Url {
        /// As written.
        url: String,
        /// What is wrong.
        source: UrlError,
    },
    /// A URL of another scheme.
    #[error("{url}: only http and https can be fetched")]
    Scheme {
        /// Without its password.
        url: String,
    },
    /// The server answered, but not with what was asked for.
    #[error("{url}: the server answered {status}{}", reason(*status))]
    Status {
        /// The URL that answered, without its password.
        url: String,
        /// The status code.
        status: u16,
    },
    /// Redirects without end.
    #[error("{url}: more than {MAX_REDIRECTS} redirects")]
    Redirects {
        /// Where they began, without its password.
        url: String,
    },
    /// No connection, or a broken one.
    #[error("{url}: {source}")]
    Transport {
        /// Without its password.
        url: String,
        /// What the client said.
        source: Box<ureq::Error>,
    },
    /// The bytes stopped coming.
    #[error("{url}: the transfer broke off after {bytes} bytes")]
    Body {
        /// Without its password.
        url: String,
        /// How many had come.
        bytes: u64,
        /// What the client said.
        source: io::Error,
    },
    /// The certificates that servers are checked with, or those that this side shows.
    #[error("cannot read the certificates that servers are checked with: {0}")]
    Certificates(String),
    /// A proxy of the environment.
    #[error("the proxy {proxy} of the environment: {source}")]
    Proxy {
        /// Without its password.
        proxy: String,
        /// What is wrong.
        source: Box<ureq::Error>,
    },
    /// It was stopped meanwhile.
    #[error("it was stopped")]
    Stopped,
}

/// Why a connection did not come about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The server's certificate is not trusted.
    Certificate,
    /// The server ended the handshake, perhaps for want of a certificate of ours.
    Alert,
    /// The server does not speak TLS as it should.
    NoTls,
    /// The host's name is not known.
    UnknownHost,
    /// Anything else.
    Connection,
}

/// The words that go with a status code, after a space.
pub(crate) fn reason(status: u16) -> String {
    let known = ureq::http::StatusCode::from_u16(status).ok();
    let reason = known.and_then(|status| status.canonical_reason());
    reason.map(|reason| format!(" {reason}")).unwrap_or_default()
}

/// Whether a server that answers so may answer otherwise a moment later.
pub(crate) fn is_passing_status(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

impl HttpError {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Status {
                status: 401 | 403, ..
            } => Some(
                "give credentials by --secret id=HTTP_AUTH_TOKEN_<host> or --secret id=HTTP_AUTH_HEADER_<host>",
            ),
            Self::Status {
                status: 404 | 410, ..
            } => Some("check the spelling of the URL"),
            Self::Transport { .. } if self.cause() == Some(Cause::Certificate) => {
                Some("if the server has a certificate of your own, name its authority by SSL_CERT_FILE")
            }
            Self::Certificates(_) => {
                Some("install the package ca-certificates, or name a file of certificates by SSL_CERT_FILE")
            }
            _ => None,
        }
    }

    /// Why there was no connection, or no TLS on it.
    pub fn cause(&self) -> Option<Cause> {
        let Self::Transport { source, .. } = self else {
            return None;
        };
        let tls = match &**source {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        Some(match (tls, &**source) {
            (Some(rustls::Error::InvalidCertificate(_)), _) => Cause::Certificate,
            (Some(rustls::Error::AlertReceived(_)), _) => Cause::Alert,
            (Some(_), _) => Cause::NoTls,
            (None, ureq::Error::HostNotFound) => Cause::UnknownHost,
            // What the standard library says of getaddrinfo(3).
            (None, ureq::Error::Io(error)) if error.to_string().contains("failed to lookup address") => {
                Cause::UnknownHost
            }
            (None, _) => Cause::Connection,
        })
    }

    /// Whether there was nobody to answer.
    pub fn is_unreachable(&self) -> bool {
        let Self::Transport { source, .. } = self else {
            return false;
        };
        match &**source {
            ureq::Error::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::AddrNotAvailable
            ),
            ureq::Error::Timeout(ureq::Timeout::Connect) | ureq::Error::ConnectionFailed => true,
            _ => false,
        }
    }

    /// Whether another attempt may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => is_passing_status(*status),
            Self::Transport { source, .. } => {
                // Who is not connected does not want to wait for the news.
                self.cause() == Some(Cause::Connection)
                    && matches!(
                        **source,
                        ureq::Error::Io(_)
                            | ureq::Error::Timeout(_)
                            | ureq::Error::ConnectionFailed
                            | ureq::Error::Protocol(_)
                    )
            }
            Self::Body { .. } => true,
            _ => false,
        }
    }
}
