//! An HTTP client: GET over HTTP and HTTPS, with redirects, proxies and retries.
//!
//! Certificates are those of the system, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Proxies are those of the
//! environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case). A request that the network or
//! a busy server failed is made again a few times, each time after a longer pause.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use ureq::http::{HeaderMap, Request, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use crate::url::{Url, UrlError};

/// The pauses between attempts.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// How long a server may ask to be left alone; if it asks for more there is no further attempt.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);
/// The most redirects in a row, as in browsers and in Go.
const MAX_REDIRECTS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may come.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// The certificates of the system.
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
    /// The build was stopped meanwhile.
    #[error("the build was stopped")]
    Stopped,
}

fn reason(status: u16) -> String {
    let known = ureq::http::StatusCode::from_u16(status).ok();
    let reason = known.and_then(|status| status.canonical_reason());
    reason.map(|reason| format!(" {reason}")).unwrap_or_default()
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
            Self::Transport { source, .. } if matches!(**source, ureq::Error::Rustls(_)) => {
                Some("if the server has a certificate of your own, name its authority by SSL_CERT_FILE")
            }
            Self::Certificates(_) => {
                Some("install the package ca-certificates, or name a file of certificates by SSL_CERT_FILE")
            }
            _ => None,
        }
    }

    /// Whether another attempt may do better.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
            Self::Transport { source, .. } => matches!(
                **source,
                ureq::Error::Io(_)
                    | ureq::Error::Timeout(_)
                    | ureq::Error::ConnectionFailed
                    | ureq::Error::HostNotFound
                    | ureq::Error::Protocol(_)
            ),
            Self::Body { .. } => true,
            _ => false,
        }
    }
}

/// An answer: its status is 2xx or 304.
pub struct Response {
    /// Where it came from, after redirects.
    pub url: Url,
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    body: Body,
}

impl Response {
    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How many bytes the server announces.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// The bytes.
    pub fn into_reader(self) -> impl Read {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

/// What agents differ by: whether they need certificates, and the proxy.
type AgentKey = (bool, Option<String>);

/// A client; it keeps connections for further requests.
#[derive(Default)]
pub struct Client {
    agents: Mutex<BTreeMap<AgentKey, Agent>>,
    certificates: OnceLock<Arc<Vec<Certificate<'static>>>>,
}

impl Client {
    /// Fetches `url` with these headers. A user and a password in the URL become a header; that and
    /// `Authorization` go to its host only, not to where it redirects. Stops between attempts once `stopped` says so.
    ///
    /// # Errors
    /// [`HttpError`], after the last attempt.
    pub fn get(
        &self,
        url: &Url,
        headers: &[(&str, String)],
        stopped: &dyn Fn() -> bool,
    ) -> Result<Response, HttpError> {
        retry(stopped, || self.follow(url, headers))
    }

    fn follow(&self, url: &Url, headers: &[(&str, String)]) -> Result<Response, Failed> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let trusted = at.host == url.host && (at.scheme == url.scheme || at.scheme == "https");
            let response = self.once(&at, headers, trusted)?;
            let location = response.header("location");
            match (response.status, location) {
                (200..=299 | 304, _) => return Ok(response),
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next = at.join(location).map_err(|source| HttpError::Url {
                        url: location.to_owned(),
                        source,
                    })?;
                    tracing::debug!(from = %at, to = %next, "redirected");
                    at = next;
                }
                (status, _) => {
                    let pause = response
                        .header("retry-after")
                        .and_then(|text| text.trim().parse().ok());
                    return Err(Failed {
                        error: HttpError::Status {
                            url: at.to_string(),
                            status,
                        },
                        pause: pause.map(Duration::from_secs),
                    });
                }
            }
        }
        let url = url.to_string();
        Err(HttpError::Redirects { url }.into())
    }

    /// One request. Only to a `trusted` host do credentials go.
    fn once(&self, url: &Url, headers: &[(&str, String)], trusted: bool) -> Result<Response, HttpError> {
        if !matches!(url.scheme.as_str(), "http" | "https") {
            let url = url.to_string();
            return Err(HttpError::Scheme { url });
        }
        let failed = |source: ureq::Error| HttpError::Transport {
            url: url.to_string(),
            source: Box::new(source),
        };
        let uri: Uri = url
            .bare()
            .encoded()
            .parse()
            .map_err(|e: ureq::http::uri::InvalidUri| failed(ureq::Error::BadUri(e.to_string())))?;
        let mut request = Request::get(uri);
        let mut authorized = false;
        for (name, value) in headers {
            let secret = name.eq_ignore_ascii_case("authorization");
            authorized |= secret;
            if trusted || !secret {
                request = request.header(*name, value);
            }
        }
        if let Some((user, password)) = url.credentials().filter(|_| !authorized) {
            request = request.header("authorization", basic(&user, &password));
        }
        let request = request.body(()).map_err(|e| failed(ureq::Error::Http(e)))?;
        let (parts, body) = self.agent(url)?.run(request).map_err(failed)?.into_parts();
        Ok(Response {
            url: url.clone(),
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    /// The agent for a URL: by its scheme and its proxy.
    fn agent(&self, url: &Url) -> Result<Agent, HttpError> {
        let proxy = proxy_for(url, &|name| std::env::var(name).ok());
        let secure = |text: &String| text.starts_with("https://");
        let tls = url.scheme == "https" || proxy.as_ref().is_some_and(secure);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = agents.get(&(tls, proxy.clone())) {
            return Ok(agent.clone());
        }
        let agent = self.new_agent(tls, proxy.as_deref())?;
        agents.insert((tls, proxy), agent.clone());
        Ok(agent)
    }

    fn new_agent(&self, tls: bool, proxy: Option<&str>) -> Result<Agent, HttpError> {
        let certificates = match tls {
            true => self.certificates()?,
            false => Arc::default(),
        };
        let proxy = proxy.map(|text| {
            Proxy::new(text).map_err(|source| HttpError::Proxy {
                proxy: Url::parse(text).map_or_else(|_| text.to_owned(), |url| url.to_string()),
                source: Box::new(source),
            })
        });
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(certificates))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .proxy(proxy.transpose()?)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mica/", env!("CARGO_PKG_VERSION")))
            // What is fetched is kept as it is, whatever it is compressed with.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT));
        Ok(config.build().new_agent())
    }

    fn certificates(&self) -> Result<Arc<Vec<Certificate<'static>>>, HttpError> {
        if let Some(known) = self.certificates.get() {
            return Ok(known.clone());
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate of the system cannot be read");
        }
        if found.certs.is_empty() {
            let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
            return Err(HttpError::Certificates(match errors.is_empty() {
                true => "there are none".to_owned(),
                false => errors.join("; "),
            }));
        }
        let owned = |der: &_| Certificate::from_der(der).to_owned();
        let certificates = Arc::new(found.certs.iter().map(|der| owned(der.as_ref())).collect());
        Ok(self.certificates.get_or_init(|| certificates).clone())
    }
}

/// A failed attempt, and how long the server asks to wait.
struct Failed {
    error: HttpError,
    pause: Option<Duration>,
}

impl From<HttpError> for Failed {
    fn from(error: HttpError) -> Self {
        Self { error, pause: None }
    }
}

fn retry<T>(
    stopped: &dyn Fn() -> bool,
    mut attempt: impl FnMut() -> Result<T, Failed>,
) -> Result<T, HttpError> {
    let mut pauses = PAUSES.iter();
    loop {
        if stopped() {
            return Err(HttpError::Stopped);
        }
        let Failed { error, pause } = match attempt() {
            Ok(value) => return Ok(value),
            Err(failed) => failed,
        };
        let Some(&own) = pauses.next().filter(|_| error.is_passing()) else {
            return Err(error);
        };
        let pause = pause.unwrap_or(own);
        if pause > MAX_RETRY_AFTER {
            return Err(error);
        }
        tracing::warn!(%error, ?pause, "trying again");
        wait(pause, stopped);
    }
}

/// Waits, but not longer than until `stopped`.
pub(crate) fn wait(pause: Duration, stopped: &dyn Fn() -> bool) {
    const PIECE: Duration = Duration::from_millis(50);
    let mut left = pause;
    while !left.is_zero() && !stopped() {
        let piece = left.min(PIECE);
        thread::sleep(piece);
        left -= piece;
    }
}

/// The value of an `Authorization` header (RFC 7617).
pub(crate) fn basic(user: &[u8], password: &[u8]) -> String {
    let pair = [user, b":", password].concat();
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

/// The proxy that the environment names for a URL: that of its scheme, else that of all; none for the hosts of
/// `NO_PROXY`.
fn proxy_for(url: &Url, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let either = |name: &str| {
        let value = variable(&name.to_lowercase()).or_else(|| variable(name));
        value.filter(|value| !value.is_empty())
    };
    let own = match url.scheme.as_str() {
        "https" => "HTTPS_PROXY",
        _ => "HTTP_PROXY",
    };
    let proxy = either(own).or_else(|| either("ALL_PROXY"))?;
    let host = url.host_name().trim_matches(['[', ']']).to_lowercase();
    let spared = |entry: &str| {
        let entry = entry.trim().to_lowercase();
        let bare = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || !bare.is_empty() && (host == bare || host.ends_with(&format!(".{bare}")))
    };
    let no_proxy = either("NO_PROXY").unwrap_or_default();
    let local = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    (!local && !no_proxy.split(',').any(spared)).then_some(proxy)
}

#[cfg(test)]
mod tests;
